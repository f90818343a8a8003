//! User name, password, token and certificate of a CONNECT: who among the configured ones knows the client.

use access::jwt;
use mqtt_codec::ReasonCode;

use super::policy::{Policy, Tokens};
use super::{Inner, Outcome, Refusal};
use crate::auth::{Admission, Judgement, Login, Secret};
use crate::config::AuthMethod;

/// What one who was asked says.
enum Answer {
    Known(Box<Admission>),
    /// There is nothing for it to judge.
    NotMine,
    /// It does not know the client; another one may.
    Unknown,
    /// It knows better.
    Wrong,
}

impl Answer {
    fn known(admission: Admission) -> Self {
        Self::Known(Box::new(admission))
    }
}

impl Inner {
    pub(super) async fn login(&self, login: Login) -> Judgement {
        let user = login.username.clone();
        let mut result = self.judge(&login).await;
        if let Ok(admission) = &result
            && let Err(refusal) = self.check_client_id(admission)
        {
            result = Err(refusal);
        }
        self.note(&login, user.as_deref(), &result);
        result.map_err(|refusal| refusal.reason_code)
    }

    async fn judge(&self, login: &Login) -> Result<Admission, Refusal> {
        let shows_something = login.username.is_some() || login.password.is_some();
        // Beside a token a name proves nothing, and many clients may send the same: no failure is held against it.
        let is_guess =
            self.auth.password_file.is_some() && !login.password.as_ref().is_some_and(looks_like_token);
        let user = login.username.as_deref().filter(|_| is_guess);
        if shows_something && self.auth.knows_users() {
            self.check_patience(login, user)?;
        }
        let policy = self.policy.load_full();
        let mut was_judged = false;
        for method in &self.auth.order {
            let answer = match method {
                AuthMethod::Certificate => self.by_certificate(login),
                AuthMethod::Password => self.by_password(&policy, login).await?,
                AuthMethod::Jwt => policy
                    .tokens
                    .as_ref()
                    .map_or(Answer::NotMine, |tokens| self.by_token(tokens, login)),
            };
            match answer {
                Answer::Known(admission) => {
                    // Who has a certificate has shown no password: the failures of the name stay.
                    if *method != AuthMethod::Certificate {
                        self.succeeded(login, user);
                    }
                    return Ok(*admission);
                }
                Answer::NotMine => {}
                Answer::Unknown => was_judged = true,
                Answer::Wrong => {
                    was_judged = true;
                    break;
                }
            }
        }
        if was_judged {
            self.failed(login, user);
        }
        // Where nobody could tell, what a client calls itself is no claim that has to be judged.
        let makes_a_claim = shows_something && self.auth.knows_users();
        if login.permits_anonymous && !makes_a_claim {
            return Ok(Admission::new(login.principal(None), "anonymous"));
        }
        Err(Refusal {
            reason_code: match makes_a_claim {
                true => ReasonCode::BadUserNameOrPassword,
                false => ReasonCode::NotAuthorized,
            },
            result: Outcome::Refused,
        })
    }

    fn by_certificate(&self, login: &Login) -> Answer {
        let Some(certificate) = &login.certificate else {
            return Answer::NotMine;
        };
        match certificate.name(self.auth.certificate_user.into()) {
            Some(name) => Answer::known(Admission::new(
                login.principal(Some(name.to_owned())),
                "certificate",
            )),
            None => Answer::NotMine,
        }
    }

    async fn by_password(&self, policy: &Policy, login: &Login) -> Result<Answer, Refusal> {
        let (Some(file), Some(user), Some(password)) = (&policy.passwords, &login.username, &login.password)
        else {
            return Ok(Answer::NotMine);
        };
        let judged = self.hashing.run(file.check(user), password.clone()).await;
        let is_right = judged.map_err(|_| Refusal {
            reason_code: ReasonCode::ServerBusy,
            result: Outcome::Busy,
        })?;
        Ok(match (is_right, file.knows(user)) {
            (true, _) => Answer::known(Admission {
                mark: file.mark(user),
                ..Admission::new(login.principal(Some(user.clone())), "password")
            }),
            (false, true) => Answer::Wrong,
            (false, false) => Answer::Unknown,
        })
    }

    /// The user is the one that the token names, whatever name was sent along with it.
    fn by_token(&self, tokens: &Tokens, login: &Login) -> Answer {
        let Some(password) = &login.password else {
            return Answer::NotMine;
        };
        let Ok(token) = std::str::from_utf8(&password.0) else {
            return Answer::Unknown;
        };
        match jwt::verify(token, &tokens.policy, &tokens.keys, self.now().as_secs()) {
            Ok(accepted) => {
                let mut principal = login.principal(Some(accepted.user));
                principal.groups = accepted.groups;
                principal.claims = accepted.claims;
                Answer::known(Admission {
                    expires_at_ms: Some(accepted.expires_at.saturating_mul(1000)),
                    ..Admission::new(principal, "jwt")
                })
            }
            Err(_) => Answer::Unknown,
        }
    }
}

/// Three parts, the first of them a JSON object in base64: nobody's password by chance.
fn looks_like_token(password: &Secret) -> bool {
    password.0.starts_with(b"ey") && password.0.iter().filter(|byte| **byte == b'.').count() == 2
}
