//! Generates the gRPC service from `/proto`; its messages are those of `cluster-proto`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let descriptors = protox::compile([proto.join("peer.proto")], [&proto])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .extern_path(".flotilla.v1", "::cluster_proto")
        .extern_path(".flotilla.raft.v1", "::cluster_proto::raft")
        .compile_fds(descriptors)?;
    Ok(())
}
