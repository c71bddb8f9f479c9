//! `popgrad bench`: the speed of kernels and training steps, and their share of the CPU's peak.

use super::info::json;
use super::{pool, tell};
use crate::measure::{self, Machine, Measured};
use crate::{Error, Result};
use clap::Args;
use popgrad_kernels::Isa;
use serde::Serialize;

/// Arguments of `popgrad bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Instruction set: portable, avx2 or avx512 [default: POPGRAD_ISA, else the best of this CPU].
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Threads of the training steps; kernels run on one [default: all cores].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = super::threads)]
    threads: Option<usize>,
}

pub(super) const AFTER_HELP: &str = "\
Takes some seconds. Rates are medians of rounds that take turns, so that a machine that slows down for a while slows all of \
them; compare within one run. The share is of the multiply-add peak of the same type, measured in the same rounds. \
Flops of attention are those of the causal triangle, 2 T^2 D forward and 4 T^2 D backward.";

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
    let results = pool.install(|| measure::run(threads))?;
    let report = Report { version: env!("CARGO_PKG_VERSION"), machine, results };
    if args.json { tell(&json(&report)?) } else { tell(&text(&report)) }
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
    let width = report.results.iter().map(|r| r.name.len()).max().unwrap_or(0);
    out += &format!(
        "{:<width$}  type  threads  {:>17}  {:>8}  {:>11}  [fastest, slowest round]\n",
        "", "rate", "of peak", "time"
    );
    for r in &report.results {
        let share = r.share_of_peak.map_or(String::new(), |s| format!("{:.0}%", 100.0 * s));
        out += &format!(
            "{:<width$}  {:<4}  {:>7}  {:>9.2} {:<7}  {share:>8}  {:>11}  [{}, {}]\n",
            r.name,
            r.dtype,
            r.threads,
            r.rate,
            r.unit,
            time(r.median_ns),
            time(r.min_ns),
            time(r.max_ns),
        );
    }
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
