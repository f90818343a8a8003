//! A stream that comes in two reads has the same packets as one that comes in one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mqtt_codec::fuzz::split_stream(bytes));
