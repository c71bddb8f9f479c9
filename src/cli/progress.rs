//! Progress of a run on stderr: a bar on a terminal, a line every few seconds elsewhere.

use super::say;
use crate::config::Config;
use crate::paper::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The right one for where stderr goes.
pub(super) fn new(config: &Config) -> Box<dyn Progress> {
    let meter = Meter::new(config);
    if std::io::stderr().is_terminal() {
        Box::new(Bar::new(config, meter))
    } else {
        Box::new(Lines { meter })
    }
}

/// What both forms show.
struct Meter {
    batch: u64,
    steps: u64,
    loss: f64,
    gap: Option<f64>,
    shown: Instant,
    shown_step: Option<u64>,
}

impl Meter {
    fn new(config: &Config) -> Self {
        Meter {
            // A step on the whole population has no rate in sequences worth telling.
            batch: if config.source == "sampled" { config.batch as u64 } else { 0 },
            steps: config.steps,
            loss: f64::NAN,
            gap: None,
            shown: Instant::now(),
            shown_step: None,
        }
    }

    /// Text of the moment, if the last one is older than `every`.
    fn due(&mut self, step: u64, every: Duration) -> Option<String> {
        let elapsed = self.shown.elapsed();
        let from = *self.shown_step.get_or_insert(step);
        if elapsed < every {
            return None;
        }
        let steps = (step - from) as f64 / elapsed.as_secs_f64();
        (self.shown, self.shown_step) = (Instant::now(), Some(step));
        let gap = self.gap.map_or(String::new(), |g| format!("  gap {g:.4}"));
        let rate = match self.batch {
            0 => format!("{steps:.1} steps/s"),
            batch => format!("{:.0} sequences/s", steps * batch as f64),
        };
        Some(format!("loss {:.4}{gap}  {rate}", self.loss))
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
        let bar = ProgressBar::new(config.steps).with_style(style);
        Bar { bar, meter }
    }
}

impl Progress for Bar {
    fn stepped(&mut self, step: u64, loss: f64) {
        self.meter.loss = loss;
        if let Some(text) = self.meter.due(step, Duration::from_millis(200)) {
            self.bar.set_position(step);
            self.bar.set_message(text);
        }
    }
    fn evaluated(&mut self, gap: f64) {
        self.meter.gap = Some(gap);
    }
    fn finished(&mut self) {
        self.bar.finish_and_clear();
    }
    fn note(&mut self, text: &str) {
        self.bar.suspend(|| say(text));
    }
}

struct Lines {
    meter: Meter,
}

impl Progress for Lines {
    fn stepped(&mut self, step: u64, loss: f64) {
        self.meter.loss = loss;
        if let Some(text) = self.meter.due(step, Duration::from_secs(5)) {
            say(&format!("step {step}/{}  {text}", self.meter.steps));
        }
    }
    fn evaluated(&mut self, gap: f64) {
        self.meter.gap = Some(gap);
    }
    fn finished(&mut self) {}
    fn note(&mut self, text: &str) {
        say(text);
    }
}
