//! Who may connect and what they may do: the interface between a connection and whoever judges it, enhanced authentication
//! included (MQTT 5.0 section 4.12). `Gate` is the judge that the configuration describes.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use access::rules::Permissions;
use access::{Certificate, Principal};
use bytes::Bytes;
use mqtt_codec::ReasonCode;
use mqtt_topic::TopicName;

/// What a client shows of itself in CONNECT.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where it connects from.
    pub address: SocketAddr,
    /// The listener it came through.
    pub listener: Arc<str>,
    /// Whether that listener lets clients in that do not say who they are.
    pub permits_anonymous: bool,
    /// Its client id, assigned ones included.
    pub client_id: String,
    /// The client's certificate, as verified by TLS here or by a trusted proxy that ends TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// As sent.
    pub username: Option<String>,
    /// As sent. Not shown by `Debug`.
    pub password: Option<Secret>,
}

impl Login {
    /// What is known of the client when it has proved to be this user, or nobody in particular.
    pub fn principal(&self, user: Option<String>) -> Principal {
        Principal {
            user,
            certificate: self.certificate.clone(),
            ..Principal::anonymous(self.client_id.clone(), self.address.ip())
        }
    }
}

/// Bytes that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Somebody who was let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// Who it is.
    pub principal: Principal,
    /// Who knew the client, in one word: `password`, `jwt`, ... `anonymous`.
    pub by: &'static str,
    /// Milliseconds since 1970 at which it is over.
    pub expires_at_ms: Option<u64>,
    /// Of what the client proved itself by; a reload that changes it ends the admission.
    pub mark: Option<u64>,
}

impl Admission {
    /// Without end.
    pub fn new(principal: Principal, by: &'static str) -> Self {
        Self {
            principal,
            by,
            expires_at_ms: None,
            mark: None,
        }
    }
}

/// The answer to a login: come in, or the reason code of the CONNACK.
pub type Judgement = Result<Admission, ReasonCode>;

/// Judges logins, and says what those who are in may do.
pub trait Authenticator: Send + Sync + 'static {
    /// Judges user name and password, or their absence.
    fn login(&self, login: Login) -> Pin<Box<dyn Future<Output = Judgement> + Send + '_>>;

    /// Begins an exchange by an authentication method; `None`: the method is not known. [MQTT-4.12.0-1]
    fn exchange(&self, method: &str, login: &Login) -> Option<Box<dyn Exchange>>;

    /// What a client may do; `None`: everything.
    fn permissions(&self, _principal: &Principal) -> Option<Permissions> {
        None
    }

    /// Whether there are rules at all.
    fn has_rules(&self) -> bool {
        false
    }

    /// Whether somebody who has left, and of whom only this is known, might be allowed to publish to a topic.
    fn might_publish(&self, _principal: &Principal, _topic: &TopicName) -> bool {
        true
    }

    /// Whether somebody who was let in earlier would be let in now, as far as that can be known.
    fn still_admits(&self, _admission: &Admission) -> bool {
        true
    }

    /// Grows with each reload.
    fn generation(&self) -> u64 {
        0
    }

    /// What it does as long as the node runs, such as fetching keys; it may end before, and is dropped when the node stops.
    fn upkeep(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }

    /// Reads its files again; may block.
    ///
    /// # Errors
    /// One cannot be read: all stays as it was.
    fn reload(&self) -> Result<(), String> {
        Ok(())
    }
}

/// One run of an enhanced authentication, at CONNECT or later.
pub trait Exchange: Send {
    /// Takes the client's data and says how to go on.
    fn step(&mut self, data: Option<Bytes>) -> Step;
}

/// How an exchange goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// AUTH with reason code 0x18 and this data.
    Continue(Bytes),
    /// The client is who it says; the data goes into CONNACK or AUTH 0x00.
    Success(Option<Bytes>, Box<Admission>),
    /// It is not.
    Refuse(ReasonCode),
}

/// Lets everybody in who names a user, others where the listener permits it, and knows no method. For tests.
#[derive(Clone, Copy, Default, Debug)]
pub struct Anonymous;

impl Authenticator for Anonymous {
    fn login(&self, login: Login) -> Pin<Box<dyn Future<Output = Judgement> + Send + '_>> {
        let judgement = match login.username.is_some() || login.permits_anonymous {
            true => Ok(Admission::new(login.principal(None), "anonymous")),
            false => Err(ReasonCode::NotAuthorized),
        };
        Box::pin(std::future::ready(judgement))
    }

    fn exchange(&self, _method: &str, _login: &Login) -> Option<Box<dyn Exchange>> {
        None
    }
}
