//! A whole password file: who has which hash, and what somebody unknown is measured against.

use aws_lc_rs::{digest, hmac};
use foldhash::{HashMap, HashMapExt};

use super::hash::{ArgonCost, PasswordHash};
use crate::LineError;
use crate::scram::Verifier;

/// Longest file in bytes; more is refused.
const FILE_BYTES_MAX: usize = 64 << 20;
const DEFAULT_SCRAM_ITERATIONS: u32 = 4096;
/// So many users' lines decide what somebody unknown is told: who knows one user's password knows less than all of them.
const NEIGHBOURS: usize = 8;

/// What one user has: a hash for passwords, a verifier for SCRAM, or both, on two lines.
#[derive(Debug, Clone, Default)]
struct Entry {
    hash: Option<PasswordHash>,
    scram: Option<Verifier>,
}

/// The users of a password file.
#[derive(Debug)]
pub struct PasswordFile {
    users: HashMap<String, Entry>,
    /// The users, at places that follow from their lines. What somebody unknown is measured against, and told, follows from
    /// those behind the place of the name: it is secret as these lines are, the same on each node with the same file and
    /// after a restart, and changes when they do, as it does for a user whose own line changes.
    ring: Vec<(u64, String)>,
    scram_iterations: u32,
    key: hmac::Key,
}

/// A password still to be judged: what costs time, apart from the file, so that it can be done on another thread.
#[derive(Debug, Clone)]
pub struct Check {
    hash: PasswordHash,
    is_known: bool,
}

impl Check {
    /// Whether it is the user's password. A user who is unknown costs as much as one who is known.
    pub fn run(&self, password: &[u8]) -> bool {
        // No short cut: the hash is computed first, whatever is known.
        let matches = self.hash.verify(password);
        matches & self.is_known
    }
}

impl PasswordFile {
    /// Reads a file. `secret` should be random and stay the same as long as the process lives: marks follow from it.
    ///
    /// # Errors
    /// Every line that cannot be read; nothing of the file is used then.
    pub fn parse(text: &str, secret: [u8; 32]) -> Result<Self, Vec<LineError>> {
        if text.len() > FILE_BYTES_MAX {
            return Err(vec![LineError::new(1, "the file is larger than 64 MiB")]);
        }
        let mut users: HashMap<String, Entry> = HashMap::new();
        let mut errors = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            if is_comment(line) {
                continue;
            }
            if let Err(message) = read_line(line, &mut users) {
                errors.push(LineError::new(index + 1, message));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let place = |(name, entry): (&String, &Entry)| (place(entry.lines().as_bytes()), name.clone());
        let mut ring: Vec<_> = users.iter().map(place).collect();
        ring.sort_unstable();
        let scram_iterations = users
            .values()
            .filter_map(|entry| entry.scram.as_ref())
            .map(Verifier::iterations)
            .max()
            .unwrap_or(DEFAULT_SCRAM_ITERATIONS);
        Ok(Self {
            users,
            ring,
            scram_iterations,
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        })
    }

    /// How many users it has.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether a user is in the file: not to be told to clients.
    pub fn knows(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// What a password of this user is judged by.
    pub fn check(&self, user: &str) -> Check {
        match self.users.get(user).and_then(Entry::for_password) {
            Some(hash) => Check { hash, is_known: true },
            None => Check {
                hash: self.decoy(user),
                is_known: false,
            },
        }
    }

    /// The verifier of a user for SCRAM, and whether it is a real one. A user without one gets salt and iterations that look
    /// like everybody's, always the same, and can prove nothing.
    pub fn scram(&self, user: &str) -> (Verifier, bool) {
        // No short cut: a user without one takes no longer than a user with one.
        let decoy = Verifier::decoy(&self.decoy_salt(user), self.scram_iterations);
        match self.users.get(user).and_then(|entry| entry.scram.clone()) {
            Some(verifier) => (verifier, true),
            None => (decoy, false),
        }
    }

    /// A mark of what a user's lines are; another one when they are changed. `None`: there is no such user.
    pub fn mark(&self, user: &str) -> Option<u64> {
        let entry = self.users.get(user)?;
        Some(number(hmac::sign(&self.key, entry.lines().as_bytes()).as_ref()))
    }

    /// The hash of the user behind the place of the name: it costs what that user's costs, each time.
    fn decoy(&self, user: &str) -> PasswordHash {
        let hash = self.behind(user).find_map(Entry::for_password);
        hash.unwrap_or_else(|| PasswordHash::argon2id(b"", [0; 16], ArgonCost::default()))
    }

    fn decoy_salt(&self, user: &str) -> Vec<u8> {
        let lines: String = self.behind(user).take(NEIGHBOURS).map(Entry::lines).collect();
        let tag = match lines.as_str() {
            // There is nobody to tell it from.
            "" => hmac::sign(&self.key, user.as_bytes()),
            lines => hmac::sign(
                &hmac::Key::new(hmac::HMAC_SHA256, lines.as_bytes()),
                user.as_bytes(),
            ),
        };
        tag.as_ref()[..16].to_vec()
    }

    /// All users, from the place of a name on.
    fn behind(&self, name: &str) -> impl Iterator<Item = &Entry> {
        let place = place(name.as_bytes());
        let first = self.ring.partition_point(|(at, _)| *at < place);
        let (before, after) = self.ring.split_at(first);
        after
            .iter()
            .chain(before)
            .filter_map(|(_, user)| self.users.get(user))
    }
}

impl Entry {
    /// As they are written, without the name.
    fn lines(&self) -> String {
        let text = |line: Option<String>| line.unwrap_or_default() + "\n";
        let hash = self.hash.as_ref().map(PasswordHash::to_string);
        text(hash) + &text(self.scram.as_ref().map(Verifier::to_string))
    }

    fn for_password(&self) -> Option<PasswordHash> {
        self.hash
            .clone()
            .or_else(|| self.scram.clone().map(PasswordHash::Scram))
    }
}

/// Whether a user name can stand in a password file.
///
/// # Errors
/// It is empty, begins with `#`, or has a `:` or a control character.
pub fn check_user_name(user: &str) -> Result<(), &'static str> {
    if user.is_empty() {
        return Err("the user name is empty");
    }
    if user.starts_with('#') || user.contains(|character: char| character == ':' || character.is_control()) {
        return Err("a user name has no `:`, no control characters and no `#` at its beginning");
    }
    Ok(())
}

/// The text of a password file with these hashes for a user in place of all its lines; other lines stay as they are.
pub fn with_user(text: &str, user: &str, hashes: &[PasswordHash]) -> String {
    let (mut kept, _) = without_user(text, user);
    for hash in hashes {
        kept.push_str(&format!("{user}:{hash}\n"));
    }
    kept
}

/// The text of a password file without a user's lines, and whether there were any.
pub fn without_user(text: &str, user: &str) -> (String, bool) {
    let is_users =
        |line: &&str| !is_comment(line) && line.split_once(':').is_some_and(|(name, _)| name == user);
    let mut kept = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !is_users(line)) {
        kept.push_str(line);
        kept.push('\n');
    }
    (kept, text.lines().any(|line| is_users(&line)))
}

/// Where a text is on a ring of them.
fn place(text: &[u8]) -> u64 {
    number(digest::digest(&digest::SHA256, text).as_ref())
}

/// The first eight bytes of a tag.
fn number(tag: &[u8]) -> u64 {
    tag[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('#')
}

fn read_line(line: &str, users: &mut HashMap<String, Entry>) -> Result<(), &'static str> {
    let (user, hash) = line.split_once(':').ok_or("write `user:hash`")?;
    check_user_name(user)?;
    let hash = PasswordHash::parse(hash.trim())?;
    let entry = users.entry(user.to_owned()).or_default();
    let is_second = match hash {
        PasswordHash::Scram(verifier) => entry.scram.replace(verifier).is_some(),
        hash => entry.hash.replace(hash).is_some(),
    };
    if is_second {
        return Err("this user has a line of this kind already");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: ArgonCost = ArgonCost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    fn hash(password: &str) -> PasswordHash {
        PasswordHash::argon2id(password.as_bytes(), [3; 16], CHEAP)
    }

    #[test]
    fn users_come_in_with_their_own_password_only() {
        let text = with_user("# people\n\n", "anna", &[hash("a")]);
        let text = with_user(&text, "b/ob", &[hash("b")]);
        let file = PasswordFile::parse(&text, [1; 32]).unwrap();
        assert_eq!(file.len(), 2);
        assert!(file.check("anna").run(b"a"));
        assert!(!file.check("anna").run(b"b"));
        assert!(file.check("b/ob").run(b"b"));
        assert!(!file.check("b/ob ").run(b"b"));
    }

    #[test]
    fn somebody_unknown_is_measured_against_somebody_elses_hash_and_never_let_in() {
        let text = with_user("", "anna", &[hash("a")]);
        let file = PasswordFile::parse(&text, [1; 32]).unwrap();
        let check = file.check("nobody");
        assert_eq!(check.hash, hash("a"), "the same kind, the same cost");
        assert!(!check.run(b"a"), "not even with the right password of the other");
    }

    #[test]
    fn an_unknown_name_costs_the_same_each_time_as_users_do() {
        let mut text = String::new();
        for (index, passes) in (1..20).enumerate() {
            let cost = ArgonCost { passes, ..CHEAP };
            let hash = PasswordHash::argon2id(b"a", [3; 16], cost);
            text = with_user(&text, &format!("user-{index}"), &[hash]);
        }
        let file = PasswordFile::parse(&text, [1; 32]).unwrap();
        let decoys: Vec<_> = (0..50)
            .map(|index| file.check(&format!("no-{index}")).hash)
            .collect();
        for (index, decoy) in decoys.iter().enumerate() {
            assert_eq!(&file.check(&format!("no-{index}")).hash, decoy);
        }
        assert!(
            decoys.iter().any(|decoy| *decoy != decoys[0]),
            "spread over what users have"
        );
    }

    #[test]
    fn an_empty_file_lets_nobody_in_at_the_usual_cost() {
        let file = PasswordFile::parse("", [1; 32]).unwrap();
        assert!(file.is_empty());
        let check = file.check("anna");
        let PasswordHash::Argon2id { cost, .. } = &check.hash else {
            panic!("{check:?}")
        };
        assert_eq!(*cost, ArgonCost::default());
        assert!(!check.run(b""));
    }

    #[test]
    fn a_user_may_have_a_verifier_beside_the_hash_and_either_alone_judges_passwords() {
        let verifier = Verifier::derive(b"a", vec![5; 16], 4096);
        let text = with_user("", "anna", &[hash("a"), PasswordHash::Scram(verifier.clone())]);
        let text = with_user(&text, "bob", &[PasswordHash::Scram(verifier.clone())]);
        let file = PasswordFile::parse(&text, [1; 32]).unwrap();
        assert_eq!(file.check("anna").hash, hash("a"));
        assert!(file.check("bob").run(b"a"));
        assert!(!file.check("bob").run(b"b"));
        assert_eq!(file.scram("bob"), (verifier, true));
    }

    #[test]
    fn the_verifier_of_somebody_unknown_looks_real_and_stays_the_same() {
        let verifier = Verifier::derive(b"a", vec![5; 16], 5000);
        let text = with_user("", "bob", &[PasswordHash::Scram(verifier)]);
        let file = PasswordFile::parse(&text, [1; 32]).unwrap();
        let (first, is_real) = file.scram("nobody");
        assert!(!is_real);
        assert_eq!(first.iterations(), 5000);
        assert_eq!(file.scram("nobody").0, first);
        assert_ne!(file.scram("someone").0.salt(), first.salt());
    }

    #[test]
    fn what_somebody_unknown_is_told_stays_over_restarts_and_is_the_same_on_all_nodes() {
        let verifier = |salt: u8| PasswordHash::Scram(Verifier::derive(b"a", vec![salt; 16], 4096));
        let user =
            |text: String, number: u8| with_user(&text, &format!("user-{number}"), &[verifier(number)]);
        let text = (0..100).fold(String::new(), user);
        let salts = |text: &str, secret: u8| -> Vec<Vec<u8>> {
            let file = PasswordFile::parse(text, [secret; 32]).unwrap();
            let salt = |number| file.scram(&format!("no-{number}")).0.salt().to_vec();
            (0..100).map(salt).collect()
        };
        let before = salts(&text, 1);
        assert_eq!(before, salts(&text, 2), "another process, another node");
        // Another password of somebody changes some of them, as it changes its own; most stay.
        let changed = with_user(&text, "user-7", &[verifier(200)]);
        let after = salts(&changed, 1);
        let same = before.iter().zip(&after).filter(|(a, b)| a == b).count();
        assert!((50..100).contains(&same), "{same} of 100");
        // Whose password somebody knows does not tell the salt of a name that nobody has.
        let one_line = hmac::Key::new(hmac::HMAC_SHA256, format!("\n{}\n", verifier(7)).as_bytes());
        for (number, salt) in before.iter().enumerate() {
            let guess = hmac::sign(&one_line, format!("no-{number}").as_bytes());
            assert_ne!(salt[..], guess.as_ref()[..16]);
        }
        assert_ne!(
            salts("", 1),
            salts("", 2),
            "with nobody in the file nothing is known to all"
        );
    }

    #[test]
    fn a_mark_changes_with_the_lines_of_its_user_alone() {
        let before = with_user(&with_user("", "anna", &[hash("a")]), "bob", &[hash("b")]);
        let after = with_user(&before, "anna", &[hash("c")]);
        let [before, after] = [before, after].map(|text| PasswordFile::parse(&text, [1; 32]).unwrap());
        assert_eq!(before.mark("bob"), after.mark("bob"));
        assert_ne!(before.mark("anna"), after.mark("anna"));
        assert_eq!(before.mark("nobody"), None);
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = format!(
            "anna:{}\nbob\n:{}\ncarl:plain\nanna:{}\n",
            hash("a"),
            hash("a"),
            hash("b")
        );
        let errors = PasswordFile::parse(&text, [1; 32]).unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 3, 4, 5], "{errors:?}");
        assert!(!errors[2].to_string().contains("plain"), "{errors:?}");
    }

    #[test]
    fn a_user_is_replaced_and_removed_and_the_rest_stays() {
        let text = with_user("# keep\nbob:x\n", "anna", &[hash("a")]);
        let text = with_user(&text, "anna", &[hash("b")]);
        assert_eq!(text, format!("# keep\nbob:x\nanna:{}\n", hash("b")));
        assert_eq!(without_user(&text, "anna"), ("# keep\nbob:x\n".to_owned(), true));
        assert_eq!(without_user("bob:x\n", "anna"), ("bob:x\n".to_owned(), false));
    }

    #[test]
    fn names_that_a_line_cannot_hold_are_refused() {
        for name in ["", "#a", "a:b", "a\nb", "a\0"] {
            assert!(check_user_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "a b", "ä", "a#", "$a"] {
            assert!(check_user_name(name).is_ok(), "{name:?}");
        }
    }
}
