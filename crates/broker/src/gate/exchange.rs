//! SCRAM-SHA-256 in AUTH packets. The server's part of it is two signatures: nothing that needs the hashing threads, and nothing
//! that others could not wait for.

use std::sync::Arc;

use access::password::PasswordFile;
use access::scram::{Outcome as Answer, Server};
use bytes::Bytes;
use mqtt_codec::ReasonCode;

use super::{Inner, Outcome, Refusal, keys};
use crate::auth::{Admission, Exchange, Login, Step};

pub(super) struct ScramExchange {
    gate: Arc<Inner>,
    passwords: Arc<PasswordFile>,
    login: Login,
    server: Server,
    /// Whom the client says it is, from its first message on.
    user: Option<String>,
}

impl ScramExchange {
    pub(super) fn new(gate: Arc<Inner>, passwords: Arc<PasswordFile>, login: Login) -> Self {
        let mut nonce = [0; 18];
        rand::fill(&mut nonce);
        Self {
            gate,
            passwords,
            login,
            server: Server::new(nonce),
            user: None,
        }
    }

    fn judge(&mut self, message: &[u8]) -> Result<Step, Refusal> {
        // Valid in CONNACK and in DISCONNECT, unlike 0x86.
        let refusal = || Refusal {
            reason_code: ReasonCode::NotAuthorized,
            result: Outcome::Refused,
        };
        // Held until it is judged: of many challenges that are answered at once, each proof is judged after those before it.
        let mut failures = self.gate.turns.hold();
        if self.user.is_some() {
            failures.check(&keys(&self.login, self.user.as_deref()))?;
        }
        let (passwords, user) = (&self.passwords, &mut self.user);
        let answer = self.server.step(message, |name| {
            *user = Some(name.to_owned());
            passwords.scram(name)
        });
        let keys = keys(&self.login, self.user.as_deref());
        match answer {
            Answer::Continue(challenge) => {
                failures.check(&keys)?;
                Ok(Step::Continue(challenge.into()))
            }
            Answer::Success { user, message } => {
                failures.succeeded(&keys);
                drop(failures);
                let admission = Admission {
                    mark: self.passwords.mark(&user),
                    ..Admission::new(self.login.principal(Some(user)), "scram")
                };
                self.gate.check_client_id(&admission)?;
                Ok(Step::Success(Some(message.into()), Box::new(admission)))
            }
            Answer::Failed(_) => {
                failures.failed(keys);
                Err(refusal())
            }
        }
    }
}

impl Exchange for ScramExchange {
    fn step(&mut self, data: Option<Bytes>) -> Step {
        let judged = self.judge(&data.unwrap_or_default());
        let user = self.user.as_deref();
        match judged {
            Ok(Step::Success(message, admission)) => {
                self.gate
                    .note(&self.login, user, &Ok(Admission::clone(&admission)));
                Step::Success(message, admission)
            }
            Ok(step) => step,
            Err(refusal) => {
                let reason_code = refusal.reason_code;
                self.gate.note(&self.login, user, &Err(refusal));
                Step::Refuse(reason_code)
            }
        }
    }
}
