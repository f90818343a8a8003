//! The program as people start it: its output, its exit codes, its answer to SIGTERM.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn flotilla(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
    command.args(arguments).env_remove("FLOTILLA_CONFIG");
    command
}

fn output_of(arguments: &[&str]) -> Output {
    flotilla(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A node that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: flotilla\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Tries until it is so; panics when it takes too long.
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = output_of(&["--version"]);
    assert_eq!(
        text(&output.stdout),
        format!("flotilla {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn check_config_shows_what_a_start_would_use() {
    let output = output_of(&["check-config", "--admin", "127.0.0.1:9"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("bind = \"127.0.0.1:9\""),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn mistakes_are_listed_and_the_exit_code_says_so() {
    for command in ["start", "check-config"] {
        let output = output_of(&[command, "--mqtt", "nowhere", "--admin", "nobody"]);
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(said.contains("2 mistakes"), "{said}");
        assert!(said.contains("--mqtt: ") && said.contains("--admin: "), "{said}");
    }
}

#[test]
fn a_node_says_where_it_listens_becomes_ready_and_stops_when_asked() {
    let data = tempfile::tempdir().unwrap();
    let mut command = flotilla(&[
        "start",
        "--mqtt",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--node",
        "this-node",
        "--data-dir",
    ]);
    let child = command
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut node = Running(child);
    let lines = BufReader::new(node.0.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let listening: Vec<Vec<String>> = lines
        .take(2)
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect();
    assert_eq!(listening[0][..3], ["listening", "admin", "http"]);
    assert_eq!(listening[1][..3], ["listening", "mqtt", "tcp"]);
    let admin: SocketAddr = listening[0][3].parse().unwrap();
    let mqtt: SocketAddr = listening[1][3].parse().unwrap();
    assert!(TcpStream::connect(mqtt).is_ok());
    wait_for("readiness", || {
        get(admin, "/readyz").contains(" 200 ").then_some(())
    });
    assert!(get(admin, "/metrics").contains("\nflotilla_build_info{"));

    let ctl = |arguments: &[&str]| {
        let admin = admin.to_string();
        output_of(&[&["ctl", "--admin", &admin, "cluster"], arguments].concat())
    };
    let status = ctl(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    assert!(
        text(&status.stdout).contains("this-node  up     leader"),
        "{}",
        text(&status.stdout)
    );
    assert!(text(&ctl(&["status", "--output", "json"]).stdout).contains("\"state\": \"up\""));
    let leave = ctl(&["leave"]);
    assert_eq!(leave.status.code(), Some(1));
    assert!(
        text(&leave.stderr).contains("refused (409): it is the last member"),
        "{}",
        text(&leave.stderr)
    );

    kill_process(Pid::from_child(&node.0), Signal::TERM).unwrap();
    let status = wait_for("the end", || node.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn ctl_says_whom_it_could_not_ask() {
    let output = output_of(&["ctl", "cluster", "status", "--admin", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("asking the node at 127.0.0.1:1"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(output_of(&["ctl", "cluster", "forget"]).status.code(), Some(2));
}
