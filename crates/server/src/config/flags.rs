//! What the flags say. They are few, and come last.

use broker::config::Protocol;

use super::Origin;
use super::draft::{Draft, Target};
use crate::arguments::ConfigFlags;

/// Puts what the flags say over everything else.
pub(super) fn apply(flags: &ConfigFlags, draft: &mut Draft) {
    for (flag, section, key, text) in [
        ("--node", "node", "name", &flags.node),
        ("--data-dir", "node", "data_dir", &flags.data_dir),
        ("--admin", "admin", "bind", &flags.admin),
        ("--peer", "cluster", "listen", &flags.peer),
        ("--advertise", "cluster", "advertise", &flags.advertise),
        ("--seeds", "cluster", "seeds", &flags.seeds),
    ] {
        if let Some(text) = text {
            draft.set_text(Target::Section(section), key, text, Origin::Flag(flag));
        }
    }
    for (flag, protocol, addresses) in [
        ("--mqtt", Protocol::Tcp, &flags.mqtt),
        ("--mqtts", Protocol::Tls, &flags.mqtts),
        ("--ws", Protocol::Ws, &flags.ws),
        ("--wss", Protocol::Wss, &flags.wss),
    ] {
        for (number, address) in addresses.iter().enumerate() {
            set_listener(flag, protocol, number, address, flags, draft);
        }
    }
    for (flag, key, text) in [("--cert", "cert", &flags.cert), ("--key", "key", &flags.key)] {
        let Some(text) = text else { continue };
        for index in 0..draft.listeners.len() {
            let listener = &draft.listeners[index];
            if listener.is_encrypted() && !listener.keys.contains_key(key) {
                draft.set_text(Target::Listener(index), key, text, Origin::Flag(flag));
            }
        }
    }
    if flags.insecure {
        draft.set_text(
            Target::Section("cluster"),
            "insecure",
            "true",
            Origin::Flag("--insecure"),
        );
        for index in 0..draft.listeners.len() {
            draft.set_text(
                Target::Listener(index),
                "insecure",
                "true",
                Origin::Flag("--insecure"),
            );
        }
    }
}

/// The first `--mqtt` is the listener `mqtt`, the second `mqtt-2`.
fn set_listener(
    flag: &'static str,
    protocol: Protocol,
    number: usize,
    address: &str,
    flags: &ConfigFlags,
    draft: &mut Draft,
) {
    let origin = Origin::Flag(flag);
    let usual = protocol.default_listener_name();
    let name = if number == 0 {
        usual.to_owned()
    } else {
        format!("{usual}-{}", number + 1)
    };
    let target = Target::Listener(draft.listener_named(&name, &origin));
    draft.set_text(target, "protocol", protocol.as_str(), origin.clone());
    draft.set_text(target, "bind", address, origin);
    for (flag, key, text) in [("--cert", "cert", &flags.cert), ("--key", "key", &flags.key)] {
        if let (Some(text), true) = (text, protocol.is_encrypted()) {
            draft.set_text(target, key, text, Origin::Flag(flag));
        }
    }
}
