//! Tasks: distributions over sequences with a soft target or labels, their graphs and their Bayes
//! predictors.

pub mod alias;
pub mod bayes;
pub mod bayes_dag;
pub mod causal_dag;
pub mod causal_tree;
pub mod corpus;
pub mod dag;
pub mod dirichlet;
pub mod graph;
pub mod stationary;
pub mod trigger_bigram;

pub use causal_dag::{CausalDag, CausalDagBlock, CausalDagWork, DagRoots};
pub use causal_tree::{CausalTree, CausalTreeBlock, CausalTreeWork, Roots};
pub use corpus::Corpus;
pub use dag::Dag;
pub use dirichlet::DirichletRows;
pub use graph::Forest;
pub use trigger_bigram::TriggerBigram;

use crate::rng::Key;
use std::any::Any;

/// Name and sizes of a task.
pub trait Task: Send + Sync {
    /// Short name, as in configurations.
    fn name(&self) -> &'static str;
    /// Sequence length T, the query included.
    fn seq_len(&self) -> usize;
    /// Alphabet size S.
    fn vocab(&self) -> usize;
}

/// A task whose sequences can be drawn.
pub trait Sampler: Task {
    /// A workspace for [`samples`](Self::samples); make one per thread or shard.
    fn new_work(&self) -> Work;
    /// Writes samples `first`, `first + 1`, .. under `key` (numbers wrap): `tokens` (n, T),
    /// `targets` (n, S). Every sample depends on the key, its number and the task alone. Allocates
    /// nothing.
    ///
    /// # Panics
    /// If the outputs do not hold the same number of whole rows, or another task made `work`.
    fn samples(&self, key: &Key, first: u64, work: &mut Work, tokens: &mut [u32], targets: &mut [f64]);
}

/// A workspace whose type is known only to the task or source that made it.
#[derive(Debug)]
pub struct Work(Box<dyn Any + Send + Sync>);

impl Work {
    /// Holds `work`.
    pub fn new(work: impl Any + Send + Sync) -> Self {
        Work(Box::new(work))
    }

    /// The workspace of a task or source that needs none.
    pub fn none() -> Self {
        Work::new(())
    }

    /// Its contents.
    ///
    /// # Panics
    /// If they have another type, because another task or source made the workspace.
    pub fn get<W: Any>(&mut self) -> &mut W {
        self.0.downcast_mut().expect("working storage of another task or source")
    }
}
