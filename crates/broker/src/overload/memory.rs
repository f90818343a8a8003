//! What the system tells of memory: how much this process has resident, and how much it is allowed.

use std::fs;
use std::path::{Path, PathBuf};

/// Resident memory of this process in bytes; `None`: the system does not tell.
pub(crate) fn resident_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What the control groups of this process and the machine allow, the least of them, in bytes.
pub(super) fn allowed_bytes() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups, Path::new("/sys/fs/cgroup"));
    let limits = limits
        .iter()
        .filter_map(|file| limit(&fs::read_to_string(file).ok()?));
    Some(limits.fold(machine, u64::min))
}

/// A line of the files of the kernel that count in kB.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// `None`: no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Where limits may stand, by `/proc/self/cgroup`: in the process's own group, and in each above it. Lines are
/// `hierarchy:controllers:path`; without controllers it is version 2.
fn limit_files(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (folder, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let above = Path::new(path.trim_start_matches('/')).ancestors();
        files.extend(above.map(|group| folder.join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_is_allowed_more() {
        let (resident, allowed) = (resident_bytes().unwrap(), allowed_bytes().unwrap());
        assert!(0 < resident && resident < allowed, "{resident} of {allowed}");
    }

    #[test]
    fn limits_stand_in_a_group_and_in_those_above_it() {
        let root = Path::new("/g");
        let version_2 = limit_files("0::/a/b\n", root);
        let wanted = ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"];
        assert_eq!(version_2, wanted.map(PathBuf::from));
        let version_1 = limit_files("4:cpu,cpuacct:/x\n3:memory:/d\n", root);
        let wanted = [
            "/g/memory/d/memory.limit_in_bytes",
            "/g/memory/memory.limit_in_bytes",
        ];
        assert_eq!(version_1, wanted.map(PathBuf::from));
    }

    #[test]
    fn a_group_without_a_limit_says_max() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("1048576\n"), Some(1_048_576));
    }

    #[test]
    fn the_kernel_counts_in_kilobytes() {
        assert_eq!(
            kilobytes("Name:\tx\nVmRSS:\t    12 kB\n", "VmRSS:"),
            Some(12 * 1024)
        );
        assert_eq!(kilobytes("", "VmRSS:"), None);
    }
}
