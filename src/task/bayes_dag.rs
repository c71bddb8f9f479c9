//! Bayes predictors of the task with several parents: the next symbol after the target's parents,
//! given the tokens.
//!
//! | symbol | name |
//! |---|---|
//! | p(i) | parents of position i, in order; p(T) the target's |
//! | s_{p} | their tokens, in order |

use super::{CausalDag, DagRoots, Task};

/// (α + #{i: s_{p(i)} = s_{p(T)}, s_i = ·}) normalised, over positions with as many parents as the
/// target: the posterior mean of the target's row. Exactly optimal for either root law, since rows
/// are independent and roots have a row of their own.
///
/// `tokens` (T), `out` (S).
///
/// # Panics
/// When `tokens` or `out` do not fit the task, or a token is not below S.
pub fn bayes_tuples(task: &CausalDag, tokens: &[u32], out: &mut [f64]) {
    let dag = task.dag();
    let row = task.row(dag.target(), check(task, tokens, out));
    let roots_count = task.roots() == DagRoots::Shared;
    count(task, tokens, out, |i| {
        let parents = dag.parents(i);
        (roots_count || !parents.is_empty()) && task.row(parents, tokens) == row
    });
}

/// The one-parent baseline of the public code: the counts rule on the chain, whatever the graph,
/// (α + #{i >= 1: s_{i-1} = s_{T-1}, s_i = ·}) normalised.
///
/// # Panics
/// As [`bayes_tuples`].
pub fn bayes_previous(task: &CausalDag, tokens: &[u32], out: &mut [f64]) {
    let last = check(task, tokens, out)[tokens.len() - 1];
    count(task, tokens, out, |i| i > 0 && tokens[i - 1] == last);
}

/// The counts rule with parent number `slot` of each tuple alone, over positions with as many
/// parents as the target.
///
/// # Panics
/// As [`bayes_tuples`]; when the target has no such parent.
pub fn bayes_one_parent(task: &CausalDag, slot: usize, tokens: &[u32], out: &mut [f64]) {
    let (dag, tokens) = (task.dag(), check(task, tokens, out));
    let (target, token) = (dag.target(), tokens[dag.target()[slot]]);
    count(task, tokens, out, |i| {
        let parents = dag.parents(i);
        parents.len() == target.len() && tokens[parents[slot]] == token
    });
}

fn check<'a>(task: &CausalDag, tokens: &'a [u32], out: &[f64]) -> &'a [u32] {
    assert!(tokens.len() == task.seq_len() && out.len() == task.vocab(), "operands do not fit the task");
    tokens
}

/// (α + the number of positions of each symbol that `counts`) normalised.
fn count(task: &CausalDag, tokens: &[u32], out: &mut [f64], counts: impl Fn(usize) -> bool) {
    out.fill(task.alpha());
    let mut total = task.alpha() * out.len() as f64;
    for (i, token) in tokens.iter().enumerate() {
        if counts(i) {
            out[*token as usize] += 1.0;
            total += 1.0;
        }
    }
    out.iter_mut().for_each(|p| *p /= total);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Dag;

    #[test]
    fn predictors_by_hand() {
        let task = |roots| CausalDag::new(Dag::parse("-;0;0,1;1,0;2,3;3,4").unwrap(), 3, 0.5, roots).unwrap();
        let task = task(DagRoots::Shared);
        let mut out = [f64::NAN; 3];
        // Tuples of positions 2, 3, 4: (1,2), (2,1), (0,2); the target's is (2,1): position 3
        // counts, of symbol 2.
        let x = [1, 2, 0, 2, 1];
        bayes_tuples(&task, &x, &mut out);
        assert_eq!(out, [0.5 / 2.5, 0.5 / 2.5, 1.5 / 2.5]);
        // First parents 1, 2, 0 against 2; second 2, 1, 2 against 1: position 3 each time.
        bayes_one_parent(&task, 0, &x, &mut out);
        assert_eq!(out, [0.5 / 2.5, 0.5 / 2.5, 1.5 / 2.5]);
        bayes_one_parent(&task, 1, &x, &mut out);
        assert_eq!(out, [0.5 / 2.5, 0.5 / 2.5, 1.5 / 2.5]);
        // After the last token, 1: position 1 follows position 0.
        bayes_previous(&task, &x, &mut out);
        assert_eq!(out, [0.5 / 2.5, 0.5 / 2.5, 1.5 / 2.5]);
        // All tokens alike: every position with two parents, every position but the first.
        let x = [1; 5];
        bayes_tuples(&task, &x, &mut out);
        assert_eq!(out, [0.5 / 4.5, 3.5 / 4.5, 0.5 / 4.5]);
        bayes_one_parent(&task, 1, &x, &mut out);
        assert_eq!(out, [0.5 / 4.5, 3.5 / 4.5, 0.5 / 4.5]);
        bayes_previous(&task, &x, &mut out);
        assert_eq!(out, [0.5 / 5.5, 4.5 / 5.5, 0.5 / 5.5]);
        // The parents alone tell the slots apart: (1,0), (0,2), (1,2) against (2,1).
        let x = [0, 1, 2, 1, 2];
        let task =
            CausalDag::new(Dag::parse("-;0;1,0;0,2;3,2;2,1").unwrap(), 3, 0.5, DagRoots::Uniform).unwrap();
        bayes_tuples(&task, &x, &mut out);
        assert_eq!(out, [1.0 / 3.0; 3]);
        bayes_one_parent(&task, 0, &x, &mut out);
        assert_eq!(out, [1.0 / 3.0; 3]);
        bayes_previous(&task, &x, &mut out);
        assert_eq!(out, [0.5 / 2.5, 1.5 / 2.5, 0.5 / 2.5]);
    }
}
