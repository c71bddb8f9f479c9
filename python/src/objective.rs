//! Losses without the interpreter: a model in both element types, and what its loss is taken over.
//!
//! Everything here can be called from any thread, attached to the interpreter or not.

use crate::batch::View;
use crate::exact::Exact;
use crate::params::Real;
use crate::typed::{Call, Typed};
use popgrad::model::Spec;
use popgrad::{Error, Result};
use std::sync::OnceLock;

/// A model of fixed sizes in both element types.
pub(crate) struct Core {
    pub(crate) spec: Spec,
    pub(crate) vocab: usize,
    pub(crate) len: usize,
    pub(crate) double: Typed<f64>,
    single: OnceLock<Result<Typed<f32>>>,
}

/// What a loss is taken over.
pub(crate) enum Over<'a> {
    Batch(View<'a>),
    Population(&'a Exact),
}

impl Core {
    pub(crate) fn new(spec: Spec, vocab: usize, len: usize) -> Result<Self> {
        let double = Typed::new(&spec, vocab, len)?;
        Ok(Core { spec, vocab, len, double, single: OnceLock::new() })
    }

    /// The model in float32.
    pub(crate) fn single(&self) -> Result<&Typed<f32>> {
        let made = self.single.get_or_init(|| Typed::new(&self.spec, self.vocab, self.len));
        made.as_ref().map_err(|e| Error::invalid("model", e.to_string(), "a model in float32"))
    }

    /// The loss; writes its gradient to `grad`, if any. `typed` is one of the two of `self`.
    pub(crate) fn loss<E: Real>(
        &self,
        typed: &Typed<E>,
        over: &Over<'_>,
        params: &[E],
        threads: Option<usize>,
        grad: Option<&mut [E]>,
    ) -> Result<f64> {
        match over {
            Over::Batch(view) => {
                view.check(self.vocab, self.len)?;
                let call = Call {
                    kind: view.sizes.kind,
                    seqs: view.sizes.seqs,
                    threads,
                    keep: false,
                    counts: view.counts(),
                    fill: &|first, piece: &mut _| view.fill(first, piece),
                };
                Ok(typed.evaluate(params, &call, grad)?.loss)
            }
            Over::Population(exact) => exact.loss(self, typed, params, threads, grad),
        }
    }
}
