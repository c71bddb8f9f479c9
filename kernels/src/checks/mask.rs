//! What passes attention's mask: nothing. A row is poisoned, and whoever cannot see it keeps every
//! bit.

use crate::checks::attention::Case;
use crate::checks::testkit::{Block, same};
use crate::elem::Elem;
use crate::kernels::Kernels;
use crate::reference;

/// Entries of row `i` of problem `b`.
fn row<E: Elem>(x: &Block<E>, b: usize, i: usize) -> impl Iterator<Item = f64> + '_ {
    (0..x.shape[2]).map(move |c| x.data[x.at(b, i, c)].to_f64())
}

fn poison_row<E: Elem>(x: &mut Block<E>, i: usize, poison: E) {
    for c in 0..x.shape[2] {
        let at = x.at(0, i, c);
        x.data[at] = poison;
    }
}

/// Key and value `j` of the first problem become `poison`: no bit changes for queries that do not
/// see them, forward or backward; the output of those that do changes.
pub(crate) fn check_key_reach<E: Elem>(k: &Kernels<E>, start: &Case<E>, j: usize, poison: E) {
    let (mut clean, mut dirty) = (start.clone(), start.clone());
    poison_row(&mut dirty.k, j, poison);
    poison_row(&mut dirty.v, j, poison);
    for case in [&mut clean, &mut dirty] {
        case.forward(k);
        case.backward(k, true, true);
    }
    let [count, tq, tk, _, dv] = start.size;
    for (b, i) in (0..count).flat_map(|b| (0..tq).map(move |i| (b, i))) {
        let equal = |x: &Block<E>, y: &Block<E>| row(x, b, i).zip(row(y, b, i)).all(|(x, y)| same(x, y));
        // Batch strides of zero: all problems have the same keys and values (one alone may just
        // have no columns).
        if j < reference::visible(i, tq, tk) && (b == 0 || start.k.bs + start.v.bs == 0) {
            assert!(dv == 0 || !equal(&dirty.out, &clean.out), "query ({b} {i}) does not see key {j}");
        } else {
            for (x, y) in [(&dirty.out, &clean.out), (&dirty.probs, &clean.probs), (&dirty.dq, &clean.dq)] {
                assert!(equal(x, y), "{:?} key {j} reached query ({b} {i})", k.isa());
            }
        }
    }
}

/// Query `i` of the first problem and its dO become NaN after the forward pass: the gradients of
/// the keys it sees are NaN, and no bit of the others changes.
pub(crate) fn check_query_reach<E: Elem>(k: &Kernels<E>, start: &Case<E>, i: usize) {
    let mut clean = start.clone();
    clean.forward(k);
    let mut dirty = clean.clone();
    poison_row(&mut dirty.q, i, E::NAN);
    poison_row(&mut dirty.dout, i, E::NAN);
    clean.backward(k, true, true);
    dirty.backward(k, true, true);
    let [count, tq, tk, ..] = start.size;
    for (b, j) in (0..count).flat_map(|b| (0..tk).map(move |j| (b, j))) {
        let seen = b == 0 && j < reference::visible(i, tq, tk);
        for (dirty, clean) in [(&dirty.dk, &clean.dk), (&dirty.dv, &clean.dv)] {
            for (x, y) in row(dirty, b, j).zip(row(clean, b, j)) {
                assert_eq!(seen, x.is_nan(), "{:?} query {i}, key ({b} {j})", k.isa());
                assert!(seen || same(x, y), "{:?} query {i}, key ({b} {j})", k.isa());
            }
        }
    }
}
