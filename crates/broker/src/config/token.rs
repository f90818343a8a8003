//! A secret that its bearer is known by.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Fewer characters could be guessed.
const BYTES_MIN: usize = 32;

/// A token. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// The tokens of a file: one a line; empty lines and those that begin with `#` are none.
    ///
    /// # Errors
    /// It cannot be read, or one of them is unsuitable; the message does not show it.
    pub fn read(path: &Path) -> Result<Vec<Self>, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        let lines = text.lines().map(str::trim).enumerate();
        let tokens = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        tokens
            .map(|(index, line)| {
                let token = Self(line.to_owned());
                match token.problem() {
                    None => Ok(token),
                    Some(problem) => Err(format!("{name}, line {}: {problem}", index + 1)),
                }
            })
            .collect()
    }

    /// Why it is none.
    pub(super) fn problem(&self) -> Option<String> {
        let count = self.0.len();
        if count < BYTES_MIN {
            return Some(format!(
                "has {count} characters; a token has at least {BYTES_MIN}"
            ));
        }
        let plain = self.0.bytes().all(|byte| byte.is_ascii_graphic());
        (!plain).then(|| "may only have letters, digits and signs of ASCII".to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_token_a_line_and_a_short_one_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(&file, format!("# of the dashboard\n\n  {token}  \n")).unwrap();
        let read = Token::read(&file).unwrap();
        assert_eq!(read, [Token(token.to_owned())]);
        assert_eq!(format!("{read:?}"), "[***]");
        std::fs::write(&file, "hunter2\n").unwrap();
        let error = Token::read(&file).unwrap_err();
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }
}
