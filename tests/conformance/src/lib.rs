//! The tests of what the MQTT standards demand of a server live in `tests/`; this crate has no code of its own.
