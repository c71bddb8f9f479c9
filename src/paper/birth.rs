//! How associative memories and an induction head come to be: Bietti, Cabannes, Bouchacourt, Jegou, Bottou 2023 (arXiv 2306.00802).
//!
//! Sequences of a bigram law in which a few triggers have an output of their own in each sequence. Expectation: what follows by the
//! bigrams is learned soon; then, in this order, W_O of layer 2 maps outputs to themselves, W_K of layer 2 finds the trigger's earlier
//! occurrence, and W_K of layer 1 attends to the token before.

mod evaluate;
pub(super) mod figures;
mod recall;
mod run;
mod setup;
pub(super) mod study;

pub use recall::Recall;
pub use run::{MetricRecord, check, run};
pub use setup::{Setup, fuzz, memory};
