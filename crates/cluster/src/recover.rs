//! A cluster out of what one node has, when the disks of a majority are gone for good. Nothing runs meanwhile: each group's log on
//! this disk gets a last entry by which this node is the only voter, and the meta group one more by which the other members
//! are retired and the cluster has a new id, so that no disk of the old one can ever be mixed with it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use cluster_proto::meta_command::Command;
use cluster_proto::raft::{Entry, LeaderId, LogId, Membership, Node, Vote, Voters, entry};
use cluster_proto::{Member, MetaCommand, Recover};
use cluster_state::{ApplyContext, MetaState};
use prost::Message;
use storage::{DataDir, Files, Flushed, GroupLog, Identity, LogOptions, RaftLog, StateStore, StorageError};

use crate::ShardId;
use crate::formation::draw_cluster_id;
use crate::meta::restore;
use crate::start::{META_GROUP, STATE_CACHE_BYTES, group_of};

/// Why a disk cannot become a cluster of its own.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Nothing is there.
    #[error("{} has no data of a node", .0.display())]
    NoData(PathBuf),
    /// The node never belonged to a cluster.
    #[error("the node has never belonged to a cluster: it has nothing to recover")]
    NoCluster,
    /// It has no copy of some shards.
    #[error(
        "this disk has no copy of shards {0:?}: what is in them would be lost. Recover from a disk that has all of them"
    )]
    Missing(Vec<ShardId>),
    /// The files could not be read or written.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The log could not be written.
    #[error("writing the log: {0}")]
    Log(#[from] std::io::Error),
}

/// An opened disk of a node that does not run.
pub struct Remains {
    data_dir: DataDir,
    identity: Identity,
    log: RaftLog,
    members: Vec<Member>,
}

impl Remains {
    /// Opens the disk of a node that does not run, and changes nothing on it that matters.
    ///
    /// # Errors
    /// It has no data of a cluster, not of all shards, is in use, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, RecoverError> {
        if !path.join("IDENTITY").exists() {
            return Err(RecoverError::NoData(path.to_owned()));
        }
        let data_dir = DataDir::open(path)?;
        let identity = data_dir.identity()?;
        let identity = identity.ok_or_else(|| RecoverError::NoData(path.to_owned()))?;
        if identity.cluster_id.is_none() {
            return Err(RecoverError::NoCluster);
        }
        let log = RaftLog::open(&path.join("log"), LogOptions::default())?;
        let kv = Files::Real.open_kv(&path.join("state"), STATE_CACHE_BYTES)?;
        storage::finish_removals(&log, kv.as_ref())?;
        let mut state = restore(&StateStore::open(kv, META_GROUP)?)?;
        replay(&log.group(META_GROUP)?, &mut state)?;
        let mut missing = Vec::new();
        for shard in 0..identity.shards {
            // What is left of a replica that has moved away is out of date.
            let is_placed_here = state.replicas(shard).contains(&identity.node_id);
            if !is_placed_here || log.group(group_of(shard))?.state().last.is_none() {
                missing.push(shard);
            }
        }
        if !missing.is_empty() {
            return Err(RecoverError::Missing(missing));
        }
        Ok(Self {
            members: state.members().cloned().collect(),
            data_dir,
            identity,
            log,
        })
    }

    /// The id of the cluster it belongs to.
    pub fn cluster_id(&self) -> &str {
        self.identity.cluster_id.as_deref().unwrap_or_default()
    }

    /// The members it knows, with itself.
    pub fn members(&self) -> impl Iterator<Item = (&Member, bool)> {
        let this = self.identity.node_id;
        self.members
            .iter()
            .map(move |member| (member, member.node == this))
    }

    /// Makes a cluster of this node alone, with all that is on its disk, and returns its new id. The other members can never come
    /// back to it with the disks they had. May be called again if it was interrupted.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn recover(self) -> Result<String, RecoverError> {
        for shard in 0..self.identity.shards {
            self.append(&self.log.group(group_of(shard))?, None)?;
        }
        let cluster_id = draw_cluster_id();
        let alone = MetaCommand {
            command: Some(Command::Recover(Recover {
                node: self.identity.node_id,
                cluster_id: cluster_id.clone(),
            })),
        };
        self.append(&self.log.group(META_GROUP)?, Some(alone))?;
        // Last: until then it is a node of the old cluster, which does not start a second one.
        self.data_dir.change_cluster(&cluster_id)?;
        self.log.close();
        Ok(cluster_id)
    }

    /// An entry by which this node is the only voter, and a command behind it.
    fn append(&self, group: &GroupLog, command: Option<MetaCommand>) -> Result<(), RecoverError> {
        let node = self.identity.node_id;
        let last = group.state().last.unwrap_or_default();
        let term_of = |leader: Option<LeaderId>| leader.unwrap_or_default().term;
        let voted = group.vote().map_or(0, |vote| term_of(vote.leader));
        // A term in which nobody led.
        let term = voted.max(term_of(last.leader)) + 1;
        written(|flushed| {
            let leader = Some(LeaderId { term, node });
            group.save_vote(
                Vote {
                    leader,
                    committed: false,
                },
                flushed,
            );
        })?;
        let alone = Membership {
            configs: vec![Voters { ids: vec![node] }],
            nodes: vec![Node {
                id: node,
                address: String::new(),
            }],
        };
        let command = command.map(|command| entry::Payload::Normal(command.encode_to_vec().into()));
        let payloads = [entry::Payload::Membership(alone)].into_iter().chain(command);
        let entries = payloads.zip(last.index + 1..).map(|(payload, index)| Entry {
            log_id: Some(LogId {
                leader: Some(LeaderId { term, node: 0 }),
                index,
            }),
            payload: Some(payload),
        });
        written(|flushed| group.append(entries.collect(), flushed))
    }
}

/// Applies what the log has behind the checkpoint, committed or not: all of it will be.
fn replay(log: &GroupLog, state: &mut MetaState) -> Result<(), RecoverError> {
    let log_state = log.state();
    let first = log_state.purged.map_or(0, |purged| purged.index + 1);
    for entry in log.entries(first..log_state.last.map_or(0, |last| last.index + 1))? {
        let index = entry.log_id.map_or(0, |id| id.index);
        let Some(entry::Payload::Normal(bytes)) = entry.payload else {
            continue;
        };
        let command = MetaCommand::decode(bytes).map_err(std::io::Error::other)?;
        let context = ApplyContext {
            index,
            command: 0,
            now_ms: 0,
            shard: 0,
        };
        state.apply(&context, command, &mut Vec::new());
    }
    Ok(())
}

/// Waits until it is on the disk.
fn written(write: impl FnOnce(Flushed)) -> Result<(), RecoverError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    write(Box::new(move |result| drop(sender.send(result))));
    let result = receiver.recv();
    Ok(result.unwrap_or_else(|_| Err(std::io::Error::other("the log has stopped")))?)
}
