//! popgrad: exact population gradients and fast CPU training for the theory of how transformers
//! learn.
//!
//! The crate trains the small transformers of two papers, *How Transformers Learn Causal Structure
//! with Gradient Descent* (arXiv 2402.14735) and *Birth of a Transformer: A Memory Viewpoint*
//! (arXiv 2306.00802). Gradients are written by hand over SIMD kernels (the crate
//! `popgrad-kernels`). It also computes the loss and the gradient of the whole population: the sum
//! over every sequence, weighted by its probability.
//!
//! A [`batch::Batch`] is sequences, targets and weights. A [`source::Source`] fills it, with
//! samples of weight 1 or with the whole population; a [`model::Model`] returns the weighted loss Σ
//! w ℓ and its gradient; a [`train::Trainer`] makes the updates.
//!
//! | to do this | use |
//! |---|---|
//! | define a task: graphs, transition matrices, trigger bigrams, corpora, Bayes predictors | [`task`] |
//! | fill batches, by sampling or with the whole population | [`source`], [`batch`] |
//! | build a model from a [`model::Spec`]; its parameter blocks, loss, gradient, attention | [`model`] |
//! | evaluate the exact population: prefix tree, symmetry classes, marginals, trigger sequences | [`exact`] |
//! | train: objective, loop, observers; optimisers, schedules, blocks that start to train later | [`train`], [`optim`] |
//! | measure attention, gradient noise, associative memories, in-context accuracy | [`probe`] |
//! | check the papers' formulas against the exact population | [`theory`] |
//! | recover the graph from token files | [`discover`] |
//! | read presets and configuration keys; run, resume and record a run; run many | [`config`], [`run`], [`study`] |
//! | reproduce the papers' experiments and figures | [`paper`] |
//! | write arrays, checkpoints, logs and plots | [`report`] |
//! | draw reproducible random numbers; sum and exponentiate with fixed rounding | [`rng`], [`num`] |
//! | describe the machine and time kernels; the commands of the binary | [`measure`], [`cli`] |
//!
//! Results do not depend on the number of threads. Functions that can fail return [`Error`], whose
//! message names the field, the value found and the values allowed.
//!
//! # Train a model on samples
//!
//! Two layers of one head on the chain graph, where each token depends on the one before it.
//!
//! ```
//! use popgrad::prelude::*;
//!
//! # fn main() -> popgrad::Result<()> {
//! let (s, t) = (3, 8); // symbols, tokens per sequence
//! let task = CausalTree::new(Forest::chain(t)?, s, 0.1, Roots::Stationary)?;
//! let train = Sampled::new(task.clone(), Key::new(0, Purpose::Train));
//! let test = Sampled::new(task, Key::new(0, Purpose::Test));
//! let model = Spec::Disentangled(DisentangledSpec::new(&[1, 1])).build::<f64>(s, t)?;
//!
//! // Shards are added in order: results depend on their number, not on threads.
//! let plan = Plan { steps: 20, batch: 64, shards: 4, lr: 0.5, eval_every: 10, ..Plan::default() };
//! let start = initial(model.as_ref(), 0);
//! let mut trainer = Trainer::sgd(model.as_ref(), &train, plan, start)?.with_test(&test, 256)?;
//! let mut losses = Vec::new(); // nats per sequence, before updates 0 and 10 and at the end
//! trainer.run(&mut observe(|at, loss, _params| {
//!     losses.push((at.step, loss));
//!     Ok(())
//! }))?;
//! assert!(losses[2].1 < losses[0].1);
//! # Ok(())
//! # }
//! ```
//!
//! An [`Observer`](train::Observer) sees more than a closure: every update, and checkpoints to go
//! on from. Other optimisers, and blocks that start to train later: [`Sharded`](train::Sharded) and
//! [`Trainer::new`](train::Trainer::new).
//!
//! # Loss and gradient of the whole population
//!
//! [`exact::Tree`] evaluates the simplified model on all S^T sequences by a prefix tree.
//! [`source::Population`] gives the same sequences, with their probabilities as weights, to any
//! model. The tree returns minus the gradient, the model the gradient itself.
//!
//! ```
//! use popgrad::exact::{Prior, RootLaw, Tree, TreeLaw};
//! use popgrad::model::{SimplifiedSpec, Spec};
//! use popgrad::source::{Population, Source};
//! use popgrad::task::Forest;
//!
//! # fn main() -> popgrad::Result<()> {
//! let (s, t, eps) = (2, 6, 0.01);
//! let (forest, prior) = (Forest::chain(t)?, Prior::dirichlet(s, 0.1, RootLaw::Uniform)?);
//! let a1 = vec![0.0; t * t];
//! let a2 = [0.1, 0.0, 0.0, 0.1];
//! let mut tree = Tree::<f64>::new(&forest, &prior, eps, false)?;
//! let exact = tree.gradients(&a1, &a2)?;
//! assert!((exact.weight - 1.0).abs() < 1e-13); // probabilities of all 64 sequences
//!
//! let source = Population::new(&TreeLaw::new(forest, prior)?)?;
//! let mut batch = source.batch(source.words())?;
//! source.fill(0, source.words(), &mut source.work(), &mut batch);
//! let model = Spec::Simplified(SimplifiedSpec::new(eps)).build::<f64>(s, t)?;
//! let params: Vec<f64> = a1.iter().chain(&a2).copied().collect(); // blocks A1, A2
//! let mut workspace = model.workspace(source.targets(), batch.seqs())?;
//! let mut grad = vec![0.0; params.len()];
//! let loss = model.loss_and_grad(&params, &batch, model.trainable(), &mut workspace, &mut grad)?;
//!
//! assert!((loss.value() - exact.loss).abs() < 1e-12);
//! let minus = exact.a1.iter().chain(&exact.a2);
//! assert!(grad.iter().zip(minus).all(|(g, m)| (g + m).abs() < 1e-12));
//! # Ok(())
//! # }
//! ```
//!
//! # Attention, forward and backward
//!
//! The kernels are a crate of their own, [`kernels`].
//!
//! ```
//! use popgrad::kernels::{Attention, Kernels, Mats, MatsMut, Queries, Scratch};
//! use popgrad::kernels::{KvGrad, Save, Saved};
//!
//! # fn main() -> Result<(), popgrad::kernels::KernelError> {
//! let kernels = Kernels::<f64>::from_env()?;
//! let shape = [2, 3, 2]; // sequences, positions, width
//! let x: Vec<f64> = (0..12).map(|i| f64::from(i).sin()).collect();
//! let [mut out, mut dq, mut dk, mut dv] = [(); 4].map(|()| vec![0.0; 12]);
//! let mut rows = vec![0.0; 12]; // for the backward pass: largest score and sum of each query
//! let view = Mats::contiguous(&x, shape)?;
//! let problem = Attention { q: view, k: view, v: view, scale: 1.0, queries: Queries::Last };
//! let mut scratch = Scratch::new(kernels.attention_scratch(3, 3, 2, 2));
//! let save = Save::Rows(MatsMut::contiguous(&mut rows, shape)?);
//! kernels.attention(&problem, MatsMut::contiguous(&mut out, shape)?, save, &mut scratch)?;
//! assert_eq!(out[..2], x[..2]); // the first position sees itself alone
//!
//! let dout = [1.0; 12]; // the gradient of the sum of all outputs
//! let dkv = KvGrad::Separate {
//!     dk: Some(MatsMut::contiguous(&mut dk, shape)?),
//!     dv: Some(MatsMut::contiguous(&mut dv, shape)?),
//! };
//! let saved = Saved::Rows(Mats::contiguous(&rows, shape)?);
//! let out = Mats::contiguous(&out, shape)?;
//! let dout = Mats::contiguous(&dout, shape)?;
//! let dq = MatsMut::contiguous(&mut dq, shape)?;
//! kernels.attention_backward(&problem, saved, out, dout, dq, dkv, &mut scratch)?;
//! // Probabilities of a query sum to 1: 2 sequences of 3 queries, 2 columns.
//! assert!((dv.iter().sum::<f64>() - 12.0).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```
//!
//! # A batch of trigger-bigram sequences
//!
//! Labels are the next tokens. Weight is 1 from a trigger's second occurrence on, where the context
//! determines its output, and 0 elsewhere.
//!
//! ```
//! use popgrad::batch::divisor;
//! use popgrad::model::{MemorySpec, Report, Spec};
//! use popgrad::rng::{Key, Purpose};
//! use popgrad::source::{LossOn, Source, TriggerSource};
//! use popgrad::task::TriggerBigram;
//! use popgrad::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
//! use std::sync::Arc;
//!
//! # fn main() -> popgrad::Result<()> {
//! let (n, t, seqs) = (16, 32, 8);
//! let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
//! let triggers = Triggers::Fixed { count: 3, offset: 0 };
//! let task = TriggerBigram::new(Bigrams::dirichlet(n, 1.0, 0)?, t, triggers, outputs)?;
//! let source = TriggerSource::new(Arc::new(task), Key::new(0, Purpose::Train), LossOn::Head);
//! let mut batch = source.batch(seqs)?;
//! source.fill(0, seqs, &mut source.work(), &mut batch);
//!
//! let spec = Spec::Memory(MemorySpec { dim: 32, ..MemorySpec::default() });
//! let model = spec.build::<f32>(n, t)?;
//! let params = vec![0.0; model.layout().len()]; // a run starts from `model.initial`
//! let mut workspace = model.workspace(source.targets(), seqs)?;
//! let mut grad = vec![0.0; params.len()];
//! let sum = model.loss_and_grad(&params, &batch, model.trainable(), &mut workspace, &mut grad)?;
//! let loss = sum.value() / divisor(batch.total_weight());
//! assert!((loss - (n as f64).ln()).abs() < 1e-5); // zero parameters predict all symbols alike
//!
//! let mut report = Report::new(model.as_ref(), source.targets(), seqs, true, false);
//! model.report(&params, &batch, &mut workspace, &mut report)?;
//! assert_eq!(report.losses.len(), seqs * t);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
// `println!` panics on a closed pipe, so the command line prints through two functions of its own.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod batch;
pub mod cli;
pub mod config;
pub mod discover;
pub mod error;
pub mod exact;
pub mod input;
pub mod measure;
pub mod model;
pub mod num;
pub mod optim;
pub mod paper;
pub mod probe;
mod ram;
pub mod report;
pub mod rng;
pub mod run;
pub mod source;
pub mod study;
pub mod task;
pub mod theory;
pub mod train;

pub use error::{Error, Result};
pub use popgrad_kernels as kernels;

/// What most programs that train a model name: `use popgrad::prelude::*`.
pub mod prelude {
    pub use crate::batch::Batch;
    pub use crate::model::{
        DisentangledSpec, MemorySpec, MlpTransformerSpec, Model, SimplifiedSpec, Spec, TransformerSpec,
    };
    pub use crate::optim::Schedule;
    pub use crate::rng::{Key, Purpose};
    pub use crate::run::initial;
    pub use crate::source::{Population, Sampled, Source};
    pub use crate::task::{CausalDag, CausalTree, Forest, Roots, TriggerBigram};
    pub use crate::train::{Observer, Plan, Trainer, observe};
}

/// The guide's page about the library: its examples run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/src/rust.md")]
pub struct _Guide;
