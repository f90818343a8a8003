//! `--name value` on a command line of a task.

use anyhow::{Context, Result, bail};

/// The value of `--name`, if given. Anything but the known names is an error.
pub(crate) fn value<'a>(args: &'a [String], known: &[&str], name: &str) -> Result<Option<&'a str>> {
    let mut found = None;
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        if !known.contains(&flag.as_str()) {
            bail!("`{flag}` is not known here; what is: {}", known.join(", "));
        }
        let value = rest.next().with_context(|| format!("{flag} needs a value"))?;
        if flag == name {
            found = Some(value.as_str());
        }
    }
    Ok(found)
}

/// The value of `--name` as a number, or its default.
pub(crate) fn number(args: &[String], known: &[&str], name: &str, default: u64) -> Result<u64> {
    match value(args, known, name)? {
        Some(text) => text
            .parse()
            .with_context(|| format!("{name} {text}: not a number")),
        None => Ok(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_number_is_found_among_other_flags() {
        let known = ["--seconds", "--target"];
        assert_eq!(
            number(&args("--target codec --seconds 7"), &known, "--seconds", 60).unwrap(),
            7
        );
        assert_eq!(number(&args(""), &known, "--seconds", 60).unwrap(), 60);
    }

    #[test]
    fn an_unknown_flag_is_named() {
        let error = value(&args("--rouns 3"), &["--rounds"], "--rounds").unwrap_err();
        assert!(error.to_string().contains("--rouns"));
    }
}
