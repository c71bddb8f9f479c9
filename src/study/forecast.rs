//! What a study will take, before it runs. A few of its runs are measured, and the others follow by
//! the number of their multiplications.

use super::{Member, Study, cost, pool};
use crate::Result;
use crate::run::{self, Cost};
use serde::Serialize;
use std::time::Duration;

/// What a study, or what is left of it, will take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Runs.
    pub runs: usize,
    /// Updates of all of them.
    pub steps: u64,
    /// Runs side by side.
    pub side_by_side: usize,
    /// Bytes of memory while as many of them run side by side, whichever coincide.
    pub memory_bytes: usize,
    /// Bytes of all files without figures.
    pub disk_bytes: u64,
    /// Snapshots of all runs.
    pub snapshots: u64,
    /// Seconds, without figures.
    pub seconds: f64,
}

impl Forecast {
    /// This and then `other`.
    pub fn then(self, other: Forecast) -> Forecast {
        Forecast {
            runs: self.runs + other.runs,
            steps: self.steps + other.steps,
            side_by_side: self.side_by_side.max(other.side_by_side),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            disk_bytes: self.disk_bytes + other.disk_bytes,
            snapshots: self.snapshots + other.snapshots,
            seconds: self.seconds + other.seconds,
        }
    }
}

/// Runs that are measured: the cheapest, one in the middle, the most expensive.
const MEASURED: usize = 3;

impl Study {
    /// The forecast for these runs on `threads` threads; each of a few of them is measured for
    /// `budget`.
    ///
    /// # Errors
    /// Configurations that cannot run.
    pub fn forecast(&self, runs: &[&Member], threads: usize, budget: Duration) -> Result<Forecast> {
        if runs.is_empty() {
            return Ok(Forecast::default());
        }
        let workers = self.workers(threads.min(runs.len()), runs)?;
        let mut sorted: Vec<&Member> = runs.to_vec();
        sorted.sort_by(|a, b| per_step(a).total_cmp(&per_step(b)));
        let last = sorted.len().saturating_sub(1);
        let mut places: Vec<usize> = (0..MEASURED).map(|i| i * last / (MEASURED - 1)).collect();
        places.dedup_by(|a, b| per_step(sorted[*a]) == per_step(sorted[*b]));
        let pool = pool(threads / workers)?;
        let mut measured: Vec<(f64, Cost)> = Vec::new();
        for at in places {
            let experiment = self.registry.experiment(&sorted[at].config)?;
            let of = pool.install(|| run::cost(experiment, &sorted[at].config, budget))?;
            measured.push((per_step(sorted[at]), of));
        }
        let (mut seconds, mut steps, mut disk, mut snapshots, mut bytes) = (0.0, 0, 0, 0, Vec::new());
        for member in runs {
            let own = per_step(member);
            let far = |m: &&(f64, Cost)| (m.0 / own).ln().abs();
            let Some((of, near)) = measured.iter().min_by(|a, b| far(a).total_cmp(&far(b))) else { break };
            let p = &member.config.plan;
            let evaluations = 1 + p.steps.div_ceil(p.eval_every);
            let kept = p.snapshots.as_ref().map_or(0, |s| s.up_to(p.steps).len() as u64);
            let as_this = Cost { steps: p.steps, evaluations, snapshots: kept, ..*near };
            let experiment = self.registry.experiment(&member.config)?;
            seconds += own / of * as_this.seconds();
            disk += as_this.with_sizes(run::sizes(experiment, &member.config)?).disk();
            steps += p.steps;
            snapshots += kept;
            bytes.push(run::bytes(experiment, &member.config)?);
        }
        bytes.sort_unstable_by(|a, b| b.cmp(a));
        let memory_bytes = bytes.iter().take(workers).fold(0usize, |sum, b| sum.saturating_add(*b));
        let seconds = seconds / workers as f64;
        let (side_by_side, disk_bytes) = (workers, disk);
        Ok(Forecast { runs: runs.len(), steps, side_by_side, memory_bytes, disk_bytes, snapshots, seconds })
    }
}

/// Multiplications of an update, about.
fn per_step(m: &Member) -> f64 {
    cost(&m.config) / m.config.plan.steps as f64
}
