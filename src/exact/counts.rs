//! The leading gradient ĝ at finite T for a given π, exactly and in polynomial time, by the count
//! transform.
//!
//! ĝ_ij = S E[(π(s_i|s_T)/(μ̂(s_i) + ε) − r̄) 1[s_j = s_T]], r̄ = Σ_t π(t|s_T) μ̂(t)/(μ̂(t) + ε),
//! needs of the sequence only s_i, s_j, the query k and the count c of one symbol t. With every t
//! in the context weighted by ω^m, ω = e^{2πi/T}, messages on the forest give the transform of the
//! law of c; a function φ of c then has the mean Σ_m P̂(m) φ̂(m), so no law is ever transformed
//! back, and the sum over k with its weights rides on the message to j.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | x | (S) | ω^m at t, else 1 |
//! | U_v | (S) | weight of v's subtree given s_v, v included |
//! | D_v | (S) | weight of all that is not in v's subtree, with s_v |
//! | up_c | (S) | π U_c: the message of a child to its parent |
//! | w, v | (S) | π(t\|k) φ̂(m) over k, for the two terms |
//!
//! O(T³ S³) for all pairs: for each t and m < T (conjugates halve it) and each clamped s_i = t one
//! pass over the forest.

use super::marginals::MAX_LEN;
use super::transition::Transition;
use crate::num::{Sum, check_eps};
use crate::task::Forest;
use crate::{Error, Result};
use rayon::prelude::*;

/// Frequencies that are worked on together.
const LANES: usize = 4;
/// Sums are folded over this many shares of the work, in order.
const SHARES: usize = 24;

/// Complex numbers, one per lane.
#[derive(Debug, Clone, Copy)]
struct Lanes {
    re: [f64; LANES],
    im: [f64; LANES],
}

impl Lanes {
    const ZERO: Lanes = Lanes { re: [0.0; LANES], im: [0.0; LANES] };
    const ONE: Lanes = Lanes { re: [1.0; LANES], im: [0.0; LANES] };

    #[inline(always)]
    fn times(self, b: Lanes) -> Lanes {
        let mut out = Lanes::ZERO;
        for l in 0..LANES {
            out.re[l] = self.re[l] * b.re[l] - self.im[l] * b.im[l];
            out.im[l] = self.re[l] * b.im[l] + self.im[l] * b.re[l];
        }
        out
    }

    #[inline(always)]
    fn scaled(self, a: f64) -> Lanes {
        let mut out = self;
        for l in 0..LANES {
            out.re[l] *= a;
            out.im[l] *= a;
        }
        out
    }

    /// self + a b.
    #[inline(always)]
    fn plus(self, a: f64, b: Lanes) -> Lanes {
        let mut out = self;
        for l in 0..LANES {
            out.re[l] += a * b.re[l];
            out.im[l] += a * b.im[l];
        }
        out
    }

    #[inline(always)]
    fn add(self, b: Lanes) -> Lanes {
        self.plus(1.0, b)
    }

    /// Σ_lanes m Re(self).
    #[inline(always)]
    fn real(self, m: &[f64; LANES]) -> f64 {
        let mut out = 0.0;
        for l in 0..LANES {
            out += m[l] * self.re[l];
        }
        out
    }
}

/// A forest as the passes want it.
struct Tree {
    parents: Vec<Option<usize>>,
    /// Children of v: `children[first[v]..first[v + 1]]`.
    children: Vec<usize>,
    first: Vec<usize>,
    roots: Vec<usize>,
    /// Children or roots, whichever list is longest.
    widest: usize,
}

impl Tree {
    fn new(forest: &Forest) -> Self {
        let n = forest.len_context();
        let mut first = vec![0; n + 1];
        for p in forest.parents().iter().flatten() {
            first[p + 1] += 1;
        }
        for v in 0..n {
            first[v + 1] += first[v];
        }
        let mut fill = first.clone();
        let mut children = vec![0; first[n]];
        for (v, p) in forest.parents().iter().enumerate() {
            if let Some(p) = *p {
                children[fill[p]] = v;
                fill[p] += 1;
            }
        }
        let roots: Vec<usize> = forest.roots().collect();
        let widest = (0..n).map(|v| first[v + 1] - first[v]).max().unwrap_or(0).max(roots.len());
        Tree { parents: forest.parents().to_vec(), children, first, roots, widest }
    }

    fn len(&self) -> usize {
        self.parents.len()
    }

    fn children(&self, v: usize) -> &[usize] {
        &self.children[self.first[v]..self.first[v + 1]]
    }
}

/// The transforms φ̂(m) of the functions of the count, `[k = t]` first.
struct Functions {
    /// 1/(c_k/T + ε).
    first: [Vec<[f64; 2]>; 2],
    /// (c_k/T)/(c_k/T + ε).
    second: [Vec<[f64; 2]>; 2],
}

impl Functions {
    fn new(t: usize, eps: f64, roots_of_unity: &[[f64; 2]]) -> Self {
        let transform = |phi: &dyn Fn(f64) -> f64| -> Vec<[f64; 2]> {
            (0..t)
                .map(|m| {
                    let (mut re, mut im) = (Sum::default(), Sum::default());
                    for c in 0..t {
                        let [x, y] = roots_of_unity[m * c % t];
                        let p = phi(c as f64) / t as f64;
                        re.add(p * x);
                        im.add(-p * y);
                    }
                    [re.value(), im.value()]
                })
                .collect()
        };
        let mean = |c: f64| c / t as f64;
        // c_k = 0 cannot occur with s_i = t, and 0/0 counts as 0.
        let one = |c: f64| if c > 0.0 { 1.0 / (mean(c) + eps) } else { 0.0 };
        let two = |c: f64| if c > 0.0 { mean(c) / (mean(c) + eps) } else { 0.0 };
        Functions {
            first: [transform(&one), transform(&|c| one(c + 1.0))],
            second: [transform(&two), transform(&|c| two(c + 1.0))],
        }
    }
}

/// What all shares read.
struct Problem<'a> {
    tree: Tree,
    symbols: usize,
    pi: &'a [f64],
    roots: &'a [f64],
    roots_of_unity: Vec<[f64; 2]>,
    functions: Functions,
}

/// Messages of one (t, frequencies).
struct Messages {
    x: Vec<Lanes>,
    w: Vec<Lanes>,
    v: Vec<Lanes>,
    inner: Vec<Lanes>,
    outer: Vec<Lanes>,
    up: Vec<Lanes>,
    /// Product of the siblings' messages; of the other trees' totals at a root, first entry.
    others: Vec<Lanes>,
    total: Vec<Lanes>,
    incoming: Vec<Lanes>,
    stamp: Vec<usize>,
    suffix: Vec<Lanes>,
    a: Vec<Lanes>,
    b: Vec<Lanes>,
}

impl Messages {
    fn new(n: usize, s: usize, widest: usize) -> Self {
        let each = vec![Lanes::ZERO; n * s];
        let one = vec![Lanes::ZERO; s];
        Messages {
            x: one.clone(),
            w: one.clone(),
            v: one.clone(),
            inner: each.clone(),
            outer: each.clone(),
            up: each.clone(),
            others: each.clone(),
            total: vec![Lanes::ZERO; n],
            incoming: each,
            stamp: vec![usize::MAX; n],
            suffix: vec![Lanes::ONE; (widest + 1) * s],
            a: one.clone(),
            b: one,
        }
    }
}

/// out(u') = Σ_u z(u) π(u, u').
#[inline]
fn forward(pi: &[f64], z: &[Lanes], out: &mut [Lanes]) {
    out.fill(Lanes::ZERO);
    for (z, row) in z.iter().zip(pi.chunks_exact(out.len())) {
        for (o, p) in out.iter_mut().zip(row) {
            *o = o.plus(*p, *z);
        }
    }
}

/// out(u) = Σ_{u'} π(u, u') z(u').
#[inline]
fn backward(pi: &[f64], z: &[Lanes], out: &mut [Lanes]) {
    for (o, row) in out.iter_mut().zip(pi.chunks_exact(z.len())) {
        *o = dot(row, z);
    }
}

#[inline]
fn dot(row: &[f64], z: &[Lanes]) -> Lanes {
    let mut sum = Lanes::ZERO;
    for (p, z) in row.iter().zip(z) {
        sum = sum.plus(*p, *z);
    }
    sum
}

impl Problem<'_> {
    /// Adds symbol `t` and the frequencies `from .. from + LANES` to `acc` (T, T).
    fn share(&self, t: usize, from: usize, m: &mut Messages, acc: &mut [f64]) {
        let (n, s) = (self.tree.len(), self.symbols);
        let len = n + 1;
        let mut copies = [0.0; LANES];
        let mut omega = Lanes::ONE;
        for l in 0..LANES {
            let f = from + l;
            if f <= len / 2 {
                // A frequency also represents its conjugate, unless they are equal.
                copies[l] = if f == 0 || 2 * f == len { 1.0 } else { 2.0 };
                [omega.re[l], omega.im[l]] = self.roots_of_unity[f];
            }
        }
        m.x.fill(Lanes::ONE);
        m.x[t] = omega;
        for k in 0..s {
            let which = usize::from(k == t);
            let p = self.pi[k * s + t];
            (m.w[k], m.v[k]) = (Lanes::ZERO, Lanes::ZERO);
            for l in 0..LANES {
                let f = (from + l) % len;
                let [a, b] = [self.functions.first[which][f], self.functions.second[which][f]];
                (m.w[k].re[l], m.w[k].im[l]) = (p * a[0], p * a[1]);
                (m.v[k].re[l], m.v[k].im[l]) = (p * b[0], p * b[1]);
            }
        }
        self.sweep_up(m);
        self.sweep_down(m);

        // The second term, and the row of the query, whose symbol is k itself.
        for j in 0..n {
            let at = j * s;
            let belief = |u: usize| m.outer[at + u].times(m.inner[at + u]);
            let mut second = Lanes::ZERO;
            for k in 0..s {
                second = second.add(m.v[k].times(belief(k)));
            }
            let x = second.real(&copies);
            for i in j..len {
                acc[i * len + j] -= x;
            }
            acc[n * len + j] += m.w[t].times(belief(t)).real(&copies);
        }
        let all = m.total[self.tree.roots[0]].times(m.others[self.tree.roots[0] * s]);
        let mut net = m.w[t];
        for k in 0..s {
            net = net.plus(-1.0, m.v[k]);
        }
        acc[n * len + n] += net.times(all).real(&copies);

        for i in 0..n {
            self.clamped(t, i, m, &copies, &mut acc[i * len..][..=i]);
        }
    }

    fn sweep_up(&self, m: &mut Messages) {
        let s = self.symbols;
        for v in (0..self.tree.len()).rev() {
            let mine = v * s..(v + 1) * s;
            m.inner[mine.clone()].copy_from_slice(&m.x);
            for &c in self.tree.children(v) {
                for u in 0..s {
                    m.inner[mine.start + u] = m.inner[mine.start + u].times(m.up[c * s + u]);
                }
            }
            if self.tree.parents[v].is_some() {
                backward(self.pi, &m.inner[mine.clone()], &mut m.up[mine]);
            } else {
                m.total[v] = dot(self.roots, &m.inner[mine]);
            }
            // Products without one child, from suffixes and a running prefix.
            let children = self.tree.children(v);
            m.suffix[children.len() * s..(children.len() + 1) * s].fill(Lanes::ONE);
            for (n, &c) in children.iter().enumerate().rev() {
                for u in 0..s {
                    m.suffix[n * s + u] = m.suffix[(n + 1) * s + u].times(m.up[c * s + u]);
                }
            }
            m.a.fill(Lanes::ONE);
            for (n, &c) in children.iter().enumerate() {
                for u in 0..s {
                    m.others[c * s + u] = m.a[u].times(m.suffix[(n + 1) * s + u]);
                    m.a[u] = m.a[u].times(m.up[c * s + u]);
                }
            }
        }
        let roots = &self.tree.roots;
        let mut after = Lanes::ONE;
        for &r in roots.iter().rev() {
            m.others[r * s] = after;
            after = after.times(m.total[r]);
        }
        let mut before = Lanes::ONE;
        for &r in roots {
            m.others[r * s] = m.others[r * s].times(before);
            before = before.times(m.total[r]);
        }
    }

    fn sweep_down(&self, m: &mut Messages) {
        let s = self.symbols;
        for v in 0..self.tree.len() {
            match self.tree.parents[v] {
                None => {
                    for u in 0..s {
                        m.outer[v * s + u] = m.others[v * s].scaled(self.roots[u]);
                    }
                }
                Some(p) => {
                    for u in 0..s {
                        m.a[u] = m.outer[p * s + u].times(m.x[u]).times(m.others[v * s + u]);
                    }
                    forward(self.pi, &m.a, &mut m.outer[v * s..(v + 1) * s]);
                }
            }
        }
    }

    /// The first term of row `i`: s_i = t, and the message w at every j <= i.
    fn clamped(&self, t: usize, i: usize, m: &mut Messages, copies: &[f64; LANES], row: &mut [f64]) {
        let s = self.symbols;
        row[i] += m.w[t].times(m.outer[i * s + t]).times(m.inner[i * s + t]).real(copies);
        // Up the path; a = what comes from below with the state of `at`, nothing of `at` itself.
        let mut at = i;
        m.a.fill(Lanes::ZERO);
        m.a[t] = m.inner[i * s + t];
        while let Some(p) = self.tree.parents[at] {
            backward(self.pi, &m.a, &mut m.b);
            let mut first = Lanes::ZERO;
            for u in 0..s {
                m.b[u] = m.b[u].times(m.x[u]);
                m.a[u] = m.b[u].times(m.others[at * s + u]);
                first = first.add(m.w[u].times(m.a[u]).times(m.outer[p * s + u]));
            }
            row[p] += first.real(copies);
            self.siblings(i, at, p, m);
            at = p;
        }
        let hub = dot(self.roots, &m.a);
        let without = |r: &usize| *r != at;
        let mut after = Lanes::ONE;
        for &r in self.tree.roots.iter().rev().filter(|r| without(r)) {
            m.incoming[r * s] = after;
            after = after.times(m.total[r]);
        }
        let mut before = hub;
        for &r in self.tree.roots.iter().filter(|r| without(r)).take_while(|r| **r < i) {
            let from = m.incoming[r * s].times(before);
            for u in 0..s {
                m.incoming[r * s + u] = from.scaled(self.roots[u]);
            }
            m.stamp[r] = i;
            before = before.times(m.total[r]);
        }
        // Down into everything that hangs off the path: the same positions for every t and
        // frequency, so stamps stay right.
        for v in 0..i {
            if let Some(p) = self.tree.parents[v]
                && m.stamp[p] == i
            {
                for u in 0..s {
                    m.b[u] = m.incoming[p * s + u].times(m.x[u]).times(m.others[v * s + u]);
                }
                forward(self.pi, &m.b, &mut m.incoming[v * s..(v + 1) * s]);
                m.stamp[v] = i;
            }
            if m.stamp[v] == i {
                let mut first = Lanes::ZERO;
                for u in 0..s {
                    first = first.add(m.w[u].times(m.incoming[v * s + u]).times(m.inner[v * s + u]));
                }
                row[v] += first.real(copies);
            }
        }
    }

    /// What the children of `p` other than `at` receive, b being the message from `at` times x.
    fn siblings(&self, i: usize, at: usize, p: usize, m: &mut Messages) {
        let s = self.symbols;
        let children = self.tree.children(p);
        if children[0] == at && children.get(1).is_none_or(|c| *c > i) {
            return;
        }
        let count = children.len();
        m.suffix[count * s..(count + 1) * s].fill(Lanes::ONE);
        for (n, &c) in children.iter().enumerate().rev() {
            for u in 0..s {
                let after = m.suffix[(n + 1) * s + u];
                m.suffix[n * s + u] = if c == at { after } else { after.times(m.up[c * s + u]) };
            }
        }
        for u in 0..s {
            m.b[u] = m.b[u].times(m.outer[p * s + u]);
        }
        for (n, &c) in children.iter().enumerate().take_while(|(_, c)| **c <= i) {
            if c == at {
                continue;
            }
            // The suffix is done with: its place holds the message before the transition.
            for u in 0..s {
                m.suffix[n * s + u] = m.b[u].times(m.suffix[(n + 1) * s + u]);
                m.b[u] = m.b[u].times(m.up[c * s + u]);
            }
            forward(self.pi, &m.suffix[n * s..(n + 1) * s], &mut m.incoming[c * s..(c + 1) * s]);
            m.stamp[c] = i;
        }
    }
}

/// ĝ (T, T), zero above the diagonal, for one π; `roots` (S) is the law of the roots, `None` for μ.
/// Same bits for any thread count.
///
/// Errors of a few T u in absolute terms times the largest 1/(1/T + ε).
///
/// # Errors
/// A root law that is none, ε out of range, T above [`MAX_LEN`].
pub fn leading(
    transition: &Transition,
    forest: &Forest,
    roots: Option<&[f64]>,
    eps: f64,
) -> Result<Vec<f64>> {
    let (n, s) = (forest.len_context(), transition.symbols());
    let len = n + 1;
    check_eps(eps)?;
    if len > MAX_LEN {
        return Err(Error::invalid("T", len.to_string(), format!("2 <= T <= {MAX_LEN}")));
    }
    let roots = super::marginals::root_law(transition, roots)?;
    let angle = |m: usize| 2.0 * std::f64::consts::PI * m as f64 / len as f64;
    let roots_of_unity: Vec<[f64; 2]> = (0..len).map(|m| [angle(m).cos(), angle(m).sin()]).collect();
    let functions = Functions::new(len, eps, &roots_of_unity);
    let tree = Tree::new(forest);
    let problem = Problem { tree, symbols: s, pi: transition.pi(), roots: &roots, roots_of_unity, functions };

    let groups = (len / 2 + 1).div_ceil(LANES);
    let tasks: Vec<(usize, usize)> = (0..s).flat_map(|t| (0..groups).map(move |g| (t, g * LANES))).collect();
    let shares: Vec<Vec<f64>> = tasks
        .par_chunks(tasks.len().div_ceil(SHARES))
        .map(|tasks| {
            let mut acc = vec![0.0; len * len];
            let mut messages = Messages::new(n, s, problem.tree.widest);
            for (t, from) in tasks {
                problem.share(*t, *from, &mut messages, &mut acc);
            }
            acc
        })
        .collect();
    Ok((0..len * len).map(|at| shares.iter().map(|share| share[at]).collect::<Sum>().value()).collect())
}

/// [`leading`] averaged over atoms (weight, π, roots), in order.
///
/// # Errors
/// As [`leading`].
pub fn leading_averaged<'a>(
    atoms: impl IntoIterator<Item = (f64, &'a Transition, Option<&'a [f64]>)>,
    forest: &Forest,
    eps: f64,
) -> Result<Vec<f64>> {
    let mut sums = vec![Sum::default(); forest.seq_len() * forest.seq_len()];
    for (w, transition, roots) in atoms {
        let one = leading(transition, forest, roots, eps)?;
        sums.iter_mut().zip(&one).for_each(|(s, x)| s.add(w * x));
    }
    Ok(sums.iter().map(Sum::value).collect())
}
