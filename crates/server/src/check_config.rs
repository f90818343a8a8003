//! `flotilla check-config`: the effective configuration with the origin of each value, or the reference of all keys.

use std::io::{self, Write};

use crate::arguments::CheckConfigArguments;
use crate::config;

pub(crate) fn run(arguments: &CheckConfigArguments) -> anyhow::Result<()> {
    let text = if arguments.reference {
        config::reference()
    } else {
        let loaded = config::load(&arguments.flags)?;
        for listener in &loaded.config.listeners {
            for risk in listener.risks(&loaded.config.auth) {
                eprintln!("warning: listener {} on {}: {risk}", listener.name, listener.bind);
            }
        }
        let (auth, access) = (&loaded.config.auth, &loaded.config.access);
        let risks = auth.risks().into_iter();
        for risk in risks.chain(access.risks(auth, &loaded.config.listeners)) {
            eprintln!("warning: {risk}");
        }
        for risk in loaded.config.cluster.risks() {
            eprintln!("warning: cluster: {risk}");
        }
        for risk in loaded.config.admin.risks() {
            eprintln!("warning: admin: {risk}");
        }
        loaded.to_string()
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
