//! The papers' experiments: an experiment is a task, a model, an optimiser, probes and what to expect of them.

pub mod algorithm1;
mod algorithm1_figures;
pub mod birth;
mod birth_presets;
mod birth_studies;
pub mod causal;
mod causal_task;
pub mod corpus;
pub mod experiment;
mod figures;
pub mod folder;
mod one_hot;
pub mod ood;
mod optimizer;
mod population;
mod posterior;
pub mod studies;
pub mod study;

use crate::config::Config;
use crate::{Error, Result};
use std::path::Path;
use toml::Table;

/// Presets of `popgrad run`, with what each one is.
pub const PRESETS: [(&str, &str); 10] = [
    ("chain", "Nichani et al. 2024, Figure 2: chain, S=10, T=20, 2^17 steps of SGD"),
    ("icl", "the same on disjoint pairs (in-context learning)"),
    ("random", "the same on a random forest"),
    ("manual", "the same on the small tree [-1,0,0,1,2], S=3, T=6"),
    ("many", "one of Figure 9's graphs: parents in many trees, S=3, T=20, constant rate, 2^14 steps"),
    ("two-parents", "Figures 5 and 7: parents (i-1)/2 and i-1, heads 2,1, S=5, T=32, 2^16 steps of AdamW"),
    (
        "causal-fig8",
        "Figure 8: the chain learned by a transformer with an MLP, S=10, T=20, 2^12 steps of AdamW",
    ),
    ("algorithm1", "Algorithm 1 on the simplified model, source=exact|orbit|sampled; S=2, T=8, alpha=0.5"),
    (
        "birth",
        "Bietti et al. 2023: trigger bigrams, two layers of memories; K=5 fixed, T=256, head-only loss, 10^3 steps of SGD",
    ),
    ("birth-full", "the same task, random triggers, all tokens in the loss: a two-layer transformer, AdamW"),
];

/// What every preset shares: the paper's Figure 2.
const BASE: &str = r#"
seed = 0
dtype = "f32"
S = 10
T = 20
alpha = 0.1
roots = "stationary"
source = "sampled"
model = "disentangled"
heads = [1, 1]
init = 0.0
optimizer = "sgd"
lr = 1.0
schedule = "cosine"
weight_decay = 0.0
steps = 131072
batch = 1024
shards = 16
eval_every = 1024
test_size = 65536
checkpoint_every = 8192
"#;

/// What `--quick` changes: a smaller alphabet and a shorter sequence learn the same graph in a fraction of the steps.
pub const QUICK: &str = r#"
S = 5
T = 12
steps = 2048
lr = 4.0
eval_every = 64
test_size = 8192
checkpoint_every = 512
"#;

/// What `algorithm1` changes: the chain at which its exact losses are known (0.63384, 0.62351 after stage 1, 0.55583).
const ALGORITHM1: &str = r#"
dtype = "f64"
graph = "chain"
S = 2
T = 8
alpha = 0.5
source = "exact"
model = "simplified"
heads = []
eps = 0.01
beta0 = 0.1
optimizer = "staged"
schedule = "constant"
lr = 4000.0
lr2 = 20.0
steps1 = 400
steps = 600
eval_every = 10
checkpoint_every = 100
"#;

/// What `many` changes, in both forms.
const MANY: &str = r#"
graph = "many_graphs"
S = 3
T = 20
lr = 1.0
schedule = "constant"
"#;

/// What `two-parents` changes, in both forms. The decay is what the public code's AdamW has if nothing is said.
const TWO_PARENTS: &str = r#"
task = "causal_dag"
graph = "two_parents"
roots = "shared"
S = 5
heads = [2, 1]
init = 0.0001
optimizer = "adamw"
lr = 0.01
weight_decay = 0.0001
"#;

/// Its short form: the heads part only after thousands of steps, so these are small ones.
const TWO_PARENTS_QUICK: &str = r#"
S = 3
T = 12
batch = 128
shards = 8
steps = 24576
eval_every = 512
checkpoint_every = 2048
"#;

/// What `causal-fig8` changes, in both forms.
const FIG8: &str = r#"
graph = "chain"
model = "mlp_transformer"
optimizer = "adamw"
lr = 0.01
weight_decay = 0.0002
"#;

/// The table of preset `name`, in its short form if `quick`.
///
/// # Errors
/// An unknown name.
pub fn preset(name: &str, quick: bool) -> Result<Table> {
    if !PRESETS.iter().any(|(n, _)| *n == name) {
        return Err(Error::unknown("preset", name, PRESETS.iter().map(|(n, _)| *n)));
    }
    let parse =
        |text: &str| text.parse::<Table>().map_err(|e| Error::invalid("preset", e.to_string(), "valid TOML"));
    if let Some(table) = birth_presets::preset(name, quick)? {
        return Ok(table);
    }
    let mut table = parse(BASE)?;
    if quick {
        table.extend(parse(QUICK)?);
    }
    table.insert("preset".into(), name.into());
    if name == "algorithm1" {
        // Short as it is.
        table.extend(parse(ALGORITHM1)?);
        return Ok(table);
    }
    match name {
        "many" => {
            table.extend(parse(MANY)?);
            table.insert("steps".into(), if quick { 2048 } else { 16_384 }.into());
        }
        "causal-fig8" => {
            table.extend(parse(FIG8)?);
            let (steps, eval_every) = if quick { (1024, 16) } else { (4096, 32) };
            table.insert("steps".into(), steps.into());
            table.insert("eval_every".into(), eval_every.into());
        }
        "two-parents" => {
            table.extend(parse(TWO_PARENTS)?);
            if quick {
                table.extend(parse(TWO_PARENTS_QUICK)?);
            } else {
                table.insert("T".into(), 32.into());
                table.insert("steps".into(), 65_536.into());
            }
        }
        _ => {
            table.insert("graph".into(), name.into());
        }
    }
    if name == "manual" {
        table.insert("S".into(), 3.into());
        table.insert("T".into(), 6.into());
        // Six tokens: at the short form's rate of 4 the loss overshoots the uniform guess.
        table.insert("lr".into(), 1.0.into());
    }
    Ok(table)
}

/// Refuses a configuration that cannot run, before anything is written.
///
/// # Errors
/// The first value out of range.
pub fn check(config: &Config) -> Result<()> {
    if config.optimizer == "staged" { algorithm1::check(config) } else { causal::check(config) }
}

/// Runs, or continues, the experiment of `config` in `folder`.
///
/// # Errors
/// Values out of range, a folder that cannot be written, a checkpoint of another run.
pub fn run(
    config: &Config,
    folder: &Path,
    resumed: bool,
    pool: &rayon::ThreadPool,
    progress: &mut dyn Progress,
) -> Result<causal::Outcome> {
    if config.optimizer == "staged" {
        algorithm1::run(config, folder, resumed, pool, progress)
    } else {
        causal::run(config, folder, resumed, pool, progress)
    }
}

/// What a run tells whoever watches it.
pub trait Progress: Send {
    /// After every update.
    fn stepped(&mut self, step: u64, loss: f64);
    /// After every evaluation: the number that tells most, and its name.
    fn evaluated(&mut self, name: &'static str, value: f64);
    /// Training is over.
    fn finished(&mut self);
    /// Something worth a line.
    fn note(&mut self, text: &str);
    /// Should the run draw its figures? Those of many small runs are seldom looked at.
    fn wants_figures(&self) -> bool {
        true
    }
}
