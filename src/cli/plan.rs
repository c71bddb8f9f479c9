//! What is ahead: `--print-config`, `--dry-run`, and how long a study will take.

use super::output::{is_quiet, json, wants_json};
use super::progress::about;
use super::{say, show, tell};
use crate::config::Config;
use crate::input::in_words;
use crate::report::files::check_new;
use crate::run::{self, Experiment};
use crate::study::{Forecast, Member, Study};
use crate::{Error, Result};
use clap::Args;
use std::path::Path;
use std::time::Duration;
use toml::Table;

/// What to do in place of running.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Ahead {
    /// Print the resolved configuration as TOML and stop: --config FILE gives the same results.
    #[arg(long, conflicts_with = "dry_run")]
    print_config: bool,
    /// Say what would run and stop: runs, updates, memory, disk, and the time by a few updates that
    /// are measured. Nothing is written.
    #[arg(long)]
    dry_run: bool,
}

/// How long each measured run is measured.
const FOR_A_PLAN: Duration = Duration::from_millis(500);
const IN_PASSING: Duration = Duration::from_millis(50);

impl Ahead {
    /// Prints what is asked for; true if nothing is to be run. `config` is the resolved
    /// configuration, `out` the folder that is asked for.
    ///
    /// # Errors
    /// Those of the arguments; a loss that is not finite before the first update.
    pub(super) fn shows(
        self,
        out: Option<&Path>,
        config: impl FnOnce() -> Result<Table>,
        forecast: impl FnOnce(Duration) -> Result<Forecast>,
    ) -> Result<bool> {
        if let Some(out) = out.filter(|_| self.dry_run) {
            check_new(out)?;
        }
        if self.print_config {
            let config = config()?;
            tell(&if wants_json() { json(&config)? } else { config.to_string() })?;
        }
        if self.dry_run {
            let forecast = forecast(FOR_A_PLAN)?;
            show(&forecast, || text(&forecast))?;
        }
        Ok(self.print_config || self.dry_run)
    }
}

/// The forecast of a single run, on the current pool.
pub(super) fn of_run(experiment: &dyn Experiment, config: &Config, budget: Duration) -> Result<Forecast> {
    let cost = run::cost(experiment, config, budget)?;
    Ok(Forecast {
        runs: 1,
        steps: cost.steps,
        side_by_side: 1,
        memory_bytes: cost.memory,
        disk_bytes: cost.disk(),
        snapshots: cost.snapshots,
        seconds: cost.seconds(),
    })
}

/// That of several studies, one after the other.
pub(super) fn of_all(all: &[(&Study, Vec<&Member>)], threads: usize, budget: Duration) -> Result<Forecast> {
    let mut whole = Forecast::default();
    for (study, runs) in all {
        whole = whole.then(study.forecast(runs, threads, budget)?);
    }
    Ok(whole)
}

/// Says how many runs there are, and about how long they take; nothing of the time where what is
/// measured fails, as the study itself then says why, or takes it for a result.
pub(super) fn announce(all: &[(&Study, Vec<&Member>)], threads: usize) {
    if is_quiet() {
        return;
    }
    let f = of_all(all, threads, IN_PASSING);
    let left = all.iter().map(|(_, left)| left.len()).sum::<usize>();
    let runs = |n: usize| if n == 1 { "1 run".into() } else { format!("{n} runs") };
    let of = all.iter().map(|(s, _)| s.runs.len()).sum::<usize>();
    let count = if left == of { runs(of) } else { format!("{left} of {} left", runs(of)) };
    match f {
        _ if left == 0 => {}
        Ok(f) if f.side_by_side > 1 => {
            say(&format!("{count}, {} side by side: {}", f.side_by_side, about(f.seconds)));
        }
        Ok(f) => say(&format!("{count}: {}", about(f.seconds))),
        Err(_) => say(&count),
    }
}

/// Refuses what a file that holds all of it says already.
pub(super) fn alone(given: &[(&str, bool)]) -> Result<()> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            let allowed = "nothing beside a file of several runs, which says all";
            Err(Error::invalid(*name, "given with --config", allowed))
        }
        None => Ok(()),
    }
}

fn text(f: &Forecast) -> String {
    let snapshots =
        if f.snapshots > 0 { format!(", {} snapshots included", f.snapshots) } else { String::new() };
    let rows = [
        ("runs", f.runs.to_string()),
        ("side by side", f.side_by_side.to_string()),
        ("updates", f.steps.to_string()),
        ("memory", in_words(f.memory_bytes as u64)),
        ("disk", format!("{} without figures{snapshots}", in_words(f.disk_bytes))),
        ("time", format!("{} without figures", about(f.seconds))),
    ];
    rows.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}
