//! `[[listeners]]`: where clients connect, and which of these places are safe to open.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::section::{Problem, Section};
use super::{Auth, Cidr, ClientCertificate, Protocol, ProxyProtocol, TimeSpan};

section! {
    /// Where clients connect: one `[[listeners]]` block each. Without any, MQTT is served on `127.0.0.1:1883` and WebSocket
    /// on `127.0.0.1:8083`.
    pub struct Listener {
        /// Its name in logs, metrics and overrides. Default: `mqtt`, `mqtts`, `ws` or `wss` by protocol, the second of a
        /// kind with `-2` behind it.
        name: String = String::new();
        /// What it speaks below MQTT.
        protocol: Protocol = Protocol::Tcp;
        /// Address and port, to be given. Port 0: any free one, printed at start.
        bind: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
        /// Certificate chain in PEM, for `tls` and `wss`.
        cert: Option<PathBuf> = None;
        /// Private key of the certificate in PEM, for `tls` and `wss`.
        key: Option<PathBuf> = None;
        /// Certificates in PEM of those who sign client certificates. When given, clients are asked for one. Who shows one is the
        /// user that `certificate_user` in `[auth]` finds in it, and may be bound to the client id of `certificate_client_id`.
        client_ca: Option<PathBuf> = None;
        /// Whether a client has to show a certificate, for `client_ca`. With `optional` who has none is known by what else it
        /// shows, or is anonymous where that is allowed; a certificate that is not good is refused all the same.
        client_certificate: ClientCertificate = ClientCertificate::Required;
        /// Lists in PEM of client certificates that are revoked, for `client_ca`: one list of each signer between a client's
        /// certificate and a certificate of `client_ca`. Who is on a list, or whose signer has none or one that is past its
        /// end, is refused in the handshake. Read at the start and again on SIGHUP; who is connected stays.
        client_crl: Option<PathBuf> = None;
        /// Path of the WebSocket, for `ws` and `wss`.
        path: String = String::from("/mqtt");
        /// Origins of web pages that may connect, for `ws` and `wss`, as `https://app.example`; `*` is any. Pages of the host that the
        /// browser connects to may always connect, whatever their port; others get 403. Where clients may be anonymous on a loopback
        /// address, that host has to be `localhost` or a loopback address. Clients that are no browsers do not say an origin.
        allowed_origins: Vec<String> = Vec::new();
        /// Whether clients may come without saying who they are. Who does say it is judged all the same. Default: with `insecure`, and
        /// on loopback addresses without `proxy_protocol`, as long as `[auth]` knows no users.
        allow_anonymous: Option<bool> = None;
        /// Permits plain text beyond loopback, and anonymous clients there as long as `[auth]` knows no users. Logged at each
        /// start.
        insecure: bool = false;
        /// Time after which an idle TCP connection is probed by the kernel, so that lost peers are found. 0s: never.
        tcp_keepalive: TimeSpan = TimeSpan::from_secs(60), TimeSpan::ZERO => TimeSpan::from_secs(32_767);
        /// Time that sent bytes may stay unacknowledged by the peer's kernel before the connection is given up. 0s: the
        /// system's default.
        tcp_user_timeout: TimeSpan = TimeSpan::from_secs(60), TimeSpan::ZERO => TimeSpan::from_days(1);
        /// Whether a proxy in front tells the client's address with a PROXY protocol header (version 1 or 2), before TLS.
        /// `optional` takes a header from trusted addresses and does without; `required` closes connections without one.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// Blocks of addresses whose headers are believed. Default: this machine's own.
        proxy_trusted: Vec<Cidr> = Cidr::loopback();
    }
}

impl Listener {
    /// A listener with the usual name of its protocol and everything else as by default.
    pub fn new(protocol: Protocol, bind: SocketAddr) -> Self {
        Self {
            name: protocol.default_listener_name().to_owned(),
            protocol,
            bind,
            ..Self::default()
        }
    }

    /// The listeners of a node that was told of none.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::new(Protocol::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 1883))),
            Self::new(Protocol::Ws, SocketAddr::from((Ipv4Addr::LOCALHOST, 8083))),
        ]
    }

    /// Whether nobody comes in without a certificate.
    pub fn demands_certificates(&self) -> bool {
        self.client_ca.is_some() && self.client_certificate == ClientCertificate::Required
    }

    /// Whether a client without credentials is let in.
    pub fn permits_anonymous(&self, auth: &Auth) -> bool {
        let by_default = !auth.knows_users() && (self.insecure || self.is_for_this_machine());
        self.allow_anonymous.unwrap_or(by_default)
    }

    /// Whether clients are on this machine: a proxy brings them from anywhere.
    fn is_for_this_machine(&self) -> bool {
        self.bind.ip().is_loopback() && self.proxy_protocol == ProxyProtocol::Off
    }

    /// What about this listener deserves a warning at each start.
    pub fn risks(&self, auth: &Auth) -> Vec<&'static str> {
        let mut risks = Vec::new();
        if self.is_for_this_machine() {
            return risks;
        }
        if !self.protocol.is_encrypted() && !self.bind.ip().is_loopback() {
            risks.push("messages and passwords travel as plain text");
        }
        if self.permits_anonymous(auth) && !self.demands_certificates() {
            risks.push("clients are let in without saying who they are");
        }
        risks
    }

    fn check(&self, path: &str, auth: &Auth, problems: &mut Vec<Problem>) {
        self.check_bounds(path, problems);
        self.check_certificates(path, problems);
        self.check_safety(path, auth, problems);
        if self.proxy_protocol != ProxyProtocol::Off && self.proxy_trusted.is_empty() {
            let message =
                "nobody's header would be believed: add `proxy_trusted = [\"10.0.0.0/8\"]` to this listener";
            problems.push(Problem::new(format!("{path}.proxy_trusted"), message));
        }
        if !self.path.starts_with('/') || self.path.contains(['?', '#', ' ']) {
            let message = format!(
                "`{}` is not a path: it starts with / and has no ?, # or space",
                self.path
            );
            problems.push(Problem::new(format!("{path}.path"), message));
        }
        for (index, origin) in self.allowed_origins.iter().enumerate() {
            if !is_origin(origin) {
                let message = format!(
                    "`{origin}` is not an origin: it has a scheme and a host, and no path, as `https://app.example`, or is `*`"
                );
                problems.push(Problem::new(format!("{path}.allowed_origins[{index}]"), message));
            }
        }
        if !self.protocol.is_websocket() && !self.allowed_origins.is_empty() {
            let message = format!("has no meaning for `{}`: use \"ws\" or \"wss\"", self.protocol);
            problems.push(Problem::new(format!("{path}.allowed_origins"), message));
        }
    }

    fn check_certificates(&self, path: &str, problems: &mut Vec<Problem>) {
        let files = [
            ("cert", &self.cert),
            ("key", &self.key),
            ("client_ca", &self.client_ca),
            ("client_crl", &self.client_crl),
        ];
        for (key, file) in files {
            let needed = self.protocol.is_encrypted() && matches!(key, "cert" | "key");
            if needed && file.is_none() {
                let message = format!(
                    "`{}` needs a certificate: add `{key} = \"server.{key}.pem\"`",
                    self.protocol
                );
                problems.push(Problem::new(format!("{path}.{key}"), message));
            }
            if !self.protocol.is_encrypted() && file.is_some() {
                let message = format!("has no meaning for `{}`: use \"tls\" or \"wss\"", self.protocol);
                problems.push(Problem::new(format!("{path}.{key}"), message));
            }
        }
        let is_optional = self.client_certificate == ClientCertificate::Optional;
        for (key, is_set) in [
            (
                "client_crl",
                self.protocol.is_encrypted() && self.client_crl.is_some(),
            ),
            ("client_certificate", is_optional),
        ] {
            if is_set && self.client_ca.is_none() {
                let message =
                    "no client shows a certificate: add `client_ca = \"clients.pem\"` to this listener";
                problems.push(Problem::new(format!("{path}.{key}"), message));
            }
        }
    }

    /// Beyond loopback, plain text and anonymous clients have to be asked for; where a proxy brings clients from there, anonymous ones.
    fn check_safety(&self, path: &str, auth: &Auth, problems: &mut Vec<Problem>) {
        if self.is_for_this_machine() || self.insecure {
            return;
        }
        if !self.protocol.is_encrypted() && !self.bind.ip().is_loopback() {
            let message = format!(
                "plain text on {} can be read by others on the network: use \"tls\" or \"wss\", bind to 127.0.0.1, \
                 or add `insecure = true` to this listener (flag --insecure)",
                self.bind
            );
            problems.push(Problem::new(format!("{path}.bind"), message));
        }
        if self.demands_certificates() || auth.knows_users() || self.allow_anonymous == Some(true) {
            return;
        }
        if self.proxy_protocol != ProxyProtocol::Off {
            // A proxy may tell of certificates: nobody else comes in then.
            if self.allow_anonymous.is_none() {
                let message = "a proxy brings clients from anywhere, and nothing tells who they are: add `password_file = \"users\"` to \
                               [auth] (made by `flotilla passwd`), `allow_anonymous = true` to this listener to let everyone in, or \
                               `allow_anonymous = false` to let in whose certificates the proxy tells of";
                problems.push(Problem::new(format!("{path}.allow_anonymous"), message));
            }
        } else {
            let message = format!(
                "nothing tells who connects to {}: add `password_file = \"users\"` to [auth] (made by `flotilla passwd`), \
                 `client_ca = \"clients.pem\"` to this listener to ask for certificates, or `allow_anonymous = true` to let \
                 everyone in (flag --insecure)",
                self.bind
            );
            problems.push(Problem::new(format!("{path}.allow_anonymous"), message));
        }
    }
}

/// As a browser says it. `null` is what pages without one say.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    matches!(text, "*" | "null")
        || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', ' ', '*']))
}

/// Gives a name to each listener that has none.
pub(super) fn name_all(listeners: &mut [Listener]) {
    let mut names: HashSet<String> = listeners.iter().map(|listener| listener.name.clone()).collect();
    for listener in listeners.iter_mut().filter(|listener| listener.name.is_empty()) {
        let usual = listener.protocol.default_listener_name();
        let mut name = usual.to_owned();
        let mut number = 2;
        while !names.insert(name.clone()) {
            name = format!("{usual}-{number}");
            number += 1;
        }
        listener.name = name;
    }
}

/// Checks each listener, and that no two have the same name or address.
pub(super) fn check_all(listeners: &[Listener], auth: &Auth, problems: &mut Vec<Problem>) {
    if listeners.is_empty() {
        problems.push(Problem::new("listeners", "is empty: nobody could connect"));
    }
    let mut names = HashSet::new();
    let mut addresses = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let path = format!("listeners[{index}]");
        listener.check(&path, auth, problems);
        if !names.insert(&listener.name) {
            let message = format!("`{}` is the name of another listener, too", listener.name);
            problems.push(Problem::new(format!("{path}.name"), message));
        }
        if listener.bind.port() != 0 && !addresses.insert(listener.bind) {
            let message = format!("{} is the address of another listener, too", listener.bind);
            problems.push(Problem::new(format!("{path}.bind"), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everywhere(protocol: Protocol) -> Listener {
        let with_files = protocol.is_encrypted().then(|| PathBuf::from("a.pem"));
        Listener {
            cert: with_files.clone(),
            key: with_files,
            ..Listener::new(protocol, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1883)))
        }
    }

    fn problem_paths(listeners: &[Listener]) -> Vec<String> {
        let mut problems = Vec::new();
        check_all(listeners, &Auth::default(), &mut problems);
        problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn plain_text_beyond_loopback_has_to_be_asked_for() {
        let mut listener = everywhere(Protocol::Tcp);
        assert_eq!(
            problem_paths(&[listener.clone()]),
            ["listeners[0].bind", "listeners[0].allow_anonymous"]
        );
        listener.insecure = true;
        assert_eq!(problem_paths(&[listener.clone()]), [""; 0]);
        assert!(listener.permits_anonymous(&Auth::default()));
        assert_eq!(listener.risks(&Auth::default()).len(), 2);
    }

    #[test]
    fn anonymous_clients_beyond_loopback_have_to_be_asked_for() {
        let mut listener = everywhere(Protocol::Tls);
        assert_eq!(
            problem_paths(&[listener.clone()]),
            ["listeners[0].allow_anonymous"]
        );
        assert!(!listener.permits_anonymous(&Auth::default()));
        listener.allow_anonymous = Some(true);
        assert_eq!(problem_paths(&[listener.clone()]), [""; 0]);
        assert_eq!(
            listener.risks(&Auth::default()),
            ["clients are let in without saying who they are"]
        );
    }

    #[test]
    fn anonymous_clients_of_a_proxy_have_to_be_asked_for_on_loopback_too() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        for proxy_protocol in [ProxyProtocol::Optional, ProxyProtocol::Required] {
            let mut listener = Listener {
                proxy_protocol,
                ..Listener::new(Protocol::Tcp, loopback)
            };
            let mut problems = Vec::new();
            check_all(std::slice::from_ref(&listener), &Auth::default(), &mut problems);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].message.contains("`allow_anonymous = true`"));
            assert!(!listener.permits_anonymous(&Auth::default()));

            listener.allow_anonymous = Some(true);
            assert_eq!(problem_paths(&[listener.clone()]), [""; 0]);
            assert_eq!(
                listener.risks(&Auth::default()),
                ["clients are let in without saying who they are"]
            );
            // Whoever shows the proxy a certificate, and nobody else.
            listener.allow_anonymous = Some(false);
            assert_eq!(problem_paths(&[listener.clone()]), [""; 0]);
            assert!(!listener.permits_anonymous(&Auth::default()));
        }
    }

    #[test]
    fn origins_are_those_of_web_pages_and_for_websockets_alone() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let with = |protocol, origins: &[&str]| {
            problem_paths(&[Listener {
                allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
                ..Listener::new(protocol, loopback)
            }])
        };
        let good = ["https://app.example", "http://[::1]:3000", "null", "*"];
        assert_eq!(with(Protocol::Ws, &good), [""; 0]);
        for bad in [
            "app.example",
            "https://app.example/",
            "https://*.example",
            "https://",
            "",
        ] {
            assert_eq!(with(Protocol::Ws, &[bad]), ["listeners[0].allowed_origins[0]"]);
        }
        assert_eq!(with(Protocol::Tcp, &["*"]), ["listeners[0].allowed_origins"]);
    }

    #[test]
    fn a_password_file_tells_who_connects_everywhere() {
        let auth = Auth {
            password_file: Some("users".into()),
            ..Auth::default()
        };
        let mut problems = Vec::new();
        let listener = everywhere(Protocol::Tls);
        check_all(std::slice::from_ref(&listener), &auth, &mut problems);
        assert_eq!(problems, []);
        assert!(!listener.permits_anonymous(&auth));
        assert_eq!(listener.risks(&auth), [""; 0]);
        let home = Listener::new(Protocol::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        assert!(home.permits_anonymous(&Auth::default()));
        assert!(
            !home.permits_anonymous(&auth),
            "a proxy may be in front of loopback"
        );
        let open = Listener {
            allow_anonymous: Some(true),
            ..home
        };
        assert!(open.permits_anonymous(&auth));
    }

    #[test]
    fn client_certificates_tell_who_connects() {
        let listener = Listener {
            client_ca: Some("ca.pem".into()),
            ..everywhere(Protocol::Wss)
        };
        assert_eq!(problem_paths(std::slice::from_ref(&listener)), [""; 0]);
        assert_eq!(listener.risks(&Auth::default()), [""; 0]);
    }

    #[test]
    fn certificates_that_need_not_be_shown_do_not_tell_who_connects() {
        let mut listener = Listener {
            client_ca: Some("ca.pem".into()),
            client_certificate: ClientCertificate::Optional,
            ..everywhere(Protocol::Tls)
        };
        assert_eq!(
            problem_paths(std::slice::from_ref(&listener)),
            ["listeners[0].allow_anonymous"]
        );
        listener.allow_anonymous = Some(true);
        assert_eq!(problem_paths(std::slice::from_ref(&listener)), [""; 0]);
        assert_eq!(
            listener.risks(&Auth::default()),
            ["clients are let in without saying who they are"]
        );
        listener.client_ca = None;
        assert_eq!(problem_paths(&[listener]), ["listeners[0].client_certificate"]);
    }

    #[test]
    fn encrypted_listeners_need_both_files_and_plain_ones_none() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert_eq!(
            problem_paths(&[Listener::new(Protocol::Tls, loopback)]),
            ["listeners[0].cert", "listeners[0].key"]
        );
        let plain = Listener {
            client_ca: Some("ca.pem".into()),
            ..Listener::new(Protocol::Ws, loopback)
        };
        assert_eq!(problem_paths(&[plain]), ["listeners[0].client_ca"]);
    }

    #[test]
    fn nameless_listeners_are_named_by_protocol() {
        let mut listeners = vec![Listener::default(), Listener::default(), Listener::default()];
        listeners[1].name = "mqtt".to_owned();
        name_all(&mut listeners);
        let names: Vec<_> = listeners.iter().map(|listener| listener.name.as_str()).collect();
        assert_eq!(names, ["mqtt-2", "mqtt", "mqtt-3"]);
    }

    #[test]
    fn names_and_addresses_are_used_once() {
        let listener = Listener::new(Protocol::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)));
        assert_eq!(
            problem_paths(&[listener.clone(), listener]),
            ["listeners[1].name", "listeners[1].bind"]
        );
        assert_eq!(problem_paths(&[]), ["listeners"]);
    }
}
