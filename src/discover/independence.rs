//! Are two columns independent? A test of their table of counts that keeps its level with rare
//! symbols, and its power.
//!
//! | table | tests |
//! |---|---|
//! | 2 x 2 | Fisher's, exact, two-sided |
//! | larger | every cell against the rest, exact; X² of the table, pooled if it must be |
//! | larger, and pooled | X² of the table as it is, over permutations, where those are affordable |
//!
//! The smallest p counts, times the number of tests in the row. Each alone misses what another
//! sees: X² sums over all cells, so one pair of symbols is lost in a large alphabet; a cell shows
//! nothing of an association that is spread thin; pooling may join symbols that act differently.
//!
//! - **Cells.** n_ab given its margins is hypergeometric: the tail is exact. With K(t) the number
//!   of tails that could be t or less at all, p is t K(t) for the smallest tail t (Tarone 1990):
//!   rare symbols that cannot be significant cost nothing.
//! - **X².** Mean and variance over permutations are exact (Haldane 1940, Dawson 1954); p is the
//!   tail of a scaled χ² of the same two moments. Two moments do not hold the tail of a table with
//!   nearly empty cells, so symbols are pooled, the two rarest of a column first, until no expected
//!   count n_a n_b/N is below 5 (Cochran 1954), and no further. A column keeps two classes: what is
//!   left at 2 x 2 has the exact test.
//! - **Permutations.** At most `R`, drawn by Philox under the pair's number, and no more once ten
//!   reach what was found (Besag and Clifford 1991): exact, with p no smaller than 1/(R+1).

use super::chi2::Counts;
use super::tails::{Draws, Factorials, ln_gamma_tail};
use crate::num::ln;
use crate::rng::{Key, Purpose, lemire};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Fewest sequences that a cell may be expected to hold where X² is compared with χ².
const EXPECTED: u64 = 5;

/// Permutations reaching X² after which p is known well enough.
const REACHED: u64 = 10;

/// Most symbols that are shuffled for one pair: about a quarter of a second.
const SHUFFLED: f64 = 16_777_216.0;

/// A column: its symbols numbered without gaps, in their order, and how often each occurs.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) codes: Vec<u32>,
    pub(super) counts: Vec<u32>,
}

impl Column {
    /// `column` holds symbols below `symbols`.
    pub(super) fn new(column: impl Iterator<Item = u32> + Clone, symbols: usize) -> Self {
        let mut number = vec![0u32; symbols];
        column.clone().for_each(|c| number[c as usize] += 1);
        let counts: Vec<u32> = number.iter().copied().filter(|n| *n > 0).collect();
        let mut next = 0;
        for n in &mut number {
            let present = u32::from(*n > 0);
            *n = next;
            next += present;
        }
        Column { codes: column.map(|c| number[c as usize]).collect(), counts }
    }

    pub(super) fn classes(&self) -> usize {
        self.counts.len()
    }

    /// Classes renamed; `to` holds the new name of each.
    fn renamed(&self, to: &[u32]) -> Column {
        // Names are nodes of a tree over the classes: fewer than twice as many.
        Column::new(self.codes.iter().map(|c| to[*c as usize]), 2 * to.len())
    }

    /// Sequences outside the largest class.
    fn others(&self) -> u64 {
        let sum: u64 = self.counts.iter().map(|n| u64::from(*n)).sum();
        sum - u64::from(self.counts.iter().copied().max().unwrap_or(0))
    }
}

/// The classes of a column while they are pooled.
struct Pool {
    /// Sequences and node of each class, the rarest on top.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    /// The node that a node was joined to.
    into: Vec<usize>,
}

impl Pool {
    fn new(column: &Column) -> Self {
        let heap = column.counts.iter().enumerate().map(|(k, n)| Reverse((u64::from(*n), k))).collect();
        Pool { heap, into: (0..column.classes()).collect() }
    }

    fn rarest(&self) -> u64 {
        self.heap.peek().map_or(0, |Reverse((n, _))| *n)
    }

    /// Joins the two rarest classes.
    fn join(&mut self) {
        let (Some(Reverse((n, a))), Some(Reverse((m, b)))) = (self.heap.pop(), self.heap.pop()) else {
            return;
        };
        let node = self.into.len();
        self.into.push(node);
        (self.into[a], self.into[b]) = (node, node);
        self.heap.push(Reverse((n + m, node)));
    }

    /// The class of each symbol. A node is joined to a later one, so the last come first.
    fn names(mut self, symbols: usize) -> Vec<u32> {
        for k in (0..self.into.len()).rev() {
            self.into[k] = self.into[self.into[k]];
        }
        self.into[..symbols].iter().map(|k| *k as u32).collect()
    }
}

/// Both columns, pooled as little as keeps every expected count at [`EXPECTED`] with at least two
/// classes in each; `None` if nothing had to be pooled.
fn pooled(a: &Column, b: &Column) -> Option<(Column, Column)> {
    let least = EXPECTED * a.codes.len() as u64;
    let (mut x, mut y) = (Pool::new(a), Pool::new(b));
    let mut joined = false;
    while x.rarest() * y.rarest() < least {
        let side = match (x.heap.len() > 2, y.heap.len() > 2) {
            (false, false) => break,
            (true, false) => &mut x,
            (false, true) => &mut y,
            // The one whose rarest class is rarer, of equals that with more.
            _ if (x.rarest(), Reverse(x.heap.len())) <= (y.rarest(), Reverse(y.heap.len())) => &mut x,
            _ => &mut y,
        };
        side.join();
        joined = true;
    }
    joined.then(|| (a.renamed(&x.names(a.classes())), b.renamed(&y.names(b.classes()))))
}

/// What the test of a pair needs besides its columns.
pub(super) struct Test {
    n: u64,
    ln: Factorials,
}

/// The two columns of a pair.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) a: &'a Column,
    pub(super) b: &'a Column,
    /// Its number, which addresses its permutations.
    pub(super) number: u64,
    /// The p that it needs: the level over the number of candidates.
    pub(super) level: f64,
}

impl Pair<'_> {
    /// Permutations that can show half the level for the smallest of three p; none where they are
    /// too many.
    fn permutations(&self) -> Option<u64> {
        let most = (6.0 / self.level).ceil();
        (most * self.a.codes.len() as f64 <= SHUFFLED).then_some(most as u64)
    }
}

impl Test {
    /// For columns of `n` sequences.
    pub(super) fn new(n: usize) -> Self {
        Test { n: n as u64, ln: Factorials::new(n as u64) }
    }

    fn draws(&self, a: u32, b: u32) -> Draws<'_> {
        Draws::new(&self.ln, self.n, u64::from(a), u64::from(b))
    }

    /// ln p that the columns are independent, `counts` holding their table. Permutations are drawn
    /// where `thorough` and the other tests do not reach the pair's level. 0 (p = 1) where nothing
    /// varies.
    pub(super) fn ln_p(&self, pair: Pair<'_>, counts: &mut Counts, thorough: bool) -> f64 {
        let Pair { a, b, .. } = pair;
        match (a.classes(), b.classes()) {
            (0 | 1, _) | (_, 0 | 1) => 0.0,
            (2, 2) => self.fisher(counts),
            _ => {
                let cells = self.cells(counts);
                let x2 = self.n as f64 * (counts.ratio() - 1.0);
                let Some((x, y)) = pooled(a, b) else {
                    let table = self.table(counts, x2);
                    return (cells.min(table) + std::f64::consts::LN_2).min(0.0);
                };
                counts.fill(&x, &y);
                let table = match (x.classes(), y.classes()) {
                    (2, 2) => self.fisher(counts),
                    _ => self.table(counts, self.n as f64 * (counts.ratio() - 1.0)),
                };
                let permutations = pair.permutations().filter(|_| thorough);
                let tests = if permutations.is_some() { 3.0 } else { 2.0 };
                let found = (cells.min(table) + ln(tests)).min(0.0);
                match permutations {
                    Some(most) if found > ln(pair.level) => {
                        let shuffled = permuted(pair, x2 / self.n as f64 + 1.0, most);
                        found.min(shuffled + ln(tests))
                    }
                    _ => found,
                }
            }
        }
    }

    /// True if columns with these margins could be significant at all.
    pub(super) fn possible(&self, pair: Pair<'_>, counts: &mut Counts) -> bool {
        let Pair { a, b, level, .. } = pair;
        let attains = |a: u32, b: u32, level: f64| {
            let draws = self.draws(a, b);
            [draws.least(), draws.most()].into_iter().any(|x| draws.ln_two_sided(x) <= ln(level))
        };
        match (a.classes(), b.classes()) {
            (0 | 1, _) | (_, 0 | 1) => return false,
            (2, 2) => return attains(a.counts[0], b.counts[0], level),
            _ => {}
        }
        counts.fill(a, b);
        if counts.null(self.n as f64).1 <= 0.0 {
            return false;
        }
        let Some((x, y)) = pooled(a, b) else { return true };
        let permutations = pair.permutations().is_some();
        let level = level / if permutations { 3.0 } else { 2.0 };
        if x.classes() > 2 || y.classes() > 2 || attains(x.counts[0], y.counts[0], level) {
            return true;
        }
        // About as many tables as there are ways to give the rare symbols of one column a class of
        // the other.
        let tables =
            (a.others() as f64 * ln(b.classes() as f64)).min(b.others() as f64 * ln(a.classes() as f64));
        if permutations && tables >= -ln(level) {
            return true;
        }
        let mut tails = self.tails(counts);
        tails.sort_by(|x, y| x.0.total_cmp(&y.0));
        let mut number = 0.0;
        tails.into_iter().any(|(tail, times)| {
            number += times;
            tail + ln(number) <= ln(level)
        })
    }

    /// Fisher's test of a 2 x 2 table.
    fn fisher(&self, counts: &Counts) -> f64 {
        self.draws(counts.a[0], counts.b[0]).ln_two_sided(u64::from(counts.pair[0]))
    }

    /// X² against the scaled χ² that has its moments.
    fn table(&self, counts: &Counts, x2: f64) -> f64 {
        let (mean, variance) = counts.null(self.n as f64);
        if !(mean > 0.0 && variance > 0.0) {
            return 0.0;
        }
        ln_gamma_tail(mean * mean / variance, x2 * mean / variance)
    }

    /// The smallest tail of a cell, times the number of tails that could be as small.
    fn cells(&self, counts: &Counts) -> f64 {
        let n = self.n as f64;
        let mut best = 0.0;
        for (row, a) in counts.pair.chunks_exact(counts.b.len()).zip(&counts.a) {
            let share = f64::from(*a) / n;
            for (x, b) in row.iter().zip(&counts.b) {
                let expected = share * f64::from(*b);
                let apart = f64::from(*x) - expected;
                // Within two standard deviations no tail is small enough to count.
                if apart * apart <= 4.0 * expected {
                    continue;
                }
                let (draws, x) = (self.draws(*a, *b), u64::from(*x));
                // The tail is at least its first term.
                if draws.ln_at(x) < best {
                    let tail = if apart > 0.0 { draws.ln_from(x) } else { draws.ln_to(x) };
                    best = tail.min(best);
                }
            }
        }
        if best == 0.0 {
            return 0.0;
        }
        let limit = best + 1e-9;
        let number: f64 = self.tails(counts).iter().filter(|(tail, _)| *tail <= limit).map(|(_, k)| k).sum();
        (best + ln(number.max(1.0))).min(0.0)
    }

    /// ln of the smallest that each tail of a cell could be, and how many there are of it.
    fn tails(&self, counts: &Counts) -> Vec<(f64, f64)> {
        let sizes = |side: &[u32]| {
            let mut sizes = BTreeMap::<u32, f64>::new();
            side.iter().for_each(|n| *sizes.entry(*n).or_default() += 1.0);
            sizes
        };
        let (rows, columns) = (sizes(&counts.a), sizes(&counts.b));
        let mut out = Vec::with_capacity(2 * rows.len() * columns.len());
        for (a, k) in &rows {
            for (b, l) in &columns {
                let draws = self.draws(*a, *b);
                if draws.least() < draws.most() {
                    out.extend([draws.least(), draws.most()].map(|x| (draws.ln_at(x), k * l)));
                }
            }
        }
        out
    }
}

/// ln of the share of permutations in which Σ n_ab²/(n_a n_b) is `found` or more.
fn permuted(pair: Pair<'_>, found: f64, most: u64) -> f64 {
    let Pair { a, b, .. } = pair;
    let inverse = |c: &Column| -> Vec<f64> { c.counts.iter().map(|n| 1.0 / f64::from(*n)).collect() };
    let (of_a, of_b, columns) = (inverse(a), inverse(b), b.classes());
    let key = Key::new(pair.number, Purpose::Permutation);
    let mut shuffled = b.codes.clone();
    let mut table = vec![0u32; a.classes() * columns];
    // Sums of other orders: equal ones differ by rounding.
    let found = found * (1.0 - 1e-10);
    let mut reached = 0;
    for round in 0..most {
        shuffle(&mut shuffled, &key, round);
        let mut total = 0.0;
        for (x, y) in a.codes.iter().zip(&shuffled) {
            let cell = &mut table[*x as usize * columns + *y as usize];
            // n² from n: (n + 1)² − n².
            total += f64::from(2 * *cell + 1) * of_a[*x as usize] * of_b[*y as usize];
            *cell += 1;
        }
        a.codes.iter().zip(&shuffled).for_each(|(x, y)| table[*x as usize * columns + *y as usize] = 0);
        if total >= found {
            reached += 1;
            if reached == REACHED {
                return ln(REACHED as f64 / (round + 1) as f64);
            }
        }
    }
    ln((reached + 1) as f64 / (most + 1) as f64)
}

/// A uniform permutation (Fisher and Yates), two draws from a block.
pub(super) fn shuffle(x: &mut [u32], key: &Key, round: u64) {
    let (mut words, mut held) = ([0; 2], None);
    for last in (1..x.len()).rev() {
        let (variate, half, n) = ((last / 2) as u32, last % 2, last as u64 + 1);
        if held != Some(variate) {
            (words, held) = (key.block(round, variate, 0), Some(variate));
        }
        // A biased word (probability below n/2⁶⁴) takes the next attempt.
        let other = lemire(words[half], n).unwrap_or_else(|| key.below(n, round, variate, half));
        x.swap(last, other as usize);
    }
}
