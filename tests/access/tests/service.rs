//! A service that is asked over HTTPS, and one that publishes keys.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{BrokerOptions, Certificate, ConnectOptions, wait_for};
use mqtt_codec::ReasonCode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::common::*;
use crate::tokens::{SECRET, signed};

const PLANTED: &str = "password-that-no-log-shows";

/// Serves HTTPS on localhost by this certificate until the test ends; answers with its port.
async fn service(certificate: &Certificate) -> Result<u16> {
    service_that(certificate, answer).await
}

/// The same with answers of one's own.
pub(crate) async fn service_that(certificate: &Certificate, answer: fn(&str) -> String) -> Result<u16> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&certificate.chain_path)?],
            PrivateKeyDer::from_pem_file(&certificate.key_path)?,
        )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let port = socket.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(serve(acceptor.clone(), stream, answer));
        }
    });
    Ok(port)
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, answer: fn(&str) -> String) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut input = Vec::new();
    // Each question has a connection of its own, and ends with its head or its document.
    let is_whole = |input: &[u8]| match input.starts_with(b"GET") {
        true => input.ends_with(b"\r\n\r\n"),
        false => input.ends_with(b"}"),
    };
    while !is_whole(&input) {
        ensure!(stream.read_buf(&mut input).await? > 0, "the question ended early");
    }
    let answer = answer(&String::from_utf8(input)?);
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

fn answer(request: &str) -> String {
    let keys = format!(
        r#"{{"keys":[{{"kty":"oct","kid":"one","k":"{}"}}]}}"#,
        URL_SAFE_NO_PAD.encode(SECRET)
    );
    let answer = match () {
        () if request.starts_with("GET /keys ") => keys.as_str(),
        () if !request.starts_with("POST /who ") => "{}",
        () if request.contains(r#""user":"anna""#) && request.contains(PLANTED) => {
            r#"{"result":"allow","groups":["staff"],"claims":{"site":7}}"#
        }
        () => r#"{"result":"deny"}"#,
    };
    answer.to_owned()
}

async fn with_service(config: &str) -> Result<World> {
    let files = TempDir::with_prefix("flotilla-access-")?;
    let certificate = Certificate::create(files.path())?;
    let port = service(&certificate).await?;
    start(
        files,
        &config.replace("PORT", &port.to_string()),
        BrokerOptions::default(),
    )
}

#[tokio::test]
async fn a_service_says_who_comes_in_and_what_rules_know_of_them() -> Result<()> {
    let config = "[auth.http]\nurl = 'https://localhost:PORT/who'\nca = 'FILES/cert.pem'\n\
                  [access]\nrules = 'FILES/rules'\n[log]\nlevel = 'trace'\n";
    let files = TempDir::with_prefix("flotilla-access-")?;
    let certificate = Certificate::create(files.path())?;
    std::fs::write(
        files.path().join("rules"),
        "allow all sites/${claim.site}/# group=staff\n",
    )?;
    let port = service(&certificate).await?;
    let world = start(
        files,
        &config.replace("PORT", &port.to_string()),
        BrokerOptions::default(),
    )?;

    let mut anna = world.client(("anna", PLANTED), ConnectOptions::v5("c-1")).await?;
    ensure!(anna.subscribe("sites/7/#", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(anna.subscribe("sites/8/#", 1).await? == ReasonCode::NotAuthorized);
    let eve = ConnectOptions::v5("c-2").credentials("eve", PLANTED.as_bytes());
    ensure!(world.refusal(eve).await? == ReasonCode::BadUserNameOrPassword);

    // An operator sees what was refused, and why.
    let refusals = world.broker.admin_get("/api/v1/refusals?client=c-1")?;
    for part in [
        r#""action":"subscribe""#,
        r#""topic":"sites/8/#""#,
        r#""reason":"no rule allows it""#,
    ] {
        ensure!(refusals.contains(part), "{part}: {refusals}");
    }
    let refusals = world.broker.admin_get("/api/v1/refusals?user=eve")?;
    for part in [
        r#""action":"connect""#,
        r#""client_id":"c-2""#,
        r#""reason_code":134"#,
        "user name or password is wrong",
    ] {
        ensure!(refusals.contains(part), "{part}: {refusals}");
    }
    ensure!(!world.broker.log().contains(PLANTED), "the log shows a password");
    ensure!(!world.broker.admin_get("/api/v1/refusals")?.contains(PLANTED));
    ensure!(world.counter("flotilla_auth_total{backend=\"http\",result=\"allow\"}")? == 1);
    ensure!(world.counter("flotilla_auth_total{backend=\"http\",result=\"deny\"}")? == 1);
    Ok(())
}

#[tokio::test]
async fn tokens_are_judged_by_keys_that_their_issuer_publishes() -> Result<()> {
    let world = with_service(
        "[auth]\njwt_keys_url = 'https://localhost:PORT/keys'\njwt_keys_ca = 'FILES/cert.pem'\njwt_algorithms = ['HS256']\n",
    )
    .await?;
    let claims = r#"{"sub":"anna","exp":99999999999}"#;
    let good = signed(r#"{"alg":"HS256","kid":"one"}"#, claims, SECRET);
    world.client(("", &good), ConnectOptions::v5("c-1")).await?;
    let unknown = signed(r#"{"alg":"HS256","kid":"two"}"#, claims, SECRET);
    let unknown = ConnectOptions::v5("c-2").credentials("", unknown.as_bytes());
    ensure!(world.refusal(unknown).await? == ReasonCode::BadUserNameOrPassword);
    ensure!(world.counter("flotilla_jwt_key_fetches_total{result=\"done\"}")? == 1);
    Ok(())
}

#[tokio::test]
async fn a_service_with_a_certificate_of_somebody_else_is_not_believed() -> Result<()> {
    let files = TempDir::with_prefix("flotilla-access-")?;
    let other = TempDir::with_prefix("flotilla-access-")?;
    Certificate::create(files.path())?;
    let port = service(&Certificate::create(other.path())?).await?;
    let config = format!(
        "[auth.http]\nurl = 'https://localhost:{port}/who'\nca = 'FILES/cert.pem'\nfailures_max = 1\n"
    );
    let world = start(files, &config, BrokerOptions::default())?;
    let anna = ConnectOptions::v5("c-1").credentials("anna", PLANTED.as_bytes());
    ensure!(world.refusal(anna).await? == ReasonCode::ServerUnavailable);
    let says = "the service of auth.http fails";
    wait_for(
        async || world.broker.log().contains(says),
        std::time::Duration::from_secs(10),
    )
    .await
    .context("the log says so")
}
