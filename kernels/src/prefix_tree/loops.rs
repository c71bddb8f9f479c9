//! Depth-first sum over all words of an alphabet, several prefixes at a time in the lanes of a
//! vector.
//!
//! Words are c_0 .. c_{n-1}, then the fixed query symbol k at position n = T − 1. A word reads the
//! table row a = A[k, ·] through a row-stochastic lower-triangular M: z_i = Σ_{j<=i} M_ij a_{c_j},
//! and answers with f_s = Σ_i 1[c_i = s] e^{z_i} / Σ_i e^{z_i}. Its weights W_s come from the
//! counts of its transitions.
//!
//! 1. e^{z_i} is a product of factors e^{M_ij (a_c − shift)} that are tabulated once, so that no
//!    word costs an exponential. `shift` is the middle of the range of a: factors multiply up to
//!    within e^{±range/2}.
//! 2. One step down the tree multiplies the T − j factors that are still open: S^j nodes do that at
//!    depth j, O(1) per word.
//! 3. Going up, only sums of e_i Q_s over the leaves below are kept: E_i = Σ δ_i. Σ δ_i z_i needs
//!    no accumulator of its own, it is Σ_j M_ij Σ_c a_c C[j][c][i] with what is accumulated anyway,
//!    C[j][c][i] = Σ δ_i over words with c_j = c.
//! 4. A lane is one prefix: the suffixes are walked in step, so that symbols below the prefix are
//!    scalars. Where a parent lies in the prefix its symbol differs by lane, and a one-hot vector
//!    per symbol picks the count.
//! 5. Suffixes with the same transitions weigh the same under every prefix ([`Plan`]): weights are
//!    computed once per class of them, and Σ W ln(f + ε) is W ln Π(f + ε) over a class, one
//!    logarithm for all its words.
//! 6. Labels are such that the query is 0, which keeps the hot loops free of a variable index: 0
//!    and k change places.
//! 7. One division per word: the reciprocals of Z and of all f_s + ε come from that of their
//!    product, where it is a normal number.
//! 8. Sums over leaves are nested like the tree; the long ones, over blocks of prefixes, are
//!    compensated.

mod leaf;
mod weights;

use crate::elem::real::Real;
use crate::prefix_tree::accumulator::Accumulator;
use crate::prefix_tree::plan::{MAX_LEN, Plan, TREE};
use crate::prefix_tree::problem::{Walk, Weights};
use crate::simd::tiles::MAX_LANES;
use crate::simd::{Op, Simd, Twice, compiled_once};

compiled_once! {
    /// The walk.
    PrefixTreeBodies {
        fn run_walk(WalkOp<'_, Self>);
    }
}

/// Where things lie in scratch, in vectors.
#[derive(Clone, Copy, Default)]
struct Workspace {
    /// Symbols that words hold.
    symbols: usize,
    /// Levels below the prefix.
    levels: usize,
    /// Open positions p .. T.
    width: usize,
    /// Atoms of the prior, 0 if it has none.
    atoms: usize,
    prefix: usize,
    /// Classes of suffixes.
    classes: usize,
    /// Weights of a class.
    row: usize,
    // Where each block of vectors begins. Level by level:
    /// Products of the factors that positions p .. T have so far.
    open: usize,
    /// e^{z} of the position that a level sets.
    own: usize,
    /// F_s.
    mass: usize,
    /// E_i.
    sums: usize,
    /// Q_s.
    pulls: usize,
    /// What `counts` held before a step whose parent lies in the prefix.
    saved: usize,
    /// Numerator and denominator of a Dirichlet weight.
    ratio: usize,
    atom_weights: usize,
    // Of the block:
    counts: usize,
    totals: usize,
    root_counts: usize,
    /// Is the symbol at a prefix position c?
    one_hot: usize,
    prefix_own: usize,
    /// C of the suffix positions, (levels, S, width).
    sum_c: usize,
    /// Products at a leaf.
    inverse: usize,
    /// By class: weights, then products of f + ε.
    class: usize,
    class_len: usize,
    end: usize,
}

impl Workspace {
    fn new<E>(w: &Walk<'_, E>) -> Self {
        let mut ws = Workspace {
            symbols: w.plan.tracked(),
            levels: w.plan.levels(),
            width: w.plan.word_len() - w.plan.prefix_len(),
            atoms: if let Weights::Atoms { weight, .. } = w.weights { weight.len() } else { 0 },
            prefix: w.plan.prefix_len(),
            classes: w.plan.suffix_classes(),
            row: w.plan.row(),
            ..Workspace::default()
        };
        let (n, depth) = (ws.symbols, ws.levels + 1);
        ws.class_len = ws.row + n;
        let mut at = 0;
        for (begin, len) in [
            (&mut ws.open, depth * ws.width),
            (&mut ws.own, depth),
            (&mut ws.mass, depth * n),
            (&mut ws.sums, depth * ws.width),
            (&mut ws.pulls, depth * n),
            (&mut ws.saved, depth * 2 * n),
            (&mut ws.ratio, depth * 2),
            (&mut ws.atom_weights, depth * ws.atoms),
            (&mut ws.counts, n * n),
            (&mut ws.totals, n),
            (&mut ws.root_counts, n),
            (&mut ws.one_hot, ws.prefix * n),
            (&mut ws.prefix_own, ws.prefix),
            (&mut ws.sum_c, ws.levels * n * ws.width),
            (&mut ws.inverse, 2 * n),
            (&mut ws.class, ws.classes * ws.class_len),
        ] {
            *begin = at;
            at += len;
        }
        ws.end = at;
        ws
    }
}

/// Scratch elements of a walk.
pub(crate) fn scratch_len<E>(w: &Walk<'_, E>) -> usize {
    let t = w.plan.word_len();
    let ws = Workspace::new(w);
    factors_len(t, ws.symbols) + ws.end * MAX_LANES.max(64 / size_of::<E>())
}

/// Whole cache lines, so that vectors stay aligned.
fn factors_len(t: usize, symbols: usize) -> usize {
    (t * t * symbols).next_multiple_of(MAX_LANES)
}

/// Prefixes `first .. last` of a checked walk.
pub(crate) struct WalkOp<'a, E> {
    pub(crate) walk: &'a Walk<'a, E>,
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) acc: &'a mut Accumulator,
    pub(crate) scratch: &'a mut [E],
}

impl<E: Real> Op<E> for WalkOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        // Two vectors side by side where there are as many lanes: what a leaf waits for is its own
        // chain of operations.
        if const { 2 * S::LANES <= MAX_LANES } {
            self.blocks(Twice(s));
        } else {
            self.blocks(s);
        }
    }
}

impl<E: Real> WalkOp<'_, E> {
    #[inline(always)]
    fn blocks<S: Simd<E>>(self, s: S) {
        let WalkOp { walk, first, last, acc, scratch } = self;
        assert!(scratch.len() >= scratch_len(walk) && acc.fits(walk.plan));
        let ws = Workspace::new(walk);
        let t = walk.plan.word_len();
        let (factors, vectors) = scratch.split_at_mut(factors_len(t, ws.symbols));
        tabulate(walk, ws.symbols, factors);
        let (next, first_leaf) = walk.plan.graph();
        let fast = is_fast(walk);
        let mut b = Block::<E, S> {
            s,
            w: walk,
            next,
            first_leaf: first_leaf as usize,
            parents: walk.plan.parents(),
            ws,
            t,
            factors: factors.as_ptr(),
            vectors: vectors.as_mut_ptr(),
            fast,
            careful: is_careful(walk),
            ln_eps: E::from_f64(walk.eps.to_f64().ln()),
            sym: [0; MAX_LEN],
            prefix: [[0; MAX_LANES]; MAX_LEN],
            lanes: 0,
        };
        let mut at = first;
        while at < last {
            let lanes = if last - at < S::LANES { last - at } else { S::LANES };
            // SAFETY: scratch has the length asserted above; the walk is checked
            // (`Kernels::prefix_tree`).
            unsafe {
                b.start(at, lanes);
                b.weigh(at);
                let loss = match (fast && walk.plan.canonical().is_none(), ws.symbols) {
                    (true, 2) => b.walk::<2>(),
                    (true, 3) => b.walk::<3>(),
                    (true, 4) => b.walk::<4>(),
                    _ => b.walk::<0>(),
                };
                b.sum_classes(loss, acc);
                for part in 0..S::SUMS {
                    b.finish(part, acc);
                }
            }
            at += lanes;
        }
    }
}

/// `factors[j][c][i]` = e^{M_ij (a_c − shift)}; those of the query multiply the last position's.
fn tabulate<E: Real>(w: &Walk<'_, E>, symbols: usize, factors: &mut [E]) {
    let t = w.plan.word_len();
    let shift = w.shift();
    for j in 0..t {
        for c in 0..symbols {
            let a = w.table[w.symbol(c)].to_f64() - shift;
            let row = &mut factors[(j * symbols + c) * t..][..t];
            row[..j].fill(E::ONE);
            for i in j..t {
                row[i] = E::from_f64((w.mix.at(i, j).to_f64() * a).exp());
            }
        }
    }
    let query = factors[(t - 1) * symbols * t + t - 1];
    for c in 0..symbols {
        factors[((t - 2) * symbols + c) * t + t - 1] *= query;
    }
}

/// Are the product of Z and all f_s + ε at a leaf, and that of f_s + ε over a class, normal
/// numbers?
fn is_fast<E: Real>(w: &Walk<'_, E>) -> bool {
    let eps = w.eps.to_f64();
    if eps == 0.0 {
        return false;
    }
    let ws = if size_of::<E>() == 4 { 80.0 } else { 680.0 };
    let (lo, hi) = w.range();
    // ln Z is within ±half; f_s + ε is F_s + ε Z.
    let half = 0.5 * (hi - lo) + (w.plan.word_len() as f64).ln();
    let each = half + eps.ln().abs().max(eps.ln_1p());
    half + each * w.plan.tracked() as f64 <= ws
        && (w.plan.largest_class() == 1 || w.plan.largest_class() <= Plan::class_limit::<E>(eps))
}

/// May (F_s + εZ)/Z of a symbol that occurs, or εZ beside it, leave the normal numbers? Its
/// logarithm is then taken in two parts, and a symbol that does not occur has ln ε.
fn is_careful<E: Real>(w: &Walk<'_, E>) -> bool {
    let most = if size_of::<E>() == 4 { 80.0 } else { 680.0 };
    let (eps, (lo, hi)) = (w.eps.to_f64(), w.range());
    let len = (w.plan.word_len() as f64).ln();
    // f is at least e^-range/T, Z within e^{±range/2}, and at most T times that.
    let faint = hi - lo + len > most && (eps == 0.0 || -eps.ln() > most);
    let lost = eps > 0.0 && 0.5 * (hi - lo) + len + eps.ln().abs() > most;
    faint || lost
}

/// One block of prefixes, one per lane.
struct Block<'a, E, S> {
    s: S,
    w: &'a Walk<'a, E>,
    next: &'a [u32],
    first_leaf: usize,
    parents: &'a [Option<usize>],
    ws: Workspace,
    t: usize,
    factors: *const E,
    vectors: *mut E,
    /// Products are safe.
    fast: bool,
    /// Where they are not: even one quotient may leave the normal numbers.
    careful: bool,
    /// ln ε.
    ln_eps: E,
    /// Symbols below the prefix, by level (from 1).
    sym: [u8; MAX_LEN],
    /// Symbols of the prefix by position and lane.
    prefix: [[u8; MAX_LANES]; MAX_LEN],
    lanes: usize,
}

impl<E: Real, S: Simd<E>> Block<'_, E, S> {
    /// # Safety
    /// `slot` is inside the workspace.
    #[inline(always)]
    unsafe fn get(&self, slot: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.s.load(self.vectors.add(slot * S::LANES)) }
    }
    /// # Safety
    /// As [`Self::get`].
    #[inline(always)]
    unsafe fn put(&self, slot: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { self.s.store(self.vectors.add(slot * S::LANES), v) }
    }
    /// # Safety
    /// As [`Self::get`], lane below LANES.
    #[inline(always)]
    unsafe fn lane(&self, slot: usize, lane: usize) -> *mut E {
        // SAFETY: the caller's promise.
        unsafe { self.vectors.add(slot * S::LANES + lane) }
    }
    /// # Safety
    /// j, i < T, c < S.
    #[inline(always)]
    unsafe fn factor(&self, j: usize, c: usize, i: usize) -> E {
        // SAFETY: the caller's promise.
        unsafe { *self.factors.add((j * self.ws.symbols + c) * self.t + i) }
    }
    /// The node behind an edge.
    ///
    /// # Safety
    /// A node of a level above the last, a symbol.
    #[inline(always)]
    unsafe fn edge(&self, node: usize, c: usize) -> u32 {
        debug_assert!(node * self.ws.symbols + c < self.next.len());
        // SAFETY: the plan has an edge, or NONE, for every symbol at every such node.
        unsafe { *self.next.get_unchecked(node * self.ws.symbols + c) }
    }
    /// Symbols that the words below a node may go on with, where `used` are in use.
    #[inline(always)]
    fn kids(&self, used: usize) -> usize {
        if used < self.ws.symbols { used + 1 } else { used }
    }
    /// Symbols in use at the root: all, unless words are canonical.
    #[inline(always)]
    fn used_at_start(&self) -> usize {
        self.w.plan.canonical().unwrap_or(self.ws.symbols)
    }

    /// Brings the prefixes `first .. first + lanes` into the lanes; lanes without one walk the
    /// first of their vector with weight 0, or the first of all where that has none either.
    ///
    /// # Safety
    /// The walk is checked, `vectors` has its workspace.
    #[inline(always)]
    unsafe fn start(&mut self, first: usize, lanes: usize) {
        let (s, ws, n) = (self.s, self.ws, self.ws.symbols);
        let p = ws.prefix;
        self.lanes = lanes;
        let vector = S::LANES / S::SUMS;
        for l in 0..S::LANES {
            let instead = if l / vector * vector < lanes { l / vector * vector } else { 0 };
            let word = self.w.plan.prefix(first + if l < lanes { l } else { instead });
            for i in 0..p {
                self.prefix[i][l] = word[i];
            }
        }
        let (zero, one) = (s.splat(E::ZERO), s.splat(E::ONE));
        // SAFETY: slots of the workspace throughout.
        unsafe {
            for i in 0..p * n {
                self.put(ws.one_hot + i, zero);
            }
            for i in 0..p {
                for l in 0..S::LANES {
                    *self.lane(ws.one_hot + i * n + self.prefix[i][l] as usize, l) = E::ONE;
                }
            }
            // Open factors, mass of each symbol.
            for c in 0..n {
                self.put(ws.mass + c, zero);
            }
            for i in 0..self.t {
                let mut x = one;
                let last = if i < p { i + 1 } else { p };
                for j in 0..last {
                    let mut g = [E::ONE; MAX_LANES];
                    for (l, g) in g.iter_mut().enumerate().take(S::LANES) {
                        *g = self.factor(j, self.prefix[j][l] as usize, i);
                    }
                    x = s.mul(x, s.load(g.as_ptr()));
                }
                if i < p {
                    self.put(ws.prefix_own + i, x);
                    for c in 0..n {
                        let f = s.fma(x, self.get(ws.one_hot + i * n + c), self.get(ws.mass + c));
                        self.put(ws.mass + c, f);
                    }
                } else {
                    self.put(ws.open + i - p, x);
                }
            }
            for i in 0..ws.levels * n * ws.width {
                self.put(ws.sum_c + i, zero);
            }
        }
    }

    /// All suffixes, depth first. `SYM`: S where leaves are taken together and reciprocals by
    /// products, 0 otherwise. Returns what the leaves did not leave to their classes.
    ///
    /// # Safety
    /// After [`Self::weigh`].
    #[inline(always)]
    unsafe fn walk<const SYM: usize>(&mut self) -> S::V {
        let (s, ws, t) = (self.s, self.ws, self.t);
        let n = if SYM == 0 { ws.symbols } else { SYM };
        let canonical = self.w.plan.canonical().is_some();
        let (p, width) = (ws.prefix, ws.width);
        // The level whose children are leaves, or of the leaves.
        let bottom = if SYM == 0 { ws.levels } else { ws.levels - 1 };
        let mut next = [0u8; MAX_LEN];
        let mut node = [0u32; MAX_LEN];
        let mut used = [self.used_at_start(); MAX_LEN];
        let mut loss = s.splat(E::ZERO);
        let mut l = 0;
        // SAFETY: levels up to `bottom`, positions p .. t, symbols below n: slots of the workspace;
        // edges where the plan has some.
        unsafe {
            if SYM != 0 && bottom == 0 {
                self.leaves::<SYM>(0, 0);
                return loss;
            }
            loop {
                let c = next[l] as usize;
                if c == (if canonical { self.kids(used[l]) } else { n }) {
                    if l == 0 {
                        return loss;
                    }
                    self.up(l, n, used[l]);
                    l -= 1;
                    continue;
                }
                next[l] += 1;
                // Down.
                let (up, j) = (l, p + l);
                l += 1;
                self.sym[l] = c as u8;
                node[l] = self.edge(node[up] as usize, c) & !TREE;
                used[l] = if c < used[up] { used[up] } else { c + 1 };
                let own = s.mul(self.get(ws.open + up * width + j - p), s.splat(self.factor(j, c, j)));
                self.put(ws.own + l, own);
                let seen = if canonical { used[up] } else { n };
                if c == seen {
                    self.put(ws.mass + l * n + c, own);
                }
                for b in 0..seen {
                    let f = self.get(ws.mass + up * n + b);
                    self.put(ws.mass + l * n + b, if b == c { s.add(f, own) } else { f });
                }
                for i in j + 1..t {
                    let g = s.splat(self.factor(j, c, i));
                    let x = s.mul(self.get(ws.open + up * width + i - p), g);
                    self.put(ws.open + l * width + i - p, x);
                }
                if l == bottom {
                    if SYM == 0 {
                        loss = s.add(loss, self.leaf(l, used[l], node[l] as usize - self.first_leaf));
                    } else {
                        self.leaves::<SYM>(l, node[l] as usize);
                    }
                    self.up(l, n, if canonical { used[l] } else { n });
                    l = up;
                } else {
                    next[l] = 0;
                }
            }
        }
    }

    /// All words below the node at level `l` are done: what they sum up joins C and the node above.
    ///
    /// # Safety
    /// A level from 1 on whose `sums` (its open positions) and `pulls` (its `used` symbols) are
    /// set; children come in order.
    #[inline(always)]
    unsafe fn up(&mut self, l: usize, n: usize, used: usize) {
        let (s, ws) = (self.s, self.ws);
        let (width, own, c) = (ws.width, l - 1, self.sym[l] as usize);
        let row = ws.sum_c + (own * n + c) * width;
        let (from, to) = (ws.sums + l * width, ws.sums + own * width);
        let (pulls, pulls_up) = (ws.pulls + l * n, ws.pulls + own * n);
        // SAFETY: rows of C, sums and pulls of the two levels.
        unsafe {
            let e = s.mul(self.get(ws.own + l), self.get(pulls + c));
            self.put(row + own, s.add(self.get(row + own), e));
            // The first child sets, so that nothing needs clearing.
            if c == 0 {
                self.put(to + own, e);
                for i in own + 1..width {
                    let e = self.get(from + i);
                    self.put(row + i, s.add(self.get(row + i), e));
                    self.put(to + i, e);
                }
                for b in 0..used {
                    self.put(pulls_up + b, self.get(pulls + b));
                }
            } else {
                self.put(to + own, s.add(self.get(to + own), e));
                for i in own + 1..width {
                    let e = self.get(from + i);
                    self.put(row + i, s.add(self.get(row + i), e));
                    self.put(to + i, s.add(self.get(to + i), e));
                }
                for b in 0..used {
                    self.put(pulls_up + b, s.add(self.get(pulls_up + b), self.get(pulls + b)));
                }
            }
        }
    }

    /// Adds a part of the block to the accumulator, as if it were a block of its own: suffix
    /// positions as they are, prefix positions by the symbols of each lane.
    ///
    /// # Safety
    /// After [`Self::walk`].
    #[inline(always)]
    unsafe fn finish(&mut self, part: usize, acc: &mut Accumulator) {
        let (s, ws, n, t) = (self.s, self.ws, self.ws.symbols, self.t);
        let own = part * (S::LANES / S::SUMS)..(part + 1) * (S::LANES / S::SUMS);
        if own.start >= self.lanes {
            return;
        }
        let p = ws.prefix;
        // SAFETY: slots of the workspace.
        unsafe {
            for lc in 0..ws.levels * n {
                let (j, c) = (p + lc / n, lc % n);
                for i in j..t {
                    let v = self.get(ws.sum_c + lc * ws.width + i - p);
                    acc.add(j, self.w.symbol(c), i, s.sum(v, part).to_f64());
                }
            }
            let mut query = 0.0;
            for i in 0..t {
                let e = if i < p {
                    let mut q = s.splat(E::ZERO);
                    for c in 0..self.used_at_start() {
                        q = s.fma(self.get(ws.one_hot + i * n + c), self.get(ws.pulls + c), q);
                    }
                    s.mul(self.get(ws.prefix_own + i), q)
                } else {
                    self.get(ws.sums + i - p)
                };
                let mut lane = [E::ZERO; MAX_LANES];
                s.store(lane.as_mut_ptr(), e);
                let all = s.sum(e, part).to_f64();
                if i + 1 == t {
                    query = all;
                }
                for j in 0..if i < p { i + 1 } else { p } {
                    let c = self.prefix[j][own.start];
                    if self.prefix[j][own.clone()].iter().all(|x| *x == c) {
                        acc.add(j, self.w.symbol(c as usize), i, all);
                    } else {
                        for l in own.start..own.end.min(self.lanes) {
                            acc.add(j, self.w.symbol(self.prefix[j][l] as usize), i, lane[l].to_f64());
                        }
                    }
                }
            }
            acc.add(t - 1, self.w.query, t - 1, query);
        }
    }
}
