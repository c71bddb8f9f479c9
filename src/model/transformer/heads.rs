//! Attention of one sequence: H heads side by side in the columns of queries, keys and values,
//! without copies.

use super::Transformer;
use super::workspace::{Heads, SHOWN, With};
use crate::Result;
use popgrad_kernels::{Attention, Elem, KvGrad, Mats, MatsMut, Queries, Save, Saved};

/// Takes layer, head, query, and its attention on keys 0..=query.
pub(super) type See<'a, E> = dyn FnMut(usize, usize, usize, &[E]) + 'a;

/// What attention stores.
pub(super) enum Mode<'a, E> {
    /// What the backward pass needs.
    Saved,
    /// Nothing.
    Gone,
    /// The patterns, to be looked at.
    Shown(&'a mut See<'a, E>),
}

/// The query positions of the top layer, once, and once for every head.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) list: &'a [usize],
    pub(super) positions: &'a [usize],
    pub(super) starts: &'a [usize],
}

impl Asking<'_> {
    fn queries(list: Option<&Self>) -> Queries<'_> {
        list.map_or(Queries::Last, |l| Queries::Listed { starts: l.starts, positions: l.positions })
    }
}

impl<E: Elem> Transformer<E> {
    /// Heads of (T, 3 d): H queries, H keys, H values.
    fn heads<'a>(&self, qkv: &'a [E], queries: Queries<'a>) -> Result<Attention<'a, E>> {
        let (t, d, heads, each) = (self.shape.len, self.shape.dim, self.shape.heads, self.head_dim());
        let all = Mats::new(qkv, [3 * heads, t, each], each, 3 * d)?;
        let [q, k, v] = [0, 1, 2].map(|i| all.matrices(i * heads, heads));
        let scale = E::from_f64(1.0 / (each as f64).sqrt());
        Ok(Attention { q, k, v, scale, queries })
    }

    /// Rows (T, d) as one matrix for each head.
    fn by_head<'a>(&self, x: &'a [E]) -> Result<Mats<'a, E>> {
        let (heads, each) = (self.shape.heads, self.head_dim());
        Ok(Mats::new(x, [heads, self.shape.len, each], each, self.shape.dim)?)
    }

    /// The outputs of the heads at the query positions.
    pub(super) fn attend(
        &self,
        l: usize,
        heads: &mut Heads<'_, E>,
        list: Option<&Asking<'_>>,
        mode: &mut Mode<'_, E>,
        shown: &mut [E],
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (t, d, each) = (self.shape.len, self.shape.dim, self.head_dim());
        let Heads { qkv, o, kept, .. } = heads;
        if let Mode::Shown(see) = mode {
            let scale = E::from_f64(1.0 / (each as f64).sqrt());
            for h in 0..self.shape.heads {
                for first in (0..t).step_by(SHOWN) {
                    let rows = SHOWN.min(t - first);
                    let (keys, at) = (first + rows, h * each);
                    let view = |from: usize, rows: usize| Mats::new(&qkv[from..], [1, rows, each], 0, 3 * d);
                    let q = view(3 * d * first + at, rows)?;
                    let (k, v) = (view(d + at, keys)?, view(2 * d + at, keys)?);
                    let x = Attention { q, k, v, scale, queries: Queries::Last };
                    let out = MatsMut::new(&mut o[first * d + at..], [1, rows, each], 0, d)?;
                    let keep = Save::Probs(MatsMut::new(shown, [1, rows, keys], rows * keys, keys)?);
                    self.kernels.attention(&x, out, keep, with.kernel)?;
                    for (i, p) in (first..keys).zip(shown.chunks_exact(keys)) {
                        see(l, h, i, &p[..=i]);
                    }
                }
            }
            return Ok(());
        }
        let keep = match mode {
            Mode::Saved => {
                let heads = self.shape.heads;
                Save::Rows(MatsMut::new(kept, [heads, t, 2], 2 * t, 2)?)
            }
            _ => Save::Nothing,
        };
        let x = self.heads(qkv, Asking::queries(list))?;
        let out = MatsMut::new(o, [self.shape.heads, t, each], each, d)?;
        Ok(self.kernels.attention(&x, out, keep, with.kernel)?)
    }

    /// Computes `dqkv` (T, 3 d) from `dout` (T, d), of which only the query rows are read. Keys and
    /// values whose gradient is not needed get zeros.
    pub(super) fn attend_backward(
        &self,
        heads: &Heads<'_, E>,
        list: Option<&Asking<'_>>,
        dout: &[E],
        dqkv: &mut [E],
        [keys, values]: [bool; 2],
        with: &mut With<'_, E>,
    ) -> Result<()> {
        let (t, d, count, each) = (self.shape.len, self.shape.dim, self.shape.heads, self.head_dim());
        let x = self.heads(heads.qkv, Asking::queries(list))?;
        dqkv.fill(E::ZERO);
        let all = MatsMut::new(dqkv, [3 * count, t, each], each, 3 * d)?;
        let (dq, rest) = all.split_matrices(count);
        let (dk, dv) = rest.split_matrices(count);
        let dkv = KvGrad::Separate { dk: keys.then_some(dk), dv: values.then_some(dv) };
        let kept = Saved::Rows(Mats::new(heads.kept, [count, t, 2], 2 * t, 2)?);
        let (o, dout) = (self.by_head(heads.o)?, self.by_head(dout)?);
        Ok(self.kernels.attention_backward(&x, kept, o, dout, dq, dkv, with.kernel)?)
    }
}
