//! The tasks of a causal-graph experiment behind one interface: graph, reference losses,
//! population.

use super::{population, posterior};
use crate::batch::{Batch, divisor};
use crate::config::task::{self as keys, Graph};
use crate::config::{Config, Task as Keys};
use crate::exact::{DagLaw, Prior};
use crate::num::Sum;
use crate::paper::cross_entropy;
use crate::rng::{Key, Purpose};
use crate::source::{Population, Sampled, Source};
use crate::task::bayes::{bayes_counts, bayes_posterior, bayes_public};
use crate::task::bayes_dag::{bayes_one_parent, bayes_previous, bayes_tuples};
use crate::task::{CausalDag, CausalTree, Dag, DagRoots, Forest, Roots, Task};
use crate::{Error, Result};

/// A task of this experiment.
#[derive(Debug, Clone)]
pub enum CausalTask {
    /// One parent each.
    Tree(CausalTree),
    /// Several parents.
    Dag(CausalDag),
}

/// Loss of a reference predictor on the test set.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Key in the summary.
    pub key: &'static str,
    /// Name in figures.
    pub label: &'static str,
    /// The loss; none where the predictor has no form that can be evaluated.
    pub loss: Option<f64>,
}

/// Losses of the reference predictors on the test set.
#[derive(Debug, Clone, PartialEq)]
pub struct References {
    /// That of the predictor which the gap is measured from: the posterior mean from the counts.
    pub counts: Option<f64>,
    /// All of them, that one first.
    pub all: Vec<Reference>,
}

/// The task, from a configuration.
///
/// # Errors
/// Values out of range; another task.
pub fn task(config: &Config) -> Result<CausalTask> {
    match &config.task {
        Keys::CausalTree(_) => tree(config).map(CausalTask::Tree),
        Keys::CausalDag(keys) => dag(keys, config.plan.seed).map(CausalTask::Dag),
        other => Err(Error::invalid("task", other.name(), "causal_tree or causal_dag")),
    }
}

/// The task with one parent each.
///
/// # Errors
/// Values out of range; another task.
pub fn tree(config: &Config) -> Result<CausalTree> {
    let Keys::CausalTree(keys) = &config.task else {
        return Err(Error::invalid("task", config.task.name(), "causal_tree for this preset"));
    };
    let forest = match keys.graph {
        Graph::Custom => Forest::from_parents(&keys.parents)?,
        graph => Forest::named(graph.name(), keys.T, config.plan.seed)?,
    };
    check_len(keys.T, keys.graph, forest.seq_len())?;
    let roots = match keys.roots {
        keys::Roots::Stationary => Roots::Stationary,
        keys::Roots::Uniform => Roots::Uniform,
        keys::Roots::Shared => {
            return Err(Error::invalid("roots", "shared", "stationary or uniform with task=causal_tree"));
        }
    };
    let task = CausalTree::new(forest, keys.S, keys.alpha, roots)?;
    match keys.gamma {
        Some(gamma) => task.floored(gamma),
        None => Ok(task),
    }
}

fn dag(keys: &keys::CausalDag, seed: u64) -> Result<CausalDag> {
    let dag = match (keys.graph, &keys.parent_sets) {
        (Graph::Custom, Some(text)) => Dag::parse(text)?,
        (Graph::Custom, None) => {
            let allowed = "parents of a custom graph, e.g. `-;0;0,1`";
            return Err(Error::invalid("parent_sets", "missing", allowed));
        }
        (graph, _) => Dag::named(graph.name(), keys.T, keys.order.or(keys.k), seed)?,
    };
    check_len(keys.T, keys.graph, dag.seq_len())?;
    let roots = match keys.roots {
        keys::Roots::Shared => DagRoots::Shared,
        keys::Roots::Uniform => DagRoots::Uniform,
        keys::Roots::Stationary => {
            return Err(Error::invalid("roots", "stationary", "shared or uniform with task=causal_dag"));
        }
    };
    CausalDag::new(dag, keys.S, keys.alpha, roots)
}

fn check_len(t: usize, graph: Graph, len: usize) -> Result<()> {
    if len == t {
        return Ok(());
    }
    let problem = format!("{t} for graph `{}` of {len} tokens", graph.name());
    Err(Error::invalid("T", problem, format!("T = {len}")))
}

/// The name of the graph and the Dirichlet parameter of a configuration, for figures; `None` for
/// other tasks.
pub(super) fn title_of(config: &Config) -> Option<(&'static str, f64)> {
    match &config.task {
        Keys::CausalTree(t) => Some((t.graph.name(), t.alpha)),
        Keys::CausalDag(t) => Some((t.graph.name(), t.alpha)),
        Keys::TriggerBigram(_) => None,
    }
}

impl CausalTask {
    /// Alphabet size S.
    pub fn vocab(&self) -> usize {
        match self {
            CausalTask::Tree(task) => task.vocab(),
            CausalTask::Dag(task) => task.vocab(),
        }
    }

    /// Sequence length T.
    pub fn seq_len(&self) -> usize {
        match self {
            CausalTask::Tree(task) => task.seq_len(),
            CausalTask::Dag(task) => task.seq_len(),
        }
    }

    /// Samples for `purpose`, labelled with the law of the next symbol.
    pub fn sampled(&self, seed: u64, purpose: Purpose) -> Box<dyn Source> {
        Box::new(self.samples(Key::new(seed, purpose)))
    }

    /// Samples for training.
    pub fn training(&self, seed: u64, labels: keys::Labels) -> Box<dyn Source> {
        let laws = self.samples(Key::new(seed, Purpose::Train));
        Box::new(match labels {
            keys::Labels::Soft => laws,
            keys::Labels::Symbol => laws.with_labels(Key::new(seed, Purpose::Label)),
        })
    }

    fn samples(&self, key: Key) -> Sampled {
        match self {
            CausalTask::Tree(task) => Sampled::new(task.clone(), key),
            CausalTask::Dag(task) => Sampled::new(task.clone(), key),
        }
    }

    /// Refuses a prior that can only be sampled.
    ///
    /// # Errors
    /// Stationary roots beyond S = 2.
    pub fn check_prior(&self) -> Result<()> {
        match self {
            CausalTask::Tree(task) => population::check_prior(task),
            CausalTask::Dag(_) => Ok(()),
        }
    }

    /// The population as a source of weighted batches.
    ///
    /// # Errors
    /// As [`check_prior`](Self::check_prior); more words than it holds.
    pub fn population(&self) -> Result<Population> {
        match self {
            CausalTask::Tree(task) => population::source(task),
            CausalTask::Dag(task) => Population::new(&DagLaw::new(task.clone())),
        }
    }

    /// The prior of the transitions, with as many nodes as its integrals need.
    ///
    /// # Errors
    /// As [`check_prior`](Self::check_prior); a task with several parents.
    pub fn prior(&self) -> Result<Prior> {
        match self {
            CausalTask::Tree(task) => population::prior(task),
            CausalTask::Dag(_) => Err(Error::invalid("task", "causal_dag", "causal_tree")),
        }
    }

    /// Parents of each position 0..T-2: what the first layer should attend to. The last position's
    /// row serves the target.
    pub fn parents(&self) -> Vec<Vec<usize>> {
        match self {
            CausalTask::Tree(task) => {
                task.forest().parents().iter().map(|p| p.iter().copied().collect()).collect()
            }
            CausalTask::Dag(task) => {
                (0..task.seq_len() - 1).map(|i| task.dag().parents(i).to_vec()).collect()
            }
        }
    }

    /// The graph as `run.json` shows it: a list of one parent or -1 each, or the text of several,
    /// as the keys take them.
    pub fn graph_json(&self) -> serde_json::Value {
        match self {
            CausalTask::Tree(task) => task.forest().parents_i64().into(),
            CausalTask::Dag(task) => task.dag().to_string().into(),
        }
    }

    /// Mean losses of the reference predictors over `batches`.
    pub fn references(&self, batches: &[&Batch]) -> References {
        let all = match self {
            CausalTask::Tree(task) => tree_references(task, batches),
            CausalTask::Dag(task) => dag_references(task, batches),
        };
        References { counts: all[0].loss, all }
    }
}

/// Mean loss over `batches` of the predictor that writes its answer (S).
fn mean_loss(vocab: usize, batches: &[&Batch], mut predict: impl FnMut(&[u32], &mut [f64])) -> f64 {
    let (mut f, mut sum, mut weight) = (vec![0.0; vocab], Sum::new(), Sum::new());
    for batch in batches {
        for i in 0..batch.seqs() {
            let w = batch.weights()[i];
            if w > 0.0 {
                predict(batch.sequence(i), &mut f);
                sum.add(w * cross_entropy(batch.law(i), &f));
                weight.add(w);
            }
        }
    }
    sum.value() / divisor(weight.value())
}

fn tree_references(task: &CausalTree, batches: &[&Batch]) -> Vec<Reference> {
    let s = task.vocab();
    if task.floor().is_some() {
        // The counts rules know Dirichlet rows: here they are no Bayes answer.
        let loss = posterior::loss(task, batches);
        let unknown = |key, label| Reference { key, label, loss: None };
        return vec![
            Reference { key: "bayes_posterior", label: "Bayes, exact posterior", loss },
            unknown("bayes_counts", "Bayes, counts"),
            unknown("bayes_public", "Bayes, public code"),
        ];
    }
    let counts = mean_loss(s, batches, |x, f| bayes_counts(task, x, f));
    let public = mean_loss(s, batches, |x, f| bayes_public(task, x, f));
    let posterior = match task.roots() {
        Roots::Uniform => Some(mean_loss(s, batches, |x, f| {
            bayes_posterior(task, x, f);
        })),
        Roots::Stationary => posterior::loss(task, batches),
    };
    vec![
        Reference { key: "bayes_counts", label: "Bayes, counts", loss: Some(counts) },
        Reference { key: "bayes_public", label: "Bayes, public code", loss: Some(public) },
        Reference { key: "bayes_posterior", label: "Bayes, exact posterior", loss: posterior },
    ]
}

/// The counts of parent tuples are the exact posterior here.
fn dag_references(task: &CausalDag, batches: &[&Batch]) -> Vec<Reference> {
    let s = task.vocab();
    let tuples = mean_loss(s, batches, |x, f| bayes_tuples(task, x, f));
    let previous = mean_loss(s, batches, |x, f| bayes_previous(task, x, f));
    let of_slot = |slot| mean_loss(s, batches, |x, f| bayes_one_parent(task, slot, x, f));
    // The previous token is a single parent too, counted over more positions.
    let best = (0..task.dag().target().len()).map(of_slot).fold(previous, f64::min);
    vec![
        Reference { key: "bayes_counts", label: "Bayes, all parents", loss: Some(tuples) },
        Reference { key: "bayes_previous", label: "Bayes, previous token only", loss: Some(previous) },
        Reference { key: "bayes_one_parent", label: "Bayes, best single parent", loss: Some(best) },
    ]
}
