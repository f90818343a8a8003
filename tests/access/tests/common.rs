//! A broker with users and rules, and how to log in to it.

use anyhow::{Context, Result, ensure};
pub(crate) use harness::passwd;
use harness::{Broker, BrokerOptions, Client, ConnectOptions};
use mqtt_codec::{ConnAck, ReasonCode};
use tempfile::TempDir;

/// What `mosquitto_passwd` 2.0.11 made for anna (`secret-a`) and, with `-H sha512`, for carl (`secret-c`).
pub(crate) const MADE_BY_MOSQUITTO: &str = "\
anna:$7$101$/evfF8eWboPjHHTX$kZe1ssrM3EWuYAc8NF9uohrDuohuslz60oGvw4nGESDJ7C0y6s1Hjk5jtgPYgOjbqJh1C0dQftq7mE35BCXRjw==
carl:$6$EtOKQG+hLfdaUgA7$Uxa74lkshBw6Xa970ujLqXd64f/TZ5+u1MJQ/H2APzDb8yVXLabPqO/FyVxS3rbzCtaev0wpWnAxojbrwvP1lg==
";
pub(crate) const ANNA: (&str, &str) = ("anna", "secret-a");
pub(crate) const CARL: (&str, &str) = ("carl", "secret-c");

/// A broker and the files it was told of.
pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) files: TempDir,
}

/// Writes files, then starts a broker; `FILES` in the configuration is where they are.
pub(crate) fn world(files: &[(&str, &str)], config: &str) -> Result<World> {
    let folder = TempDir::with_prefix("flotilla-access-")?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    start(folder, config, BrokerOptions::default())
}

/// As `world`, with files that are there already.
pub(crate) fn start(files: TempDir, config: &str, options: BrokerOptions) -> Result<World> {
    let place = files.path().to_str().context("a path in UTF-8")?;
    let broker = Broker::start(BrokerOptions {
        config: Some(config.replace("FILES", place)),
        ..options
    })?;
    Ok(World { broker, files })
}

/// Users alone.
pub(crate) fn with_users() -> Result<World> {
    world(
        &[("users", MADE_BY_MOSQUITTO)],
        "[auth]\npassword_file = 'FILES/users'\n",
    )
}

/// Users, and rules of this text.
pub(crate) fn with_rules(rules: &str) -> Result<World> {
    let files = [("users", MADE_BY_MOSQUITTO), ("rules", rules)];
    world(
        &files,
        "[auth]\npassword_file = 'FILES/users'\n[access]\nrules = 'FILES/rules'\n",
    )
}

impl World {
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.files.path().join(name), text)?)
    }

    /// Somebody who has to be let in.
    pub(crate) async fn client(
        &self,
        (user, password): (&str, &str),
        options: ConnectOptions,
    ) -> Result<Client> {
        Client::connect(
            self.broker.mqtt_addr(),
            options.credentials(user, password.as_bytes()),
        )
        .await
    }

    /// The CONNACK, whatever it says.
    pub(crate) async fn connack(&self, options: ConnectOptions) -> Result<ConnAck> {
        let mut client = Client::open(self.broker.mqtt_addr()).await?;
        client.send_connect(options).await?;
        client.expect_connack().await
    }

    pub(crate) async fn refusal(&self, options: ConnectOptions) -> Result<ReasonCode> {
        let connack = self.connack(options).await?;
        ensure!(connack.reason_code != ReasonCode::Success, "was let in");
        Ok(connack.reason_code)
    }

    /// A counter of the node.
    pub(crate) fn counter(&self, name: &str) -> Result<u64> {
        let metrics = self.broker.admin_get("/metrics")?;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value
            .with_context(|| format!("{name} is not there:\n{metrics}"))?
            .parse()?)
    }
}
