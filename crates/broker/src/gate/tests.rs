//! Logins against files, by a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use access::Certificate;
use access::password::{ArgonCost, PasswordHash, with_user};
use access::scram::Verifier;
use bytes::Bytes;
use cluster::Clock;
use mqtt_codec::ReasonCode;
use tempfile::TempDir;

use super::*;
use crate::auth::{Secret, Step};
use crate::config::{CertificateName, ClientIds, JwtAlgorithm};

#[derive(Default)]
pub(super) struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct World {
    files: TempDir,
    pub(super) config: Config,
    pub(super) clock: Arc<Hand>,
}

const CHEAP: ArgonCost = ArgonCost {
    memory_kib: 8,
    passes: 1,
    lanes: 1,
};

fn hash(password: &str) -> PasswordHash {
    PasswordHash::argon2id(password.as_bytes(), [1; 16], CHEAP)
}

impl World {
    /// Where anna's password is `secret`, and bob has a verifier of `pencil`.
    pub(super) fn new() -> Self {
        let world = Self {
            files: TempDir::with_prefix("flotilla-test-").unwrap(),
            config: Config::default(),
            clock: Arc::new(Hand(AtomicU64::new(1_000_000))),
        };
        let text = with_user("", "anna", &[hash("secret")]);
        let verifier = Verifier::derive(b"pencil", b"salt".to_vec(), 4096);
        world.with_users(&with_user(&text, "bob", &[PasswordHash::Scram(verifier)]))
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn with_users(mut self, text: &str) -> Self {
        self.config.auth.password_file = Some(self.write("users", text));
        self
    }

    pub(super) fn gate(&self) -> Gate {
        Gate::open(&self.config, Arc::clone(&self.clock) as Arc<dyn Clock>).unwrap()
    }

    pub(super) fn pass_ms(&self, milliseconds: u64) {
        self.clock.0.fetch_add(milliseconds, Ordering::Relaxed);
    }
}

pub(super) fn from(address: &str, credentials: Option<(&str, &str)>) -> Login {
    Login {
        address: SocketAddr::new(address.parse().unwrap(), 1),
        listener: "mqtt".into(),
        permits_anonymous: false,
        client_id: "c-1".to_owned(),
        certificate: None,
        username: credentials.map(|(user, _)| user.to_owned()),
        password: credentials.map(|(_, password)| Secret(Bytes::copy_from_slice(password.as_bytes()))),
    }
}

pub(super) async fn login(gate: &Gate, user: &str, password: &str) -> Result<Option<String>, ReasonCode> {
    let judged = gate.login(from("10.0.0.1", Some((user, password)))).await;
    judged.map(|admission| admission.principal.user)
}

#[tokio::test]
async fn users_come_in_with_their_password_and_nobody_else_does() {
    let world = World::new();
    let gate = world.gate();
    assert_eq!(login(&gate, "anna", "secret").await, Ok(Some("anna".to_owned())));
    assert_eq!(login(&gate, "bob", "pencil").await, Ok(Some("bob".to_owned())));
    for (user, password) in [
        ("anna", "pencil"),
        ("anna", ""),
        ("nobody", "secret"),
        ("", "secret"),
    ] {
        let refused = login(&gate, user, password).await;
        assert_eq!(refused, Err(ReasonCode::BadUserNameOrPassword), "{user}");
    }
    let mut nameless = from("10.0.0.1", None);
    assert_eq!(gate.login(nameless.clone()).await, Err(ReasonCode::NotAuthorized));
    nameless.permits_anonymous = true;
    assert_eq!(gate.login(nameless).await.unwrap().by, "anonymous");
}

#[tokio::test]
async fn who_says_a_name_is_judged_even_where_anonymous_clients_are_welcome() {
    let world = World::new();
    let mut wrong = from("10.0.0.1", Some(("anna", "wrong")));
    wrong.permits_anonymous = true;
    assert_eq!(
        world.gate().login(wrong).await,
        Err(ReasonCode::BadUserNameOrPassword)
    );
    let mut without_password = from("10.0.0.1", Some(("anna", "")));
    without_password.permits_anonymous = true;
    without_password.password = None;
    let refused = world.gate().login(without_password).await;
    assert_eq!(refused, Err(ReasonCode::BadUserNameOrPassword));
}

#[tokio::test]
async fn a_name_that_nobody_can_judge_proves_nothing() {
    let mut world = World::new();
    world.config.auth.password_file = None;
    let mut claimed = from("10.0.0.1", Some(("admin", "x")));
    assert_eq!(
        world.gate().login(claimed.clone()).await,
        Err(ReasonCode::NotAuthorized)
    );
    claimed.permits_anonymous = true;
    let admission = world.gate().login(claimed).await.unwrap();
    assert_eq!(admission.principal.user, None);
}

#[tokio::test]
async fn failures_make_an_address_and_a_name_wait_and_success_is_forgiveness() {
    let mut world = World::new();
    world.config.auth.failures_free = 2;
    let gate = world.gate();
    for _ in 0..3 {
        assert_eq!(
            login(&gate, "anna", "wrong").await,
            Err(ReasonCode::BadUserNameOrPassword)
        );
    }
    assert_eq!(
        login(&gate, "anna", "secret").await,
        Err(ReasonCode::ConnectionRateExceeded)
    );
    assert_eq!(
        login(&gate, "bob", "pencil").await,
        Err(ReasonCode::ConnectionRateExceeded),
        "from there"
    );
    let elsewhere = |user, password| gate.login(from("10.0.0.2", Some((user, password))));
    assert_eq!(
        elsewhere("anna", "secret").await,
        Err(ReasonCode::ConnectionRateExceeded),
        "by that name"
    );
    assert!(elsewhere("bob", "pencil").await.is_ok());
    world.pass_ms(1_000);
    assert!(login(&gate, "anna", "secret").await.is_ok());
    assert_eq!(
        login(&gate, "anna", "wrong").await,
        Err(ReasonCode::BadUserNameOrPassword)
    );
    assert!(
        login(&gate, "anna", "secret").await.is_ok(),
        "it counts from the beginning again"
    );
}

/// What so many logins at once come to: let in, judged and refused, told to wait.
async fn burst(gate: &Gate, logins: impl Iterator<Item = Login>) -> [usize; 3] {
    let judged = futures_util::future::join_all(logins.map(|login| gate.login(login))).await;
    let mut counts = [0; 3];
    for result in judged {
        let place = match result {
            Ok(_) => 0,
            Err(ReasonCode::BadUserNameOrPassword) => 1,
            Err(ReasonCode::ConnectionRateExceeded) => 2,
            Err(other) => panic!("{other:?}"),
        };
        counts[place] += 1;
    }
    counts
}

#[tokio::test]
async fn guesses_at_once_count_as_guesses_one_after_the_other() {
    let mut world = World::new();
    world.config.auth.failures_free = 2;
    let gate = world.gate();
    let by_name = |number: u8| from(&format!("10.0.1.{number}"), Some(("anna", "wrong")));
    assert_eq!(burst(&gate, (0..50).map(by_name)).await, [0, 3, 47]);
    world.pass_ms(1_000);
    assert_eq!(
        burst(&gate, (0..50).map(by_name)).await,
        [0, 1, 49],
        "its wait is over"
    );
    assert_eq!(burst(&gate, (0..50).map(by_name)).await, [0, 0, 50]);
    let of_an_address = |number: u8| {
        from(
            "10.0.0.9",
            Some((["carl", "dora", "eve"][usize::from(number % 3)], "x")),
        )
    };
    let [_, judged, _] = burst(&gate, (0..50).map(of_an_address)).await;
    assert_eq!(judged, 3);
    assert!(gate.inner.turns.are_idle());
}

#[tokio::test]
async fn a_fleet_behind_one_address_comes_in_at_once_and_who_guesses_among_it_has_to_wait() {
    let mut world = World::new();
    world.config.auth.failures_free = 2;
    let gate = world.gate();
    let anna = |_| from("10.0.0.1", Some(("anna", "secret")));
    assert_eq!(burst(&gate, (0..300).map(anna)).await, [300, 0, 0]);
    // Three wrong ones, each with good ones behind it, which clear the address; not the name.
    let mixed = |number: u32| match number % 50 {
        0 => from("10.0.0.1", Some(("bob", "wrong"))),
        _ => anna(number),
    };
    let [good, judged, too_soon] = burst(&gate, (0..300).map(mixed)).await;
    assert_eq!((good, judged, too_soon), (294, 3, 3));
    assert!(gate.inner.turns.are_idle());
}

#[tokio::test]
async fn proofs_of_many_challenges_at_once_count_as_guesses_one_after_the_other() {
    let mut world = World::new();
    world.config.auth.failures_free = 2;
    let gate = world.gate();
    let tries = || {
        let proof = "A".repeat(43) + "=";
        let mut exchanges = Vec::new();
        for number in 0..30 {
            let login = from(&format!("10.0.1.{number}"), None);
            let mut exchange = gate.exchange("SCRAM-SHA-256", &login).unwrap();
            if let Step::Continue(challenge) = exchange.step(Some("n,,n=bob,r=abc".into())) {
                let challenge = String::from_utf8(challenge.to_vec()).unwrap();
                let nonce = challenge.split(',').next().unwrap();
                exchanges.push((exchange, format!("c=biws,{nonce},p={proof}")));
            }
        }
        let last = exchanges
            .into_iter()
            .map(|(mut exchange, last)| exchange.step(Some(last.into())));
        let last: Vec<Step> = last.collect();
        let judged = last
            .iter()
            .filter(|step| **step == Step::Refuse(ReasonCode::NotAuthorized));
        (last.len(), judged.count())
    };
    assert_eq!(tries(), (30, 3));
    assert_eq!(tries(), (0, 0), "it has to wait");
    world.pass_ms(1_000);
    assert_eq!(tries(), (30, 1));
}

#[tokio::test]
async fn a_certificate_names_its_owner_and_clears_no_failures_of_others() {
    let mut world = World::new();
    world.config.auth.failures_free = 0;
    let gate = world.gate();
    assert!(login(&gate, "anna", "wrong").await.is_err());
    let mut shown = from("10.0.0.2", Some(("bob", "whatever")));
    shown.certificate = Some(Arc::new(Certificate::told_by_proxy("device-7")));
    let admission = gate.login(shown.clone()).await.unwrap();
    assert_eq!(
        (admission.principal.user.as_deref(), admission.by),
        (Some("device-7"), "certificate")
    );
    shown.username = Some("anna".to_owned());
    assert_eq!(gate.login(shown).await, Err(ReasonCode::ConnectionRateExceeded));
    assert_eq!(
        gate.login(from("10.0.0.3", Some(("anna", "secret")))).await,
        Err(ReasonCode::ConnectionRateExceeded)
    );
}

#[tokio::test]
async fn client_ids_can_be_bound_to_users() {
    let mut world = World::new();
    world.config.auth.client_ids = ClientIds::UserPrefix;
    let gate = world.gate();
    assert_eq!(
        login(&gate, "anna", "secret").await,
        Err(ReasonCode::ClientIdentifierNotValid)
    );
    let mut own = from("10.0.0.1", Some(("anna", "secret")));
    own.client_id = "anna-1".to_owned();
    assert!(gate.login(own).await.is_ok());
}

#[tokio::test]
async fn a_client_id_with_a_longer_users_name_is_not_the_shorter_ones() {
    let text = with_user("", "dev", &[hash("secret")]);
    let mut world = World::new().with_users(&with_user(&text, "dev-7", &[hash("seven")]));
    world.config.auth.client_ids = ClientIds::UserPrefix;
    let gate = world.gate();
    let invalid = Some(ReasonCode::ClientIdentifierNotValid);
    for (user, password, client_id, expected) in [
        ("dev", "secret", "dev-8", None),
        ("dev", "secret", "dev-7", invalid),
        ("dev", "secret", "dev-7-a", invalid),
        ("dev-7", "seven", "dev-7", None),
        ("dev-7", "seven", "dev-7-a", None),
    ] {
        let mut login = from("10.0.0.1", Some((user, password)));
        login.client_id = client_id.to_owned();
        assert_eq!(gate.login(login).await.err(), expected, "{user} {client_id}");
    }
}

#[tokio::test]
async fn a_certificate_binds_the_client_id_whoever_knows_the_client() {
    let mut world = World::new();
    world.config.auth.certificate_client_id = Some(CertificateName::CommonName);
    world.config.auth.client_ids = ClientIds::User;
    let gate = world.gate();
    let shown = |name: &str| Some(Arc::new(Certificate::told_by_proxy(name)));
    let refused = Some(ReasonCode::ClientIdentifierNotValid);
    for (user, certificate, client_id, expected) in [
        (None, shown("device-7"), "device-7", None),
        (None, shown("device-7"), "device-8", refused),
        // Its name cannot be one.
        (None, shown(""), "", refused),
        (Some(("anna", "secret")), shown("device-7"), "device-7", None),
        // Without one it is the user's.
        (Some(("anna", "secret")), None, "device-7", refused),
        (Some(("anna", "secret")), None, "anna", None),
    ] {
        let mut login = from("10.0.0.1", user);
        login.permits_anonymous = true;
        login.certificate = certificate;
        login.client_id = client_id.to_owned();
        let said = gate.login(login).await.err();
        assert_eq!(said, expected, "{user:?} {client_id}");
    }
}

#[tokio::test]
async fn with_too_many_waiting_for_their_hash_the_next_is_told_to_come_later() {
    let mut world = World::new();
    world.config.auth.hashing_threads = 1;
    world.config.auth.hashing_waiting_max = 1;
    let gate = world.gate();
    let held = gate.inner.hashing.hold().await;
    let waiting = login(&gate, "anna", "secret");
    tokio::pin!(waiting);
    // Polled once, so that it has its place.
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    assert_eq!(login(&gate, "anna", "secret").await, Err(ReasonCode::ServerBusy));
    drop(held);
    assert!(waiting.await.is_ok());
}

#[tokio::test]
async fn a_token_that_is_no_token_fails_and_names_beside_tokens_are_not_held_up() {
    let mut world = World::new();
    world.config.auth.failures_free = 0;
    world.config.auth.jwt_keys = vec![world.write("key", "0123456789abcdef0123456789abcdef")];
    world.config.auth.jwt_algorithms = vec![JwtAlgorithm::Hs256];
    let gate = world.gate();
    let forged = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm5hIiwiZXhwIjo5OTk5OTk5OTk5fQ.AAAA";
    assert_eq!(
        login(&gate, "anna", forged).await,
        Err(ReasonCode::BadUserNameOrPassword)
    );
    assert_eq!(
        login(&gate, "anna", forged).await,
        Err(ReasonCode::ConnectionRateExceeded),
        "the address waits"
    );
    assert!(
        gate.login(from("10.0.0.2", Some(("anna", "secret"))))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn scram_fails_alike_for_a_wrong_proof_and_an_unknown_user() {
    let world = World::new();
    let gate = world.gate();
    assert!(gate.exchange("PLAIN", &from("10.0.0.1", None)).is_none());
    for user in ["bob", "anna", "nobody"] {
        let mut exchange = gate.exchange("SCRAM-SHA-256", &from("10.0.0.1", None)).unwrap();
        let first = format!("n,,n={user},r=abc");
        let Step::Continue(challenge) = exchange.step(Some(first.into())) else {
            panic!("{user} is challenged")
        };
        let challenge = String::from_utf8(challenge.to_vec()).unwrap();
        let nonce = challenge.split(',').next().unwrap();
        assert!(challenge.ends_with("i=4096"), "{challenge}");
        let proof = "A".repeat(43) + "=";
        let last = format!("c=biws,{nonce},p={proof}");
        assert_eq!(
            exchange.step(Some(last.into())),
            Step::Refuse(ReasonCode::NotAuthorized),
            "{user}"
        );
    }
}

#[tokio::test]
async fn a_reload_takes_all_files_or_none() {
    let mut world = World::new();
    world.config.access.rules = Some(world.write("rules", "allow all a/#"));
    let gate = world.gate();
    let admission = gate
        .login(from("10.0.0.1", Some(("anna", "secret"))))
        .await
        .unwrap();
    let generation = gate.generation();
    world.write("users", &with_user("", "anna", &[hash("new")]));
    world.write("rules", "allow nonsense");
    let error = gate.reload().unwrap_err();
    assert!(error.contains("line 1"), "{error}");
    assert_eq!(gate.generation(), generation);
    assert!(gate.still_admits(&admission));
    assert!(
        login(&gate, "anna", "secret").await.is_ok(),
        "the old file still counts"
    );
    world.write("rules", "");
    gate.reload().unwrap();
    assert!(gate.generation() > generation);
    assert!(!gate.still_admits(&admission), "the password is another one");
    assert_eq!(
        login(&gate, "anna", "secret").await,
        Err(ReasonCode::BadUserNameOrPassword)
    );
    let permissions = gate.permissions(&admission.principal).unwrap();
    let topic = mqtt_topic::TopicName::parse("a/b".into()).unwrap();
    assert!(!permissions.may_publish(&topic), "no rule, no leave");
}

#[test]
fn files_that_are_not_right_keep_a_node_from_starting() {
    let mut world = World::new();
    world.config.auth.password_file = Some(world.write("users", "anna:plain text password"));
    world.config.auth.jwt_keys = vec![world.write("key", "too short")];
    world.config.access.mosquitto_acl = Some(world.write("acl", "topic raed a"));
    let problems = file_problems(&world.config);
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        ["auth.password_file", "auth.jwt_keys", "access.mosquitto_acl"]
    );
    assert!(!format!("{problems:?}").contains("plain text"), "{problems:?}");
}

#[test]
fn a_list_of_public_keys_is_no_secret_for_hs256() {
    let mut world = World::new();
    let keys = r#"[{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}]"#;
    world.config.auth.jwt_keys = vec![world.write("keys.json", keys)];
    world.config.auth.jwt_algorithms = vec![JwtAlgorithm::Hs256, JwtAlgorithm::Es256];
    let problems = file_problems(&world.config);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].to_string().contains("this is no secret"),
        "{problems:?}"
    );
}
