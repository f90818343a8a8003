//! User name, password, token and certificate of a CONNECT: who among the configured ones knows the client.

use access::inquiry::Answer as ServiceAnswer;
use access::jwt;
use mqtt_codec::ReasonCode;
use tokio::time::Instant;

use super::policy::{Policy, Tokens};
use super::service::Unanswered;
use super::{Inner, Outcome, Refusal, Said, keys};
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
        let is_guess = (self.auth.password_file.is_some() || self.service.is_some())
            && !login.password.as_ref().is_some_and(looks_like_token);
        let keys = keys(login, login.username.as_deref().filter(|_| is_guess));
        // Its turn lasts until it is judged.
        let _turns = match shows_something && self.auth.knows_users() {
            true => self.turns.take(&keys).await?,
            false => Vec::new(),
        };
        let policy = self.policy.load_full();
        let (mut was_judged, mut is_denied) = (false, false);
        for method in &self.auth.order {
            let begun = Instant::now();
            let answer = match method {
                AuthMethod::Certificate => Ok(self.by_certificate(login)),
                AuthMethod::Password => self.by_password(&policy, login).await,
                AuthMethod::Jwt => self.by_token(&policy, login).await,
                AuthMethod::Http => self.by_service(&policy, login).await,
            };
            self.measure(*method, &answer, begun);
            match answer? {
                Answer::Known(admission) => {
                    // Who has a certificate has shown no password: the failures of the name stay.
                    if *method != AuthMethod::Certificate {
                        self.turns.hold().succeeded(&keys);
                    }
                    return Ok(*admission);
                }
                Answer::NotMine => {}
                Answer::Unknown => was_judged = true,
                Answer::Wrong => {
                    (was_judged, is_denied) = (true, true);
                    break;
                }
            }
        }
        if was_judged {
            self.turns.hold().failed(keys);
        }
        // Where nobody could tell, what a client calls itself is no claim that has to be judged.
        let makes_a_claim = is_denied || (shows_something && self.auth.knows_users());
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
        let is_right = judged.map_err(|_| busy())?;
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
    async fn by_token(&self, policy: &Policy, login: &Login) -> Result<Answer, Refusal> {
        let (Some(tokens), Some(password)) = (&policy.tokens, &login.password) else {
            return Ok(Answer::NotMine);
        };
        let Ok(token) = std::str::from_utf8(&password.0) else {
            return Ok(Answer::Unknown);
        };
        Ok(match self.verify(tokens, token).await? {
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
        })
    }

    /// By the keys of the files, by those that were fetched, and by those that a fetch brings now.
    async fn verify(
        &self,
        tokens: &Tokens,
        token: &str,
    ) -> Result<Result<jwt::Accepted, jwt::Refusal>, Refusal> {
        let by = |keys: &jwt::KeySet| jwt::verify(token, &tokens.policy, keys, self.now().as_secs());
        let judged = by(&tokens.keys);
        let (Some(fetched), Err(jwt::Refusal::NoKey | jwt::Refusal::Signature)) = (&self.key_sets, &judged)
        else {
            return Ok(judged);
        };
        let judged = by(&fetched.keys());
        if !matches!(judged, Err(jwt::Refusal::NoKey)) {
            return Ok(judged);
        }
        fetched.look_again().await;
        match fetched.are_known() {
            true => Ok(by(&fetched.keys())),
            false => Err(unavailable()),
        }
    }

    /// A service knows what the client shows, or says that it does not.
    async fn by_service(&self, policy: &Policy, login: &Login) -> Result<Answer, Refusal> {
        let (Some(service), Some(client)) = (&self.service, &policy.service) else {
            return Ok(Answer::NotMine);
        };
        let shows_something = login.username.is_some() || login.password.is_some();
        if !shows_something && login.certificate.is_none() {
            return Ok(Answer::NotMine);
        }
        Ok(match service.ask(client, login).await.map_err(unanswered)? {
            ServiceAnswer::Allow(allowed) => {
                let mut principal = login.principal(allowed.user.or_else(|| login.username.clone()));
                principal.groups = allowed.groups;
                principal.claims = allowed.claims;
                Answer::known(Admission {
                    expires_at_ms: allowed.expires_at_ms,
                    ..Admission::new(principal, "http")
                })
            }
            ServiceAnswer::Deny => Answer::Wrong,
            ServiceAnswer::Ignore if shows_something => Answer::Unknown,
            ServiceAnswer::Ignore => Answer::NotMine,
        })
    }

    fn measure(&self, method: AuthMethod, answer: &Result<Answer, Refusal>, begun: Instant) {
        let said = match answer {
            Ok(Answer::NotMine) => return,
            Ok(Answer::Known(_)) => Said::Allow,
            Ok(Answer::Wrong) => Said::Deny,
            Ok(Answer::Unknown) => Said::Ignore,
            Err(_) => Said::Unavailable,
        };
        self.metrics.asked[method as usize][said as usize].increment(1);
        self.metrics.durations[method as usize].record(begun.elapsed());
    }
}

/// Nobody can say whether the client is right: it may try again.
fn unavailable() -> Refusal {
    Refusal {
        reason_code: ReasonCode::ServerUnavailable,
        result: Outcome::Unavailable,
    }
}

/// Too many wait: it may try again.
fn busy() -> Refusal {
    Refusal {
        reason_code: ReasonCode::ServerBusy,
        result: Outcome::Busy,
    }
}

fn unanswered(why: Unanswered) -> Refusal {
    match why {
        Unanswered::Busy => busy(),
        Unanswered::Unavailable => unavailable(),
    }
}

/// Three parts, the first of them a JSON object in base64: nobody's password by chance.
fn looks_like_token(password: &Secret) -> bool {
    password.0.starts_with(b"ey") && password.0.iter().filter(|byte| **byte == b'.').count() == 2
}
