//! `popgrad bench`: the speed of kernels and training steps, and their share of the CPU's peak.

use super::table::{Left, Right, columns};
use super::{json, pool, say, show, tell, wants_json};
use crate::measure::rivals::{self, Comparison, Event, Time};
use crate::measure::{self, Machine, Measured};
use crate::{Error, Result};
use clap::Args;
use popgrad_kernels::Isa;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `popgrad bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Instruction set: portable, avx2 or avx512 [default: POPGRAD_ISA, else the best of this CPU].
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Threads of the training steps, kernels run on one; with --rivals, of everybody
    /// [default: all cores].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = super::threads)]
    threads: Option<usize>,
    /// Compare with what is installed of PyTorch, JAX and NumPy: attention, training steps, exact
    /// losses, samplers.
    #[arg(long)]
    rivals: bool,
    /// Interpreter whose packages are the rivals [default: python3].
    #[arg(long, value_name = "FILE", requires = "rivals")]
    python: Option<PathBuf>,
    /// Cases whose names contain one of these words only, such as attention,step,exact,sampling.
    #[arg(long, value_name = "WORD,..", value_delimiter = ',', requires = "rivals")]
    only: Vec<String>,
    /// Rounds of each case [default: 5].
    #[arg(long, value_name = "N", requires = "rivals", allow_negative_numbers = true, value_parser = rounds)]
    rounds: Option<usize>,
}

pub(super) const AFTER_HELP: &str = "\
Takes some seconds. Rates are medians of rounds that take turns, so that a machine that slows down for a while slows all of \
them; compare within one run. The share is of the multiply-add peak of the same type, measured in the same rounds. \
Flops of attention are those of the causal triangle, 2 T^2 D forward and 4 T^2 D backward.

--rivals takes minutes, most of them the rivals' own. Each rival is a transcription of the same mathematics that must first \
give our numbers; PyTorch's allocator is told to keep its memory. Names of a rival's variants: eager, sdpa \
(scaled_dot_product_attention), compile (torch.compile), jit.

Examples:
  popgrad bench --threads 1
  popgrad bench --rivals --only attention,exact";

#[derive(Serialize)]
struct Report {
    version: &'static str,
    #[serde(flatten)]
    machine: Machine,
    results: Vec<Measured>,
}

pub(super) fn bench(args: BenchArgs) -> Result<()> {
    let forced = args.isa.as_deref().map(by_name).transpose()?;
    if let Some(isa) = forced {
        isa.choose()?;
    }
    let machine = Machine::detect(forced.is_some())?;
    let pool = pool(args.threads)?;
    let threads = pool.current_num_threads();
    if args.rivals {
        return pool.install(|| against(&args, machine, threads));
    }
    let results = pool.install(|| measure::run(threads))?;
    let report = Report { version: env!("CARGO_PKG_VERSION"), machine, results };
    show(&report, || text(&report))
}

#[derive(Serialize)]
struct Against {
    version: &'static str,
    #[serde(flatten)]
    machine: Machine,
    /// Versions of the rivals.
    rivals: Vec<String>,
    /// What does not take part, and why.
    skipped: Vec<String>,
    comparisons: Vec<Comparison>,
}

/// Ours against the rivals: a line as soon as a case is done, or one JSON object at the end.
fn against(args: &BenchArgs, machine: Machine, threads: usize) -> Result<()> {
    let python = args.python.clone().unwrap_or_else(|| "python3".into());
    let rounds = args.rounds.unwrap_or(5);
    let options = rivals::Options { python, threads, only: args.only.clone(), rounds };
    let version = env!("CARGO_PKG_VERSION");
    let mut report = Against { version, machine, rivals: vec![], skipped: vec![], comparisons: vec![] };
    let m = &report.machine;
    let cpu = m.cpu.as_deref().unwrap_or("unknown CPU");
    let head = format!("popgrad {version} on {cpu}, {} ({}), {threads} threads\n", m.isa, m.isa_reason);
    let mut told = if wants_json() { Ok(()) } else { tell(&head) };
    let (mut takes, mut skipped) = (Vec::new(), Vec::new());
    let results = rivals::run(&options, &mut |event| match event {
        Event::Takes(version) => takes.push(version.to_string()),
        Event::Skipped(why) => {
            say(&format!("skipped: {why}"));
            skipped.push(why.to_string());
        }
        Event::Begins(name) => say(&format!("{name} ..")),
        Event::Done(c) if !wants_json() && told.is_ok() => told = tell(&lines(c)),
        Event::Done(_) => {}
    });
    told?;
    let results = results?;
    let agree = results.agree();
    (report.rivals, report.skipped, report.comparisons) = (takes, skipped, results.comparisons);
    if wants_json() {
        tell(&json(&report)?)?;
    } else {
        tell(&format!("\nrivals: {}\n", report.rivals.join(", ")))?;
    }
    // What was measured is worth having all the same.
    agree
}

/// A case in lines: ours, then the rivals, each with its time as a multiple of ours.
fn lines(c: &Comparison) -> String {
    let mut out = format!("\n{} ({})\n", c.name, c.dtype);
    let row = |t: &Time| {
        let times = format!("{:.2}", t.median_ns / c.times[0].median_ns);
        let range = format!("[{}, {}]", time(t.min_ns), time(t.max_ns));
        vec![format!("  {}", t.name), time(t.median_ns), times, range]
    };
    let heads = [("", Left), ("", Right), ("", Right), ("", Left)];
    out += &columns(&heads, c.times.iter().map(row).collect());
    out
}

fn rounds(text: &str) -> std::result::Result<usize, String> {
    super::integer(text, 1, 10_000).map(|n| n as usize)
}

fn by_name(name: &str) -> Result<Isa> {
    let known = Isa::ALL.map(Isa::name);
    Isa::ALL
        .into_iter()
        .find(|i| i.name() == name)
        .ok_or_else(|| Error::unknown("instruction set", name, known))
}

fn text(report: &Report) -> String {
    let m = &report.machine;
    let cpu = m.cpu.as_deref().unwrap_or("unknown CPU");
    let mut out = format!("popgrad {} on {cpu}, {} ({})\n\n", report.version, m.isa, m.isa_reason);
    let heads = [
        ("", Left),
        ("type", Left),
        ("threads", Right),
        ("rate", Right),
        ("", Left),
        ("of peak", Right),
        ("time", Right),
        ("[fastest, slowest round]", Left),
    ];
    let row = |r: &Measured| {
        vec![
            r.name.to_string(),
            r.dtype.to_string(),
            r.threads.to_string(),
            format!("{:.2}", r.rate),
            r.unit.to_string(),
            r.share_of_peak.map_or(String::new(), |s| format!("{:.0}%", 100.0 * s)),
            time(r.median_ns),
            format!("[{}, {}]", time(r.min_ns), time(r.max_ns)),
        ]
    };
    out += &columns(&heads, report.results.iter().map(row).collect());
    out
}

/// About three digits in a suitable unit.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}
