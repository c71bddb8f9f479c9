//! What a shard's workspace holds, and the weights in the panels that products read.

use super::Transformer;
use crate::model::{Workspace, WorkspaceLen};
use crate::{Error, Result};
use popgrad_kernels::{Elem, Mat, MatMut, PackedB, Scratch, Write};
use std::ops::Range;

/// Pairs of token and position that the first layer treats at a time, at least.
const CHUNK: usize = 128;

/// Queries whose attention is shown at a time.
pub(super) const SHOWN: usize = 64;

/// Columns that panels are rounded up to, see `Kernels::pack_b`.
const PANEL: usize = 16;

/// What every product needs.
pub(super) struct With<'a, E> {
    pub(super) params: &'a [E],
    pub(super) packed: &'a [PackedB<E>],
    pub(super) kernel: &'a mut Scratch<E>,
}

/// The gradient, the blocks of it that are wanted, where norms put what is not (2 d), and what
/// every product needs.
pub(super) struct Grads<'a, E> {
    pub(super) grad: &'a mut [E],
    pub(super) active: &'a [bool],
    pub(super) sink: &'a mut [E],
    pub(super) with: With<'a, E>,
}

/// A layer's activations. Rows are those of one sequence, or of a chunk of the table; at the top
/// the m that count, but for `a`, `qkv`.
pub(super) struct Layer<'a, E> {
    /// LN(x) for queries, keys and values, and its rows that ask.
    pub(super) a: &'a mut [E],
    pub(super) asking: &'a mut [E],
    /// Rows of x that ask.
    pub(super) x: &'a mut [E],
    /// What the feed-forward reads, its hidden layer, and `PostNorm`'s LN(x + Attn x) and h + FF h.
    pub(super) u: &'a mut [E],
    pub(super) z: &'a mut [E],
    pub(super) g: &'a mut [E],
    pub(super) s: &'a mut [E],
    /// Mean and 1/std of the attention's norm and of the feed-forward's.
    pub(super) attention: [&'a mut [f64]; 2],
    pub(super) ff: [&'a mut [f64]; 2],
}

/// The rest of them.
pub(super) struct Heads<'a, E> {
    /// (T, 3 d): queries, keys, values, head by head.
    pub(super) qkv: &'a mut [E],
    /// What heads found (T, d), and its rows that ask.
    pub(super) o: &'a mut [E],
    pub(super) asking: &'a mut [E],
    /// Largest score and 1/Σ of every query (H, T, 2).
    pub(super) kept: &'a mut [E],
    /// x + Attn, before what follows in `Standard` and `PostNorm`.
    pub(super) h: &'a mut [E],
}

/// The first layer on every pair of token and position that a batch has.
pub(super) struct Table<'a, E> {
    /// (M, 3 d).
    pub(super) qkv: &'a mut [E],
    /// (M, d): x⁰, with what the feed-forward adds to it in `Public`.
    pub(super) base: &'a mut [E],
    pub(super) dqkv: &'a mut [E],
    pub(super) dbase: &'a mut [E],
}

/// Room for two gradients of a stream and one of a hidden layer, which live no longer than a step.
pub(super) struct Spare<'a, E> {
    pub(super) t1: &'a mut [E],
    pub(super) t2: &'a mut [E],
    pub(super) dz: &'a mut [E],
}

/// Gradients and other things that live no longer than a layer.
pub(super) struct Temporary<'a, E> {
    pub(super) dy: &'a mut [E],
    pub(super) dh: &'a mut [E],
    pub(super) spare: Spare<'a, E>,
    pub(super) dqkv: &'a mut [E],
    pub(super) dout: &'a mut [E],
}

/// The arena.
pub(super) struct Activations<'a, E> {
    pub(super) table: Table<'a, E>,
    /// Inputs of layers 1 .., then what leaves the top; entry 0 serves the table's chunks.
    pub(super) x: &'a mut [E],
    pub(super) layers: &'a mut [E],
    /// LN of what leaves the top, logits, their softmax.
    pub(super) f: &'a mut [E],
    pub(super) logits: &'a mut [E],
    pub(super) probs: &'a mut [E],
    pub(super) tmp: Temporary<'a, E>,
    pub(super) sink: &'a mut [E],
    pub(super) shown: &'a mut [E],
}

/// The f64 numbers.
pub(super) struct Reals<'a> {
    pub(super) layers: &'a mut [f64],
    pub(super) norm: [&'a mut [f64]; 2],
    /// Of the outputs that count (T).
    pub(super) losses: &'a mut [f64],
    pub(super) weights: &'a mut [f64],
}

/// The indices.
pub(super) struct Indices<'a> {
    /// Row of the table of each position of the batch (B T).
    pub(super) rows: &'a mut [usize],
    /// Token and position of each row of the table.
    pub(super) pairs: &'a mut [usize],
    /// While the table is made: of every symbol, its row at a position, and that position + 1.
    pub(super) seen: &'a mut [usize],
    /// Positions that count, once for every head, and where each head's begin.
    pub(super) positions: &'a mut [usize],
    pub(super) starts: &'a mut [usize],
}

/// Takes the next `len` entries off the front.
pub(super) fn next<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (piece, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    piece
}

fn mul(a: usize, b: usize) -> Option<usize> {
    a.checked_mul(b)
}

/// Matrices of a layer in the order of their panels, then how many they are.
pub(super) const Q: usize = 0;
pub(super) const KV: usize = 1;
pub(super) const O: usize = 2;
pub(super) const F1: usize = 3;
pub(super) const F2: usize = 4;
const MATRICES: usize = 5;

impl<E: Elem> Transformer<E> {
    /// Rows that a layer's arrays have room for.
    pub(super) fn capacity(&self) -> usize {
        self.shape.len.max(CHUNK)
    }

    /// Rows that the table may get.
    fn table_rows(&self, seqs: usize) -> usize {
        self.shape.len.saturating_mul(seqs.min(self.shape.vocab))
    }

    /// Elements of the arrays of a [`Layer`] and of its [`Heads`], in order.
    fn layer_sizes(&self) -> Option<[usize; 12]> {
        let (r, t, d) = (self.capacity(), self.shape.len, self.shape.dim);
        let (stream, hidden, rows) = (mul(r, d)?, mul(r, self.hidden())?, mul(t, d)?);
        let kept = mul(mul(t, self.shape.heads)?, 2)?;
        Some([stream, rows, rows, stream, hidden, rows, rows, mul(rows, 3)?, rows, rows, kept, rows])
    }

    /// Elements of the arrays of [`Activations`], in order.
    fn sizes(&self, seqs: usize) -> Option<[usize; 18]> {
        let (r, t, d, n) = (self.capacity(), self.shape.len, self.shape.dim, self.shape.vocab);
        let base = mul(self.table_rows(seqs), d)?;
        let (stream, logits) = (mul(r, d)?, mul(t, n)?);
        let (hidden, rows) = (mul(r, self.hidden())?, mul(t, d)?);
        let layer = self.layer_sizes()?.into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
        Some([
            mul(base, 3)?,
            base,
            mul(base, 3)?,
            base,
            mul(stream, self.shape.layers + 1)?,
            mul(layer, self.shape.layers)?,
            rows,
            logits,
            logits,
            stream,
            stream,
            stream,
            stream,
            hidden,
            mul(rows, 3)?,
            rows,
            2 * d,
            mul(t.min(SHOWN), t)?,
        ])
    }

    pub(super) fn needed(&self, seqs: usize) -> Option<WorkspaceLen> {
        let (r, t, d, n) = (self.capacity(), self.shape.len, self.shape.dim, self.shape.vocab);
        let k = &self.kernels;
        let arena = self.sizes(seqs)?.into_iter().try_fold(0usize, |a, b| a.checked_add(b))?;
        let arena = Some(arena).filter(|a| *a <= isize::MAX as usize / 64)?;
        let mut kernel = k.attention_scratch(t, t, self.head_dim(), self.head_dim());
        for wide in [d, 2 * d, self.hidden().max(1), n] {
            for (m, k_, n_) in [(r, d, wide), (r, wide, d), (wide, r, d), (d, r, wide)] {
                kernel = kernel.max(k.gemm_scratch(m, k_, n_));
            }
        }
        let reals = mul(mul(r, 4)?, self.shape.layers)?.checked_add(mul(t, 4)?)?;
        let rows = self.table_rows(seqs).checked_mul(2)?.checked_add(mul(t, seqs)?)?;
        let lists = mul(t, self.shape.heads)?.checked_add(self.shape.heads + 1)?;
        let indices = rows.checked_add(2 * n)?.checked_add(lists)?;
        Some(WorkspaceLen { arena, kernel, reals, indices, packed: self.packed_len()? })
    }

    pub(super) fn new_workspace(&self, seqs: usize) -> Result<Workspace<E>> {
        let refused = || {
            let found = format!("{seqs} sequences of this model");
            Error::invalid("B", found, "a batch whose activations fit memory")
        };
        let mut ws = Workspace::new(&self.needed(seqs).ok_or_else(refused)?);
        let zero = [E::ZERO];
        for [k, n] in self.panel_shapes() {
            ws.packed.push(self.kernels.pack_b(Mat::with_strides(&zero, k, n, 0, 0)?)?);
        }
        Ok(ws)
    }

    /// Shapes of what is in panels, in order: of every matrix W^T, which forward products take,
    /// then W.
    fn panel_shapes(&self) -> impl Iterator<Item = [usize; 2]> {
        let of = move |l| (0..MATRICES).map(move |w| self.matrix(l, w).map_or([1, 1], |(_, shape)| shape));
        let all = (0..self.shape.layers).flat_map(of).chain([[self.shape.vocab, self.shape.dim]]);
        all.flat_map(|[rows, cols]| [[cols, rows], [rows, cols]])
    }

    /// Elements that the panels have: columns rounded up to whole ones.
    fn packed_len(&self) -> Option<usize> {
        self.panel_shapes()
            .try_fold(0usize, |sum, [k, n]| sum.checked_add(mul(k, n.next_multiple_of(PANEL))?))
    }

    /// That the workspace is one of this model, for so many sequences.
    pub(super) fn check_workspace(&self, seqs: usize, ws: &Workspace<E>) -> Result<()> {
        let enough = self.needed(seqs).is_some_and(|m| {
            let enough = m.arena <= ws.arena.len() && m.kernel <= ws.kernel.len();
            enough && m.reals <= ws.reals.len() && m.indices <= ws.indices.len()
        });
        if enough && ws.packed.len() == 2 * (MATRICES * self.shape.layers + 1) {
            return Ok(());
        }
        Err(Error::invalid("B", seqs.to_string(), "at most what the workspace was made for, by this model"))
    }

    /// Where matrix `w` of layer `l` lies, and its rows and columns.
    fn matrix(&self, l: usize, w: usize) -> Option<(Range<usize>, [usize; 2])> {
        let (b, d) = (&self.layers[l], self.shape.dim);
        let wide = if b.w2.is_some() { 4 * d } else { d };
        match w {
            Q => Some((self.range(b.wq), [d, d])),
            KV => Some((self.range(b.wk()).start..self.range(b.wv()).end, [2 * d, d])),
            O => Some((self.range(b.wo), [d, d])),
            F1 => b.ff.map(|ff| (self.range(ff), [wide, d])),
            _ => b.w2.map(|w2| (self.range(w2), [d, wide])),
        }
    }

    /// Panels of W^T of matrix `w` of layer `l`; those of W follow.
    pub(super) fn panels(&self, l: usize, w: usize) -> usize {
        2 * (MATRICES * l + w)
    }

    /// Panels of W_U^T; those of W_U follow.
    pub(super) fn output_panels(&self) -> usize {
        2 * MATRICES * self.shape.layers
    }

    /// Writes the panels anew, those of the backward pass if wanted.
    pub(super) fn pack(&self, params: &[E], packed: &mut [PackedB<E>], backward: bool) -> Result<()> {
        let mut write = |at: usize, range: Range<usize>, [rows, cols]: [usize; 2]| -> Result<()> {
            let w = Mat::new(&params[range], rows, cols)?;
            self.kernels.repack_b(w.t(), &mut packed[at])?;
            if backward {
                self.kernels.repack_b(w, &mut packed[at + 1])?;
            }
            Ok(())
        };
        for l in 0..self.shape.layers {
            for w in 0..MATRICES {
                if let Some((range, shape)) = self.matrix(l, w) {
                    write(self.panels(l, w), range, shape)?;
                }
            }
        }
        write(self.output_panels(), self.range(self.output()), [self.shape.vocab, self.shape.dim])
    }

    pub(super) fn carve<'a>(&self, seqs: usize, arena: &'a mut [E]) -> Activations<'a, E> {
        let mut rest = arena;
        let sizes = self.sizes(seqs).expect("the workspace was made for at least as many");
        let [tq, tb, dtq, dtb, x, layers, f, logits, probs, dy, dh, t1, t2, dz, dqkv, dout, sink, shown] =
            sizes.map(|len| next(&mut rest, len));
        Activations {
            table: Table { qkv: tq, base: tb, dqkv: dtq, dbase: dtb },
            x,
            layers,
            f,
            logits,
            probs,
            tmp: Temporary { dy, dh, spare: Spare { t1, t2, dz }, dqkv, dout },
            sink,
            shown,
        }
    }

    /// Layer `l` of the arrays [`Activations::layers`] and [`Reals::layers`].
    pub(super) fn layer<'a>(
        &self,
        l: usize,
        layers: &'a mut [E],
        reals: &'a mut [f64],
    ) -> (Layer<'a, E>, Heads<'a, E>) {
        let sizes = self.layer_sizes().expect("as when the workspace was made");
        let each: usize = sizes.iter().sum();
        let mut rest = &mut layers[l * each..(l + 1) * each];
        let [a, asking, x, u, z, g, s, qkv, o, found, kept, h] = sizes.map(|len| next(&mut rest, len));
        let r = self.capacity();
        let mut rest = &mut reals[4 * r * l..4 * r * (l + 1)];
        let [m1, r1, m2, r2] = [r; 4].map(|len| next(&mut rest, len));
        let layer = Layer { a, asking, x, u, z, g, s, attention: [m1, r1], ff: [m2, r2] };
        (layer, Heads { qkv, o, asking: found, kept, h })
    }

    pub(super) fn reals<'a>(&self, reals: &'a mut [f64]) -> Reals<'a> {
        let mut rest = reals;
        let layers = next(&mut rest, 4 * self.capacity() * self.shape.layers);
        let [m, r, losses, weights] = [self.shape.len; 4].map(|len| next(&mut rest, len));
        Reals { layers, norm: [m, r], losses, weights }
    }

    pub(super) fn indices<'a>(&self, seqs: usize, indices: &'a mut [usize]) -> Indices<'a> {
        let (t, heads) = (self.shape.len, self.shape.heads);
        let mut rest = indices;
        let rows = next(&mut rest, t * seqs);
        let pairs = next(&mut rest, 2 * self.table_rows(seqs));
        let seen = next(&mut rest, 2 * self.shape.vocab);
        let positions = next(&mut rest, t * heads);
        Indices { rows, pairs, seen, positions, starts: next(&mut rest, heads + 1) }
    }

    /// C = or += A B, B being panels number `at`.
    pub(super) fn product(
        &self,
        with: &mut With<'_, E>,
        write: Write,
        a: Mat<'_, E>,
        at: usize,
        c: MatMut<'_, E>,
    ) -> Result<()> {
        Ok(self.kernels.gemm_packed(write, E::ONE, a, &with.packed[at], c, with.kernel)?)
    }
}
