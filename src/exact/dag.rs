//! The law of whole words for the task with several parents: independent Dirichlet rows in closed
//! form.

use super::law::{WordLaw, advance, spell, word_count};
use crate::task::{CausalDag, DagRoots, Task};

/// W(s, s') = Π_i P(s_i | s_0, .., s_{i-1}) · P(s' | s): a token drawn from row r has probability
/// (α + #{j < i: row_j = r, s_j = s_i}) / (Sα + #{j < i: row_j = r}), a uniform root 1/S.
///
/// Words with a common prefix share its factors.
#[derive(Debug, Clone)]
pub struct DagLaw {
    task: CausalDag,
}

/// Row of a uniform root: no row at all.
const NO_ROW: u32 = u32::MAX;

impl DagLaw {
    /// The law of words of `task`.
    pub fn new(task: CausalDag) -> Self {
        DagLaw { task }
    }

    /// The task.
    pub fn task(&self) -> &CausalDag {
        &self.task
    }

    /// Row that position `i` is drawn from, or the target where `i` is T.
    fn row(&self, i: usize, tokens: &[u32]) -> u32 {
        let parents = self.task.dag().parents(i);
        if parents.is_empty() && self.task.roots() == DagRoots::Uniform {
            return NO_ROW;
        }
        self.task.row(parents, tokens)
    }
}

impl WordLaw for DagLaw {
    fn seq_len(&self) -> usize {
        self.task.seq_len()
    }

    fn vocab(&self) -> usize {
        self.task.vocab()
    }

    fn weights(&self, first: u64, out: &mut [f64]) {
        let (s, t, alpha) = (self.vocab(), self.seq_len(), self.task.alpha());
        let n = (out.len() / s) as u64;
        let fits = word_count(s, t).is_some_and(|all| first <= all && n <= all - first);
        assert!(out.len().is_multiple_of(s) && fits, "not rows of words of this task");
        let mut tokens = vec![0; t];
        spell(first, s, &mut tokens);
        // Of each position: its row, and the probability of the tokens up to it.
        let (mut rows, mut prefix) = (vec![NO_ROW; t], vec![0.0; t]);
        let mut start = 0;
        for out in out.chunks_exact_mut(s) {
            for i in start..t {
                let (row, b) = (self.row(i, &tokens), tokens[i]);
                let factor = if row == NO_ROW {
                    1.0 / s as f64
                } else {
                    let (mut total, mut same) = (0u32, 0u32);
                    for j in 0..i {
                        total += u32::from(rows[j] == row);
                        same += u32::from(rows[j] == row && tokens[j] == b);
                    }
                    (alpha + f64::from(same)) / (s as f64 * alpha + f64::from(total))
                };
                rows[i] = row;
                prefix[i] = factor * if i == 0 { 1.0 } else { prefix[i - 1] };
            }
            let row = self.row(t, &tokens);
            let mut total = s as f64 * alpha;
            out.fill(alpha);
            for (b, _) in tokens.iter().zip(&rows).filter(|(_, r)| **r == row) {
                out[*b as usize] += 1.0;
                total += 1.0;
            }
            let scale = prefix[t - 1] / total;
            out.iter_mut().for_each(|w| *w *= scale);
            // The next word differs from this one from its last token that is not the largest on.
            start = tokens.iter().rposition(|c| *c as usize + 1 < s).unwrap_or(0);
            advance(s, &mut tokens);
        }
    }
}
