//! Any bytes as a stream of packets, in every version and both roles: no panic, and what was decoded can be encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mqtt_codec::fuzz::decode_stream(bytes));
