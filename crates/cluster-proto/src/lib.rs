//! The messages nodes keep and exchange, generated from `/proto`; nothing is written by hand.
#![allow(missing_docs, reason = "the comments are in the .proto files")]

mod v1 {
    include!(concat!(env!("OUT_DIR"), "/flotilla.v1.rs"));
}

/// What a node keeps on its own disk.
pub mod raft {
    include!(concat!(env!("OUT_DIR"), "/flotilla.raft.v1.rs"));

    /// The name that generated code of other packages uses.
    pub mod v1 {
        pub use super::*;
    }
}

pub use v1::*;
