//! Asking a service who a client is: the question and the answer in JSON, what is remembered of answers, and when a service
//! that does not answer is left alone. How they travel is the broker's business.

mod breaker;
mod cache;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Certificate;
use crate::jwt::claims::{all_texts, words};

pub use breaker::Breaker;
pub use cache::Cache;

/// Longest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a service is told of a client. What the client did not show is left out.
#[derive(Serialize)]
pub struct Question<'a> {
    /// Its client id, assigned ones included.
    pub client_id: &'a str,
    /// As sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// As sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<&'a str>,
    /// Where it connects from, without the port.
    pub address: String,
    /// The name of the listener it came through.
    pub listener: &'a str,
    /// `tcp`, `tls`, `ws` or `wss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'a str>,
    /// Names in its certificate, which has been verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Names<'a>>,
}

/// The names in a certificate.
#[derive(Serialize)]
pub struct Names<'a> {
    common_name: Option<&'a str>,
    dns: &'a [String],
    email: &'a [String],
    uri: &'a [String],
    fingerprint: Option<&'a str>,
}

impl<'a> From<&'a Certificate> for Names<'a> {
    fn from(certificate: &'a Certificate) -> Self {
        Self {
            common_name: certificate.common_name(),
            dns: &certificate.dns_names,
            email: &certificate.emails,
            uri: &certificate.uris,
            fingerprint: certificate.fingerprint.as_deref(),
        }
    }
}

impl Question<'_> {
    /// As it is sent. The same question always has the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text can be written")
    }
}

/// What a service says of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It may come in.
    Allow(Box<Allowed>),
    /// It may not, whoever else knows it.
    Deny,
    /// The service does not know it; another one may.
    Ignore,
}

/// Who a client is that may come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Its user name; `None`: the one that it has sent.
    pub user: Option<String>,
    /// Its groups.
    pub groups: Vec<String>,
    /// What else is said of it, as text, for `claim.NAME` in rules.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Milliseconds since 1970 at which it is over.
    pub expires_at_ms: Option<u64>,
}

/// An answer that cannot be understood: the service is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the answer is not {{\"result\": \"allow\"}}, {{\"result\": \"deny\"}} or {{\"result\": \"ignore\"}} in JSON"
)]
pub struct AnswerError;

impl Answer {
    /// Reads an answer that came at a time, in milliseconds since 1970.
    ///
    /// # Errors
    /// It is something else, or a part of it is of another type. Nothing is guessed.
    pub fn parse(bytes: &[u8], now_ms: u64) -> Result<Self, AnswerError> {
        let answer: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| AnswerError)?;
        match answer.get("result").and_then(Value::as_str) {
            Some("allow") => Allowed::read(&answer, now_ms).map(|allowed| Self::Allow(Box::new(allowed))),
            Some("deny") => Ok(Self::Deny),
            Some("ignore") => Ok(Self::Ignore),
            _ => Err(AnswerError),
        }
    }
}

impl Allowed {
    fn read(answer: &Map<String, Value>, now_ms: u64) -> Result<Self, AnswerError> {
        // `null` is as good as nothing.
        let member = |name: &str| answer.get(name).filter(|value| !value.is_null());
        let user = match member("user") {
            None => None,
            Some(Value::String(user)) if !user.is_empty() => Some(user.clone()),
            Some(_) => return Err(AnswerError),
        };
        let groups = match member("groups") {
            Some(Value::String(_) | Value::Array(_)) | None => words(member("groups")),
            Some(_) => return Err(AnswerError),
        };
        let claims = match member("claims") {
            None => BTreeMap::new(),
            Some(Value::Object(claims)) => all_texts(claims),
            Some(_) => return Err(AnswerError),
        };
        let expires_at_ms = match member("expires_in_s") {
            None => None,
            Some(seconds) => {
                let seconds = seconds.as_u64().ok_or(AnswerError)?;
                Some(now_ms.saturating_add(seconds.saturating_mul(1000)))
            }
        };
        Ok(Self {
            user,
            groups,
            claims,
            expires_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_what_the_client_showed_and_nothing_else() {
        let certificate = Certificate::told_by_proxy("device-7");
        let mut question = Question {
            client_id: "c-1",
            user: None,
            password: None,
            address: "10.0.0.1".to_owned(),
            listener: "mqtt",
            protocol: None,
            certificate: None,
        };
        assert_eq!(
            String::from_utf8(question.to_json()).unwrap(),
            r#"{"client_id":"c-1","address":"10.0.0.1","listener":"mqtt"}"#
        );
        question.user = Some("anna \"quoted\"");
        question.password = Some("secret");
        question.protocol = Some("tls");
        question.certificate = Some(Names::from(&certificate));
        let json: Value = serde_json::from_slice(&question.to_json()).unwrap();
        assert_eq!(json["user"], "anna \"quoted\"");
        assert_eq!(json["certificate"]["common_name"], "device-7");
    }

    #[test]
    fn an_answer_tells_user_groups_claims_and_an_end() {
        let text =
            br#"{"result":"allow","user":"anna","groups":["a","b"],"claims":{"site":7},"expires_in_s":60}"#;
        let Ok(Answer::Allow(allowed)) = Answer::parse(text, 1_000) else {
            panic!("it is allowed");
        };
        assert_eq!(allowed.user.as_deref(), Some("anna"));
        assert_eq!(allowed.groups, ["a", "b"]);
        assert_eq!(allowed.claims["site"], ["7"]);
        assert_eq!(allowed.expires_at_ms, Some(61_000));
        let bare = Answer::parse(br#"{"result":"allow","user":null}"#, 0);
        assert_eq!(bare, Ok(Answer::Allow(Box::default())));
        assert_eq!(Answer::parse(br#"{"result":"deny"}"#, 0), Ok(Answer::Deny));
        assert_eq!(Answer::parse(br#"{"result":"ignore"}"#, 0), Ok(Answer::Ignore));
    }

    #[test]
    fn nothing_is_guessed_from_an_answer_that_is_half_right() {
        for text in [
            "",
            "allow",
            "{}",
            "[]",
            r#"{"result":"Allow"}"#,
            r#"{"result":true}"#,
            r#"{"result":"allow","user":7}"#,
            r#"{"result":"allow","user":""}"#,
            r#"{"result":"allow","groups":{}}"#,
            r#"{"result":"allow","claims":[]}"#,
            r#"{"result":"allow","expires_in_s":-1}"#,
            r#"{"result":"allow","expires_in_s":"60"}"#,
        ] {
            assert_eq!(Answer::parse(text.as_bytes(), 0), Err(AnswerError), "{text}");
        }
    }
}
