//! Shared code of the prefix tree and the orbits: plans of words, weights of their classes, shards
//! and their sums.
//!
//! A shard is a fixed list of prefixes of one query with its own workspace. The sums of the shards
//! are added in order, so the result does not depend on the number of threads.

use super::{Cost, FinitePrior, Prior, Progress, RootLaw};
use crate::num::{Sum, check_eps, check_total};
use crate::task::Forest;
use crate::{Error, Result};
use popgrad_kernels::prefix_tree::{Accumulator, Plan, Shape, Walk, Weights};
use popgrad_kernels::{Elem, KernelError, Kernels, Mat, Scratch};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shards of all queries together, about: many enough for any machine to share them evenly.
const SHARDS: usize = 64;
/// Words between two reports of progress.
const REPORT: u64 = 1 << 22;
/// Prefixes that the kernel takes at once, at most: a call has whole lots of them.
const LOT: usize = 16;
/// Most bytes of looked-up weights; beyond, they are computed as they are met.
const TABLE_BYTES: usize = 48 << 20;

/// Weights, converted once.
enum Source<E> {
    Dirichlet {
        alpha: E,
        shared_roots: bool,
    },
    Atoms {
        weight: Vec<E>,
        pi: Vec<E>,
        roots: Vec<E>,
    },
    /// By query, then by plan.
    Tables(Vec<Vec<Vec<E>>>),
}

impl<E: Elem> Source<E> {
    fn of(&self, query: usize, plan: usize) -> Weights<'_, E> {
        match self {
            Source::Dirichlet { alpha, shared_roots } => {
                Weights::Dirichlet { alpha: *alpha, shared_roots: *shared_roots }
            }
            Source::Atoms { weight, pi, roots } => Weights::Atoms { weight, pi, roots },
            Source::Tables(tables) => Weights::Table { values: &tables[query][plan] },
        }
    }
}

struct Shard {
    query: usize,
    /// Plan and prefixes.
    jobs: Vec<(usize, Range<usize>)>,
    acc: Accumulator,
    outcome: std::result::Result<(), KernelError>,
}

/// Sums over all words of some queries.
pub(super) struct Shards<E> {
    kernels: Kernels<E>,
    pub(super) symbols: usize,
    pub(super) len: usize,
    pub(super) eps: f64,
    plans: Vec<Plan>,
    source: Source<E>,
    shards: Vec<Shard>,
    /// Working storage of as many shards as run at a time: what one has used is warm for the next.
    scratch: Mutex<Vec<Scratch<E>>>,
    /// Elements of each.
    scratch_len: usize,
    totals: Vec<Accumulator>,
    /// M and A2 as the kernels see them.
    mix: Vec<E>,
    table: Vec<E>,
}

/// Do weights depend on the symbols of roots?
fn root_counts(prior: &Prior) -> bool {
    !matches!(prior, Prior::Dirichlet { roots: RootLaw::Uniform, .. })
}

impl<E: Elem> Shards<E> {
    /// All words (`canonical`: one of each orbit, of query 0 alone) of a forest.
    pub(super) fn new(forest: &Forest, prior: &Prior, eps: f64, canonical: bool) -> Result<Self> {
        prior.check()?;
        check_eps(eps)?;
        let (symbols, len) = (prior.symbols(), forest.seq_len());
        if symbols > MAX_SYMBOLS {
            return Err(Error::invalid("S", symbols.to_string(), format!("at most {MAX_SYMBOLS} here")));
        }
        let limit = Plan::class_limit::<E>(eps);
        let mut shape = Shape {
            symbols,
            parents: forest.parents(),
            root_counts: root_counts(prior),
            canonical: canonical.then_some(1),
        };
        let prefix_len = shape.natural_prefix_len();
        // Every class of prefixes keeps the counts of its transitions.
        let keys = (symbols as f64).powi(prefix_len as i32 + 2);
        if !canonical && keys > MOST_KEY_BYTES {
            let found = format!("{symbols} symbols, {keys:.1e} bytes of transition counts");
            return Err(Error::invalid("S, T", found, format!("at most {MOST_KEY_BYTES:.0e} bytes")));
        }
        let mut plans = Vec::new();
        if canonical {
            for m in 1..=symbols.min(prefix_len + 1) {
                shape.canonical = Some(m);
                plans.push(Plan::new(&shape, prefix_len, limit)?);
            }
            plans.retain(|plan| plan.prefixes() > 0);
        } else {
            plans.push(Plan::new(&shape, prefix_len, limit)?);
        }
        let queries = if canonical { 1 } else { symbols };
        let source = weigh(prior, &plans, queries);
        let mut shards = Shards {
            kernels: Kernels::from_env()?,
            symbols,
            len,
            eps,
            source,
            shards: Vec::new(),
            scratch: Mutex::default(),
            scratch_len: 0,
            totals: vec![Accumulator::new(plans[0].tracked(), len); queries],
            plans,
            mix: vec![E::ZERO; len * len],
            table: vec![E::ZERO; symbols * symbols],
        };
        for query in 0..queries {
            shards.cut(query, SHARDS.div_ceil(queries).max(8))?;
        }
        let at_a_time = rayon::current_num_threads().min(shards.shards.len());
        let scratch = (0..at_a_time).map(|_| Scratch::new(shards.scratch_len)).collect();
        shards.scratch = Mutex::new(scratch);
        Ok(shards)
    }

    /// Cuts the words of a query into about `parts` shards of as many words.
    fn cut(&mut self, query: usize, parts: usize) -> Result<()> {
        let share = self.words().div_ceil(parts as u64).max(1);
        let (mut all, mut jobs) = (Vec::new(), Vec::new());
        let mut room = share;
        for (p, plan) in self.plans.iter().enumerate() {
            let mut at = 0;
            while at < plan.prefixes() {
                let most = (room.min(REPORT) / plan.suffixes()).max(1) as usize;
                let end = (at + most.next_multiple_of(LOT)).min(plan.prefixes());
                jobs.push((p, at..end));
                room = room.saturating_sub((end - at) as u64 * plan.suffixes());
                at = end;
                if room == 0 {
                    all.push(std::mem::take(&mut jobs));
                    room = share;
                }
            }
        }
        if !jobs.is_empty() {
            all.push(jobs);
        }
        all.into_iter().try_for_each(|jobs| self.push(query, jobs))
    }

    fn push(&mut self, query: usize, jobs: Vec<(usize, Range<usize>)>) -> Result<()> {
        for (plan, _) in &jobs {
            let walk = self.walk(query, *plan)?;
            self.scratch_len = self.kernels.prefix_tree_scratch(&walk)?.max(self.scratch_len);
        }
        let acc = Accumulator::new(self.plans[0].tracked(), self.len);
        self.shards.push(Shard { query, jobs, acc, outcome: Ok(()) });
        Ok(())
    }

    fn walk(&self, query: usize, plan: usize) -> Result<Walk<'_, E>> {
        let (s, t) = (self.symbols, self.len);
        Ok(Walk {
            plan: &self.plans[plan],
            query,
            table: &self.table[query * s..(query + 1) * s],
            mix: Mat::new(&self.mix, t, t)?,
            eps: E::from_f64(self.eps),
            weights: self.source.of(query, plan),
        })
    }

    /// Words of one query.
    pub(super) fn words(&self) -> u64 {
        self.plans.iter().map(Plan::words).sum()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let source = match &self.source {
            Source::Dirichlet { .. } => 0,
            Source::Atoms { weight, pi, roots } => weight.len() + pi.len() + roots.len(),
            Source::Tables(tables) => tables.iter().flatten().map(Vec::len).sum(),
        };
        let scratch = self.scratch_len * rayon::current_num_threads().min(self.shards.len());
        let acc = self.len * self.len * self.plans[0].tracked() * 2 * size_of::<f64>();
        self.plans.iter().map(Plan::bytes).sum::<usize>()
            + (source + scratch) * size_of::<E>()
            + (self.shards.len() + self.totals.len()) * acc
    }

    /// Sums over all words of the queries below `queries`, given M (T, T) and A2 (S, S). Allocates
    /// nothing in later calls inside the same pool.
    ///
    /// # Errors
    /// A row of A2 of too large a range; M, which is finite, has none.
    pub(super) fn sum(
        &mut self,
        mix: &[f64],
        a2: &[f64],
        queries: usize,
        progress: Option<&(dyn Fn(Progress) + Sync)>,
    ) -> Result<()> {
        let most = Walk::<E>::MOST_RANGE;
        for (k, row) in a2.chunks_exact(self.symbols).take(queries).enumerate() {
            let (lo, hi) =
                row.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
            if !(lo..=lo + most).contains(&hi) {
                let found = format!("row {k} has a range of {}", hi - lo);
                let allowed =
                    format!("a range of at most {most} in {}; enumeration (brute) takes any", E::NAME);
                return Err(Error::invalid("A2", found, allowed));
            }
        }
        self.mix.iter_mut().zip(mix).for_each(|(to, x)| *to = E::from_f64(*x));
        self.table.iter_mut().zip(a2).for_each(|(to, x)| *to = E::from_f64(*x));
        let total = self.words() * queries as u64;
        let done = AtomicU64::new(0);
        let mut shards = std::mem::take(&mut self.shards);
        shards.par_iter_mut().with_max_len(1).filter(|shard| shard.query < queries).for_each(|shard| {
            shard.acc.clear();
            shard.outcome = Ok(());
            // Another pool may have more threads than the one that this was made in.
            let mut scratch = self.lent().unwrap_or_else(|| Scratch::new(self.scratch_len));
            for (plan, prefixes) in &shard.jobs {
                let walk = match self.walk(shard.query, *plan) {
                    Ok(walk) => walk,
                    // M is T x T.
                    Err(_) => continue,
                };
                let outcome = self.kernels.prefix_tree(&walk, prefixes.clone(), &mut shard.acc, &mut scratch);
                if outcome.is_err() {
                    shard.outcome = outcome;
                    break;
                }
                if let Some(progress) = progress {
                    let words = prefixes.len() as u64 * walk.plan.suffixes();
                    progress(Progress { done: done.fetch_add(words, Ordering::Relaxed) + words, total });
                }
            }
            self.give_back(scratch);
        });
        self.shards = shards;
        self.totals.iter_mut().for_each(Accumulator::clear);
        for shard in self.shards.iter().filter(|shard| shard.query < queries) {
            shard.outcome.clone()?;
            self.totals[shard.query].merge(&shard.acc);
        }
        Ok(())
    }

    fn lent(&self) -> Option<Scratch<E>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, scratch: Scratch<E>) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    /// The result of [`Self::sum`] for a query.
    pub(super) fn total(&self, query: usize) -> &Accumulator {
        &self.totals[query]
    }

    /// Adds `scale` times query k's share of −∂L/∂A1: M_ij (C_ij − H_i) with C_ij = Σ_c a_c
    /// C\[j\]\[c\]\[i\], H_i = Σ_j M_ij C_ij.
    pub(super) fn add_a1(&self, query: usize, mix: &[f64], a: &[f64], scale: f64, out: &mut [f64]) {
        let (t, acc) = (self.len, &self.totals[query]);
        // Any constant taken off a leaves the result; the middle of its range keeps C small.
        let (lo, hi) = a.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
        let shift = 0.5 * (lo + hi);
        for i in 0..t {
            let row = &mut out[i * t..i * t + i + 1];
            let c = |j: usize| -> f64 {
                (0..acc.symbols()).map(|c| (a[c] - shift) * acc.sum(j, c, i)).collect::<Sum>().value()
            };
            let h = (0..=i).map(|j| mix[i * t + j] * c(j)).collect::<Sum>().value();
            // What rounding leaves of the row's sum goes back the way a shift of H would.
            let rest = (0..=i).map(|j| mix[i * t + j] * (c(j) - h)).collect::<Sum>().value();
            for (j, x) in row.iter_mut().enumerate() {
                *x += scale * (mix[i * t + j] * (c(j) - h) - mix[i * t + j] * rest);
            }
        }
    }

    /// Query k's −∂L/∂A2\[k, c\] = Σ_i Σ_{j<=i} M_ij C\[j\]\[c\]\[i\].
    pub(super) fn a2(&self, query: usize, mix: &[f64], c: usize) -> f64 {
        let (t, acc) = (self.len, &self.totals[query]);
        let mut sum = Sum::new();
        for i in 0..t {
            for j in 0..=i {
                sum.add(mix[i * t + j] * acc.sum(j, c, i));
            }
        }
        sum.value()
    }
}

/// M = row softmax of A1 over j <= i, zero above the diagonal; A1 above the diagonal is not read.
pub(super) fn mix(a1: &[f64], t: usize, out: &mut [f64]) -> Result<()> {
    if a1.len() != t * t {
        return Err(Error::invalid("A1", format!("{} entries", a1.len()), format!("{}", t * t)));
    }
    for i in 0..t {
        let (row, m) = (&a1[i * t..i * t + i + 1], &mut out[i * t..i * t + i + 1]);
        if !row.iter().all(|x| x.is_finite()) {
            return Err(Error::invalid("A1", format!("row {i} has an entry that is not finite"), "finite"));
        }
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        m.iter_mut().zip(row).for_each(|(m, x)| *m = (x - max).exp());
        let sum = m.iter().copied().collect::<Sum>().value();
        m.iter_mut().for_each(|m| *m /= sum);
    }
    Ok(())
}

/// b and c of A2 = bI + c11ᵀ, if it is that, entry by entry.
pub(super) fn identity_and_constant(a2: &[f64], s: usize) -> Option<(f64, f64)> {
    let (d, c) = (a2[0], a2[1]);
    let fits = |(at, x): (usize, &f64)| *x == if at / s == at % s { d } else { c };
    a2.iter().enumerate().all(fits).then_some((d - c, c))
}

/// Most symbols of a word that the kernel walks.
pub const MAX_SYMBOLS: usize = 255;

/// 2 GB.
const MOST_KEY_BYTES: f64 = 2e9;

/// Refuses a sum whose weights did not add up to 1.
pub(super) fn check_weight<E: Elem>(weight: f64) -> Result<()> {
    // Weights of f32 are rounded a few times for each token, and added in f32 within a class.
    check_total(weight, if size_of::<E>() == 4 { 1e-3 } else { 1e-9 })
}

/// Refuses results that are not finite. The loss may be +∞ where ε = 0.
pub(super) fn check_finite<'a>(
    eps: f64,
    loss: f64,
    gradients: impl IntoIterator<Item = &'a f64>,
) -> Result<()> {
    let loss_is_one = loss.is_finite() || (eps == 0.0 && loss == f64::INFINITY);
    if loss_is_one && gradients.into_iter().all(|g| g.is_finite()) {
        return Ok(());
    }
    let found = format!("loss {loss}, or a gradient that is not finite");
    Err(Error::invalid("A1, A2", found, "values at which everything stays finite"))
}

/// Refuses what would take too long.
pub(super) fn affordable(cost: &Cost, force: bool) -> Result<()> {
    if force || cost.seconds <= Cost::PATIENCE {
        return Ok(());
    }
    Err(Error::TooLong { words: cost.words, seconds: cost.seconds, bytes: cost.bytes, limit: Cost::PATIENCE })
}

fn weigh<E: Elem>(prior: &Prior, plans: &[Plan], queries: usize) -> Source<E> {
    let prior = match prior {
        Prior::Dirichlet { alpha, roots, .. } => {
            return Source::Dirichlet {
                alpha: E::from_f64(*alpha),
                shared_roots: *roots == RootLaw::SharedDirichlet,
            };
        }
        Prior::Finite(prior) => prior,
    };
    let classes = |plan: &Plan| plan.prefix_classes() * plan.suffix_classes();
    let entries: usize = plans.iter().map(|plan| classes(plan) * plan.row()).sum();
    let words: u64 = plans.iter().map(Plan::words).sum();
    let pairs: usize = plans.iter().map(classes).sum();
    // A table pays off if its words recur, in a class or in the next call.
    if entries * queries * size_of::<E>() <= TABLE_BYTES && (pairs as u64) <= words {
        return Source::Tables(tables(prior, plans, queries));
    }
    let convert = |x: &[f64]| x.iter().map(|x| E::from_f64(*x)).collect();
    Source::Atoms { weight: convert(prior.weight()), pi: convert(prior.pi()), roots: convert(prior.roots()) }
}

/// Transitions (S, S) and roots (S) of a word, counted.
fn counts(plan: &Plan, word: &[u8], symbol: impl Fn(u8) -> usize, out: &mut Vec<u8>) {
    let s = plan.symbols();
    out.clear();
    out.resize(s * s + s, 0);
    for (j, c) in word.iter().enumerate() {
        match plan.parents()[j] {
            Some(q) => out[symbol(word[q]) * s + symbol(*c)] += 1,
            None => out[s * s + symbol(*c)] += 1,
        }
    }
}

/// Weights by query, plan, classes and target: one mixture per vector of counts, whatever words
/// have it.
fn tables<E: Elem>(prior: &FinitePrior, plans: &[Plan], queries: usize) -> Vec<Vec<Vec<E>>> {
    let s = prior.symbols();
    // Vectors of counts in the order they are met, and which each entry has.
    let mut ids: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let mut key = Vec::new();
    for query in 0..queries {
        let swap = |c: u8| match c as usize {
            0 => query,
            c if c == query => 0,
            c => c,
        };
        for plan in plans {
            let mut row = Vec::with_capacity(plan.prefix_classes() * plan.suffix_classes());
            let mut word = Vec::new();
            for prefix in 0..plan.prefix_classes() {
                for suffix in 0..plan.suffix_classes() {
                    word.clear();
                    word.extend_from_slice(plan.prefix_of(prefix));
                    word.extend_from_slice(plan.suffix_of(suffix));
                    counts(plan, &word, swap, &mut key);
                    let id = ids.get(&key).copied().unwrap_or_else(|| {
                        ids.insert(key.clone(), keys.len() as u32);
                        keys.push(key.clone());
                        keys.len() as u32 - 1
                    });
                    row.push(id);
                }
            }
            rows.push(row);
        }
    }
    let mixed: Vec<Vec<f64>> = keys.par_iter().map(|key| mixture(prior, key)).collect();
    let mut rows = rows.into_iter();
    (0..queries)
        .map(|query| {
            let swap = |c: usize| {
                if c == 0 {
                    query
                } else if c == query {
                    0
                } else {
                    c
                }
            };
            plans
                .iter()
                .map(|plan| {
                    let ids = rows.next().unwrap_or_default();
                    let mut values = Vec::with_capacity(ids.len() * plan.row());
                    for (at, id) in ids.iter().enumerate() {
                        let mixed = &mixed[*id as usize];
                        let used = plan.used_in(at % plan.suffix_classes());
                        let orbit = match plan.canonical() {
                            Some(_) => (1..used).map(|i| (s - i) as f64).product(),
                            None => 1.0,
                        };
                        let weight = |b: usize| orbit * mixed[query * s + b] / s as f64;
                        values.extend((0..plan.tracked()).map(|b| E::from_f64(weight(swap(b)))));
                        if plan.canonical().is_some() {
                            values.push(if used < s { E::from_f64(weight(used)) } else { E::ZERO });
                        }
                    }
                    values
                })
                .collect()
        })
        .collect()
}

/// Σ_q w_q Π π\[a, b\]^N_ab Π μ_b^R_b π\[k, s'\], for every k and s' (S, S).
fn mixture(prior: &FinitePrior, counts: &[u8]) -> Vec<f64> {
    let s = prior.symbols();
    let mut sums = vec![Sum::new(); s * s];
    for q in 0..prior.atoms() {
        let (pi, roots) = (prior.atom_pi(q), prior.atom_roots(q));
        let mut w = prior.weight()[q];
        for (x, n) in pi.iter().chain(roots).zip(counts) {
            if *n > 0 {
                w *= x.powi(i32::from(*n));
            }
        }
        sums.iter_mut().zip(pi).for_each(|(sum, p)| sum.add(w * p));
    }
    sums.iter().map(Sum::value).collect()
}
