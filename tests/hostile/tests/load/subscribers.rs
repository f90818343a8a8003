//! Subscribers: those who do not take what they get, and the one who takes all of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, wait_for};
use tokio::net::TcpSocket;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::publishers::{Sent, number_of};

/// Who never read, by QoS.
const DEAF: [usize; 2] = [40, 8];
/// What the kernel keeps for who does not read: the rest is the node's.
const UNREAD_MAX: u32 = 16 * 1024;
/// Who never acknowledge, and who read now and then.
const SILENT: usize = 4;
const DOZING: usize = 4;
/// Between two messages that one of these reads.
const DOZE: Duration = Duration::from_millis(20);

/// Those who do not take what they get, or not soon. They end with this value.
pub(crate) struct Slow {
    _unread: Vec<Client>,
    _dozing: JoinSet<Result<()>>,
}

impl Slow {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let mut unread = Vec::new();
        for (qos, count) in DEAF.into_iter().enumerate() {
            for number in 0..count {
                let mut client = deaf(address, format!("deaf-{qos}-{number}")).await?;
                client.subscribe("load/#", qos as u8).await?;
                unread.push(client);
            }
        }
        for number in 0..SILENT {
            let options = ConnectOptions::v5(format!("silent-{number}")).receive_maximum(1);
            let mut client = Client::connect(address, options).await?;
            client.subscribe("load/kept/#", 1).await?;
            unread.push(client);
        }
        let mut dozing = JoinSet::new();
        for number in 0..DOZING {
            let options = ConnectOptions::v5(format!("dozing-{number}"));
            let mut client = Client::connect(address, options).await?;
            client.subscribe("load/#", 1).await?;
            dozing.spawn(doze(client));
        }
        Ok(Self {
            _unread: unread,
            _dozing: dozing,
        })
    }
}

async fn deaf(address: SocketAddr, client_id: String) -> Result<Client> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(UNREAD_MAX)?;
    let mut client = Client::on(socket.connect(address).await?);
    client.handshake(ConnectOptions::v5(client_id)).await?;
    Ok(client)
}

async fn doze(mut client: Client) -> Result<()> {
    loop {
        client.receive().await?;
        sleep(DOZE).await;
    }
}

/// A session that is kept, and whose client takes all there is.
pub(crate) struct Keeper {
    /// The numbers that came, by who has published them, in the order in which they came.
    received: Arc<Mutex<Received>>,
    task: JoinHandle<Result<()>>,
}

type Received = BTreeMap<usize, Vec<u64>>;

impl Keeper {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let options = ConnectOptions::v5("keeper").persistent();
        let mut client = Client::connect(address, options).await?;
        client.subscribe("load/kept/#", 1).await?;
        let received: Arc<Mutex<Received>> = Arc::default();
        let task = tokio::spawn(keep(client, Arc::clone(&received)));
        Ok(Self { received, task })
    }

    /// Waits until all that was acknowledged has come: each once, in its publisher's order, and nothing that was not sent.
    pub(crate) async fn has_all(&self, sent: &[Sent], within: Duration) -> Result<()> {
        for sent in sent {
            let publisher = sent.publisher;
            let missing = || -> Vec<u64> {
                let received = lock(&self.received);
                let mut missing = sent.acknowledged.clone();
                for number in received.get(&publisher).into_iter().flatten() {
                    missing.remove(number);
                }
                missing.into_iter().collect()
            };
            let arrived = wait_for(async || self.task.is_finished() || missing().is_empty(), within);
            arrived.await.ok();
            let missing = missing();
            ensure!(
                missing.is_empty(),
                "{} of {} messages of publisher {publisher} are missing, the first is {:?}",
                missing.len(),
                sent.acknowledged.len(),
                missing.first(),
            );
            let received = lock(&self.received);
            let received = received.get(&publisher).map_or(&[][..], Vec::as_slice);
            ensure!(
                received.is_sorted_by(|one, next| one < next),
                "publisher {publisher}: {received:?}"
            );
            ensure!(received.last().is_none_or(|last| *last < sent.count));
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(mut client: Client, received: Arc<Mutex<Received>>) -> Result<()> {
    loop {
        let publish = client.receive().await?;
        let (publisher, number) = number_of(&publish.publication.payload())?;
        lock(&received).entry(publisher).or_default().push(number);
    }
}
