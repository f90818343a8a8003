//! Section 4.7: topic names, topic filters, and which match.

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::ReasonCode;

use crate::common::*;

/// Wildcards belong to filters, not to topic names.
#[tokio::test]
async fn mqtt_4_7_0_1_wildcards_do_not_belong_in_topic_names() -> Result<()> {
    for topic in [&b"a/#"[..], b"+/b", b"a+b", b"#a"] {
        expect_fatal(
            &publish_frame(0, topic, None, &[], b"x"),
            ReasonCode::TopicNameInvalid,
        )
        .await?;
    }
    Ok(())
}

/// `#` stands alone or after a separator, and last; it matches its parent and everything below.
#[tokio::test]
async fn mqtt_4_7_1_1_the_multi_level_wildcard_is_last_and_alone() -> Result<()> {
    let mut client = client("filters").await?;
    for filter in ["a#", "a/#/b", "a/b#", "##", "#/", "a/+#"] {
        let reason = client.subscribe(filter, 0).await?;
        ensure!(reason == ReasonCode::TopicFilterInvalid, "{filter}: {reason:?}");
    }
    matching(
        "sport/tennis/#",
        &["sport/tennis", "sport/tennis/", "sport/tennis/a/b"],
        &["sport", "sport/tennisx"],
    )
    .await
}

/// `+` takes a whole level, at any place.
#[tokio::test]
async fn mqtt_4_7_1_2_the_single_level_wildcard_takes_a_whole_level() -> Result<()> {
    let mut client = client("filters").await?;
    for filter in ["a+", "a/+b", "a/b+/c", "++"] {
        let reason = client.subscribe(filter, 0).await?;
        ensure!(reason == ReasonCode::TopicFilterInvalid, "{filter}: {reason:?}");
    }
    matching("+/x", &["a/x", "/x"], &["x", "a/b/x", "a/x/", "a/y"]).await?;
    matching("a/+", &["a/", "a/b"], &["a", "a/b/c", "/a"]).await?;
    matching("+/+/c", &["a/b/c", "//c"], &["/c", "a/b/c/d"]).await?;
    matching("a/+/#", &["a/b", "a/b/c/d", "a/"], &["a", "b/a"]).await
}

/// Topics that begin with `$` are not matched by filters that begin with a wildcard.
#[tokio::test]
async fn mqtt_4_7_2_1_leading_wildcards_do_not_match_dollar_topics() -> Result<()> {
    let version = "$SYS/broker/version";
    let mut wild = client("wild").await?;
    for filter in ["+/broker/version", "+/broker/#", "+/+/version"] {
        wild.subscribe(filter, 1).await?;
    }
    // Others publish at the same time, which `#` gets: none of it begins with a dollar.
    let mut everything = subscriber("#", 0).await?;
    let mut named = [
        subscriber(version, 1).await?,
        subscriber("$SYS/broker/+", 1).await?,
        subscriber("$SYS/#", 1).await?,
    ];
    for client in &mut named {
        // Twice: what is kept for new subscribers, and what is published from time to time.
        for _ in 0..2 {
            while client.receive().await?.publication.topic().as_str() != version {}
        }
    }
    wild.expect_no_publish(MOMENT).await?;
    everything.send_raw(&[0xc0, 0]).await?;
    while let mqtt_codec::Packet::Publish(publish) = everything.receive_packet().await? {
        ensure!(
            !publish.publication.topic().as_str().starts_with('$'),
            "{publish:?}"
        );
    }
    Ok(())
}

/// Topic names and filters are at least one character long.
#[tokio::test]
async fn mqtt_4_7_3_1_topics_and_filters_are_not_empty() -> Result<()> {
    let mut client = client("empty").await?;
    let reason = client.subscribe("", 0).await?;
    ensure!(reason == ReasonCode::TopicFilterInvalid, "{reason:?}");
    expect_fatal(&publish_frame(0, b"", None, &[], b"x"), ReasonCode::ProtocolError).await
}

/// Topic names and filters do not hold the null character.
#[tokio::test]
async fn mqtt_4_7_3_2_topics_and_filters_hold_no_null_character() -> Result<()> {
    expect_fatal(
        &publish_frame(0, b"a/\0", None, &[], b"x"),
        ReasonCode::MalformedPacket,
    )
    .await?;
    expect_fatal(&subscribe_frame(1, &[], b"\0/#", 0), ReasonCode::MalformedPacket).await
}

/// Topic names and filters are at most 65,535 bytes long; a server with a lower limit says so, and goes on.
#[tokio::test]
async fn mqtt_4_7_3_3_long_topics_and_filters_are_served_or_refused() -> Result<()> {
    let mut client = client("long").await?;
    let fits = "x".repeat(1000);
    client.subscribe(&fits, 1).await?;
    client.publish(Message::new(&fits, "x").qos(1)).await?;
    expect_text(&mut client, "x").await?;
    let long = "x".repeat(65_535);
    let reason = client.subscribe(&long, 1).await?;
    ensure!(
        matches!(reason, ReasonCode::TopicFilterInvalid | ReasonCode::GrantedQoS1),
        "{reason:?}"
    );
    client.send_publish(Message::new(&long, "long").qos(0)).await?;
    if reason == ReasonCode::GrantedQoS1 {
        expect_text(&mut client, "long").await?;
    } else {
        client.expect_disconnect(ReasonCode::TopicNameInvalid).await?;
    }
    ensure_serving().await
}

/// Matching changes nothing: no normalization, no folding of case, no trimming.
#[tokio::test]
async fn mqtt_4_7_3_4_matching_normalizes_nothing() -> Result<()> {
    // The same letter, composed and decomposed; case; spaces; empty levels.
    matching("\u{e9}", &["\u{e9}"], &["e\u{301}", "\u{c9}"]).await?;
    matching(
        "Accounts",
        &["Accounts"],
        &["ACCOUNTS", "accounts", "Accounts ", " Accounts"],
    )
    .await?;
    matching("a//b", &["a//b"], &["a/b", "/a//b", "a//b/"]).await?;
    matching("/finance", &["/finance"], &["finance", "//finance"]).await
}

/// The filter, put under a name of its own, matches the first topics and not the second.
async fn matching(filter: &str, yes: &[&str], no: &[&str]) -> Result<()> {
    for persistent in [false, true] {
        let prefix = unique("m");
        let options = ConnectOptions::v5(unique("m"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        client.subscribe(&format!("{prefix}/{filter}"), 1).await?;
        check(&mut client, &prefix, yes, no, false).await?;
        // Retained messages are found by the same rule, walked the other way round.
        let mut late = crate::common::client("late").await?;
        check(&mut late, &prefix, &[], no, true).await?;
        for topic in yes {
            publish(Message::new(&format!("{prefix}/{topic}"), topic).qos(1).retain()).await?;
        }
        late.subscribe(&format!("{prefix}/{filter}"), 1).await?;
        let mut found = Vec::new();
        for _ in yes {
            found.push(text(&late.receive().await?));
        }
        found.sort();
        let mut expected: Vec<&str> = yes.to_vec();
        expected.sort_unstable();
        ensure!(
            found == expected,
            "{filter}: retained {found:?}, not {expected:?}"
        );
        late.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

async fn check(client: &mut Client, prefix: &str, yes: &[&str], no: &[&str], retain: bool) -> Result<()> {
    for topic in no.iter().chain(yes) {
        let message = Message::new(&format!("{prefix}/{topic}"), topic).qos(1);
        publish(if retain { message.retain() } else { message }).await?;
    }
    for topic in yes {
        expect_text(client, topic).await?;
    }
    client.expect_no_publish(MOMENT).await
}
