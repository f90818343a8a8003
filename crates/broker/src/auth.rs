//! Who may connect: the interface between a CONNECT and whoever judges it, enhanced authentication included
//! (MQTT 5.0 section 4.12).

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use mqtt_codec::ReasonCode;

/// What a client shows of itself in CONNECT.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where it connects from.
    pub address: SocketAddr,
    /// The listener it came through.
    pub listener: String,
    /// Its client id, assigned ones included.
    pub client_id: String,
    /// The common name of the client's certificate, as verified by a proxy that ends TLS and is trusted.
    pub certificate_name: Option<String>,
    /// As sent.
    pub username: Option<String>,
    /// As sent. Not shown by `Debug`.
    pub password: Option<Secret>,
}

/// Bytes that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The answer to a login: come in, or the reason code of the CONNACK.
pub type Judgement = Result<(), ReasonCode>;

/// Judges logins.
pub trait Authenticator: Send + Sync + 'static {
    /// Judges user name and password.
    fn login(&self, login: Login) -> Pin<Box<dyn Future<Output = Judgement> + Send + '_>>;

    /// Begins an exchange by an authentication method; `None`: the method is not known. [MQTT-4.12.0-1]
    fn exchange(&self, method: &str) -> Option<Box<dyn Exchange>>;
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
    Success(Option<Bytes>),
    /// It is not.
    Refuse(ReasonCode),
}

/// Lets everybody in and knows no method. For loopback, and where the operator said so.
#[derive(Clone, Copy, Default, Debug)]
pub struct Anonymous;

impl Authenticator for Anonymous {
    fn login(&self, _login: Login) -> Pin<Box<dyn Future<Output = Judgement> + Send + '_>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn exchange(&self, _method: &str) -> Option<Box<dyn Exchange>> {
        None
    }
}
