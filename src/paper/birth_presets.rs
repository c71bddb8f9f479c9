//! Presets of the memory-viewpoint paper (Bietti et al. 2023, arXiv 2306.00802); parameters are the public code's.

use crate::{Error, Result};
use toml::Table;

/// The basic model on fixed triggers, embeddings and output frozen, the loss on what the context tells.
const BIRTH: &str = r#"
task = "trigger_bigram"
seed = 0
dtype = "f32"
corpus = "shipped"
T = 256
K = 5
triggers = "fixed"
outputs = "uniform"
loss = "head"
model = "memory"
dim = 128
frozen = "embeddings,output"
optimizer = "sgd"
momentum = 0.9
lr = 0.1
schedule = "constant"
weight_decay = 0.0001
steps = 1000
batch = 512
shards = 16
eval_every = 10
test_size = 512
checkpoint_every = 100
"#;

/// What its short form changes.
const QUICK: &str = r#"
T = 64
dim = 64
batch = 64
shards = 4
steps = 400
lr = 0.2
test_size = 256
"#;

/// What `birth-full` changes: the full model on all tokens.
const FULL: &str = r#"
triggers = "random"
loss = "all"
model = "transformer"
frozen = ""
optimizer = "adamw"
beta1 = 0.9
beta2 = 0.99
lr = 0.01
weight_decay = 0.01
batch = 64
shards = 8
"#;

/// What its short form changes.
const FULL_QUICK: &str = r#"
T = 64
dim = 32
steps = 600
shards = 4
test_size = 256
"#;

/// The table of preset `name`, in its short form if `quick`; none if it is not one of this paper.
///
/// # Errors
/// Never: a test reads them all.
pub(super) fn preset(name: &str, quick: bool) -> Result<Option<Table>> {
    let layers = match (name, quick) {
        ("birth", false) => vec![BIRTH],
        ("birth", true) => vec![BIRTH, QUICK],
        ("birth-full", false) => vec![BIRTH, FULL],
        ("birth-full", true) => vec![BIRTH, FULL, FULL_QUICK],
        _ => return Ok(None),
    };
    let mut table = Table::new();
    for layer in layers {
        let layer: Table = layer
            .parse()
            .map_err(|e: toml::de::Error| Error::invalid("preset", e.to_string(), "valid TOML"))?;
        table.extend(layer);
    }
    table.insert("preset".into(), name.into());
    if name == "birth-full" {
        table.remove("momentum");
        table.remove("frozen");
    }
    Ok(Some(table))
}
