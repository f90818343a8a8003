//! What access rules may ask of a client, kept with its will: when that fires, the client may be gone.

use access::{Certificate, Principal};
use cluster::proto::{Author, CertificateNames, Claim};

/// A will is a part of the replicated state: one whose client brings more than this along is judged without.
const BYTES_MAX: usize = 4096;

/// To be kept.
pub(crate) fn of(principal: &Principal) -> Option<Author> {
    let Principal {
        user,
        tenant,
        client_id,
        address,
        groups,
        claims,
        certificate,
    } = principal;
    let claim = |(name, values): (&String, &Vec<String>)| Claim {
        name: name.clone(),
        values: values.clone(),
    };
    if size(principal) > BYTES_MAX {
        return None;
    }
    Some(Author {
        user: user.clone(),
        tenant: tenant.clone(),
        client_id: client_id.clone(),
        address: address.to_string(),
        groups: groups.clone(),
        claims: claims.iter().map(claim).collect(),
        certificate: certificate.as_deref().map(|certificate| CertificateNames {
            common_name: certificate.common_names.clone(),
            dns: certificate.dns_names.clone(),
            email: certificate.emails.clone(),
            uri: certificate.uris.clone(),
            fingerprint: certificate.fingerprint.clone(),
        }),
    })
}

/// Bytes of all its texts.
fn size(principal: &Principal) -> usize {
    let texts = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
    let one = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let claims = principal.claims.iter();
    let claims: usize = claims.map(|(name, values)| name.len() + texts(values)).sum();
    let names = |certificate: &Certificate| {
        let lists = [
            &certificate.common_names,
            &certificate.dns_names,
            &certificate.emails,
            &certificate.uris,
        ];
        lists.map(|list| texts(list)).iter().sum::<usize>() + one(&certificate.fingerprint)
    };
    one(&principal.user)
        + one(&principal.tenant)
        + principal.client_id.len()
        + texts(&principal.groups)
        + claims
        + principal.certificate.as_deref().map_or(0, names)
}

/// As it was. `None`: it is not what was kept.
pub(crate) fn principal(author: &Author) -> Option<Principal> {
    let claims = author.claims.iter();
    let certificate = author.certificate.as_ref().map(|names| Certificate {
        common_names: names.common_name.clone(),
        dns_names: names.dns.clone(),
        emails: names.email.clone(),
        uris: names.uri.clone(),
        fingerprint: names.fingerprint.clone(),
    });
    Some(Principal {
        user: author.user.clone(),
        tenant: author.tenant.clone(),
        client_id: author.client_id.clone(),
        address: author.address.parse().ok()?,
        groups: author.groups.clone(),
        claims: claims
            .map(|claim| (claim.name.clone(), claim.values.clone()))
            .collect(),
        certificate: certificate.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Principal {
        Principal {
            user: Some("anna".to_owned()),
            tenant: Some("acme".to_owned()),
            client_id: "c-1".to_owned(),
            address: "2001:db8::1".parse().unwrap(),
            groups: vec!["staff".to_owned()],
            claims: [("site".to_owned(), vec!["7".to_owned(), "8".to_owned()])].into(),
            certificate: Some(
                Certificate {
                    common_names: vec!["device-7".to_owned()],
                    dns_names: vec!["a.example".to_owned(), "b.example".to_owned()],
                    emails: vec!["a@example".to_owned()],
                    uris: vec!["urn:7".to_owned()],
                    fingerprint: Some("e1ca".to_owned()),
                }
                .into(),
            ),
        }
    }

    #[test]
    fn all_that_rules_can_ask_of_a_client_is_kept_with_its_will() {
        let nobody = Principal::anonymous("c-2", "127.0.0.1".parse().unwrap());
        for client in [everything(), nobody] {
            let kept = of(&client).unwrap();
            assert_eq!(principal(&kept), Some(client));
        }
    }

    #[test]
    fn a_client_that_brings_too_much_along_is_not_kept() {
        let changes: [fn(&mut Principal, String); 4] = [
            |client, text| client.user = Some(text),
            |client, text| client.groups = vec![text],
            |client, text| client.claims = [("site".to_owned(), vec![text])].into(),
            |client, text| client.certificate = Some(Certificate::told_by_proxy(text).into()),
        ];
        for change in changes {
            let mut client = everything();
            change(&mut client, "x".repeat(BYTES_MAX));
            assert_eq!(of(&client), None);
        }
        assert_eq!(principal(&Author::default()), None, "it has no address");
    }
}
