//! Durations and sizes as people write them: `30s`, `1h30m`, `64KiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration: whole numbers with units, as `500ms`, `30s`, `1h30m`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeSpan(Duration);

/// A number of bytes: a whole number with a unit, as `512B`, `64KiB`, `1MiB`, `10MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Why a text is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {expected}")]
pub struct UnitError {
    text: String,
    expected: &'static str,
}

const DURATION: &str = "duration: write a number with ms, s, m, h, d or w, as \"30s\" or \"1h30m\"";
const SIZE: &str = "size: write a number with B, KiB, MiB, GiB, KB, MB or GB, as \"64KiB\"";

/// Largest first, as they are shown.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl TimeSpan {
    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// So many days of 24 hours.
    pub const fn from_days(days: u64) -> Self {
        Self(Duration::from_secs(days * 86_400))
    }

    /// As the standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whole seconds, cut to what MQTT's four byte fields hold.
    pub fn as_secs_u32(self) -> u32 {
        u32::try_from(self.0.as_secs()).unwrap_or(u32::MAX)
    }

    /// No time at all: for most keys, "off".
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<TimeSpan> for Duration {
    fn from(span: TimeSpan) -> Self {
        span.0
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            expected: DURATION,
        };
        let mut rest = text.trim();
        let mut millis = 0u64;
        let mut smallest_unit = u64::MAX;
        while !rest.is_empty() {
            let (number, after) = take_number(rest).ok_or_else(error)?;
            let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let unit = match &after[..unit_end] {
                "w" => 7 * 86_400_000,
                name => {
                    DURATION_UNITS
                        .iter()
                        .find(|unit| unit.0 == name)
                        .ok_or_else(error)?
                        .1
                }
            };
            // Each unit once and the large ones first: `5m1h` is more likely a slip than a wish.
            if unit >= smallest_unit {
                return Err(error());
            }
            smallest_unit = unit;
            millis = number
                .checked_mul(unit)
                .and_then(|part| millis.checked_add(part))
                .ok_or_else(error)?;
            rest = &after[unit_end..];
        }
        if smallest_unit == u64::MAX {
            Err(error())
        } else {
            Ok(Self::from_millis(millis))
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in DURATION_UNITS {
            if millis >= unit {
                write!(f, "{}{name}", millis / unit)?;
                millis %= unit;
            }
        }
        Ok(())
    }
}

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many KiB of 1,024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many MiB of 1,024 KiB.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// So many GiB of 1,024 MiB.
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes, cut to four bytes.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// The number of bytes, cut to what this machine can address.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            text: text.to_owned(),
            expected: SIZE,
        };
        let (number, unit) = take_number(text.trim()).ok_or_else(error)?;
        let unit = match unit.trim_start() {
            "KB" | "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            name => SIZE_UNITS.iter().find(|unit| unit.0 == name).ok_or_else(error)?.1,
        };
        number.checked_mul(unit).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(unit.1);
        let (name, unit) = SIZE_UNITS.iter().find(fits).copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// Digits at the front, with `_` allowed between them as in TOML, and what follows.
fn take_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let number = digits.replace('_', "").parse().ok()?;
    (!digits.starts_with('_')).then_some((number, rest))
}

macro_rules! as_text_in_serde {
    ($type:ty, $visitor:ident, $expected:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($visitor)
            }
        }

        struct $visitor;

        impl de::Visitor<'_> for $visitor {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a {}", $expected)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                text.parse().map_err(E::custom)
            }
        }
    };
}

as_text_in_serde!(TimeSpan, TimeSpanVisitor, DURATION);
as_text_in_serde!(ByteSize, ByteSizeVisitor, SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("1_000ms", 1_000),
            (" 5s ", 5_000),
        ] {
            assert_eq!(text.parse(), Ok(TimeSpan::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_and_says_what_is() {
        for text in [
            "",
            "s",
            "30",
            "-5s",
            "5 s",
            "1.5s",
            "5m1h",
            "5s5s",
            "30sec",
            "_1s",
            "99999999999999999999s",
        ] {
            let error = text.parse::<TimeSpan>().expect_err(text);
            assert!(error.to_string().contains("\"1h30m\""), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1 MiB", 1_048_576),
            ("2GiB", 2_147_483_648),
            ("10MB", 10_000_000),
            ("1kB", 1_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_says_what_is() {
        for text in [
            "",
            "64",
            "KiB",
            "64Kib",
            "-1KiB",
            "1.5MiB",
            "99999999999GiB",
            "1KiB1B",
        ] {
            let error = text.parse::<ByteSize>().expect_err(text);
            assert!(error.to_string().contains("\"64KiB\""), "{error}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for millis in [0, 1, 999, 1_000, 90_000, 86_400_000, 86_461_001] {
            let span = TimeSpan::from_millis(millis);
            assert_eq!(span.to_string().parse(), Ok(span), "{span}");
        }
        for bytes in [0, 1, 1_000, 1_024, 1_536, 1 << 20, 268_435_460, 1 << 40] {
            let size = ByteSize::from_bytes(bytes);
            assert_eq!(size.to_string().parse(), Ok(size), "{size}");
        }
        assert_eq!(TimeSpan::from_secs(5_400).to_string(), "1h30m");
        assert_eq!(ByteSize::from_mib(64).to_string(), "64MiB");
    }
}
