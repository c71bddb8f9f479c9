//! Weights of the classes of suffixes under a block of prefixes.

use crate::elem::real::Real;
use crate::prefix_tree::accumulator::Accumulator;
use crate::prefix_tree::loops::Block;
use crate::prefix_tree::plan::{MAX_LEN, NONE, TREE};
use crate::prefix_tree::problem::Weights;
use crate::simd::Simd;
use crate::simd::tiles::MAX_LANES;
use crate::vecmath::log::ln;

/// Multiplies the numerator and the denominator of a weight by those of one step. In f32 a product
/// of many α or Sα leaves the type long before the weight does: there the quotient goes into the
/// numerator, step by step.
#[inline(always)]
fn step<E: Real, S: Simd<E>>(s: S, (num, den): (S::V, S::V), (up, down): (S::V, S::V)) -> (S::V, S::V) {
    if size_of::<E>() == 4 { (s.mul(num, s.div(up, down)), den) } else { (s.mul(num, up), s.mul(den, down)) }
}

/// The same of one lane.
#[inline(always)]
fn step_lane<E: Real>((num, den): (E, E), (up, down): (E, E)) -> (E, E) {
    if size_of::<E>() == 4 { (num * (up / down), den) } else { (num * up, den * down) }
}

/// Words that a relabelling makes of one with query 0 and `used` symbols: (S − 1)(S − 2) .. (S −
/// used + 1).
fn orbit(symbols: usize, used: usize) -> f64 {
    (1..used).map(|i| (symbols - i) as f64).product()
}

impl<E: Real, S: Simd<E>> Block<'_, E, S> {
    /// Weights of every class, one of its suffixes standing for all; products start at 1.
    ///
    /// # Safety
    /// After [`Self::start`] with the prefixes from `first` on.
    #[inline(always)]
    pub(super) unsafe fn weigh(&mut self, first: usize) {
        let (s, ws) = (self.s, self.ws);
        // SAFETY: slots of the workspace; nodes, classes and rows of the plan, tables of the sizes
        // that were checked.
        unsafe {
            for class in 0..ws.classes {
                for b in 0..ws.symbols {
                    self.put(ws.class + class * ws.class_len + ws.row + b, s.splat(E::ONE));
                }
            }
            if let Weights::Table { values } = self.w.weights {
                let len = ws.classes * ws.row;
                // Lanes without a prefix walk the first with weight 0.
                let mut rows = [&values[..len]; MAX_LANES];
                for (l, row) in rows.iter_mut().enumerate().take(self.lanes) {
                    *row = &values[self.w.plan.prefix_class(first + l) * len..][..len];
                }
                // Vector by vector: the classes of a block may be more than a cache holds.
                for class in 0..ws.classes {
                    for b in 0..ws.row {
                        let mut w = [E::ZERO; MAX_LANES];
                        for (w, row) in w.iter_mut().zip(&rows).take(self.lanes) {
                            *w = row[class * ws.row + b];
                        }
                        self.put(ws.class + class * ws.class_len + b, s.load(w.as_ptr()));
                    }
                }
                return;
            }
            self.start_weights();
            let mut next = [0u8; MAX_LEN];
            let mut node = [0u32; MAX_LEN];
            let mut used = [self.used_at_start(); MAX_LEN];
            let mut l = 0;
            loop {
                let c = next[l] as usize;
                if l == ws.levels || c == ws.symbols {
                    if l == 0 {
                        return;
                    }
                    if l == ws.levels {
                        self.weigh_class(l, used[l], node[l] as usize - self.first_leaf);
                    }
                    self.leave_weights(l);
                    l -= 1;
                    continue;
                }
                next[l] += 1;
                let edge = self.edge(node[l] as usize, c);
                if edge == NONE || edge & TREE == 0 {
                    continue;
                }
                l += 1;
                self.sym[l] = c as u8;
                node[l] = edge & !TREE;
                used[l] = if c < used[l - 1] { used[l - 1] } else { c + 1 };
                next[l] = 0;
                self.enter_weights(l);
            }
        }
    }

    /// Σ W ln Π(f + ε) and Σ W over the classes, `loss` included, into the accumulator.
    ///
    /// # Safety
    /// After [`Self::walk`].
    #[inline(always)]
    pub(super) unsafe fn sum_classes(&mut self, loss: S::V, acc: &mut Accumulator) {
        let (s, ws) = (self.s, self.ws);
        let zero = s.splat(E::ZERO);
        let (mut loss, mut total) = (loss, zero);
        // SAFETY: slots of the workspace.
        unsafe {
            for class in 0..ws.classes {
                let words = s.splat(E::from_f64(self.w.plan.suffixes_in(class) as f64));
                let used = self.w.plan.used_in(class);
                let at = ws.class + class * ws.class_len;
                let mut all = zero;
                for b in 0..used {
                    let w = self.get(at + b);
                    all = s.add(all, w);
                    if self.fast {
                        loss = s.fma(w, ln::<E, S>(s, self.get(at + ws.row + b)), loss);
                    }
                }
                let unseen = self.w.plan.symbols() - used;
                if ws.row > ws.symbols && unseen > 0 {
                    // Symbols that do not occur: f = 0.
                    let w = s.mul(self.get(at + ws.symbols), s.splat(E::from_f64(unseen as f64)));
                    all = s.add(all, w);
                    let lost = E::from_f64(self.w.eps.to_f64().ln());
                    let lost = s.mul(s.mul(w, words), s.splat(lost));
                    loss = s.add(loss, s.select_lt(zero, w, lost, zero));
                }
                total = s.fma(all, words, total);
            }
            for part in (0..S::SUMS).filter(|part| part * (S::LANES / S::SUMS) < self.lanes) {
                acc.loss.add(s.sum(loss, part).to_f64());
                acc.weight.add(s.sum(total, part).to_f64());
            }
        }
    }

    /// Counts and weights of the prefix, lane by lane.
    ///
    /// # Safety
    /// As [`Self::weigh`].
    #[inline(always)]
    unsafe fn start_weights(&mut self) {
        let (s, ws, n) = (self.s, self.ws, self.ws.symbols);
        let all = self.w.plan.symbols();
        // SAFETY: slots of the workspace; symbols are below S.
        unsafe {
            for i in ws.counts..ws.one_hot {
                self.put(i, s.splat(E::ZERO));
            }
            for l in 0..S::LANES {
                let live = if l < self.lanes { E::ONE } else { E::ZERO };
                let (mut num, mut den) = (live, E::ONE);
                match self.w.weights {
                    Weights::Dirichlet { alpha, shared_roots } => {
                        let row = alpha * E::from_f64(all as f64);
                        let mut roots = E::ZERO;
                        for j in 0..ws.prefix {
                            let b = self.prefix[j][l] as usize;
                            match self.parents[j] {
                                Some(q) => {
                                    let a = self.prefix[q][l] as usize;
                                    let count = self.lane(ws.counts + a * n + b, l);
                                    let total = self.lane(ws.totals + a, l);
                                    (num, den) = step_lane((num, den), (alpha + *count, row + *total));
                                    *count += E::ONE;
                                    *total += E::ONE;
                                }
                                None if shared_roots => {
                                    let count = self.lane(ws.root_counts + b, l);
                                    (num, den) = step_lane((num, den), (alpha + *count, row + roots));
                                    *count += E::ONE;
                                    roots += E::ONE;
                                }
                                None => {}
                            }
                        }
                    }
                    Weights::Atoms { weight, pi, roots } => {
                        for (q, weight) in weight.iter().enumerate() {
                            let mut w = live * *weight;
                            for j in 0..ws.prefix {
                                let b = self.w.symbol(self.prefix[j][l] as usize);
                                w *= match self.parents[j] {
                                    Some(a) => {
                                        pi[(q * all + self.w.symbol(self.prefix[a][l] as usize)) * all + b]
                                    }
                                    None => roots[q * all + b],
                                };
                            }
                            *self.lane(ws.atom_weights + q, l) = w;
                        }
                    }
                    Weights::Table { .. } => {}
                }
                *self.lane(ws.ratio, l) = num;
                *self.lane(ws.ratio + 1, l) = den;
            }
        }
    }

    /// Weights at level `l`, whose symbol is set, from those above.
    ///
    /// # Safety
    /// `l` is a level from 1 on.
    #[inline(always)]
    unsafe fn enter_weights(&mut self, l: usize) {
        let (s, ws, n) = (self.s, self.ws, self.ws.symbols);
        let all = self.w.plan.symbols();
        let (j, b, p) = (ws.prefix + l - 1, self.sym[l] as usize, ws.prefix);
        let parent = self.parents[j];
        // SAFETY: slots of the workspace; symbols below n; tables of the sizes that were checked.
        unsafe {
            match self.w.weights {
                Weights::Dirichlet { alpha, shared_roots } => {
                    let (mut num, mut den) = (self.get(ws.ratio + 2 * l - 2), self.get(ws.ratio + 2 * l - 1));
                    let (one, alpha_v) = (s.splat(E::ONE), s.splat(alpha));
                    let row = s.splat(alpha * E::from_f64(all as f64));
                    let saved = ws.saved + l * 2 * n;
                    match parent {
                        Some(q) if q >= p => {
                            let a = self.sym[q - p + 1] as usize;
                            let (count, total) = (ws.counts + a * n + b, ws.totals + a);
                            let (x, y) = (self.get(count), self.get(total));
                            let of = (s.add(alpha_v, x), s.add(row, y));
                            (num, den) = step(s, (num, den), of);
                            self.put(count, s.add(x, one));
                            self.put(total, s.add(y, one));
                        }
                        Some(q) => {
                            let (mut up, mut down) = (s.splat(E::ZERO), s.splat(E::ZERO));
                            for a in 0..n {
                                let hot = self.get(ws.one_hot + q * n + a);
                                let (count, total) = (ws.counts + a * n + b, ws.totals + a);
                                let (x, y) = (self.get(count), self.get(total));
                                up = s.fma(hot, s.add(alpha_v, x), up);
                                down = s.fma(hot, s.add(row, y), down);
                                self.put(saved + 2 * a, x);
                                self.put(saved + 2 * a + 1, y);
                                self.put(count, s.add(x, hot));
                                self.put(total, s.add(y, hot));
                            }
                            (num, den) = step(s, (num, den), (up, down));
                        }
                        None if shared_roots => {
                            let earlier = self.parents[..j].iter().filter(|p| p.is_none()).count();
                            let count = ws.root_counts + b;
                            let x = self.get(count);
                            let down = s.add(row, s.splat(E::from_f64(earlier as f64)));
                            (num, den) = step(s, (num, den), (s.add(alpha_v, x), down));
                            self.put(count, s.add(x, one));
                        }
                        None => {}
                    }
                    self.put(ws.ratio + 2 * l, num);
                    self.put(ws.ratio + 2 * l + 1, den);
                }
                Weights::Atoms { weight, pi, roots } => {
                    let m = weight.len();
                    let to = self.w.symbol(b);
                    for q in 0..m {
                        let f = match parent {
                            Some(a) if a >= p => {
                                let from = self.w.symbol(self.sym[a - p + 1] as usize);
                                s.splat(pi[(q * all + from) * all + to])
                            }
                            Some(at) => {
                                let mut f = s.splat(E::ZERO);
                                for a in 0..n {
                                    let hot = self.get(ws.one_hot + at * n + a);
                                    f = s.fma(hot, s.splat(pi[(q * all + self.w.symbol(a)) * all + to]), f);
                                }
                                f
                            }
                            None => s.splat(roots[q * all + to]),
                        };
                        let w = self.get(ws.atom_weights + (l - 1) * m + q);
                        self.put(ws.atom_weights + l * m + q, s.mul(w, f));
                    }
                }
                Weights::Table { .. } => {}
            }
        }
    }

    /// Undoes what [`Self::enter_weights`] counted.
    ///
    /// # Safety
    /// Level `l` was entered last.
    #[inline(always)]
    unsafe fn leave_weights(&mut self, l: usize) {
        let (s, ws, n) = (self.s, self.ws, self.ws.symbols);
        let Weights::Dirichlet { shared_roots, .. } = self.w.weights else { return };
        let (j, b, p) = (ws.prefix + l - 1, self.sym[l] as usize, ws.prefix);
        let (one, saved) = (s.splat(E::ONE), ws.saved + l * 2 * n);
        // SAFETY: as in `enter_weights`. Counts are whole numbers, so that taking one off is exact.
        unsafe {
            match self.parents[j] {
                Some(q) if q >= p => {
                    let a = self.sym[q - p + 1] as usize;
                    let (count, total) = (ws.counts + a * n + b, ws.totals + a);
                    self.put(count, s.sub(self.get(count), one));
                    self.put(total, s.sub(self.get(total), one));
                }
                Some(_) => {
                    for a in 0..n {
                        self.put(ws.counts + a * n + b, self.get(saved + 2 * a));
                        self.put(ws.totals + a, self.get(saved + 2 * a + 1));
                    }
                }
                None if shared_roots => {
                    let count = ws.root_counts + b;
                    self.put(count, s.sub(self.get(count), one));
                }
                None => {}
            }
        }
    }

    /// Weights of a whole word: 1/S for the query, its orbit, 1/S for each uniform root, and the
    /// step to each target.
    ///
    /// # Safety
    /// Level `l` is the last, just entered; the class is the word's.
    #[inline(always)]
    unsafe fn weigh_class(&mut self, l: usize, used: usize, class: usize) {
        let (s, ws, n) = (self.s, self.ws, self.ws.symbols);
        let all = self.w.plan.symbols();
        let at = ws.class + class * ws.class_len;
        let canonical = ws.row > n;
        let mut constant = 1.0 / all as f64;
        if canonical {
            constant *= orbit(all, used);
        }
        // SAFETY: slots of the workspace; tables of the sizes that were checked.
        unsafe {
            match self.w.weights {
                Weights::Dirichlet { alpha, shared_roots } => {
                    if !shared_roots {
                        let roots = self.parents.iter().filter(|p| p.is_none()).count();
                        constant *= (all as f64).powi(-(roots as i32));
                    }
                    let row = s.splat(alpha * E::from_f64(all as f64));
                    let den = s.mul(self.get(ws.ratio + 2 * l + 1), s.add(row, self.get(ws.totals)));
                    let num = s.mul(s.splat(E::from_f64(constant)), self.get(ws.ratio + 2 * l));
                    let scale = s.div(num, den);
                    for b in 0..used {
                        let w = s.mul(scale, s.add(s.splat(alpha), self.get(ws.counts + b)));
                        self.put(at + b, w);
                    }
                    if canonical {
                        self.put(at + n, s.mul(scale, s.splat(alpha)));
                    }
                }
                Weights::Atoms { weight, pi, .. } => {
                    let m = weight.len();
                    let constant = s.splat(E::from_f64(constant));
                    // Of the symbols that are not used the first stands for all.
                    let last = if canonical && used < all { used + 1 } else { used };
                    for b in 0..last {
                        let mut w = s.splat(E::ZERO);
                        for q in 0..m {
                            let f = s.splat(pi[(q * all + self.w.query) * all + self.w.symbol(b)]);
                            w = s.fma(self.get(ws.atom_weights + l * m + q), f, w);
                        }
                        self.put(if b < used { at + b } else { at + n }, s.mul(constant, w));
                    }
                    if last == used && canonical {
                        self.put(at + n, s.splat(E::ZERO));
                    }
                }
                Weights::Table { .. } => {}
            }
        }
    }
}
