//! `flotilla import`: from another broker's configuration to one of ours, and what cannot be taken over.

mod mosquitto;
mod output;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use crate::arguments::{ImportArguments, ImportFrom};
use crate::config;

/// Something in the file that is different here, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    /// Of the file, counted from 1; 0: of none.
    line: usize,
    text: String,
}

pub(crate) fn run(arguments: &ImportArguments) -> anyhow::Result<ExitCode> {
    let ImportFrom::Mosquitto { conf, out } = &arguments.from;
    let text = std::fs::read_to_string(conf).with_context(|| conf.display().to_string())?;
    let folder = std::path::absolute(conf)?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    let (toml, notes) = mosquitto::translate(&text, folder);
    for note in &notes {
        match note.line {
            0 => eprintln!("{}: {}", conf.display(), note.text),
            line => eprintln!("{}:{line}: {}", conf.display(), note.text),
        }
    }
    let name = match out {
        None => {
            io::stdout().write_all(toml.as_bytes())?;
            "flotilla.toml".into()
        }
        Some(folder) => {
            let path = folder.join("flotilla.toml");
            write_new(&path, &toml)?;
            eprintln!("{} is written", path.display());
            path
        }
    };
    // A file that is named may be missing, or have a line that cannot be read: that is said here and not at the start.
    config::from_text(&name, &toml)?;
    Ok(ExitCode::SUCCESS)
}

/// What is there stays.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    ensure!(
        !path.exists(),
        "{} is there already: move it away",
        path.display()
    );
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
        .with_context(|| path.display().to_string())
}
