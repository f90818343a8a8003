//! The elements of DER (X.690), as far as certificates are read: one after the other, without copying.

/// BOOLEAN.
pub const BOOLEAN: u8 = 0x01;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;
/// `[0]`: in a certificate, its version.
pub const EXPLICIT_0: u8 = 0xA0;
/// `[3]`: in a certificate, its extensions.
pub const EXPLICIT_3: u8 = 0xA3;
/// 2.5.4.3, the common name of a subject.
pub const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The elements of a piece of DER that are left, each with a tag below 31 and at most 16 MiB.
#[derive(Debug, Clone)]
pub struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// All of a piece.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of the next one. `None`: there is none, or it has another tag.
    pub fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    /// The tag and the content of the next one. `None`: there is none, or what is left is malformed.
    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        if tag & 0x1F == 0x1F {
            return None;
        }
        self.0 = rest;
        Some((tag, content))
    }
}
