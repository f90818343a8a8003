//! For the fuzzer: a configuration file with any text.

use std::path::Path;

use crate::config;

/// Reads the text as the file of a configuration. What it accepts is shown, and what is shown is accepted again.
///
/// # Panics
/// That is not so: a mistake in the reading.
pub fn configuration(text: &str) {
    match config::from_text(Path::new("flotilla.toml"), text) {
        Ok(loaded) => {
            let shown = loaded.to_string();
            let again = config::from_text(Path::new("shown.toml"), &shown);
            assert!(again.is_ok(), "not accepted: {shown}\n{:?}", again.err());
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}
