//! `flotilla passwd`: adds, changes and removes users of a password file. The file is replaced as a whole, so that a node
//! that reads it meanwhile sees the old one or the new one.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use access::password::{ArgonCost, PasswordHash, check_user_name, with_user, without_user};
use access::scram::Verifier;
use anyhow::{Context, bail, ensure};

use crate::arguments::PasswdArguments;

/// Rounds of a SCRAM verifier: the client has to do them at each login, so not as many as OWASP names for stored hashes.
const SCRAM_ITERATIONS: u32 = 15_000;

pub(crate) fn run(arguments: &PasswdArguments) -> anyhow::Result<()> {
    let (path, user) = (&arguments.file, &arguments.user);
    check_user_name(user).map_err(anyhow::Error::msg)?;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !arguments.delete => String::new(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let text = if arguments.delete {
        let (text, was_there) = without_user(&text, user);
        ensure!(was_there, "{}: there is no user `{user}`", path.display());
        text
    } else {
        let password = read_password()?;
        with_user(&text, user, &hashes(&password, arguments.scram)?)
    };
    replace(path, &text).with_context(|| format!("writing {}", path.display()))?;
    eprintln!(
        "{} is written; running nodes read it when they see that it has changed, or on SIGHUP",
        path.display()
    );
    Ok(())
}

fn hashes(password: &str, scram: bool) -> anyhow::Result<Vec<PasswordHash>> {
    ensure!(!password.is_empty(), "the password is empty");
    let mut hashes = vec![PasswordHash::argon2id(
        password.as_bytes(),
        rand::random(),
        ArgonCost::default(),
    )];
    if scram {
        // Beyond ASCII, clients change what is typed (SASLprep, RFC 4013) before they hash it, each in its own way.
        ensure!(
            password.is_ascii(),
            "a password for SCRAM has ASCII characters only"
        );
        let salt: [u8; 16] = rand::random();
        let verifier = Verifier::derive(password.as_bytes(), salt.to_vec(), SCRAM_ITERATIONS);
        hashes.push(PasswordHash::Scram(verifier));
    }
    Ok(hashes)
}

/// From a terminal twice and unseen; else the first line of standard input.
fn read_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return read_line();
    }
    let first = ask("Password: ")?;
    if ask("Again: ")? != first {
        bail!("these are two different passwords");
    }
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    io::stderr().flush()?;
    let echo = |mode| Command::new("stty").arg(mode).stdin(Stdio::inherit()).status();
    let is_hidden = echo("-echo").is_ok_and(|status| status.success());
    let line = read_line();
    if is_hidden {
        let _ = echo("echo");
        eprintln!();
    }
    line
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("reading the password")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// A new file is for its owner alone; one that is there keeps who may read it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays one: what it names is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    if let Ok(old) = fs::metadata(&path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use access::password::PasswordFile;

    use super::*;

    #[test]
    fn a_password_can_be_used_by_whom_it_was_made_for() {
        let text = with_user("", "anna", &hashes("secret", true).unwrap());
        let file = PasswordFile::parse(&text, [0; 32]).unwrap();
        assert!(file.check("anna").run(b"secret"));
        assert!(file.scram("anna").1);
        assert!(hashes("", false).is_err());
        assert!(hashes("geheimnüs", true).is_err());
        assert!(hashes("geheimnüs", false).is_ok());
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        replace(&path, "a\n").unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, "b\n").unwrap();
        assert_eq!(
            (mode(&path), fs::read_to_string(&path).unwrap().as_str()),
            (0o640, "b\n")
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }
}
