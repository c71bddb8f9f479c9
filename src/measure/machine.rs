//! Facts about the machine from the operating system. Most are known on Linux only.

use popgrad_kernels::{Isa, KernelError};
use serde::Serialize;
use std::fs;

/// The machine that this process runs on; a field is `None` if the system does not report it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Model name, family and model.
    pub cpu: Option<String>,
    /// Architecture and operating system, e.g. `x86_64-linux`.
    pub platform: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Instruction sets that the kernels can use here, slowest first.
    pub isas: Vec<&'static str>,
    /// The instruction set in use.
    pub isa: &'static str,
    /// Why it is used.
    pub isa_reason: &'static str,
    /// Data caches of the first core.
    pub caches: Vec<Cache>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of it that are free for use.
    pub memory_available: Option<u64>,
}

/// A cache that holds data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cache {
    /// 1, 2, 3.
    pub level: u64,
    /// Bytes.
    pub bytes: u64,
    /// Cores that share it.
    pub shared_by: usize,
}

impl Machine {
    /// Reads the facts from the system. `forced`: an option chose the instruction set.
    ///
    /// # Errors
    /// When `POPGRAD_ISA` names no instruction set, or one that this CPU lacks.
    pub fn detect(forced: bool) -> Result<Machine, KernelError> {
        let isa = Isa::from_env()?;
        let named = std::env::var_os("POPGRAD_ISA").is_some_and(|v| !v.is_empty());
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Ok(Machine {
            cpu: cpu_name(&cpuinfo),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            isas: Isa::available().map(Isa::name).collect(),
            isa: isa.name(),
            isa_reason: match (forced, named) {
                (true, _) => "set by --isa",
                (_, true) => "set by POPGRAD_ISA",
                _ => "the best that this CPU has",
            },
            caches: caches(),
            memory: kibibytes(&meminfo, "MemTotal"),
            memory_available: kibibytes(&meminfo, "MemAvailable"),
        })
    }
}

/// Value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|l| l.split_once(':')).find(|(k, _)| k.trim() == name).map(|(_, v)| v.trim())
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    let name = field(cpuinfo, "model name")?;
    Some(match (field(cpuinfo, "cpu family"), field(cpuinfo, "model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name.to_string(),
    })
}

fn kibibytes(meminfo: &str, name: &str) -> Option<u64> {
    field(meminfo, name)?.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `32K`, `8M`.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_at(text.trim().find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `0-3,8` is 5 cores.
fn count(list: &str) -> Option<usize> {
    let range = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        b.parse::<usize>().ok()?.checked_sub(a.parse().ok()?)?.checked_add(1)
    };
    list.trim().split(',').map(range).sum()
}

fn caches() -> Vec<Cache> {
    let read = |i: usize, name: &str| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{name}")).ok()
    };
    let cache = |i| {
        let kind = read(i, "type")?;
        let (level, bytes) = (read(i, "level")?.trim().parse().ok()?, size(&read(i, "size")?)?);
        let shared_by = read(i, "shared_cpu_list").and_then(|l| count(&l)).unwrap_or(1);
        (kind.trim() != "Instruction").then_some(Cache { level, bytes, shared_by })
    };
    (0..8).filter_map(cache).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_linux_are_read() {
        let text = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\ncpu family\t: 25\n";
        assert_eq!(cpu_name(text).as_deref(), Some("AMD EPYC (family 25, model 17)"));
        assert_eq!(cpu_name("model name : ARM\n").as_deref(), Some("ARM"));
        assert_eq!(cpu_name("Hardware : x\n"), None);
        let memory = "MemTotal:        100 kB\nMemAvailable:     7 kB\nOdd: 3 MB\n";
        assert_eq!(kibibytes(memory, "MemTotal"), Some(102_400));
        assert_eq!(kibibytes(memory, "MemAvailable"), Some(7168));
        assert_eq!(kibibytes(memory, "Odd"), None);
        assert_eq!(kibibytes(memory, "Swap"), None);
        assert_eq!(
            [size("32K\n"), size("8M"), size("7"), size("7Q")],
            [Some(32 << 10), Some(8 << 20), None, None]
        );
        assert_eq!([count("0-3,8\n"), count("5"), count("x"), count("3-1")], [Some(5), Some(1), None, None]);
    }
}
