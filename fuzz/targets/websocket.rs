//! Any bytes after a WebSocket's handshake: no panic, and how they are cut into pieces changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| broker::fuzz::websocket(bytes));
