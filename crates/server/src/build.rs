//! What this build is.

/// Version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, when whoever builds sets `FLOTILLA_COMMIT`.
pub(crate) const COMMIT: &str = match option_env!("FLOTILLA_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
/// Version of the compiler.
pub(crate) const RUSTC: &str = env!("FLOTILLA_RUSTC");
