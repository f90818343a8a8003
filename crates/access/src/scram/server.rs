//! One exchange: the client's first message, the server's salt and nonce, the client's proof, the server's signature.

use super::Verifier;
use crate::base64::{decode, encode};

/// Longest message accepted, in bytes: names and nonces are short.
const MESSAGE_BYTES_MAX: usize = 2048;

/// How an exchange goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// To be sent to the client, whose next message is awaited.
    Continue(Vec<u8>),
    /// The client is this user; the message is the server's own proof.
    Success {
        /// Who it is.
        user: String,
        /// `v=...`, to be sent with the success.
        message: Vec<u8>,
    },
    /// The client is not, or does not follow the protocol. The exchange is over.
    Failed(Failure),
}

/// Why an exchange failed. Clients are told none of it beyond the reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not what the standard says, or asks for what is not offered: channel binding, acting for another, extensions.
    #[error("the message does not follow SCRAM-SHA-256 as it is offered")]
    Malformed,
    /// Unknown user or wrong password.
    #[error("the proof is wrong")]
    WrongProof,
}

/// One exchange on the server's side.
#[derive(Debug)]
pub struct Server {
    nonce: String,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitsFirst,
    AwaitsProof(Box<Pending>),
    Over,
}

#[derive(Debug)]
struct Pending {
    user: String,
    verifier: Verifier,
    is_known: bool,
    /// `c=` of the last message has to be this.
    channel_binding: String,
    /// Both nonces.
    nonce: String,
    /// Both first messages, as the signatures cover them.
    signed: String,
}

impl Server {
    /// Begins; the nonce has to be random.
    pub fn new(nonce: [u8; 18]) -> Self {
        Self {
            nonce: encode(&nonce),
            state: State::AwaitsFirst,
        }
    }

    /// Takes the client's next message. `verifier_of` gives a user's verifier and whether it is a real one.
    pub fn step(&mut self, message: &[u8], verifier_of: impl FnOnce(&str) -> (Verifier, bool)) -> Outcome {
        let text = match std::str::from_utf8(message) {
            Ok(text) if text.len() <= MESSAGE_BYTES_MAX => text,
            _ => "",
        };
        let outcome = match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitsFirst => self.first(text, verifier_of),
            State::AwaitsProof(pending) => pending.judge(text),
            State::Over => None,
        };
        outcome.unwrap_or(Outcome::Failed(Failure::Malformed))
    }

    /// `n,,n=user,r=nonce`. `None`: malformed.
    fn first(&mut self, text: &str, verifier_of: impl FnOnce(&str) -> (Verifier, bool)) -> Option<Outcome> {
        let (flag, rest) = text.split_once(',')?;
        // `y`: the client would bind to the channel, and saw that it is not offered.
        if flag != "n" && flag != "y" {
            return None;
        }
        let (acting_for, bare) = rest.split_once(',')?;
        let header = &text[..text.len() - bare.len()];
        // No `m=`: an extension that is not known has to end the exchange.
        let (user, nonce) = bare.strip_prefix("n=")?.split_once(",r=")?;
        let user = read_name(user)?;
        let nonce = nonce.split(',').next()?;
        let is_printable = |byte: u8| (0x21..=0x7E).contains(&byte) && byte != b',';
        if nonce.is_empty() || !nonce.bytes().all(is_printable) {
            return None;
        }
        let is_itself = acting_for
            .strip_prefix("a=")
            .map_or(acting_for.is_empty(), |name| {
                read_name(name).as_deref() == Some(&user)
            });
        if !is_itself {
            return None;
        }
        let (verifier, is_known) = verifier_of(&user);
        let nonce = format!("{nonce}{}", self.nonce);
        let answer = format!(
            "r={nonce},s={},i={}",
            encode(verifier.salt()),
            verifier.iterations()
        );
        self.state = State::AwaitsProof(Box::new(Pending {
            user,
            verifier,
            is_known,
            channel_binding: encode(header.as_bytes()),
            nonce,
            signed: format!("{bare},{answer}"),
        }));
        Some(Outcome::Continue(answer.into_bytes()))
    }
}

impl Pending {
    /// `c=header,r=nonces,p=proof`. `None`: malformed.
    fn judge(self, text: &str) -> Option<Outcome> {
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let (binding, rest) = without_proof.strip_prefix("c=")?.split_once(",r=")?;
        let nonce = rest.split(',').next()?;
        if binding != self.channel_binding || nonce != self.nonce {
            return None;
        }
        let proof: [u8; 32] = decode(proof)?.try_into().ok()?;
        let signed = format!("{},{without_proof}", self.signed);
        if !(self.verifier.accepts(&proof, signed.as_bytes()) & self.is_known) {
            return Some(Outcome::Failed(Failure::WrongProof));
        }
        let signature = self.verifier.server_signature(signed.as_bytes());
        Some(Outcome::Success {
            user: self.user,
            message: format!("v={}", encode(&signature)).into_bytes(),
        })
    }
}

/// A name with `=2C` and `=3D` for the two characters that have a meaning. `None`: any other use of them.
fn read_name(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('=') {
        name.push_str(plain);
        name.push(match after.get(..2)? {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        rest = &after[2..];
    }
    name.push_str(rest);
    let is_fit = !name.is_empty() && !rest.contains(',') && !name.contains('\0');
    is_fit.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64;
    use crate::scram::verifier::{sha256, sign};

    /// The exchange of RFC 7677 section 3.
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn pencil() -> Verifier {
        let salt = base64::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Verifier::derive(b"pencil", salt, 4096)
    }

    fn server() -> Server {
        Server {
            nonce: SERVER_NONCE.to_owned(),
            state: State::AwaitsFirst,
        }
    }

    fn step(server: &mut Server, text: &str) -> Outcome {
        server.step(text.as_bytes(), |_| (pencil(), true))
    }

    #[test]
    fn rfc_7677_the_example_exchange() {
        let mut server = server();
        let answer = server.step(CLIENT_FIRST.as_bytes(), |user| {
            assert_eq!(user, "user");
            (pencil(), true)
        });
        assert_eq!(answer, Outcome::Continue(SERVER_FIRST.into()));
        assert_eq!(
            step(&mut server, CLIENT_FINAL),
            Outcome::Success {
                user: "user".to_owned(),
                message: SERVER_FINAL.into(),
            }
        );
        assert_eq!(
            step(&mut server, CLIENT_FINAL),
            Outcome::Failed(Failure::Malformed)
        );
    }

    #[test]
    fn the_verifier_survives_the_file_and_judges_passwords() {
        let verifier = pencil();
        assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier.clone()));
        assert!(verifier.verify(b"pencil"));
        assert!(!verifier.verify(b"pen"));
        assert!(!format!("{verifier:?}").contains("W22Z"));
    }

    #[test]
    fn a_wrong_proof_and_an_unknown_user_are_the_same_failure() {
        let mut wrong = server();
        step(&mut wrong, CLIENT_FIRST);
        let text = CLIENT_FINAL.replace("p=dHz", "p=dHy");
        assert_eq!(step(&mut wrong, &text), Outcome::Failed(Failure::WrongProof));
        let mut unknown = server();
        unknown.step(CLIENT_FIRST.as_bytes(), |_| (pencil(), false));
        assert_eq!(
            step(&mut unknown, CLIENT_FINAL),
            Outcome::Failed(Failure::WrongProof)
        );
    }

    #[test]
    fn a_decoy_accepts_no_proof_that_can_be_made_without_its_keys() {
        // Somebody who guesses that unknown users have a stored key of zeros makes this proof; H(key) would have to be zero.
        let decoy = Verifier::decoy(&[1; 16], 4096);
        let signature = sign(&[0; 32], b"message");
        assert!(!decoy.accepts(&signature, b"message"));
        assert_ne!(sha256(&[0; 32]), [0; 32]);
    }

    #[test]
    fn messages_that_do_not_fit_end_the_exchange() {
        for text in [
            "",
            "n,,n=user",
            "n,,n=,r=abc",
            "p=tls-unique,,n=user,r=abc",
            "x,,n=user,r=abc",
            "n,a=admin,n=user,r=abc",
            "n,,m=ext,n=user,r=abc",
            "n,,n=us=2er,r=abc",
            "n,,n=us=,r=abc",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "n,,n=user,r=\u{e4}",
        ] {
            assert_eq!(
                step(&mut server(), text),
                Outcome::Failed(Failure::Malformed),
                "{text}"
            );
        }
        let mut long = server();
        let text = format!("n,,n=user,r={}", "a".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(step(&mut long, &text), Outcome::Failed(Failure::Malformed));
        assert_eq!(
            server().step(&[0xFF], |_| (pencil(), true)),
            Outcome::Failed(Failure::Malformed)
        );
    }

    #[test]
    fn the_last_message_has_to_repeat_header_and_nonce() {
        for text in [
            CLIENT_FINAL.replace("c=biws", "c=eSws"),
            CLIENT_FINAL.replace("hNlF$k0", "hNlF$k1"),
            CLIENT_FINAL.replace("rOprNGf", ""),
            CLIENT_FINAL.replace(",p=", ",q="),
            "c=biws,p=AAAA".to_owned(),
        ] {
            let mut server = server();
            step(&mut server, CLIENT_FIRST);
            assert_eq!(
                step(&mut server, &text),
                Outcome::Failed(Failure::Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn names_are_unescaped_and_acting_for_oneself_is_allowed() {
        let mut server = server();
        let answer = server.step(b"y,a=a=2Cb=3D,n=a=2Cb=3D,r=abc", |user| {
            assert_eq!(user, "a,b=");
            (pencil(), true)
        });
        assert!(matches!(answer, Outcome::Continue(_)));
    }
}
