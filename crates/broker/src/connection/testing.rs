//! For the tests of connections: clients at the other end of a pipe.

use tokio::io::DuplexStream;

use mqtt_codec::{Connect, Packet, ProtocolVersion, encode};

use super::*;
use crate::config::Protocol;

/// A connection that has its client id, and its CONNACK waiting to be written; `clean`: nothing is kept of its session.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    client_id: &str,
    version: ProtocolVersion,
    clean: bool,
) -> (Box<Connection<DuplexStream>>, DuplexStream) {
    let (stream, mut client) = tokio::io::duplex(64 * 1024);
    let mut connect = Connect::new(version, client_id.into());
    connect.clean_start = clean;
    if version == ProtocolVersion::V5 && !clean {
        connect.properties.session_expiry_interval = Some(3600);
    }
    let mut bytes = WriteQueue::new();
    encode(&Packet::Connect(Box::new(connect)), version, &mut bytes).unwrap();
    client.write_all_buf(&mut bytes).await.unwrap();
    let is_ready = async {
        while !shared.cluster.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_ready)
        .await
        .expect("the node is ready");
    let origin = Origin {
        peer: "127.0.0.1:1".parse().unwrap(),
        listener: "test".into(),
        transport: Protocol::Tcp,
        permits_anonymous: true,
        certificate: None,
    };
    let accepted = accept(shared, stream, origin, Duration::from_secs(30)).await;
    let accepted = accepted.expect("the client is let in");
    (Connection::new(Arc::clone(shared), accepted), client)
}
