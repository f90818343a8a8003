//! Rules, users, tokens, certificates and SCRAM messages of any text: no panic; and a filter that may be subscribed to has no
//! topic that may not be received.
#![no_main]

use access::password::PasswordFile;
use access::rules::Rules;
use access::scram::{Server, Verifier};
use access::{Certificate, Principal, jwt};
use libfuzzer_sys::fuzz_target;
use mqtt_topic::{TopicFilter, TopicName};

// The first line is the client's name, the second a topic, the third a filter; the rest is a file.
fuzz_target!(|bytes: &[u8]| {
    let _ = Certificate::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    tokens(text);
    let _ = PasswordFile::parse(text, [0; 32]);
    let verifier = Verifier::parse(
        "SCRAM-SHA-256$4096:AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    );
    let mut server = Server::new([0; 18]);
    for line in text.lines().take(3) {
        if let Some(verifier) = &verifier {
            let _ = server.step(line.as_bytes(), |_| (verifier.clone(), true));
        }
    }
    let mut parts = text.splitn(4, '\n');
    let (Some(name), Some(topic), Some(filter), Some(file)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let (Ok(topic), Ok(filter)) = (TopicName::parse(topic.into()), TopicFilter::parse(filter.into())) else {
        return;
    };
    let client = Principal::named(name, name, [127, 0, 0, 1].into());
    for rules in [Rules::parse(file), Rules::parse_mosquitto(file)]
        .into_iter()
        .flatten()
    {
        let permissions = rules.permissions(&client);
        if permissions.may_subscribe(&filter) && filter.matches(&topic) {
            assert!(permissions.may_receive(&topic), "{filter} has {topic}");
        }
        if permissions.may_publish(&topic) {
            assert!(rules.might_publish(&client, &topic), "{topic}");
        }
    }
});

fn tokens(text: &str) {
    let mut keys = jwt::KeySet::default();
    let _ = keys.add_any(text.as_bytes());
    let secret = [7; 32];
    let _ = keys.add_secret(&secret);
    let policy = jwt::Policy {
        algorithms: vec![
            jwt::Algorithm::Hs256,
            jwt::Algorithm::Rs256,
            jwt::Algorithm::Es256,
            jwt::Algorithm::EdDsa,
        ],
        leeway_seconds: 0,
        issuer: None,
        audience: None,
        user_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
    };
    if let Ok(accepted) = jwt::verify(text, &policy, &keys, 0) {
        assert!(!accepted.user.is_empty() && accepted.expires_at > 0);
    }
}
