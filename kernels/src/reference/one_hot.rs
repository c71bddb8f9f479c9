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

/// Sums of four entries of a table for the scores of the last `rows` queries, in E: the first two
/// added for every column, then the two columns. `tables` (H, D, D), result (B, rows, H, D): 0 in
/// the first S entries of a row, −∞ behind the mask.
pub fn token_scores<E: Elem>(tables: &[E], tokens: &[u32], [t, s]: [usize; 2], rows: usize) -> Vec<E> {
    let d = s + t;
    let mut out = Vec::new();
    for tokens in tokens.chunks_exact(t) {
        for i in t - rows..t {
            for table in tables.chunks_exact(d * d) {
                let z: Vec<E> =
                    (0..d).map(|j| table[tokens[i] as usize * d + j] + table[(s + i) * d + j]).collect();
                out.extend(vec![E::ZERO; s]);
                let score = |j: usize| z[s + j] + z[tokens[j] as usize];
                out.extend((0..t).map(|j| if j <= i { score(j) } else { E::NEG_INFINITY }));
            }
        }
    }
    out
}

/// The first S entries of every row of patterns: sums of its weights by symbol, in order, in E.
pub fn token_weights<E: Elem>(c: &mut [E], tokens: &[u32], [t, s]: [usize; 2], rows: usize, heads: usize) {
    let d = s + t;
    for (r, row) in c.chunks_exact_mut(d).enumerate() {
        let (q, i) = (r / heads / rows, t - rows + r / heads % rows);
        row[..s].fill(E::ZERO);
        for j in 0..=i {
            let p = row[s + j];
            row[tokens[q * t + j] as usize] += p;
        }
    }
}

/// The gradient of one head's table, in E: a row of score gradients for each query, added to the
/// rows of its token and of its position.
pub fn token_patterns_backward<E: Elem>(
    tokens: &[u32],
    [t, s]: [usize; 2],
    rows: usize,
    [head, heads]: [usize; 2],
    c: &[E],
    dc: &[E],
) -> Vec<E> {
    let d = s + t;
    let mut dtable = vec![E::ZERO; d * d];
    for (q, tokens) in tokens.chunks_exact(t).enumerate() {
        for i in t - rows..t {
            let at = ((q * rows + i + rows - t) * heads + head) * d;
            let (c, dc) = (&c[at..][..d], &dc[at..][..d]);
            let mean = eight_sums(c, dc);
            let mut e = vec![E::ZERO; d];
            for j in 0..=i {
                let token = tokens[j] as usize;
                e[s + j] = c[s + j] * (dc[s + j] + dc[token] - mean);
                e[token] = e[token] + e[s + j];
            }
            for r in [tokens[i] as usize, s + i] {
                dtable[r * d..][..d].iter_mut().zip(&e).for_each(|(g, e)| *g += *e);
            }
        }
    }
    dtable
}

/// Σ x y in eight partial sums, the rest behind them.
fn eight_sums<E: Elem>(x: &[E], y: &[E]) -> E {
    let (mut sums, mut rest) = ([E::ZERO; 8], E::ZERO);
    let whole = x.len() / 8 * 8;
    (whole..x.len()).for_each(|j| rest += x[j] * y[j]);
    (0..whole).for_each(|j| sums[j % 8] += x[j] * y[j]);
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h)) + rest
}

/// `table[s_i] + table[S + i] + factor shift` of the last `rows` positions, in E.
pub fn token_rows<E: Elem>(
    tokens: &[u32],
    [t, s]: [usize; 2],
    rows: usize,
    table: &[E],
    factor: E,
    shift: &[E],
) -> Vec<E> {
    let d = s + t;
    let mut out = Vec::new();
    for tokens in tokens.chunks_exact(t) {
        for i in t - rows..t {
            let (a, b) = (&table[tokens[i] as usize * d..], &table[(s + i) * d..]);
            out.extend((0..d).map(|j| a[j] + b[j] + factor * shift[j]));
        }
    }
    out
}
