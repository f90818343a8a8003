//! The certificates that the configuration names: whose they are, and until when. Of X.509 (RFC 5280 section 4.1) only that
//! much is read.

use std::path::Path;

use access::der::{COMMON_NAME, EXPLICIT_0, Elements, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET};
use admin::views::CertificateView;
use broker::config::Config;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is of interest in a certificate.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    subject: String,
    not_after_s: i64,
}

/// Reads the first certificate of each file; the time is in seconds since 1970. Blocks.
pub(super) fn read_all(config: &Config, now_s: i64) -> Vec<CertificateView> {
    let listeners = config.listeners.iter().flat_map(|listener| {
        let name = &listener.name;
        let own = listener
            .cert
            .iter()
            .map(move |file| (format!("listener {name}"), file));
        let ca = listener
            .client_ca
            .iter()
            .map(move |file| (format!("clients of {name}"), file));
        own.chain(ca)
    });
    let cluster = config
        .cluster
        .tls
        .files()
        .into_iter()
        .filter_map(|(key, file)| match key {
            "certificate" => Some(("cluster".to_owned(), file?)),
            "ca" => Some(("cluster authority".to_owned(), file?)),
            _ => None,
        });
    listeners
        .chain(cluster)
        .map(|(used_by, file)| view(used_by, file, now_s))
        .collect()
}

/// When the certificate of each listener ends, in seconds since 1970, and under `peers` that of the connections between nodes.
/// One that cannot be read is left out. Blocks.
pub(crate) fn ends(config: &Config) -> Vec<(String, i64)> {
    let listeners = config.listeners.iter();
    let listeners = listeners.filter_map(|listener| Some((listener.name.clone(), listener.cert.as_ref()?)));
    let peers = config
        .cluster
        .tls
        .certificate
        .as_ref()
        .map(|file| ("peers".to_owned(), file));
    let ends = listeners.chain(peers).filter_map(|(name, file)| {
        let der = CertificateDer::from_pem_file(file).ok()?;
        Some((name, facts(&der)?.not_after_s))
    });
    ends.collect()
}

fn view(used_by: String, file: &Path, now_s: i64) -> CertificateView {
    let der = CertificateDer::from_pem_file(file).map_err(|error| error.to_string());
    let facts = der.and_then(|der| facts(&der).ok_or_else(|| "this is no certificate".to_owned()));
    let (facts, problem) = match facts {
        Ok(facts) => (Some(facts), None),
        Err(problem) => (None, Some(problem)),
    };
    let not_after_s = facts.as_ref().map_or(0, |facts| facts.not_after_s);
    CertificateView {
        used_by,
        file: file.display().to_string(),
        subject: facts.map(|facts| facts.subject).unwrap_or_default(),
        not_after_s,
        expires_in_s: if problem.is_some() { 0 } else { not_after_s - now_s },
        problem,
    }
}

fn facts(der: &[u8]) -> Option<Facts> {
    let mut certificate = Elements::new(Elements::new(der).expect(SEQUENCE)?);
    let mut signed = Elements::new(certificate.expect(SEQUENCE)?);
    let (mut tag, _) = signed.next()?;
    if tag == EXPLICIT_0 {
        (tag, _) = signed.next()?;
    }
    if tag != INTEGER {
        return None;
    }
    let _algorithm = signed.expect(SEQUENCE)?;
    let _issuer = signed.expect(SEQUENCE)?;
    let mut validity = Elements::new(signed.expect(SEQUENCE)?);
    let _not_before = validity.next()?;
    let (tag, not_after) = validity.next()?;
    Some(Facts {
        subject: common_name(signed.expect(SEQUENCE)?),
        not_after_s: seconds(tag, not_after)?,
    })
}

/// Empty, if it has none.
fn common_name(name: &[u8]) -> String {
    let mut parts = Elements::new(name);
    while let Some(part) = parts.expect(SET) {
        let mut part = Elements::new(part);
        while let Some(attribute) = part.expect(SEQUENCE) {
            let mut attribute = Elements::new(attribute);
            if attribute.expect(OBJECT_IDENTIFIER) == Some(COMMON_NAME)
                && let Some((_, text)) = attribute.next()
            {
                return format!("CN={}", String::from_utf8_lossy(text));
            }
        }
    }
    String::new()
}

/// Seconds since 1970 of a time in one of the two forms that certificates have. They are in UTC. (4.1.2.5)
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { year + 2000 } else { year + 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let number = |place: usize| rest.get(place..place + 2)?.parse::<i64>().ok();
    let (month, day) = (number(0)?, number(2)?);
    let time = number(4)? * 3600 + number(6)? * 60 + number(8)?;
    Some(days_since_1970(year, month, day) * 86_400 + time)
}

/// Of the Gregorian calendar; years begin in March, so that the day of a leap year is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(year: i32, name: &str) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 2, 3);
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_whose_it_is_and_until_when() {
        let facts_of = |year| facts(&made(year, "mqtt.example.com")).unwrap();
        assert_eq!(facts_of(2030).subject, "CN=mqtt.example.com");
        assert_eq!(facts_of(2030).not_after_s, 1_896_307_200);
        // From 2050 on the year has four digits.
        assert_eq!(facts_of(2060).not_after_s, 2_842_992_000);
    }

    #[test]
    fn what_is_no_certificate_is_none_however_it_is_cut() {
        let der = made(2030, "a");
        for length in 0..der.len() {
            assert_eq!(facts(&der[..length]), None, "{length}");
        }
        assert_eq!(facts(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn days_follow_the_calendar() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1) - days_since_1970(2000, 2, 28), 2);
        assert_eq!(days_since_1970(2100, 3, 1) - days_since_1970(2100, 2, 28), 1);
    }
}
