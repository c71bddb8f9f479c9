//! Interleaved rounds and their medians.

use crate::process::{NoAnswer, Process};
use crate::record::{Record, Row};
use crate::{cases, programs};
use rival_worker::{Case, expected};
use std::path::Path;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

/// What to measure and how long.
pub struct Settings {
    pub sizes: Vec<String>,
    pub types: Vec<String>,
    pub threads: Vec<usize>,
    pub isas: Vec<String>,
    pub only: Vec<String>,
    pub rounds: usize,
    pub round_ns: f64,
    pub core: Option<usize>,
    pub cores: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let words = |w: &[&str]| w.iter().map(|w| w.to_string()).collect();
        Settings {
            sizes: words(&["squares", "odd", "batch"]),
            types: words(&["f32", "f64"]),
            threads: vec![1, 2],
            isas: words(&["avx512", "avx2"]),
            only: Vec::new(),
            rounds: 15,
            round_ns: 2e6,
            core: None,
            cores: None,
        }
    }
}

impl Settings {
    /// Where a measurement of `threads` threads runs, as `taskset -c` takes it; `None` without
    /// taskset.
    fn cores(&self, threads: usize) -> Option<String> {
        let taskset = std::process::Command::new("taskset").arg("--version").output();
        if !taskset.is_ok_and(|o| o.status.success()) {
            eprintln!("no taskset: nothing is pinned");
            return None;
        }
        let two = available_parallelism().is_ok_and(|n| n.get() > 1);
        Some(match (&self.cores, threads) {
            (_, 1) => self.core.unwrap_or(usize::from(two)).to_string(),
            (Some(cores), _) => cores.clone(),
            (None, n) => format!("0-{}", n - 1),
        })
    }
}

/// One of the interleaved: its case (the peak has its own), how many repeats make a round, the
/// rounds.
struct Lane<'a> {
    worker: &'a mut Process,
    case: Case,
    repeats: usize,
    /// Nanoseconds of one repeat.
    times: Vec<f64>,
    checksum: i64,
    failed: Option<NoAnswer>,
}

impl<'a> Lane<'a> {
    fn new(worker: &'a mut Process, case: Case) -> Self {
        Lane { worker, case, repeats: 1, times: Vec::new(), checksum: 0, failed: None }
    }

    fn ask(&mut self) -> Option<f64> {
        match self.worker.ask(&self.case, self.repeats) {
            Ok((ns, checksum)) => {
                self.checksum = checksum;
                // What a library left spinning must not run into the next one's round.
                if self.case.threads > 1 {
                    sleep(Duration::from_millis(3));
                }
                Some(ns.max(1.0) / self.repeats as f64)
            }
            Err(e) => {
                self.failed = Some(e);
                None
            }
        }
    }

    /// Repeats that take about `round_ns`; the first answers also warm caches and pools.
    fn calibrate(&mut self, round_ns: f64) {
        for _ in 0..4 {
            let Some(ns) = self.ask() else { return };
            self.repeats = (round_ns / ns).clamp(1.0, 1e7) as usize;
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times
    }
}

fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n % 2 == 1 { sorted[n / 2] } else { 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]) }
}

/// All lanes round by round, each round starting with another lane.
fn interleave(lanes: &mut [Lane<'_>], settings: &Settings) {
    for lane in lanes.iter_mut() {
        lane.calibrate(settings.round_ns);
    }
    for round in 0..settings.rounds {
        for i in 0..lanes.len() {
            let lane = &mut lanes[(round + i) % lanes.len()];
            if lane.failed.is_none()
                && let Some(ns) = lane.ask()
            {
                lane.times.push(ns);
            }
        }
    }
}

/// Rounds of `fma` in one repeat: some 10 microseconds.
const FMA_ROUNDS: usize = 2000;

fn peak_case(dtype: &str, threads: usize) -> Case {
    machine_case("fma", dtype, FMA_ROUNDS, threads)
}

fn machine_case(op: &str, dtype: &str, m: usize, threads: usize) -> Case {
    Case::new(op, dtype, [1, m, 1, 1, threads])
}

fn row(lane: &Lane<'_>, work: f64, unit: &'static str, peak: Option<f64>) -> Row {
    let times = lane.sorted();
    let Case { op, dtype, batch, m, k, n, threads, .. } = &lane.case;
    let [batch, m, k, n, threads] = [batch, m, k, n, threads].map(|x| x.to_string());
    Row {
        key: [op.clone(), dtype.clone(), batch, m, k, n, threads, lane.worker.name.clone()],
        version: lane.worker.about.clone(),
        median: median(&times),
        min: times[0],
        max: times[times.len() - 1],
        rounds: times.len(),
        rate: work / median(&times),
        unit,
        peak,
    }
}

/// GFLOP/s of a lane that ran `fma`; the checksum counts the flops of a request.
fn peak_rate(lane: &Lane<'_>) -> f64 {
    (lane.checksum as f64 / lane.repeats as f64) / median(&lane.sorted())
}

/// Share of the best peak so far below which a case counts as disturbed, and how often it is
/// repeated.
const DISTURBED: f64 = 0.85;
const RETRIES: usize = 3;

/// The best of some rounds of the peak alone.
fn quiet_peak(mut lane: Lane<'_>, settings: &Settings) -> f64 {
    interleave(std::slice::from_mut(&mut lane), settings);
    match lane.sorted().first() {
        Some(best) => lane.checksum as f64 / lane.repeats as f64 / best,
        None => 0.0,
    }
}

/// Products: false when a result was wrong.
pub fn gemm(root: &Path, settings: &Settings, record: &mut Record) -> Result<bool, String> {
    let mut good = true;
    for &threads in &settings.threads {
        let cores = settings.cores(threads);
        let start = |p: &_| programs::start(p, cores.as_deref(), threads);
        let mut workers: Vec<Process> = programs::all(root, settings).iter().filter_map(start).collect();
        let best = if crate::record::has_avx512() { "avx512" } else { "avx2" };
        let mut peak = start(&programs::ours(root, best));
        if workers.is_empty() {
            return Err("no worker is left to measure".into());
        }
        for w in &workers {
            println!("{}: {}", w.name, w.about);
        }
        let has_peak = peak.is_some();
        for dtype in &settings.types {
            println!("\n{dtype}, {threads} thread(s), GFLOP/s (share of peak)");
            let mut top =
                peak.as_mut().map_or(0.0, |p| quiet_peak(Lane::new(p, peak_case(dtype, threads)), settings));
            let names: String = workers.iter().map(|w| format!("{:>20}", w.name)).collect();
            println!("{:<24}{:>8}{names}", "", "peak");
            for case in cases::gemm(&settings.sizes, dtype, threads)? {
                let want = expected(&case);
                let mut lanes: Vec<Lane<'_>> =
                    workers.iter_mut().map(|w| Lane::new(w, case.clone())).collect();
                lanes.extend(peak.as_mut().map(|p| Lane::new(p, peak_case(dtype, threads))));
                interleave(&mut lanes, settings);
                // Where the peak is far below what it has been, somebody else had a core: once
                // more.
                for _ in 0..RETRIES {
                    let now = lanes.last().filter(|p| has_peak && !p.times.is_empty()).map(peak_rate);
                    if now.is_none_or(|p| p > DISTURBED * top) {
                        break;
                    }
                    eprintln!("{}: disturbed, again", name(&case));
                    sleep(Duration::from_millis(500));
                    lanes.iter_mut().for_each(|l| l.times.clear());
                    interleave(&mut lanes, settings);
                }
                let of_peak = if has_peak { lanes.pop() } else { None };
                let of_peak = of_peak.filter(|p| !p.times.is_empty()).map(|p| peak_rate(&p));
                top = top.max(of_peak.unwrap_or(0.0));
                if of_peak.is_some_and(|p| p <= DISTURBED * top) {
                    eprintln!("{}: still disturbed, not recorded", name(&case));
                    continue;
                }
                let mut line = format!("{:<24}{:>8.1}", name(&case), of_peak.unwrap_or(f64::NAN));
                for lane in &lanes {
                    let problem = match &lane.failed {
                        Some(NoAnswer::Broken(e)) => Some(e.clone()),
                        None if lane.checksum != want => {
                            Some(format!("{}: a wrong product", lane.worker.name))
                        }
                        _ => None,
                    };
                    if let Some(problem) = &problem {
                        good = false;
                        eprintln!("{}: {problem}", name(&case));
                    }
                    if problem.is_some() || lane.failed.is_some() {
                        line += &format!("{:>20}", "-");
                        continue;
                    }
                    let row = row(lane, case.flops(), "GFLOP/s", of_peak);
                    let share = of_peak.map_or(String::new(), |p| format!(" ({:.0}%)", 100.0 * row.rate / p));
                    line += &format!("{:>20}", format!("{:.1}{share}", row.rate));
                    record.put(row);
                }
                println!("{line}");
                // One that died is not asked again.
                let is_dead = |l: &&Lane<'_>| matches!(l.failed, Some(NoAnswer::Broken(_)));
                let dead: Vec<String> = lanes.iter().filter(is_dead).map(|l| l.worker.name.clone()).collect();
                workers.retain(|w| !dead.contains(&w.name));
            }
            record.save()?;
        }
    }
    Ok(good)
}

fn name(case: &Case) -> String {
    let Case { op, batch, m, k, n, .. } = case;
    let batch = if *batch == 1 { String::new() } else { format!("{batch} * ") };
    format!("{op} {batch}{m}x{k}x{n}")
}

/// Sizes of load sweeps, bytes a thread: two in L1, two in L2, L3, memory.
const LOADS: [usize; 6] = [16 << 10, 32 << 10, 256 << 10, 512 << 10, 4 << 20, 256 << 20];

/// Elements of exp: both arrays within L1.
const EXPS: usize = 2048;

/// What the machine can do, one quantity after the other, interleaved over instruction sets.
pub fn machine(root: &Path, settings: &Settings, record: &mut Record) -> Result<(), String> {
    for &threads in &settings.threads {
        let cores = settings.cores(threads);
        let programs: Vec<_> = settings.isas.iter().map(|isa| programs::ours(root, isa)).collect();
        let mut workers: Vec<Process> =
            programs.iter().filter_map(|p| programs::start(p, cores.as_deref(), threads)).collect();
        println!("\nmachine, {threads} thread(s)");
        for dtype in &settings.types {
            let mut todo = vec![("fma", FMA_ROUNDS), ("exp", EXPS)];
            if dtype == "f32" {
                todo.extend(LOADS.map(|bytes| ("load", bytes)));
            }
            for (op, m) in todo {
                let case = machine_case(op, dtype, m, threads);
                let mut lanes: Vec<Lane<'_>> =
                    workers.iter_mut().map(|w| Lane::new(w, case.clone())).collect();
                interleave(&mut lanes, settings);
                for lane in &lanes {
                    if let Some(NoAnswer::Refused(e) | NoAnswer::Broken(e)) = &lane.failed {
                        return Err(e.clone());
                    }
                    let (work, unit) = match op {
                        "fma" => (lane.checksum as f64 / lane.repeats as f64, "GFLOP/s"),
                        "load" => ((m * threads) as f64, "GB/s"),
                        _ => ((m * threads) as f64, "Gelem/s"),
                    };
                    let row = row(lane, work, unit, None);
                    let size = if op == "load" { format!("{} KiB", m >> 10) } else { String::new() };
                    println!("{op:<5}{dtype:<5}{size:<12}{:<16}{:>9.2} {unit}", lane.worker.name, row.rate);
                    record.put(row);
                }
            }
        }
        record.save()?;
    }
    Ok(())
}
