//! Any bytes as the beginning of a proxy's connection: no panic, and a header does not depend on what follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| flotilla_server::fuzz::proxy_header(bytes));
