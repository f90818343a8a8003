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
        Self::with_access(Access::default()).await
    }

    async fn with_access(access: Access) -> Self {
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
        let admin = Admin::start(bind, Arc::clone(&health), recorder.handle(), build, access)
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
        self.ask(&format!("GET {path}"), "").await
    }

    /// Method and path, and further lines of the head.
    async fn ask(&self, line: &str, head: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin.address()).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n");
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
async fn a_node_out_of_service_is_not_ready_and_says_why() {
    let node = Node::running().await;
    let draining = Arc::new(AtomicBool::new(true));
    let watched = Arc::clone(&draining);
    node.health
        .set_drain_check(move || watched.load(Ordering::Acquire));
    let (status, answer) = node.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(
        answer.contains("[+]broker ok\n[-]not-draining failed\n"),
        "{answer}"
    );
    draining.store(false, Ordering::Release);
    assert_eq!(node.status("/readyz").await, 200);
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
        answer
            .ends_with("[+]started ok\n[+]broker ok\n[+]not-draining ok\n[+]not-stopping ok\ncheck passed\n"),
        "{answer}"
    );
    let (_, short) = node.get("/healthz").await;
    assert!(short.ends_with("\r\n\r\nok\n"), "{short}");
}

#[tokio::test]
async fn a_node_short_of_memory_stays_ready_and_says_so() {
    let node = Node::running().await;
    let level = Arc::new(std::sync::atomic::AtomicU8::new(1));
    let shown = Arc::clone(&level);
    node.health
        .set_overload_check(move || shown.load(std::sync::atomic::Ordering::Relaxed));
    let (_, answer) = node.get("/readyz?verbose").await;
    assert!(!answer.contains("overload"), "{answer}");
    level.store(2, std::sync::atomic::Ordering::Relaxed);
    let (status, answer) = node.get("/readyz?verbose").await;
    assert_eq!(status, 200);
    assert!(
        answer.ends_with("[!]overload level 2: new connections are refused\ncheck passed\n"),
        "{answer}"
    );
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
    let node = Node::starting().await;
    for path in ["/nothing", "/api", "/api/v1/nothing", "/dashboard/nothing.js"] {
        assert_eq!(node.status(path).await, 404, "{path}");
    }
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

/// A cluster of two, of which one is down.
struct TwoNodes;

impl TwoNodes {
    fn member(name: &str, state: MemberState) -> MemberStatus {
        MemberStatus {
            name: name.to_owned(),
            node_id: "00000000000000aa".to_owned(),
            address: format!("{name}:7883"),
            zone: String::new(),
            state,
            voter: true,
            leader: false,
            shards_held: 16,
            shards_led: 8,
            clock_ahead_ms: None,
        }
    }
}

impl ClusterAdmin for TwoNodes {
    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster_id: "c".to_owned(),
            node: "a".to_owned(),
            ready: true,
            shards: 16,
            members: vec![
                Self::member("a", MemberState::Up),
                Self::member("b", MemberState::Down),
            ],
        }
    }

    fn leaving(&self) -> Result<Leave, AdminError> {
        Ok(Leave {
            node: "a".to_owned(),
            node_id: "00000000000000aa".to_owned(),
            state: LeaveState::Staying,
            replicas: 16,
            connections: 7,
        })
    }

    fn leave(&self, terms: LeaveTerms) -> Leaving<'_> {
        let told = match terms.beside_down {
            false => Err(AdminError::Conflict("b does not answer".to_owned())),
            true => self.leaving().map(|found| Leave {
                state: LeaveState::Leaving,
                ..found
            }),
        };
        Box::pin(async { told })
    }

    fn forget(&self, node: &str) -> Change<'_> {
        let outcome = match node {
            "b c" => Ok(()),
            "a" => Err(AdminError::Conflict("it is up".to_owned())),
            other => Err(AdminError::NotFound(format!("there is no {other}"))),
        };
        Box::pin(async { outcome })
    }

    fn scale_in(&self, to: u32, fewer_copies: bool) -> Result<ScaleIn, AdminError> {
        match (to, fewer_copies) {
            (0, _) => Err(AdminError::Conflict("at least one".to_owned())),
            (1, false) => Err(AdminError::Conflict("fewer copies".to_owned())),
            _ => Ok(ScaleIn {
                to,
                members: 2,
                state: ScaleInState::Ready,
                going: vec![Self::member("b", MemberState::Up)],
            }),
        }
    }

    fn scale_in_step(&self, to: u32, fewer_copies: bool) -> Step<'_> {
        let found = self.scale_in(to, fewer_copies).map(|found| ScaleIn {
            state: ScaleInState::Leaving,
            ..found
        });
        Box::pin(async { found })
    }
}

#[tokio::test]
async fn the_cluster_is_shown_once_the_node_has_started() {
    let node = Node::starting().await;
    assert_eq!(node.status("/api/v1/cluster").await, 503);
    node.admin.set_cluster(Arc::new(TwoNodes));
    let (status, answer) = node.get("/api/v1/cluster").await;
    assert_eq!(status, 200);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(
        serde_json::from_str::<ClusterStatus>(body).unwrap(),
        TwoNodes.status()
    );
    assert!(body.contains(r#""state":"down""#), "{body}");
}

#[tokio::test]
async fn a_change_is_made_or_the_reason_is_told() {
    let node = Node::starting().await;
    node.admin.set_cluster(Arc::new(TwoNodes));
    for (line, status, reason) in [
        ("GET /api/v1/cluster/leave", 200, r#""state":"staying""#),
        ("POST /api/v1/cluster/leave", 409, "b does not answer"),
        (
            "POST /api/v1/cluster/leave?beside_down=true&fewer_copies=false",
            200,
            r#""state":"leaving""#,
        ),
        ("POST /api/v1/cluster/leave?force=true", 400, "force"),
        ("POST /api/v1/cluster/forget/b%20c", 204, ""),
        ("POST /api/v1/cluster/forget/a", 409, "it is up"),
        ("POST /api/v1/cluster/forget/d", 404, "there is no d"),
        ("GET /api/v1/cluster/forget/a", 405, ""),
        ("GET /api/v1/cluster/scale-in?to=2", 200, r#""state":"ready""#),
        ("POST /api/v1/cluster/scale-in?to=2", 200, r#""state":"leaving""#),
        ("POST /api/v1/cluster/scale-in?to=1", 409, "fewer copies"),
        (
            "POST /api/v1/cluster/scale-in?to=1&fewer_copies=true",
            200,
            r#""members":2"#,
        ),
        ("POST /api/v1/cluster/scale-in?to=0", 409, "at least one"),
        ("POST /api/v1/cluster/scale-in", 400, "missing field"),
        ("POST /api/v1/cluster/scale-in?to=2&force=true", 400, "force"),
    ] {
        let (answered, text) = node.ask(line, "").await;
        assert_eq!(answered, status, "{line}: {text}");
        assert!(text.contains(reason), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_web_page_may_not_change_anything() {
    let node = Node::starting().await;
    node.admin.set_cluster(Arc::new(TwoNodes));
    let page = "Origin: http://example.com\r\n";
    let (status, text) = node.ask("POST /api/v1/cluster/forget/b%20c", page).await;
    assert_eq!(status, 403, "{text}");
    assert!(text.contains("web pages"), "{text}");
}

#[tokio::test]
async fn the_dashboard_is_there_before_the_node_has_started() {
    let node = Node::starting().await;
    let (status, answer) = node.get("/").await;
    assert_eq!(status, 200);
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'";
    assert!(answer.contains(policy), "{answer}");
    let (status, script) = node.get("/dashboard/app.js").await;
    assert_eq!(status, 200);
    assert!(script.contains("content-type: text/javascript"), "{script}");
    assert!(script.contains("x-content-type-options: nosniff"), "{script}");
}

#[tokio::test]
async fn nothing_is_told_without_a_token_where_there_are_tokens() {
    let access = Access {
        read: vec!["r".repeat(TOKEN_BYTES_MIN)],
        write: vec!["w".repeat(TOKEN_BYTES_MIN)],
    };
    let node = Node::with_access(access).await;
    node.admin.set_cluster(Arc::new(TwoNodes));
    let as_reader = format!("Authorization: Bearer {}\r\n", "r".repeat(TOKEN_BYTES_MIN));
    let as_writer = format!("Authorization: Bearer {}\r\n", "w".repeat(TOKEN_BYTES_MIN));
    for (line, head, expected) in [
        ("GET /api/v1/cluster", "", 401),
        ("GET /api/v1/openapi.json", "", 401),
        ("GET /api/v1/nothing", "", 401),
        ("GET /metrics", "", 200),
        ("GET /livez", "", 200),
        ("GET /api/v1/cluster", &as_reader, 200),
        ("POST /api/v1/cluster/forget/b%20c", &as_reader, 403),
        ("POST /api/v1/cluster/forget/b%20c", &as_writer, 204),
        ("GET /api/v1/cluster/scale-in?to=2", &as_reader, 200),
        ("POST /api/v1/cluster/scale-in?to=2", &as_reader, 403),
    ] {
        let (status, answer) = node.ask(line, head).await;
        assert_eq!(status, expected, "{line}: {answer}");
    }
    let (_, answer) = node.get("/api/v1/cluster").await;
    assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
}

/// The document is written by hand, and so are the routes: each knows what the other knows.
#[tokio::test]
async fn every_route_is_in_the_document_and_every_path_of_it_is_a_route() {
    let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let described: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let sources = [include_str!("api.rs"), include_str!("cluster.rs")].concat();
    let routes: Vec<&str> = sources
        .split('"')
        .filter(|text| text.starts_with("/api/v1/") && !text.contains('*'))
        .collect();
    for path in &described {
        assert!(
            routes.contains(&path.as_str()),
            "{path} is described and is no route"
        );
    }
    for path in routes.iter().filter(|path| !path.contains(' ')) {
        assert!(
            described.iter().any(|known| known == path),
            "{path} is not described"
        );
    }
}

#[tokio::test]
async fn every_reference_within_the_document_leads_somewhere() {
    fn visit(value: &serde_json::Value, document: &serde_json::Value) {
        if let Some(reference) = value["$ref"].as_str() {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let inner = value.as_object().map(|map| map.values().collect::<Vec<_>>());
        let inner = inner.or_else(|| value.as_array().map(|list| list.iter().collect()));
        inner
            .into_iter()
            .flatten()
            .for_each(|value| visit(value, document));
    }
    let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    visit(&document, &document);
}
