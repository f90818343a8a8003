//! Files that change while clients are connected.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message, is_audited, wait_for};
use mqtt_codec::ReasonCode;

use crate::common::*;
use crate::tokens::{SECRET, token};

const LIMIT: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(200);

impl World {
    /// Reads the files again, and waits until the log says how it went.
    pub(crate) async fn reload(&self, says: &str) -> Result<()> {
        let before = self.broker.log().matches(says).count();
        self.broker.reload()?;
        wait_for(async || self.broker.log().matches(says).count() > before, LIMIT).await
    }

    pub(crate) async fn reloaded(&self) -> Result<()> {
        self.reload("users, keys and rules were read again").await
    }
}

#[tokio::test]
async fn who_may_not_have_a_subscription_any_more_is_disconnected_and_comes_back_without_it() -> Result<()> {
    let world = with_rules("allow all #\n")?;
    let session = || ConnectOptions::v5("c-1").persistent();
    let mut anna = world.client(ANNA, session()).await?;
    for filter in ["a/#", "b/#"] {
        ensure!(anna.subscribe(filter, 1).await? == ReasonCode::GrantedQoS1);
    }
    let mut carl = world.client(CARL, ConnectOptions::v5("c-2")).await?;
    world.write("rules", "allow all a/#\nallow all b/# user=carl\n")?;
    world.reloaded().await?;
    anna.expect_disconnect(ReasonCode::NotAuthorized).await?;
    // She is away: what comes now waits in her session.
    carl.publish(Message::new("b/1", "no").qos(1)).await?;
    carl.publish(Message::new("a/1", "yes").qos(1)).await?;
    let mut anna = world.client(ANNA, session()).await?;
    ensure!(anna.connack().session_present);
    ensure!(
        anna.receive().await?.publication.topic().as_str() == "a/1",
        "and not b/1"
    );
    carl.publish(Message::new("b/2", "no").qos(1)).await?;
    anna.expect_no_publish(MOMENT).await?;
    ensure!(world.counter("flotilla_access_denied_total{action=\"deliver\"}")? == 1);
    ensure!(world.counter("flotilla_access_denied_total{action=\"resume\"}")? == 1);
    ensure!(world.counter("flotilla_connections_closed_total{reason=\"access_revoked\"}")? == 1);
    // The rules are as they were, and the subscription is not.
    world.write("rules", "allow all #\n")?;
    world.reloaded().await?;
    carl.publish(Message::new("b/3", "no").qos(1)).await?;
    anna.expect_no_publish(MOMENT).await
}

/// `secret-s` through so many rounds that there is time to remove its user meanwhile.
const SLOW: &str = "slow:$7$1500000$YSBzbG93IG9uZSEh$LSZ8PlvcC0YW+t0W0M+T3LY/SwFvBEnuVP6oUyU9oL2V6fqbiotGBa/IXy6kUgIJ1bDGCm5c7QL36L5Qn7g2ng==\n";

#[tokio::test]
async fn who_is_removed_while_the_password_is_judged_does_not_come_in() -> Result<()> {
    let world = world(
        &[("users", &format!("{MADE_BY_MOSQUITTO}{SLOW}"))],
        "[auth]\npassword_file = 'FILES/users'\n[limits]\nconnect_timeout = '60s'\n",
    )?;
    let mut slow = Client::open(world.broker.mqtt_addr()).await?;
    slow.send_connect(ConnectOptions::v5("c-1").credentials("slow", b"secret-s"))
        .await?;
    tokio::time::sleep(MOMENT).await;
    world.write("users", MADE_BY_MOSQUITTO)?;
    world.reloaded().await?;
    let connack = slow.expect_connack().await?;
    ensure!(connack.reason_code == ReasonCode::NotAuthorized, "{connack:?}");
    slow.expect_closed().await
}

#[tokio::test]
async fn new_rules_hold_for_the_next_publish_of_those_who_stay() -> Result<()> {
    let world = with_rules("allow all #\n")?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let allowed = anna.publish(Message::new("b", "1").qos(1)).await?;
    ensure!((allowed as u8) < 0x80, "{allowed:?}");
    world.write("rules", "allow all a\n")?;
    world.reloaded().await?;
    let denied = anna.publish(Message::new("b", "2").qos(1)).await?;
    ensure!(denied == ReasonCode::NotAuthorized, "{denied:?}");
    Ok(())
}

#[tokio::test]
async fn a_will_that_is_not_allowed_any_more_is_not_published() -> Result<()> {
    let world = with_rules("allow all #\n")?;
    let mut watcher = world.client(CARL, ConnectOptions::v5("watcher")).await?;
    ensure!(watcher.subscribe("wills/#", 1).await? == ReasonCode::GrantedQoS1);
    let will = Message::new("wills/c-1", "gone").qos(1);
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1").will(will)).await?;
    world.write("rules", "allow subscribe wills/# user=carl\n")?;
    world.reloaded().await?;
    anna.expect_disconnect(ReasonCode::NotAuthorized).await?;
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_will_that_fires_late_is_judged_by_the_rules_of_that_time() -> Result<()> {
    let world = with_rules("allow all #\n")?;
    let mut watcher = world.client(CARL, ConnectOptions::v5("watcher")).await?;
    ensure!(watcher.subscribe("wills/#", 1).await? == ReasonCode::GrantedQoS1);
    for (user, client_id) in [(ANNA, "c-1"), (CARL, "c-2")] {
        let will = Message::new(&format!("wills/{client_id}"), "gone").qos(1);
        let session = ConnectOptions::v5(client_id).persistent().delayed_will(will, 6);
        let client = world.client(user, session).await?;
        // Lost, not closed: the will waits.
        drop(client);
    }
    world.write("rules", "allow all wills/# user=carl\n")?;
    world.reloaded().await?;
    // Both were to fire in the same second; the one that does shows that the other had its time.
    ensure!(watcher.receive().await?.publication.topic().as_str() == "wills/c-2");
    let denied = async || {
        world
            .counter("flotilla_access_denied_total{action=\"will\"}")
            .is_ok_and(|count| count == 1)
    };
    wait_for(denied, LIMIT).await?;
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_will_is_judged_by_all_that_was_known_of_its_client_also_after_a_restart() -> Result<()> {
    let config =
        "[auth]\njwt_keys = ['FILES/key']\njwt_algorithms = ['HS256']\n[access]\nrules = 'FILES/rules'\n";
    let mut world = world(&[("key", SECRET), ("rules", "allow all #\n")], config)?;
    let by_site = |site: u32| token(&format!(r#""sub":"anna","site":{site}"#), 3600);
    let will = |name: &str| Message::new(&format!("wills/{name}"), "gone").qos(1).retain();
    for (name, site, options) in [
        ("c-7", 7, ConnectOptions::v5("c-7").persistent()),
        ("c-8", 8, ConnectOptions::v5("c-8").persistent()),
        // Its session ends with its will, and cannot be asked.
        ("c-9", 8, ConnectOptions::v5("c-9").session_expiry(6)),
    ] {
        let options = options.delayed_will(will(name), 6);
        drop(world.client(("", &by_site(site)), options).await?);
    }
    world.write(
        "rules",
        "deny publish wills/# claim.site=8\nallow publish wills/# address=127.0.0.0/8\nallow subscribe wills/#\n",
    )?;
    world.broker.restart()?;
    let denied = async || {
        world
            .counter("flotilla_access_denied_total{action=\"will\"}")
            .is_ok_and(|count| count == 2)
    };
    wait_for(denied, 2 * LIMIT).await?;
    let words = ["action=\"will\"", "address=127.0.0.1"];
    ensure!(
        is_audited(&world.broker.log(), "denied", &words),
        "{}",
        world.broker.log()
    );
    let mut watcher = world
        .client(("", &by_site(7)), ConnectOptions::v5("watcher"))
        .await?;
    ensure!(watcher.subscribe("wills/#", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(watcher.receive().await?.publication.topic().as_str() == "wills/c-7");
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn users_who_are_removed_or_have_another_password_are_disconnected() -> Result<()> {
    let world = with_users()?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let mut carl = world.client(CARL, ConnectOptions::v5("c-2")).await?;
    let users = world.files.path().join("users");
    passwd(&users, "carl", "another", &[])?;
    world.reloaded().await?;
    carl.expect_disconnect(ReasonCode::NotAuthorized).await?;
    anna.ping().await?;
    passwd(&users, "anna", "", &["--delete"])?;
    world.reloaded().await?;
    anna.expect_disconnect(ReasonCode::NotAuthorized).await?;
    world
        .client(("carl", "another"), ConnectOptions::v5("c-2"))
        .await?;
    let gone = ConnectOptions::v5("c-1").credentials(ANNA.0, ANNA.1.as_bytes());
    ensure!(world.refusal(gone).await? == ReasonCode::BadUserNameOrPassword);
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_be_read_leaves_all_as_it_was() -> Result<()> {
    let world = with_rules("allow all a/#\n")?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    ensure!(anna.subscribe("a/#", 1).await? == ReasonCode::GrantedQoS1);
    world.write("rules", "alow all b/#\n")?;
    world.write("users", "")?;
    world.reload("reload failed").await?;
    anna.ping().await?;
    world.client(CARL, ConnectOptions::v5("c-2")).await?;
    ensure!(world.counter("flotilla_config_reload_total{result=\"failed\"}")? == 1);
    Ok(())
}

#[tokio::test]
async fn rules_that_change_take_effect_without_being_asked_for() -> Result<()> {
    let world = with_rules("allow all #\n")?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let mut carl = world.client(CARL, ConnectOptions::v5("c-2")).await?;
    ensure!(anna.subscribe("a/#", 1).await? == ReasonCode::GrantedQoS1);
    world.write("rules", "allow all # user=carl\n")?;
    anna.expect_disconnect(ReasonCode::NotAuthorized).await?;
    carl.ping().await
}
