//! Claim 10: where step 2 has the right sign.

use super::{Check, Claim, Settings};
use crate::Result;

pub(super) const CLAIM: Claim = Claim {
    id: "key-gap",
    title: "Step 2 needs N and T large",
    statement: "The gap of step 2 turns positive first at T = 26, 14, 9, 7, 6, 5, 5 for N = 5, 6, 8, 10, 20, 65, 1000 and stays \
                so; for N = 4 it does not up to T = 199. Below, a positive η₂ stores the wrong keys.",
    source: "Bietti et al. 2023, the second gradient step; the closed form is ours",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let gap = |n: usize, t: usize| -> Result<f64> { Ok((settings.formulas.memory.steps)(n, t)?.key_gap) };
    let mut checks = Vec::new();
    for (n, first) in [(5, 26), (6, 14), (8, 9), (10, 7), (20, 6), (65, 5), (1000, 5)] {
        let mut before = f64::NEG_INFINITY;
        for t in 3..first {
            before = before.max(gap(n, t)?);
        }
        let mut after = f64::INFINITY;
        for t in first..if settings.thorough { 256 } else { 64 } {
            after = after.min(gap(n, t)?);
        }
        let label = |c: Check| c.with("N", n).with("T", first);
        // Times N, what T(N − 1) takes off it, so that margins compare.
        checks.push(label(Check::at_most("largest gap below T, times N", 0.0, n as f64 * before)));
        checks.push(label(Check::at_least(
            "least gap from T on, times N",
            f64::MIN_POSITIVE,
            n as f64 * after,
        )));
    }
    let mut largest = f64::NEG_INFINITY;
    for t in 3..200 {
        largest = largest.max(gap(4, t)?);
    }
    let c = Check::refutes("largest gap, N and T not large", f64::MIN_POSITIVE, largest);
    checks.push(c.with("N", 4).with("T", "3..199"));
    Ok(checks)
}
