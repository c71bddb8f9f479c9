//! The transformer with an MLP of Nichani, Damian and Lee 2024, Figure 8, in the mu-parametrisation
//! of the public code.
//!
//! | symbol | name here | shape | equation |
//! |---|---|---|---|
//! | E | blocks `wte`, `wpe` | (S, d), (T, d) | x⁰_i = wte\[s_i\] + wpe\[i\], d = S + T |
//! | A_h of layer l | block `A.l` | (H, d, d) | attn_h = softmax_{j<=i}(x A_h xᵀ) x, no factor 1/√d |
//! | V of layer l | block `V.l` | (H d, d) | y = \[attn_1, .., attn_H\] V |
//! | W1, b1 | `mlp.l.w1`, `mlp.l.b1` | (d, d), (d) | h = relu(y W1 + √d b1) |
//! | W2, b2 | `mlp.l.w2`, `mlp.l.b2` | (d, d), (d) | x^{l+1} = x^l + h W2 + √d b2 |
//! | W | block `W` | (d, S) | f = softmax(x_T W) |
//! | U | `u` | (H d, d) | U = V W1, as there is no nonlinearity between the two |
//!
//! Attention enters the stream through the MLP alone. A mu-linear map from m to n is x W √(n/m) +
//! √n b; here m = n = d, so weights have factor 1 and biases √d. Start: wte, wpe, V, W1 normal with
//! standard deviation 1/√d (V too whatever H, as its output has d entries); A, W2, W and the biases
//! zero. All blocks are trained and all decay under weight decay, biases and embeddings too, as in
//! the public code (optax adamw without a mask).
//!
//! If the targets are laws, the top layer is computed for the last query only; with labels, for all
//! queries. The first layer works on one-hot inputs only (`first.rs`).

mod coordinates;
mod first;
mod pass;
mod upper;

use super::layered::{Out, Pass, attention, check_sizes, loss_and_grad, report, workspace_len};
use super::{Draw, FirstLayerScores, Layout, Model, Report, Workspace, WorkspaceLen};
use crate::Result;
use crate::batch::{Batch, Targets};
use crate::num::Sum;
pub use coordinates::one_hot_coordinates;
use popgrad_kernels::{Elem, Kernels, Mat, MatMut, Scratch, Write};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The options of an [`MlpTransformer`]; the sizes S and T come from the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MlpTransformerSpec {
    /// Heads of each layer: 1 to 16 layers of 1 to 64.
    pub heads: Vec<usize>,
    /// Standard deviation of the initial attention matrices, 0 to 1000.
    #[serde(default)]
    pub init: f64,
}

impl MlpTransformerSpec {
    /// A model with these numbers of heads in its layers; its attention matrices start at 0.
    pub fn new(heads: &[usize]) -> Self {
        MlpTransformerSpec { heads: heads.to_vec(), init: 0.0 }
    }
}

/// The model: sizes and kernels. Parameters live in a flat vector laid out by [`Model::layout`].
#[derive(Debug)]
pub struct MlpTransformer<E> {
    kernels: Kernels<E>,
    vocab: usize,
    seq_len: usize,
    heads: Vec<usize>,
    init: f64,
    layout: Layout,
    trainable: Vec<bool>,
}

/// A layer, and the sequences that go through it.
#[derive(Clone, Copy)]
struct At<'a, E> {
    params: &'a [E],
    /// Tokens (n, T).
    tokens: &'a [u32],
    n: usize,
    l: usize,
    /// Queries of the layer: T or 1.
    rows: usize,
}

/// Blocks of one layer, in layout order.
#[derive(Clone, Copy)]
enum Part {
    A,
    V,
    W1,
    B1,
    W2,
    B2,
}

impl<E: Elem> MlpTransformer<E> {
    /// The model over `vocab` symbols (S) on sequences of `seq_len` tokens (T).
    ///
    /// # Errors
    /// Sizes out of range; more than 2^31 parameters; `POPGRAD_ISA` names an instruction set that
    /// this CPU lacks.
    pub fn new(vocab: usize, seq_len: usize, spec: &MlpTransformerSpec) -> Result<Self> {
        let MlpTransformerSpec { heads, init } = spec.clone();
        check_sizes(vocab, seq_len, &heads, init)?;
        let d = vocab + seq_len;
        let mut layout = Layout::new();
        layout.push("wte", &[vocab, d])?;
        layout.push("wpe", &[seq_len, d])?;
        for (l, h) in heads.iter().enumerate() {
            layout.push(format!("A.{l}"), &[*h, d, d])?;
            layout.push(format!("V.{l}"), &[h * d, d])?;
            layout.push(format!("mlp.{l}.w1"), &[d, d])?;
            layout.push(format!("mlp.{l}.b1"), &[d])?;
            layout.push(format!("mlp.{l}.w2"), &[d, d])?;
            layout.push(format!("mlp.{l}.b2"), &[d])?;
        }
        layout.push("W", &[d, vocab])?;
        let trainable = vec![true; layout.blocks().len()];
        let kernels = Kernels::from_env()?;
        Ok(MlpTransformer { kernels, vocab, seq_len, heads, init, layout, trainable })
    }

    /// Width d of the residual stream.
    pub fn width(&self) -> usize {
        self.vocab + self.seq_len
    }

    fn top(&self) -> usize {
        self.heads.len() - 1
    }

    /// Queries of layer l if the top layer has `rows`.
    fn queries(&self, l: usize, rows: usize) -> usize {
        if l == self.top() { rows } else { self.seq_len }
    }

    fn at<'a>(&self, pass: &Pass<'a, E>, l: usize) -> At<'a, E> {
        let Pass { params, tokens, n, rows } = *pass;
        At { params, tokens, n, l, rows: self.queries(l, rows) }
    }

    fn block(&self, l: usize, part: Part) -> usize {
        self.before(l) + part as usize
    }

    /// Blocks before those of layer l: embeddings and the layers below.
    fn before(&self, l: usize) -> usize {
        2 + 6 * l
    }

    fn range(&self, l: usize, part: Part) -> Range<usize> {
        self.layout.blocks()[self.block(l, part)].range()
    }

    fn readout(&self) -> Range<usize> {
        self.layout.blocks()[self.before(self.heads.len())].range()
    }

    /// A block as a matrix of d columns.
    fn mat<'p>(&self, params: &'p [E], range: Range<usize>) -> Result<Mat<'p, E>> {
        let d = self.width();
        let rows = range.len() / d;
        Ok(Mat::new(&params[range], rows, d)?)
    }

    /// A_h of layer l, (d, d).
    fn a(&self, l: usize, h: usize) -> Range<usize> {
        let (d, start) = (self.width(), self.range(l, Part::A).start);
        start + h * d * d..start + (h + 1) * d * d
    }

    fn root(&self) -> E {
        E::from_f64((self.width() as f64).sqrt())
    }

    /// h = relu(o U + √d b1) for `o` of m rows; `h` (m, d).
    fn hidden(
        &self,
        at: At<'_, E>,
        o: Mat<'_, E>,
        u: Mat<'_, E>,
        h: &mut [E],
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (root, b1) = (self.root(), &at.params[self.range(at.l, Part::B1)]);
        for row in h.chunks_exact_mut(self.width()) {
            row.iter_mut().zip(b1).for_each(|(h, b)| *h = root * *b);
        }
        let out = MatMut::new(h, o.rows(), self.width())?;
        self.kernels.gemm(Write::Add, E::ONE, o, u, out, kernel)?;
        self.kernels.relu(h);
        Ok(())
    }

    /// From the gradient `dy` (m, d) of h W2 + √d b2 those of W2, b2 and b1; `dh` (m, d) becomes
    /// that of what the rectifier took.
    fn mlp_backward(
        &self,
        at: At<'_, E>,
        h: &[E],
        dy: &[E],
        dh: &mut [E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (k, d, l) = (&self.kernels, self.width(), at.l);
        let m = h.len() / d;
        if out.active[self.block(l, Part::B2)] {
            k.column_sums(dy, self.root(), out.write, &mut out.grad[self.range(l, Part::B2)])?;
        }
        let (rows, dy) = (Mat::new(h, m, d)?, Mat::new(dy, m, d)?);
        if out.active[self.block(l, Part::W2)] {
            let dw2 = MatMut::new(&mut out.grad[self.range(l, Part::W2)], d, d)?;
            k.gemm(out.write, E::ONE, rows.t(), dy, dw2, kernel)?;
        }
        let w2 = self.mat(at.params, self.range(l, Part::W2))?;
        k.gemm(Write::Set, E::ONE, dy, w2.t(), MatMut::new(dh, m, d)?, kernel)?;
        k.relu_backward(h, dh)?;
        if out.active[self.block(l, Part::B1)] {
            k.column_sums(dh, self.root(), out.write, &mut out.grad[self.range(l, Part::B1)])?;
        }
        Ok(())
    }

    /// From `du`, the gradient of U = V W1, those of V and W1.
    fn product_backward(
        &self,
        at: At<'_, E>,
        du: &[E],
        out: &mut Out<'_, E>,
        kernel: &mut Scratch<E>,
    ) -> Result<()> {
        let (k, d, l) = (&self.kernels, self.width(), at.l);
        let wide = du.len() / d;
        let du = Mat::new(du, wide, d)?;
        let v = self.mat(at.params, self.range(l, Part::V))?;
        let w1 = self.mat(at.params, self.range(l, Part::W1))?;
        if out.active[self.block(l, Part::V)] {
            let dv = MatMut::new(&mut out.grad[self.range(l, Part::V)], wide, d)?;
            k.gemm(out.write, E::ONE, du, w1.t(), dv, kernel)?;
        }
        if out.active[self.block(l, Part::W1)] {
            let dw1 = MatMut::new(&mut out.grad[self.range(l, Part::W1)], d, d)?;
            k.gemm(out.write, E::ONE, v.t(), du, dw1, kernel)?;
        }
        Ok(())
    }

    /// True if the gradient of U = V W1 of layer l is needed.
    fn product_wanted(&self, l: usize, out: &Out<'_, E>) -> bool {
        [Part::V, Part::W1].into_iter().any(|part| out.active[self.block(l, part)])
    }
}

impl<E: Elem> Model<E> for MlpTransformer<E> {
    fn name(&self) -> &'static str {
        "mlp_transformer"
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn seq_len(&self) -> usize {
        self.seq_len
    }
    fn vocab(&self) -> usize {
        self.vocab
    }
    fn heads(&self) -> &[usize] {
        &self.heads
    }
    fn trainable(&self) -> &[bool] {
        &self.trainable
    }

    fn initial(&self, draw: &dyn Draw) -> Vec<E> {
        let mut params = vec![E::ZERO; self.layout.len()];
        let unit = 1.0 / (self.width() as f64).sqrt();
        for block in self.layout.blocks() {
            let name = block.name();
            let sd = match name {
                "wte" | "wpe" => unit,
                _ if name.starts_with("V.") || name.ends_with(".w1") => unit,
                _ if name.starts_with("A.") => self.init,
                _ => 0.0,
            };
            if sd > 0.0 {
                block.range().for_each(|i| params[i] = E::from_f64(sd * draw.normal(i as u64)));
            }
        }
        params
    }

    fn workspace_len(&self, targets: Targets, seqs: usize) -> Option<WorkspaceLen> {
        workspace_len(self, targets, seqs)
    }

    fn loss_and_grad(
        &self,
        params: &[E],
        batch: &Batch,
        active: &[bool],
        ws: &mut Workspace<E>,
        grad: &mut [E],
    ) -> Result<Sum> {
        loss_and_grad(self, params, batch, active, ws, grad)
    }

    fn report(&self, params: &[E], batch: &Batch, ws: &mut Workspace<E>, out: &mut Report) -> Result<()> {
        report(self, params, batch, ws, out)
    }

    fn attention(&self, params: &[E], tokens: &[u32], ws: &mut Workspace<E>, out: &mut [f64]) -> Result<()> {
        attention(self, params, tokens, ws, out)
    }

    /// E A_h Eᵀ of the first layer, E = \[wte; wpe\].
    fn first_layer_scores(&self, params: &[f64]) -> Option<FirstLayerScores> {
        if params.len() != self.layout.len() {
            return None;
        }
        let (own, values) = one_hot_coordinates(&self.layout, params).ok()??;
        let scores = values[own.find("A.0")?.range()].to_vec();
        Some(FirstLayerScores { scores, by_position: false })
    }
}
