//! Tasks: distributions over sequences with a soft target, their graphs and their Bayes answers.

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

/// What every task can say about itself.
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
    /// Storage for [`samples`](Self::samples), one per thread or shard.
    fn new_work(&self) -> Work;
    /// Samples `first`, `first + 1`, .. under `key` (numbers wrap): `tokens` (n, T), `targets` (n,
    /// S), every sample a function of the key, its number and the task alone. Allocates nothing.
    ///
    /// # Panics
    /// When the outputs are not whole rows of equal number, or `work` was made by another task.
    fn samples(&self, key: &Key, first: u64, work: &mut Work, tokens: &mut [u32], targets: &mut [f64]);
}

/// Working storage of a type that only its maker knows.
#[derive(Debug)]
pub struct Work(Box<dyn Any + Send + Sync>);

impl Work {
    /// Holds `work`.
    pub fn new(work: impl Any + Send + Sync) -> Self {
        Work(Box::new(work))
    }

    /// Of a maker that needs none.
    pub fn none() -> Self {
        Work::new(())
    }

    /// What it holds.
    ///
    /// # Panics
    /// When that is of another type: the work of another task or source.
    pub fn get<W: Any>(&mut self) -> &mut W {
        self.0.downcast_mut().expect("working storage of another task or source")
    }
}
