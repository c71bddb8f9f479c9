//! Claim 11: step 3 to first order in the size C of the keys.

use super::first_steps::{after_first, uniform_words};
use super::plain::Block;
use super::support::{apart, largest, lead};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::exact::trigger_chain::third_in_c;

pub(super) const CLAIM: Claim = Claim {
    id: "third-step",
    title: "Step on W_K¹",
    statement: "With W_K² = C Σ_v w_E(v) w_1(v)ᵀ, −∇W_K¹ has coefficient η₁(c_v + C(c_k + c_x)) on p_t p_sᵀ, up to O(C²) and \
                O(η₁²); argmax_{s<=t} of c_k, and of c_k + c_x, is t − 1 at every t >= 2.",
    source: "Bietti et al. 2023, the third gradient step; the closed form is ours",
    run,
};

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let (t, eta) = (6, 1e-6);
    for n in [4, 5] {
        let label = |c: Check| c.with("N", n).with("T", t).with("η₁", eta);
        let all = uniform_words(n, t)?;
        let steps = (settings.formulas.memory.steps)(n, t)?;
        let (model, _) = after_first(n, t, &all, eta);
        let third = |c: f64| {
            let mut model = model.clone();
            model.set_keys(c);
            let found = model.positions(&model.descent(&all, Block::K1));
            found.iter().map(|x| x / eta).collect::<Vec<f64>>()
        };
        // What the formula adds per C.
        let zero = (settings.formulas.memory.third)(&steps, 0.0);
        let formula: Vec<f64> =
            (settings.formulas.memory.third)(&steps, 1.0).iter().zip(&zero).map(|(x, z)| x - z).collect();
        let scale = largest(&steps.rows.key);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let still = third(0.0);
        for c in [1e-1, 1e-2, 1e-3] {
            let (plus, minus) = (third(c), third(-c));
            let slope = |x: &[f64], y: &[f64], by: f64| -> Vec<f64> {
                x.iter().zip(y).map(|(x, y)| (x - y) / by).collect()
            };
            one.push((c, apart(&slope(&plus, &still, c), &formula) / scale));
            two.push((c, apart(&slope(&plus, &minus, 2.0 * c), &formula) / scale));
            if n == 4 {
                let exact = third_in_c(n, t, c)?;
                let off = apart(&plus, &exact) / largest(&exact);
                checks.push(label(
                    Check::at_most("exact in C − enumeration, relative", 1e-8, off).with("C", c),
                ));
            }
        }
        for (c, error) in &one {
            // 1.36e-2, 1.37e-3, 1.37e-4.
            let c = Check::within("error of c_k + c_x over C, by largest c_k", 0.136, error / c, 2e-3)
                .with("C", c);
            checks.push(label(c));
        }
        for (c, error) in &two[..2] {
            let c = Check::within("the same by central differences, over C²", 9.4e-3, error / (c * c), 4e-4)
                .with("C", c);
            checks.push(label(c));
        }
        let fit = Fit::new("C", "error of c_k + c_x", one);
        checks.push(label(Check::slope("order of the error in C", 1.0, 0.02, fit)));
        let fit = Fit::new("C", "error of c_k + c_x, central", two);
        checks.push(label(Check::slope("order by central differences", 2.0, 0.05, fit)));
    }
    argmax(settings, &mut checks)?;
    Ok(checks)
}

/// How many rows have their largest entry elsewhere than at t − 1.
fn argmax(settings: &Settings, checks: &mut Vec<Check>) -> Result<()> {
    for n in [5, 10, 20, 50, 65, 200] {
        let (mut rows, mut missed, mut least) = (0, [0; 2], [f64::INFINITY; 2]);
        let lengths: Vec<usize> = match settings.thorough {
            true => (3..=256).collect(),
            false => (3..=20).chain([24, 32, 48, 64, 96, 128]).collect(),
        };
        for t in lengths {
            let steps = (settings.formulas.memory.steps)(n, t)?;
            let zero = (settings.formulas.memory.third)(&steps, 0.0);
            let both: Vec<f64> =
                (settings.formulas.memory.third)(&steps, 1.0).iter().zip(&zero).map(|(x, z)| x - z).collect();
            for i in 1..t {
                rows += 1;
                for (k, table) in [&steps.rows.key, &both].into_iter().enumerate() {
                    let lead = lead(table, t, i, i - 1) / table[i * t + i - 1].abs();
                    missed[k] += usize::from(lead.is_nan() || lead <= 0.0);
                    least[k] = least[k].min(lead);
                }
            }
        }
        let label = |c: Check| c.with("N", n).with("rows", rows);
        for (k, name) in ["c_k", "c_k + c_x"].into_iter().enumerate() {
            checks.push(label(Check::at_most(
                format!("rows of {name} not won by t − 1"),
                0.0,
                missed[k] as f64,
            )));
            checks.push(label(Check::noted(format!("least relative lead in {name}"), least[k])));
        }
    }
    Ok(())
}
