//! The way to other nodes as it is configured: certificates, addresses that are dialled elsewhere, names that stand for
//! many nodes.

use std::io;
use std::sync::Arc;

use cluster::PeerConfig;
use tokio::net::lookup_host;
use transport::{BoxFuture, Incoming, Io, Net, TcpNet, TlsFiles};

use crate::config::{Cluster, Config};

/// What a seed begins with that stands for all the addresses of a name.
const LOOKED_UP: &str = "dns:";
/// What stands between such a seed and the place of one of its addresses.
const PLACE: char = '#';
/// So many addresses of a name are asked in a round.
const PLACES: usize = 16;

/// TCP by the rules of `[cluster]`.
struct PeerNet {
    tcp: TcpNet,
    config: Cluster,
}

/// How the node lives with others; `None`: it stays alone.
pub(crate) fn peer_config(config: &Config) -> io::Result<Option<PeerConfig>> {
    let cluster = &config.cluster;
    let (Some(listen), Some(advertise)) = (cluster.listen, cluster.advertised()) else {
        return Ok(None);
    };
    let net = PeerNet {
        tcp: tcp_net(cluster)?,
        config: cluster.clone(),
    };
    Ok(Some(PeerConfig {
        net: Arc::new(net),
        listen: listen.to_string(),
        advertise,
        seeds: cluster.seeds.iter().flat_map(|seed| places_of(seed)).collect(),
        expect: cluster.expected_nodes(),
        replication_factor: usize::from(cluster.replication_factor),
        meta_voters_max: usize::from(cluster.meta_voters_max),
        lease: cluster.lease_timeout.get(),
        down_after: cluster.down_after.get(),
        replace_after: cluster.replace_after.get(),
    }))
}

fn tcp_net(cluster: &Cluster) -> io::Result<TcpNet> {
    let tls = &cluster.tls;
    match (&tls.ca, &tls.certificate, &tls.key) {
        (Some(ca), Some(certificate), Some(key)) => TcpNet::tls(TlsFiles {
            ca: ca.clone(),
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        _ => Ok(TcpNet::plain()),
    }
}

/// A name is looked up anew at every dial. It becomes as many seeds as addresses are asked in a round, the same ones on
/// every node, however many addresses the name has by then.
fn places_of(seed: &str) -> Vec<String> {
    match seed.starts_with(LOOKED_UP) {
        true => (0..PLACES).map(|place| format!("{seed}{PLACE}{place}")).collect(),
        false => vec![seed.to_owned()],
    }
}

/// The name and the place of a seed made by `places_of`.
fn looked_up(seed: &str) -> Option<(&str, usize)> {
    let (name, place) = seed.strip_prefix(LOOKED_UP)?.rsplit_once(PLACE)?;
    Some((name, place.parse().ok()?))
}

/// Where there are fewer addresses than places, some stand at many.
fn at_place<T>(mut addresses: Vec<T>, place: usize) -> Option<T>
where
    T: Ord,
{
    addresses.sort();
    addresses.dedup();
    match addresses.len() {
        0 => None,
        count => Some(addresses.swap_remove(place % count)),
    }
}

impl PeerNet {
    async fn dial(&self, address: &str) -> io::Result<Box<dyn Io>> {
        let Some((name, place)) = looked_up(address) else {
            return self.tcp.connect_as(self.config.dialled(address), address).await;
        };
        let found = at_place(lookup_host(name).await?.collect(), place);
        let found = found.ok_or_else(|| io::Error::other(format!("{name} has no address")))?;
        let found = found.to_string();
        self.tcp.connect_as(self.config.dialled(&found), name).await
    }
}

impl Net for PeerNet {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(self.dial(address))
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Incoming>>> {
        self.tcp.listen(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_seed_for_each_of_its_addresses() {
        let seeds = places_of("dns:nodes:7883");
        let asked: Vec<_> = seeds
            .iter()
            .filter_map(|seed| at_place(vec!["c", "a", "b", "a"], looked_up(seed)?.1))
            .collect();
        assert_eq!(asked[..4], ["a", "b", "c", "a"]);
        assert!(
            seeds
                .iter()
                .all(|seed| looked_up(seed).unwrap().0 == "nodes:7883")
        );
        assert_eq!(places_of("node-1:7883"), ["node-1:7883"]);
        assert_eq!(looked_up("node-1:7883"), None);
    }

    #[test]
    fn a_name_without_addresses_is_nobody() {
        assert_eq!(at_place(Vec::<u8>::new(), 3), None);
    }
}
