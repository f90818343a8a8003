//! openraft's own suite for stores, run on the log and on a machine in the state store.

use std::sync::Arc;

use cluster_proto::{ForwardMessage, ShareMember};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use storage::{LogOptions, RaftLog, SledKv};

use super::{LogStore, StateMachine, TypeConfig};
use crate::Observer;
use crate::meta::Meta;

struct Builder;

/// A machine that nobody listens to.
struct Nobody;

impl Observer for Nobody {
    fn outbox_ready(&self, _: u16) {}
    fn share_member(&self, _: &str, _: &ShareMember, _: bool) {}
    fn owner_lost(&self, _: &str, _: u64) {}
    fn session_ended(&self, _: &str, _: &'static str) {}
    fn dropped(&self, _: &'static str, _: u64) {}
    fn forwarded(&self, _: u64, _: Vec<ForwardMessage>) {}
    fn kick(&self, _: &str, _: u64, _: crate::KickedBy) -> Option<crate::Kicked> {
        None
    }
    fn fenced(&self) {}
}

fn open_meta(kv: Arc<SledKv>) -> Meta {
    Meta::open(kv, 0, 1, Arc::new(Nobody), Arc::default()).unwrap()
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine<Meta>, (tempfile::TempDir, RaftLog)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, RaftLog), LogStore, StateMachine<Meta>), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = RaftLog::open(&dir.path().join("log"), LogOptions::default()).unwrap();
        let kv = Arc::new(SledKv::open(&dir.path().join("state"), 1 << 20).unwrap());
        let machine = StateMachine(Arc::new(open_meta(kv)));
        let store = LogStore::new(log.group(0).unwrap());
        Ok(((dir, log), store, machine))
    }
}

#[test]
fn the_log_and_a_machine_pass_openrafts_suite() {
    TypeConfig::run(Suite::test_all(Builder)).unwrap();
}
