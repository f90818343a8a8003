//! Metrics of the process itself, read from `/proc` when asked for. What the system does not tell is left out.

use std::fmt::{Display, Write};
use std::fs;
use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use crate::BuildInfo;

/// Appends `flotilla_build_info`.
pub(crate) fn write_build_info(text: &mut String, build: &BuildInfo) {
    head(
        text,
        "flotilla_build_info",
        "gauge",
        "Always 1; the labels say what is running.",
    );
    let BuildInfo {
        version,
        commit,
        rustc,
    } = build;
    // Writing to a String has no way to fail.
    let _ = writeln!(
        text,
        "flotilla_build_info{{version=\"{version}\",commit=\"{commit}\",rustc=\"{rustc}\"}} 1"
    );
}

/// Appends what `/proc` tells of this process, and its uptime.
pub(crate) fn write_metrics(text: &mut String, uptime: Duration) {
    let sample = |text: &mut String, name, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            head(text, name, kind, help);
            line(text, name, value);
        }
    };
    let stat = Stat::read();
    let help = "Seconds since this process began to start.";
    sample(
        text,
        "flotilla_uptime_seconds",
        "gauge",
        help,
        Some(uptime.as_secs_f64()),
    );
    let help = "User and system CPU time in seconds.";
    sample(
        text,
        "process_cpu_seconds_total",
        "counter",
        help,
        stat.as_ref().map(|stat| stat.cpu_seconds),
    );
    let help = "Resident memory in bytes.";
    sample(
        text,
        "process_resident_memory_bytes",
        "gauge",
        help,
        stat.as_ref().map(|stat| stat.resident_bytes),
    );
    let help = "Virtual memory in bytes.";
    sample(
        text,
        "process_virtual_memory_bytes",
        "gauge",
        help,
        stat.as_ref().map(|stat| stat.virtual_bytes),
    );
    let help = "Start of the process in seconds since 1970.";
    let start = stat
        .as_ref()
        .and_then(|stat| Some(boot_time_seconds()? + stat.start_after_boot_seconds));
    sample(text, "process_start_time_seconds", "gauge", help, start);
    sample(
        text,
        "process_threads",
        "gauge",
        "Threads.",
        stat.as_ref().map(|stat| stat.threads),
    );
    sample(
        text,
        "process_open_fds",
        "gauge",
        "Open file descriptors.",
        open_files(),
    );
    sample(
        text,
        "process_max_fds",
        "gauge",
        "Most file descriptors it may open.",
        files_max(),
    );
}

/// Appends how busy the threads are that do everything. `busy` grows by one second per second and thread at the most.
pub(crate) fn write_runtime(text: &mut String, runtime: &RuntimeMetrics) {
    let workers = runtime.num_workers();
    let busy: Duration = (0..workers)
        .map(|worker| runtime.worker_total_busy_duration(worker))
        .sum();
    let samples = [
        (
            "flotilla_tokio_workers",
            "gauge",
            "Threads that run tasks.",
            workers as f64,
        ),
        (
            "flotilla_tokio_busy_seconds_total",
            "counter",
            "Time that these threads were busy, together.",
            busy.as_secs_f64(),
        ),
        (
            "flotilla_tokio_tasks",
            "gauge",
            "Tasks that have begun and not ended.",
            runtime.num_alive_tasks() as f64,
        ),
        (
            "flotilla_tokio_queued_tasks",
            "gauge",
            "Tasks that wait for any thread.",
            runtime.global_queue_depth() as f64,
        ),
    ];
    for (name, kind, help, value) in samples {
        head(text, name, kind, help);
        line(text, name, value);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, value: impl Display) {
    let _ = writeln!(text, "{name} {value}");
}

struct Stat {
    cpu_seconds: f64,
    threads: f64,
    start_after_boot_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = rustix::param::page_size() as f64;
        Self::parse(
            &fs::read_to_string("/proc/self/stat").ok()?,
            ticks_per_second,
            page_bytes,
        )
    }

    /// Fields as numbered in proc(5). The second, the program's name, may hold spaces and brackets of its own.
    fn parse(stat: &str, ticks_per_second: f64, page_bytes: f64) -> Option<Self> {
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks_per_second,
            threads: field(20)?,
            start_after_boot_seconds: field(22)? / ticks_per_second,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

fn boot_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn open_files() -> Option<f64> {
    // One of them is the directory being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn files_max() -> Option<f64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .map(|limit| limit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_a_name_with_brackets() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 12300 4096000 100 18446744073709551615";
        let stat = Stat::parse(line, 100.0, 4096.0).unwrap();
        assert_eq!((stat.cpu_seconds, stat.threads), (3.0, 9.0));
        assert_eq!(
            (stat.start_after_boot_seconds, stat.virtual_bytes),
            (123.0, 4_096_000.0)
        );
        assert_eq!(stat.resident_bytes, 409_600.0);
        assert!(Stat::parse("7 (a) S 1", 100.0, 4096.0).is_none());
    }
}
