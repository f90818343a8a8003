//! `flotilla health`: asks the node on this machine how it is. In an image without a shell it is what a container's health
//! check can run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context;

use crate::arguments::HealthArguments;
use crate::ctl::{EXIT_NOT_WELL, http};

pub(crate) fn run(arguments: &HealthArguments) -> anyhow::Result<ExitCode> {
    let path = match (arguments.live, arguments.started) {
        (true, _) => "/livez",
        (false, true) => "/startupz",
        (false, false) => "/readyz",
    };
    let address = on_this_machine(&arguments.admin);
    let answer = http::ask(&http::Request::get(&address, path))
        .with_context(|| format!("asking the node at {address} (--admin)"))?;
    print!("{}", answer.body);
    match answer.status {
        200 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(EXIT_NOT_WELL)),
    }
}

/// `admin.bind` may be every address of the machine, which is none to connect to.
fn on_this_machine(address: &str) -> String {
    let Ok(parsed) = address.parse::<SocketAddr>() else {
        return address.to_owned();
    };
    let ip = match parsed.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, parsed.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        assert_eq!(on_this_machine("0.0.0.0:9100"), "127.0.0.1:9100");
        assert_eq!(on_this_machine("[::]:9100"), "[::1]:9100");
        assert_eq!(on_this_machine("10.0.0.1:9100"), "10.0.0.1:9100");
        assert_eq!(on_this_machine("node:9100"), "node:9100");
    }
}
