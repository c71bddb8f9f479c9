//! Claim 9, steps 1 and 2, and what of step 3 is there before step 2.

use super::plain::{Block, Plain};
use super::support::{apart, largest};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::exact::trigger_chain::{Word, words};

pub(super) const CLAIM: Claim = Claim {
    id: "first-steps",
    title: "Steps on W_O² and W_K²",
    statement: "Step 1 leaves gaps η₁a of w_UᵀW_O²W_V²w_E and η₁a' of w_UᵀW_O²W_V²w_1, exactly at any η₁; step 2 leaves \
                η₁η₂ Σ_t E[G°_t ȳ_t(q)]/(T(N−1)) of w_EᵀW_K²w_1, and −∇W_K¹ at W_K² = 0 is η₁c_v, both up to a relative O(η₁).",
    source: "Bietti et al. 2023, the three gradient steps; the closed forms are ours",
    run,
};

/// Uniform tokens, q = 0, o = 1, listed.
pub(super) fn uniform_words(n: usize, t: usize) -> Result<Vec<Word>> {
    words(&vec![1.0 / n as f64; n], &vec![1.0 / n as f64; n * n], 0, 1, t)
}

/// The model after step 1 at rate η₁ and the step per unit of it.
pub(super) fn after_first(n: usize, t: usize, words: &[Word], eta: f64) -> (Plain, Vec<f64>) {
    let mut model = Plain::zero(n, t);
    let step = model.symmetrised(Block::O2, &model.descent(words, Block::O2));
    model.o2.iter_mut().zip(&step).for_each(|(x, d)| *x = eta * d);
    (model, step)
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let t = 6;
    // Relative errors per η₁.
    for (n, second, third) in [(4, 5.65e-5, 4.69e-3), (5, 8.90e-4, 3.13e-3)] {
        let label = |c: Check| c.with("N", n).with("T", t);
        let (all, steps) = (uniform_words(n, t)?, (settings.formulas.memory.steps)(n, t)?);
        let (model, step) = after_first(n, t, &all, 1.0);
        for (name, found, formula) in
            [("a", model.token_gap(&step), steps.token), ("a'", model.average_gap(&step), steps.average)]
        {
            let off = (found / formula - 1.0).abs();
            checks.push(label(Check::at_most(format!("{name}: relative error"), 1e-15, off)));
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for eta in [1e-1, 1e-2, 1e-3, 1e-4] {
            let (model, _) = after_first(n, t, &all, eta);
            let gap = model.key_gap(&model.symmetrised(Block::K2, &model.descent(&all, Block::K2))) / eta;
            keys.push((eta, (gap / steps.key_gap - 1.0).abs()));
            let found: Vec<f64> =
                model.positions(&model.descent(&all, Block::K1)).iter().map(|x| x / eta).collect();
            values.push((eta, apart(&found, &steps.rows.value) / largest(&steps.rows.value)));
        }
        for (name, points, per_rate) in [("step 2", keys, second), ("c_v", values, third)] {
            let (eta, at) = points[1];
            let c =
                Check::within(format!("{name}: relative error over η₁"), per_rate, at / eta, 0.01 * per_rate);
            checks.push(label(c.with("η₁", eta)));
            let fit = Fit::new("η₁", &format!("relative error of {name}"), points);
            checks.push(label(Check::slope(format!("{name}: order of the error in η₁"), 1.0, 0.02, fit)));
        }
    }
    // N T a → 1.
    for (n, t) in [(1_000, 64), (1_000_000, 64)] {
        let a = (settings.formulas.memory.steps)(n, t)?.token;
        let c = Check::within("N T a", 1.0, (n * t) as f64 * a, 100.0 / n as f64);
        checks.push(c.with("N", n).with("T", t));
    }
    Ok(checks)
}
