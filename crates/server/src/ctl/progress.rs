//! How far a long command is, on standard error: for people at a terminal, and for whoever asks for it.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// Between two lines.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Where it is told, if anywhere.
pub(super) struct Progress {
    to: Option<Shown>,
    due: Instant,
    last: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Each line in place of the one before.
    Terminal,
    /// One below the other.
    Lines,
}

impl Progress {
    /// Told at a terminal, or if `asked` for.
    pub(super) fn new(asked: bool) -> Self {
        let to = match stderr().is_terminal() {
            true => Some(Shown::Terminal),
            false => asked.then_some(Shown::Lines),
        };
        Self {
            to,
            due: Instant::now(),
            last: String::new(),
        }
    }

    /// Whether anybody looks.
    pub(super) fn is_shown(&self) -> bool {
        self.to.is_some()
    }

    /// Says how far it is, twice a second at the most, and nothing twice in a row.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        let Some(to) = self.to.filter(|_| Instant::now() >= self.due) else {
            return;
        };
        let line = line();
        if line != self.last {
            show(&shown(&line, to));
            self.last = line;
        }
        self.due = Instant::now() + TELL_EVERY;
    }

    /// Says how far it came at last, where that stays to be read.
    pub(super) fn end(&mut self, line: impl FnOnce() -> String) {
        if self.to == Some(Shown::Lines) {
            self.due = Instant::now();
            self.tell(line);
        }
        self.clear();
    }

    /// Makes room for what comes of it.
    fn clear(&mut self) {
        if self.to.take() == Some(Shown::Terminal) && !self.last.is_empty() {
            show("\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn shown(line: &str, to: Shown) -> String {
    match to {
        // Whatever else is said begins at the same place.
        Shown::Terminal => format!("\x1b[K{line}\r"),
        Shown::Lines => format!("{line}\n"),
    }
}

/// Nothing depends on its being read.
fn show(text: &str) {
    let mut err = stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Of a file that is read from its beginning to its end: how much of it was.
pub(super) struct Read {
    bytes: u64,
    of: Option<u64>,
}

impl Read {
    /// Of a file of so many bytes, if that is known.
    pub(super) fn of(bytes: Option<u64>) -> Self {
        Self {
            bytes: 0,
            of: bytes.filter(|bytes| *bytes > 0),
        }
    }

    /// A line without its end.
    pub(super) fn line(&mut self, line: &str) {
        self.bytes += line.len() as u64 + 1;
    }

    /// As in ` (40 %)`; nothing where nobody knows.
    pub(super) fn share(&self) -> String {
        let share = |of| self.bytes.min(of) * 100 / of;
        self.of.map_or(String::new(), |of| format!(" ({} %)", share(of)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_one_line_and_a_file_has_all() {
        assert_eq!(shown("7 sessions", Shown::Terminal), "\x1b[K7 sessions\r");
        assert_eq!(shown("7 sessions", Shown::Lines), "7 sessions\n");
    }

    #[test]
    fn a_share_is_told_where_the_whole_is_known() {
        let mut read = Read::of(Some(10));
        read.line("1234");
        assert_eq!(read.share(), " (50 %)");
        // The last line may lack its end.
        read.line("67890");
        assert_eq!(read.share(), " (100 %)");
        for unknown in [None, Some(0)] {
            assert_eq!(Read::of(unknown).share(), "");
        }
    }
}
