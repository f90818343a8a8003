//! Password files: one `user:hash` a line, as `flotilla passwd` and `mosquitto_passwd` write them.

mod file;
mod hash;

pub use file::{Check, PasswordFile, check_user_name, with_user, without_user};
pub use hash::{ArgonCost, PasswordHash};
