//! `flotilla recover`: makes a cluster of what one disk has, when a majority of the disks is gone for good. Without
//! `--others-are-gone` it says what it would do.

use std::process::ExitCode;

use anyhow::Context;
use cluster::Remains;

use crate::arguments::RecoverArguments;
use crate::cluster_admin::shown_id;
use crate::config;
use crate::ctl::EXIT_NOT_WELL;

pub(crate) fn run(arguments: &RecoverArguments) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&arguments.flags)?;
    let path = &loaded.config.node.data_dir;
    let remains = Remains::open(path).with_context(|| path.display().to_string())?;
    println!(
        "cluster {}, of which this disk knows the members",
        remains.cluster_id()
    );
    for (member, is_this) in remains.members() {
        let fate = match is_this {
            true => "this one: goes on, alone",
            false => "to be given up; its disk can never come back to this cluster",
        };
        println!("  {} ({}): {fate}", member.name, shown_id(member.node));
    }
    if !arguments.others_are_gone {
        println!(
            "Nothing was changed. What others acknowledged and this disk has not got would be lost. Make sure that none of the \
             others runs or can be started again, then give --others-are-gone"
        );
        return Ok(ExitCode::from(EXIT_NOT_WELL));
    }
    let cluster_id = remains.recover()?;
    println!(
        "done: this disk is cluster {cluster_id} now. Start its node, then the others with empty disks: they join it and are filled"
    );
    Ok(ExitCode::SUCCESS)
}
