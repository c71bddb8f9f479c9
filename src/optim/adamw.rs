//! Adam with decoupled weight decay.

use super::{Hyper, Optimizer, check_names, put_back};
use crate::{Error, Result};
use popgrad_kernels::{AdamW as Step, Elem, Kernels};

/// Loshchilov and Hutter's AdamW: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← (1 − lr λ) θ −
/// lr m̂ / (√v̂ + eps), with the bias-corrected means m̂ and v̂. λ acts on every entry. optax's
/// `adamw` and PyTorch's are the same update.
#[derive(Debug, Clone)]
pub struct AdamW<E> {
    kernels: Kernels<E>,
    step: Step,
    m: Vec<E>,
    v: Vec<E>,
}

impl<E: Elem> AdamW<E> {
    /// An optimiser for `len` parameters with β₁, β₂, eps and λ from `hyper`, whose momentum must
    /// be 0.
    ///
    /// # Errors
    /// A value out of range; momentum; `POPGRAD_ISA` names an instruction set that this CPU lacks.
    pub fn new(len: usize, hyper: &Hyper) -> Result<Self> {
        hyper.check()?;
        if hyper.momentum != 0.0 {
            return Err(Error::invalid(
                "momentum",
                hyper.momentum.to_string(),
                "none for adamw: it has beta1",
            ));
        }
        let Hyper { weight_decay, beta1, beta2, eps, .. } = *hyper;
        if E::from_f64(eps) <= E::ZERO {
            let allowed = format!("> 0 as {}: at 0 an entry without gradient would be 0/0", E::NAME);
            return Err(Error::invalid("adam_eps", eps.to_string(), allowed));
        }
        let step = Step { lr: 0.0, beta1, beta2, eps, weight_decay };
        Ok(AdamW { kernels: Kernels::from_env()?, step, m: vec![E::ZERO; len], v: vec![E::ZERO; len] })
    }
}

impl<E: Elem> Optimizer<E> for AdamW<E> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn step(&mut self, step: u64, lr: f64, params: &mut [E], grad: &[E]) {
        let Self { kernels, m, v, .. } = self;
        kernels
            .adamw(Step { lr, ..self.step }, step + 1, params, grad, m, v)
            .expect("a rate that is finite and >= 0, and as many parameters as at the start");
    }

    fn state(&self) -> Vec<(String, &[E])> {
        vec![("m".into(), &self.m), ("v".into(), &self.v)]
    }

    fn check_state(&self, state: &[(String, Vec<E>)]) -> Result<()> {
        if let Some((_, v)) = state.iter().find(|(name, _)| name == "v")
            && let Some(low) = v.iter().find(|v| **v < E::ZERO)
        {
            return Err(Error::invalid("optimizer.v", low.to_f64().to_string(), "means of squares, >= 0"));
        }
        check_names(state, self.name(), &self.state())
    }

    fn restore(&mut self, state: &[(String, Vec<E>)]) -> Result<()> {
        self.check_state(state)?;
        put_back(state, "m", &mut self.m);
        put_back(state, "v", &mut self.v);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYPER: Hyper = Hyper { weight_decay: 0.1, momentum: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8 };

    #[test]
    fn the_first_steps_by_hand() {
        // At the first step m̂ = g and v̂ = g²: every entry moves by lr towards −sign g, beside the
        // decay of 1 − 0.5 · 0.1.
        let (mut p, mut o) = ([1.0f64, -2.0, 3.0], AdamW::new(3, &HYPER).unwrap());
        o.step(0, 0.5, &mut p, &[0.2, -4.0, 0.0]);
        for (p, expected) in p.iter().zip([0.95 - 0.5, -1.9 + 0.5, 2.85]) {
            assert!((p - expected).abs() < 1e-7, "{p} for {expected}");
        }
        // The second with gradient 0: m̂ = 0.09 g / 0.19, v̂ = 0.000999 g² / 0.001999.
        o.step(1, 0.5, &mut p, &[0.0; 3]);
        let moved = 0.5 * (0.09 / 0.19) / (0.000999f64 / 0.001999).sqrt();
        for (p, expected) in p.iter().zip([0.45 * 0.95 - moved, -1.4 * 0.95 + moved, 2.85 * 0.95]) {
            assert!((p - expected).abs() < 1e-6, "{p} for {expected}");
        }
    }

    #[test]
    fn hundreds_of_steps_follow_the_textbook() {
        let n = 37;
        let mut state = 1u64;
        let mut draw = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let mut p: Vec<f64> = (0..n).map(|_| draw()).collect();
        let mut expected: Vec<[f64; 3]> = p.iter().map(|p| [*p, 0.0, 0.0]).collect();
        let mut o = AdamW::new(n, &HYPER).unwrap();
        for t in 0..300u64 {
            let lr = 0.01 * (1.0 - t as f64 / 300.0);
            let g: Vec<f64> = (0..n).map(|_| draw()).collect();
            o.step(t, lr, &mut p, &g);
            for ([p, m, v], g) in expected.iter_mut().zip(&g) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let (m, v) =
                    (*m / (1.0 - 0.9f64.powi(t as i32 + 1)), *v / (1.0 - 0.999f64.powi(t as i32 + 1)));
                *p = *p - lr * 0.1 * *p - lr * m / (v.sqrt() + 1e-8);
            }
        }
        for (p, e) in p.iter().zip(&expected) {
            // 1 − 0.999^t loses three digits at the first steps in the textbook's form.
            assert!((p - e[0]).abs() < 1e-12, "{p} for {}", e[0]);
        }
    }

    #[test]
    fn memory_goes_out_and_comes_back() {
        let mut o = AdamW::<f32>::new(2, &HYPER).unwrap();
        let mut p = [1.0, 2.0];
        o.step(0, 0.1, &mut p, &[0.5, -0.5]);
        let kept: Vec<(String, Vec<f32>)> = o.state().into_iter().map(|(n, v)| (n, v.to_vec())).collect();
        let mut other = AdamW::<f32>::new(2, &HYPER).unwrap();
        other.restore(&kept).unwrap();
        let mut q = p;
        o.step(1, 0.1, &mut p, &[0.25, 1.0]);
        other.step(1, 0.1, &mut q, &[0.25, 1.0]);
        assert_eq!(p, q);
        for bad in [
            &kept[..1],
            &[],
            &[("m".into(), vec![0.0; 2]), ("w".into(), vec![0.0; 2])],
            &[("m".into(), vec![0.0]), ("v".into(), vec![0.0; 2])],
        ] {
            assert!(other.restore(bad).is_err(), "{bad:?}");
        }
        let half = [("m".into(), vec![8.0; 2]), ("v".into(), vec![8.0; 1])];
        let before = format!("{:?}", other.state());
        assert!(other.restore(&half).is_err() && format!("{:?}", other.state()) == before, "half restored");
        let unknown = [("m".into(), vec![f32::NAN; 2]), ("v".into(), vec![0.0; 2])];
        assert!(other.restore(&unknown).is_err(), "not a number");
        assert!(
            other.restore(&[("m".into(), vec![0.0; 2]), ("v".into(), vec![0.0, -1.0])]).is_err(),
            "a square below 0"
        );
        for hyper in [
            Hyper { beta1: 1.0, ..HYPER },
            Hyper { beta2: -0.1, ..HYPER },
            Hyper { eps: f64::NAN, ..HYPER },
            Hyper { eps: 0.0, ..HYPER },
            Hyper { eps: 1e-60, ..HYPER },
            Hyper { weight_decay: -1.0, ..HYPER },
            Hyper { momentum: 0.9, ..HYPER },
        ] {
            assert!(AdamW::<f32>::new(2, &hyper).is_err(), "{hyper:?}");
        }
    }
}
