//! Algorithm 1 of Nichani et al. 2024 on the simplified model: A1 alone, then A2 alone, on the
//! exact population, on its orbits under relabelling, or on samples. The three differ in the
//! objective and in nothing else.
//!
//! Expectation: stage 1 turns the rows of softmax(A1) into the graph; stage 2 sharpens A2 = β I,
//! and the loss falls to near the Bayes loss. The last row, which has no parent, drifts to itself.

use super::{CausalTask, algorithm1_figures as figures, population, report, tree};
use crate::batch::{Batch, Targets};
use crate::config::{Config, Rule, Source as From, Task as Keys};
use crate::model::trace::Trace;
use crate::model::{Layout, Spec};
use crate::probe::attention::{causal_row, parent_attention};
use crate::report::html::data::{Frame, Sketch};
use crate::report::metrics::Summary;
use crate::report::plot::{LineChart, Series};
use crate::rng::{Key, Purpose};
use crate::run::{Experiment, Log, Progress, Results, Setup, View};
use crate::source::{Sampled, Source};
use crate::task::{CausalTree, Task};
use crate::train::{Moment, Objective};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Updates done.
    pub step: u64,
    /// Stage of the next update, 1 or 2.
    pub stage: u64,
    /// Mean training loss since the last record.
    pub train_loss: Option<f64>,
    /// Loss at the parameters: exact, or on the test set.
    pub test_loss: f64,
    /// Norm of the last gradient.
    pub grad_norm: Option<f64>,
    /// Mean of A2's diagonal minus mean of its other entries.
    pub beta: f64,
    /// Attention on the parent, by position; none for a root.
    pub attention_on_parent: Vec<Option<f64>>,
    /// Attention of the query, position T, on every position.
    pub last_row: Vec<f64>,
    /// True if every parent stands out in its row: see
    /// [`ParentAttention::recovered`](crate::probe::attention::ParentAttention::recovered).
    pub graph_recovered: bool,
    /// True if every parent is the argmax of its row.
    #[serde(default)]
    pub graph_argmax: bool,
}

/// Runs of Algorithm 1.
#[derive(Debug)]
pub(super) struct Algorithm1;

impl Experiment for Algorithm1 {
    fn name(&self) -> &'static str {
        "algorithm1"
    }

    fn takes(&self, config: &Config) -> bool {
        matches!(config.optimizer, Rule::Staged { .. })
            && matches!(config.task, Keys::CausalTree(_) | Keys::CausalDag(_))
    }

    fn setup(&self, config: &Config) -> Result<Box<dyn Setup>> {
        let Rule::Staged { steps1, .. } = config.optimizer else {
            return Err(Error::invalid("optimizer", config.optimizer.name(), "staged"));
        };
        let eps = match &config.model {
            Spec::Simplified(s) => s.eps,
            other => return Err(Error::invalid("model", other.name(), "simplified with staged")),
        };
        Ok(Box::new(Staged { config: config.clone(), task: tree(config)?, steps1, eps }))
    }
}

struct Staged {
    config: Config,
    task: CausalTree,
    /// Updates of the first stage.
    steps1: u64,
    eps: f64,
}

impl Staged {
    fn sampled(&self, purpose: Purpose) -> Box<dyn Source> {
        Box::new(Sampled::new(self.task.clone(), Key::new(self.config.plan.seed, purpose)))
    }

    /// Sequences for pictures.
    fn sample(&self) -> Result<Batch> {
        const SEQUENCES: usize = 64;
        let source = self.sampled(Purpose::Test);
        let mut batch = source.batch(SEQUENCES)?;
        source.fill(0, SEQUENCES, &mut source.work(), &mut batch);
        Ok(batch)
    }
}

impl Setup for Staged {
    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn targets(&self) -> Targets {
        Targets::Law
    }

    fn check(&self) -> Result<()> {
        if self.has_objective() { population::check(&self.config, &self.task) } else { Ok(()) }
    }

    fn population(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    fn train(&self) -> Result<Box<dyn Source>> {
        Ok(self.sampled(Purpose::Train))
    }

    fn tests(&self) -> Result<Vec<Box<dyn Source>>> {
        Ok(vec![self.sampled(Purpose::Test)])
    }

    fn test(&self) -> Result<Box<dyn Source>> {
        match self.has_objective() {
            true => Ok(Box::new(population::source(&self.task)?)),
            false => Ok(self.sampled(Purpose::Test)),
        }
    }

    fn bayes(&self) -> Option<f64> {
        let known = self.has_objective().then(|| population::bayes_loss(&self.task).ok().flatten());
        known.flatten()
    }

    fn has_objective(&self) -> bool {
        self.config.plan.source != From::Sampled
    }

    fn objective(
        &self,
        layout: &Layout,
        progress: &mut dyn Progress,
    ) -> Result<Option<Box<dyn Objective<f64>>>> {
        if !self.has_objective() {
            return Ok(None);
        }
        population::objective(self.config.plan.source, self.eps, &self.task, layout, progress).map(Some)
    }

    fn fact(&self) -> (&'static str, serde_json::Value) {
        ("parents", self.task.forest().parents_i64().into())
    }

    fn evaluate(&mut self, at: &Moment, view: &mut dyn View, log: &mut Log<'_>) -> Result<f64> {
        let test_loss = view.test_loss()?;
        let (params, layout) = (view.params(), view.layout());
        let block = |name: &str| layout.find(name).map(|b| &params[b.range()]).unwrap_or_default();
        let (a1, a2, t, s) = (block("A1"), block("A2"), self.task.seq_len(), self.task.vocab());
        let parents = self.task.forest().parents();
        let diagonal: f64 = a2.iter().step_by(s + 1).sum();
        let others = a2.iter().sum::<f64>() - diagonal;
        let on_parent = parents.iter().enumerate().map(|(i, p)| p.map(|p| causal_row(a1, t, i)[p]));
        let found = parent_attention(&[a1.to_vec()], t, parents);
        let record = MetricRecord {
            step: at.step,
            stage: 1 + u64::from(at.step >= self.steps1),
            train_loss: at.train_loss,
            test_loss,
            grad_norm: at.grad_norm,
            beta: diagonal / s as f64 - others / (s * (s - 1)) as f64,
            attention_on_parent: on_parent.collect(),
            last_row: causal_row(a1, t, t - 1),
            graph_recovered: found.as_ref().is_some_and(|a| a.recovered),
            graph_argmax: found.is_some_and(|a| a.argmax),
        };
        log.record(test_loss, &record, None)?;
        Ok(test_loss)
    }

    fn finish(&mut self, _view: &mut dyn View, folder: &Path, summary: &mut Summary) -> Result<()> {
        let records = figures::read_metrics(folder)?;
        let Some(last) = records.last() else {
            return Err(Error::format(folder, "no metrics were written"));
        };
        // A reference line: what training found does not depend on it.
        let bayes = population::bayes_loss(&self.task).ok().flatten();
        let after1 = records.iter().find(|r| r.step == self.steps1);
        let on_parent: Vec<f64> = last.attention_on_parent.iter().flatten().copied().collect();
        let mean = on_parent.iter().sum::<f64>() / on_parent.len() as f64;
        summary.set("loss_start", records.first().map(|r| r.test_loss))?;
        summary.set("loss_stage1", after1.map(|r| r.test_loss))?;
        summary.set("loss", last.test_loss)?;
        summary.set("bayes", bayes)?;
        summary.set("uniform_guess", (self.task.vocab() as f64).ln())?;
        summary.set("attention_on_parent_mean", (!on_parent.is_empty()).then_some(mean))?;
        summary.set("attention_on_parent_min", on_parent.iter().copied().reduce(f64::min))?;
        summary.set("last_row_on_itself", last.last_row.last())?;
        summary.set("beta", last.beta)?;
        summary.set("graph_recovered", last.graph_recovered)?;
        summary.set("graph_argmax", last.graph_argmax)
    }

    fn draw(&mut self, view: &mut dyn View, folder: &Path) -> Result<()> {
        let drawn = figures::Drawn {
            config: &self.config,
            task: &self.task,
            steps1: self.steps1,
            bayes: population::bayes_loss(&self.task).ok().flatten(),
        };
        drawn.draw(view.layout(), view.params(), folder)
    }

    fn sketch(&mut self, results: &Results) -> Result<Sketch> {
        let t = self.task.seq_len();
        let entry =
            |key: &'static str, i: usize| results.curve_of(|r| r.get(key)?.as_array()?.get(i)?.as_f64());
        let of_positions = |key: &'static str, n: usize| {
            let one =
                |i: usize| Series { dashed: i % 14 >= 7, ..Series::new(format!("{i}"), entry(key, i), i) };
            report::kept((0..n).map(one).collect())
        };
        let unit = Some((0.0, 1.0));
        let charts = vec![
            report::loss(self.task.vocab(), results),
            LineChart::over_steps(
                "Attention on the parent, by position",
                "share",
                of_positions("attention_on_parent", t),
                unit,
            ),
            LineChart::over_steps(
                "Attention of the last position",
                "share",
                of_positions("last_row", t),
                unit,
            ),
            LineChart::over_steps(
                "Diagonal of A2 less its other entries",
                "β",
                report::kept(vec![Series::new("β", results.curve("beta"), 0)]),
                None,
            ),
        ];
        let task = CausalTask::Tree(self.task.clone());
        Ok(report::sketch(&self.config, &task, report::sample(&self.sample()?), (charts, results)))
    }

    fn frame(&mut self, trace: &Trace, params: &[f64]) -> Result<Frame> {
        let task = CausalTask::Tree(self.task.clone());
        report::frame(&task, trace, params, &self.sample()?)
    }
}
