//! Depth-first sum over all words of an alphabet, several prefixes at a time in the lanes of a vector.
//!
//! Words are c_0 .. c_{n-1}, then the fixed query symbol k at position n = T − 1. A word reads the table row a = A[k, ·]
//! through a row-stochastic lower-triangular M: z_i = Σ_{j<=i} M_ij a_{c_j}, and answers with
//! f_s = Σ_i 1[c_i = s] e^{z_i} / Σ_i e^{z_i}. Its weights W_s come from the counts of its transitions.
//!
//! 1. e^{z_i} is a product of factors e^{M_ij (a_c − shift)} that are tabulated once, so that no word costs an exponential.
//!    `shift` is the middle of the range of a: factors multiply up to within e^{±range/2}.
//! 2. One step down the tree multiplies the T − j factors that are still open: S^j nodes do that at depth j, O(1) per word.
//! 3. Going up, only sums of e_i Q_s over the leaves below are kept: E_i = Σ δ_i. Σ δ_i z_i needs no accumulator of its own, it
//!    is Σ_j M_ij Σ_c a_c C[j][c][i] with what is accumulated anyway, C[j][c][i] = Σ δ_i over words with c_j = c.
//! 4. A lane is one prefix: the suffixes are walked in step, so that symbols below the prefix are scalars. Where a parent lies in
//!    the prefix its symbol differs by lane, and a one-hot vector per symbol picks the count.
//! 5. Sums over leaves are nested like the tree; the long ones, over blocks of prefixes, are compensated.
//!
//! A leaf costs S + 2 divisions and S logarithms.
//!
//! Past 400 lines because down, leaf and up share one layout of scratch and one state, and read as one loop.

use super::log::ln;
use crate::arch::{Op, Simd};
use crate::elem::Elem;
use crate::prefix_tree::{Accumulator, Walk, Weights};

/// Longest word: a count of words fits 63 bits.
pub(crate) const MAX_LEN: usize = 64;
/// Lanes of the widest vector.
const MAX_LANES: usize = 16;

/// Where things lie in scratch, in vectors of [`MAX_LANES`] elements or, for `factors`, in elements.
#[derive(Clone, Copy)]
struct Room {
    symbols: usize,
    /// Levels below the prefix.
    levels: usize,
    /// Open positions p .. T.
    width: usize,
    /// Atoms of the prior, 0 if it has none.
    atoms: usize,
    prefix: usize,
}

impl Room {
    fn new<E>(w: &Walk<'_, E>) -> Self {
        let t = w.parents.len() + 1;
        let atoms = if let Weights::Atoms { weight, .. } = w.weights { weight.len() } else { 0 };
        Room {
            symbols: w.symbols,
            levels: t - 1 - w.prefix_len,
            width: t - w.prefix_len,
            atoms,
            prefix: w.prefix_len,
        }
    }
    // Each block of vectors begins where the one before it ends.
    fn open(self) -> usize {
        0
    }
    fn own(self) -> usize {
        self.open() + (self.levels + 1) * self.width
    }
    fn mass(self) -> usize {
        self.own() + self.levels + 1
    }
    fn sums(self) -> usize {
        self.mass() + (self.levels + 1) * self.symbols
    }
    fn pulls(self) -> usize {
        self.sums() + (self.levels + 1) * self.width
    }
    fn counts(self) -> usize {
        self.pulls() + (self.levels + 1) * self.symbols
    }
    fn totals(self) -> usize {
        self.counts() + self.symbols * self.symbols
    }
    fn root_counts(self) -> usize {
        self.totals() + self.symbols
    }
    fn saved(self) -> usize {
        self.root_counts() + self.symbols
    }
    fn ratio(self) -> usize {
        self.saved() + (self.levels + 1) * 2 * self.symbols
    }
    fn atom_weights(self) -> usize {
        self.ratio() + (self.levels + 1) * 2
    }
    fn one_hot(self) -> usize {
        self.atom_weights() + (self.levels + 1) * self.atoms
    }
    fn prefix_own(self) -> usize {
        self.one_hot() + self.prefix * self.symbols
    }
    fn sum_c(self) -> usize {
        self.prefix_own() + self.prefix
    }
    fn end(self) -> usize {
        self.sum_c() + self.levels * self.symbols * self.width
    }
}

/// Scratch elements of a walk.
pub(crate) fn scratch_len<E>(w: &Walk<'_, E>) -> usize {
    let t = w.parents.len() + 1;
    t * t * w.symbols + Room::new(w).end() * MAX_LANES
}

/// Prefixes `first .. last` of a checked walk.
pub(crate) struct WalkOp<'a, E> {
    pub(crate) walk: &'a Walk<'a, E>,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) acc: &'a mut Accumulator,
    pub(crate) scratch: &'a mut [E],
}

impl<E: Elem> Op<E> for WalkOp<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E>>(self, s: S) {
        let WalkOp { walk, first, last, acc, scratch } = self;
        assert!(scratch.len() >= scratch_len(walk) && acc.fits(walk));
        let t = walk.parents.len() + 1;
        let (factors, vectors) = scratch.split_at_mut(t * t * walk.symbols);
        tabulate(walk, factors);
        let mut b = Block::<E, S> {
            s,
            w: walk,
            room: Room::new(walk),
            t,
            factors: factors.as_ptr(),
            vectors: vectors.as_mut_ptr(),
            constant: constant(walk),
            sym: [0; MAX_LEN],
            prefix: [[0; MAX_LANES]; MAX_LEN],
            index: [[0; MAX_LANES]; MAX_LEN],
            lanes: 0,
        };
        let mut at = first;
        while at < last {
            let lanes = if last - at < S::LANES as u64 { (last - at) as usize } else { S::LANES };
            // SAFETY: scratch has the length asserted above; the walk is checked (`Kernels::prefix_tree`).
            unsafe {
                b.start(at, lanes);
                match walk.symbols {
                    2 => b.walk::<2>(acc),
                    3 => b.walk::<3>(acc),
                    4 => b.walk::<4>(acc),
                    _ => b.walk::<0>(acc),
                }
                b.finish(acc);
            }
            at += lanes as u64;
        }
    }
}

/// `factors[j][c][i]` = e^{M_ij (a_c − shift)}.
fn tabulate<E: Elem>(w: &Walk<'_, E>, factors: &mut [E]) {
    let t = w.parents.len() + 1;
    let shift = w.shift();
    for (jc, row) in factors.chunks_exact_mut(t).enumerate() {
        let (j, c) = (jc / w.symbols, jc % w.symbols);
        for (i, g) in row.iter_mut().enumerate() {
            let m = if i < j { 0.0 } else { w.mix.at(i, j).to_f64() };
            *g = E::from_f64((m * (w.table[c].to_f64() - shift)).exp());
        }
    }
}

/// The part of every weight that no symbol changes: 1/S for the query, and 1/S for each uniform root.
fn constant<E: Elem>(w: &Walk<'_, E>) -> E {
    let s = w.symbols as f64;
    let roots = w.parents.iter().filter(|p| p.is_none()).count();
    E::from_f64(match w.weights {
        Weights::Dirichlet { shared_roots: false, .. } => s.powi(-1 - roots as i32),
        Weights::Dirichlet { .. } | Weights::Atoms { .. } => 1.0 / s,
        Weights::Table { .. } => 1.0,
    })
}

/// One block of prefixes, one per lane.
struct Block<'a, E, S> {
    s: S,
    w: &'a Walk<'a, E>,
    room: Room,
    t: usize,
    factors: *const E,
    vectors: *mut E,
    constant: E,
    /// Symbols below the prefix, by level (from 1).
    sym: [u8; MAX_LEN],
    /// Symbols of the prefix by position and lane.
    prefix: [[u8; MAX_LANES]; MAX_LEN],
    /// Table index by level and lane.
    index: [[u32; MAX_LANES]; MAX_LEN],
    lanes: usize,
}

impl<E: Elem, S: Simd<E>> Block<'_, E, S> {
    /// # Safety
    /// `slot` is inside the room.
    #[inline(always)]
    unsafe fn get(&self, slot: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.s.load(self.vectors.add(slot * MAX_LANES)) }
    }
    /// # Safety
    /// As [`Self::get`].
    #[inline(always)]
    unsafe fn put(&self, slot: usize, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { self.s.store(self.vectors.add(slot * MAX_LANES), v) }
    }
    /// # Safety
    /// As [`Self::get`], lane below LANES.
    #[inline(always)]
    unsafe fn lane(&self, slot: usize, lane: usize) -> *mut E {
        // SAFETY: the caller's promise.
        unsafe { self.vectors.add(slot * MAX_LANES + lane) }
    }
    /// # Safety
    /// j, i < T, c < S.
    #[inline(always)]
    unsafe fn factor(&self, j: usize, c: usize, i: usize) -> E {
        // SAFETY: the caller's promise.
        unsafe { *self.factors.add((j * self.room.symbols + c) * self.t + i) }
    }

    /// Brings prefixes `first .. first + lanes` into the lanes; lanes without one walk prefix 0 with weight 0.
    ///
    /// # Safety
    /// The walk is checked, `vectors` has its room.
    #[inline(always)]
    unsafe fn start(&mut self, first: u64, lanes: usize) {
        let (s, room, n) = (self.s, self.room, self.room.symbols);
        let p = room.prefix;
        self.lanes = lanes;
        for l in 0..S::LANES {
            let mut rest = if l < lanes { first + l as u64 } else { 0 };
            for i in (0..p).rev() {
                self.prefix[i][l] = (rest % n as u64) as u8;
                rest /= n as u64;
            }
        }
        let (zero, one) = (s.splat(E::ZERO), s.splat(E::ONE));
        // SAFETY: slots of the room throughout.
        unsafe {
            for i in 0..p * n {
                self.put(room.one_hot() + i, zero);
            }
            for i in 0..p {
                for l in 0..S::LANES {
                    *self.lane(room.one_hot() + i * n + self.prefix[i][l] as usize, l) = E::ONE;
                }
            }
            // Open factors, mass of each symbol.
            for c in 0..n {
                self.put(room.mass() + c, zero);
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
                    self.put(room.prefix_own() + i, x);
                    for c in 0..n {
                        let f = s.fma(x, self.get(room.one_hot() + i * n + c), self.get(room.mass() + c));
                        self.put(room.mass() + c, f);
                    }
                } else {
                    self.put(room.open() + i - p, x);
                }
            }
            for i in 0..room.levels * n * room.width {
                self.put(room.sum_c() + i, zero);
            }
            self.start_weights();
        }
    }

    /// Counts and weights of the prefix, lane by lane.
    ///
    /// # Safety
    /// As [`Self::start`].
    #[inline(always)]
    unsafe fn start_weights(&mut self) {
        let (s, room, n) = (self.s, self.room, self.room.symbols);
        // SAFETY: slots of the room; symbols are below S.
        unsafe {
            for i in room.counts()..room.saved() {
                self.put(i, s.splat(E::ZERO));
            }
            for l in 0..S::LANES {
                let live = if l < self.lanes { E::ONE } else { E::ZERO };
                let (mut num, mut den) = (live, E::ONE);
                self.index[0][l] = 0;
                match self.w.weights {
                    Weights::Dirichlet { alpha, shared_roots } => {
                        let row = alpha * E::from_f64(n as f64);
                        let mut roots = E::ZERO;
                        for j in 0..room.prefix {
                            let b = self.prefix[j][l] as usize;
                            match self.w.parents[j] {
                                Some(q) => {
                                    let a = self.prefix[q][l] as usize;
                                    let count = self.lane(room.counts() + a * n + b, l);
                                    let total = self.lane(room.totals() + a, l);
                                    num *= alpha + *count;
                                    den *= row + *total;
                                    *count += E::ONE;
                                    *total += E::ONE;
                                }
                                None if shared_roots => {
                                    let count = self.lane(room.root_counts() + b, l);
                                    num *= alpha + *count;
                                    den *= row + roots;
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
                            for j in 0..room.prefix {
                                let b = self.prefix[j][l] as usize;
                                w *= match self.w.parents[j] {
                                    Some(a) => pi[(q * n + self.prefix[a][l] as usize) * n + b],
                                    None => roots[q * n + b],
                                };
                            }
                            *self.lane(room.atom_weights() + q, l) = w;
                        }
                    }
                    Weights::Table { stride, root_stride, .. } => {
                        for j in 0..room.prefix {
                            let b = self.prefix[j][l] as usize;
                            self.index[0][l] += match self.w.parents[j] {
                                Some(a) => stride[self.prefix[a][l] as usize * n + b],
                                None => root_stride[b],
                            };
                        }
                    }
                }
                *self.lane(room.ratio(), l) = num;
                *self.lane(room.ratio() + 1, l) = den;
            }
        }
    }

    /// All suffixes, depth first.
    ///
    /// # Safety
    /// After [`Self::start`].
    #[inline(always)]
    unsafe fn walk<const SYM: usize>(&mut self, acc: &mut Accumulator) {
        let (s, room, t) = (self.s, self.room, self.t);
        let n = if SYM == 0 { room.symbols } else { SYM };
        let (p, h, width) = (room.prefix, room.levels, room.width);
        let zero = s.splat(E::ZERO);
        let mut next = [0u8; MAX_LEN];
        let (mut loss, mut total) = (zero, zero);
        let mut l = 0;
        // SAFETY: levels up to h, positions p .. t, symbols below n: slots of the room.
        unsafe {
            self.clear::<SYM>(0);
            loop {
                let c = next[l] as usize;
                if c == n {
                    if l == 0 {
                        break;
                    }
                    // Up: all words below this node are done.
                    let (j, c) = (p + l - 1, self.sym[l] as usize);
                    let e = s.mul(self.get(room.own() + l), self.get(room.pulls() + l * n + c));
                    let to = room.sum_c() + ((l - 1) * n + c) * width;
                    self.give(l - 1, to, j - p, e);
                    for i in j + 1 - p..width {
                        self.give(l - 1, to, i, self.get(room.sums() + l * width + i));
                    }
                    for b in 0..n {
                        let q = s.add(
                            self.get(room.pulls() + (l - 1) * n + b),
                            self.get(room.pulls() + l * n + b),
                        );
                        self.put(room.pulls() + (l - 1) * n + b, q);
                    }
                    self.leave_weights::<SYM>(l);
                    l -= 1;
                    continue;
                }
                next[l] += 1;
                // Down.
                let (up, j) = (l, p + l);
                l += 1;
                self.sym[l] = c as u8;
                let own = s.mul(self.get(room.open() + up * width + j - p), s.splat(self.factor(j, c, j)));
                self.put(room.own() + l, own);
                for b in 0..n {
                    let f = self.get(room.mass() + up * n + b);
                    self.put(room.mass() + l * n + b, if b == c { s.add(f, own) } else { f });
                }
                for i in j + 1..t {
                    let g = s.splat(self.factor(j, c, i));
                    let x = s.mul(self.get(room.open() + up * width + i - p), g);
                    self.put(room.open() + l * width + i - p, x);
                }
                self.enter_weights::<SYM>(l);
                if l < h {
                    next[l] = 0;
                    self.clear::<SYM>(l);
                    continue;
                }
                let (e_query, lost, weight) = self.leaf::<SYM>(l);
                loss = s.add(loss, lost);
                total = s.add(total, weight);
                // Up again: of what is open only the query is left.
                let e = s.mul(own, self.get(room.pulls() + l * n + c));
                let to = room.sum_c() + (up * n + c) * width;
                self.give(up, to, j - p, e);
                self.give(up, to, width - 1, e_query);
                for b in 0..n {
                    let q = s.add(self.get(room.pulls() + up * n + b), self.get(room.pulls() + l * n + b));
                    self.put(room.pulls() + up * n + b, q);
                }
                self.leave_weights::<SYM>(l);
                l = up;
            }
        }
        acc.loss.add(s.reduce_add(loss).to_f64());
        acc.weight.add(s.reduce_add(total).to_f64());
    }

    /// # Safety
    /// `l` is a level.
    #[inline(always)]
    unsafe fn clear<const SYM: usize>(&mut self, l: usize) {
        let (s, room) = (self.s, self.room);
        let n = if SYM == 0 { room.symbols } else { SYM };
        // SAFETY: slots of level l.
        unsafe {
            for i in 0..room.width {
                self.put(room.sums() + l * room.width + i, s.splat(E::ZERO));
            }
            for b in 0..n {
                self.put(room.pulls() + l * n + b, s.splat(E::ZERO));
            }
        }
    }

    /// Adds δ at open position `i` to C[j][c] and to what level `up` knows of position `i`.
    ///
    /// # Safety
    /// Level, row of C and position exist.
    #[inline(always)]
    unsafe fn give(&mut self, up: usize, row: usize, i: usize, e: S::V) {
        let (s, sum) = (self.s, self.room.sums() + up * self.room.width + i);
        // SAFETY: the caller's promise.
        unsafe {
            self.put(row + i, s.add(self.get(row + i), e));
            self.put(sum, s.add(self.get(sum), e));
        }
    }

    /// Weights at level `l`, whose symbol is set, from those above.
    ///
    /// # Safety
    /// `l` is a level from 1 on.
    #[inline(always)]
    unsafe fn enter_weights<const SYM: usize>(&mut self, l: usize) {
        let (s, room) = (self.s, self.room);
        let n = if SYM == 0 { room.symbols } else { SYM };
        let (j, b, p) = (room.prefix + l - 1, self.sym[l] as usize, room.prefix);
        let parent = self.w.parents[j];
        // SAFETY: slots of the room; symbols below n; tables of the sizes that were checked.
        unsafe {
            match self.w.weights {
                Weights::Dirichlet { alpha, shared_roots } => {
                    let (mut num, mut den) =
                        (self.get(room.ratio() + 2 * l - 2), self.get(room.ratio() + 2 * l - 1));
                    let (one, alpha_v) = (s.splat(E::ONE), s.splat(alpha));
                    let row = s.splat(alpha * E::from_f64(n as f64));
                    let saved = room.saved() + l * 2 * n;
                    match parent {
                        Some(q) if q >= p => {
                            let a = self.sym[q - p + 1] as usize;
                            let (count, total) = (room.counts() + a * n + b, room.totals() + a);
                            let (x, y) = (self.get(count), self.get(total));
                            num = s.mul(num, s.add(alpha_v, x));
                            den = s.mul(den, s.add(row, y));
                            self.put(count, s.add(x, one));
                            self.put(total, s.add(y, one));
                        }
                        Some(q) => {
                            let (mut up, mut down) = (s.splat(E::ZERO), s.splat(E::ZERO));
                            for a in 0..n {
                                let hot = self.get(room.one_hot() + q * n + a);
                                let (count, total) = (room.counts() + a * n + b, room.totals() + a);
                                let (x, y) = (self.get(count), self.get(total));
                                up = s.fma(hot, s.add(alpha_v, x), up);
                                down = s.fma(hot, s.add(row, y), down);
                                self.put(saved + 2 * a, x);
                                self.put(saved + 2 * a + 1, y);
                                self.put(count, s.add(x, hot));
                                self.put(total, s.add(y, hot));
                            }
                            num = s.mul(num, up);
                            den = s.mul(den, down);
                        }
                        None if shared_roots => {
                            let earlier = self.w.parents[..j].iter().filter(|p| p.is_none()).count();
                            let count = room.root_counts() + b;
                            let x = self.get(count);
                            num = s.mul(num, s.add(alpha_v, x));
                            den = s.mul(den, s.add(row, s.splat(E::from_f64(earlier as f64))));
                            self.put(count, s.add(x, one));
                        }
                        None => {}
                    }
                    self.put(room.ratio() + 2 * l, num);
                    self.put(room.ratio() + 2 * l + 1, den);
                }
                Weights::Atoms { weight, pi, roots } => {
                    let m = weight.len();
                    for q in 0..m {
                        let f = match parent {
                            Some(a) if a >= p => s.splat(pi[(q * n + self.sym[a - p + 1] as usize) * n + b]),
                            Some(at) => {
                                let mut f = s.splat(E::ZERO);
                                for a in 0..n {
                                    let hot = self.get(room.one_hot() + at * n + a);
                                    f = s.fma(hot, s.splat(pi[(q * n + a) * n + b]), f);
                                }
                                f
                            }
                            None => s.splat(roots[q * n + b]),
                        };
                        let w = self.get(room.atom_weights() + (l - 1) * m + q);
                        self.put(room.atom_weights() + l * m + q, s.mul(w, f));
                    }
                }
                Weights::Table { stride, root_stride, .. } => {
                    for k in 0..S::LANES {
                        let step = match parent {
                            Some(a) if a >= p => stride[self.sym[a - p + 1] as usize * n + b],
                            Some(a) => stride[self.prefix[a][k] as usize * n + b],
                            None => root_stride[b],
                        };
                        self.index[l][k] = self.index[l - 1][k] + step;
                    }
                }
            }
        }
    }

    /// Undoes what [`Self::enter_weights`] counted.
    ///
    /// # Safety
    /// Level `l` was entered last.
    #[inline(always)]
    unsafe fn leave_weights<const SYM: usize>(&mut self, l: usize) {
        let (s, room) = (self.s, self.room);
        let n = if SYM == 0 { room.symbols } else { SYM };
        let Weights::Dirichlet { shared_roots, .. } = self.w.weights else { return };
        let (j, b, p) = (room.prefix + l - 1, self.sym[l] as usize, room.prefix);
        let (one, saved) = (s.splat(E::ONE), room.saved() + l * 2 * n);
        // SAFETY: as in `enter_weights`. Counts are whole numbers, so that taking one off is exact.
        unsafe {
            match self.w.parents[j] {
                Some(q) if q >= p => {
                    let a = self.sym[q - p + 1] as usize;
                    let (count, total) = (room.counts() + a * n + b, room.totals() + a);
                    self.put(count, s.sub(self.get(count), one));
                    self.put(total, s.sub(self.get(total), one));
                }
                Some(_) => {
                    for a in 0..n {
                        self.put(room.counts() + a * n + b, self.get(saved + 2 * a));
                        self.put(room.totals() + a, self.get(saved + 2 * a + 1));
                    }
                }
                None if shared_roots => {
                    let count = room.root_counts() + b;
                    self.put(count, s.sub(self.get(count), one));
                }
                None => {}
            }
        }
    }

    /// One word per lane: leaves Q_s at `pulls` of level `l`; returns δ of the query, Σ_s W_s ln(f_s + ε) and Σ_s W_s.
    ///
    /// With D_s = F_s + εZ and g_s = W_s / D_s: W_s/(f_s + ε) = Z g_s, so Q_s = g_s − Σ F g / Z.
    ///
    /// # Safety
    /// `l` is the last level, just entered.
    #[inline(always)]
    unsafe fn leaf<const SYM: usize>(&mut self, l: usize) -> (S::V, S::V, S::V) {
        let (s, room, t) = (self.s, self.room, self.t);
        let n = if SYM == 0 { room.symbols } else { SYM };
        let k = self.w.query;
        let zero = s.splat(E::ZERO);
        // SAFETY: slots of the room; table rows were checked.
        unsafe {
            let query = s.mul(
                self.get(room.open() + l * room.width + room.width - 1),
                s.splat(self.factor(t - 1, k, t - 1)),
            );
            let at = room.mass() + l * n;
            self.put(at + k, s.add(self.get(at + k), query));
            let mut z = self.get(at);
            for b in 1..n {
                z = s.add(z, self.get(at + b));
            }
            let rz = s.div(s.splat(E::ONE), z);
            let ez = s.mul(s.splat(self.w.eps), z);
            let scale = match self.w.weights {
                Weights::Dirichlet { alpha, .. } => {
                    let row = s.splat(alpha * E::from_f64(n as f64));
                    let den =
                        s.mul(self.get(room.ratio() + 2 * l + 1), s.add(row, self.get(room.totals() + k)));
                    s.div(s.mul(s.splat(self.constant), self.get(room.ratio() + 2 * l)), den)
                }
                _ => s.splat(self.constant),
            };
            let (mut mean, mut loss, mut total) = (zero, zero, zero);
            for b in 0..n {
                let w = match self.w.weights {
                    Weights::Dirichlet { alpha, .. } => {
                        s.mul(scale, s.add(s.splat(alpha), self.get(room.counts() + k * n + b)))
                    }
                    Weights::Atoms { weight, pi, .. } => {
                        let m = weight.len();
                        let mut w = zero;
                        for q in 0..m {
                            let f = s.splat(pi[(q * n + k) * n + b]);
                            w = s.fma(self.get(room.atom_weights() + l * m + q), f, w);
                        }
                        s.mul(scale, w)
                    }
                    Weights::Table { values, .. } => {
                        let mut w = [E::ZERO; MAX_LANES];
                        for (i, w) in w.iter_mut().enumerate().take(self.lanes) {
                            *w = values[self.index[l][i] as usize * n + b];
                        }
                        s.load(w.as_ptr())
                    }
                };
                let f = self.get(at + b);
                let d = s.add(f, ez);
                // ε = 0 and a symbol that does not occur: nothing pulls at it, and the loss is infinite if it has weight.
                let g = s.select_lt(zero, d, s.div(w, d), zero);
                mean = s.fma(f, g, mean);
                let lost = s.mul(w, ln::<E, S>(s, s.mul(d, rz)));
                loss = s.add(loss, s.select_lt(zero, w, lost, zero));
                total = s.add(total, w);
                self.put(room.pulls() + l * n + b, g);
            }
            let mean = s.mul(mean, rz);
            for b in 0..n {
                let g = self.get(room.pulls() + l * n + b);
                self.put(room.pulls() + l * n + b, s.sub(g, mean));
            }
            (s.mul(query, self.get(room.pulls() + l * n + k)), loss, total)
        }
    }

    /// Adds the block to the accumulator: suffix positions as they are, prefix positions by the symbols of each lane.
    ///
    /// # Safety
    /// After [`Self::walk`].
    #[inline(always)]
    unsafe fn finish(&mut self, acc: &mut Accumulator) {
        let (s, room, n, t) = (self.s, self.room, self.room.symbols, self.t);
        let p = room.prefix;
        // SAFETY: slots of the room.
        unsafe {
            for lc in 0..room.levels * n {
                let (j, c) = (p + lc / n, lc % n);
                for i in j..t {
                    let v = self.get(room.sum_c() + lc * room.width + i - p);
                    acc.add(j, c, i, s.reduce_add(v).to_f64());
                }
            }
            let mut query = 0.0;
            for i in 0..t {
                let e = if i < p {
                    let mut q = s.splat(E::ZERO);
                    for c in 0..n {
                        q = s.fma(self.get(room.one_hot() + i * n + c), self.get(room.pulls() + c), q);
                    }
                    s.mul(self.get(room.prefix_own() + i), q)
                } else {
                    self.get(room.sums() + i - p)
                };
                let mut lane = [E::ZERO; MAX_LANES];
                s.store(lane.as_mut_ptr(), e);
                let all = s.reduce_add(e).to_f64();
                if i + 1 == t {
                    query = all;
                }
                for j in 0..if i < p { i + 1 } else { p } {
                    let c = self.prefix[j][0];
                    if self.lanes == S::LANES && self.prefix[j][..S::LANES].iter().all(|x| *x == c) {
                        acc.add(j, c as usize, i, all);
                    } else {
                        for l in 0..self.lanes {
                            acc.add(j, self.prefix[j][l] as usize, i, lane[l].to_f64());
                        }
                    }
                }
            }
            acc.add(t - 1, self.w.query, t - 1, query);
        }
    }
}
