//! Logins that a service judges, and keys that are fetched: by an HTTP server of this file, and a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::ReasonCode;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::tests::{World, from, login};
use super::*;
use crate::auth::Secret;
use crate::config::{JwtAlgorithm, TimeSpan};

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    Answer(&'static str),
    Status(u16),
    /// Nothing, ever.
    Silence,
    /// This, when it is time.
    Later(&'static str, Arc<Notify>),
}

/// A service; it ends with the test's runtime.
struct Server {
    address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    /// Bodies of requests, in their order.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(reply: Reply) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: socket.local_addr().unwrap(),
            reply: Arc::new(Mutex::new(reply)),
            asked: Arc::default(),
        };
        let (reply, asked) = (Arc::clone(&server.reply), Arc::clone(&server.asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&reply), Arc::clone(&asked)));
            }
        });
        server
    }

    fn says(&self, reply: Reply) {
        *self.reply.lock() = reply;
    }

    fn count(&self) -> usize {
        self.asked.lock().len()
    }

    fn last(&self) -> String {
        self.asked.lock().last().cloned().unwrap_or_default()
    }

    async fn asked(&self, count: usize) {
        let wait = async {
            while self.count() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }

    fn url(&self) -> String {
        format!("http://{}/who", self.address)
    }

    /// A world whose password file is joined by this service.
    fn world(&self) -> World {
        let mut world = World::new();
        world.config.auth.http.url = Some(self.url());
        world
    }
}

async fn serve(mut stream: TcpStream, reply: Arc<Mutex<Reply>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut input = Vec::new();
    loop {
        let Some(body) = request(&mut stream, &mut input).await else {
            return;
        };
        asked.lock().push(body);
        let reply = reply.lock().clone();
        let (status, body) = match reply {
            Reply::Answer(body) => (200, body),
            Reply::Status(status) => (status, ""),
            Reply::Silence => std::future::pending().await,
            Reply::Later(body, time) => {
                time.notified().await;
                (200, body)
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The body of the next request.
async fn request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(input).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if rest.len() >= length {
                input.drain(..head.len() + 4 + length);
                return Some(rest[..length].to_owned());
            }
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

const WRONG: Result<Option<String>, ReasonCode> = Err(ReasonCode::BadUserNameOrPassword);
const NOBODY_CAN_SAY: Result<Option<String>, ReasonCode> = Err(ReasonCode::ServerUnavailable);

fn is(user: &str) -> Result<Option<String>, ReasonCode> {
    Ok(Some(user.to_owned()))
}

#[tokio::test]
async fn a_service_is_asked_for_users_that_no_file_knows() {
    let server = Server::start(Reply::Answer(
        r#"{"result":"allow","user":"carl-7","groups":["ops"],"claims":{"site":7}}"#,
    ))
    .await;
    let world = server.world();
    let gate = world.gate();
    assert_eq!(login(&gate, "anna", "secret").await, is("anna"));
    assert_eq!(login(&gate, "anna", "wrong").await, WRONG, "the file knows her");
    assert_eq!(server.count(), 0);
    let admission = gate
        .login(from("10.0.0.1", Some(("carl", "pass \"word\""))))
        .await
        .unwrap();
    assert_eq!(
        (admission.by, admission.principal.user.as_deref()),
        ("http", Some("carl-7"))
    );
    assert_eq!(admission.principal.groups, ["ops"]);
    assert_eq!(admission.principal.claims["site"], ["7"]);
    assert_eq!(
        server.last(),
        r#"{"client_id":"c-1","user":"carl","password":"pass \"word\"","address":"10.0.0.1","listener":"mqtt","protocol":"tcp"}"#
    );
    server.says(Reply::Answer(r#"{"result":"allow","expires_in_s":60}"#));
    let admission = gate.login(from("10.0.0.1", Some(("dora", "x")))).await.unwrap();
    assert_eq!(
        admission.principal.user.as_deref(),
        Some("dora"),
        "the name that was sent"
    );
    assert_eq!(admission.expires_at_ms, Some(1_060_000));
    server.says(Reply::Answer(r#"{"result":"deny"}"#));
    assert_eq!(login(&gate, "eve", "x").await, WRONG);
    // Who shows nothing is nobody's business.
    let asked = server.count();
    assert_eq!(
        gate.login(from("10.0.0.1", None)).await,
        Err(ReasonCode::NotAuthorized)
    );
    assert_eq!(server.count(), asked);
}

#[tokio::test]
async fn whom_the_service_does_not_know_the_next_one_is_asked_for_and_whom_it_denies_nobody() {
    let server = Server::start(Reply::Answer(r#"{"result":"ignore"}"#)).await;
    let mut world = server.world();
    world.config.auth.order = vec![AuthMethod::Http, AuthMethod::Password];
    let gate = world.gate();
    assert_eq!(login(&gate, "anna", "secret").await, is("anna"));
    assert_eq!(server.count(), 1);
    assert_eq!(login(&gate, "nobody", "x").await, WRONG);
    server.says(Reply::Answer(r#"{"result":"deny"}"#));
    assert_eq!(
        login(&gate, "bob", "pencil").await,
        WRONG,
        "it knows better than the file"
    );
}

#[tokio::test]
async fn answers_are_remembered_for_their_time_and_forgotten_on_a_reload() {
    let server = Server::start(Reply::Answer(r#"{"result":"allow"}"#)).await;
    let world = server.world();
    let gate = world.gate();
    for _ in 0..3 {
        assert_eq!(login(&gate, "carl", "right").await, is("carl"));
    }
    assert_eq!(server.count(), 1);
    server.says(Reply::Answer(r#"{"result":"deny"}"#));
    assert_eq!(
        login(&gate, "carl", "other").await,
        WRONG,
        "another password is another question"
    );
    assert_eq!(login(&gate, "carl", "right").await, is("carl"));
    assert_eq!(server.count(), 2);
    world.pass_ms(5_000);
    assert_eq!(login(&gate, "carl", "other").await, WRONG);
    assert_eq!(server.count(), 3, "a denial holds for five seconds");
    gate.reload().unwrap();
    assert_eq!(login(&gate, "carl", "right").await, WRONG);
    assert_eq!(server.count(), 4);
    server.says(Reply::Answer(r#"{"result":"allow"}"#));
    world.pass_ms(60_000);
    assert_eq!(login(&gate, "carl", "right").await, is("carl"));
}

#[tokio::test]
async fn a_service_that_fails_is_left_alone_for_a_while_and_lets_nobody_in() {
    let server = Server::start(Reply::Status(500)).await;
    let mut world = server.world();
    world.config.auth.http.failures_max = 2;
    // Nobody else is asked when the service cannot say: it might have denied.
    world.config.auth.order = vec![AuthMethod::Http, AuthMethod::Password];
    let gate = world.gate();
    assert_eq!(login(&gate, "anna", "secret").await, NOBODY_CAN_SAY);
    server.says(Reply::Answer("it is fine"));
    assert_eq!(login(&gate, "anna", "secret").await, NOBODY_CAN_SAY);
    assert_eq!(server.count(), 2);
    server.says(Reply::Answer(r#"{"result":"allow"}"#));
    assert_eq!(login(&gate, "anna", "secret").await, NOBODY_CAN_SAY);
    assert_eq!(server.count(), 2, "it is not asked");
    world.pass_ms(10_000);
    assert_eq!(login(&gate, "anna", "secret").await, is("anna"));
    assert_eq!(login(&gate, "carl", "x").await, is("carl"));
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn a_service_that_is_silent_or_not_there_is_not_waited_for() {
    let server = Server::start(Reply::Silence).await;
    let mut world = server.world();
    world.config.auth.http.timeout = TimeSpan::from_millis(50);
    assert_eq!(login(&world.gate(), "carl", "x").await, NOBODY_CAN_SAY);
    assert_eq!(server.count(), 1);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.config.auth.http.url = Some(format!("http://{}/", nobody.local_addr().unwrap()));
    drop(nobody);
    assert_eq!(login(&world.gate(), "carl", "x").await, NOBODY_CAN_SAY);
}

#[tokio::test]
async fn with_every_place_taken_the_others_are_told_to_come_later_and_the_service_is_not_blamed() {
    let server = Server::start(Reply::Answer(r#"{"result":"allow"}"#)).await;
    let mut world = server.world();
    world.config.auth.http.timeout = TimeSpan::from_millis(50);
    world.config.auth.http.failures_max = 1;
    let gate = world.gate();
    let places = gate.inner.service.as_ref().unwrap().hold().await;
    for _ in 0..3 {
        assert_eq!(login(&gate, "carl", "x").await, Err(ReasonCode::ServerBusy));
    }
    assert_eq!(server.count(), 0);
    drop(places);
    assert_eq!(login(&gate, "carl", "x").await, is("carl"));
}

#[tokio::test]
async fn a_stranger_who_asks_for_many_users_leaves_room_for_others() {
    let server = Server::start(Reply::Silence).await;
    let mut world = server.world();
    world.config.auth.failures_free = 1;
    world.config.auth.http.requests_max = 3;
    let gate = world.gate();
    let strangers: Vec<_> = (0..20)
        .map(|number| {
            let (gate, user) = (gate.clone(), format!("user-{number}"));
            tokio::spawn(async move { gate.login(from("10.0.0.9", Some((&user, "x")))).await })
        })
        .collect();
    server.asked(2).await;
    server.says(Reply::Answer(r#"{"result":"allow"}"#));
    assert_eq!(login(&gate, "carl", "x").await, is("carl"));
    assert_eq!(server.count(), 3, "two of the stranger's, and this one");
    for stranger in strangers {
        stranger.abort();
    }
}

#[tokio::test]
async fn whom_the_service_denies_does_not_come_in_anonymously() {
    let server = Server::start(Reply::Answer(r#"{"result":"deny"}"#)).await;
    let mut world = server.world();
    world.config.auth.order = vec![AuthMethod::Http];
    let gate = world.gate();
    let shown = || {
        let mut login = from("10.0.0.1", None);
        login.permits_anonymous = true;
        login.certificate = Some(Arc::new(access::Certificate::told_by_proxy("device-7")));
        login
    };
    assert_eq!(gate.login(shown()).await, Err(ReasonCode::BadUserNameOrPassword));
    gate.reload().unwrap();
    server.says(Reply::Answer(r#"{"result":"ignore"}"#));
    assert_eq!(gate.login(shown()).await.unwrap().by, "anonymous");
}

#[tokio::test]
async fn an_answer_that_was_under_way_during_a_reload_is_not_remembered() {
    let time = Arc::new(Notify::new());
    let server = Server::start(Reply::Later(r#"{"result":"allow"}"#, Arc::clone(&time))).await;
    let world = server.world();
    let gate = world.gate();
    let asks = {
        let gate = gate.clone();
        tokio::spawn(async move { login(&gate, "carl", "x").await })
    };
    server.asked(1).await;
    server.says(Reply::Answer(r#"{"result":"deny"}"#));
    gate.reload().unwrap();
    time.notify_one();
    assert_eq!(asks.await.unwrap(), is("carl"), "so it was said before");
    assert_eq!(login(&gate, "carl", "x").await, WRONG);
    assert_eq!(server.count(), 2);
}

/// Keys for ES256 of the example in RFC 7515, appendix A.3, under a name.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fn with_token(header: &str) -> Login {
    // Nobody's signature: what is asked is whether there is a key to judge it by. The name is in no file: one that is there
    // would be judged by its password alone.
    let mut login = from("10.0.0.1", Some(("token", "")));
    login.password = Some(Secret(bytes::Bytes::from(format!("{header}.e30.AAAA"))));
    login
}

/// `{"alg":"ES256","kid":"one"}` and the same with `two`.
const KID_ONE: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6Im9uZSJ9";
const KID_TWO: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6InR3byJ9";

#[tokio::test]
async fn keys_are_fetched_at_the_start_and_when_a_token_names_another_though_not_too_often() {
    let server = Server::start(Reply::Status(503)).await;
    let mut world = World::new();
    world.config.auth.password_file = None;
    world.config.auth.jwt_keys_url = Some(server.url());
    world.config.auth.jwt_algorithms = vec![JwtAlgorithm::Es256];
    let gate = world.gate();
    let upkeep = tokio::spawn(gate.upkeep());
    let fetches = |count: usize| {
        let server = &server;
        async move {
            let wait = async {
                while server.count() < count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
        }
    };
    // Without keys, nobody can say whether a token is good.
    assert_eq!(
        gate.login(with_token(KID_ONE)).await,
        Err(ReasonCode::ServerUnavailable)
    );
    assert_eq!(server.count(), 1, "it has waited for the fetch of the start");
    assert_eq!(
        gate.login(with_token(KID_ONE)).await,
        Err(ReasonCode::ServerUnavailable)
    );
    assert_eq!(server.count(), 1, "there is none within ten seconds");
    upkeep.abort();

    server.says(Reply::Answer(KEYS));
    let key_sets = KeySets::with(
        Duration::from_secs(3600),
        Duration::from_millis(20),
        Arc::new(cluster::SystemClock::default()),
        [metrics::Counter::noop(), metrics::Counter::noop()],
    );
    let key_sets = Arc::new(key_sets);
    let running = Arc::clone(&key_sets);
    let client = key_sets::client(&world.config.auth).unwrap();
    let upkeep = tokio::spawn(async move { running.run(|| client.clone()).await });
    fetches(2).await;
    key_sets.look_again().await;
    assert_eq!(key_sets.keys().algorithms().count(), 1);
    server.says(Reply::Status(500));
    let before = server.count();
    key_sets.refresh();
    fetches(before + 2).await;
    assert_eq!(key_sets.keys().algorithms().count(), 1, "the last keys stay");
    assert!(key_sets.are_known());
    upkeep.abort();
}

#[tokio::test]
async fn a_token_whose_key_was_fetched_is_judged_by_it() {
    let server = Server::start(Reply::Answer(KEYS)).await;
    let mut world = World::new();
    world.config.auth.jwt_keys_url = Some(server.url());
    world.config.auth.jwt_algorithms = vec![JwtAlgorithm::Es256];
    let gate = world.gate();
    let upkeep = tokio::spawn(gate.upkeep());
    // A wrong signature is wrong, an unknown key is looked for once more, and then unknown.
    assert_eq!(
        gate.login(with_token(KID_TWO)).await,
        Err(ReasonCode::BadUserNameOrPassword)
    );
    assert_eq!(
        gate.login(with_token(KID_ONE)).await,
        Err(ReasonCode::BadUserNameOrPassword)
    );
    assert_eq!(login(&gate, "anna", "secret").await, is("anna"));
    assert_eq!(server.count(), 1);
    upkeep.abort();
}
