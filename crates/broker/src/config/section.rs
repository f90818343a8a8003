//! The `section!` macro: one list of keys becomes a struct, its defaults, its bounds check and its reference entry.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{AuthHttp, ByteSize, Cidr, ClusterTls, TenantQuotas, TimeSpan, Token};

/// A mistake in a configuration and the key that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `limits.receive_maximum` or `listeners[0].bind`.
    pub path: String,
    /// What is wrong and, where possible, what to write instead.
    pub message: String,
}

impl Problem {
    /// A problem with the key at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// One key, as the reference shows it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name within the section.
    pub name: &'static str,
    /// What it is for.
    pub documentation: String,
    /// What a value looks like: `duration`, `true or false`, ...
    pub kind: String,
    /// The value when nothing is set, as in TOML; `None`: there is no default.
    pub default: Option<String>,
    /// Smallest and largest value.
    pub bounds: Option<(String, String)>,
}

/// One section, as the reference shows it.
#[derive(Debug, Clone)]
pub struct SectionReference {
    /// Its name in the file.
    pub name: &'static str,
    /// What its keys have in common.
    pub documentation: String,
    /// Its keys, in order of declaration.
    pub keys: Vec<Key>,
}

/// What `section!` implements for a struct of keys.
pub trait Section: Default {
    /// The reference entry under the given name.
    fn reference(name: &'static str) -> SectionReference;

    /// Adds a problem for each value outside of its bounds.
    fn check_bounds(&self, path: &str, problems: &mut Vec<Problem>);
}

/// A type of values, for the reference.
pub(super) trait Value {
    /// What a value looks like.
    fn kind() -> String;

    /// The value as written in TOML; `None`: not set.
    fn show(&self) -> Option<String>;
}

macro_rules! shown_plain {
    ($($type:ty => $kind:literal),*) => {$(
        impl Value for $type {
            fn kind() -> String {
                $kind.to_owned()
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

macro_rules! shown_quoted {
    ($($type:ty => $kind:literal, $display:ident);*) => {$(
        impl Value for $type {
            fn kind() -> String {
                $kind.to_owned()
            }

            fn show(&self) -> Option<String> {
                Some(format!("\"{}\"", self.$display()))
            }
        }
    )*};
}

shown_plain!(bool => "true or false", u8 => "number", u16 => "number", u32 => "number");
shown_quoted!(
    String => "text", as_str;
    PathBuf => "path", display;
    SocketAddr => "address:port", to_string;
    TimeSpan => "duration", to_string;
    ByteSize => "size", to_string;
    Cidr => "address block", to_string
);

impl Value for BTreeMap<String, String> {
    fn kind() -> String {
        "table of text".to_owned()
    }

    fn show(&self) -> Option<String> {
        let shown: Vec<String> = self
            .iter()
            .map(|(key, value)| format!("{key:?} = {value:?}"))
            .collect();
        Some(format!("{{{}}}", shown.join(", ")))
    }
}

impl Value for BTreeMap<String, TenantQuotas> {
    fn kind() -> String {
        "table of quotas".to_owned()
    }

    fn show(&self) -> Option<String> {
        self.is_empty().then(|| "{}".to_owned())
    }
}

impl Value for Token {
    fn kind() -> String {
        "text".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// The kind of a key that is a section of its own: listed there, and not with the keys around it.
const SUBSECTION: &str = "section";

macro_rules! subsection {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn kind() -> String {
                SUBSECTION.to_owned()
            }

            fn show(&self) -> Option<String> {
                None
            }
        }
    )*};
}

subsection!(AuthHttp, ClusterTls);

/// Takes out the keys that are sections of their own.
pub(super) fn plain_keys(mut keys: Vec<Key>) -> Vec<Key> {
    keys.retain(|key| key.kind != SUBSECTION);
    keys
}

impl<T: Value> Value for Option<T> {
    fn kind() -> String {
        T::kind()
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

impl<T: Value> Value for Vec<T> {
    fn kind() -> String {
        format!("list of {}", T::kind())
    }

    fn show(&self) -> Option<String> {
        let shown: Vec<String> = self.iter().filter_map(T::show).collect();
        Some(format!("[{}]", shown.join(", ")))
    }
}

/// Joins the lines of a doc comment.
pub(super) fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Declares a section: `name: type = default, smallest => largest;` with the bounds left out where a type has none.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        pub struct $section:ident {
            $(
                $(#[doc = $doc:literal])*
                $name:ident: $type:ty = $default:expr $(, $min:expr => $max:expr)?;
            )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $section {
            $($(#[doc = $doc])* pub $name: $type,)*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl $crate::config::section::Section for $section {
            fn reference(name: &'static str) -> $crate::config::section::SectionReference {
                use $crate::config::section::{Key, SectionReference, Value, paragraph, plain_keys};
                let defaults = Self::default();
                SectionReference {
                    name,
                    documentation: paragraph(&[$($section_doc),*]),
                    keys: plain_keys(vec![$(Key {
                        name: stringify!($name),
                        documentation: paragraph(&[$($doc),*]),
                        kind: <$type as Value>::kind(),
                        default: Value::show(&defaults.$name),
                        bounds: None$(.or({
                            let (min, max): ($type, $type) = ($min, $max);
                            Some((min.to_string(), max.to_string()))
                        }))?,
                    }),*]),
                }
            }

            #[allow(unused_variables, reason = "a section without bounds has nothing to check")]
            fn check_bounds(&self, path: &str, problems: &mut Vec<$crate::config::section::Problem>) {
                $($(
                    let (min, max): ($type, $type) = ($min, $max);
                    if self.$name < min || self.$name > max {
                        problems.push($crate::config::section::Problem::new(
                            format!("{path}.{}", stringify!($name)),
                            format!("{} is not within {min} and {max}", self.$name),
                        ));
                    }
                )?)*
            }
        }
    };
}
