//! `[cluster]`: the other nodes, how they are found, and when one of them counts as gone.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::TimeSpan;
use super::section::Problem;

/// The port on which nodes usually listen to each other.
pub const PEER_PORT: u16 = 7883;

/// What a seed begins with that stands for all the addresses of a name.
const LOOKED_UP: &str = "dns:";
/// Beyond the lease of a node that cannot be reached, for clocks that do not run alike.
const DOWN_MARGIN: Duration = Duration::from_secs(1);

section! {
    /// Other nodes. A node without `listen` stays alone: a cluster of one. A node with `listen` and without seeds founds a
    /// cluster that others may join.
    pub struct Cluster {
        /// Address on which other nodes are listened to, as `0.0.0.0:7883`. Not set: no other nodes.
        listen: Option<SocketAddr> = None;
        /// Address (`host:port`) under which other nodes reach this one; a host name is looked up at each dial. Default:
        /// `listen`, unless that is a wildcard.
        advertise: Option<String> = None;
        /// Nodes to form a cluster with or to join: `host:port` for one node, `dns:host:port` for every address of a
        /// name, as of a headless service. All nodes of a new cluster are given the same list.
        seeds: Vec<String> = Vec::new();
        /// Nodes that form the first cluster together. 0: as many as there are seeds. To be given with a `dns:` seed.
        expect: u16 = 0, 0 => 1000;
        /// Certificates of the connections between nodes: `[cluster.tls]`.
        tls: ClusterTls = ClusterTls::default();
        /// Permits plain text between nodes beyond loopback: whoever reaches the address can read and write everything.
        insecure: bool = false;
        /// Nodes that hold a copy of each shard, or all nodes while there are fewer. A majority of them is needed.
        replication_factor: u16 = 3, 1 => 9;
        /// Most nodes that vote on the state of the whole cluster, an odd number; further nodes only follow.
        meta_voters_max: u16 = 5, 1 => 9;
        /// A node that hears this long from no majority closes its client connections and acknowledges nothing more.
        lease_timeout: TimeSpan = TimeSpan::from_secs(3), TimeSpan::from_secs(1) => TimeSpan::from_secs(60);
        /// A node that is not heard of for this long is declared down: its sessions are open to be taken over, and nobody
        /// waits for it. At least one second above `lease_timeout`.
        down_after: TimeSpan = TimeSpan::from_secs(5), TimeSpan::from_secs(2) => TimeSpan::from_secs(600);
        /// Copies held by a node that has been down for this long are made anew on other nodes.
        replace_after: TimeSpan = TimeSpan::from_secs(600), TimeSpan::from_secs(10) => TimeSpan::from_days(30);
        /// Where the node stands, as `eu-west-1a`: copies of a shard go to different zones where they can.
        zone: String = String::new();
        /// What clients that are sent elsewhere are told (Server Reference of DISCONNECT with 0x9C, use another server).
        /// Empty: no reference.
        server_reference: String = String::new();
        /// Where to dial instead of an advertised address, as `{ "10.0.0.2:7883" = "127.0.0.1:4002" }`: for nodes behind
        /// address translation, and for tests.
        peer_overrides: BTreeMap<String, String> = BTreeMap::new();
    }
}

section! {
    /// Certificates of the connections between nodes. Both sides show one, and `ca` says whose are accepted. Without them the
    /// nodes talk in plain text.
    pub struct ClusterTls {
        /// Certificates in PEM of those who sign the nodes' certificates.
        ca: Option<PathBuf> = None;
        /// This node's certificate chain in PEM, for the host of `advertise`, as server and as client.
        certificate: Option<PathBuf> = None;
        /// Private key of the certificate in PEM.
        key: Option<PathBuf> = None;
    }
}

impl Cluster {
    /// The address that other nodes are told; `None`: there are none to tell.
    pub fn advertised(&self) -> Option<String> {
        let listen = self.listen?;
        Some(self.advertise.clone().unwrap_or_else(|| listen.to_string()))
    }

    /// How many nodes form the first cluster.
    pub fn expected_nodes(&self) -> usize {
        match self.expect {
            0 => self.seeds.len().max(1),
            expect => usize::from(expect),
        }
    }

    /// Where to dial a node that advertises this address.
    pub fn dialled<'a>(&'a self, advertised: &'a str) -> &'a str {
        self.peer_overrides
            .get(advertised)
            .map_or(advertised, String::as_str)
    }

    /// What about the nodes' connections deserves a warning at each start.
    pub fn risks(&self) -> Vec<&'static str> {
        match self.listen {
            Some(listen) if !listen.ip().is_loopback() && !self.tls.is_complete() => {
                vec!["nodes talk in plain text, and whoever reaches this address can take part"]
            }
            _ => Vec::new(),
        }
    }

    /// Everything beyond the bounds of single keys.
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        self.tls.check(problems);
        self.check_addresses(problems);
        self.check_seeds(problems);
        self.check_times(problems);
        if self.meta_voters_max.is_multiple_of(2) {
            let message = format!("{} is not an odd number", self.meta_voters_max);
            problems.push(Problem::new("cluster.meta_voters_max", message));
        }
        if self.server_reference.contains(char::is_control) {
            let message = "has a control character, which MQTT does not permit";
            problems.push(Problem::new("cluster.server_reference", message));
        }
    }

    fn check_addresses(&self, problems: &mut Vec<Problem>) {
        if let Some(advertise) = &self.advertise {
            check_host_port("cluster.advertise", advertise, problems);
        }
        for address in self.peer_overrides.iter().flat_map(|(from, to)| [from, to]) {
            check_host_port("cluster.peer_overrides", address, problems);
        }
        let Some(listen) = self.listen else {
            if !self.seeds.is_empty() {
                let message = format!(
                    "seeds have to reach this node, too: add `listen = \"127.0.0.1:{PEER_PORT}\"` to [cluster] \
                     (flag --peer)"
                );
                problems.push(Problem::new("cluster.listen", message));
            }
            return;
        };
        if listen.ip().is_unspecified() && self.advertise.is_none() {
            let message = format!(
                "no other node can dial {listen}: add `advertise = \"this-host:{}\"` to [cluster] (flag --advertise)",
                listen.port()
            );
            problems.push(Problem::new("cluster.advertise", message));
        }
        if !listen.ip().is_loopback() && !self.tls.is_complete() && !self.insecure {
            let message = format!(
                "plain text between nodes on {listen} can be read and forged by others on the network: fill in \
                 [cluster.tls], listen on 127.0.0.1, or add `insecure = true` to [cluster] (flag --insecure)"
            );
            problems.push(Problem::new("cluster.listen", message));
        }
    }

    fn check_seeds(&self, problems: &mut Vec<Problem>) {
        let mut seen = HashSet::new();
        for (index, seed) in self.seeds.iter().enumerate() {
            let path = format!("cluster.seeds[{index}]");
            check_host_port(&path, seed.strip_prefix(LOOKED_UP).unwrap_or(seed), problems);
            if !seen.insert(seed) {
                problems.push(Problem::new(path, format!("`{seed}` is there twice")));
            }
        }
        let single = self.seeds.iter().filter(|seed| !seed.starts_with(LOOKED_UP));
        let single = single.count();
        if self.expect == 0 && single < self.seeds.len() {
            let message =
                "says how many nodes a `dns:` seed stands for at first: add `expect = 3` to [cluster]";
            problems.push(Problem::new("cluster.expect", message));
        }
        if self.expect > 0 && usize::from(self.expect) < single {
            let message = format!("{} is less than the {single} seeds", self.expect);
            problems.push(Problem::new("cluster.expect", message));
        }
    }

    fn check_times(&self, problems: &mut Vec<Problem>) {
        if self.down_after.get() < self.lease_timeout.get() + DOWN_MARGIN {
            let message = format!(
                "{} is less than lease_timeout ({}) and one second: a node could be declared down while it still serves",
                self.down_after, self.lease_timeout
            );
            problems.push(Problem::new("cluster.down_after", message));
        }
        if self.replace_after <= self.down_after {
            let message = format!(
                "{} is not longer than down_after ({})",
                self.replace_after, self.down_after
            );
            problems.push(Problem::new("cluster.replace_after", message));
        }
    }
}

impl ClusterTls {
    /// Whether connections between nodes are encrypted.
    pub fn is_complete(&self) -> bool {
        self.files().iter().all(|(_, file)| file.is_some())
    }

    /// Each file with its key.
    pub fn files(&self) -> [(&'static str, Option<&PathBuf>); 3] {
        [
            ("ca", self.ca.as_ref()),
            ("certificate", self.certificate.as_ref()),
            ("key", self.key.as_ref()),
        ]
    }

    /// All three or none.
    fn check(&self, problems: &mut Vec<Problem>) {
        if self.files().iter().all(|(_, file)| file.is_none()) {
            return;
        }
        for (key, _) in self.files().iter().filter(|(_, file)| file.is_none()) {
            let message = format!(
                "is missing: `ca`, `certificate` and `key` go together; add `{key} = \"{key}.pem\"` to [cluster.tls]"
            );
            problems.push(Problem::new(format!("cluster.tls.{key}"), message));
        }
    }
}

/// Accepts `host:port`, `1.2.3.4:port` and `[::1]:port`; a host is looked up only when it is dialled.
fn check_host_port(path: &str, value: &str, problems: &mut Vec<Problem>) {
    let valid = match value.parse::<SocketAddr>() {
        Ok(address) => address.port() != 0 && !address.ip().is_unspecified(),
        Err(_) => value.rsplit_once(':').is_some_and(|(host, port)| {
            let host_valid = host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
            !host.is_empty() && host_valid && port.parse::<u16>().is_ok_and(|port| port != 0)
        }),
    };
    if !valid {
        let message =
            format!("`{value}` is not an address to dial: write host:port, as `node-1:{PEER_PORT}`");
        problems.push(Problem::new(path, message));
    }
}

#[cfg(test)]
mod tests {
    use super::super::section::Section;
    use super::*;

    fn problems_of(change: impl FnOnce(&mut Cluster)) -> Vec<String> {
        let mut cluster = Cluster {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], PEER_PORT))),
            ..Cluster::default()
        };
        change(&mut cluster);
        let mut problems = Vec::new();
        cluster.check_bounds("cluster", &mut problems);
        cluster.check(&mut problems);
        problems.iter().map(Problem::to_string).collect()
    }

    fn wildcard() -> Option<SocketAddr> {
        Some(SocketAddr::from(([0, 0, 0, 0], PEER_PORT)))
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (value, valid) in [
            ("node-1.flotilla:7883", true),
            ("10.0.0.1:7883", true),
            ("[::1]:7883", true),
            ("host", false),
            (":7883", false),
            ("host:0", false),
            ("10.0.0.1:0", false),
            ("0.0.0.0:7883", false),
            ("host:99999", false),
            ("http://host:1", false),
        ] {
            for problems in [
                problems_of(|cluster| cluster.advertise = Some(value.into())),
                problems_of(|cluster| cluster.seeds = vec![value.into()]),
                problems_of(|cluster| cluster.peer_overrides = [("a:1".into(), value.into())].into()),
            ] {
                assert_eq!(problems.is_empty(), valid, "{value}: {problems:?}");
            }
        }
    }

    #[test]
    fn a_wildcard_has_to_be_advertised_as_something_else() {
        let problems = problems_of(|cluster| {
            cluster.listen = wildcard();
            cluster.insecure = true;
        });
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("cluster.advertise: no other node can dial 0.0.0.0:7883"));
        assert!(
            problems[0].contains("`advertise = \"this-host:7883\"`"),
            "{problems:?}"
        );
    }

    #[test]
    fn plain_text_beyond_loopback_has_to_be_asked_for() {
        let open = |cluster: &mut Cluster| {
            cluster.listen = wildcard();
            cluster.advertise = Some("node-1:7883".into());
        };
        let problems = problems_of(open);
        assert!(
            problems[0].starts_with("cluster.listen: plain text between nodes"),
            "{problems:?}"
        );
        assert!(problems[0].contains("`insecure = true`"), "{problems:?}");
        let problems = problems_of(|cluster| {
            open(cluster);
            cluster.insecure = true;
            assert_eq!(cluster.risks().len(), 1);
        });
        assert_eq!(problems, [""; 0]);
        let problems = problems_of(|cluster| {
            open(cluster);
            let file = || Some(PathBuf::from("a.pem"));
            (cluster.tls.ca, cluster.tls.certificate, cluster.tls.key) = (file(), file(), file());
            assert_eq!(cluster.risks(), [""; 0]);
        });
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn certificates_come_in_threes() {
        let problems = problems_of(|cluster| cluster.tls.certificate = Some("node.pem".into()));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with("cluster.tls.ca: is missing"),
            "{problems:?}"
        );
        assert!(
            problems[1].contains("add `key = \"key.pem\"` to [cluster.tls]"),
            "{problems:?}"
        );
    }

    #[test]
    fn seeds_reach_this_node_and_are_counted() {
        let seeds = |seeds: &[&str]| seeds.iter().map(|seed| (*seed).to_owned()).collect::<Vec<_>>();
        let problems = problems_of(|cluster| {
            cluster.listen = None;
            cluster.seeds = seeds(&["a:1"]);
        });
        assert!(
            problems[0].starts_with("cluster.listen: seeds have to reach"),
            "{problems:?}"
        );
        let problems = problems_of(|cluster| cluster.seeds = seeds(&["a:1", "b:1", "a:1"]));
        assert_eq!(problems, ["cluster.seeds[2]: `a:1` is there twice"]);
        let problems = problems_of(|cluster| cluster.seeds = seeds(&["dns:nodes:7883"]));
        assert!(problems[0].contains("add `expect = 3`"), "{problems:?}");
        let problems = problems_of(|cluster| {
            cluster.seeds = seeds(&["dns:nodes:7883"]);
            cluster.expect = 3;
            assert_eq!(cluster.expected_nodes(), 3);
        });
        assert_eq!(problems, [""; 0]);
        let problems = problems_of(|cluster| {
            cluster.seeds = seeds(&["a:1", "b:1"]);
            cluster.expect = 1;
        });
        assert_eq!(problems, ["cluster.expect: 1 is less than the 2 seeds"]);
    }

    #[test]
    fn a_node_is_not_declared_down_while_its_lease_may_last() {
        for (lease, down, valid) in [
            (3000, 5000, true),
            (3000, 4000, true),
            (3000, 3999, false),
            (5000, 5000, false),
        ] {
            let problems = problems_of(|cluster| {
                cluster.lease_timeout = TimeSpan::from_millis(lease);
                cluster.down_after = TimeSpan::from_millis(down);
            });
            assert_eq!(problems.is_empty(), valid, "{lease} {down}: {problems:?}");
        }
        let problems = problems_of(|cluster| {
            cluster.down_after = TimeSpan::from_secs(60);
            cluster.replace_after = TimeSpan::from_secs(60);
            cluster.meta_voters_max = 4;
        });
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn what_is_advertised_may_be_dialled_elsewhere() {
        let mut cluster = Cluster::default();
        assert_eq!(cluster.advertised(), None);
        cluster.listen = Some(SocketAddr::from(([127, 0, 0, 1], PEER_PORT)));
        assert_eq!(cluster.advertised().as_deref(), Some("127.0.0.1:7883"));
        cluster.peer_overrides = [("a:1".to_owned(), "b:2".to_owned())].into();
        assert_eq!((cluster.dialled("a:1"), cluster.dialled("c:1")), ("b:2", "c:1"));
    }
}
