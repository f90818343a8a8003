//! CPU time and resident memory of a process on this machine, from `/proc`.

use std::fs;

use anyhow::Context;

/// Clock ticks per second in `/proc/PID/stat`: 100 on every Linux that user space can see.
const TICKS_PER_SECOND: f64 = 100.0;

/// A reading of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessSample {
    /// User and system time of all its threads so far.
    pub(crate) cpu_seconds: f64,
    /// Memory resident now.
    pub(crate) resident_bytes: u64,
}

/// Reads the process with this number.
pub(crate) fn sample(pid: u32) -> anyhow::Result<ProcessSample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("cannot read the CPU time of process {pid}"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("cannot read the memory of process {pid}"))?;
    let cpu_seconds = cpu_seconds(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))?;
    Ok(ProcessSample {
        cpu_seconds,
        resident_bytes: resident_bytes(&status).unwrap_or(0),
    })
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in brackets may hold spaces and brackets; utime and stime are the 12th and 13th fields after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_brackets_and_spaces() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn this_process_has_resident_memory() {
        assert!(sample(std::process::id()).unwrap().resident_bytes > 0);
    }
}
