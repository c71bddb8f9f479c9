//! `popgrad info`: the machine, and the instruction set that the kernels use.

use super::{pool, tell};
use crate::measure::Machine;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;

/// Arguments of `popgrad info`.
#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    /// Threads that a run uses by default.
    threads: usize,
    #[serde(flatten)]
    machine: Machine,
}

pub(super) fn info(args: InfoArgs) -> Result<()> {
    let machine = Machine::detect(false)?;
    let info =
        Info { version: env!("CARGO_PKG_VERSION"), threads: pool(None)?.current_num_threads(), machine };
    if args.json { tell(&json(&info)?) } else { tell(&text(&info)) }
}

/// Indented JSON with a line end.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::invalid("json", e.to_string(), "values that JSON can hold"))?;
    Ok(text + "\n")
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
    format!(
        "popgrad       {}\n\
         CPU           {}, {} {}, {}\n\
         instructions  {}: {} (available: {})\n\
         caches        {}\n\
         memory        {memory}, {free} free\n\
         threads       {}\n",
        info.version,
        m.cpu.clone().unwrap_or_else(unknown),
        m.cores,
        if m.cores == 1 { "core" } else { "cores" },
        m.platform,
        m.isa,
        m.isa_reason,
        m.isas.join(", "),
        if caches.is_empty() { unknown() } else { caches.join(", ") },
        info.threads,
    )
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
