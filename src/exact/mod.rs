//! The exact population: priors over transition matrices, and losses and gradients summed over
//! every word.
//!
//! A *word* is one sequence of T tokens over S symbols; there are S^T. The loss on the population
//! is the sum over words of probability times loss, with the transition matrix integrated out.
//!
//! | file | holds |
//! |---|---|
//! | [`prior`] | priors that can be integrated |
//! | [`quadrature`] | Dirichlet rows with stationary roots: a rule for S = 2, Monte Carlo |
//! | [`brute`] | loss and gradients by plain enumeration, the reference for tests |
//! | [`tree`] | loss and gradients of the simplified model by a prefix tree |
//! | [`symmetric`] | the same by orbits under renaming the symbols |
//! | [`law`] | the law of a whole word with its target, for sources that enumerate |
//! | [`dag`] | the same for positions with several parents |
//! | [`transition`] | one π with μ, B and ρ |
//! | [`marginals`] | pairs and triples on the forest; the population limit g and χ² of every edge |
//! | [`counts`] | the leading gradient ĝ at finite T |
//! | [`effective`] | T_eff |
//! | [`trigger_chain`] | one trigger bigram: moments of its sequences, the three top-down gradient steps |

pub mod brute;
mod closure;
pub mod counts;
pub mod dag;
pub mod effective;
pub mod law;
pub mod marginals;
pub mod prior;
pub mod quadrature;
mod shards;
pub mod symmetric;
pub mod transition;
pub mod tree;
pub mod trigger_chain;

pub use dag::DagLaw;
pub use law::{TreeLaw, WordLaw};
pub use prior::{AtomRoots, FinitePrior, Prior, RootLaw};
pub use shards::MAX_SYMBOLS;
pub use symmetric::{OrbitGradients, Orbits};
pub use tree::{Cost, Tree};

/// Progress of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Words done, on all threads.
    pub done: u64,
    /// Words in all.
    pub total: u64,
}
