//! Drawing from a finite law in constant time: Walker's alias method (Vose 1991), one random word a
//! draw.

use std::hint::select_unpredictable;

/// A table of a law on 0..n: the word's product with n picks a cell by its upper half, and by its
/// lower half between the cell's own symbol and its alias. The law drawn differs from the one given
/// by at most 2⁻⁵³ per symbol; impossible symbols stay so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    rows: AliasRows,
}

/// Tables of several laws on 0..n, one after the other in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasRows {
    n: usize,
    /// (rows, n).
    cells: Vec<Cell>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    /// Own symbol below this.
    threshold: u64,
    alias: u32,
}

/// 2⁶⁴.
const WORDS: f64 = 18_446_744_073_709_551_616.0;

impl AliasRows {
    /// The tables of `laws` (rows, n), which need not be normalised.
    ///
    /// # Panics
    /// When there is no law, the laws are not whole rows, or one of them has an entry that is
    /// negative or not finite, or no positive one.
    pub fn new(n: usize, laws: &[f64]) -> Self {
        assert!(n > 0 && !laws.is_empty() && laws.len().is_multiple_of(n), "not whole laws");
        let mut cells = Vec::with_capacity(laws.len());
        laws.chunks_exact(n).for_each(|law| push_table(law, &mut cells));
        AliasRows { n, cells }
    }

    /// The symbol that `word` picks from law `row`.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline]
    pub fn pick(&self, row: usize, word: u64) -> u32 {
        let wide = u128::from(word) * self.n as u128;
        let cell = (wide >> 64) as usize;
        let Cell { threshold, alias } = self.cells[row * self.n + cell];
        // Without a branch, which would often be mispredicted.
        select_unpredictable((wide as u64) < threshold, cell as u32, alias)
    }
}

/// Appends the cells of `law` (n).
fn push_table(law: &[f64], cells: &mut Vec<Cell>) {
    let (n, from) = (law.len(), cells.len());
    let total = crate::num::sum(law);
    let valid = law.iter().all(|p| *p >= 0.0 && p.is_finite());
    assert!(valid && total > 0.0 && total.is_finite() && u32::try_from(n).is_ok(), "not a law");
    let mut scaled: Vec<f64> = law.iter().map(|p| p / total * n as f64).collect();
    let likeliest = (0..n).fold(0, |m, i| if law[i] > law[m] { i } else { m });
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..n).partition(|i| scaled[*i] < 1.0);
    cells.extend((0..n as u32).map(|i| Cell { threshold: u64::MAX, alias: i }));
    // 2^64 times a share below 1; the conversion saturates.
    let cell = |share: f64, alias: usize| Cell { threshold: (share * WORDS) as u64, alias: alias as u32 };
    while let (Some(s), Some(l)) = (small.pop(), large.last().copied()) {
        cells[from + s] = cell(scaled[s], l);
        scaled[l] -= 1.0 - scaled[s];
        if scaled[l] < 1.0 {
            large.pop();
            small.push(l);
        }
    }
    // Rounding may leave cells over: those that are full up to it keep their symbol; the others
    // borrow from the likeliest.
    for s in small {
        if scaled[s] < 0.5 {
            cells[from + s] = cell(scaled[s], likeliest);
        }
    }
}

impl Alias {
    /// The table of `law` (n), which need not be normalised.
    ///
    /// # Panics
    /// When the law is empty, has an entry that is negative or not finite, or no positive one.
    pub fn new(law: &[f64]) -> Self {
        Alias { rows: AliasRows::new(law.len(), law) }
    }

    /// The symbol that `word` picks.
    #[inline]
    pub fn pick(&self, word: u64) -> u32 {
        self.rows.pick(0, word)
    }

    /// The law that the table draws from (n), for tests.
    pub fn law(&self) -> Vec<f64> {
        let n = self.rows.n;
        let mut law = vec![0.0; n];
        for (i, cell) in self.rows.cells.iter().enumerate() {
            let own = cell.threshold as f64 / WORDS;
            law[i] += own / n as f64;
            law[cell.alias as usize] += (1.0 - own) / n as f64;
        }
        law
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_table_has_the_law_that_it_was_given(weights in prop::collection::vec(0u32..5, 1..80), scale in 1e-3..1e3) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let law: Vec<f64> = weights.iter().map(|w| f64::from(*w).powi(5) * scale).collect();
            let total: f64 = law.iter().sum();
            for (found, wanted) in Alias::new(&law).law().iter().zip(&law) {
                prop_assert!((found - wanted / total).abs() < 1e-14);
                prop_assert!(*wanted > 0.0 || *found < 1e-18);
            }
        }
    }

    #[test]
    fn words_pick_by_the_law_and_never_the_impossible() {
        let law = [0.0, 0.5, 0.125, 0.0, 0.375];
        let table = Alias::new(&law);
        let key = Key::new(1, Purpose::Test);
        let mut counts = [0u32; 5];
        for n in 0..50_000 {
            for word in key.block(n, 0, 0) {
                counts[table.pick(word) as usize] += 1;
            }
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        // 2 degrees of freedom: P(chi² > 27.6) = 1e-6.
        let chi2: f64 =
            [1, 2, 4].iter().map(|&i| (f64::from(counts[i]) - 1e5 * law[i]).powi(2) / (1e5 * law[i])).sum();
        assert!(chi2 < 27.6, "{counts:?}");
        assert_eq!(Alias::new(&[3.0]).pick(u64::MAX), 0);
        for word in [0, u64::MAX, 1 << 63] {
            assert_eq!(Alias::new(&[0.0, 1.0, 0.0]).pick(word), 1);
        }
    }
}
