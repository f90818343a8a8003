//! One configuration out of flags, environment, file and defaults, in this order. Every value keeps its origin, and every
//! mistake is collected before any is reported. What the keys mean is `broker::config`'s knowledge.

mod draft;
mod environment;
mod file;
mod finish;
mod flags;
mod keys;
mod show;
mod suggest;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use broker::config::Config;

use crate::arguments::ConfigFlags;
use draft::Draft;

pub(crate) use show::reference;

/// Where a value was said; ordered as mistakes are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nowhere.
    Default,
    /// In a file, in this line.
    File { path: PathBuf, line: usize },
    /// In this environment variable.
    Environment(String),
    /// With this flag.
    Flag(&'static str),
}

/// A mistake, where it was made, and about which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    origin: Origin,
    path: String,
    message: String,
}

/// All mistakes of a configuration, in the order of their places.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<Mistake>);

/// A configuration without mistakes, and the origin of its values.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    draft: Draft,
}

/// Reads everything that the flags name and the environment.
pub(crate) fn load(flags: &ConfigFlags) -> Result<Loaded, Mistakes> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    load_with(flags, variables)
}

fn load_with(
    flags: &ConfigFlags,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Mistakes> {
    let mut draft = Draft::default();
    if let Some(path) = &flags.config {
        file::read(path, &mut draft);
    }
    environment::apply(variables, &mut draft);
    flags::apply(flags, &mut draft);
    finish::finish(draft)
}

/// Reads the text of a file alone, without flags and environment.
pub(crate) fn from_text(path: &std::path::Path, text: &str) -> Result<Loaded, Mistakes> {
    let mut draft = Draft::default();
    file::parse(path, text, &mut draft);
    finish::finish(draft)
}

impl Mistakes {
    fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by(|a, b| a.origin.cmp(&b.origin));
        Self(mistakes)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("a mistake in the configuration")?,
            count => write!(f, "{count} mistakes in the configuration")?,
        }
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl Error for Mistakes {}

#[cfg(test)]
mod tests;
