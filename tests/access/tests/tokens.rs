//! JSON Web Tokens in place of passwords.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{ConnectOptions, Message};
use mqtt_codec::ReasonCode;

use crate::common::*;

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
const CONFIG: &str = "\
[auth]
jwt_keys = ['FILES/key']
jwt_algorithms = ['HS256']
jwt_leeway = '0s'
[access]
rules = 'FILES/rules'
";
const RULES: &str = "\
allow all sites/${claim.site}/# group=staff
allow publish reports/${user}
";

pub(crate) fn signed(header: &str, claims: &str, secret: &str) -> String {
    let part = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(header.as_bytes()), part(claims.as_bytes()));
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
        message.as_bytes(),
    );
    format!("{message}.{}", part(tag.as_ref()))
}

/// Good for so many seconds from now.
pub(crate) fn token(claims: &str, seconds: u64) -> String {
    #[allow(clippy::disallowed_methods, reason = "tokens carry the time of the wall")]
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let claims = format!("{{{claims},\"exp\":{}}}", now + seconds);
    signed(r#"{"alg":"HS256"}"#, &claims, SECRET)
}

fn tokens() -> Result<World> {
    world(&[("key", SECRET), ("rules", RULES)], CONFIG)
}

#[tokio::test]
async fn a_token_tells_user_groups_and_claims() -> Result<()> {
    let world = tokens()?;
    let good = token(r#""sub":"anna","groups":["staff"],"site":7"#, 3600);
    // The name sent along means nothing.
    let mut anna = world.client(("unused", &good), ConnectOptions::v5("c-1")).await?;
    ensure!(anna.subscribe("sites/7/#", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(anna.subscribe("sites/8/#", 1).await? == ReasonCode::NotAuthorized);
    let report = anna.publish(Message::new("reports/anna", "x").qos(1)).await?;
    ensure!((report as u8) < 0x80, "{report:?}");
    let report = anna.publish(Message::new("reports/unused", "x").qos(1)).await?;
    ensure!(report == ReasonCode::NotAuthorized, "{report:?}");
    let outsider = token(r#""sub":"bob","site":7"#, 3600);
    let mut bob = world.client(("", &outsider), ConnectOptions::v311("c-2")).await?;
    ensure!(bob.subscribe("sites/7/#", 1).await? as u8 == 0x80);
    Ok(())
}

#[tokio::test]
async fn tokens_that_are_forged_or_over_are_refused() -> Result<()> {
    let world = tokens()?;
    let claims = r#"{"sub":"anna","exp":99999999999}"#;
    for wrong in [
        signed(
            r#"{"alg":"HS256"}"#,
            claims,
            "another secret, just as long as that",
        ),
        signed(r#"{"alg":"none"}"#, claims, SECRET),
        signed(r#"{"alg":"HS256"}"#, r#"{"sub":"anna"}"#, SECRET),
        signed(r#"{"alg":"HS256"}"#, r#"{"sub":"anna","exp":1000}"#, SECRET),
        "not a token".to_owned(),
    ] {
        let refused = world
            .refusal(ConnectOptions::v5("c").credentials("anna", wrong.as_bytes()))
            .await?;
        ensure!(
            refused == ReasonCode::BadUserNameOrPassword,
            "{wrong}: {refused:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_ends_with_its_token() -> Result<()> {
    let world = tokens()?;
    let mut anna = world
        .client(("", &token(r#""sub":"anna""#, 2)), ConnectOptions::v5("c-1"))
        .await?;
    let mut bob = world
        .client(("", &token(r#""sub":"bob""#, 3600)), ConnectOptions::v5("c-2"))
        .await?;
    anna.expect_disconnect(ReasonCode::MaximumConnectTime).await?;
    bob.ping().await?;
    ensure!(world.counter("flotilla_connections_closed_total{reason=\"credentials_expired\"}")? == 1);
    Ok(())
}
