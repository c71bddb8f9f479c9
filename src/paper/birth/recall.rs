//! Recall of the model's associative memories, under the public code's names.

use crate::Result;
use crate::model::{Layout, Output, Spec};
use crate::probe::memory::{Asked, memories};
use crate::task::TriggerBigram;
use serde::{Deserialize, Serialize};

/// Recall of each associative memory, in \[0, 1\]; -1 if the model lacks the memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// W_K of layer 1: each position to the one before.
    pub wk0_acc: f64,
    /// The same over the first 64 positions.
    pub wk0_64_acc: f64,
    /// W_K of layer 2: a trigger to itself as layer 1 copies it; among the triggers if they are
    /// fixed.
    pub wk1_acc: f64,
    /// W_O of layer 2: each symbol to itself.
    pub wo1_acc: f64,
    /// Feed-forward of layer 2: mean KL of the bigrams from its prediction, over the symbols that
    /// are no fixed trigger.
    pub ff1_loss: f64,
}

/// Recall at parameters `params` of `model` with `layout`, on `task`.
///
/// # Errors
/// Parameters of another layout.
pub(super) fn of(model: &Spec, layout: &Layout, params: &[f64], task: &TriggerBigram) -> Result<Recall> {
    let readout = match model {
        Spec::Memory(m) => match m.output {
            Output::Tied => 1.0 / m.dim as f64,
            Output::TiedFrozen => 1.0 / (m.dim as f64).sqrt(),
            Output::Free | Output::Frozen => 1.0,
        },
        _ => 1.0,
    };
    // Other models have no memories by these names.
    if !matches!(model, Spec::Memory(_) | Spec::Transformer(_)) {
        return Ok(Recall { wk0_acc: -1.0, wk0_64_acc: -1.0, wk1_acc: -1.0, wo1_acc: -1.0, ff1_loss: -1.0 });
    }
    let reference = Asked { triggers: task.fixed_triggers(), bigram: task.laws().bigram(), readout };
    let found = memories(layout, params, &reference)?;
    Ok(Recall {
        wk0_acc: found.wk0,
        wk0_64_acc: found.wk0_64,
        wk1_acc: found.wk1,
        wo1_acc: found.wo1,
        ff1_loss: found.ff1,
    })
}
