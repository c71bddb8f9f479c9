//! The optimiser that a configuration names.

use crate::Result;
use crate::config::Config;
use crate::optim::{self, Hyper, Optimizer};
use popgrad_kernels::Elem;

/// For `len` parameters; customary numbers where the configuration gives none.
pub(super) fn build<E: Elem>(config: &Config, len: usize) -> Result<Box<dyn Optimizer<E>>> {
    let usual = Hyper::default();
    let hyper = Hyper {
        weight_decay: config.weight_decay,
        momentum: config.momentum.unwrap_or(usual.momentum),
        beta1: config.beta1.unwrap_or(usual.beta1),
        beta2: config.beta2.unwrap_or(usual.beta2),
        eps: config.adam_eps.unwrap_or(usual.eps),
    };
    optim::build(&config.optimizer, len, &hyper)
}
