//! One shard's replicated state on this node: entries are applied to it, and what that asks of this node is done
//! after the lock is released. Checkpoints are in `checkpoint`, reading queues in `fetch`.

mod bodies;
mod broken;
mod checkpoint;
mod copies;
mod fetch;
mod spilled;

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::bytes::Bytes;
use cluster_proto::raft as proto;
use cluster_proto::{Owner, Publication, ShardCommand, ShardEntry, shard_command};
use cluster_state::{ApplyContext, Effect, EntryKind, ShardState};
use foldhash::HashMap;
use parking_lot::Mutex;
use prost::Message;
use storage::{GroupId, GroupLog, SharedKv, StorageError};

use crate::bodies::{Bodies, compact};
use crate::raft::{Applied, Machine, Responses};
use crate::{Broken, Observer, SessionInfo, SessionWaker, ShardId, Totals};

use bodies::BodyReader;
use checkpoint::Disk;
use fetch::Loading;

/// Who wants to know when a client's queue grows, with the epoch of its connection.
type Wakers = HashMap<Arc<str>, (u64, Arc<dyn SessionWaker>)>;

/// What all shards of a node share.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) node_id: u64,
    /// The incarnation with which this process started: connections of earlier ones are gone.
    pub(crate) born: u64,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Counts changes of durable routes.
    pub(crate) routes_generation: Arc<AtomicU64>,
    pub(crate) kv: SharedKv,
    /// Told of sessions that are connected to nodes without a replica.
    pub(crate) far: Arc<dyn FarOwners>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) broken: Broken,
}

/// A shard's machine.
pub(crate) struct Shard {
    id: ShardId,
    node: Node,
    memory: Mutex<Memory>,
    disk: Mutex<Disk>,
    checkpointed: Mutex<Option<proto::Applied>>,
    log: GroupLog,
    bodies: Arc<BodyReader>,
    wakers: Mutex<Wakers>,
    loading: Mutex<HashMap<Arc<str>, Loading>>,
    /// Bytes of entries applied since the last checkpoint.
    log_bytes: AtomicU64,
    /// Set once the log is replayed: only then the node hears of what happens.
    live: AtomicBool,
    /// This node leads the group.
    leads: AtomicBool,
    /// When the passing of time was proposed last.
    ticked_ms: AtomicU64,
}

/// Whom a leader tells that queues have grown, where the owner of the session has no replica of the shard.
pub(crate) trait FarOwners: Send + Sync {
    fn queues_grew(&self, shard: ShardId, sessions: Vec<(u64, Arc<str>)>);
    /// Whether this node is its cluster's only member.
    fn is_alone(&self) -> bool;
}

/// A tick that was refused is proposed again after this time.
const TICK_AGAIN_MS: u64 = 1000;

struct Memory {
    state: ShardState,
    applied: proto::Applied,
}

impl Shard {
    /// Restores the last checkpoint; what the log has after it is applied by openraft.
    pub(crate) fn open(id: ShardId, group: GroupId, node: Node, log: GroupLog) -> Result<Self, StorageError> {
        let (store, spilled) = checkpoint::open_stores(&node.kv, group)?;
        let bodies = Arc::new(BodyReader::new(spilled.reader(), log.clone()));
        let checkpointed = crate::meta::read_applied(&store)?;
        let (state, disk) = Disk::restore(store, spilled)?;
        let memory = Memory {
            state,
            applied: checkpointed.clone().unwrap_or_default(),
        };
        Ok(Self {
            id,
            node,
            memory: Mutex::new(memory),
            disk: Mutex::new(disk),
            checkpointed: Mutex::new(checkpointed),
            log,
            bodies,
            wakers: Mutex::default(),
            loading: Mutex::default(),
            log_bytes: AtomicU64::new(0),
            live: AtomicBool::new(false),
            leads: AtomicBool::new(false),
            ticked_ms: AtomicU64::new(0),
        })
    }

    /// Looks at the state. Short: applying waits.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&ShardState) -> T) -> T {
        look(&self.memory.lock().state)
    }

    /// Bytes of entries applied since the last checkpoint.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Looks at the state and at how far the log is applied to it.
    pub(crate) fn read_applied<T>(&self, look: impl FnOnce(&ShardState, u64) -> T) -> T {
        let memory = self.memory.lock();
        look(&memory.state, crate::meta::index_of(&memory.applied))
    }

    /// From here on the node hears of what happens. On a node that is alone the shard tells of its members of shared
    /// subscriptions itself; elsewhere the meta group does.
    pub(crate) fn go_live(&self, alone: bool) {
        self.live.store(true, Ordering::Release);
        if alone {
            let members: Vec<_> = self.read(|state| {
                let members = state.shared_members(self.id);
                members.map(|(filter, member)| (filter.clone(), member)).collect()
            });
            for (filter, member) in members {
                self.node.observer.share_member(&filter, &member, true);
            }
        }
        self.node.routes_generation.fetch_add(1, Ordering::AcqRel);
    }

    /// This node begins or ends to lead the group. The leader sees to the outbox.
    pub(crate) fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Release);
        if leads && self.read(|state| state.outbox().next().is_some()) {
            self.node.observer.outbox_ready(self.id);
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// Whether the passing of time is to be proposed, and notes that it is.
    pub(crate) fn tick_due(&self, now_ms: u64) -> bool {
        let last = self.ticked_ms.load(Ordering::Relaxed);
        // Time that was wrong may go back.
        let due = now_ms < last || now_ms >= last + TICK_AGAIN_MS;
        if due {
            self.ticked_ms.store(now_ms, Ordering::Relaxed);
        }
        due
    }

    pub(crate) fn attach(&self, client: &str, epoch: u64, waker: Arc<dyn SessionWaker>) {
        self.wakers.lock().insert(client.into(), (epoch, waker));
    }

    pub(crate) fn detach(&self, client: &str, epoch: u64) {
        let mut wakers = self.wakers.lock();
        if wakers.get(client).is_some_and(|(attached, _)| *attached == epoch) {
            wakers.remove(client);
            self.loading.lock().remove(client);
        }
    }

    /// Ends all that `attach` began: the replica goes.
    pub(crate) fn take_wakers(&self) -> Vec<(Arc<str>, u64, Arc<dyn SessionWaker>)> {
        let wakers = std::mem::take(&mut *self.wakers.lock());
        let wakers = wakers.into_iter();
        let mut wakers: Vec<_> = wakers
            .map(|(client, (epoch, waker))| (client, epoch, waker))
            .collect();
        wakers.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        wakers
    }

    /// Whether the replica knows that the connection owns its session.
    pub(crate) fn is_owner(&self, client: &str, epoch: u64) -> bool {
        self.read(|state| {
            let session = state.session(client);
            session.is_some_and(|session| session.connected && session.owner.epoch == epoch)
        })
    }

    /// See `Cluster::retained`; counts `left` down.
    pub(crate) fn retained(
        &self,
        filter: &str,
        now_ms: u64,
        left: &mut usize,
        visit: &mut dyn FnMut(&Publication),
    ) {
        let memory = self.memory.lock();
        memory
            .state
            .retained_matching(filter, now_ms, &mut |publication| {
                if *left == 0 {
                    return ControlFlow::Break(());
                }
                *left -= 1;
                visit(publication);
                ControlFlow::Continue(())
            });
    }

    /// Adds retained messages from behind a topic on, `limit` at the most. True: there may be more.
    pub(crate) fn retained_after(
        &self,
        filter: &str,
        after: Option<&str>,
        now_ms: u64,
        limit: usize,
        found: &mut Vec<Publication>,
    ) -> bool {
        let full = found.len() + limit;
        self.read(|state| {
            state.retained_matching_after(filter, after.unwrap_or(""), now_ms, &mut |publication| {
                found.push(publication.clone());
                match found.len() < full {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
        });
        found.len() >= full
    }

    pub(crate) fn session_info(&self, client: &str) -> Option<SessionInfo> {
        let session = self.read(|state| state.session(client))?;
        Some(SessionInfo {
            connected: session.connected,
            user: session.user,
            epoch: session.owner.epoch,
            queued_messages: session.queued_messages,
            queued_bytes: session.queued_bytes,
            subscriptions: session.subscriptions,
        })
    }

    /// The connection that has a session now.
    pub(crate) fn owner(&self, client: &str) -> Option<Owner> {
        let session = self.read(|state| state.session(client))?;
        session.connected.then_some(session.owner)
    }

    pub(crate) fn totals(&self) -> Totals {
        self.read(ShardState::totals)
    }

    fn waker(&self, client: &str) -> Option<Arc<dyn SessionWaker>> {
        self.wakers.lock().get(client).map(|(_, waker)| waker.clone())
    }

    fn keep_bodies(&self, effects: &mut [Effect], entry_bytes: usize) {
        let stored: Vec<_> = effects
            .iter_mut()
            .filter_map(|effect| {
                let Effect::MessageStored { id, publication } = effect else {
                    return None;
                };
                let mut publication = std::mem::take(publication);
                compact(&mut publication, entry_bytes);
                Some((*id, Arc::new(publication)))
            })
            .collect();
        if !stored.is_empty() {
            self.node.bodies.insert(self.id, stored);
        }
    }

    /// Does what applying an entry asks of this node. No lock is held by the caller.
    fn deliver(&self, effects: Vec<Effect>) {
        let live = self.live.load(Ordering::Acquire);
        let mut released = Vec::new();
        let mut grown: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut notices = Vec::new();
        let mut outbox = false;
        for effect in effects {
            match effect {
                Effect::MessageReleased { id } => released.push(id),
                Effect::QueueGrew { client, .. } => drop(grown.insert(client)),
                Effect::OutboxReady => outbox = true,
                Effect::RoutesChanged { .. } => {
                    self.node.routes_generation.fetch_add(1, Ordering::AcqRel);
                }
                Effect::MessageStored { .. } => {}
                notice => notices.push(notice),
            }
        }
        if !released.is_empty() {
            self.node.bodies.release(self.id, released);
        }
        if !live {
            return;
        }
        for notice in notices {
            self.notify(notice);
        }
        let mut far = Vec::new();
        for client in grown {
            match self.waker(&client) {
                Some(waker) => waker.queue_grew(),
                None if self.leads() => far.push(client),
                None => {}
            }
        }
        self.tell_far_owners(far);
        if outbox && self.leads() {
            self.node.observer.outbox_ready(self.id);
        }
    }

    fn tell_far_owners(&self, clients: Vec<Arc<str>>) {
        if clients.is_empty() {
            return;
        }
        let owner = |client: Arc<str>, state: &ShardState| {
            let session = state.session(&client)?;
            let far = session.connected && session.owner.node != self.node.node_id;
            far.then_some((session.owner.node, client))
        };
        let sessions = self.read(|state| {
            let owned = clients.into_iter().filter_map(|client| owner(client, state));
            owned.collect::<Vec<_>>()
        });
        if !sessions.is_empty() {
            self.node.far.queues_grew(self.id, sessions);
        }
    }

    fn notify(&self, notice: Effect) {
        let observer = &self.node.observer;
        match notice {
            Effect::OwnerLost {
                client,
                node,
                incarnation,
                epoch,
            } if node == self.node.node_id && incarnation >= self.node.born => {
                observer.owner_lost(&client, epoch);
            }
            Effect::SessionEnded { client, reason } => observer.session_ended(&client, reason.as_str()),
            Effect::SharedMember {
                filter,
                member,
                added,
                ..
            } if self.node.far.is_alone() => {
                // Otherwise the meta group says it to all nodes.
                observer.share_member(&filter, &member, added);
            }
            Effect::Dropped { reason, count } => observer.dropped(reason.as_str(), count),
            _ => {}
        }
    }
}

impl Machine for Shard {
    fn apply(&self, entry: Applied, payload: Option<Bytes>) -> io::Result<Responses> {
        let Some(payload) = payload else {
            entry.note(&mut self.memory.lock().applied);
            return Ok(Responses::default());
        };
        let bytes = payload.len();
        let mut decoded = ShardEntry::decode(payload).map_err(io::Error::other)?;
        let index = entry.log_id.index;
        let mut effects = Vec::new();
        let mut responses = Vec::with_capacity(decoded.commands.len());
        let mut memory = self.memory.lock();
        if self.node.broken != Broken::default() {
            self.break_entry(&memory.state, &mut decoded);
        }
        let ShardEntry {
            now_ms,
            commands,
            origin,
        } = decoded;
        if memory.state.begin_entry(origin.as_ref()) == EntryKind::Gap {
            entry.note(&mut memory.applied);
            return Ok(Responses {
                index,
                is_gap: true,
                ..Responses::default()
            });
        }
        for (position, mut command) in commands.into_iter().enumerate() {
            detach_from_entry(&mut command, bytes);
            let context = ApplyContext {
                index,
                command: position as u32,
                now_ms,
                shard: self.id,
            };
            responses.push(memory.state.apply(&context, command, &mut effects));
        }
        entry.note(&mut memory.applied);
        // Before anyone can see the queues that refer to them.
        self.keep_bodies(&mut effects, bytes);
        drop(memory);
        self.log_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.deliver(effects);
        Ok(Responses {
            index,
            shard: responses,
            ..Responses::default()
        })
    }

    fn applied(&self) -> proto::Applied {
        self.memory.lock().applied.clone()
    }

    fn prepare_checkpoint(&self) -> Result<(), StorageError> {
        self.prepare()
    }

    fn log(&self) -> Option<&GroupLog> {
        (!self.node.broken.early_checkpoints).then_some(&self.log)
    }

    fn checkpoint(&self) -> Result<proto::Applied, StorageError> {
        self.write_checkpoint()
    }

    fn checkpointed(&self) -> Option<proto::Applied> {
        self.checkpointed.lock().clone()
    }

    fn records(&self) -> Result<proto::Snapshot, StorageError> {
        self.read_snapshot()
    }

    fn install(&self, snapshot: proto::Snapshot) -> Result<(), StorageError> {
        self.install_snapshot(snapshot)
    }
}

/// What the state itself keeps for long must not keep the whole entry in memory.
fn detach_from_entry(command: &mut ShardCommand, entry_bytes: usize) {
    let publication = match &mut command.command {
        Some(shard_command::Command::Retain(retain)) => retain.publication.as_mut(),
        Some(shard_command::Command::Connect(connect)) => {
            connect.will.as_mut().and_then(|will| will.publication.as_mut())
        }
        _ => None,
    };
    if let Some(publication) = publication {
        compact(publication, entry_bytes);
    }
}
