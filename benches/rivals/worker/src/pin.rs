//! One core for each thread. Left to itself, a scheduler keeps two threads on one core for whole
//! rounds.

/// Pins the threads of this process, in the order in which they started, to its cores in turn. The
/// first thread works or, where a pool does, sleeps. Elsewhere than on Linux nothing is pinned.
#[cfg(target_os = "linux")]
pub(crate) fn threads(cores: &[usize]) {
    use std::ffi::c_int;
    const WORDS: usize = 16;
    unsafe extern "C" {
        fn sched_setaffinity(thread: c_int, size: usize, mask: *const u64) -> c_int;
    }
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    let ids = tasks.filter_map(|t| t.ok()?.file_name().to_str()?.parse::<c_int>().ok());
    let mut ids: Vec<c_int> = ids.collect();
    ids.sort_unstable();
    for (i, id) in ids.into_iter().enumerate() {
        let Some(core) = cores.get(i % cores.len().max(1)).filter(|c| **c < 64 * WORDS) else { return };
        let mut mask = [0u64; WORDS];
        mask[core / 64] = 1 << (core % 64);
        // SAFETY: a mask of the size given, read only; a thread that has ended or a core that is
        // gone is an error code.
        unsafe { sched_setaffinity(id, size_of_val(&mask), mask.as_ptr()) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn threads(_: &[usize]) {}

/// The cores that this process may use, before anything is pinned.
pub(crate) fn cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    list.map_or(Vec::new(), |l| ranges(l.trim()))
}

/// `0-2,5` as 0, 1, 2, 5.
fn ranges(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        Some(a.parse().ok()?..=b.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(super::ranges("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(super::ranges("7"), [7]);
        assert!(super::ranges("").is_empty());
    }
}
