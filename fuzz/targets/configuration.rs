//! Whatever a configuration file says, it is judged with words; and what `check-config` shows of it can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| flotilla_server::fuzz::configuration(text));
