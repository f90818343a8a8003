//! Damaged configuration files for `flotilla check-config`; see the test of this crate.
