//! Sequences of a configured task, with what they are drawn from, as a run draws them.

use super::birth::TriggerTasks;
use super::causal::{self, CausalTask};
use crate::batch::Targets;
use crate::config::{Config, Source as From, Task};
use crate::report::arrays::Array;
use crate::rng::{Key, Purpose};
use crate::source::Source;
use crate::task::{CausalDag, CausalTree, TriggerBigram, trigger_bigram::TriggerBigramWork};
use crate::{Error, Result};

/// Which sequences of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Those that it trains on: sequence i of update u is number u `batch` + i.
    Training,
    /// Its first test set.
    Test,
}

impl Of {
    fn purpose(self) -> Purpose {
        match self {
            Of::Training => Purpose::Train,
            Of::Test => Purpose::Test,
        }
    }
}

/// Arrays of `n` sequences, from number `first` on, by name.
///
/// | array | shape | tasks | meaning |
/// |---|---|---|---|
/// | `tokens` | (n, T) | all | |
/// | `targets` | (n, S) | over a graph | law of the next symbol; one of it with `labels=symbol` |
/// | `labels`, `mask` | (n, T) | `trigger_bigram` | what follows each token; 1 where it counts |
/// | `seen` | (n, T) | `trigger_bigram` | occurrences of the trigger so far; 0 of other tokens |
/// | `pi` | (n, S, S) | `causal_tree`, `trigger_bigram` | transitions of the sequence, row = from |
/// | `mu` | (n, S) | `causal_tree` with stationary roots | stationary law of `pi` |
/// | `pi{k}` | (n, S^k, S) | `causal_dag` | transitions given k parents, first most significant |
/// | `triggers`, `outputs` | (n, K) | `trigger_bigram` | its triggers, and what follows each |
/// | `unigram`, `bigram` | (S), (S, S) | `trigger_bigram` | laws of what is no trigger |
///
/// # Errors
/// A run that does not sample; a configuration that cannot run; more memory than is free.
pub fn draw(config: &Config, of: Of, first: u64, n: usize) -> Result<Vec<(String, Array)>> {
    if config.plan.source != From::Sampled {
        let found = config.plan.source.name();
        return Err(Error::invalid("source", found, "sampled: a population is not drawn"));
    }
    let setup = super::experiment(config)?.setup(config)?;
    let source = match of {
        Of::Training => setup.train()?,
        Of::Test => setup.test()?,
    };
    crate::run::folder::check_memory("memory (N)", bytes(config, source.as_ref(), n)?)?;
    let mut batch = source.batch(n)?;
    source.fill(first, n, &mut source.work(), &mut batch);
    let (t, s) = (source.seq_len(), source.vocab());
    let integers =
        |x: &[u32], shape: &[usize]| Array::new(shape, x.iter().map(|x| i64::from(*x)).collect::<Vec<_>>());
    let mut all = vec![("tokens".to_string(), integers(batch.tokens(), &[n, t])?)];
    match batch.kind() {
        Targets::Law => all.push(("targets".into(), Array::new(&[n, s], batch.laws().to_vec())?)),
        Targets::Labels => {
            all.push(("labels".into(), integers(batch.labels(), &[n, t])?));
            all.push(("mask".into(), Array::new(&[n, t], batch.weights().to_vec())?));
        }
    }
    if let Some(seen) = batch.seen() {
        all.push(("seen".into(), integers(seen, &[n, t])?));
    }
    let key = Key::new(config.plan.seed, of.purpose());
    let numbers = || (0..n as u64).map(|i| first.wrapping_add(i));
    match &config.task {
        Task::TriggerBigram(keys) => {
            let tasks = TriggerTasks::new(keys, config.plan.seed)?;
            let task = match of {
                Of::Training => &tasks.train,
                Of::Test => &tasks.tests[0].1,
            };
            all.extend(of_triggers(task, &key, numbers(), n)?);
        }
        Task::CausalTree(_) | Task::CausalDag(_) => match causal::task(config)? {
            CausalTask::Tree(task) => all.extend(of_tree(&task, &key, numbers(), n)?),
            CausalTask::Dag(task) => all.extend(of_dag(&task, &key, numbers(), n)?),
        },
    }
    Ok(all)
}

/// Bytes of the batch and of the arrays; `None` on overflow.
fn bytes(config: &Config, source: &dyn Source, n: usize) -> Result<Option<usize>> {
    let (t, s) = (source.seq_len(), source.vocab());
    let transitions = match &config.task {
        Task::CausalDag(_) => match causal::task(config)? {
            CausalTask::Dag(task) => arities(&task)
                .into_iter()
                .try_fold(0usize, |sum, k| sum.checked_add(s.checked_pow(k as u32 + 1)?)),
            CausalTask::Tree(_) => None,
        },
        Task::CausalTree(_) | Task::TriggerBigram(_) => s.checked_mul(s + 1),
    };
    let row = transitions.and_then(|x| x.checked_add(8 * t)?.checked_add(2 * s));
    Ok(row.and_then(|row| row.checked_mul(n)?.checked_mul(size_of::<f64>())))
}

type Named = Vec<(String, Array)>;

fn of_tree(task: &CausalTree, key: &Key, numbers: impl Iterator<Item = u64>, n: usize) -> Result<Named> {
    let (t, s) = (task.forest().seq_len(), crate::task::Task::vocab(task));
    let (mut work, mut tokens, mut target) = (task.work(), vec![0; t], vec![0.0; s]);
    let (mut pi, mut mu) = (Vec::<f64>::with_capacity(n * s * s), Vec::<f64>::new());
    for number in numbers {
        task.sample(key, number, &mut work, &mut tokens, &mut target);
        pi.extend_from_slice(work.pi());
        mu.extend(work.mu().into_iter().flatten());
    }
    let mut all = vec![("pi".to_string(), Array::new(&[n, s, s], pi)?)];
    if !mu.is_empty() {
        all.push(("mu".into(), Array::new(&[n, s], mu)?));
    }
    Ok(all)
}

/// Numbers of parents that positions or the target have and whose rows are drawn.
fn arities(task: &CausalDag) -> Vec<usize> {
    let dag = task.dag();
    let sets = (0..dag.seq_len()).map(|i| dag.parents(i).len()).chain([dag.target().len()]);
    let roots = usize::from(task.roots() == crate::task::DagRoots::Uniform);
    let mut all: Vec<usize> = sets.filter(|k| *k >= roots).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn of_dag(task: &CausalDag, key: &Key, numbers: impl Iterator<Item = u64>, n: usize) -> Result<Named> {
    let (s, arities) = (crate::task::Task::vocab(task), arities(task));
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); arities.len()];
    for number in numbers {
        for (k, all) in arities.iter().zip(&mut all) {
            let from = all.len();
            all.resize(from + s.pow(*k as u32 + 1), 0.0);
            task.tensor(key, number, *k, &mut all[from..]);
        }
    }
    let each = arities.iter().zip(all);
    each.map(|(k, x)| Ok((format!("pi{k}"), Array::new(&[n, s.pow(*k as u32), s], x)?))).collect()
}

fn of_triggers(
    task: &TriggerBigram,
    key: &Key,
    numbers: impl Iterator<Item = u64>,
    n: usize,
) -> Result<Named> {
    let (t, s, k) = (task.seq_len(), task.vocab(), task.triggers());
    let (mut tokens, mut seen) = (vec![0; t + 1], vec![0; t]);
    let mut work: TriggerBigramWork = task.work();
    let (unigram, bigram) = (task.laws().unigram().to_vec(), task.laws().bigram().to_vec());
    let (mut pi, mut triggers, mut outputs) =
        (Vec::<f64>::with_capacity(n * s * s), Vec::<i64>::new(), Vec::<i64>::new());
    for number in numbers {
        task.sample(key, number, &mut work, &mut tokens, &mut seen);
        let from = pi.len();
        pi.extend_from_slice(&bigram);
        for (q, o) in work.triggers().iter().zip(work.outputs()) {
            let row = &mut pi[from + *q as usize * s..][..s];
            row.fill(0.0);
            row[*o as usize] = 1.0;
        }
        triggers.extend(work.triggers().iter().map(|q| i64::from(*q)));
        outputs.extend(work.outputs().iter().map(|o| i64::from(*o)));
    }
    Ok(vec![
        ("pi".into(), Array::new(&[n, s, s], pi)?),
        ("triggers".into(), Array::new(&[n, k], triggers)?),
        ("outputs".into(), Array::new(&[n, k], outputs)?),
        ("unigram".into(), Array::new(&[s], unigram)?),
        ("bigram".into(), Array::new(&[s, s], bigram)?),
    ])
}
