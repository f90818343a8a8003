//! `[auth]` and `[access]`: how clients show who they are, and what they may do then.

use std::path::PathBuf;

use access::jwt::Algorithm;
use access::{Certificate, ClientIdRule, NameSource};

use super::auth_http::check_url;
use super::section::{Problem, Section};
use super::{AuthHttp, AuthMethod, CertificateName, ClientIds, JwtAlgorithm, Listener, TimeSpan};

section! {
    /// How clients show who they are. Files are read at the start and again when they change; when one cannot be read then, all stays
    /// as it was.
    pub struct Auth {
        /// Who is asked, in this order, until one knows the client. One that is not configured, or that the client shows
        /// nothing for, is passed over. A known user with a wrong password is refused; what cannot be judged is refused.
        order: Vec<AuthMethod> = vec![AuthMethod::Certificate, AuthMethod::Password, AuthMethod::Jwt,
            AuthMethod::Http];
        /// Users and their passwords, one `user:hash` a line, as `flotilla passwd` and `mosquitto_passwd` write them.
        password_file: Option<PathBuf> = None;
        /// Whether users of the password file with a line for it (`flotilla passwd --scram`) may use the authentication
        /// method SCRAM-SHA-256 of MQTT 5.0, which shows the password to nobody.
        scram: bool = true;
        /// Which name in a certificate is the user name. A certificate without it, or with more than one, names nobody.
        certificate_user: CertificateName = CertificateName::CommonName;
        /// Which name in a certificate is the client id, as for devices that have one each. Who shows a certificate and says another
        /// client id, or has no such name in it, is refused with 0x85 (client identifier not valid); who says none gets this one,
        /// which CONNACK says. It is in the place of `client_ids` for them. Not set: a certificate says nothing of client ids.
        certificate_client_id: Option<CertificateName> = None;
        /// Keys for JSON Web Tokens, sent as passwords: public keys in PEM, key sets (JWKS), or a secret of 32 bytes or more,
        /// which is refused when it looks like something public.
        jwt_keys: Vec<PathBuf> = Vec::new();
        /// Where a key set (JWKS) is fetched, at the start and again, as `https://id.example/keys`: at most 1,000 keys and
        /// 1 MiB. When it cannot be fetched, the last one stays. `https`, or `http` on this machine.
        jwt_keys_url: Option<String> = None;
        /// Certificates in PEM of those who sign the certificate of `jwt_keys_url`, for `https`.
        jwt_keys_ca: Option<PathBuf> = None;
        /// Time between two fetches. A token with an unknown key id causes one at once, though none within 10 seconds of the
        /// last; after a failed one the next comes within 10 seconds, too.
        jwt_keys_interval: TimeSpan = TimeSpan::from_secs(600), TimeSpan::from_secs(10) => TimeSpan::from_days(1);
        /// Ways of signing that are accepted: `HS256`, `RS256`, `ES256`, `EdDSA`. To be given with `jwt_keys` and
        /// `jwt_keys_url`.
        jwt_algorithms: Vec<JwtAlgorithm> = Vec::new();
        /// By how much the clocks of issuer and broker may differ.
        jwt_leeway: TimeSpan = TimeSpan::from_secs(30), TimeSpan::ZERO => TimeSpan::from_secs(600);
        /// If given, the issuer (`iss`) that tokens have to name.
        jwt_issuer: Option<String> = None;
        /// If given, the audience (`aud`) that tokens have to name.
        jwt_audience: Option<String> = None;
        /// The claim with the user name. A token without it, or without an end (`exp`), is refused; when the end comes, the
        /// connection is closed with 0xA0 (maximum connect time).
        jwt_user_claim: String = String::from("sub");
        /// The claim with the groups: a list, or words with spaces between them.
        jwt_groups_claim: String = String::from("groups");
        /// Which client ids a user may have, so that nobody takes over another user's session. Others are refused with 0x85
        /// (client identifier not valid). `user-prefix` permits the user name, and with `-`, `:` or `.` and more behind it; one that
        /// begins like that with a longer name of `password_file` is that user's alone. Where names come from elsewhere, see to it
        /// that none is another one with such a sign and more behind it. With `certificate_client_id` it is for those without a
        /// certificate.
        client_ids: ClientIds = ClientIds::Any;
        /// Passwords that are judged at the same time, each on a thread of its own; others wait.
        hashing_threads: u16 = 2, 1 => 256;
        /// Passwords that wait to be judged. One more is refused with 0x89 (server busy).
        hashing_waiting_max: u32 = 1000, 1 => 1_000_000;
        /// Failed logins of an address or for a user name that have no consequence. After each further one the next has to
        /// wait twice as long, from one second on; until then it is refused with 0x9F (connection rate exceeded). Logins that come
        /// at once are judged one more than this at a time, and one more for each that is right; the others wait for these.
        failures_free: u32 = 10, 0 => 1_000_000;
        /// Longest such wait. Failures are forgotten after ten times as long, or with the next success.
        failure_wait_max: TimeSpan = TimeSpan::from_secs(30), TimeSpan::from_secs(1) => TimeSpan::from_secs(3600);
        /// A service that is asked: `[auth.http]`.
        http: AuthHttp = AuthHttp::default();
    }
}

section! {
    /// What clients may publish and subscribe. Without either file everything but topics that begin with `$`, which can be
    /// subscribed to and not published. With one, what no rule allows is denied: a PUBLISH with 0x87 (not authorized) in its
    /// acknowledgement, or dropped where there is none, a SUBSCRIBE with 0x87 for the filter concerned (0x80 before
    /// MQTT 5.0), a CONNECT with such a will with 0x87. Read at the start and again on SIGHUP, then also for those who are
    /// connected: who has a subscription or a will that is not allowed any more is disconnected with 0x87.
    pub struct Access {
        /// Rules, one a line, of which the first that matches decides: `allow` or `deny`; `publish`, `subscribe` or `all`; a
        /// topic filter, where `${user}`, `${client}`, `${cn}` and `${claim.NAME}` are the client's own; conditions that all
        /// have to hold: `user=`, `client=`, `tenant=`, `group=`, `address=`, `cn=`, `dns=`, `email=`, `uri=`, `fingerprint=`,
        /// `claim.NAME=`, `anonymous`. `group NAME USER...` makes a group. A name that cannot stand in one level, and a claim with
        /// more than one value, allow nothing and deny everything from that level on.
        rules: Option<PathBuf> = None;
        /// An `acl_file` of mosquitto instead. One thing is stricter: a SUBSCRIBE has to lie inside what may be read.
        mosquitto_acl: Option<PathBuf> = None;
    }
}

impl Auth {
    /// Whether anything but certificates can tell who a client is.
    pub fn knows_users(&self) -> bool {
        self.password_file.is_some() || self.has_tokens() || self.http.url.is_some()
    }

    /// The client id of who shows a certificate. The outer `None`: any it likes; the inner one: no name in it can be one.
    pub fn client_id_by<'a>(&self, certificate: Option<&'a Certificate>) -> Option<Option<&'a str>> {
        let (source, certificate) = (self.certificate_client_id?, certificate?);
        Some(certificate.name(source.into()))
    }

    /// Whether tokens are accepted.
    pub fn has_tokens(&self) -> bool {
        !self.jwt_keys.is_empty() || self.jwt_keys_url.is_some()
    }

    /// What deserves a warning at each start.
    pub fn risks(&self) -> Vec<&'static str> {
        let is_risky = self.http.is_risky();
        let risk = is_risky
            .then_some("auth.http.url: passwords travel as plain text, and so does what lets clients in");
        risk.into_iter().collect()
    }

    pub(super) fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        self.check_bounds(path, problems);
        self.http.check(&format!("{path}.http"), problems);
        if let Some(url) = &self.jwt_keys_url {
            check_url(
                (&format!("{path}.jwt_keys_url"), url),
                (&format!("{path}.jwt_keys_ca"), self.jwt_keys_ca.is_some()),
                false,
                problems,
            );
        }
        if self.has_tokens() && self.jwt_algorithms.is_empty() {
            let message = "is missing: say how tokens are signed, as `jwt_algorithms = [\"ES256\"]`";
            problems.push(Problem::new(format!("{path}.jwt_algorithms"), message));
        }
        for (method, is_there) in [
            (AuthMethod::Password, self.password_file.is_some()),
            (AuthMethod::Jwt, self.has_tokens()),
            (AuthMethod::Http, self.http.url.is_some()),
        ] {
            if is_there && !self.order.contains(&method) {
                let message = format!("`{method}` is configured and not asked: add \"{method}\"");
                problems.push(Problem::new(format!("{path}.order"), message));
            }
        }
    }
}

impl Access {
    /// Whether there are rules.
    pub fn has_rules(&self) -> bool {
        self.rules.is_some() || self.mosquitto_acl.is_some()
    }

    /// What deserves a warning at each start: clients are told apart, and all may do the same.
    pub fn risks(&self, auth: &Auth, listeners: &[Listener]) -> Vec<&'static str> {
        let by_certificate = || listeners.iter().any(|listener| listener.client_ca.is_some());
        let has_users = auth.knows_users() || by_certificate();
        let risk = (has_users && !self.has_rules()).then_some(
            "there are users and no rules: everybody who logs in may publish and subscribe to everything (a tenant's \
             clients to all of the tenant's). Say who may do what: access.rules = \"rules\"",
        );
        risk.into_iter().collect()
    }

    pub(super) fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        self.check_bounds(path, problems);
        if self.rules.is_some() && self.mosquitto_acl.is_some() {
            let message = "there are `rules`, too: one of the two files decides, not both";
            problems.push(Problem::new(format!("{path}.mosquitto_acl"), message));
        }
    }
}

impl From<CertificateName> for NameSource {
    fn from(name: CertificateName) -> Self {
        match name {
            CertificateName::CommonName => Self::CommonName,
            CertificateName::Dns => Self::Dns,
            CertificateName::Email => Self::Email,
            CertificateName::Uri => Self::Uri,
            CertificateName::Fingerprint => Self::Fingerprint,
        }
    }
}

impl From<ClientIds> for ClientIdRule {
    fn from(ids: ClientIds) -> Self {
        match ids {
            ClientIds::Any => Self::Any,
            ClientIds::User => Self::User,
            ClientIds::UserPrefix => Self::UserPrefix,
        }
    }
}

impl From<JwtAlgorithm> for Algorithm {
    fn from(algorithm: JwtAlgorithm) -> Self {
        match algorithm {
            JwtAlgorithm::Hs256 => Self::Hs256,
            JwtAlgorithm::Rs256 => Self::Rs256,
            JwtAlgorithm::Es256 => Self::Es256,
            JwtAlgorithm::EdDsa => Self::EdDsa,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(auth: &Auth) -> Vec<String> {
        let mut problems = Vec::new();
        auth.check("auth", &mut problems);
        problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn keys_for_tokens_come_with_their_algorithms_and_what_is_configured_is_asked() {
        let mut auth = Auth {
            jwt_keys: vec!["keys.pem".into()],
            ..Auth::default()
        };
        assert_eq!(paths(&auth), ["auth.jwt_algorithms"]);
        auth.jwt_algorithms = vec![JwtAlgorithm::Es256];
        assert_eq!(paths(&auth), [""; 0]);
        auth.order = vec![AuthMethod::Password];
        assert_eq!(paths(&auth), ["auth.order"]);
    }

    #[test]
    fn there_is_one_file_of_rules() {
        let access = Access {
            rules: Some("a".into()),
            mosquitto_acl: Some("b".into()),
        };
        let mut problems = Vec::new();
        access.check("access", &mut problems);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn users_without_rules_are_a_risk_and_nobody_is_none() {
        let rules = Access {
            rules: Some("rules".into()),
            ..Access::default()
        };
        let none = Access::default();
        let users = Auth {
            password_file: Some("users".into()),
            ..Auth::default()
        };
        let plain = [Listener::default()];
        let devices = [Listener {
            client_ca: Some("devices.pem".into()),
            ..Listener::default()
        }];
        for (access, auth, listeners, risks) in [
            (&none, &Auth::default(), &plain, 0),
            (&none, &users, &plain, 1),
            (&none, &Auth::default(), &devices, 1),
            (&rules, &users, &devices, 0),
        ] {
            assert_eq!(access.risks(auth, listeners).len(), risks, "{access:?} {auth:?}");
        }
    }
}
