//! Free memory of this process: what the machine has, less what control groups and the limit of
//! its address space withhold; and threads, which need some of it to start.

use crate::error::Error;
use std::path::{Path, PathBuf};

/// Bytes of a thread's stack, the standard library's default.
const STACK: usize = 2 << 20;

/// Why `threads` threads (0: as many as there are cores) did not start, where a pool reports `e`:
/// memory is named where their stacks do not fit.
pub(crate) fn no_threads(threads: usize, e: &dyn std::error::Error) -> Error {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let stacks = STACK.saturating_mul(if threads == 0 { cores } else { threads });
    match free() {
        Some(free) if free < stacks => {
            let found = format!("about {} MiB for stacks", stacks >> 20);
            Error::invalid("memory (threads)", found, format!("{} MiB free", free >> 20))
        }
        _ => Error::io("thread pool", "cannot start threads", std::io::Error::other(e.to_string())),
    }
}

/// Bytes that this process can still allocate; `None` if the system reports nothing.
pub(crate) fn free() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let groups = group_limit(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    let space = address_space(&read("/proc/self/limits"), &read("/proc/self/status"));
    [machine(&read("/proc/meminfo")), groups, space].into_iter().flatten().min()
}

/// Bytes of the line `name` of a file in the format of /proc/meminfo.
fn kilobytes(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

fn machine(meminfo: &str) -> Option<usize> {
    kilobytes(meminfo, "MemAvailable")
}

/// Names of the files of a memory group: limit, usage, and the line of memory.stat that counts what
/// the system gives back when it is needed.
const UNIFIED: [&str; 3] = ["memory.max", "memory.current", "inactive_file"];
const LEGACY: [&str; 3] = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];

/// The least that the process's memory groups leave; `listing` is /proc/self/cgroup.
fn group_limit(root: &Path, listing: &str) -> Option<usize> {
    let mut least: Option<usize> = None;
    for line in listing.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, names) = match kinds {
            "" => (root.to_path_buf(), UNIFIED),
            kinds if kinds.split(',').any(|k| k == "memory") => (root.join("memory"), LEGACY),
            _ => continue,
        };
        // A group is held to the limits of all that contain it. Inside a container the path may not
        // exist; its own group is then mounted at the base.
        let mut folder: PathBuf = base.join(path.trim_start_matches('/'));
        loop {
            if let Some(left) = left_in(&folder, names) {
                least = Some(least.map_or(left, |l| l.min(left)));
            }
            if folder == base || !folder.starts_with(&base) || !folder.pop() {
                break;
            }
        }
    }
    least
}

fn left_in(folder: &Path, [limit, usage, spare]: [&str; 3]) -> Option<usize> {
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| text(name)?.trim().parse::<usize>().ok();
    // "max" in the one form and a number near 2^63 in the other mean no limit.
    let limit = number(limit).filter(|n| *n < 1 << 60)?;
    let stat = text("memory.stat").unwrap_or_default();
    let spare = stat.lines().find_map(|l| l.strip_prefix(spare)?.trim().parse::<usize>().ok());
    Some(limit.saturating_sub(number(usage)?.saturating_sub(spare.unwrap_or(0))))
}

/// What the limit of the address space (`ulimit -v`) leaves; `limits` and `status` are the files of
/// that name in /proc/self. An eighth is kept for stacks and for what an allocator reserves.
fn address_space(limits: &str, status: &str) -> Option<usize> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max address space"))?;
    let limit: usize = line.split_whitespace().next()?.parse().ok()?;
    let left = limit.saturating_sub(kilobytes(status, "VmSize")?);
    Some(left - left / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_of_all_limits_counts() {
        assert_eq!(machine("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        let limits =
            |value: &str| format!("Limit  Soft  Hard  Units\nMax address space  {value}  unlimited  bytes\n");
        let status = "Name: x\nVmSize:\t  1024 kB\n";
        assert_eq!(address_space(&limits("unlimited"), status), None);
        assert_eq!(address_space(&limits("9437184"), status), Some(7 << 20));
        assert_eq!(address_space(&limits("1000"), status), Some(0));

        let root = tempfile::tempdir().unwrap();
        let put = |folder: &str, files: &[(&str, &str)]| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
        };
        // The outer group is tighter than the inner one, and its cache can be reclaimed.
        put("a/b", &[("memory.max", "max\n"), ("memory.current", "5\n")]);
        let stat = "anon 3\ninactive_file 600\n";
        put("a", &[("memory.max", "1000\n"), ("memory.current", "900\n"), ("memory.stat", stat)]);
        assert_eq!(group_limit(root.path(), "0::/a/b\n"), Some(700));
        put("a/b", &[("memory.max", "300\n"), ("memory.current", "5\n")]);
        assert_eq!(group_limit(root.path(), "0::/a/b\n"), Some(295));
        // A path of another name space, seen from inside.
        put("", &[("memory.max", "50\n"), ("memory.current", "60\n")]);
        assert_eq!(group_limit(root.path(), "0::/elsewhere\n"), Some(0));
        // The older form; one without a limit.
        put("memory/c", &[("memory.limit_in_bytes", "80"), ("memory.usage_in_bytes", "20")]);
        assert_eq!(group_limit(root.path(), "9:cpu:/c\n4:hugetlb,memory:/c\n"), Some(60));
        put("memory/c", &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "20")]);
        assert_eq!(group_limit(root.path(), "4:memory:/c\n"), None);
        assert_eq!(group_limit(root.path(), "nonsense"), None);
        assert!(free().is_none_or(|bytes| bytes > 0));
    }
}
