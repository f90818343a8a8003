//! Tokens made here, and the example of RFC 7515, against every way to be wrong.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::json;

use super::*;
use crate::base64::{encode, encode_url};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn policy() -> Policy {
    Policy {
        algorithms: vec![
            Algorithm::Hs256,
            Algorithm::Rs256,
            Algorithm::Es256,
            Algorithm::EdDsa,
        ],
        leeway_seconds: 30,
        issuer: None,
        audience: None,
        user_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
    }
}

fn secret_keys() -> KeySet {
    let mut keys = KeySet::default();
    keys.add_any(SECRET).unwrap();
    keys
}

fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!(
        "{}.{}",
        encode_url(header.to_string().as_bytes()),
        encode_url(claims.to_string().as_bytes())
    );
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", encode_url(&signature))
}

fn hmac_sign(secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    move |message| aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
}

fn hs256(claims: &Value) -> String {
    token(&json!({"alg": "HS256"}), claims, hmac_sign(SECRET))
}

fn judge(claims: &Value) -> Result<Accepted, Refusal> {
    verify(&hs256(claims), &policy(), &secret_keys(), NOW)
}

fn pem(der: &[u8]) -> String {
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        encode(der)
    )
}

#[test]
fn claims_say_who_comes_and_until_when() {
    let claims = json!({
        "sub": "anna", "exp": NOW + 60, "nbf": NOW - 5, "groups": ["ops", "dev"], "site": 7, "admin": true,
        "nested": {"a": 1}, "roles": ["x", null, 2],
    });
    let accepted = judge(&claims).unwrap();
    assert_eq!(accepted.user, "anna");
    assert_eq!(accepted.groups, ["ops", "dev"]);
    assert_eq!(accepted.expires_at, NOW + 90);
    assert_eq!(accepted.claims["site"], ["7"]);
    assert_eq!(accepted.claims["admin"], ["true"]);
    assert_eq!(accepted.claims["roles"], ["x", "2"]);
    assert!(accepted.claims["nested"].is_empty());
    let words = json!({"sub": "anna", "exp": NOW + 60, "groups": "ops dev"});
    assert_eq!(judge(&words).unwrap().groups, ["ops", "dev"]);
}

#[test]
fn times_are_judged_with_leeway() {
    for (claims, expected) in [
        (json!({"sub": "a", "exp": NOW - 29}), None),
        (json!({"sub": "a", "exp": NOW - 30}), Some(Refusal::Expired)),
        (json!({"sub": "a", "exp": NOW as f64 + 0.5}), None),
        (json!({"sub": "a", "exp": -1}), Some(Refusal::Expired)),
        (json!({"sub": "a", "exp": 1e300}), None),
        (json!({"sub": "a", "exp": NOW + 9, "nbf": NOW + 30}), None),
        (
            json!({"sub": "a", "exp": NOW + 9, "nbf": NOW + 31}),
            Some(Refusal::NotYet),
        ),
        (
            json!({"sub": "a", "exp": NOW + 9, "nbf": "soon"}),
            Some(Refusal::Claim),
        ),
        (json!({"sub": "a", "exp": "later"}), Some(Refusal::Claim)),
        (json!({"sub": "a"}), Some(Refusal::Claim)),
        (json!({"sub": "", "exp": NOW + 9}), Some(Refusal::Claim)),
        (json!({"sub": 7, "exp": NOW + 9}), Some(Refusal::Claim)),
        (json!({"exp": NOW + 9}), Some(Refusal::Claim)),
    ] {
        assert_eq!(judge(&claims).err(), expected, "{claims}");
    }
}

#[test]
fn issuer_and_audience_are_asked_for_where_configured() {
    let policy = Policy {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("mqtt".to_owned()),
        ..policy()
    };
    for (issuer, audience, expected) in [
        (json!("https://id.example"), json!("mqtt"), None),
        (json!("https://id.example"), json!(["web", "mqtt"]), None),
        (json!("https://id.example"), json!("web"), Some(Refusal::Audience)),
        (
            json!("https://evil.example"),
            json!("mqtt"),
            Some(Refusal::Audience),
        ),
        (json!(null), json!("mqtt"), Some(Refusal::Audience)),
    ] {
        let claims = json!({"sub": "a", "exp": NOW + 9, "iss": issuer, "aud": audience});
        let result = verify(&hs256(&claims), &policy, &secret_keys(), NOW);
        assert_eq!(result.err(), expected, "{claims}");
    }
}

#[test]
fn the_token_does_not_choose_its_algorithm() {
    let claims = json!({"sub": "a", "exp": NOW + 9});
    let no_sign = |_: &[u8]| Vec::new();
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "HS512"}),
        json!({"alg": null}),
        json!({}),
        json!({"alg": "HS256", "crit": ["exp"]}),
    ] {
        let made = token(&header, &claims, no_sign);
        let result = verify(&made, &policy(), &secret_keys(), NOW);
        assert_eq!(result, Err(Refusal::Algorithm), "{header}");
    }
    let only_es256 = Policy {
        algorithms: vec![Algorithm::Es256],
        ..policy()
    };
    let result = verify(&hs256(&claims), &only_es256, &secret_keys(), NOW);
    assert_eq!(result, Err(Refusal::Algorithm));
}

#[test]
fn a_public_key_is_never_a_secret() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let der = pair.public_key().as_der().unwrap();
    let text = pem(der.as_ref());
    let mut keys = KeySet::default();
    keys.add_any(text.as_bytes()).unwrap();
    let claims = json!({"sub": "a", "exp": NOW + 9});
    for secret in [text.as_bytes(), der.as_ref(), pair.public_key().as_ref()] {
        let forged = token(&json!({"alg": "HS256"}), &claims, hmac_sign(secret));
        assert_eq!(verify(&forged, &policy(), &keys, NOW), Err(Refusal::NoKey));
    }
    // Nor is what is public in another form: a bare list, a text of an editor that marks it, SSH, DER.
    let set = r#"[{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}]"#;
    let utf_16: Vec<u8> = [0xFEFF]
        .into_iter()
        .chain(set.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    for public in [
        set.as_bytes(),
        format!("\u{feff}{set}").as_bytes(),
        format!(" \n{set}").as_bytes(),
        &utf_16,
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me",
        b"\xE4 -----BEGIN CERTIFICATE----- 0123456789abcdef0123456789abcdef",
        der.as_ref(),
        rsa.public_key().as_ref(),
    ] {
        let mut keys = KeySet::default();
        assert_eq!(keys.add_any(public), Err(KeysError::NotSecret), "{public:?}");
    }
    let marked = format!("\u{feff}{text}");
    assert_eq!(KeySet::default().add_any(marked.as_bytes()), Ok(()));
    let marked = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;
    assert_eq!(
        KeySet::default().add_any(format!("\u{feff}{marked}").as_bytes()),
        Ok(())
    );
    for secret in [
        "0123456789abcdef0123456789abcdef",
        "00000000000000000000000000000000000000000000000000",
    ] {
        assert_eq!(KeySet::default().add_any(secret.as_bytes()), Ok(()), "{secret}");
    }
    let mut damaged = KeySet::default();
    let text = text.replace("BEGIN PUBLIC", "BEGIN PRIVATE");
    assert_eq!(damaged.add_any(text.as_bytes()), Err(KeysError::Pem));
}

#[test]
fn each_algorithm_works_from_pem_and_from_a_key_set() {
    let random = SystemRandom::new();
    let ed = Ed25519KeyPair::generate().unwrap();
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let point = ec.public_key().as_ref();
    // PKCS #1 in DER: nine bytes of headers, 256 of the modulus, two of a header, the exponent.
    let rsa_der = rsa.public_key().as_ref();
    let (n, e) = (&rsa_der[9..265], &rsa_der[267..]);
    let set = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode_url(ed.public_key().as_ref())},
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": encode_url(&point[1..33]), "y": encode_url(&point[33..])},
        {"kty": "RSA", "kid": "rsa", "use": "sig", "alg": "RS256", "n": encode_url(n), "e": encode_url(e)},
        {"kty": "RSA", "kid": "rsa-enc", "use": "enc", "n": encode_url(n), "e": encode_url(e)},
        {"kty": "EC", "crv": "P-521", "kid": "other"},
    ]});
    let mut from_set = KeySet::default();
    from_set.add_any(set.to_string().as_bytes()).unwrap();
    assert_eq!(from_set.algorithms().count(), 3);
    let mut from_pem = KeySet::default();
    let blocks = [
        pem(ed.public_key().as_der().unwrap().as_ref()),
        pem(
            AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(ec.public_key())
                .unwrap()
                .as_ref(),
        ),
        pem(
            AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(rsa.public_key())
                .unwrap()
                .as_ref(),
        ),
    ];
    from_pem.add_any(blocks.concat().as_bytes()).unwrap();
    let claims = json!({"sub": "a", "exp": NOW + 9});
    let sign_rsa = |message: &[u8]| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
            .unwrap();
        signature
    };
    let tokens = [
        token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims, |message| {
            ed.sign(message).as_ref().to_vec()
        }),
        token(&json!({"alg": "ES256", "kid": "ec"}), &claims, |message| {
            ec.sign(&random, message).unwrap().as_ref().to_vec()
        }),
        token(&json!({"alg": "RS256", "kid": "rsa"}), &claims, sign_rsa),
    ];
    for token in &tokens {
        assert!(verify(token, &policy(), &from_set, NOW).is_ok());
        assert!(verify(token, &policy(), &from_pem, NOW).is_ok());
        assert_eq!(verify(token, &policy(), &secret_keys(), NOW), Err(Refusal::NoKey));
        // Another key's signature, and each part changed.
        let (signed, _) = token.rsplit_once('.').unwrap();
        let stolen = format!("{signed}.{}", tokens[0].rsplit_once('.').unwrap().1);
        if *token != tokens[0] {
            assert_eq!(
                verify(&stolen, &policy(), &from_set, NOW),
                Err(Refusal::Signature)
            );
        }
    }
    let unknown = token(&json!({"alg": "EdDSA", "kid": "new"}), &claims, |message| {
        ed.sign(message).as_ref().to_vec()
    });
    assert_eq!(verify(&unknown, &policy(), &from_set, NOW), Err(Refusal::NoKey));
}

#[test]
fn rfc_7515_the_example_of_appendix_a_1_has_the_right_signature() {
    let set = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;
    let mut keys = KeySet::default();
    keys.add_jwks(set).unwrap();
    let example = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                   eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                   dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let policy = Policy {
        user_claim: "iss".to_owned(),
        ..policy()
    };
    let accepted = verify(example, &policy, &keys, 1_300_819_000).unwrap();
    assert_eq!(accepted.user, "joe");
    assert_eq!(accepted.claims["http://example.com/is_root"], ["true"]);
    assert_eq!(
        verify(example, &policy, &keys, 1_300_819_410),
        Err(Refusal::Expired)
    );
}

#[test]
fn a_token_changed_anywhere_is_refused() {
    let good = hs256(&json!({"sub": "anna", "exp": NOW + 9}));
    for position in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(
            verify(&changed, &policy(), &secret_keys(), NOW).is_err(),
            "at {position}"
        );
    }
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "W10.e30.AA"] {
        assert!(verify(text, &policy(), &secret_keys(), NOW).is_err(), "{text}");
    }
    let long = format!("{}.{good}", "A".repeat(TOKEN_BYTES_MAX));
    assert_eq!(
        verify(&long, &policy(), &secret_keys(), NOW),
        Err(Refusal::Malformed)
    );
}

#[test]
fn keys_that_cannot_serve_are_refused() {
    let mut keys = KeySet::default();
    assert_eq!(keys.add_any(b"short"), Err(KeysError::ShortSecret));
    assert_eq!(keys.add_any(b"{}"), Err(KeysError::Jwks));
    assert_eq!(
        keys.add_any(br#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#),
        Err(KeysError::Jwks)
    );
    assert_eq!(keys.add_any(pem(b"nonsense").as_bytes()), Err(KeysError::Pem));
    assert_eq!(keys.algorithms().count(), 0);
    assert!(!format!("{:?}", secret_keys()).contains("0123"));
}
