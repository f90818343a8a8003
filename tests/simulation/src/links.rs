//! How long messages take. Each link has a latency of its own for each millisecond, drawn in the order of the links: whatever
//! else happens in that millisecond, and in which order, changes nothing of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use crate::machine::name;
use crate::simulation::CLIENTS;

const LATENCY_MIN: Duration = Duration::from_micros(100);
/// Of a link that is not slow.
const LATENCY_MAX: Duration = Duration::from_millis(3);

/// All links, of all nodes and of the clients.
pub(crate) struct Links {
    random: SmallRng,
    links: Vec<Link>,
    addresses: BTreeMap<usize, IpAddr>,
}

struct Link {
    ends: (IpAddr, IpAddr),
    max: Duration,
    now: Duration,
}

impl Links {
    /// Of nodes that the simulation has already.
    pub(crate) fn new(seed: u64, nodes: usize, sim: &Sim<'_>) -> Self {
        let mut addresses: BTreeMap<usize, IpAddr> =
            (1..=nodes).map(|node| (node, sim.lookup(name(node)))).collect();
        addresses.insert(0, sim.lookup(CLIENTS));
        let mut links = Vec::new();
        for (one, address) in &addresses {
            for other in addresses.range(one + 1..).map(|(_, other)| *other) {
                links.push(Link {
                    ends: (*address, other),
                    max: LATENCY_MAX,
                    now: Duration::MAX,
                });
            }
        }
        Self {
            random: SmallRng::seed_from_u64(seed ^ 0x11_4b5),
            links,
            addresses,
        }
    }

    /// A link between nodes becomes slow.
    pub(crate) fn slow(&mut self, one: usize, other: usize, max: Duration) {
        let (one, other) = (self.addresses[&one], self.addresses[&other]);
        let ends = [(one, other), (other, one)];
        let concerned = self.links.iter_mut().filter(|link| ends.contains(&link.ends));
        concerned.for_each(|link| link.max = max);
    }

    /// All links are as quick as they can be.
    pub(crate) fn heal(&mut self) {
        self.links.iter_mut().for_each(|link| link.max = LATENCY_MAX);
    }

    /// The next millisecond: most messages are quick, a few take as long as messages may.
    pub(crate) fn draw(&mut self, sim: &Sim<'_>) {
        for link in &mut self.links {
            let part = -(1.0 - self.random.random::<f64>()).ln() / 5.0;
            let latency = LATENCY_MIN + (link.max - LATENCY_MIN).mul_f64(part.min(1.0));
            // Only whole milliseconds can be told apart.
            if latency.as_millis() != link.now.as_millis() {
                link.now = latency;
                sim.set_link_latency(link.ends.0, link.ends.1, latency);
            }
        }
    }
}
