//! Attention against its naive twin within composed error bounds, and shared against separate
//! gradients.

use crate::attention::plan::{PLAN, Plan, Shape, scratch_len};
use crate::attention::problem::{Attention, AttentionGrad, KvGrad, Queries, Save, Saved};
use crate::checks::mask::{check_key_reach, check_query_reach};
use crate::checks::testkit::{Block, Rng, available, gamma, same, softmax_floor, tiny};
use crate::elem::{Elem, Real};
use crate::error::KernelError;
use crate::kernels::Kernels;
use crate::reference;
use crate::scratch::Scratch;

/// One call's operands: the inputs filled, the outputs NaN.
#[derive(Clone)]
pub(crate) struct Case<E> {
    pub(crate) size: [usize; 5],
    pub(crate) scale: E,
    pub(crate) plan: Plan,
    /// Starts and positions of listed queries, tq = tk.
    pub(crate) lists: Option<(Vec<usize>, Vec<usize>)>,
    /// The backward pass starts from row numbers, not from probabilities.
    pub(crate) recompute: bool,
    pub(crate) q: Block<E>,
    pub(crate) k: Block<E>,
    pub(crate) v: Block<E>,
    pub(crate) out: Block<E>,
    pub(crate) probs: Block<E>,
    pub(crate) rows: Block<E>,
    pub(crate) dout: Block<E>,
    pub(crate) dq: Block<E>,
    pub(crate) dk: Block<E>,
    pub(crate) dv: Block<E>,
}

/// The smallest blocks: a few rows of queries, one panel of keys.
pub(crate) fn small(bq: usize) -> Plan {
    Plan { bq, bk_forward: 32, bk_backward: 32 }
}

impl<E: Elem> Case<E> {
    pub(crate) fn new(size: [usize; 5], pad: usize, heads: bool, range: f64, seed: u64) -> Self {
        let [count, tq, tk, d, dv] = size;
        let mut rng = Rng(seed);
        let block = |rows, cols, p: usize| Block::<E>::new([count, rows, cols], (pad + p) % 4, heads);
        let (q, k, v) = (block(tq, d, 0), block(tk, d, 1), block(tk, dv, 2));
        let (out, probs, dout) = (block(tq, dv, 3), block(tq, tk, 0), block(tq, dv, 1));
        let (dq, dk, dv) = (block(tq, d, 2), block(tk, d, 3), block(tk, dv, 0));
        Case {
            size,
            scale: E::from_f64(1.0 / (d.max(1) as f64).sqrt()),
            plan: PLAN,
            lists: None,
            recompute: seed % 2 == 1,
            q: q.random(&mut rng, range),
            k: k.random(&mut rng, range),
            v: v.random(&mut rng, 2.0),
            out,
            probs,
            rows: block(tq, 2, 3),
            dout: dout.random(&mut rng, 1.0),
            dq,
            // dK and dV are added to.
            dk: dk.random(&mut rng, 1.0),
            dv: dv.random(&mut rng, 1.0),
        }
    }

    /// Lists each query of every problem with probability `keep` in 8.
    pub(crate) fn listed(mut self, keep: u64, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let (mut starts, mut positions) = (vec![0], Vec::new());
        for _ in 0..self.size[0] {
            positions.extend((0..self.size[2]).filter(|_| rng.bits() >> 61 < keep));
            starts.push(positions.len());
        }
        self.lists = Some((starts, positions));
        self
    }

    /// The queries of problem b: (row, keys that it sees).
    pub(crate) fn queries(&self, b: usize) -> Vec<(usize, usize)> {
        let [_, tq, tk, ..] = self.size;
        match &self.lists {
            Some((starts, positions)) => {
                positions[starts[b]..starts[b + 1]].iter().map(|i| (*i, i + 1)).collect()
            }
            None => (0..tq).map(|i| (i, reference::visible(i, tq, tk))).collect(),
        }
    }

    pub(crate) fn operands(&self) -> Attention<'_, E> {
        let queries = match &self.lists {
            Some((starts, positions)) => Queries::Listed { starts, positions },
            None => Queries::Last,
        };
        Attention { q: self.q.mats(), k: self.k.mats(), v: self.v.mats(), scale: self.scale, queries }
    }

    pub(crate) fn scratch(&self) -> Scratch<E> {
        let [_, tq, tk, d, dv] = self.size;
        let mut s = Scratch::new(scratch_len(Shape { tq, tk, d, dv }, self.plan));
        s.as_mut_slice().fill(E::NAN);
        s
    }

    /// Fills `out`, `probs` and `rows`; what is saved changes no bit of the output.
    pub(crate) fn forward(&mut self, kernels: &Kernels<E>) {
        let mut case = self.clone();
        let mut last: Option<Vec<E>> = None;
        for keep in 0..3 {
            case.out = self.out.clone();
            let x = self.operands();
            let keep = match keep {
                0 => Save::Nothing,
                1 => Save::Rows(case.rows.mats_mut()),
                _ => Save::Probs(case.probs.mats_mut()),
            };
            let mut scratch = self.scratch();
            kernels.attention_planned(self.plan, &x, case.out.mats_mut(), keep, &mut scratch).unwrap();
            if let Some(last) = last {
                let equal = |(a, b): (&E, &E)| same(a.to_f64(), b.to_f64());
                assert!(case.out.data.iter().zip(&last).all(equal), "{:?} {:?}", kernels.isa(), self.size);
            }
            last = Some(case.out.data.clone());
        }
        *self = case;
        self.assert_canaries();
    }

    pub(crate) fn backward(&mut self, kernels: &Kernels<E>, with_dk: bool, with_dv: bool) {
        let mut scratch = self.scratch();
        let mut case = self.clone();
        let saved =
            if self.recompute { Saved::Rows(self.rows.mats()) } else { Saved::Probs(self.probs.mats()) };
        let (dk, dv) = (case.dk.mats_mut(), case.dv.mats_mut());
        kernels
            .attention_backward_planned(
                self.plan,
                &self.operands(),
                AttentionGrad {
                    saved,
                    out: self.out.mats(),
                    dout: self.dout.mats(),
                    dq: case.dq.mats_mut(),
                    dkv: KvGrad::Separate { dk: with_dk.then_some(dk), dv: with_dv.then_some(dv) },
                },
                &mut scratch,
            )
            .unwrap();
        *self = case;
        self.assert_canaries();
    }

    /// Both gradients go to `dk`.
    pub(crate) fn backward_shared(&mut self, kernels: &Kernels<E>) -> Result<(), KernelError> {
        let mut scratch = self.scratch();
        let mut case = self.clone();
        let saved =
            if self.recompute { Saved::Rows(self.rows.mats()) } else { Saved::Probs(self.probs.mats()) };
        let r = kernels.attention_backward_planned(
            self.plan,
            &self.operands(),
            AttentionGrad {
                saved,
                out: self.out.mats(),
                dout: self.dout.mats(),
                dq: case.dq.mats_mut(),
                dkv: KvGrad::Shared(case.dk.mats_mut()),
            },
            &mut scratch,
        );
        *self = case;
        self.assert_canaries();
        r
    }

    fn assert_canaries(&self) {
        let written = [&self.out, &self.probs, &self.rows, &self.dq, &self.dk, &self.dv];
        written.into_iter().for_each(Block::assert_canaries);
    }
}

/// Dense f64 operands of problem `b`.
fn problem(x: &[f64], b: usize, len: usize) -> &[f64] {
    &x[b * len..(b + 1) * len]
}

/// The oracle is the reference's formula in f64; for E = f64 it errs as much as the kernel may:
/// hence twice the bound.
fn oracle_slack<E: Elem>() -> f64 {
    if E::UNIT_ROUNDOFF == f64::UNIT_ROUNDOFF { 2.0 } else { 1.0 + 1e-6 }
}

/// Forward bounds, by composition (u unit roundoff, γ_n = n u / (1 − n u), any order of summation):
///
/// - scores: |ŝ_j − s_j| <= Δ_j = γ(d + 2) |scale| Σ_c |q_c k_jc|;
/// - with t_j = s_j − max: subtracting the max (any common shift cancels) moves the exponent by u
///   |t̂_j|, exp errs by 2 u: the exponential of key j is right up to e^±η_j, η_j = Δ_j + 2 u
///   (|t_j| + 2 max Δ) + 2 u (twice |t_j|: the differences of running maxima that rescaling
///   exponentiates add up to at most |t_j|);
/// - the sum of exponentials is right up to e^±H, H = ln(1 + Σ p_k (e^η_k − 1)) (convexity for the
///   lower side); n additions, reciprocal and product, and five roundings per block of keys, which
///   is rescaled by an exponential of a rounded difference, give γ(N), N = n + 2 + 5 blocks: |p̂_j
///   − p_j| <= π_j = p_j expm1(η_j + H + γ(N)) + the floor below which softmax writes 0, once per
///   block;
/// - out: Σ_j π_j |v_j| + γ(N) Σ_j (p_j + π_j) |v_j| + n tiny.
fn check_forward<E: Elem>(k: &Kernels<E>, case: &Case<E>) {
    let [count, tq, tk, d, dv] = case.size;
    let (u, slack, tiny) = (E::UNIT_ROUNDOFF, oracle_slack::<E>(), tiny::<E>());
    let (qs, ks, vs) = (case.q.dense(), case.k.dense(), case.v.dense());
    let (outs, probs, scale) = (case.out.dense(), case.probs.dense(), case.scale.to_f64());
    for b in 0..count {
        let (q, key, v) = (problem(&qs, b, tq * d), problem(&ks, b, tk * d), problem(&vs, b, tk * dv));
        for (i, n) in case.queries(b) {
            // Roundings of a sum over keys: its terms, and rescaling by an exponential once per
            // block.
            let (blocks, terms) =
                (n.div_ceil(case.plan.bk_forward), n + 2 + 5 * n.div_ceil(case.plan.bk_forward));
            let dot = |j: usize, abs: bool| -> f64 {
                (0..d).map(|c| q[i * d + c] * key[j * d + c]).map(|x| if abs { x.abs() } else { x }).sum()
            };
            let s: Vec<f64> = (0..n).map(|j| scale * dot(j, false)).collect();
            let delta: Vec<f64> = (0..n)
                .map(|j| gamma::<E>(d + 2) * scale.abs() * dot(j, true) + (d + 1) as f64 * tiny)
                .collect();
            let p = reference::softmax(&s).0;
            let (max, worst) =
                (s.iter().fold(f64::MIN, |m, x| m.max(*x)), delta.iter().fold(0.0, |m: f64, x| m.max(*x)));
            let eta: Vec<f64> =
                (0..n).map(|j| delta[j] + 2.0 * u * ((s[j] - max).abs() + 2.0 * worst) + 2.0 * u).collect();
            let h = (0..n).map(|j| p[j] * eta[j].exp_m1()).sum::<f64>().ln_1p();
            let pi: Vec<f64> = (0..n)
                .map(|j| {
                    p[j] * (eta[j] + h + gamma::<E>(terms)).exp_m1() + blocks as f64 * softmax_floor::<E>()
                })
                .collect();
            for j in 0..tk {
                let got = probs[(b * tq + i) * tk + j];
                if j < n {
                    let bound = slack * pi[j];
                    assert!((got - p[j]).abs() <= bound, "{:?} p({b} {i} {j}): {got} for {}", k.isa(), p[j]);
                } else {
                    assert_eq!(got.to_bits(), 0, "{:?} p({b} {i} {j}) behind the mask", k.isa());
                }
            }
            for c in 0..dv {
                let exact: f64 = (0..n).map(|j| p[j] * v[j * dv + c]).sum();
                let bound: f64 = (0..n)
                    .map(|j| (pi[j] + gamma::<E>(terms) * (p[j] + pi[j])) * v[j * dv + c].abs() + tiny)
                    .sum();
                let got = outs[(b * tq + i) * dv + c];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} out({b} {i} {c}): {got} for {exact}",
                    k.isa()
                );
            }
        }
    }
}

/// Backward bounds for the given probs and O (exact inputs here), by composition:
///
/// - dP_ij: A_ij = γ(dv + 2) Σ_c |dO_ic v_jc|;
/// - their mean as the row sum of dO ∘ O for the given O: M_i = γ(dv + 1) Σ_c |dO_ic O_ic|;
/// - dS_ij = scale p_j (dP_ij − μ_i): G_ij = |scale| p_j (A_ij + M_i)(1 + γ(3)) + γ(3) |scale| p_j
///   (|dP_ij| + |μ_i|) + underflow;
/// - dQ_ic: Σ_j G_ij |k_jc| + γ(n + 2) Σ_j (|dS_ij| + G_ij) |k_jc|; dK and dV alike over queries,
///   old contents included.
fn check_backward<E: Elem>(k: &Kernels<E>, before: &Case<E>, case: &Case<E>, with_dk: bool, with_dv: bool) {
    let [count, tq, tk, d, dv] = case.size;
    let (slack, tiny) = (oracle_slack::<E>(), tiny::<E>());
    let (qs, ks, vs, dos) = (case.q.dense(), case.k.dense(), case.v.dense(), case.dout.dense());
    let (probs, outs, scale) = (case.probs.dense(), case.out.dense(), case.scale.to_f64());
    let (dqs, dks, dvs) = (case.dq.dense(), case.dk.dense(), case.dv.dense());
    let (dk0, dv0) = (before.dk.dense(), before.dv.dense());
    for b in 0..count {
        let (q, key, v) = (problem(&qs, b, tq * d), problem(&ks, b, tk * d), problem(&vs, b, tk * dv));
        let (p, o, y) = (problem(&probs, b, tq * tk), problem(&dos, b, tq * dv), problem(&outs, b, tq * dv));
        let (mut ds, mut g) = (vec![0.0; tq * tk], vec![0.0; tq * tk]);
        for (i, n) in case.queries(b) {
            let p = &p[i * tk..][..n];
            let terms = |j: usize| (0..dv).map(move |c| o[i * dv + c] * v[j * dv + c]);
            let dp: Vec<f64> = (0..n).map(|j| terms(j).sum()).collect();
            let a: Vec<f64> = (0..n)
                .map(|j| gamma::<E>(dv + 2) * terms(j).map(f64::abs).sum::<f64>() + (dv + 1) as f64 * tiny)
                .collect();
            let products = (0..dv).map(|c| o[i * dv + c] * y[i * dv + c]);
            let mean: f64 = products.clone().sum();
            let m = gamma::<E>(dv + 1) * products.map(f64::abs).sum::<f64>() + dv as f64 * tiny;
            for j in 0..n {
                let sp = scale.abs() * p[j];
                ds[i * tk + j] = scale * p[j] * (dp[j] - mean);
                g[i * tk + j] = sp * (a[j] + m) * (1.0 + gamma::<E>(3))
                    + gamma::<E>(3) * sp * (dp[j].abs() + mean.abs())
                    + tiny * (2.0 + dp[j].abs() + mean.abs());
            }
            for c in 0..d {
                let exact: f64 = (0..n).map(|j| ds[i * tk + j] * key[j * d + c]).sum();
                let bound: f64 = (0..n)
                    .map(|j| (ds[i * tk + j].abs(), g[i * tk + j], key[j * d + c].abs()))
                    .map(|(s, g, k)| g * k + gamma::<E>(n + 2) * (s + g) * k + tiny)
                    .sum();
                let got = dqs[(b * tq + i) * d + c];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} dq({b} {i} {c}): {got} for {exact}",
                    k.isa()
                );
            }
        }
        for j in 0..tk {
            let sees: Vec<usize> = case.queries(b).iter().filter(|(_, n)| j < *n).map(|q| q.0).collect();
            for c in 0..d {
                let (at, old) = ((b * tk + j) * d + c, dk0[(b * tk + j) * d + c]);
                if !with_dk {
                    assert_eq!(dks[at].to_bits(), old.to_bits());
                    continue;
                }
                let mut exact = old;
                let mut bound = gamma::<E>(tq + 3) * old.abs();
                for i in sees.iter().copied() {
                    let (s, g, q) = (ds[i * tk + j], g[i * tk + j], q[i * d + c].abs());
                    exact += s * q.copysign(qs[(b * tq + i) * d + c]);
                    bound += g * q + gamma::<E>(tq + 3) * (s.abs() + g) * q + tiny;
                }
                let got = dks[at];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} dk({b} {j} {c}): {got} for {exact}",
                    k.isa()
                );
            }
            for c in 0..dv {
                let (at, old) = ((b * tk + j) * dv + c, dv0[(b * tk + j) * dv + c]);
                if !with_dv {
                    assert_eq!(dvs[at].to_bits(), old.to_bits());
                    continue;
                }
                let mut exact = old;
                let mut size = old.abs();
                for i in sees.iter().copied() {
                    exact += p[i * tk + j] * o[i * dv + c];
                    size += (p[i * tk + j] * o[i * dv + c]).abs();
                }
                let bound = gamma::<E>(tq + 3) * size + (tq + 1) as f64 * tiny;
                let got = dvs[at];
                assert!(
                    (got - exact).abs() <= slack * bound,
                    "{:?} dv({b} {j} {c}): {got} for {exact}",
                    k.isa()
                );
            }
        }
    }
}

/// Forward and backward of `start` within the bounds above; and P computed again is P.
pub(crate) fn check<E: Elem>(k: &Kernels<E>, start: &Case<E>, [with_dk, with_dv]: [bool; 2]) {
    let mut case = start.clone();
    case.forward(k);
    check_forward(k, &case);
    let mut other = case.clone();
    case.backward(k, with_dk, with_dv);
    check_backward(k, start, &case, with_dk, with_dv);
    other.recompute = !other.recompute;
    other.backward(k, with_dk, with_dv);
    for (a, b) in [(&case.dq, &other.dq), (&case.dk, &other.dk), (&case.dv, &other.dv)] {
        let equal = a.data.iter().zip(&b.data).all(|(a, b)| same(a.to_f64(), b.to_f64()));
        assert!(equal, "{:?} gradients from P and from its rows differ {:?}", k.isa(), case.size);
    }
}

/// One array for both gradients is dK added first and dV after it, bit for bit where the queries
/// are one block.
pub(crate) fn check_shared<E: Elem>(k: &Kernels<E>, start: &Case<E>) {
    let mut case = start.clone();
    case.forward(k);
    let old = case.dk.clone();
    case.backward(k, true, false);
    // dV goes on top of what dK left.
    case.dv = case.dk.clone();
    case.backward(k, false, true);
    let (dq, expected) = (case.dq.dense(), case.dv.dense());
    (case.dk, case.dv) = (old.clone(), old);
    case.backward_shared(k).unwrap();
    let equal = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| same(*a, *b));
    assert!(equal(&case.dk.dense(), &expected), "{:?} shared gradient {:?}", k.isa(), case.size);
    assert!(equal(&case.dq.dense(), &dq), "{:?} dq beside a shared gradient {:?}", k.isa(), case.size);
}

/// A fuzz case: shapes, layout and what to check. The entries follow from the seed.
pub(super) struct AttentionCase {
    /// count, tq, tk, d, dv.
    size: [usize; 5],
    pad: usize,
    heads: bool,
    /// All problems read one K and one V.
    broadcast: bool,
    /// Of the entries of Q and K.
    range: f64,
    /// dK, dV wanted.
    given: [bool; 2],
    /// The library's blocks, or small ones.
    plan: Plan,
    /// Of 8 queries, how many are listed; only where there are as many queries as keys.
    listed: Option<u64>,
    /// The key and the query that [`check_key_reach`] and [`check_query_reach`] poison.
    poison: Option<[usize; 2]>,
    seed: u64,
}

impl AttentionCase {
    /// Any bytes as a case; missing ones count as zero.
    pub(super) fn decode(data: &[u8]) -> Self {
        let mut bytes = data.iter().copied();
        let mut byte = || usize::from(bytes.next().unwrap_or(0));
        let (count, tq) = (byte() % 4, 1 + byte() % 36);
        let (tk, d, dv) = (tq + byte() % 36, byte() % 40, byte() % 40);
        let (layout, what) = (byte(), byte());
        let seed = (byte() * 257 + byte()) as u64;
        let poison = (what & 4 == 4).then(|| [byte() % tk, byte() % tq]);
        AttentionCase {
            size: [count, tq, tk, d, if what & 8 == 8 { d } else { dv }],
            pad: layout % 4,
            heads: layout & 4 == 4,
            broadcast: layout & 8 == 8,
            // Weak, sharp, one-hot attention; subnormal operands.
            range: [1.0, 12.0, 60.0, 1e-40][(layout >> 4) % 4],
            given: [what & 1 == 0, what & 2 == 0],
            plan: [PLAN, small(4), small(8), small(32)][layout >> 6],
            listed: (what & 16 == 16).then_some(what as u64 >> 5),
            poison,
            seed,
        }
    }

    /// # Panics
    /// Where a result is wrong.
    pub(super) fn check<E: Elem>(&self) {
        let mut start = Case::<E>::new(self.size, self.pad, self.heads, self.range, self.seed);
        start.plan = self.plan;
        if self.broadcast {
            (start.k.bs, start.v.bs) = (0, 0);
        }
        let [count, tq, tk, d, dv] = self.size;
        for k in available::<E>() {
            check(&k, &start, self.given);
            if let (Some(keep), true) = (self.listed, tq == tk) {
                check(&k, &start.clone().listed(keep, self.seed), self.given);
            }
            if d == dv && tq <= self.plan.bq && tk <= self.plan.bk_backward {
                check_shared(&k, &start);
            }
            if let (Some([key, query]), 1..) = (self.poison, count) {
                check_key_reach(&k, &start, key, E::NAN);
                check_query_reach(&k, &start, query);
            }
        }
    }
}
