//! Products, attention, the exact loss and samplers.

use super::process::ToArray;
use super::{Case, Check, Race};
use crate::Result;
use crate::batch::Batch;
use crate::exact::{Prior, RootLaw, Tree, TreeLaw, WordLaw};
use crate::report::arrays::Array;
use crate::rng::{Key, Purpose};
use crate::source::{LossOn, Sampled, Source, TriggerSource};
use crate::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use crate::task::{CausalTree, Corpus, Forest, Roots, TriggerBigram};
use popgrad_kernels::{
    Attention, Kernels, KvGrad, Mat, MatMut, Mats, MatsMut, Queries, Save, Saved, Scratch, Write,
};
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

/// Largest difference from a rival that computes in f32, relative to the size of the numbers: sums
/// of a few thousand terms, in another order.
pub(super) const SINGLE: f64 = 1e-4;
const DOUBLE: f64 = 1e-10;

/// Numbers of a gradient of keys or values that stay in the second-level cache.
const LOT: usize = 1 << 15;

pub(super) fn all(race: &mut Race<'_>) -> Result<()> {
    for n in [16, 64, 256] {
        product(race, n)?;
    }
    for [count, t, d] in [[1024, 20, 30], [64, 256, 128], [64, 256, 32], [16, 1024, 64], [8, 4096, 64]] {
        attention(race, count, t, d)?;
    }
    for t in [12, 16, 20] {
        population(race, 2, t)?;
    }
    sample_causal(race)?;
    sample_trigger(race)
}

/// Entries in [-1, 1), from a stream that differs by `salt`.
fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| ((i + salt) * 7919 % 1009) as f32 / 504.5 - 1.0).collect()
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// C = A B of square matrices; ours is one plain call, on one thread.
fn product(race: &mut Race<'_>, n: usize) -> Result<()> {
    let name = format!("product {n}x{n}x{n}");
    if !race.wants(&name) || race.options.threads > 1 {
        return Ok(());
    }
    let kernels = Kernels::<f32>::from_env()?;
    let (a, b) = (numbers(n * n, 0), numbers(n * n, 5));
    let (mut c, mut scratch) = (vec![0.0; n * n], Scratch::new(kernels.gemm_scratch(n, n, n)));
    let inputs = vec![("a".into(), a.to_array(&[n, n])?), ("b".into(), b.to_array(&[n, n])?)];
    let mut call = |c: &mut [f32]| {
        let (a, b) = (Mat::new(black_box(&a), n, n)?, Mat::new(&b, n, n)?);
        kernels.gemm(Write::Set, 1.0, a, b, MatMut::new(c, n, n)?, &mut scratch)
    };
    call(&mut c)?;
    let check = Check::Numbers(vec![("c".into(), widened(&c), SINGLE)]);
    let call = Box::new(move || Ok(call(&mut c)?));
    race.case(Case { name, dtype: "f32", kind: "product", config: json!({}), inputs, check, call })
}

/// One thread's problems.
struct Part {
    scratch: Scratch<f32>,
    out: Vec<f32>,
    kept: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Causal attention, forward and backward.
fn attention(race: &mut Race<'_>, count: usize, t: usize, d: usize) -> Result<()> {
    let name = format!("attention {count}x{t}x{d}, forward and backward");
    if !race.wants(&name) {
        return Ok(());
    }
    let kernels = Kernels::<f32>::from_env()?;
    let scale = 1.0 / (d as f32).sqrt();
    let n = count * t * d;
    let operands: Vec<Vec<f32>> = (0..4).map(|salt| numbers(n, 31 * salt)).collect();
    let mut inputs = Vec::new();
    for (name, x) in ["q", "k", "v", "dout"].into_iter().zip(&operands) {
        inputs.push((name.into(), x.to_array(&[count, t, d])?));
    }
    // Short sequences keep their probabilities, as training does.
    let keep_all = t <= 256;
    let each = count.div_ceil(race.options.threads);
    let part = |first: usize| {
        let problems = each.min(count - first);
        let rows = || vec![0.0; problems * t * d];
        Part {
            scratch: Scratch::new(kernels.attention_scratch(t, t, d, d)),
            out: rows(),
            kept: vec![0.0; problems * t * if keep_all { t } else { 2 }],
            dq: rows(),
            dk: rows(),
            dv: rows(),
        }
    };
    let mut parts: Vec<Part> = (0..count).step_by(each).map(part).collect();
    let width = if keep_all { t } else { 2 };
    // Problems `at ..` of an array with `cols` columns.
    fn some<'a>(x: &'a [f32], [at, n, t, cols]: [usize; 4]) -> Result<Mats<'a, f32>> {
        Ok(Mats::new(&x[at * t * cols..(at + n) * t * cols], [n, t, cols], t * cols, cols)?)
    }
    let problem = |at: usize, n: usize| -> Result<Attention<'_, f32>> {
        let of = |i: usize| some(&operands[i], [at, n, t, d]);
        Ok(Attention { q: of(0)?, k: of(1)?, v: of(2)?, scale, queries: Queries::Last })
    };
    let run = |first: usize, part: &mut Part| -> Result<()> {
        let all = part.out.len() / (t * d);
        let keep = MatsMut::new(&mut part.kept, [all, t, width], t * width, width)?;
        let keep = if keep_all { Save::Probs(keep) } else { Save::Rows(keep) };
        let out = MatsMut::new(&mut part.out, [all, t, d], t * d, d)?;
        kernels.attention(&problem(first, all)?, out, keep, &mut part.scratch)?;
        // Gradients of keys and values are added to. They are set to zero shortly before, so that
        // they are in cache then.
        let lot = (LOT / (t * d)).clamp(1, all);
        for at in (0..all).step_by(lot) {
            let n = lot.min(all - at);
            let kept = some(&part.kept, [at, n, t, width])?;
            let kept = if keep_all { Saved::Probs(kept) } else { Saved::Rows(kept) };
            let (out, dout) = (some(&part.out, [at, n, t, d])?, some(&operands[3], [first + at, n, t, d])?);
            let of = at * t * d..(at + n) * t * d;
            let (dk, dv) = (&mut part.dk[of.clone()], &mut part.dv[of.clone()]);
            dk.fill(0.0);
            dv.fill(0.0);
            let grad = |x| MatsMut::new(x, [n, t, d], t * d, d);
            let dkv = KvGrad::Separate { dk: Some(grad(dk)?), dv: Some(grad(dv)?) };
            let (dq, x) = (grad(&mut part.dq[of])?, problem(first + at, n)?);
            kernels.attention_backward(&x, kept, out, dout, dq, dkv, &mut part.scratch)?;
        }
        Ok(())
    };
    let both = |parts: &mut [Part]| -> Result<()> {
        parts.par_iter_mut().enumerate().try_for_each(|(i, part)| run(i * each, part))
    };
    both(&mut parts)?;
    let join = |name: &str, of: fn(&Part) -> &[f32]| {
        (name.to_string(), parts.iter().flat_map(|p| widened(of(p))).collect(), SINGLE)
    };
    let check = Check::Numbers(vec![
        join("out", |p| &p.out),
        join("dq", |p| &p.dq),
        join("dk", |p| &p.dk),
        join("dv", |p| &p.dv),
    ]);
    let config = json!({ "scale": scale });
    let call = Box::new(|| both(&mut parts));
    race.case(Case { name, dtype: "f32", kind: "attention", config, inputs, check, call })
}

/// Loss and both gradients over the whole population of a chain, weights given.
fn population(race: &mut Race<'_>, s: usize, t: usize) -> Result<()> {
    let name = format!("exact loss and gradients, chain S={s} T={t}");
    if !race.wants(&name) {
        return Ok(());
    }
    let (alpha, eps) = (0.1, 0.01);
    let (forest, prior) = (Forest::chain(t)?, Prior::dirichlet(s, alpha, RootLaw::Uniform)?);
    let mut tree = Tree::<f64>::new(&forest, &prior, eps, false)?;
    let words = s.pow(t as u32);
    let mut weights = vec![0.0; words * s];
    TreeLaw::new(forest.clone(), prior.clone())?.weights(0, &mut weights);
    let a1: Vec<f64> = (0..t * t).map(|i| (i * 37 % 101) as f64 / 101.0).collect();
    // Not bI + c: every query counts.
    let a2: Vec<f64> = (0..s * s).map(|i| (i * 53 % 97) as f64 / 97.0).collect();
    let inputs = vec![
        ("weights".into(), weights.to_array(&[words, s])?),
        ("a1".into(), a1.to_array(&[t, t])?),
        ("a2".into(), a2.to_array(&[s, s])?),
    ];
    drop(weights);
    let ours = tree.gradients(&a1, &a2)?;
    // Ours are those of -L.
    let negative = |x: &[f64]| x.iter().map(|x| -x).collect::<Vec<_>>();
    let check = Check::Numbers(vec![
        ("loss".into(), vec![ours.loss], DOUBLE),
        ("grad:a1".into(), negative(&ours.a1), DOUBLE),
        ("grad:a2".into(), negative(&ours.a2), DOUBLE),
    ]);
    let config = json!({ "vocab": s, "len": t, "eps": eps });
    let call = Box::new(move || {
        black_box(tree.gradients(&a1, &a2)?.loss);
        Ok(())
    });
    race.case(Case { name, dtype: "f64", kind: "population", config, inputs, check, call })
}

/// A batch that is drawn by all threads, each its share.
struct Draws<'a> {
    source: &'a (dyn Source + 'a),
    parts: Vec<(Batch, crate::source::SourceWork)>,
    next: u64,
}

impl<'a> Draws<'a> {
    fn new(source: &'a dyn Source, count: usize, threads: usize) -> Result<Self> {
        let each = count.div_ceil(threads);
        let part = |first: usize| {
            let mut batch = source.batch(each)?;
            batch.set_seqs(each.min(count - first));
            Ok((batch, source.work()))
        };
        let parts = (0..count).step_by(each).map(part).collect::<Result<_>>()?;
        Ok(Draws { source, parts, next: 0 })
    }

    fn draw(&mut self) {
        let mut firsts = Vec::with_capacity(self.parts.len());
        for (batch, _) in &self.parts {
            firsts.push(self.next);
            self.next += batch.seqs() as u64;
        }
        self.parts.par_iter_mut().zip(firsts).for_each(|((batch, work), first)| {
            let count = batch.seqs();
            self.source.fill(first, count, work, batch);
        });
    }
}

/// Share of the positions at which something is so, from sequences of equal length.
fn share(tokens: &[f64], len: usize, is: impl Fn(&[f64], usize) -> bool) -> f64 {
    let (mut yes, mut all) = (0.0, 0.0);
    for sequence in tokens.chunks_exact(len) {
        for i in 1..len {
            yes += f64::from(is(sequence, i));
            all += 1.0;
        }
    }
    yes / all
}

/// Do two estimates of the same share agree? Sequences are independent, their positions are not, so
/// the number of sequences is what counts; six standard errors of the difference at most.
fn agree(what: &str, theirs: f64, ours: f64, sequences: usize) -> std::result::Result<(), String> {
    let most = 6.0 * (2.0 * 0.25 / sequences as f64).sqrt();
    if (theirs - ours).abs() <= most {
        return Ok(());
    }
    Err(format!("{what}: {theirs:.4}, ours {ours:.4}, at most {most:.4} apart"))
}

fn array<'a>(arrays: &'a BTreeMap<String, Array>, name: &str) -> std::result::Result<&'a Array, String> {
    arrays.get(name).ok_or_else(|| format!("no {name}"))
}

/// 1,024 sequences of a chain.
fn sample_causal(race: &mut Race<'_>) -> Result<()> {
    let (s, t, alpha, count) = (10, 20, 0.1, 1024);
    let name = format!("sampling {count}, chain S={s} T={t}");
    if !race.wants(&name) {
        return Ok(());
    }
    let task = CausalTree::new(Forest::chain(t)?, s, alpha, Roots::Stationary)?;
    let source = Sampled::new(task, Key::new(0, Purpose::Train));
    let mut many = source.batch(4 * count)?;
    source.fill(0, 4 * count, &mut source.work(), &mut many);
    // Mass that laws put on their largest entry, and repetitions within the context.
    let peaked = |laws: &[f64]| {
        let most = |law: &[f64]| law.iter().copied().fold(0.0, f64::max);
        laws.chunks_exact(s).map(most).sum::<f64>() / (laws.len() / s) as f64
    };
    let again = |w: &[f64], i: usize| i + 1 < t && w[i] == w[i - 1];
    let tokens: Vec<f64> = many.tokens().iter().map(|x| f64::from(*x)).collect();
    let ours = (peaked(many.laws()), share(&tokens, t, again));
    let check = Check::Draws(Box::new(move |theirs| {
        let (laws, tokens) = (array(theirs, "laws")?.to_f64_vec(), array(theirs, "tokens")?.to_f64_vec());
        if laws.len() != count * s || tokens.len() != count * t {
            return Err("laws or tokens of another shape".into());
        }
        if !laws.chunks_exact(s).all(|l| (l.iter().sum::<f64>() - 1.0).abs() <= 1e-5) {
            return Err("laws: one does not sum to 1".into());
        }
        agree("largest entry of a law", peaked(&laws), ours.0, count)?;
        agree("positions that repeat", share(&tokens, t, again), ours.1, count)
    }));
    let parents: Vec<i64> = (0..t as i64 - 1).map(|i| i - 1).collect();
    let config =
        json!({ "vocab": s, "len": t, "alpha": alpha, "parents": parents, "count": count, "seed": 0 });
    let mut draws = Draws::new(&source, count, race.options.threads)?;
    let call = Box::new(move || {
        draws.draw();
        Ok(())
    });
    let inputs = vec![("nothing".into(), Array::vector(vec![0.0f32]))];
    race.case(Case { name, dtype: "f64", kind: "sample-causal", config, inputs, check, call })
}

/// 512 sequences of trigger bigrams over the shipped text.
fn sample_trigger(race: &mut Race<'_>) -> Result<()> {
    let (t, triggers, count) = (256, 5, 512);
    let corpus = Corpus::shipped();
    let n = corpus.vocab();
    let name = format!("sampling {count}, trigger bigrams N={n} T={t}");
    if !race.wants(&name) {
        return Ok(());
    }
    let laws = Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?;
    let outputs = OutputLaw { law: Outputs::Uniform, no_repeat: false, allowed: Vec::new() };
    let task = TriggerBigram::new(laws, t, Triggers::Random { count: triggers }, outputs)?;
    let source = TriggerSource::new(Arc::new(task), Key::new(0, Purpose::Train), LossOn::All);
    let mut many = source.batch(4 * count)?;
    source.fill(0, 4 * count, &mut source.work(), &mut many);
    let tokens: Vec<f64> = many.tokens().iter().map(|x| f64::from(*x)).collect();
    let again = |w: &[f64], i: usize| w[i] == w[i - 1];
    let space = tokens.iter().fold(BTreeMap::new(), |mut found, x| {
        *found.entry(*x as u64).or_insert(0usize) += 1;
        found
    });
    // The most frequent symbol, and how often it comes.
    let (symbol, _) = space.iter().max_by_key(|(_, n)| **n).map_or((0, 0), |(s, n)| (*s, *n));
    let is = move |w: &[f64], i: usize| w[i] == symbol as f64;
    let ours = (share(&tokens, t, again), share(&tokens, t, is));
    let check = Check::Draws(Box::new(move |theirs| {
        let tokens = array(theirs, "tokens")?.to_f64_vec();
        if tokens.len() != count * (t + 1) {
            return Err("tokens of another shape".into());
        }
        agree("positions that repeat", share(&tokens, t + 1, again), ours.0, count)?;
        agree("the most frequent symbol", share(&tokens, t + 1, is), ours.1, count)
    }));
    let inputs = vec![
        ("unigram".into(), corpus.unigram_law().to_array(&[n])?),
        ("bigram".into(), corpus.bigram_law().to_array(&[n, n])?),
    ];
    let config = json!({ "count": count, "len": t, "triggers": triggers, "seed": 0 });
    let mut draws = Draws::new(&source, count, race.options.threads)?;
    let call = Box::new(move || {
        draws.draw();
        Ok(())
    });
    race.case(Case { name, dtype: "f64", kind: "sample-trigger", config, inputs, check, call })
}
