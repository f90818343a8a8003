//! For the fuzzer: a configuration file with any text, a PROXY protocol header of any bytes.

use std::path::Path;

use broker::proxy_protocol::{Progress, parse};

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

/// Takes the bytes as the beginning of a connection, all at once and cut where the first byte says.
///
/// # Panics
/// A header is longer than what came, or depends on what follows it.
pub fn proxy_header(bytes: &[u8]) {
    let Some((cut, stream)) = bytes.split_first() else {
        return;
    };
    let whole = parse(stream);
    if let Ok(Progress::Complete(_, len)) = &whole {
        assert_eq!(whole, parse(&stream[..*len]), "what follows changes the header");
        let early = parse(&stream[..usize::from(*cut).min(len - 1)]);
        let Ok(Progress::Need(_) | Progress::NeedLine) = early else {
            panic!("a part is taken for something else: {early:?}");
        };
    }
}
