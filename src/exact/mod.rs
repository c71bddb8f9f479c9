//! The exact population: priors over transition matrices, and losses and gradients summed over every word.

pub mod brute;
pub mod prior;
pub mod quadrature;

pub use prior::{AtomRoots, FinitePrior, Prior, RootLaw};
