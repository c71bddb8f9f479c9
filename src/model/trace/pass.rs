//! What the passes of all models are made of.

use super::{Hook, Trace};
use crate::{Error, Result};
use popgrad_kernels::{Mat, MatMut, Scratch, Write};

/// A pass over one sequence.
pub(super) struct Pass<'a, 'h> {
    trace: &'a Trace,
    params: &'a [f64],
    pub(super) tokens: &'a [u32],
    hook: &'a mut Hook<'h>,
    scratch: Scratch<f64>,
    /// Activations that the hook has seen.
    next: usize,
}

impl<'a, 'h> Pass<'a, 'h> {
    pub(super) fn new(
        trace: &'a Trace,
        params: &'a [f64],
        tokens: &'a [u32],
        hook: &'a mut Hook<'h>,
    ) -> Self {
        Pass { trace, params, tokens, hook, scratch: Scratch::new(0), next: 0 }
    }

    pub(super) fn seen(&self) -> usize {
        self.next
    }

    /// T.
    pub(super) fn t(&self) -> usize {
        self.tokens.len()
    }

    /// S.
    pub(super) fn s(&self) -> usize {
        self.trace.model.vocab()
    }

    /// Heads of each layer.
    pub(super) fn heads(&self) -> &'a [usize] {
        self.trace.model.heads()
    }

    /// Shows the next activation.
    pub(super) fn see(&mut self, x: &mut [f64]) {
        debug_assert_eq!(x.len(), self.trace.points[self.next].len(), "{:?}", self.trace.points[self.next]);
        (self.hook)(self.next, x);
        self.next += 1;
    }

    /// The values of block `name`.
    pub(super) fn block(&self, name: &str) -> Result<&'a [f64]> {
        let block = self.trace.model.layout().find(name);
        let block = block.ok_or_else(|| Error::invalid("block", name, "a block of this model"))?;
        Ok(&self.params[block.range()])
    }

    /// The same as a matrix of `cols` columns.
    pub(super) fn matrix(&self, name: &str, cols: usize) -> Result<Mat<'a, f64>> {
        let block = self.block(name)?;
        Ok(Mat::new(block, block.len() / cols, cols)?)
    }

    /// a b.
    pub(super) fn product(&mut self, a: Mat<'_, f64>, b: Mat<'_, f64>) -> Result<Vec<f64>> {
        let (m, k, n, kernels) = (a.rows(), a.cols(), b.cols(), &self.trace.kernels);
        self.scratch.reserve(kernels.gemm_scratch(m, k, n));
        let mut out = vec![0.0; m * n];
        kernels.gemm(Write::Set, 1.0, a, b, MatMut::new(&mut out, m, n)?, &mut self.scratch)?;
        Ok(out)
    }

    /// x (T, d) times a matrix (d, n).
    pub(super) fn times(&mut self, x: &[f64], w: Mat<'_, f64>) -> Result<Vec<f64>> {
        self.product(Mat::new(x, x.len() / w.rows(), w.rows())?, w)
    }

    /// Attention probabilities of scores (H, T, T), keys after the query left out; shown as the
    /// pattern of a layer.
    pub(super) fn pattern(&mut self, mut scores: Vec<f64>) -> Result<Vec<f64>> {
        let t = self.t();
        for (r, row) in scores.chunks_exact_mut(t).enumerate() {
            row[r % t + 1..].fill(f64::NEG_INFINITY);
        }
        let rows = scores.len() / t;
        self.trace.kernels.softmax_rows(MatMut::new(&mut scores, rows, t)?)?;
        self.see(&mut scores);
        Ok(scores)
    }

    /// The stream that starts with one-hot tokens, and with one-hot positions behind them if `d`
    /// has room for them: (T, d), shown as `embed`.
    pub(super) fn one_hot(&mut self, d: usize) -> Vec<f64> {
        let (t, s) = (self.t(), self.s());
        let mut x = vec![0.0; t * d];
        for (i, (row, token)) in x.chunks_exact_mut(d).zip(self.tokens).enumerate() {
            row[*token as usize] = 1.0;
            if d > s {
                row[s + i] = 1.0;
            }
        }
        self.see(&mut x);
        x
    }

    /// Rows of embeddings (S, d), and of positions (T, d) if there are any: (T, d), shown as
    /// `embed`.
    pub(super) fn embed(&mut self, tokens: &[f64], positions: &[f64], d: usize) -> Vec<f64> {
        let mut x = Vec::with_capacity(self.t() * d);
        self.tokens.iter().for_each(|z| x.extend_from_slice(&tokens[*z as usize * d..][..d]));
        x.iter_mut().zip(positions).for_each(|(x, p)| *x += p);
        self.see(&mut x);
        x
    }

    /// What h W₁ᵀ .. of a feed-forward part gives for `x` (T, d): W x, or W₂ relu(W₁ x);
    /// shown as `mlp.hidden` and `mlp.out`. `blocks` begins the names of its blocks.
    pub(super) fn feed_forward(&mut self, x: &[f64], d: usize, relu: bool, blocks: &str) -> Result<Vec<f64>> {
        let mut out = if relu {
            let w1 = self.matrix(&format!("{blocks}.w1.weight"), d)?;
            let mut hidden = self.times(x, w1.t())?;
            hidden.iter_mut().for_each(|h| *h = h.max(0.0));
            self.see(&mut hidden);
            let w2 = self.matrix(&format!("{blocks}.w2.weight"), hidden.len() / self.t())?;
            self.times(&hidden, w2.t())?
        } else {
            let w = self.matrix(&format!("{blocks}.weight"), d)?;
            self.times(x, w.t())?
        };
        self.see(&mut out);
        Ok(out)
    }
}

/// x += y.
pub(super) fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Pattern of head `h` (T, T) of those of a layer.
pub(super) fn of_head(pattern: &[f64], h: usize, t: usize) -> Result<Mat<'_, f64>> {
    Ok(Mat::new(&pattern[h * t * t..][..t * t], t, t)?)
}
