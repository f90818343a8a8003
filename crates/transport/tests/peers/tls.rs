//! TLS between peers: one authority, both sides prove themselves, certificates change while the node runs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cluster_proto::SnapshotHeader;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::Instant;
use transport::{Channel, Net, PeerError, Peers, Received, TcpNet, TlsFiles};

use crate::fake::{AMPLE, Fake, Running, answer, peers, question};

#[tokio::test]
async fn peers_with_certificates_of_their_authority_speak() {
    let authority = Authority::new();
    let (one, two) = (authority.node("localhost"), authority.node("localhost"));
    let fake = Fake::new(2);
    let server = Running::start(&two.net(), "127.0.0.1:0", &fake, &Received::new()).await;
    assert_eq!(ask(&known(one.net(), &server), 1).await, Ok(answer(1)));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let (ours, theirs) = (authority.node("localhost"), foreign.node("localhost"));
    // It has our authority's certificate, which is no secret, but none of its own from there.
    let pretender = authority.node("localhost");
    std::fs::copy(&theirs.files.certificate, &pretender.files.certificate).unwrap();
    std::fs::copy(&theirs.files.key, &pretender.files.key).unwrap();

    let fake = Fake::new(2);
    for (client, server) in [
        (&ours, &theirs),
        (&theirs, &ours),
        (&pretender, &ours),
        (&ours, &pretender),
    ] {
        let server = Running::start(&server.net(), "127.0.0.1:0", &fake, &Received::new()).await;
        let refused = ask(&known(client.net(), &server), 1).await;
        assert!(matches!(refused, Err(PeerError::Unreachable(_))), "{refused:?}");
        let plain = ask(&known(TcpNet::plain(), &server), 1).await;
        assert!(matches!(plain, Err(PeerError::Unreachable(_))), "{plain:?}");
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn a_certificate_has_to_name_the_host_that_was_dialled() {
    let authority = Authority::new();
    let (one, two) = (authority.node("localhost"), authority.node("elsewhere.example"));
    let fake = Fake::new(2);
    let server = Running::start(&two.net(), "127.0.0.1:0", &fake, &Received::new()).await;
    let refused = ask(&known(one.net(), &server), 1).await;
    assert!(matches!(refused, Err(PeerError::Unreachable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_peer_speaks_only_for_hosts_that_its_certificate_names() {
    let authority = Authority::new();
    let two = authority.node("localhost");
    let fake = Fake::new(2);
    let server = Running::start(&two.net(), "127.0.0.1:0", &fake, &Received::new()).await;
    for (certificate, address, covers) in [
        ("one.example", "one.example:7883", true),
        ("one.example", "two.example:7883", false),
        ("one.example", "10.0.0.1:7883", false),
        ("10.0.0.1", "10.0.0.1:7883", true),
        ("10.0.0.1", "10.0.0.2:7883", false),
        ("::1", "[::1]:7883", true),
        // One certificate for all nodes, as the chart makes it.
        ("*.nodes.example", "flotilla-2.nodes.example:7883", true),
        ("*.nodes.example", "flotilla-2.others.example:7883", false),
        ("one.example", "", false),
    ] {
        fake.expect_from(address);
        let asked = ask(&known(authority.node(certificate).net(), &server), 1).await;
        match covers {
            true => assert_eq!(asked, Ok(answer(1)), "{certificate}, {address}"),
            false => assert!(
                matches!(&asked, Err(PeerError::Failed(failed)) if failed.detail == "not its certificate"),
                "{certificate}, {address}: {asked:?}"
            ),
        }
    }
    let peers = known(authority.node("one.example").net(), &server);
    let refused = peers.snapshot(2, SnapshotHeader::default(), Bytes::new(), AMPLE);
    assert!(refused.await.is_err() && fake.snapshots().is_empty());
}

#[tokio::test]
async fn new_certificates_are_for_new_connections_and_bad_ones_change_nothing() {
    let (before, after) = (Authority::new(), Authority::new());
    let (one, two) = (before.node("localhost"), before.node("localhost"));
    let fake = Fake::new(2);
    let net = two.net();
    let server = Running::start(&net, "127.0.0.1:0", &fake, &Received::new()).await;
    let old = known(one.net(), &server);
    assert_eq!(ask(&old, 1).await, Ok(answer(1)));

    std::fs::write(&two.files.key, "no key").unwrap();
    assert!(net.reload().is_err());
    assert_eq!(
        ask(&known(one.net(), &server), 2).await,
        Ok(answer(2)),
        "those in use stay"
    );

    after.write("localhost", two.folder.path());
    assert!(net.reload().unwrap());
    assert!(!net.reload().unwrap(), "nothing changed since");
    assert_eq!(ask(&old, 3).await, Ok(answer(3)), "connections stay");
    let refused = ask(&known(one.net(), &server), 4).await;
    assert!(matches!(refused, Err(PeerError::Unreachable(_))), "{refused:?}");
    let three = after.node("localhost");
    assert_eq!(ask(&known(three.net(), &server), 5).await, Ok(answer(5)));
}

#[tokio::test]
async fn a_certificate_that_has_ended_opens_no_connection_more_though_it_opened_one_before() {
    let authority = Authority::new();
    let (one, two) = (authority.node("localhost"), authority.node("localhost"));
    #[allow(clippy::disallowed_methods, reason = "certificates end by the wall clock")]
    let now = SystemTime::now();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ends = Duration::from_secs(3);
    let has_ended = Instant::now() + ends + Duration::from_secs(1);
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(1970, 1, 1) + now + ends;
    authority.write_as(params, one.folder.path());
    let fake = Fake::new(2);
    let server = Running::start(&two.net(), "127.0.0.1:0", &fake, &Received::new()).await;
    // What this one has kept of the first connection would be good for resuming its session.
    let net: Arc<dyn Net> = Arc::new(one.net());
    let asked = async |number| {
        let peers = peers(Arc::clone(&net));
        peers.set_address(2, &server.address.replace("127.0.0.1", "localhost"));
        ask(&peers, number).await
    };
    assert_eq!(asked(1).await, Ok(answer(1)));
    tokio::time::sleep_until(has_ended).await;
    let refused = asked(2).await;
    assert!(matches!(refused, Err(PeerError::Unreachable(_))), "{refused:?}");
}

async fn ask(peers: &Peers, number: u64) -> Result<cluster_proto::call_response::Body, PeerError> {
    peers.call(2, Channel::Data, question(number), AMPLE).await
}

/// Peers that know where the server is, by a name.
fn known(net: impl Net, server: &Running) -> Peers {
    let peers = peers(Arc::new(net));
    peers.set_address(2, &server.address.replace("127.0.0.1", "localhost"));
    peers
}

struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's files.
struct Node {
    folder: TempDir,
    files: TlsFiles,
}

impl Node {
    fn net(&self) -> TcpNet {
        TcpNet::tls(self.files.clone()).unwrap()
    }
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn node(&self, host: &str) -> Node {
        let folder = TempDir::new().unwrap();
        let files = TlsFiles {
            ca: folder.path().join("ca.pem"),
            certificate: folder.path().join("node.pem"),
            key: folder.path().join("node.key"),
        };
        self.write(host, folder.path());
        Node { folder, files }
    }

    fn write(&self, host: &str, folder: &Path) {
        self.write_as(CertificateParams::new([host.to_owned()]).unwrap(), folder);
    }

    fn write_as(&self, params: CertificateParams, folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join("ca.pem"), self.certificate.pem()).unwrap();
        std::fs::write(folder.join("node.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("node.key"), key.serialize_pem()).unwrap();
    }
}
