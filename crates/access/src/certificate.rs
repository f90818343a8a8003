//! What a client's certificate says about its owner. Whether it is to be believed is judged by TLS before; here the
//! names are read from it.

use std::fmt::Write;

use aws_lc_rs::digest;

/// The names in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject; absent when there is none, or more than one.
    pub common_name: Option<String>,
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

impl Certificate {
    /// Reads a certificate in DER (RFC 5280 section 4.1). `None`: it is not one.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let (certificate, _) = Value::read(der)?.expect(SEQUENCE)?;
        let (mut fields, _) = Value::read(certificate)?.expect(SEQUENCE)?;
        let version = Value::read(fields)?;
        if version.0.tag == EXPLICIT_0 {
            fields = version.1;
        }
        // Serial number, signature, issuer, validity.
        for _ in 0..4 {
            fields = Value::read(fields)?.1;
        }
        let (subject, rest) = Value::read(fields)?.expect(SEQUENCE)?;
        found.common_name = common_name(subject)?;
        fields = rest;
        while !fields.is_empty() {
            let (field, rest) = Value::read(fields)?;
            if field.tag == EXPLICIT_3 {
                let (extensions, _) = Value::read(field.content)?.expect(SEQUENCE)?;
                found.read_extensions(extensions)?;
            }
            fields = rest;
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
            common_name: Some(common_name.into()),
            ..Self::default()
        }
    }

    /// The name from this source. `None`: there is none, or more than one to choose from.
    pub fn name(&self, source: NameSource) -> Option<&str> {
        let only = |names: &'_ [String]| -> Option<usize> { (names.len() == 1).then_some(0) };
        let name = match source {
            NameSource::CommonName => self.common_name.as_ref(),
            NameSource::Dns => only(&self.dns_names).map(|index| &self.dns_names[index]),
            NameSource::Email => only(&self.emails).map(|index| &self.emails[index]),
            NameSource::Uri => only(&self.uris).map(|index| &self.uris[index]),
            NameSource::Fingerprint => self.fingerprint.as_ref(),
        };
        name.filter(|name| !name.is_empty() && !name.contains(char::is_control))
            .map(String::as_str)
    }

    fn read_extensions(&mut self, mut extensions: &[u8]) -> Option<()> {
        while !extensions.is_empty() {
            let (extension, rest) = Value::read(extensions)?.expect(SEQUENCE)?;
            extensions = rest;
            let (kind, mut rest) = Value::read(extension)?.expect(OBJECT_IDENTIFIER)?;
            if kind != SUBJECT_ALTERNATIVE_NAME {
                continue;
            }
            let next = Value::read(rest)?;
            if next.0.tag == BOOLEAN {
                rest = next.1;
            }
            let (wrapped, _) = Value::read(rest)?.expect(OCTET_STRING)?;
            let (mut names, _) = Value::read(wrapped)?.expect(SEQUENCE)?;
            while !names.is_empty() {
                let (name, rest) = Value::read(names)?;
                names = rest;
                let list = match name.tag {
                    0x81 => &mut self.emails,
                    0x82 => &mut self.dns_names,
                    0x86 => &mut self.uris,
                    _ => continue,
                };
                list.push(std::str::from_utf8(name.content).ok()?.to_owned());
            }
        }
        Some(())
    }
}

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xA0;
const EXPLICIT_3: u8 = 0xA3;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// The common name of a subject, if it has exactly one. The outer `None`: malformed.
fn common_name(mut subject: &[u8]) -> Option<Option<String>> {
    let mut names = Vec::new();
    while !subject.is_empty() {
        let (mut attributes, rest) = Value::read(subject)?.expect(SET)?;
        subject = rest;
        while !attributes.is_empty() {
            let (attribute, rest) = Value::read(attributes)?.expect(SEQUENCE)?;
            attributes = rest;
            let (kind, value) = Value::read(attribute)?.expect(OBJECT_IDENTIFIER)?;
            if kind == COMMON_NAME {
                names.push(Value::read(value)?.0.text()?);
            }
        }
    }
    Some(if names.len() == 1 { names.pop() } else { None })
}

/// One value of DER: a tag below 31 and its content.
struct Value<'a> {
    tag: u8,
    content: &'a [u8],
}

impl<'a> Value<'a> {
    /// The first value, and what comes behind it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&tag, rest) = bytes.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81..=0x83 => {
                let (len, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                let len = len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (len, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        (tag & 0x1F != 0x1F).then_some((Self { tag, content }, rest))
    }

    /// As text: UTF-8, printable, IA5, and the old two-byte and one-byte forms.
    fn text(&self) -> Option<String> {
        match self.tag {
            0x0C | 0x13 | 0x16 => std::str::from_utf8(self.content).ok().map(str::to_owned),
            0x1E => {
                let units = self.content.chunks(2).map(|pair| match pair {
                    [high, low] => Some(u16::from_be_bytes([*high, *low])),
                    _ => None,
                });
                String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
            }
            0x14 => self
                .content
                .is_ascii()
                .then(|| String::from_utf8_lossy(self.content).into_owned()),
            _ => None,
        }
    }
}

trait Expect<'a> {
    /// The content, if the tag is this one.
    fn expect(self, tag: u8) -> Option<(&'a [u8], &'a [u8])>;
}

impl<'a> Expect<'a> for (Value<'a>, &'a [u8]) {
    fn expect(self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        (self.0.tag == tag).then_some((self.0.content, self.1))
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
    }

    #[test]
    fn names_with_control_characters_are_no_names() {
        let mut certificate = Certificate::told_by_proxy("admin\0.evil");
        assert_eq!(certificate.name(NameSource::CommonName), None);
        certificate.common_name = Some(String::new());
        assert_eq!(certificate.name(NameSource::CommonName), None);
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
