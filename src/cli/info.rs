//! `popgrad info`: the machine, and the instruction set that the kernels use.

use super::table::{Left, columns};
use super::{pool, show};
use crate::Result;
use crate::measure::Machine;
use serde::Serialize;

pub(super) const AFTER_HELP: &str = "\
Examples:
  popgrad info
  popgrad info --json";

#[derive(Serialize)]
struct Info {
    version: &'static str,
    /// Threads that a run uses by default.
    threads: usize,
    #[serde(flatten)]
    machine: Machine,
}

pub(super) fn info() -> Result<()> {
    let machine = Machine::detect(false)?;
    let info =
        Info { version: env!("CARGO_PKG_VERSION"), threads: pool(None)?.current_num_threads(), machine };
    show(&info, || text(&info))
}

/// Bytes in the largest unit that leaves at least 1.
fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
}

fn text(info: &Info) -> String {
    let m = &info.machine;
    let unknown = || "unknown".to_string();
    let caches: Vec<String> = m
        .caches
        .iter()
        .map(|c| {
            let shared = if c.shared_by > 1 { format!(" shared by {}", c.shared_by) } else { String::new() };
            format!("L{} {}{shared}", c.level, bytes(c.bytes))
        })
        .collect();
    let memory = m.memory.map_or_else(unknown, bytes);
    let free = m.memory_available.map_or_else(unknown, bytes);
    let cores = if m.cores == 1 { "core" } else { "cores" };
    let rows = [
        ("popgrad", info.version.to_string()),
        ("CPU", format!("{}, {} {cores}, {}", m.cpu.clone().unwrap_or_else(unknown), m.cores, m.platform)),
        ("instructions", format!("{}: {} (available: {})", m.isa, m.isa_reason, m.isas.join(", "))),
        ("caches", if caches.is_empty() { unknown() } else { caches.join(", ") }),
        ("memory", format!("{memory}, {free} free")),
        ("threads", info.threads.to_string()),
    ];
    let rows = rows.into_iter().map(|(name, fact)| vec![name.to_string(), fact]).collect();
    columns(&[("", Left), ("", Left)], rows)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1023, 32 << 10, 3 << 19].map(bytes), ["0 B", "1023 B", "32 KiB", "1.5 MiB"]);
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }
}
