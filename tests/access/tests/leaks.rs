//! Looks for a secret in a log, in whatever way somebody may have written it.

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Makes sure that no secret is in a log, and that it would be found there if it were.
pub(crate) fn ensure_none(log: &str, secrets: &[String]) -> Result<()> {
    let last: String = log
        .lines()
        .rev()
        .take(50)
        .map(|line| format!("{line}\n"))
        .collect();
    for secret in secrets {
        let line = leak(log, secret);
        ensure!(line.is_none(), "`{secret}` is in the log: {line:?}");
        for line in written_by_a_broken_broker(secret) {
            ensure!(leak(&format!("{last}{line}\n"), secret) == Some(&line), "{line}");
        }
    }
    Ok(())
}

/// The line that a secret is in.
pub(crate) fn leak<'a>(log: &'a str, secret: &str) -> Option<&'a str> {
    let found = forms(secret).iter().find_map(|form| log.find(form))?;
    let (before, after) = log.split_at(found);
    let begin = before.rfind('\n').map_or(0, |end| end + 1);
    let end = found + after.find('\n').unwrap_or(after.len());
    Some(&log[begin..end])
}

/// What to look for: a part of each way of writing it that is there wherever in a longer text the secret stands.
fn forms(secret: &str) -> Vec<String> {
    let each = |form: fn(u8) -> String, between: &str| {
        let written: Vec<String> = secret.bytes().map(form).collect();
        written.join(between)
    };
    let mut forms = vec![
        secret.to_owned(),
        secret.escape_debug().to_string(),
        secret.escape_default().to_string(),
        secret.as_bytes().escape_ascii().to_string(),
        as_in_json(secret),
        each(|byte| byte.to_string(), ", "),
        each(|byte| byte.to_string(), ","),
    ];
    for between in ["", " ", ":", ", "] {
        forms.push(each(|byte| format!("{byte:02x}"), between));
        forms.push(each(|byte| format!("{byte:02X}"), between));
    }
    for before in 0..3 {
        forms.extend([&STANDARD, &URL_SAFE].map(|engine| within_base64(engine, secret, before)));
    }
    forms
}

/// What is sure of a secret in base64 behind so many bytes of a group of three.
fn within_base64(engine: &impl Engine, secret: &str, before: usize) -> String {
    let bytes = [&vec![0; before], secret.as_bytes()].concat();
    let written = engine.encode(&bytes);
    // A sign holds six bits: these have some of their neighbours'.
    let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
    written[first..last].to_owned()
}

/// Each line is what a broken broker would write.
pub(crate) fn written_by_a_broken_broker(secret: &str) -> Vec<String> {
    let packet = [
        "\u{4}MQTT\u{5}anna".as_bytes(),
        secret.as_bytes(),
        &b"\x00\x07topic"[..],
    ]
    .concat();
    vec![
        format!("DEBUG login password={secret}"),
        format!("DEBUG login password={secret:?}"),
        format!("DEBUG packet=b\"{}\"", packet.escape_ascii()),
        format!("DEBUG packet={packet:?}"),
        format!("DEBUG packet={packet:02x?}"),
        format!("DEBUG packet={packet:02X?}"),
        format!(
            "DEBUG packet={}",
            packet
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        ),
        format!("DEBUG packet={}", STANDARD.encode(&packet)),
        format!(
            "DEBUG authorization=Basic {}",
            STANDARD.encode(format!("anna:{secret}"))
        ),
        format!(
            "DEBUG authorization=Basic {}",
            STANDARD.encode(format!("carla:{secret}"))
        ),
        format!("DEBUG token={}", URL_SAFE.encode(format!("x{secret}"))),
        format!(
            "{{\"level\": \"DEBUG\", \"password\": \"{}\"}}",
            as_in_json(secret)
        ),
    ]
}

fn as_in_json(secret: &str) -> String {
    secret.replace('\\', "\\\\").replace('"', "\\\"")
}

#[test]
fn a_secret_is_found_in_whatever_way_it_was_written() {
    for secret in [
        "planted-password-4711",
        "planted \"pass\\wört\" 4711",
        "pl~~~??>>anted/4711",
    ] {
        for line in written_by_a_broken_broker(secret) {
            let log = format!("INFO it starts\n{line}\nINFO it goes on");
            assert_eq!(leak(&log, secret), Some(line.as_str()), "{secret}");
        }
        let good = "INFO login client_id=\"planted\" password=*** 4711\nDEBUG packet=cGxhbnRlZA== bytes=21";
        assert_eq!(leak(good, secret), None);
    }
}
