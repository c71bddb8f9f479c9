//! `popgrad scaling`: the cost of a training step as T, S, heads and batch grow, and whether short
//! runs recover the graph there.
//!
//! Every size runs in a separate process, so that its peak memory can be measured: VmHWM of the
//! whole process, including its code.

use super::output::new_folder;
use super::table::{Left, Right, columns};
use super::{pool, progress, real, say, show, tell};
use crate::config::{self, Config};
use crate::model::Spec;
use crate::paper::{self, studies};
use crate::report::files::{claim_folder, create_run_dir, write_bytes_atomic};
use crate::report::plot::{Figure, LineChart, Panels, Scale, Series, save_figure};
use crate::run::{self, Progress};
use crate::study::Axis;
use crate::{Error, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use toml::{Table, Value};

/// Arguments of `popgrad scaling`.
#[derive(Debug, Args)]
pub(super) struct ScalingArgs {
    /// Overrides for every size and for the recovery runs, e.g. model=disentangled dtype=f64.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// A few small sizes: seconds.
    #[arg(long)]
    quick: bool,
    /// Folder for scaling.json, the figure and the recovery runs: new or empty [default:
    /// runs/scaling, numbered].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seconds of steps to time at each size.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, allow_negative_numbers = true, value_parser = real)]
    seconds: f64,
    /// Seconds for the recovery runs; sizes that would exceed them are listed as left out. 0: no
    /// recovery runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, allow_negative_numbers = true, value_parser = real)]
    recovery: f64,
    /// Threads of a step [default: all cores].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = super::threads)]
    threads: Option<usize>,
    /// Time this one size and print it as JSON; used by the command for its own processes.
    #[arg(long, hide = true)]
    one: bool,
}

pub(super) const AFTER_HELP: &str = "\
Chain, alpha=0.1, heads 1,1, S=10, T=20, batch 256, f32; one of T, S, heads of layer 1 and batch grows at a time. A step is \
sampling, gradient and update; its time is the median over steps. Exponents are slopes of log time against log size, by least \
squares over all sizes, and between the last two. Memory is the peak resident size of a process that trains at that size.
Recovery: runs of 1,024 updates of 256 sequences at rate 4, 3 seeds, S=5 against T and T=12 against S. A key given replaces \
that of all runs; steps, eval_every, test_size and checkpoint_every are the command's own.

Examples:
  popgrad scaling --quick
  popgrad scaling --recovery 0 model=mlp_transformer dtype=f64";

/// The sizes that stay fixed.
const BASE: &str = "
batch = 256
shards = 16
schedule = \"constant\"
test_size = 16
eval_every = 1000000
checkpoint_every = 1000000
";

/// Keys that the command sets: timed steps contain no evaluation, and recovery runs have their own
/// horizon.
const OWN: [&str; 4] = ["steps", "eval_every", "test_size", "checkpoint_every"];

/// One size, measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Point {
    /// The key that grows; `heads` counts those of layer 1.
    key: String,
    /// Its value.
    size: usize,
    /// Median.
    ms_per_step: f64,
    fastest_ms: f64,
    /// Timed.
    steps: usize,
    /// VmHWM in MiB; `None` if the system does not report it.
    peak_mib: Option<f64>,
}

/// How time grows with a key.
#[derive(Debug, Serialize)]
struct Fit {
    key: String,
    /// Least squares over all sizes.
    exponent: f64,
    /// Between the last two.
    at_the_end: f64,
}

#[derive(Debug, Serialize)]
struct Recovery {
    key: String,
    size: usize,
    runs: usize,
    recovered: Option<usize>,
    attention_on_parent_mean: Option<f64>,
    /// Test loss less that of the Bayes predictor from counts, nats, mean over the runs.
    gap: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    isa: &'static str,
    threads: usize,
    overrides: Vec<String>,
    points: Vec<Point>,
    fits: Vec<Fit>,
    recovery: Vec<Recovery>,
}

pub(super) fn scaling(args: &ScalingArgs) -> Result<()> {
    if !(args.seconds > 0.0 && args.seconds <= 60.0) {
        return Err(Error::invalid("seconds", args.seconds.to_string(), "0 < seconds <= 60"));
    }
    if !(args.recovery >= 0.0 && args.recovery <= 1e6) {
        return Err(Error::invalid("recovery", args.recovery.to_string(), "0 to 10^6 seconds"));
    }
    if args.one {
        return one(args);
    }
    let threads = pool(args.threads)?.current_num_threads();
    // Checked here rather than in the first process.
    let config = config_of(&args.overrides)?;
    let axes = axes(args.quick, &config.model);
    for (key, sizes) in &axes {
        let config = config_of(&at(&args.overrides, word(key, sizes[0], &config.model)))?;
        run::check(paper::experiment(&config)?, &config)?;
    }
    let folder = new_folder(args.out.as_deref(), "scaling", args.quick)?;
    let _lock = claim_folder(&folder)?;
    let mut points = Vec::new();
    for (key, sizes) in &axes {
        for &size in *sizes {
            let point = measure(args, &word(key, size, &config.model), threads)?;
            let point = Point { key: (*key).into(), size, ..point };
            let peak = point.peak_mib.map_or("-".into(), |m| format!("{m:.0} MiB"));
            say(&format!("{key} {size}: {:.3} ms a step, {peak}", point.ms_per_step));
            points.push(point);
        }
    }
    let fits = axes.iter().map(|(key, _)| fit(key, &points)).collect();
    let isa = popgrad_kernels::Isa::from_env()?.name();
    let (version, overrides) = (env!("CARGO_PKG_VERSION"), args.overrides.clone());
    let mut report = Report { version, isa, threads, overrides, points, fits, recovery: Vec::new() };
    // Before recovery, so that a failure there leaves what was measured.
    report.write(&folder)?;
    let drawn = save_figure(&folder, "scaling", &figure(&report)).map_err(|e| e.of_figures(&folder));
    report.recovery = recovery(args, &report.points, &folder, threads)?;
    report.write(&folder)?;
    let found = Shown { report: &report, folder: folder.display().to_string() };
    show(&found, || format!("{}folder: {}\n", table(&report), found.folder))?;
    drawn.map(drop)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a Report,
    folder: String,
}

impl Report {
    fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|e| Error::invalid("scaling", e.to_string(), "numbers with a JSON form"))?;
        write_bytes_atomic(&folder.join("scaling.json"), (json + "\n").as_bytes())
    }
}

/// The keys that grow, with their sizes.
fn axes(quick: bool, model: &Spec) -> Vec<(&'static str, &'static [usize])> {
    let mut axes: Vec<(&str, &[usize])> = if quick {
        vec![("T", &[8, 16]), ("S", &[3, 6]), ("heads", &[1, 2]), ("batch", &[64, 128])]
    } else {
        vec![
            ("T", &[20, 32, 48, 64, 96, 128, 192, 256]),
            ("S", &[3, 5, 10, 16, 32, 64]),
            ("heads", &[1, 2, 4, 8]),
            ("batch", &[64, 256, 1024, 4096]),
        ]
    };
    if matches!(model, Spec::Simplified(_) | Spec::Memory(_)) {
        axes.retain(|(key, _)| *key != "heads");
    }
    axes
}

/// The override that gives `key` its size.
fn word(key: &str, size: usize, model: &Spec) -> String {
    let first_layer = key == "heads" && !matches!(model, Spec::Transformer(_));
    if first_layer { format!("heads={size},1") } else { format!("{key}={size}") }
}

/// `overrides` with `word` in place of one of the same key.
fn at(overrides: &[String], word: String) -> Vec<String> {
    let key = |w: &str| w.split('=').next().unwrap_or_default().trim().to_string();
    overrides.iter().filter(|w| key(w) != key(&word)).cloned().chain([word.clone()]).collect()
}

fn base() -> Result<Table> {
    BASE.parse().map_err(|e: toml::de::Error| Error::invalid("scaling", e.to_string(), "valid TOML"))
}

/// The overrides, none of them of a key that the command sets itself.
fn layer_of(overrides: &[String]) -> Result<Table> {
    let layer = config::parse_overrides(overrides)?;
    match OWN.into_iter().find(|k| layer.contains_key(*k)) {
        Some(key) => {
            let allowed = format!("any key but {}: `popgrad scaling` sets these itself", OWN.join(", "));
            Err(Error::invalid(key, "given", allowed))
        }
        None => Ok(layer),
    }
}

fn config_of(overrides: &[String]) -> Result<config::Config> {
    let mut layers = paper::preset("chain", false)?;
    layers.push(base()?);
    config::resolve_over(&layers, &[layer_of(overrides)?])
}

/// Runs this program on the size that override `word` gives.
fn measure(args: &ScalingArgs, word: &str, threads: usize) -> Result<Point> {
    let path = std::env::current_exe().map_err(|e| Error::io("popgrad", "cannot find itself", e))?;
    let mut command = Command::new(&path);
    command.args(["scaling", "--one", "--seconds", &args.seconds.to_string()]);
    command.args(["--threads", &threads.to_string()]).args(at(&args.overrides, word.into()));
    let out = command.output().map_err(|e| Error::io(&path, "cannot run", e))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).trim().replace('\n', " ");
        let problem = format!("{word}: {}", why.trim_start_matches("error: "));
        return Err(Error::invalid("scaling", problem, "sizes that can be trained"));
    }
    serde_json::from_slice(&out.stdout)
        .map_err(|e| Error::format(&path, format!("{word}: unexpected output of the timed process: {e}")))
}

/// Times the steps of a real run, and prints them.
fn one(args: &ScalingArgs) -> Result<()> {
    let pool = pool(args.threads)?;
    let mut config = config_of(&args.overrides)?;
    let experiment = paper::experiment(&config)?;
    pool.install(|| run::check(experiment, &config))?;
    let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", "cannot create", e))?;
    let timed = |name: &str, config: &Config| -> Result<Vec<f64>> {
        let mut clock = Clock { last: None, ms: Vec::with_capacity(config.plan.steps as usize) };
        let run_folder = folder.path().join(name);
        create_run_dir(&run_folder)?;
        run::run(experiment, config, &run_folder, false, &pool, &mut clock)?;
        clock.ms.sort_by(f64::total_cmp);
        Ok(clock.ms)
    };
    // The first step has no predecessor: take the faster of the two times between three steps.
    config.plan.steps = 3;
    let guess = timed("guess", &config)?[0];
    config.plan.steps = ((1e3 * args.seconds / guess) as u64).clamp(4, 5000);
    let ms = timed("run", &config)?;
    let point = Point {
        key: String::new(),
        size: 0,
        ms_per_step: ms[ms.len() / 2],
        fastest_ms: ms[0],
        steps: ms.len(),
        peak_mib: peak_mib(),
    };
    let json = serde_json::to_string(&point)
        .map_err(|e| Error::invalid("scaling", e.to_string(), "numbers with a JSON form"))?;
    tell(&(json + "\n"))
}

/// Peak resident size of this process.
fn peak_mib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

/// Times between the ends of steps, ms.
struct Clock {
    last: Option<Instant>,
    ms: Vec<f64>,
}

impl Progress for Clock {
    fn stepped(&mut self, _step: u64, _loss: f64) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.ms.push(now.duration_since(last).as_secs_f64() * 1e3);
        }
    }
    fn evaluated(&mut self, _name: &'static str, _value: f64) {}
    fn finished(&mut self) {}
    fn note(&mut self, _text: &str) {}
    fn wants_figures(&self) -> bool {
        false
    }
}

fn of<'a>(key: &'a str, points: &'a [Point]) -> impl Iterator<Item = (f64, f64)> + 'a {
    points.iter().filter(move |p| p.key == key).map(|p| (p.size as f64, p.ms_per_step))
}

fn fit(key: &str, points: &[Point]) -> Fit {
    let logs: Vec<(f64, f64)> = of(key, points).map(|(x, y)| (x.ln(), y.ln())).collect();
    Fit { key: key.into(), exponent: slope(&logs), at_the_end: slope(&logs[logs.len().saturating_sub(2)..]) }
}

/// Least-squares slope.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let xy: f64 = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    xy / points.iter().map(|(x, _)| (x - mx) * (x - mx)).sum::<f64>()
}

/// Short runs against T and against S, as many as the time limit allows at the measured cost of a
/// step.
fn recovery(args: &ScalingArgs, points: &[Point], folder: &Path, threads: usize) -> Result<Vec<Recovery>> {
    const SEEDS: u64 = 3;
    let mut out = Vec::new();
    if args.recovery == 0.0 {
        return Ok(out);
    }
    let mut left = args.recovery;
    let steps = if args.quick { 128 } else { 1024 };
    for (key, others) in [("T", ["S=5", "T=12"]), ("S", ["T=12", "S=5"])] {
        let mut words: Vec<String> = others.iter().map(|w| w.to_string()).collect();
        words.push(format!("steps={steps}"));
        let mut layer = config::parse_overrides(&words)?;
        for (k, v) in [("lr", Value::Float(4.0)), ("test_size", 2048.into()), ("eval_every", steps.into())] {
            layer.insert(k.into(), v);
        }
        let mut own = base()?;
        own.extend(layer);
        let mut sizes = Vec::new();
        for p in points.iter().filter(|p| p.key == key) {
            // Three runs of as many steps; those timed had no smaller alphabet or length, nor
            // another where one is given.
            let seconds = SEEDS as f64 * steps as f64 * p.ms_per_step / 1e3;
            if seconds <= left {
                left -= seconds;
                sizes.push(p.size);
            } else {
                out.push(Recovery {
                    key: key.into(),
                    size: p.size,
                    runs: 0,
                    recovered: None,
                    attention_on_parent_mean: None,
                    gap: None,
                });
            }
        }
        if sizes.is_empty() {
            continue;
        }
        let axis =
            Axis { key: key.into(), values: sizes.iter().map(|n| Value::Integer(*n as i64)).collect() };
        let study = studies::grid(("chain", false), vec![axis], SEEDS, &own, &[layer_of(&args.overrides)?])?;
        study.check()?;
        let sub = folder.join(format!("recovery-{key}"));
        create_run_dir(&sub)?;
        // Its own figures are not among what is measured.
        study.outcome(&sub, threads, progress::of_study().as_ref())?;
        let section = study.drawing.cells(&study, &sub)?;
        out.extend(sizes.iter().zip(section).map(|(size, found)| Recovery {
            key: key.into(),
            size: *size,
            runs: found.runs,
            recovered: Some(found.recovered),
            attention_on_parent_mean: found.attention,
            gap: found.gap,
        }));
    }
    out.sort_by(|a, b| (b.key.as_str(), a.size).cmp(&(a.key.as_str(), b.size)));
    Ok(out)
}

fn table(report: &Report) -> String {
    let heads =
        [("key", Left), ("size", Right), ("ms a step", Right), ("fastest", Right), ("peak MiB", Right)];
    let row = |p: &Point| {
        let peak = p.peak_mib.map_or("-".into(), |m| format!("{m:.1}"));
        let times = [p.ms_per_step, p.fastest_ms].map(|ms| format!("{ms:.3}"));
        [vec![p.key.clone(), p.size.to_string()], times.to_vec(), vec![peak]].concat()
    };
    let mut text = columns(&heads, report.points.iter().map(row).collect());
    for f in &report.fits {
        text += &format!("time ~ {}^{:.2}, between the last two ^{:.2}\n", f.key, f.exponent, f.at_the_end);
    }
    let row = |r: &Recovery| {
        let found = match r.recovered {
            Some(n) => {
                let [a, gap] =
                    [r.attention_on_parent_mean, r.gap].map(|x| x.map_or("-".into(), |x| format!("{x:.3}")));
                format!("{n} of {} recovered, attention on the parent {a}, gap {gap} nats", r.runs)
            }
            None => "left out: too long for --recovery".into(),
        };
        vec![r.key.clone(), r.size.to_string(), found]
    };
    let heads = [("key", Left), ("size", Right), ("recovery", Left)];
    if !report.recovery.is_empty() {
        text += &columns(&heads, report.recovery.iter().map(row).collect());
    }
    text
}

fn figure(report: &Report) -> Figure {
    let chart = |f: &Fit| -> Figure {
        let points: Vec<(f64, f64)> = of(&f.key, &report.points).collect();
        LineChart {
            title: format!("time ~ {}^{:.2}", f.key, f.exponent),
            x_label: if f.key == "heads" { "heads of layer 1".into() } else { f.key.clone() },
            y_label: "ms a step".into(),
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            series: vec![Series::new("", points, 0).marked()],
            size: (320.0, 220.0),
            ..LineChart::default()
        }
        .into()
    };
    let title = format!("Cost of a step, {} threads, {}", report.threads, report.isa);
    Panels { title, columns: 2, figures: report.fits.iter().map(chart).collect() }.into()
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn slopes_of_powers() {
        let points: Vec<(f64, f64)> =
            [1.0f64, 2.0, 4.0, 8.0].map(|x| (x.ln(), (3.0 * x.powf(1.5)).ln())).into();
        assert!((slope(&points) - 1.5).abs() < 1e-12);
        assert!(slope(&points[..1]).is_nan());
    }
}
