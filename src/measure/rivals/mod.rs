//! Ours against transcriptions of the same mathematics in PyTorch, JAX and NumPy, in one run.
//!
//! A case is attention, a training step, an exact loss or a sampler. Every rival that is installed
//! runs in a process of its own on as many threads as we have. It must first give our numbers;
//! then all take turns, round by round, and medians are compared.

mod cases;
mod process;
mod steps;

use super::summary;
use crate::report::arrays::Array;
use crate::{Error, Result};
use process::{Absent, Process, folder, read, write};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The rivals' names, in the order they are asked.
pub const FRAMEWORKS: [&str; 3] = ["torch", "jax", "numpy"];

/// A round of one party is about this long, at least one call.
const ROUND: Duration = Duration::from_millis(100);
/// Pause between two parties on one thread, and on several: threads that spin after a call, up to a
/// fifth of a second, have gone to sleep.
const PAUSES: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(300)];

/// What to compare, and with whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The interpreter whose packages are the rivals.
    pub python: PathBuf,
    /// Threads of every party. To be the size of the pool that [`run`] is called in.
    pub threads: usize,
    /// Cases whose names contain one of these; all if empty.
    pub only: Vec<String>,
    /// Rounds of each case.
    pub rounds: usize,
}

/// One party's time of one call, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Time {
    /// `popgrad`, or a framework and the way it is used: `torch sdpa`.
    pub name: String,
    /// Median over the rounds.
    pub median_ns: f64,
    /// Fastest round.
    pub min_ns: f64,
    /// Slowest round.
    pub max_ns: f64,
}

/// A case, and everybody's time; ours is the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What is computed.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Threads.
    pub threads: usize,
    /// Rounds.
    pub rounds: usize,
    /// Times.
    pub times: Vec<Time>,
}

impl Comparison {
    /// The fastest rival, if there is one.
    pub fn best_rival(&self) -> Option<&Time> {
        self.times[1..].iter().min_by(|a, b| a.median_ns.total_cmp(&b.median_ns))
    }
}

/// What [`run`] tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A framework takes part, with its version.
    Takes(&'a str),
    /// A framework or one of its variants does not, and why.
    Skipped(&'a str),
    /// A case begins.
    Begins(&'a str),
    /// A case is done.
    Done(&'a Comparison),
}

/// Compares case by case.
///
/// A rival whose numbers are not ours is not timed, and among those that [`Compared`] names.
///
/// # Errors
/// No case has such a name; something does not fit memory.
pub fn run(options: &Options, tell: &mut dyn FnMut(Event<'_>)) -> Result<Compared> {
    let mut processes = Vec::new();
    for framework in FRAMEWORKS {
        match Process::start(&options.python, framework, options.threads) {
            Ok(p) => {
                tell(Event::Takes(&p.version));
                processes.push(p);
            }
            Err(why) => tell(Event::Skipped(&why)),
        }
    }
    let (folder, results) = (folder()?, Vec::new());
    let mut race = Race { options, processes, folder, results, wrong: Vec::new(), seen: 0, tell };
    cases::all(&mut race)?;
    steps::all(&mut race)?;
    if race.results.is_empty() {
        let names =
            "parts of a name, such as attention, step, exact, sampling; with --threads 1 also product";
        return Err(Error::invalid("only", options.only.join(","), names));
    }
    Ok(Compared { comparisons: race.results, wrong: race.wrong })
}

/// What [`run`] finds.
#[derive(Debug)]
pub struct Compared {
    /// Of every case.
    pub comparisons: Vec<Comparison>,
    /// Rivals with other numbers than ours: name, case and difference.
    pub wrong: Vec<String>,
}

impl Compared {
    /// Everybody's numbers are ours.
    ///
    /// # Errors
    /// Some are not.
    pub fn agree(&self) -> Result<()> {
        let Some(first) = self.wrong.first() else { return Ok(()) };
        let problem = format!("{} with other numbers than ours: {first}", self.wrong.len());
        Err(Error::invalid("rivals", problem, "the same numbers"))
    }
}

/// What a rival must give.
enum Check<'a> {
    /// These arrays: name, our numbers, and the most that the difference may be, relative to them
    /// in the Euclidean norm.
    Numbers(Vec<(String, Vec<f64>, f64)>),
    /// Draws, which only agree in law.
    Draws(Box<dyn Fn(&Arrays) -> Verdict + 'a>),
}

type Arrays = BTreeMap<String, Array>;

/// Whether numbers are right, and if not, which.
type Verdict = std::result::Result<(), String>;

/// A case: what everybody computes.
struct Case<'a> {
    name: String,
    dtype: &'static str,
    /// The rivals' name of it, and what they have to know.
    kind: &'static str,
    config: Value,
    inputs: Vec<(String, Array)>,
    check: Check<'a>,
    /// Ours, once.
    call: Box<dyn FnMut() -> Result<()> + 'a>,
}

struct Race<'a> {
    options: &'a Options,
    processes: Vec<Process>,
    folder: tempfile::TempDir,
    results: Vec<Comparison>,
    wrong: Vec<String>,
    seen: usize,
    tell: &'a mut dyn FnMut(Event<'_>),
}

impl Race<'_> {
    /// Is a case of this name wanted?
    fn wants(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|o| name.contains(o.as_str()))
    }

    /// Lets everybody prepare it, compares their numbers, and times them in turn.
    fn case(&mut self, mut case: Case<'_>) -> Result<()> {
        (self.tell)(Event::Begins(&case.name));
        self.seen += 1;
        let at = |what: &str| self.folder.path().join(format!("{}-{what}.npz", self.seen));
        let (input, output) = (at("in"), at("out"));
        write(&input, &case.inputs)?;
        case.inputs.clear();
        let mut rivals: Vec<Rival> = Vec::new();
        for p in 0..self.processes.len() {
            for variant in self.processes[p].variants(case.kind) {
                let process = &mut self.processes[p];
                let name = match process.framework {
                    framework if variant == framework => variant.clone(),
                    framework => format!("{framework} {variant}"),
                };
                match process.open(case.kind, &variant, [&input, &output], &case.config) {
                    Ok(handle) => match read(&output)
                        .map_err(|e| e.to_string())
                        .and_then(|n| case.check.look(&n))
                    {
                        Ok(()) => {
                            rivals.push(Rival { p, name, handle, calls: 1, times: Vec::new(), failed: None })
                        }
                        Err(why) => {
                            let why = format!("{name}, {}: {why}", case.name);
                            (self.tell)(Event::Skipped(&why));
                            self.wrong.push(why);
                        }
                    },
                    Err(why) => (self.tell)(Event::Skipped(&format!("{name}, {}: {why}", case.name))),
                }
            }
        }
        let mut times = Vec::new();
        (case.call)()?;
        let start = Instant::now();
        (case.call)()?;
        let calls = in_a_round(start.elapsed().as_nanos() as f64);
        for r in &mut rivals {
            r.calls = self.processes[r.p].run(r.handle, 1).map_or(1, in_a_round);
        }
        let pause = PAUSES[usize::from(self.options.threads > 1)];
        for _ in 0..self.options.rounds {
            std::thread::sleep(pause);
            // After a pause the first calls are slower for everybody: threads wake up, at first on
            // the same core.
            (0..calls).try_for_each(|_| (case.call)())?;
            let start = Instant::now();
            for _ in 0..calls {
                (case.call)()?;
            }
            times.push(start.elapsed().as_nanos() as f64 / f64::from(calls));
            for r in &mut rivals {
                std::thread::sleep(pause);
                let process = &mut self.processes[r.p];
                match process.run(r.handle, r.calls).and_then(|_| process.run(r.handle, r.calls)) {
                    Ok(ns) => r.times.push(ns / f64::from(r.calls)),
                    Err(why) => r.failed = Some(why),
                }
            }
            for why in rivals.iter().filter_map(|r| r.failed.as_ref()) {
                (self.tell)(Event::Skipped(&format!("{}: {why}", case.name)));
            }
            rivals.retain(|r| r.failed.is_none());
        }
        let mut all = vec![time("popgrad".into(), times)];
        for r in rivals {
            // It answered before; if it does not now, that is an end like any other.
            let _ = self.processes[r.p].close(r.handle);
            all.push(time(r.name, r.times));
        }
        let Options { threads, rounds, .. } = *self.options;
        let done = Comparison { name: case.name, dtype: case.dtype, threads, rounds, times: all };
        (self.tell)(Event::Done(&done));
        self.results.push(done);
        Ok(())
    }
}

/// A variant of a framework in one case.
struct Rival {
    /// Its process.
    p: usize,
    name: String,
    handle: u64,
    calls: u32,
    times: Vec<f64>,
    failed: Option<Absent>,
}

/// Calls that fill a round, by the nanoseconds of one.
fn in_a_round(ns: f64) -> u32 {
    (ROUND.as_nanos() as f64 / ns.max(1.0)).clamp(1.0, 1e6) as u32
}

fn time(name: String, times: Vec<f64>) -> Time {
    let [median_ns, min_ns, max_ns] = summary(times);
    Time { name, median_ns, min_ns, max_ns }
}

impl Check<'_> {
    /// Are these numbers ours?
    fn look(&self, theirs: &Arrays) -> Verdict {
        let ours = match self {
            Check::Draws(look) => return look(theirs),
            Check::Numbers(ours) => ours,
        };
        for (name, ours, most) in ours {
            let theirs = theirs.get(name).ok_or_else(|| format!("no {name}"))?.to_f64_vec();
            if theirs.len() != ours.len() {
                return Err(format!("{name}: {} numbers, not {}", theirs.len(), ours.len()));
            }
            let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
            let off = norm(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
            let size = norm(&mut ours.iter().copied());
            if off.is_nan() || off > most * size {
                return Err(format!("{name}: off by {:.1e} of its size, at most {most:.0e}", off / size));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_numbers_are_seen() {
        let check = Check::Numbers(vec![("x".into(), vec![3.0, 4.0], 1e-3)]);
        let look = |x: &[f64]| check.look(&[("x".to_string(), Array::vector(x.to_vec()))].into());
        assert!(look(&[3.0, 4.004]).is_ok());
        assert!(look(&[3.0, 4.006]).is_err());
        assert!(look(&[3.0]).is_err());
        assert!(look(&[3.0, f64::NAN]).is_err());
        assert!(check.look(&BTreeMap::new()).is_err());
    }
}
