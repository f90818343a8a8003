//! No password, token or payload in any log: they are planted everywhere, and the log of a talkative broker is searched.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use harness::{BrokerOptions, Client, ConnectOptions, Message};
use mqtt_codec::ReasonCode;

use crate::common::*;
use crate::leaks::ensure_none;
use crate::tokens::{SECRET, token};

/// With signs that are written in other ways where text is quoted.
const PASSWORD: &str = "planted\"pass\\word\"4711";
const WRONG: &str = "planted-wrong-password-4711";
const PAYLOAD: &str = "planted-payload-4711";
const WILL: &str = "planted-will-4711";
const RETAINED: &str = "planted-retained-4711";

#[tokio::test]
async fn no_secret_and_no_payload_is_in_the_log_of_a_broker_that_says_all_it_can() -> Result<()> {
    let files = tempfile::tempdir()?;
    let users = files.path().join("users");
    passwd(&users, "anna", PASSWORD, &["--scram"])?;
    std::fs::write(files.path().join("key"), SECRET)?;
    std::fs::write(files.path().join("rules"), "allow all a/#\n")?;
    let config = "\
[auth]
password_file = 'FILES/users'
jwt_keys = ['FILES/key']
jwt_algorithms = ['HS256']
[access]
rules = 'FILES/rules'
";
    let hashes = std::fs::read_to_string(&users)?;
    let options = BrokerOptions {
        env: vec![("FLOTILLA__LOG__LEVEL".into(), "trace".into())],
        ..BrokerOptions::default()
    };
    let world = start(files, config, options)?;
    let (good, forged) = (
        token(r#""sub":"bob""#, 3600),
        token(r#""sub":"bob""#, 3600) + "AAAA",
    );

    let will = || Message::new("a/will", WILL).qos(1);
    let mut anna = world
        .client(
            ("anna", PASSWORD),
            ConnectOptions::v5("c-1").persistent().will(will()),
        )
        .await?;
    ensure!(anna.subscribe("a/#", 2).await? == ReasonCode::GrantedQoS2);
    for qos in [0, 1, 2] {
        anna.publish(Message::new("a/1", PAYLOAD).qos(qos)).await?;
        anna.receive().await?;
        anna.publish(Message::new("b/denied", PAYLOAD).qos(qos)).await?;
    }
    anna.publish(Message::new("a/2", RETAINED).qos(1).retain())
        .await?;
    anna.receive().await?;
    let mut bob = world
        .client(("", &good), ConnectOptions::v311("c-2").will(will()))
        .await?;
    bob.subscribe("a/2", 1).await?;
    bob.receive().await?;
    for password in [WRONG, &forged] {
        for user in ["anna", "nobody"] {
            let refused = world
                .refusal(ConnectOptions::v5("c-3").credentials(user, password.as_bytes()))
                .await?;
            ensure!(refused == ReasonCode::BadUserNameOrPassword, "{refused:?}");
        }
    }
    // A packet that breaks the protocol, with a secret in it, and a connection that is lost.
    anna.send_raw(&[&[0x36, 8][..], b"planted-"].concat()).await?;
    anna.drain_until_closed().await?;
    drop(bob);
    world.write("users", &format!("anna:{PASSWORD}\n"))?;
    world.broker.reload()?;
    let failed = async || world.broker.log().contains("reload failed");
    harness::wait_for(failed, std::time::Duration::from_secs(10)).await?;

    let log = world.broker.log();
    ensure!(
        log.contains("event=\"login\"") && log.contains("event=\"denied\""),
        "the log is not what it should be"
    );
    let mut planted: Vec<String> = [PASSWORD, WRONG, PAYLOAD, WILL, RETAINED, SECRET, &good, &forged]
        .map(str::to_owned)
        .to_vec();
    planted.extend(
        hashes
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.1.to_owned())),
    );
    ensure_none(&log, &planted)
}

#[tokio::test]
async fn other_users_of_the_machine_cannot_look_into_the_data() -> Result<()> {
    let files = tempfile::tempdir()?;
    let data = files.path().join("data");
    // As an older version, or somebody else, may have made it.
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, Permissions::from_mode(0o755))?;
    let options = BrokerOptions {
        data_dir: Some(data.clone()),
        ..BrokerOptions::default()
    };
    let world = start(files, "", options)?;
    let mut client = Client::connect(world.broker.mqtt_addr(), ConnectOptions::v5("c-1")).await?;
    client.publish(Message::new("a", PAYLOAD).qos(1).retain()).await?;
    let mode = |path: &Path| anyhow::Ok(path.metadata()?.permissions().mode() & 0o777);
    ensure!(mode(&data)? == 0o750, "{:o}", mode(&data)?);
    for entry in std::fs::read_dir(&data)? {
        let path = entry?.path();
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        let mode = mode(&path)?;
        ensure!(mode == expected, "{}: {mode:o}", path.display());
    }
    Ok(())
}
