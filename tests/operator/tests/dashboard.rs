//! The dashboard in Chromium, at two widths, light and dark: every page shows what is there, fits, and complains of nothing. Where
//! Chromium is not installed this says so and tests nothing.

use std::net::SocketAddr;

use anyhow::Result;
use harness::{Broker, BrokerOptions, Client, Cluster, ClusterOptions, ConnectOptions, Message};
use operator::{Api, Browser, Page};

const WRITE: &str = "write-0123456789abcdef0123456789a";

async fn browser() -> Result<Option<Browser>> {
    let browser = tokio::task::spawn_blocking(Browser::start).await??;
    if browser.is_none() {
        eprintln!("skipped: Chromium is not installed");
    }
    Ok(browser)
}

/// Whether a text is on the page.
fn shows(text: &str) -> String {
    format!("document.body?.innerText.includes({text:?}) ?? false")
}

async fn fits(page: &mut Page, name: &str) -> Result<()> {
    let wide = page
        .eval("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        .await?;
    anyhow::ensure!(wide == 0, "{name} is {wide} points too wide");
    Ok(())
}

/// Opens every page with a text that it has to show, on wide and narrow screens, light and dark.
async fn looks_well(browser: &Browser, node: SocketAddr, pages: &[(&str, &str)]) -> Result<()> {
    for (width, dark) in [(1440, false), (1440, true), (390, false), (390, true)] {
        let mut page = browser.page(width, 900, dark).await?;
        for (hash, text) in pages {
            page.open(&format!("http://{node}/#/{hash}")).await?;
            page.wait(&shows(text)).await?;
            fits(&mut page, hash).await?;
        }
        let theme = page.eval("document.documentElement.dataset.theme").await?;
        assert_eq!(theme, if dark { "dark" } else { "light" });
        assert!(
            page.complaints.is_empty(),
            "{width}, dark: {dark}: {:?}",
            page.complaints
        );
    }
    Ok(())
}

/// A client that has subscribed to something, and retains something.
async fn truck(node: SocketAddr) -> Result<Client> {
    let mut client = Client::connect(node, ConnectOptions::v5("truck-7").persistent()).await?;
    client.subscribe("fleet/#", 1).await?;
    client.subscribe("$share/workers/jobs", 1).await?;
    let position = Message::new("fleet/7/position", "{\"lat\": 52.5}");
    client.publish(position.qos(1).retain()).await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_shows_what_is_there_at_any_width() -> Result<()> {
    let Some(browser) = browser().await? else {
        return Ok(());
    };
    let broker = Broker::start(BrokerOptions::default())?;
    let _client = truck(broker.mqtt_addr()).await?;
    let pages = [
        ("overview", "Nothing to report"),
        ("clients", "truck-7"),
        ("clients/truck-7", "MQTT 5.0"),
        ("routes", "fleet/#"),
        ("retained", "fleet/7/position"),
        ("console", "Nothing yet"),
        ("node", "limits."),
    ];
    looks_well(&browser, broker.admin_addr(), &pages).await
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_three_nodes_shows_all_of_them() -> Result<()> {
    let Some(browser) = browser().await? else {
        return Ok(());
    };
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default())).await??;
    let _client = truck(cluster.mqtt_addr(0)).await?;
    let asked = cluster.admin_addr(2);
    // The replicas of the node that is asked may be a moment behind.
    let path = "/api/v1/clients/truck-7";
    let known = async || {
        Api::at(asked)
            .get(path)
            .is_ok_and(|shown| shown["session"]["connected"] == true)
    };
    harness::wait_for(known, std::time::Duration::from_secs(20)).await?;
    let (first, last) = (cluster.name(0), cluster.name(2));
    let pages = [
        ("overview", "3 of 3 nodes up"),
        ("overview", first),
        ("overview", "Nothing to report"),
        ("clients", first),
        // It is connected to a node that is not asked, and that one tells what it knows of it.
        ("clients/truck-7", "MQTT 5.0"),
        ("routes", "$share/workers/jobs"),
        ("retained", "fleet/7/position"),
        ("node", last),
    ];
    looks_well(&browser, asked, &pages).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_client_shows_its_packets_as_they_pass() -> Result<()> {
    let Some(browser) = browser().await? else {
        return Ok(());
    };
    let broker = Broker::start(BrokerOptions::default())?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("truck-7")).await?;
    let mut page = browser.page(390, 844, false).await?;
    page.open(&format!("http://{}/#/clients/truck-7", broker.admin_addr()))
        .await?;
    page.wait(&shows("Trace for a minute")).await?;
    let button =
        "[...document.querySelectorAll('button')].find((one) => one.textContent.startsWith('Trace')).click()";
    page.eval(button).await?;
    page.wait(&shows("connected to")).await?;
    client
        .publish(Message::new("fleet/7", "not to be seen").qos(1))
        .await?;
    page.wait(&shows("received PUBLISH")).await?;
    page.wait(&shows("sent PUBACK")).await?;
    let text = page.eval("document.body.innerText").await?;
    let text = text.as_str().unwrap_or_default();
    assert!(
        text.contains("fleet/7") && !text.contains("not to be seen"),
        "{text}"
    );
    fits(&mut page, "a trace").await?;
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_the_page_speaks_mqtt_with_every_qos() -> Result<()> {
    let Some(browser) = browser().await? else {
        return Ok(());
    };
    let broker = Broker::start(BrokerOptions::default())?;
    let mut page = browser.page(1440, 900, false).await?;
    page.open(&format!("http://{}/#/console", broker.admin_addr()))
        .await?;
    page.wait("[...document.querySelectorAll('input')].some((input) => input.value.startsWith('ws://'))")
        .await?;
    page.eval("document.querySelectorAll('form')[0].requestSubmit()")
        .await?;
    page.wait(&shows("Connected as")).await?;
    page.eval("document.querySelectorAll('form')[1].querySelector('select').value = '2'; document.querySelectorAll('form')[1].requestSubmit()").await?;
    page.wait(&shows("Subscribed to # with QoS 2")).await?;
    for qos in 0..3 {
        let publish = format!(
            "const form = document.querySelectorAll('form')[2]; form.querySelector('select').value = '{qos}'; form.requestSubmit()"
        );
        page.eval(&format!("{{ {publish} }}")).await?;
        page.wait(&shows(&format!("{} received", qos + 1))).await?;
    }
    // All ways of acknowledging ended: nothing is in flight.
    let api = Api::at(broker.admin_addr());
    let name = page.eval("document.querySelectorAll('input')[1].value").await?;
    let path = format!("/api/v1/clients/{}", name.as_str().unwrap_or_default());
    let settled = async || {
        api.get(&path)
            .is_ok_and(|shown| shown["connection"]["in_flight"] == 0)
    };
    harness::wait_for(settled, std::time::Duration::from_secs(20)).await?;
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_kept_in_the_tab_only() -> Result<()> {
    let Some(browser) = browser().await? else {
        return Ok(());
    };
    let config = format!("[admin]\nwrite_tokens = [\"{WRITE}\"]\n");
    let broker = Broker::start(BrokerOptions {
        config: Some(config),
        ..BrokerOptions::default()
    })?;
    let mut page = browser.page(390, 844, false).await?;
    page.open(&format!("http://{}/", broker.admin_addr())).await?;
    page.wait(&shows("asks for a token")).await?;
    let enter = |token: &str| {
        format!(
            "document.querySelector('input').value = {token:?}; document.querySelector('form').requestSubmit()"
        )
    };
    page.eval(&enter("no-such-token-0123456789abcdef012")).await?;
    page.wait(&shows("not known")).await?;
    page.eval(&enter(WRITE)).await?;
    page.wait(&shows("Nothing to report")).await?;
    assert_eq!(
        page.eval("sessionStorage.getItem('flotilla.token')").await?,
        WRITE
    );
    assert_eq!(
        page.eval("JSON.stringify(localStorage) + document.cookie")
            .await?,
        "{}"
    );
    Ok(())
}

/// What a client calls itself is text and never markup.
#[tokio::test(flavor = "multi_thread")]
async fn a_clients_name_cannot_become_part_of_the_page() -> Result<()> {
    let Some(browser) = browser().await? else {
        return Ok(());
    };
    let broker = Broker::start(BrokerOptions::default())?;
    let name = "<img src=x onerror=alert(1)>";
    let _client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5(name)).await?;
    let mut page = browser.page(1440, 900, false).await?;
    page.open(&format!("http://{}/#/clients", broker.admin_addr()))
        .await?;
    page.wait(&shows(name)).await?;
    assert_eq!(
        page.eval("document.querySelectorAll('img[src=x]').length")
            .await?,
        0
    );
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
    Ok(())
}
