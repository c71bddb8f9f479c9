//! The effective length of a sequence on a forest: T_eff = T² / Σ_{k,l<=T} ρ^{d(k,l)}, d = tree
//! distance, ∞ across trees.
//!
//! The query counts as a tree of its own. T independent positions give T, T copies of one give 1.
//! Beside it the heuristic bound on what finite T does to g (theory 1.3): |ĝ_ij − g_ij| ≲ (R_i +
//! R_j)/T + Σ R/T², R_k = Σ_l ρ^{d(k,l)}.

use crate::task::Forest;

/// R_k = Σ_l ρ^{d(k,l)} for every position (T), the query last. O(T).
pub fn reach(forest: &Forest, rho: f64) -> Vec<f64> {
    let n = forest.len_context();
    let mut down = vec![1.0; n];
    for i in (0..n).rev() {
        if let Some(p) = forest.parent(i) {
            down[p] += rho * down[i];
        }
    }
    let mut all = down.clone();
    for i in 0..n {
        if let Some(p) = forest.parent(i) {
            // What the parent reaches without passing through i.
            all[i] += rho * (all[p] - rho * down[i]);
        }
    }
    all.push(1.0);
    all
}

/// T_eff.
pub fn effective_length(forest: &Forest, rho: f64) -> f64 {
    let t = forest.seq_len() as f64;
    t * t / reach(forest, rho).into_iter().collect::<crate::num::Sum>().value()
}

/// (R_i + R_j)/T + Σ R/T² (T, T), lower triangle.
pub fn finite_length_scale(forest: &Forest, rho: f64) -> Vec<f64> {
    let (r, n) = (reach(forest, rho), forest.seq_len());
    let t = n as f64;
    let both: f64 = r.iter().copied().collect::<crate::num::Sum>().value() / (t * t);
    let mut out = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            out[i * n + j] = (r[i] + r[j]) / t + both;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::marginals::Paths;
    use crate::rng::{Key, Purpose};

    #[test]
    fn reach_is_the_sum_over_distances() {
        let key = Key::new(5, Purpose::Graph);
        for n in 0..20u64 {
            let forest = Forest::many_graphs(2 + n as usize, &key, n).unwrap();
            let paths = Paths::new(&forest).unwrap();
            let context = forest.len_context();
            for rho in [0.0, 0.3, 1.0] {
                let r = reach(&forest, rho);
                assert_eq!(r[context], 1.0);
                for k in 0..context {
                    let power = |l| paths.fork(k, l).map_or(0.0, |(_, a, b)| f64::powi(rho, (a + b) as i32));
                    let direct: f64 = (0..context).map(power).sum();
                    assert!((r[k] - direct).abs() <= 1e-13 * direct, "{n} {k}: {} {direct}", r[k]);
                }
            }
        }
    }

    #[test]
    fn extremes() {
        let chain = Forest::chain(30).unwrap();
        assert!((effective_length(&chain, 0.0) - 30.0).abs() < 1e-12);
        // 29 copies of one symbol and the query.
        assert!((effective_length(&chain, 1.0) - 900.0 / (29.0 * 29.0 + 1.0)).abs() < 1e-12);
    }
}
