//! Headers as proxies send them, as they should not be, and cut anywhere.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn complete(bytes: &[u8]) -> (Header, usize) {
    match parse(bytes) {
        Ok(Progress::Complete(header, len)) => (header, len),
        other => panic!("{other:?}"),
    }
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap();
    [&SIGNATURE[..], &[command, family], &len.to_be_bytes(), rest].concat()
}

fn addresses(source: SocketAddr) -> (u8, Vec<u8>) {
    let (port, to_port) = (source.port().to_be_bytes(), 1883u16.to_be_bytes());
    match source.ip() {
        IpAddr::V4(host) => (
            0x11,
            [&host.octets()[..], &[10, 0, 0, 1], &port, &to_port].concat(),
        ),
        IpAddr::V6(host) => (0x21, [&host.octets()[..], &[0; 16], &port, &to_port].concat()),
    }
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap();
    [&[kind], &len.to_be_bytes()[..], value].concat()
}

fn tls_tlv(client: u8, verify: u32, name: &[u8]) -> Vec<u8> {
    let parts = [
        &[client][..],
        &verify.to_be_bytes(),
        &tlv(TLV_TLS_VERSION, b"TLSv1.3"),
        &tlv(TLV_TLS_COMMON_NAME, name),
    ];
    tlv(TLV_TLS, &parts.concat())
}

#[test]
fn a_line_names_the_client() {
    for (line, source) in [
        (
            "PROXY TCP4 192.168.0.7 10.0.0.1 56324 1883\r\n",
            Some("192.168.0.7:56324"),
        ),
        ("PROXY TCP6 fd00::7 fd00::1 1 65535\r\n", Some("[fd00::7]:1")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff::1 whatever 7\r\n", None),
    ] {
        let (header, len) = complete(&[line.as_bytes(), b"\x10\x00"].concat());
        assert_eq!(
            header.source,
            source.map(|source| source.parse().unwrap()),
            "{line}"
        );
        assert_eq!(len, line.len());
    }
}

#[test]
fn a_line_that_is_not_built_like_one_is_refused() {
    for line in [
        "PROXY TCP4 192.168.0.7 10.0.0.1 56324 1883\n",
        "PROXY TCP4 192.168.0.7 10.0.0.1 56324\r\n",
        "PROXY TCP4 192.168.0.7 10.0.0.1 56324 1883 7\r\n",
        "PROXY TCP4 192.168.0.7  10.0.0.1 56324 1883\r\n",
        "PROXY TCP4 192.168.0.7 10.0.0.1 +1 1883\r\n",
        "PROXY TCP4 192.168.0.7 10.0.0.1 01 1883\r\n",
        "PROXY TCP4 192.168.0.7 10.0.0.1 65536 1883\r\n",
        "PROXY TCP4 fd00::1 10.0.0.1 1 1883\r\n",
        "PROXY TCP6 192.168.0.7 10.0.0.1 1 1883\r\n",
        "PROXY UDP4 192.168.0.7 10.0.0.1 1 1883\r\n",
        "PROXY TCP4 host 10.0.0.1 1 1883\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed::Line), "{line}");
    }
    assert_eq!(
        parse(&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat()),
        Err(Malformed::TooLong)
    );
    for other in [
        &b"\x10\x0d"[..],
        b"GET / HTTP/1.1",
        b"proxy TCP4",
        b"\r\n\r\nGET",
        b"PROXZ",
    ] {
        assert_eq!(parse(other), Err(Malformed::NoHeader), "{other:?}");
    }
}

#[test]
fn the_binary_form_names_the_client_and_its_certificate() {
    let source: SocketAddr = "192.168.0.7:56324".parse().unwrap();
    let (family, mut rest) = addresses(source);
    rest.extend(tlv(0x04, b"filler"));
    rest.extend(tls_tlv(0x07, 0, b"device-7"));
    let bytes = binary(0x21, family, &rest);
    let (header, len) = complete(&[&bytes[..], b"\x16\x03"].concat());
    assert_eq!((header.source, len), (Some(source), bytes.len()));
    assert_eq!(header.certificate_name(), Some("device-7"));
    assert_eq!(header.tls.unwrap().version.as_deref(), Some("TLSv1.3"));
}

#[test]
fn a_name_counts_only_with_a_certificate_that_was_shown_and_verified() {
    let (family, rest) = addresses("[fd00::7]:1".parse().unwrap());
    for (client, verify, counts) in [
        (0x07, 0, true),
        (0x05, 0, true),
        (0x03, 0, true),
        (0x01, 0, false),
        (0x07, 1, false),
    ] {
        let rest = [rest.clone(), tls_tlv(client, verify, b"device-7")].concat();
        let (header, _) = complete(&binary(0x21, family, &rest));
        assert_eq!(header.certificate_name().is_some(), counts, "{client} {verify}");
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_or_does_not_know_names_nobody() {
    for bytes in [
        binary(0x20, 0x00, &[]),
        binary(0x20, 0xff, b"anything at all"),
        binary(0x21, 0x00, b"not known"),
        binary(0x21, 0x31, &[0; 216]),
    ] {
        assert_eq!(complete(&bytes), (Header::default(), bytes.len()));
    }
}

#[test]
fn the_binary_form_is_refused_where_it_contradicts_itself() {
    let (family, rest) = addresses("192.168.0.7:1".parse().unwrap());
    let with = |additional: &[u8]| [&rest[..], additional].concat();
    for (bytes, expected) in [
        (binary(0x22, family, &rest), Malformed::Command),
        (binary(0x11, family, &rest), Malformed::Command),
        (binary(0x21, 0x12, &rest), Malformed::Addresses),
        (binary(0x21, family, &rest[..11]), Malformed::Addresses),
        (binary(0x21, 0x21, &rest), Malformed::Addresses),
        (binary(0x21, family, &with(&[0x04, 0])), Malformed::Additional),
        (
            binary(0x21, family, &with(&[0x04, 0, 2, 1])),
            Malformed::Additional,
        ),
        (
            binary(0x21, family, &with(&tlv(TLV_TLS, &[7, 0, 0]))),
            Malformed::Additional,
        ),
        (
            binary(0x21, family, &with(&tls_tlv(7, 0, &[0xff]))),
            Malformed::Additional,
        ),
        (binary(0x21, family, &vec![0; REST_MAX + 1]), Malformed::TooLong),
    ] {
        assert_eq!(parse(&bytes), Err(expected), "{bytes:?}");
    }
}

fn headers() -> impl Strategy<Value = (Vec<u8>, SocketAddr)> {
    (any::<SocketAddr>(), any::<bool>(), "[a-z0-9-]{0,40}").prop_map(|(source, is_line, name)| {
        let source = SocketAddr::new(source.ip(), source.port());
        let bytes = match (is_line, source.ip()) {
            (true, IpAddr::V4(host)) => {
                format!("PROXY TCP4 {host} 10.0.0.1 {} 1883\r\n", source.port()).into_bytes()
            }
            (true, IpAddr::V6(host)) => {
                format!("PROXY TCP6 {host} ::1 {} 1883\r\n", source.port()).into_bytes()
            }
            (false, _) => {
                let (family, rest) = addresses(source);
                binary(0x21, family, &[rest, tls_tlv(7, 0, name.as_bytes())].concat())
            }
        };
        (bytes, source)
    })
}

proptest! {
    #[test]
    fn a_header_is_found_however_its_bytes_come((header, source) in headers(), tail in any::<Vec<u8>>()) {
        let mut stream = header.clone();
        stream.extend(&tail);
        for seen in 0..header.len() {
            match parse(&stream[..seen]) {
                Ok(Progress::Need(more)) => prop_assert!(more > 0 && seen + more <= header.len()),
                Ok(Progress::NeedLine) => prop_assert!(seen > 0 && header.starts_with(b"P")),
                other => prop_assert!(false, "{:?} after {}", other, seen),
            }
        }
        let (found, len) = complete(&stream);
        prop_assert_eq!(found.source, Some(source));
        prop_assert_eq!(len, header.len());
    }

    #[test]
    fn damaged_headers_are_judged_and_never_longer_than_what_came(
        (header, _) in headers(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut damaged = header;
        let at = at.index(damaged.len());
        damaged[at] = byte;
        if let Ok(Progress::Complete(_, len)) = parse(&damaged) {
            prop_assert!(len <= damaged.len());
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in any::<Vec<u8>>()) {
        let _ = parse(&bytes);
        let _ = parse(&binary(0x21, 0x11, &bytes[..bytes.len().min(4000)]));
    }
}
