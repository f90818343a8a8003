//! Generates the messages from `/proto`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&proto)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, [&proto])?;
    prost_build::Config::new()
        .bytes(["."])
        // Seldom there: every command would be as large as one with it.
        .boxed(".flotilla.v1.Will.author")
        .boxed(".flotilla.v1.OutboxRecord.author")
        .compile_fds(descriptors)?;
    Ok(())
}
