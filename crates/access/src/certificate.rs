//! What a client's certificate says about its owner. Whether it is to be believed is judged by TLS before; here the
//! names are read from it.

use std::fmt::Write;

use aws_lc_rs::digest;

use crate::der::{
    BOOLEAN, COMMON_NAME, EXPLICIT_0, EXPLICIT_3, Elements, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET,
};

/// The names in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The common names of its subject.
    pub common_names: Vec<String>,
    /// Subject alternative names of the kind DNS.
    pub dns_names: Vec<String>,
    /// Subject alternative names of the kind e-mail.
    pub emails: Vec<String>,
    /// Subject alternative names of the kind URI.
    pub uris: Vec<String>,
    /// SHA-256 of the whole certificate, as 64 small hexadecimal digits; absent when a proxy told the common name alone.
    pub fingerprint: Option<String>,
}

/// Which of its names is the user name or the client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSource {
    /// The common name of the subject.
    CommonName,
    /// The subject alternative name of the kind DNS.
    Dns,
    /// The subject alternative name of the kind e-mail.
    Email,
    /// The subject alternative name of the kind URI.
    Uri,
    /// The SHA-256 of the certificate.
    Fingerprint,
}

/// Names that do not say which one is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSoleName;

impl Certificate {
    /// Reads a certificate in DER (RFC 5280 section 4.1). `None`: it is not one.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let certificate = Elements::new(der).expect(SEQUENCE)?;
        let mut fields = Elements::new(Elements::new(certificate).expect(SEQUENCE)?);
        let (first, _) = fields.next()?;
        // The version may be missing. Then serial number, signature, issuer, validity.
        let before_subject = if first == EXPLICIT_0 { 4 } else { 3 };
        for _ in 0..before_subject {
            fields.next()?;
        }
        found.common_names = common_names(fields.expect(SEQUENCE)?)?;
        while !fields.is_empty() {
            let (tag, content) = fields.next()?;
            if tag == EXPLICIT_3 {
                found.read_extensions(Elements::new(content).expect(SEQUENCE)?)?;
            }
        }
        let mut fingerprint = String::new();
        for byte in digest::digest(&digest::SHA256, der).as_ref() {
            // Writing to a String does not fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        found.fingerprint = Some(fingerprint);
        Some(found)
    }

    /// What a trusted proxy told of a certificate that it has checked.
    pub fn told_by_proxy(common_name: impl Into<String>) -> Self {
        Self {
            common_names: vec![common_name.into()],
            ..Self::default()
        }
    }

    /// The name from this source. `None`: there is none, or more than one to choose from.
    pub fn name(&self, source: NameSource) -> Option<&str> {
        self.sole_name(source).ok().flatten()
    }

    /// The common name of its subject, whatever it consists of. `None`: there is none, or more than one.
    pub fn common_name(&self) -> Option<&str> {
        match self.common_names.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }

    /// The name from this source, where it matters whether there is none.
    ///
    /// # Errors
    /// There is more than one, or one that is empty or has control characters.
    pub fn sole_name(&self, source: NameSource) -> Result<Option<&str>, NoSoleName> {
        let names = match source {
            NameSource::CommonName => self.common_names.as_slice(),
            NameSource::Dns => &self.dns_names,
            NameSource::Email => &self.emails,
            NameSource::Uri => &self.uris,
            NameSource::Fingerprint => self.fingerprint.as_slice(),
        };
        match names {
            [] => Ok(None),
            [name] if !name.is_empty() && !name.contains(char::is_control) => Ok(Some(name)),
            _ => Err(NoSoleName),
        }
    }

    fn read_extensions(&mut self, extensions: &[u8]) -> Option<()> {
        let mut extensions = Elements::new(extensions);
        while !extensions.is_empty() {
            let mut extension = Elements::new(extensions.expect(SEQUENCE)?);
            if extension.expect(OBJECT_IDENTIFIER)? != SUBJECT_ALTERNATIVE_NAME {
                continue;
            }
            let (mut tag, mut wrapped) = extension.next()?;
            if tag == BOOLEAN {
                (tag, wrapped) = extension.next()?;
            }
            if tag != OCTET_STRING {
                return None;
            }
            let mut names = Elements::new(Elements::new(wrapped).expect(SEQUENCE)?);
            while !names.is_empty() {
                let (tag, name) = names.next()?;
                let list = match tag {
                    0x81 => &mut self.emails,
                    0x82 => &mut self.dns_names,
                    0x86 => &mut self.uris,
                    _ => continue,
                };
                list.push(std::str::from_utf8(name).ok()?.to_owned());
            }
        }
        Some(())
    }
}

/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// The common names of a subject. `None`: malformed.
fn common_names(subject: &[u8]) -> Option<Vec<String>> {
    let (mut names, mut parts) = (Vec::new(), Elements::new(subject));
    while !parts.is_empty() {
        let mut attributes = Elements::new(parts.expect(SET)?);
        while !attributes.is_empty() {
            let mut attribute = Elements::new(attributes.expect(SEQUENCE)?);
            if attribute.expect(OBJECT_IDENTIFIER)? == COMMON_NAME {
                let (tag, content) = attribute.next()?;
                names.push(text(tag, content)?);
            }
        }
    }
    Some(names)
}

/// As text: UTF-8, printable, IA5, and the old two-byte and one-byte forms.
fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        0x0C | 0x13 | 0x16 => std::str::from_utf8(content).ok().map(str::to_owned),
        0x1E => {
            let units = content.chunks(2).map(|pair| match pair {
                [high, low] => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            });
            String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
        }
        0x14 => content
            .is_ascii()
            .then(|| String::from_utf8_lossy(content).into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by OpenSSL 3.0: `-subj "/O=Fleet/CN=device-7"`, with one DNS name, one URI and two e-mail addresses.
    const DEVICE_7: &str = "MIIB7DCCAZKgAwIBAgIUSQaHs4U2f2Xqi3axcTjf432deFAwCgYIKoZIzj0EAwIwIzEOMAwGA1UECgwFRmxlZXQxETAPBgNVBAMMCGRldmljZS03MCAXDTI2MTEyNjE0MjkxNVoYDzIxMjYxMTAyMTQyOTE1WjAjMQ4wDAYDVQQKDAVGbGVldDERMA8GA1UEAwwIZGV2aWNlLTcwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATAit8RyzxrZNXA9vgTXRs9N6IXLIIUBOx5FmT/7ZoYCcBaF1himrtSN3xuddZGwXHHfFS/cQ54yaqu9JQNb6Who4GhMIGeMB0GA1UdDgQWBBTLOPJwPTZIJiTOPE89mvLPcjfD1DAfBgNVHSMEGDAWgBTLOPJwPTZIJiTOPE89mvLPcjfD1DAPBgNVHRMBAf8EBTADAQH/MEsGA1UdEQREMEKCEGRldmljZS03LmV4YW1wbGWGDHVybjpkZXZpY2U6N4ERc2V2ZW5AZXhhbXBsZS5vcmeBDTdAZXhhbXBsZS5vcmcwCgYIKoZIzj0EAwIDSAAwRQIgcXiscqfA9Y6XxlYslvMfpLTyeMtgPNKZ8JVFOg+wABQCIQCp5ZqY3HnIwPGQ4a3/pcaDfhH0ukAe1CS+eIhk/CMd5g==";

    fn device_7() -> Vec<u8> {
        crate::base64::decode(DEVICE_7).unwrap()
    }

    #[test]
    fn each_source_gives_its_name_and_an_ambiguous_one_none() {
        let certificate = Certificate::parse(&device_7()).unwrap();
        for (source, name) in [
            (NameSource::CommonName, Some("device-7")),
            (NameSource::Dns, Some("device-7.example")),
            (NameSource::Uri, Some("urn:device:7")),
            (NameSource::Email, None),
            (
                NameSource::Fingerprint,
                Some("e1ca4f28d57b7fc86d7c9cff49809adcd5f1f50f8fc0613a4514bfd87a7f0d91"),
            ),
        ] {
            assert_eq!(certificate.name(source), name, "{source:?}");
        }
        assert_eq!(certificate.emails.len(), 2);
        assert_eq!(certificate.sole_name(NameSource::Email), Err(NoSoleName));
        let bare = Certificate::told_by_proxy("device-7");
        assert_eq!(bare.sole_name(NameSource::Email), Ok(None));
        assert_eq!(bare.sole_name(NameSource::Fingerprint), Ok(None));
    }

    #[test]
    fn names_with_control_characters_are_no_names() {
        let mut certificate = Certificate::told_by_proxy("admin\0.evil");
        assert_eq!(certificate.name(NameSource::CommonName), None);
        certificate.common_names = vec![String::new()];
        assert_eq!(certificate.name(NameSource::CommonName), None);
        certificate.common_names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(certificate.sole_name(NameSource::CommonName), Err(NoSoleName));
    }

    #[test]
    fn a_certificate_cut_or_changed_anywhere_is_read_or_refused_without_panic() {
        let der = device_7();
        for end in 0..der.len() {
            assert_eq!(Certificate::parse(&der[..end]), None, "cut at {end}");
        }
        for position in 0..der.len() {
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[position] ^= 1 << bit;
                let _ = Certificate::parse(&changed);
            }
        }
    }
}
