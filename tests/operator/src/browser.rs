//! Chromium without a window, driven by its own protocol: opens pages, runs scripts in them, and hears what goes wrong there.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const LIMIT: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 2] = ["chromium", "chromium-browser"];

/// A running browser. It ends with this value.
pub struct Browser {
    process: Child,
    address: SocketAddr,
    _profile: TempDir,
}

/// A page of a browser.
pub struct Page {
    socket: WebSocketStream<TcpStream>,
    next: u64,
    /// Exceptions, and errors of the console.
    pub complaints: Vec<String>,
}

impl Browser {
    /// Starts Chromium; none, if it is not installed.
    pub fn start() -> Result<Option<Self>> {
        let installed = |name: &&str| {
            let mut asked = Command::new(name);
            asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            asked.status().is_ok_and(|status| status.success())
        };
        let Some(program) = PROGRAMS.iter().find(|name| installed(name)) else {
            return Ok(None);
        };
        let profile = TempDir::with_prefix("flotilla-browser-")?;
        let mut process = Command::new(program)
            .args([
                "--headless=new",
                "--disable-gpu",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
            ])
            // Tests may run as root, where its sandbox does not work; it opens nothing but the node's own pages.
            .arg("--no-sandbox")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(process.stderr.take().context("stderr is a pipe")?).lines();
        let found = lines.map_while(Result::ok).find_map(|line| {
            let url = line.strip_prefix("DevTools listening on ws://")?;
            url.split('/').next()?.parse().ok()
        });
        let Some(address) = found else {
            let _ = process.kill();
            bail!("{program} ended before it listened");
        };
        Ok(Some(Self {
            process,
            address,
            _profile: profile,
        }))
    }

    /// Opens an empty page of a size in points, light or dark.
    pub async fn page(&self, width: u32, height: u32, dark: bool) -> Result<Page> {
        let target = self.new_target().await?;
        let url = target["webSocketDebuggerUrl"]
            .as_str()
            .context("a page has an address")?
            .to_owned();
        let stream = TcpStream::connect(self.address).await?;
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let mut page = Page {
            socket,
            next: 0,
            complaints: Vec::new(),
        };
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({})).await?;
        }
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        page.call("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        page.call("Emulation.setEmulatedMedia", media).await?;
        Ok(page)
    }

    /// The browser closes no connection and speaks no HTTP 1.0: the length says where the answer ends.
    async fn new_target(&self) -> Result<Value> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!(
            "PUT /json/new?about:blank HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            anyhow::ensure!(stream.read_buf(&mut answer).await? > 0, "the browser hung up");
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let lengths = head.lines().filter_map(|line| line.split_once(':'));
            let length = lengths
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .find_map(|(_, length)| length.trim().parse::<usize>().ok());
            if body.len() >= length.context("an answer with a length")? {
                return serde_json::from_str(body).with_context(|| text.to_string());
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Page {
    async fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let request = json!({"id": id, "method": method, "params": parameters}).to_string();
        self.socket.send(Message::text(request)).await?;
        let answered = async {
            loop {
                let Message::Text(text) = self.socket.next().await.context("the browser has ended")?? else {
                    continue;
                };
                let message: Value = serde_json::from_str(&text)?;
                if message["id"] == id {
                    anyhow::ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                    return Ok(message["result"].clone());
                }
                self.complaints.extend(complaint(&message));
            }
        };
        tokio::time::timeout(LIMIT, answered)
            .await
            .with_context(|| method.to_owned())?
    }

    /// Opens an address.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        self.call("Page.navigate", json!({"url": url})).await.map(drop)
    }

    /// The value of an expression, which may be a promise.
    pub async fn eval(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", asked).await?;
        anyhow::ensure!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {}",
            answer["exceptionDetails"]
        );
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub async fn wait(&mut self, expression: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while self.eval(expression).await? != true {
            if tokio::time::Instant::now() > deadline {
                let text = self.eval("document.body.innerText").await?;
                bail!("never true: {expression}\n{:?}\n{text}", self.complaints);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn complaint(message: &Value) -> Option<String> {
    let parameters = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Log.entryAdded" if parameters["entry"]["level"] == "error" => Some(parameters["entry"].to_string()),
        _ => None,
    }
}
