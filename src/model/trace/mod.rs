//! A plain forward pass, one sequence at a time, in f64, that shows every activation under a stable
//! name and lets it be changed on the way.
//!
//! | name | shape | what |
//! |---|---|---|
//! | `embed` | (T, d₀) | what layer 0 reads: embeddings, or one-hot tokens and positions |
//! | `layer{l}.pattern` | (H, T, T) | attention probabilities; rows are queries, 0 at masked keys |
//! | `layer{l}.head{h}.out` | (T, d) | what head h contributes, behind its output matrix if any |
//! | `layer{l}.mlp.hidden` | (T, m) | rectified units |
//! | `layer{l}.mlp.out` | (T, d) | what the feed-forward part adds to the stream |
//! | `layer{l}.resid` | (T, d_{l+1}) | the residual stream after layer l |
//! | `logits` | (T, S) | before the softmax; `simplified` has `probs` instead, its output f |
//!
//! Layers and heads count from 0. Where a head's contribution goes: `memory` and `transformer` add
//! it to the stream, `disentangled` appends it, `mlp_transformer` sums it over heads and feeds it
//! to the MLP; in `simplified` layer 0 has Σ_j M_ij e_{s_j} and layer 1 f itself, both (T, S), and
//! there is no stream. Every query is computed, also where targets are laws and only the last one
//! has an output.
//!
//! The pass is slow and says the equations of each model's header once more; tests hold it against
//! [`Model::report`]. A change goes on through everything that is computed from the activation:
//! this is an intervention on activations, not on parameters.
//!
//! ```
//! use popgrad::model::trace::{Patch, Trace, With};
//! use popgrad::model::{DisentangledSpec, Spec};
//!
//! // One head in each of two layers over 3 symbols and 4 tokens.
//! let trace = Trace::new(&Spec::Disentangled(DisentangledSpec::new(&[1, 1])), 3, 4)?;
//! let params = vec![0.1; trace.model().layout().len()];
//! let tokens = [0, 2, 1, 0];
//! let cache = trace.cache(&params, &tokens)?;
//! let pattern = trace.find("layer0.pattern")?;
//! assert_eq!(cache[pattern].len(), 4 * 4);
//! // The logits without what layer 1's head appends.
//! let head = Patch { point: trace.find("layer1.head0.out")?, with: With::Zero };
//! let logits = trace.patched(&params, &tokens, &[head], &mut |_, _| ())?;
//! assert_ne!(logits, cache[trace.find("logits")?]);
//! # Ok::<(), popgrad::Error>(())
//! ```

mod disentangled;
mod memory;
mod mlp_transformer;
mod pass;
mod simplified;
mod transformer;

use super::outputs::{Scored, argmax};
use super::{Model, Report, Spec, check_operands};
use crate::batch::{Batch, Targets};
use crate::num::ln;
use crate::{Error, Result};
use pass::Pass;
use popgrad_kernels::{Kernels, Mat, MatMut};

/// The kind of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What layer 0 reads.
    Embed,
    /// Attention probabilities of a layer.
    Pattern,
    /// What this head contributes.
    Head(usize),
    /// Rectified units of a feed-forward part.
    Hidden,
    /// What a feed-forward part adds.
    Mlp,
    /// The residual stream after a layer.
    Stream,
    /// Logits, or f of `simplified`.
    Output,
}

/// An activation of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its stable name.
    pub name: String,
    /// Its shape for one sequence, row-major.
    pub shape: Vec<usize>,
    /// The layer, from 0; `None` before the first and after the last.
    pub layer: Option<usize>,
    /// What it is.
    pub kind: Kind,
}

impl Point {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if it is a part of the model that an ablation takes out: a head, or a feed-forward
    /// part.
    pub fn is_component(&self) -> bool {
        matches!(self.kind, Kind::Head(_) | Kind::Mlp)
    }
}

/// What an activation is replaced by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum With<'a> {
    /// Zeros.
    Zero,
    /// These values, the same for every sequence.
    Value(&'a [f64]),
    /// The same activation at these parameters, on the same sequence.
    Params(&'a [f64]),
}

/// A replacement of one activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patch<'a> {
    /// Index in [`Trace::points`]; see [`Trace::find`].
    pub point: usize,
    /// What takes its place.
    pub with: With<'a>,
}

/// Called at every activation, in the order of [`Trace::points`], with its index and its values,
/// which it may change.
pub type Hook<'a> = dyn FnMut(usize, &mut [f64]) + 'a;

/// The plain forward pass of a model.
pub struct Trace {
    spec: Spec,
    model: Box<dyn Model<f64>>,
    kernels: Kernels<f64>,
    points: Vec<Point>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("spec", &self.spec).field("points", &self.points.len()).finish()
    }
}

impl Trace {
    /// The pass of the model of `spec` over `vocab` symbols (S) on sequences of `seq_len` tokens
    /// (T).
    ///
    /// # Errors
    /// As [`Spec::build`].
    pub fn new(spec: &Spec, vocab: usize, seq_len: usize) -> Result<Self> {
        let model = spec.build::<f64>(vocab, seq_len)?;
        let mut points = Points { all: Vec::new(), t: seq_len, s: vocab };
        match spec {
            Spec::Disentangled(_) => disentangled::points(model.heads(), &mut points),
            Spec::Simplified(_) => simplified::points(&mut points),
            Spec::MlpTransformer(_) => mlp_transformer::points(model.heads(), &mut points),
            Spec::Memory(spec) => memory::points(spec, &mut points),
            Spec::Transformer(spec) => transformer::points(spec, model.heads(), &mut points),
        }
        Ok(Trace { spec: spec.clone(), model, kernels: Kernels::from_env()?, points: points.all })
    }

    /// The model: layout, sizes, heads.
    pub fn model(&self) -> &dyn Model<f64> {
        self.model.as_ref()
    }

    /// The activations, in the order in which a pass computes them.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The index of the activation called `name`.
    ///
    /// # Errors
    /// A name that this model lacks.
    pub fn find(&self, name: &str) -> Result<usize> {
        let found = self.points.iter().position(|p| p.name == name);
        found.ok_or_else(|| Error::unknown("activation", name, self.points.iter().map(|p| p.name.as_str())))
    }

    /// The last activation (T, S) of one sequence of T tokens, after `hook` has seen, and maybe
    /// changed, every activation.
    ///
    /// # Errors
    /// Parameters or tokens that do not fit the model.
    pub fn forward(&self, params: &[f64], tokens: &[u32], hook: &mut Hook<'_>) -> Result<Vec<f64>> {
        self.check(params, tokens)?;
        if tokens.len() != self.model.seq_len() {
            let allowed = format!("{} for this model", self.model.seq_len());
            return Err(Error::invalid("T", tokens.len().to_string(), allowed));
        }
        let mut pass = Pass::new(self, params, tokens, hook);
        let out = match &self.spec {
            Spec::Disentangled(_) => disentangled::forward(&mut pass),
            Spec::Simplified(_) => simplified::forward(&mut pass),
            Spec::MlpTransformer(_) => mlp_transformer::forward(&mut pass),
            Spec::Memory(spec) => memory::forward(spec, &mut pass),
            Spec::Transformer(spec) => transformer::forward(spec, &mut pass),
        }?;
        debug_assert_eq!(pass.seen(), self.points.len(), "every activation is shown");
        Ok(out)
    }

    /// As [`Trace::forward`] with some activations replaced; `hook` sees what took their place.
    /// Later patches of the same activation overwrite earlier ones.
    ///
    /// # Errors
    /// As [`Trace::forward`]; a patch of an activation that does not exist, or of another size.
    pub fn patched(
        &self,
        params: &[f64],
        tokens: &[u32],
        patches: &[Patch<'_>],
        hook: &mut Hook<'_>,
    ) -> Result<Vec<f64>> {
        let mut values = Vec::with_capacity(patches.len());
        for patch in patches {
            values.push(self.value(patch, tokens)?);
        }
        self.forward(params, tokens, &mut |at, x| {
            for (patch, value) in patches.iter().zip(&values).filter(|(p, _)| p.point == at) {
                match (patch.with, value) {
                    (With::Value(value), _) => x.copy_from_slice(value),
                    (_, Some(value)) => x.copy_from_slice(value),
                    (_, None) => x.fill(0.0),
                }
            }
            hook(at, x);
        })
    }

    /// Checks a patch; the activation of other parameters, where it asks for one.
    fn value(&self, patch: &Patch<'_>, tokens: &[u32]) -> Result<Option<Vec<f64>>> {
        let Some(point) = self.points.get(patch.point) else {
            let allowed = format!("below {}, the number of activations", self.points.len());
            return Err(Error::invalid("activation", patch.point.to_string(), allowed));
        };
        match patch.with {
            With::Zero => Ok(None),
            With::Value(value) if value.len() == point.len() => Ok(None),
            With::Value(value) => {
                let allowed = format!("{} for {}", point.len(), point.name);
                Err(Error::invalid("patch", format!("{} values", value.len()), allowed))
            }
            With::Params(params) => {
                let mut found = Vec::new();
                self.forward(params, tokens, &mut |at, x| {
                    if at == patch.point {
                        found = x.to_vec();
                    }
                })?;
                Ok(Some(found))
            }
        }
    }

    /// Every activation on sequences `tokens` (n, T): for each point an array (n, shape of the
    /// point).
    ///
    /// # Errors
    /// As [`Trace::forward`].
    pub fn cache(&self, params: &[f64], tokens: &[u32]) -> Result<Vec<Vec<f64>>> {
        self.check(params, tokens)?;
        let mut all = vec![Vec::new(); self.points.len()];
        for tokens in tokens.chunks(self.model.seq_len()) {
            self.forward(params, tokens, &mut |at, x| all[at].extend_from_slice(x))?;
        }
        Ok(all)
    }

    /// Fills `report` as [`Model::report`] does, with some activations replaced. A law that
    /// `simplified` gives no mass has the loss −ln ε; its f is not taken in logarithms here.
    ///
    /// # Errors
    /// As [`Trace::patched`]; a batch or a report that does not fit the model.
    pub fn report(
        &self,
        params: &[f64],
        batch: &Batch,
        patches: &[Patch<'_>],
        report: &mut Report,
    ) -> Result<()> {
        let model = self.model();
        check_operands(model, params, batch)?;
        let (n, o, t, s) = (batch.seqs(), batch.outputs(), batch.len_tokens(), batch.vocab());
        report.check(batch, model.heads().iter().sum())?;
        let positions: Vec<usize> = (t - o..t).collect();
        let mut probs = vec![0.0; o * s];
        for b in 0..n {
            let (tokens, attended) = (batch.sequence(b), &mut report.attended);
            let mut map = 0;
            let out = self.patched(params, tokens, patches, &mut |at, x| {
                if self.points[at].kind != Kind::Pattern || attended.is_empty() {
                    return;
                }
                for pattern in x.chunks_exact(t * t) {
                    let to = &mut attended[(map * n + b) * t..][..t];
                    let rows = pattern.chunks_exact(t).enumerate();
                    to.iter_mut().zip(rows).for_each(|(to, (i, row))| *to = argmax(&row[..=i]));
                    map += 1;
                }
            })?;
            let (out, losses) = (&out[(t - o) * s..], &mut report.losses[b * o..(b + 1) * o]);
            match &self.spec {
                Spec::Simplified(spec) => {
                    probs.copy_from_slice(out);
                    losses[0] = 0.0;
                    for (y, f) in batch.law(b).iter().zip(out).filter(|(y, _)| **y != 0.0) {
                        losses[0] -= y * ln(f + spec.eps);
                    }
                }
                _ => {
                    let (logits, probs) = (Mat::new(out, o, s)?, MatMut::new(&mut probs, o, s)?);
                    Scored::of(batch, b).losses(&self.kernels, &positions, logits, losses, probs)?;
                }
            }
            let predicted = &mut report.predicted[b * o..(b + 1) * o];
            predicted.iter_mut().zip(probs.chunks_exact(s)).for_each(|(to, p)| *to = argmax(p));
            if !report.probs.is_empty() {
                report.probs[b * o * s..(b + 1) * o * s].copy_from_slice(&probs);
            }
        }
        Ok(())
    }

    /// p̂ (rows, S) from rows of the last activation: the softmax of logits, or f itself.
    ///
    /// # Errors
    /// Not whole rows.
    pub fn probabilities(&self, output: &[f64]) -> Result<Vec<f64>> {
        let (s, mut p) = (self.model.vocab(), output.to_vec());
        let rows = MatMut::new(&mut p, output.len() / s, s)?;
        if !matches!(self.spec, Spec::Simplified(_)) {
            self.kernels.softmax_rows(rows)?;
        }
        Ok(p)
    }

    /// A report of the right size for [`Trace::report`].
    pub fn new_report(&self, targets: Targets, seqs: usize, attended: bool) -> Report {
        Report::new(self.model(), targets, seqs, attended, false)
    }

    /// Refuses parameters of another model and tokens that are no symbols.
    fn check(&self, params: &[f64], tokens: &[u32]) -> Result<()> {
        let (s, t, len) = (self.model.vocab(), self.model.seq_len(), self.model.layout().len());
        if params.len() != len {
            let allowed = format!("{len} for this model");
            return Err(Error::invalid("params length", params.len().to_string(), allowed));
        }
        if tokens.is_empty() || !tokens.len().is_multiple_of(t) {
            let allowed = format!("whole sequences of {t}");
            return Err(Error::invalid("T", format!("{} tokens", tokens.len()), allowed));
        }
        match tokens.iter().find(|z| **z as usize >= s) {
            Some(z) => Err(Error::invalid("tokens", z.to_string(), format!("0 <= symbol < {s}"))),
            None => Ok(()),
        }
    }
}

/// The list of a model's activations, while it is made.
struct Points {
    all: Vec<Point>,
    t: usize,
    s: usize,
}

impl Points {
    fn push(&mut self, layer: Option<usize>, kind: Kind, shape: &[usize]) {
        let own = match kind {
            Kind::Embed => "embed".into(),
            Kind::Pattern => "pattern".into(),
            Kind::Head(h) => format!("head{h}.out"),
            Kind::Hidden => "mlp.hidden".into(),
            Kind::Mlp => "mlp.out".into(),
            Kind::Stream => "resid".into(),
            Kind::Output => "logits".into(),
        };
        let name = layer.map_or(own.clone(), |l| format!("layer{l}.{own}"));
        self.all.push(Point { name, shape: shape.to_vec(), layer, kind });
    }

    fn embed(&mut self, d: usize) {
        self.push(None, Kind::Embed, &[self.t, d]);
    }

    /// The pattern of `heads` heads and what each contributes.
    fn attention(&mut self, l: usize, heads: usize, d: usize) {
        self.push(Some(l), Kind::Pattern, &[heads, self.t, self.t]);
        (0..heads).for_each(|h| self.push(Some(l), Kind::Head(h), &[self.t, d]));
    }

    /// A feed-forward part, with its hidden units if it has any.
    fn mlp(&mut self, l: usize, hidden: Option<usize>, d: usize) {
        if let Some(m) = hidden {
            self.push(Some(l), Kind::Hidden, &[self.t, m]);
        }
        self.push(Some(l), Kind::Mlp, &[self.t, d]);
    }

    fn stream(&mut self, l: usize, d: usize) {
        self.push(Some(l), Kind::Stream, &[self.t, d]);
    }

    fn output(&mut self) {
        self.push(None, Kind::Output, &[self.t, self.s]);
    }
}
