//! Progress of a run on stderr: a bar on a terminal, a line every few seconds elsewhere.

use super::output::{is_quiet, is_verbose};
use super::{say, signals, warn};
use crate::config::{Config, Source};
use crate::report::metrics::Summary;
use crate::run::Progress;
use crate::study::{self, Member, Watcher};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A bar if stderr is a terminal, otherwise lines.
pub(super) fn new(config: &Config) -> Box<dyn Progress> {
    let meter = Meter::new(config);
    if has_bar() { Box::new(Bar::new(config, meter)) } else { Box::new(Lines { meter }) }
}

/// True if a bar may move on stderr.
fn has_bar() -> bool {
    std::io::stderr().is_terminal() && !is_quiet()
}

/// What both forms show.
struct Meter {
    batch: u64,
    steps: u64,
    loss: f64,
    evaluated: Option<(&'static str, f64)>,
    shown: Instant,
    shown_step: Option<u64>,
}

impl Meter {
    fn new(config: &Config) -> Self {
        Meter {
            // For steps on the whole population, sequences per second are not shown.
            batch: if config.plan.source == Source::Sampled { config.plan.batch as u64 } else { 0 },
            steps: config.plan.steps,
            loss: f64::NAN,
            evaluated: None,
            shown: Instant::now(),
            shown_step: None,
        }
    }

    /// The current text, if the last one is older than `every`, and seconds left at the rate since
    /// then.
    fn due(&mut self, step: u64, every: Duration) -> Option<(String, f64)> {
        let elapsed = self.shown.elapsed();
        let from = *self.shown_step.get_or_insert(step);
        if elapsed < every {
            return None;
        }
        let steps = (step - from) as f64 / elapsed.as_secs_f64();
        (self.shown, self.shown_step) = (Instant::now(), Some(step));
        let last = self.evaluated.map_or(String::new(), |(name, x)| format!("  {name} {x:.4}"));
        let rate = match self.batch {
            0 => format!("{steps:.1} steps/s"),
            batch => format!("{:.0} sequences/s", steps * batch as f64),
        };
        let left = (self.steps - step.min(self.steps)) as f64 / steps;
        let loss = if self.loss.is_nan() { "none in this batch".into() } else { format!("{:.4}", self.loss) };
        Some((format!("loss {loss}{last}  {rate}"), left))
    }
}

struct Bar {
    bar: ProgressBar,
    meter: Meter,
}

impl Bar {
    fn new(config: &Config, meter: Meter) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(config.plan.steps).with_style(style);
        Bar { bar, meter }
    }
}

impl Progress for Bar {
    fn stepped(&mut self, step: u64, loss: f64) {
        self.meter.loss = loss;
        if let Some((text, _)) = self.meter.due(step, Duration::from_millis(200)) {
            self.bar.set_position(step);
            self.bar.set_message(text);
        }
    }
    fn evaluated(&mut self, name: &'static str, value: f64) {
        self.meter.evaluated = Some((name, value));
    }
    fn finished(&mut self) {
        self.bar.finish_and_clear();
    }
    fn wants_to_stop(&self) -> bool {
        signals::wanted().is_some()
    }
    fn note(&mut self, text: &str) {
        self.bar.suspend(|| say(text));
    }
    fn warn(&mut self, text: &str) {
        self.bar.suspend(|| warn(text));
    }
}

/// Time between lines of a run.
const LINE: Duration = Duration::from_secs(5);

/// A time as a text: `about 2 minutes`.
pub(super) fn about(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time < Duration::from_secs(1) => "less than a second".into(),
        Ok(time) => format!("about {}", HumanDuration(time)),
        Err(_) => "unknown time".into(),
    }
}

struct Lines {
    meter: Meter,
}

impl Progress for Lines {
    fn stepped(&mut self, step: u64, loss: f64) {
        self.meter.loss = loss;
        if let Some((text, left)) = self.meter.due(step, LINE) {
            say(&format!("step {step}/{}  {text}  {} left", self.meter.steps, about(left)));
        }
    }
    fn evaluated(&mut self, name: &'static str, value: f64) {
        self.meter.evaluated = Some((name, value));
    }
    fn finished(&mut self) {}
    fn wants_to_stop(&self) -> bool {
        signals::wanted().is_some()
    }
    fn note(&mut self, text: &str) {
        say(text);
    }
    fn warn(&mut self, text: &str) {
        warn(text);
    }
}

/// The progress of a study: a bar over the updates of all runs on a terminal, otherwise a line
/// every ten seconds. A study of few runs also has a line for each finished run.
pub(super) fn of_study() -> Box<dyn Watcher> {
    let bar = has_bar().then(|| {
        let style = ProgressStyle::with_template("{bar:32} {percent}%  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style)
    });
    Box::new(StudyMeter { bar, work: AtomicU64::new(0), state: Mutex::new(StudyState::default()) })
}

struct StudyMeter {
    bar: Option<ProgressBar>,
    /// Done in this session, in units of 10⁶ multiplications: a run whose updates are larger
    /// counts for more.
    work: AtomicU64,
    state: Mutex<StudyState>,
}

#[derive(Default)]
struct StudyState {
    runs: usize,
    over: usize,
    all: u64,
    since: Option<(Instant, Instant)>,
}

/// Largest number of runs that each have a line.
const FEW_RUNS: usize = 24;
/// Work of this many updates of a run, in the study's units.
fn work(run: &Member, updates: u64) -> u64 {
    (study::cost(&run.config) / run.config.plan.steps as f64 * updates as f64 / 1e6).ceil() as u64
}

/// Updates of a run between checks of the clock.
const LOOK: u64 = 64;

impl StudyMeter {
    /// Prints beside the bar.
    fn line(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn look(&self) {
        let work = self.work.load(Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(|p| p.into_inner());
        let Some((began, shown)) = state.since else { return };
        let runs = format!("{}/{} runs", state.over, state.runs);
        if let Some(bar) = &self.bar {
            bar.set_position(work);
            bar.set_message(runs);
        } else if shown.elapsed() > Duration::from_secs(10) {
            state.since = Some((began, Instant::now()));
            let share = (work as f64 / state.all.max(1) as f64).min(1.0);
            let left = began.elapsed().as_secs_f64() * (1.0 / share.max(1e-9) - 1.0);
            say(&format!("{runs}  {:.0}% of the work  {} left", 100.0 * share, about(left)));
        }
    }
}

impl Watcher for StudyMeter {
    fn begins(&self, runs: usize, left: &[&Member]) {
        let all = left.iter().map(|m| work(m, m.config.plan.steps)).sum();
        let mut state = self.state.lock().unwrap_or_else(|p| p.into_inner());
        self.work.store(0, Ordering::Relaxed);
        let now = Instant::now();
        *state = StudyState { runs, over: runs - left.len(), all, since: Some((now, now)) };
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(all);
        }
    }

    fn started(&self, run: &Member) -> Box<dyn Progress + '_> {
        Box::new(OneOfMany { of: self, name: run.name.clone(), unit: work(run, LOOK), done: 0 })
    }

    fn finished(&self, run: &Member, summary: &Summary) {
        let (runs, over) = {
            let mut state = self.state.lock().unwrap_or_else(|p| p.into_inner());
            state.over += 1;
            (state.runs, state.over)
        };
        if runs <= FEW_RUNS || is_verbose() {
            let keys = ["test_loss", "gap", "attention_on_parent_mean", "acc_end", "acc_end_test"];
            let short = |k: &&str| {
                let x: f64 = summary.get(k)?.parse().ok()?;
                Some(format!("  {k} {x:.4}"))
            };
            let found: String = keys.iter().filter_map(short).collect();
            self.line(|| say(&format!("{over}/{runs} {}{found}", run.name)));
        }
        self.look();
        if let Some(bar) = self.bar.as_ref().filter(|_| over == runs) {
            bar.finish_and_clear();
        }
    }
}

struct OneOfMany<'a> {
    of: &'a StudyMeter,
    name: String,
    /// Work of [`LOOK`] updates.
    unit: u64,
    /// Updates not yet added to the study's.
    done: u64,
}

impl OneOfMany<'_> {
    fn add(&mut self) {
        let work = self.unit * std::mem::take(&mut self.done) / LOOK;
        self.of.work.fetch_add(work, Ordering::Relaxed);
        self.of.look();
    }
}

impl Progress for OneOfMany<'_> {
    fn stepped(&mut self, _step: u64, _loss: f64) {
        self.done += 1;
        if self.done >= LOOK {
            self.add();
        }
    }
    fn evaluated(&mut self, _name: &'static str, _value: f64) {}
    fn finished(&mut self) {
        self.add();
    }
    fn wants_to_stop(&self) -> bool {
        signals::wanted().is_some()
    }
    fn note(&mut self, text: &str) {
        self.of.line(|| say(&format!("{}: {text}", self.name)));
    }
    fn warn(&mut self, text: &str) {
        self.of.line(|| warn(&format!("{}: {text}", self.name)));
    }
    fn verdict(&mut self, text: &str) {
        let runs = self.of.state.lock().unwrap_or_else(|p| p.into_inner()).runs;
        if runs <= FEW_RUNS {
            self.warn(text);
        }
    }
}
