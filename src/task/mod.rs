//! Tasks: distributions over sequences with a soft target, their graphs and their Bayes answers.

pub mod bayes;
pub mod causal_tree;
pub mod graph;
pub mod stationary;

pub use causal_tree::{CausalTree, CausalTreeWork, Roots};
pub use graph::Forest;

/// What every task can say about itself.
pub trait Task: Send + Sync {
    /// Short name, as in configurations.
    fn name(&self) -> &'static str;
    /// Sequence length T, the query included.
    fn seq_len(&self) -> usize;
    /// Alphabet size S.
    fn vocab(&self) -> usize;
}
