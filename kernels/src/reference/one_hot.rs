//! Naive twins of the look-ups over one-hot rows: one sequence at a time, in f64, patterns as lower
//! triangles row by row.

use crate::elem::Elem;

/// Scores A\[s_i, s_j\] + A\[s_i, S + j\] + A\[S + i, s_j\] + A\[S + i, S + j\] for j <= i, and the
/// sums of their terms' absolute values. `table` (D, D), D = S + T.
pub fn one_hot_scores(table: &[f64], tokens: &[u32], symbols: usize) -> Vec<Vec<(f64, f64)>> {
    let d = symbols + tokens.len();
    let mut rows = Vec::new();
    for (i, si) in tokens.iter().enumerate() {
        let mut row = Vec::new();
        for (j, sj) in tokens[..=i].iter().enumerate() {
            let at = |r: usize, c: usize| table[r * d + c];
            let (si, sj, i, j) = (*si as usize, *sj as usize, symbols + i, symbols + j);
            let terms = [at(si, sj), at(si, j), at(i, sj), at(i, j)];
            row.push((terms.iter().sum(), terms.iter().map(|x| x.abs()).sum()));
        }
        rows.push(row);
    }
    rows
}

/// Adds the gradient of the table to `dtable` (D, D), given that of each score.
pub fn one_hot_scores_backward(dscores: &[Vec<f64>], tokens: &[u32], symbols: usize, dtable: &mut [f64]) {
    let d = symbols + tokens.len();
    for (i, row) in dscores.iter().enumerate() {
        for (j, ds) in row.iter().enumerate() {
            for r in [tokens[i] as usize, symbols + i] {
                for c in [tokens[j] as usize, symbols + j] {
                    dtable[r * d + c] += ds;
                }
            }
        }
    }
}

/// `out[k] = v[s_k] + v[S + k]`, in E: the kernel's very addition.
pub fn one_hot_mul<E: Elem>(tokens: &[u32], symbols: usize, v: &[E]) -> Vec<E> {
    tokens.iter().enumerate().map(|(k, s)| v[*s as usize] + v[symbols + k]).collect()
}

/// Its transpose, in E and in order of k: the kernel's very additions.
pub fn one_hot_mul_t<E: Elem>(tokens: &[u32], symbols: usize, v: &[E]) -> Vec<E> {
    let mut out = vec![E::ZERO; symbols];
    for (s, v) in tokens.iter().zip(v) {
        out[*s as usize] += *v;
    }
    out.extend(v);
    out
}

/// Σ_{j <= i} P_ij v_j, and the sum of its terms' absolute values.
pub fn pattern_mul(pattern: &[Vec<f64>], v: &[f64]) -> Vec<(f64, f64)> {
    let dot =
        |row: &Vec<f64>| row.iter().zip(v).fold((0.0, 0.0), |(s, a), (p, v)| (s + p * v, a + (p * v).abs()));
    pattern.iter().map(dot).collect()
}

/// Σ_{i >= j} P_ij v_i, likewise.
pub fn pattern_mul_t(pattern: &[Vec<f64>], v: &[f64]) -> Vec<(f64, f64)> {
    let mut out = vec![(0.0, 0.0); v.len()];
    for (row, v) in pattern.iter().zip(v) {
        for (o, p) in out.iter_mut().zip(row) {
            *o = (o.0 + p * v, o.1 + (p * v).abs());
        }
    }
    out
}

/// p (dp − Σ p dp), and p (|dp| + Σ |p dp|).
pub fn softmax_backward(p: &[f64], dp: &[f64]) -> Vec<(f64, f64)> {
    let dot: f64 = p.iter().zip(dp).map(|(p, d)| p * d).sum();
    let abs: f64 = p.iter().zip(dp).map(|(p, d)| (p * d).abs()).sum();
    p.iter().zip(dp).map(|(p, d)| (p * (d - dot), p.abs() * (d.abs() + abs))).collect()
}
