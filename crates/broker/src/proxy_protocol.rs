//! The header with which a proxy says whom it speaks for: PROXY protocol, version 1 (a line) and version 2 (binary). Bytes
//! in, header out; whose headers are believed is `arrival`'s business, reading them from a socket is `read`'s.

mod arrival;
mod read;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) use arrival::{ProxyCheck, Rejection};

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LINE_START: &[u8] = b"PROXY ";
/// Longest line of version 1, its end included.
pub(crate) const LINE_MAX: usize = 107;
/// Signature, command, family, and the length of the rest.
const FIXED_LEN: usize = 16;
/// Longest rest of a header of version 2. Addresses and names need some hundred bytes, a whole certificate a few thousand.
const REST_MAX: usize = 8 * 1024;

const TLV_TLS: u8 = 0x20;
const TLV_TLS_VERSION: u8 = 0x21;
const TLV_TLS_COMMON_NAME: u8 = 0x22;
/// The client has shown a certificate on this connection, or earlier in this TLS session.
const CERTIFICATE_SHOWN: u8 = 0x02 | 0x04;

/// What a proxy says about a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Where the client connects from. `None`: the proxy speaks for itself (a health check), or does not know.
    pub source: Option<SocketAddr>,
    /// The TLS connection between client and proxy, where the proxy ends it.
    pub tls: Option<Tls>,
}

/// What a proxy says about the TLS connection that it has with the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The version, as `TLSv1.3`.
    pub version: Option<String>,
    /// The common name of the client's certificate, whether or not the certificate was verified.
    pub common_name: Option<String>,
    /// The client has shown a certificate, and the proxy has found it valid.
    pub verified: bool,
}

/// How far the parsing of a header has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// At least so many more bytes belong to the header.
    Need(usize),
    /// The bytes up to the next line feed belong to the header.
    NeedLine,
    /// The header, and its length.
    Complete(Header, usize),
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else begins here.
    #[error("it does not begin like a header")]
    NoHeader,
    /// Longer than any header has to be.
    #[error("the header is too long")]
    TooLong,
    /// A line of version 1 that is not built like one.
    #[error("the line is not built like a header")]
    Line,
    /// A version or command that is not known.
    #[error("the version or the command is not known")]
    Command,
    /// An address family that is not known, or too few bytes for its addresses.
    #[error("the addresses are not built as their family says")]
    Addresses,
    /// Additional information that does not end where it says.
    #[error("the additional information is not built as it says")]
    Additional,
}

impl Header {
    /// The common name of the client's certificate, if the proxy has verified one.
    pub fn certificate_name(&self) -> Option<&str> {
        let tls = self.tls.as_ref().filter(|tls| tls.verified)?;
        tls.common_name.as_deref()
    }
}

/// Parses what has come so far. Never asks for bytes that do not belong to the header.
///
/// # Errors
/// The bytes are not the beginning of a header.
pub fn parse(bytes: &[u8]) -> Result<Progress, Malformed> {
    if bytes.is_empty() {
        // Which version it is has to be known first: a line may be shorter than what a binary header begins with.
        return Ok(Progress::Need(LINE_START.len()));
    }
    if begins_alike(bytes, &SIGNATURE) {
        return parse_binary(bytes);
    }
    if begins_alike(bytes, LINE_START) {
        return parse_line(bytes);
    }
    Err(Malformed::NoHeader)
}

/// Whether a header may begin with this byte. Neither MQTT, nor TLS, nor a WebSocket's GET begins with one of them.
pub(crate) fn may_begin_with(byte: u8) -> bool {
    byte == SIGNATURE[0] || byte == LINE_START[0]
}

fn begins_alike(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn parse_line(bytes: &[u8]) -> Result<Progress, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return match within.len() {
            LINE_MAX => Err(Malformed::TooLong),
            _ => Ok(Progress::NeedLine),
        };
    };
    let line = std::str::from_utf8(&bytes[..=end]).map_err(|_| Malformed::Line)?;
    let words = line
        .strip_prefix("PROXY ")
        .and_then(|rest| rest.strip_suffix("\r\n"));
    let words: Vec<&str> = words.ok_or(Malformed::Line)?.split(' ').collect();
    let source = match words[..] {
        ["TCP4", source, destination, source_port, destination_port] => {
            address::<Ipv4Addr>(destination, destination_port)?;
            Some(address::<Ipv4Addr>(source, source_port)?)
        }
        ["TCP6", source, destination, source_port, destination_port] => {
            address::<Ipv6Addr>(destination, destination_port)?;
            Some(address::<Ipv6Addr>(source, source_port)?)
        }
        // Whatever else is in the line is to be ignored.
        ["UNKNOWN", ..] => None,
        _ => return Err(Malformed::Line),
    };
    Ok(Progress::Complete(Header { source, tls: None }, end + 1))
}

fn address<A: std::str::FromStr + Into<IpAddr>>(host: &str, port: &str) -> Result<SocketAddr, Malformed> {
    let host: A = host.parse().map_err(|_| Malformed::Line)?;
    let canonical = port == "0" || port.starts_with(|c: char| ('1'..='9').contains(&c));
    let port = port.parse().ok().filter(|_| canonical).ok_or(Malformed::Line)?;
    Ok(SocketAddr::new(host.into(), port))
}

fn parse_binary(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_LEN) else {
        return Ok(Progress::Need(FIXED_LEN - bytes.len()));
    };
    let rest_len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest_len > REST_MAX {
        return Err(Malformed::TooLong);
    }
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    let Some(rest) = rest.get(..rest_len) else {
        return Ok(Progress::Need(rest_len - rest.len()));
    };
    // A proxy that speaks for itself may fill the rest with anything.
    let header = if is_local {
        Header::default()
    } else {
        parse_rest(fixed[13], rest)?
    };
    Ok(Progress::Complete(header, FIXED_LEN + rest_len))
}

fn parse_rest(family: u8, rest: &[u8]) -> Result<Header, Malformed> {
    let (addresses_len, source) = match family {
        // Not known to the proxy: where additional information would begin is not known either.
        0x00 => return Ok(Header::default()),
        0x11 => (12, rest.get(..12).map(source_v4)),
        0x21 => (36, rest.get(..36).map(source_v6)),
        0x31 => (216, None),
        _ => return Err(Malformed::Addresses),
    };
    let additional = rest.get(addresses_len..).ok_or(Malformed::Addresses)?;
    let mut tls = None;
    for_each_tlv(additional, |kind, value| {
        if kind == TLV_TLS {
            tls = Some(parse_tls(value)?);
        }
        Ok(())
    })?;
    Ok(Header { source, tls })
}

fn source_v4(addresses: &[u8]) -> SocketAddr {
    let mut host = [0; 4];
    host.copy_from_slice(&addresses[..4]);
    SocketAddr::from((host, u16::from_be_bytes([addresses[8], addresses[9]])))
}

fn source_v6(addresses: &[u8]) -> SocketAddr {
    let mut host = [0; 16];
    host.copy_from_slice(&addresses[..16]);
    SocketAddr::from((host, u16::from_be_bytes([addresses[32], addresses[33]])))
}

fn parse_tls(value: &[u8]) -> Result<Tls, Malformed> {
    let Some((&[client, a, b, c, d], additional)) = value.split_first_chunk::<5>() else {
        return Err(Malformed::Additional);
    };
    let mut tls = Tls {
        // Zero alone says nothing: it is also there when no certificate was asked for.
        verified: client & CERTIFICATE_SHOWN != 0 && [a, b, c, d] == [0; 4],
        ..Tls::default()
    };
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).map_err(|_| Malformed::Additional);
    for_each_tlv(additional, |kind, value| {
        match kind {
            TLV_TLS_VERSION => tls.version = Some(text(value)?),
            TLV_TLS_COMMON_NAME => tls.common_name = Some(text(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(tls)
}

/// Type, length in two bytes, value; again and again up to the end.
fn for_each_tlv(
    mut bytes: &[u8],
    mut visit: impl FnMut(u8, &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let Some((&[kind, high, low], rest)) = bytes.split_first_chunk::<3>() else {
            return Err(Malformed::Additional);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(Malformed::Additional)?;
        visit(kind, value)?;
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
