//! What a run works on, without running it: its test sets and the size of its model.

use super::Experiment;
use super::folder::check_memory;
use crate::Result;
use crate::batch::Batch;
use crate::config::Config;
use crate::model::Model;
use crate::source::Source;
use crate::train::batch_bytes;
use popgrad_kernels::Elem;

/// The test sets of a run, the first of which `test_loss` is of: the samples that it drew, or the
/// population where that is the test set. Empty if its losses are exact sums without batches.
///
/// # Errors
/// A configuration that cannot run; sets that do not fit the free memory, three times over.
pub fn test_sets(experiment: &dyn Experiment, config: &Config) -> Result<Vec<Batch>> {
    let setup = experiment.setup(config)?;
    if setup.has_objective() {
        return Ok(Vec::new());
    }
    let (sources, n) = match setup.population()? {
        Some(words) => (vec![setup.train()?], words),
        None => (setup.tests()?, config.plan.test_size),
    };
    let one = batch_bytes(setup.targets(), n, config.task.seq_len(), setup.vocab());
    let all = one.and_then(|b| b.checked_mul(3 * sources.len()));
    check_memory("memory of the test sets (S, T, test_size)", all)?;
    let fill = |source: &dyn Source| {
        let mut batch = source.batch(n)?;
        source.fill(0, n, &mut source.work(), &mut batch);
        Ok(batch)
    };
    sources.iter().map(|s| fill(s.as_ref())).collect()
}

/// What the files of a run grow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Parameters of its model.
    pub parameters: usize,
    /// Bytes of the attention of all heads, in f64.
    pub attention: usize,
}

impl Sizes {
    /// Of a model.
    pub fn of<E: Elem>(model: &dyn Model<E>) -> Sizes {
        let maps: usize = model.heads().iter().sum();
        Sizes { parameters: model.layout().len(), attention: 8 * maps * model.seq_len().pow(2) }
    }
}

/// The sizes of a run.
///
/// # Errors
/// A configuration that cannot run.
pub fn sizes(experiment: &dyn Experiment, config: &Config) -> Result<Sizes> {
    let vocab = experiment.setup(config)?.vocab();
    Ok(Sizes::of(config.model.build::<f64>(vocab, config.task.seq_len())?.as_ref()))
}
