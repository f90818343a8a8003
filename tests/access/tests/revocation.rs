//! Client certificates that are taken back.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{BrokerOptions, Certificate, Client, ConnectOptions};
use rcgen::{
    CertificateRevocationListParams, CertifiedIssuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::ClientConfig;

use crate::certificates::{authority, numbered, over, tls_config};
use crate::common::*;

/// A list of the certificates with these serial numbers, good until the end of a year.
fn list(authority: &CertifiedIssuer<'static, KeyPair>, revoked: &[u64], year: i32) -> Result<String> {
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(year, 12, 31),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(authority)?.pem()?)
}

struct Fleet {
    world: World,
    authority: CertifiedIssuer<'static, KeyPair>,
    server: PathBuf,
}

impl Fleet {
    /// A listener that asks for certificates, and a list with one of them.
    fn start(revoked: &[u64]) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let authority = authority()?;
        std::fs::write(files.path().join("ca.pem"), authority.pem())?;
        std::fs::write(files.path().join("crl.pem"), list(&authority, revoked, 2124)?)?;
        let server = Certificate::create(files.path())?;
        let config = format!(
            "[[listeners]]\nname = 'devices'\nprotocol = 'tls'\nbind = '127.0.0.1:0'\nclient_ca = 'FILES/ca.pem'\n\
             client_crl = 'FILES/crl.pem'\ncert = '{}'\nkey = '{}'\n",
            server.chain_path.display(),
            server.key_path.display()
        );
        Ok(Self {
            world: start(files, &config, BrokerOptions::default())?,
            authority,
            server: server.chain_path,
        })
    }

    fn device(&self, number: u64) -> Result<Arc<ClientConfig>> {
        let own = numbered(&self.authority, &format!("device-{number}"), number)?;
        tls_config(&self.server, Some(&own))
    }

    async fn connect(&self, config: &Arc<ClientConfig>, client_id: &str) -> Result<Client> {
        let mut client = over(&self.world, Arc::clone(config)).await?;
        client
            .handshake(ConnectOptions::v5(client_id))
            .await
            .context("handshake")?;
        Ok(client)
    }

    fn refusals(&self) -> Result<String> {
        self.world.broker.admin_get("/api/v1/refusals")
    }
}

#[tokio::test]
async fn a_certificate_on_the_list_is_refused_and_a_new_list_holds_from_the_reload_on() -> Result<()> {
    let fleet = Fleet::start(&[8])?;
    let (seven, eight) = (fleet.device(7)?, fleet.device(8)?);
    let mut connected = fleet.connect(&seven, "c-7").await?;
    ensure!(
        fleet.connect(&eight, "c-8").await.is_err(),
        "eight is on the list"
    );
    let refusals = fleet.refusals()?;
    ensure!(refusals.contains("evoked"), "{refusals}");

    fleet
        .world
        .write("crl.pem", &list(&fleet.authority, &[7], 2124)?)?;
    fleet.world.reloaded().await?;
    connected.ping().await?;
    // The same configuration would resume its session, and show no certificate, if it could.
    ensure!(
        fleet.connect(&seven, "c-7b").await.is_err(),
        "seven is on the list now"
    );
    fleet.connect(&eight, "c-8").await?;

    fleet.world.write("crl.pem", "no list")?;
    fleet.world.reload("reload failed").await?;
    fleet.connect(&eight, "c-8").await?;
    ensure!(fleet.connect(&seven, "c-7b").await.is_err(), "the old list holds");
    Ok(())
}

#[tokio::test]
async fn a_list_that_is_past_its_end_or_of_somebody_else_lets_nobody_in() -> Result<()> {
    let fleet = Fleet::start(&[])?;
    let seven = fleet.device(7)?;
    fleet.connect(&seven, "c-7").await?;
    fleet
        .world
        .write("crl.pem", &list(&fleet.authority, &[], 2025)?)?;
    fleet.world.reloaded().await?;
    ensure!(fleet.connect(&seven, "c-7").await.is_err());
    let refusals = fleet.refusals()?;
    ensure!(refusals.contains("expired"), "{refusals}");
    fleet.world.write("crl.pem", &list(&authority()?, &[], 2124)?)?;
    fleet.world.reloaded().await?;
    ensure!(fleet.connect(&seven, "c-7").await.is_err());
    Ok(())
}
