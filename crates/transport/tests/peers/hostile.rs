//! Visitors who are no peers: they are shown out, and disturb nobody.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transport::{Channel, MemoryNet, Net, Received, TcpNet};

use crate::fake::{AMPLE, Fake, Running, answer, peers, question};

#[tokio::test]
async fn garbage_on_the_port_ends_and_others_are_not_disturbed() {
    let net = TcpNet::plain();
    let fake = Fake::new(2);
    let server = Running::start(&net, "127.0.0.1:0", &fake, &Received::new()).await;
    let peers = peers(Arc::new(net));
    peers.set_address(2, &server.address);
    assert_eq!(
        peers.call(2, Channel::Data, question(1), AMPLE).await,
        Ok(answer(1))
    );
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0x10, 0x20, 0, 4, b'M', b'Q', b'T', b'T'],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut visitor = TcpStream::connect(&server.address).await.unwrap();
        visitor.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // Its end, be it orderly or not.
        let ended = tokio::time::timeout(AMPLE, visitor.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it still talks to {garbage:?}");
    }
    assert_eq!(
        peers.call(2, Channel::Data, question(2), AMPLE).await,
        Ok(answer(2))
    );
}

#[tokio::test]
async fn who_says_nothing_is_shown_out() {
    let net = MemoryNet::default();
    let fake = Fake::new(2);
    let _server = Running::start(&net.at("two:1"), "two:1", &fake, &Received::new()).await;
    let mut visitor = net.at("one:1").connect("two:1").await.unwrap();
    visitor.write_all(b"PRI * HTTP").await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(AMPLE, visitor.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it still waits");
}
