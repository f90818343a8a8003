//! Who may come in and what they may do, seen from outside a running broker. The tests live in `tests/`; this crate has no
//! code of its own.
