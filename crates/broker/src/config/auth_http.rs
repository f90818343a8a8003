//! `[auth.http]`: a service that is asked who a client is; and which addresses of services are safe to ask.

use std::net::IpAddr;
use std::path::PathBuf;

use hyper::Uri;

use super::TimeSpan;
use super::section::Problem;

section! {
    /// A service that is asked who a client is, by a POST of JSON: `docs/authentication.md` has both documents. It is asked
    /// only for clients that show a user name, a password or a certificate. When it does not answer or cannot be understood, the
    /// client is refused with 0x88 (server unavailable).
    pub struct AuthHttp {
        /// Where it is asked, as `https://auth.example/mqtt`. Not set: nobody is asked. Plain `http` has to stay on this
        /// machine, unless `insecure` is set.
        url: Option<String> = None;
        /// Certificates in PEM of those who sign the service's certificate, for `https`.
        ca: Option<PathBuf> = None;
        /// Permits plain `http` beyond loopback: whoever is on the way reads the passwords and can let everybody in. Logged at
        /// each start.
        insecure: bool = false;
        /// Time for one question, with the connection. Then the client is refused.
        timeout: TimeSpan = TimeSpan::from_secs(5), TimeSpan::from_millis(10) => TimeSpan::from_secs(60);
        /// Questions under way at the same time. Others wait for a place, no longer than `timeout`; then the client is refused with
        /// 0x89 (server busy), which says nothing of the service. `auth.failures_free` bounds those of one address.
        requests_max: u32 = 100, 1 => 10_000;
        /// Answers that are remembered, by a keyed hash of the question. When there is no room the oldest go. 0: none.
        cache_max: u32 = 10_000, 0 => 10_000_000;
        /// How long an `allow` is remembered, unless it ends before. 0s: not at all.
        allow_for: TimeSpan = TimeSpan::from_secs(60), TimeSpan::ZERO => TimeSpan::from_days(1);
        /// How long a `deny` or an `ignore` is remembered. 0s: not at all.
        deny_for: TimeSpan = TimeSpan::from_secs(5), TimeSpan::ZERO => TimeSpan::from_days(1);
        /// Questions in a row without an answer, after which the service is left alone for `pause`.
        failures_max: u32 = 5, 1 => 1_000_000;
        /// Time in which nobody is asked, and clients are refused at once. Then one question is tried.
        pause: TimeSpan = TimeSpan::from_secs(10), TimeSpan::from_millis(10) => TimeSpan::from_secs(3600);
    }
}

impl AuthHttp {
    /// Whether passwords leave this machine as plain text.
    pub fn is_risky(&self) -> bool {
        let uri = self.url.as_deref().and_then(|url| url.parse::<Uri>().ok());
        uri.is_some_and(|uri| !is_https(&uri) && !is_loopback(&uri))
    }

    pub(super) fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        use super::section::Section as _;
        self.check_bounds(path, problems);
        if let Some(url) = &self.url {
            check_url(
                (&format!("{path}.url"), url),
                (&format!("{path}.ca"), self.ca.is_some()),
                self.insecure,
                problems,
            );
        }
    }
}

/// An address of a service with its key, and whether there is a file with those who sign for it, with the file's key.
pub(super) fn check_url(
    (key, url): (&str, &str),
    (ca_key, has_ca): (&str, bool),
    may_be_plain: bool,
    problems: &mut Vec<Problem>,
) {
    let mut note = |key: &str, message: &str| problems.push(Problem::new(key, message));
    let Some(uri) = url.parse::<Uri>().ok().filter(|uri| uri.host().is_some()) else {
        return note(key, "is not an address: write `https://HOST:PORT/PATH`");
    };
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        note(
            key,
            "has a user in it, which would not be sent: leave out what is before the @",
        );
    }
    match uri.scheme_str() {
        Some("https") if has_ca => {}
        Some("https") => note(
            ca_key,
            "is missing: `https` needs the certificates of those who sign the service's, in PEM",
        ),
        Some("http") if has_ca => note(ca_key, "has no meaning for `http`"),
        Some("http") if may_be_plain || is_loopback(&uri) => {}
        Some("http") => note(
            key,
            "plain `http` beyond this machine can be read and changed by others on the network: use `https`",
        ),
        _ => note(key, "begins with neither `https://` nor `http://`"),
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_paths(url: &str, ca: bool, insecure: bool) -> Vec<String> {
        let service = AuthHttp {
            url: Some(url.to_owned()),
            ca: ca.then(|| "ca.pem".into()),
            insecure,
            ..AuthHttp::default()
        };
        let mut problems = Vec::new();
        service.check("auth.http", &mut problems);
        problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn a_service_is_asked_over_tls_or_on_this_machine() {
        for (url, ca, insecure, paths) in [
            ("http://127.0.0.1:9000/auth", false, false, &[][..]),
            ("http://localhost/auth", false, false, &[]),
            ("http://[::1]:9000/", false, false, &[]),
            ("https://auth.example/", true, false, &[]),
            ("http://auth.example/", false, true, &[]),
            ("http://auth.example/", false, false, &["auth.http.url"]),
            ("http://10.0.0.1/", false, false, &["auth.http.url"]),
            ("https://auth.example/", false, false, &["auth.http.ca"]),
            ("http://localhost/", true, false, &["auth.http.ca"]),
            ("https://me:secret@auth.example/", true, false, &["auth.http.url"]),
            ("ftp://auth.example/", false, true, &["auth.http.url"]),
            ("auth.example", false, true, &["auth.http.url"]),
            ("/auth", false, true, &["auth.http.url"]),
        ] {
            assert_eq!(problem_paths(url, ca, insecure), paths, "{url}");
        }
    }

    #[test]
    fn passwords_in_plain_text_on_the_network_are_a_risk() {
        let risky = |url: &str| {
            let service = AuthHttp {
                url: Some(url.to_owned()),
                ..AuthHttp::default()
            };
            service.is_risky()
        };
        assert!(risky("http://auth.example/"));
        assert!(!risky("https://auth.example/") && !risky("http://127.0.0.1/"));
        assert!(!AuthHttp::default().is_risky());
    }
}
