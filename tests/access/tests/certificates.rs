//! Client certificates on a TLS listener.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::{BrokerOptions, Certificate, Client, ConnectOptions, Message};
use mqtt_codec::ReasonCode;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::common::*;

/// A listener for devices by TLS, with certificates of clients.
fn listener(server: &Certificate) -> String {
    format!(
        "[[listeners]]\nname = 'devices'\nprotocol = 'tls'\nbind = '127.0.0.1:0'\nclient_ca = 'FILES/ca.pem'\n\
         cert = '{}'\nkey = '{}'\n",
        server.chain_path.display(),
        server.key_path.display()
    )
}

const RULES: &str = "\
allow all devices/${cn}/#
allow subscribe alarms/# dns=device-7.example
";

pub(crate) fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "clients");
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// A client's certificate and key.
fn client(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Result<(String, String)> {
    numbered(authority, name, 1)
}

/// The same, with a serial number.
pub(crate) fn numbered(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    serial: u64,
) -> Result<(String, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.serial_number = Some(SerialNumber::from(serial));
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .subject_alt_names
        .push(SanType::DnsName(format!("{name}.example").try_into()?));
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}

/// Connects with TLS; without a certificate, or with the one given.
async fn over_tls(world: &World, server: &Path, own: Option<&(String, String)>) -> Result<Client> {
    over(world, tls_config(server, own)?).await
}

/// What a client needs for TLS; who uses it again may resume a session.
pub(crate) fn tls_config(server: &Path, own: Option<&(String, String)>) -> Result<Arc<rustls::ClientConfig>> {
    tls_config_of(rustls::DEFAULT_VERSIONS, server, own)
}

/// The same, of these versions alone.
fn tls_config_of(
    versions: &[&'static rustls::SupportedProtocolVersion],
    server: &Path,
    own: Option<&(String, String)>,
) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    Ok(Arc::new(config))
}

pub(crate) async fn over(world: &World, config: Arc<rustls::ClientConfig>) -> Result<Client> {
    let stream = TcpStream::connect(world.broker.address("devices")).await?;
    let connector = TlsConnector::from(config);
    let stream = connector
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    Ok(Client::on(stream))
}

#[tokio::test]
async fn a_certificate_is_the_user_it_names_and_its_names_are_in_the_rules() -> Result<()> {
    let files = tempfile::tempdir()?;
    let authority = authority()?;
    std::fs::write(files.path().join("ca.pem"), authority.pem())?;
    std::fs::write(files.path().join("rules"), RULES)?;
    let server = Certificate::create(files.path())?;
    let config = listener(&server) + "[auth]\nclient_ids = 'user'\n[access]\nrules = 'FILES/rules'\n";
    let world = start(files, &config, BrokerOptions::default())?;

    let device_7 = client(&authority, "device-7")?;
    let mut seven = over_tls(&world, &server.chain_path, Some(&device_7)).await?;
    seven.handshake(ConnectOptions::v5("device-7")).await?;
    ensure!(seven.subscribe("devices/device-7/#", 1).await? == ReasonCode::GrantedQoS1);
    ensure!(seven.subscribe("devices/device-8/#", 1).await? == ReasonCode::NotAuthorized);
    ensure!(seven.subscribe("alarms/#", 1).await? == ReasonCode::GrantedQoS1);

    let device_8 = client(&authority, "device-8")?;
    let mut eight = over_tls(&world, &server.chain_path, Some(&device_8)).await?;
    eight.send_connect(ConnectOptions::v5("device-7")).await?;
    let refused = eight.expect_connack().await?.reason_code;
    ensure!(refused == ReasonCode::ClientIdentifierNotValid, "{refused:?}");
    seven.ping().await?;
    let mut eight = over_tls(&world, &server.chain_path, Some(&device_8)).await?;
    eight.handshake(ConnectOptions::v5("device-8")).await?;
    ensure!(eight.subscribe("alarms/#", 1).await? == ReasonCode::NotAuthorized);

    let stranger = client(&self::authority()?, "device-7")?;
    for own in [None, Some(&stranger)] {
        let connected = async {
            let mut client = over_tls(&world, &server.chain_path, own).await?;
            client
                .handshake(ConnectOptions::v5("device-7"))
                .await
                .context("handshake")
        };
        ensure!(
            connected.await.is_err(),
            "somebody without a certificate of ours came in"
        );
    }
    seven.ping().await
}

#[tokio::test]
async fn a_certificate_that_is_swapped_is_shown_to_who_comes_and_a_bad_pair_is_refused() -> Result<()> {
    let files = tempfile::tempdir()?;
    let folder = files.path().to_owned();
    let server = Certificate::create(&folder)?;
    let config = format!(
        "[node]\nwatch_files = '0s'\n[[listeners]]\nname = 'devices'\nprotocol = 'tls'\nbind = '127.0.0.1:0'\n\
         allow_anonymous = true\ncert = '{}'\nkey = '{}'\n",
        server.chain_path.display(),
        server.key_path.display()
    );
    let world = start(files, &config, BrokerOptions::default())?;
    let kept = folder.join("kept.pem");
    std::fs::copy(&server.chain_path, &kept)?;
    let mut first = over_tls(&world, &kept, None).await?;
    first.handshake(ConnectOptions::v5("first")).await?;

    // The key of another certificate comes first: the pair does not fit, and what is in use stays.
    let others = tempfile::tempdir()?;
    let renewed = Certificate::create(others.path())?;
    std::fs::copy(&renewed.key_path, &server.key_path)?;
    world.reload("reload failed").await?;
    ensure!(world.counter("flotilla_config_reload_total{result=\"failed\"}")? == 1);
    over_tls(&world, &kept, None)
        .await?
        .handshake(ConnectOptions::v5("second"))
        .await?;

    std::fs::copy(&renewed.chain_path, &server.chain_path)?;
    world.reloaded().await?;
    over_tls(&world, &renewed.chain_path, None)
        .await?
        .handshake(ConnectOptions::v5("third"))
        .await?;
    ensure!(
        over_tls(&world, &kept, None).await.is_err(),
        "the old certificate is still shown"
    );
    first.ping().await?;
    ensure!(world.counter("flotilla_config_last_reload_successful")? == 1);
    let ends = world.counter("flotilla_certificate_not_after_timestamp_seconds{listener=\"devices\"}")?;
    ensure!(ends > 1_700_000_000, "{ends}");
    Ok(())
}

#[tokio::test]
async fn clients_that_know_no_more_than_tls_1_2_come_in_with_their_certificates() -> Result<()> {
    let files = tempfile::tempdir()?;
    let authority = authority()?;
    std::fs::write(files.path().join("ca.pem"), authority.pem())?;
    let server = Certificate::create(files.path())?;
    let config = listener(&server) + "[auth]\nclient_ids = 'user'\n";
    let world = start(files, &config, BrokerOptions::default())?;
    let own = client(&authority, "device-7")?;
    for (version, expected) in [
        (&rustls::version::TLS12, rustls::ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        let config = tls_config_of(&[version], &server.chain_path, Some(&own))?;
        let stream = TcpStream::connect(world.broker.address("devices")).await?;
        let connector = TlsConnector::from(config);
        let stream = connector
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        let spoken = stream.get_ref().1.protocol_version();
        ensure!(spoken == Some(expected), "{spoken:?}");
        let mut device = Client::on(stream);
        // The certificate says who it is.
        device.handshake(ConnectOptions::v5("device-7")).await?;
        device.subscribe("a", 1).await?;
        device
            .publish(Message::new("a", vec![b'x'; 100_000]).qos(1))
            .await?;
        let payload = device.receive().await?.publication.payload();
        ensure!(payload.len() == 100_000, "{} bytes", payload.len());
        device.disconnect().await?;

        let nobody = tls_config_of(&[version], &server.chain_path, None)?;
        let connected = async {
            let mut client = over(&world, nobody).await?;
            client.handshake(ConnectOptions::v5("device-7")).await
        };
        ensure!(
            connected.await.is_err(),
            "{expected:?}: came in without a certificate"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_refused_and_no_session_is_resumed_without_one() -> Result<()> {
    let files = tempfile::tempdir()?;
    let authority = authority()?;
    std::fs::write(files.path().join("ca.pem"), authority.pem())?;
    let server = Certificate::create(files.path())?;
    let world = start(files, &listener(&server), BrokerOptions::default())?;
    #[allow(clippy::disallowed_methods, reason = "certificates end by the wall clock")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let ends = Duration::from_secs(6);
    let has_ended = Instant::now() + ends + Duration::from_secs(1);
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "device-7");
    params.not_after = date_time_ymd(1970, 1, 1) + now + ends;
    let key = KeyPair::generate()?;
    let own = (params.signed_by(&key, &authority)?.pem(), key.serialize_pem());
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    // Each keeps what it could resume a session with.
    let configs = versions.map(|version| tls_config_of(&[version], &server.chain_path, Some(&own)));
    let connected = async |config: &Arc<rustls::ClientConfig>| {
        let stream = TcpStream::connect(world.broker.address("devices")).await?;
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        let kind = stream.get_ref().1.handshake_kind();
        let mut client = Client::on(stream);
        client.handshake(ConnectOptions::v5("c-1")).await?;
        client.disconnect().await?;
        anyhow::Ok(kind)
    };
    for config in &configs {
        let config = config.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
        for _ in 0..2 {
            let kind = connected(config).await?;
            ensure!(kind == Some(rustls::HandshakeKind::Full), "{kind:?}");
        }
    }
    tokio::time::sleep_until(has_ended).await;
    for config in configs {
        let kind = connected(&config?).await;
        ensure!(
            kind.is_err(),
            "came in with a certificate that has ended: {kind:?}"
        );
    }
    let refusals = world.broker.admin_get("/api/v1/refusals")?;
    ensure!(refusals.contains("expired"), "{refusals}");
    Ok(())
}

/// A broker where a certificate gives the client id by one of its names.
fn bound_by(source: &str) -> Result<(World, CertifiedIssuer<'static, KeyPair>, Certificate)> {
    let files = tempfile::tempdir()?;
    let authority = authority()?;
    std::fs::write(files.path().join("ca.pem"), authority.pem())?;
    let server = Certificate::create(files.path())?;
    let config = listener(&server) + &format!("[auth]\ncertificate_client_id = '{source}'\n");
    let world = start(files, &config, BrokerOptions::default())?;
    Ok((world, authority, server))
}

#[tokio::test]
async fn a_certificate_gives_the_client_id_and_nobody_comes_in_with_anothers() -> Result<()> {
    let (world, authority, server) = bound_by("common-name")?;
    let seven = client(&authority, "device-7")?;
    let eight = client(&authority, "device-8")?;
    let over_tls = async |own: &(String, String)| over_tls(&world, &server.chain_path, Some(own)).await;

    let mut first = over_tls(&seven).await?;
    let connack = first.handshake(ConnectOptions::v5("device-7")).await?;
    ensure!(connack.properties.assigned_client_identifier.is_none());
    for options in [ConnectOptions::v5("device-7"), ConnectOptions::v311("device-7")] {
        let mut other = over_tls(&eight).await?;
        other.send_connect(options).await?;
        let refused = other.expect_connack().await?.reason_code;
        // In the words of the version.
        let expected = [ReasonCode::ClientIdentifierNotValid as u8, 2];
        ensure!(expected.contains(&(refused as u8)), "{refused:?}");
    }
    first.ping().await?;

    // Who says none has this one, and is told so.
    let mut nameless = over_tls(&eight).await?;
    let connack = nameless.handshake(ConnectOptions::v5("")).await?;
    let assigned = connack.properties.assigned_client_identifier;
    ensure!(assigned.as_deref() == Some("device-8"), "{assigned:?}");
    let mut older = over_tls(&eight).await?;
    older.handshake(ConnectOptions::v311("")).await?;
    nameless.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    older.ping().await?;
    world
        .broker
        .wait_audited("login refused", &["device-7", "ClientIdentifierNotValid"])
        .await
}

#[tokio::test]
async fn any_name_of_a_certificate_can_be_the_client_id_and_without_it_nobody_comes_in() -> Result<()> {
    for (source, expected) in [("dns", Some("device-7.example")), ("fingerprint", None)] {
        let (world, authority, server) = bound_by(source)?;
        let own = client(&authority, "device-7")?;
        let mut nameless = over_tls(&world, &server.chain_path, Some(&own)).await?;
        let connack = nameless.handshake(ConnectOptions::v5("")).await?;
        let assigned = connack.properties.assigned_client_identifier.unwrap_or_default();
        let is_right = match expected {
            Some(name) => assigned == name,
            None => assigned.len() == 64 && assigned.chars().all(|digit| digit.is_ascii_hexdigit()),
        };
        ensure!(is_right, "{source}: {assigned}");
        let mut again = over_tls(&world, &server.chain_path, Some(&own)).await?;
        again.handshake(ConnectOptions::v5(&*assigned)).await?;
        nameless.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    }
    let (world, authority, server) = bound_by("uri")?;
    let own = client(&authority, "device-7")?;
    for client_id in ["", "device-7"] {
        let mut without = over_tls(&world, &server.chain_path, Some(&own)).await?;
        without.send_connect(ConnectOptions::v5(client_id)).await?;
        let refused = without.expect_connack().await?.reason_code;
        ensure!(refused == ReasonCode::ClientIdentifierNotValid, "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn where_certificates_are_optional_who_has_none_logs_in_and_a_bad_one_is_refused() -> Result<()> {
    let files = tempfile::tempdir()?;
    let authority = authority()?;
    std::fs::write(files.path().join("ca.pem"), authority.pem())?;
    std::fs::write(files.path().join("users"), MADE_BY_MOSQUITTO)?;
    std::fs::write(
        files.path().join("rules"),
        "allow all devices/# cn=device-7\nallow all people/# user=anna\n",
    )?;
    let server = Certificate::create(files.path())?;
    let config = listener(&server)
        + "client_certificate = 'optional'\n[auth]\npassword_file = 'FILES/users'\n\
           certificate_client_id = 'common-name'\n[access]\nrules = 'FILES/rules'\n";
    let world = start(files, &config, BrokerOptions::default())?;
    let own = client(&authority, "device-7")?;
    let stranger = client(&self::authority()?, "device-7")?;
    let login = |(user, password): (&str, &str)| {
        ConnectOptions::v5("people-1").credentials(user, password.as_bytes())
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = |own| tls_config_of(&[version], &server.chain_path, own);

        let mut device = over(&world, tls(Some(&own))?).await?;
        device.handshake(ConnectOptions::v5("device-7")).await?;
        ensure!(device.subscribe("devices/#", 1).await? == ReasonCode::GrantedQoS1);
        ensure!(device.subscribe("people/#", 1).await? == ReasonCode::NotAuthorized);

        let mut anna = over(&world, tls(None)?).await?;
        anna.handshake(login(ANNA)).await?;
        ensure!(anna.subscribe("people/#", 1).await? == ReasonCode::GrantedQoS1);
        ensure!(anna.subscribe("devices/#", 1).await? == ReasonCode::NotAuthorized);

        for (options, expected) in [
            (ConnectOptions::v5("people-2"), ReasonCode::NotAuthorized),
            (login(("anna", "wrong")), ReasonCode::BadUserNameOrPassword),
        ] {
            let mut nobody = over(&world, tls(None)?).await?;
            nobody.send_connect(options).await?;
            let refused = nobody.expect_connack().await?.reason_code;
            ensure!(refused == expected, "{refused:?}");
        }
        let connected = async {
            let mut client = over(&world, tls(Some(&stranger))?).await?;
            client.handshake(login(ANNA)).await
        };
        ensure!(
            connected.await.is_err(),
            "a certificate of somebody else's was overlooked"
        );
        device.ping().await?;
        anna.ping().await?;
    }
    Ok(())
}
