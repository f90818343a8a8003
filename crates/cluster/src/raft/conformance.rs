//! openraft's own suite for stores, run on the log and on a machine in the state store.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use storage::{LogOptions, RaftLog, SledKv};

use super::{LogStore, StateMachine, TypeConfig};
use crate::meta::Meta;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine<Meta>, (tempfile::TempDir, RaftLog)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, RaftLog), LogStore, StateMachine<Meta>), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = RaftLog::open(&dir.path().join("log"), LogOptions::default()).unwrap();
        let kv = Arc::new(SledKv::open(&dir.path().join("state"), 1 << 20).unwrap());
        let machine = StateMachine(Arc::new(Meta::open(kv, 0).unwrap()));
        let store = LogStore::new(log.group(0).unwrap());
        Ok(((dir, log), store, machine))
    }
}

#[test]
fn the_log_and_a_machine_pass_openrafts_suite() {
    TypeConfig::run(Suite::test_all(Builder)).unwrap();
}
