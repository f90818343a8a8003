//! The endpoints, asked over a socket.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

struct Node {
    admin: Admin,
    health: Arc<Health>,
    ready: Arc<AtomicBool>,
}

impl Node {
    async fn starting() -> Self {
        let health = Arc::new(Health::new());
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("flotilla_tests_total").increment(2)
        });
        let build = BuildInfo {
            version: "1.2.3",
            commit: "abc",
            rustc: "1.95.0",
        };
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let admin = Admin::start(bind, Arc::clone(&health), recorder.handle(), build)
            .await
            .unwrap();
        Self {
            admin,
            health,
            ready: Arc::default(),
        }
    }

    async fn running() -> Self {
        let node = Self::starting().await;
        node.ready.store(true, Ordering::Release);
        node.set_ready_check();
        node
    }

    fn set_ready_check(&self) {
        let ready = Arc::clone(&self.ready);
        self.health.set_ready_check(move || ready.load(Ordering::Acquire));
    }

    /// Status and the rest of the answer.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: flotilla\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    async fn status(&self, path: &str) -> u16 {
        self.get(path).await.0
    }
}

#[tokio::test]
async fn while_starting_a_node_is_alive_and_nothing_else() {
    let node = Node::starting().await;
    assert_eq!(node.status("/livez").await, 200);
    assert_eq!(node.status("/startupz").await, 503);
    assert_eq!(node.status("/readyz").await, 503);
    assert_eq!(node.status("/healthz").await, 503);
}

#[tokio::test]
async fn a_running_node_is_ready() {
    let node = Node::running().await;
    for path in ["/livez", "/startupz", "/readyz", "/healthz"] {
        assert_eq!(node.status(path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn a_node_that_is_no_longer_ready_has_still_started() {
    let node = Node::running().await;
    assert_eq!(node.status("/readyz").await, 200);
    node.ready.store(false, Ordering::Release);
    assert_eq!(node.status("/readyz").await, 503);
    assert_eq!(node.status("/startupz").await, 200);
    assert_eq!(node.status("/livez").await, 200);
}

#[tokio::test]
async fn a_stopping_node_is_not_ready_but_alive() {
    let node = Node::running().await;
    node.health.set_stopping();
    let (status, answer) = node.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(answer.contains("[-]not-stopping failed"), "{answer}");
    assert_eq!(node.status("/livez").await, 200);
}

#[tokio::test]
async fn verbose_lists_each_check() {
    let node = Node::running().await;
    let (status, answer) = node.get("/healthz?verbose=1").await;
    assert_eq!(status, 200);
    assert!(
        answer.ends_with("[+]started ok\n[+]broker ok\n[+]not-stopping ok\ncheck passed\n"),
        "{answer}"
    );
    let (_, short) = node.get("/healthz").await;
    assert!(short.ends_with("\r\n\r\nok\n"), "{short}");
}

#[tokio::test]
async fn metrics_are_those_of_the_recorder_the_build_and_the_process() {
    let node = Node::running().await;
    let (status, answer) = node.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    assert!(answer.contains("\nflotilla_tests_total 2\n"), "{answer}");
    assert!(answer.contains(r#"flotilla_build_info{version="1.2.3",commit="abc",rustc="1.95.0"} 1"#));
    for name in [
        "flotilla_uptime_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        let line = answer
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .expect(name);
        let value: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(value >= 0.0, "{line}");
        assert!(answer.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    assert_eq!(Node::starting().await.status("/").await, 404);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_idle_connection() {
    let node = Node::running().await;
    let _idle = TcpStream::connect(node.admin.address()).await.unwrap();
    let address = node.admin.address();
    tokio::time::timeout(STOP_LIMIT * 3, node.admin.shutdown())
        .await
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
