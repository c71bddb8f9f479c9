//! Recall of the model's memories, under the public code's names.

use crate::Result;
use crate::config::birth::BirthConfig;
use crate::model::Layout;
use crate::probe::memory::{Asked, memories};
use crate::task::TriggerBigram;
use serde::{Deserialize, Serialize};

/// Share of what a memory should recall that it does; -1 where the model has not the memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// W_K of layer 1: each position to the one before.
    pub wk0_acc: f64,
    /// The same over the first 64 positions.
    pub wk0_64_acc: f64,
    /// W_K of layer 2: a trigger to itself as layer 1 copies it; among the triggers if they are fixed.
    pub wk1_acc: f64,
    /// W_O of layer 2: each symbol to itself.
    pub wo1_acc: f64,
    /// Feed-forward of layer 2: mean KL of the bigrams from its prediction, over the symbols that are no fixed trigger.
    pub ff1_loss: f64,
}

/// Of parameters `params` in `layout`, on `task`.
///
/// # Errors
/// Parameters of another layout.
pub(super) fn of(
    config: &BirthConfig,
    layout: &Layout,
    params: &[f64],
    task: &TriggerBigram,
) -> Result<Recall> {
    let d = config.dim as f64;
    let readout = match (config.model.as_str(), config.output.as_str()) {
        ("memory", "tied") => 1.0 / d,
        ("memory", "tied_frozen") => 1.0 / d.sqrt(),
        _ => 1.0,
    };
    let asked = Asked { triggers: task.fixed_triggers(), bigram: task.laws().bigram(), readout };
    let found = memories(layout, params, &asked)?;
    Ok(Recall {
        wk0_acc: found.wk0,
        wk0_64_acc: found.wk0_64,
        wk1_acc: found.wk1,
        wo1_acc: found.wo1,
        ff1_loss: found.ff1,
    })
}
