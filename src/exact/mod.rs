//! The exact population: priors over transition matrices, and losses and gradients summed over every word.

pub mod brute;
mod closure;
pub mod law;
pub mod prior;
pub mod quadrature;

pub use law::{TreeLaw, WordLaw};
pub use prior::{AtomRoots, FinitePrior, Prior, RootLaw};
