//! `$SYS/broker/load/…`: how much a minute brought, as moving averages over 1, 5 and 15 minutes.

use std::collections::BTreeMap;
use std::time::Duration;

const MINUTES: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// The averages of sums that grow.
#[derive(Default, Debug)]
pub(crate) struct Loads {
    sums: BTreeMap<&'static str, Load>,
}

#[derive(Default, Debug)]
struct Load {
    before: u64,
    averages: [f64; 3],
}

impl Loads {
    /// Some time has passed, and the sums are these now. What was before the first call is not counted.
    pub(crate) fn add(&mut self, passed: Duration, sums: impl IntoIterator<Item = (&'static str, u64)>) {
        let minutes = passed.as_secs_f64() / 60.0;
        for (name, sum) in sums {
            let load = self.sums.entry(name).or_insert_with(|| Load {
                before: sum,
                averages: [0.0; 3],
            });
            let grown = sum.saturating_sub(std::mem::replace(&mut load.before, sum));
            if minutes <= 0.0 {
                continue;
            }
            let now = grown as f64 / minutes;
            for (average, (over, _)) in load.averages.iter_mut().zip(MINUTES) {
                let kept = (-minutes / over).exp();
                *average = now + kept * (*average - now);
            }
        }
    }

    /// By their topics below `$SYS/broker/`.
    pub(crate) fn values(&self) -> impl Iterator<Item = (String, String)> {
        self.sums.iter().flat_map(|(name, load)| {
            let averages = load.averages.iter().zip(MINUTES);
            averages.map(move |(average, (_, over))| (format!("load/{name}/{over}"), format!("{average:.2}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(loads: &Loads) -> Vec<f64> {
        loads.values().map(|(_, value)| value.parse().unwrap()).collect()
    }

    #[test]
    fn a_steady_load_is_what_all_averages_come_to_and_the_short_one_forgets_first() {
        let mut loads = Loads::default();
        loads.add(Duration::ZERO, [("sockets", 5)]);
        assert_eq!(shown(&loads), [0.0; 3]);
        let mut sum = 5;
        for _ in 0..6 * 120 {
            sum += 10;
            loads.add(Duration::from_secs(10), [("sockets", sum)]);
        }
        for average in shown(&loads) {
            assert!((average - 60.0).abs() < 0.1, "{average} a minute");
        }
        for _ in 0..6 {
            loads.add(Duration::from_secs(10), [("sockets", sum)]);
        }
        let after_a_minute = shown(&loads);
        assert!((after_a_minute[0] - 60.0 / std::f64::consts::E).abs() < 0.1);
        assert!(after_a_minute[0] < after_a_minute[1] && after_a_minute[1] < after_a_minute[2]);
        let names: Vec<String> = loads.values().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["load/sockets/1min", "load/sockets/5min", "load/sockets/15min"]
        );
    }
}
