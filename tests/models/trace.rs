//! The plain pass against the fast one, for every model and option; replaced activations against
//! the parameters that say the same; means against a formula; operands that do not fit.

use super::gradients::random_batch;
use crate::support::noise;
use popgrad::batch::{Batch, Targets};
use popgrad::model::trace::{Kind, Patch, Trace, With};
use popgrad::model::{MODELS, Model, Report, Spec};

const KINDS: [Targets; 2] = [Targets::Law, Targets::Labels];
const S: usize = 3;
const T: usize = 5;

fn spec(model: &str, rest: &str) -> Spec {
    toml::from_str(&format!("model = \"{model}\"\n{rest}")).unwrap()
}

/// Every model, with every option that its equations depend on.
fn specs() -> Vec<Spec> {
    let mut all = vec![spec("simplified", "eps = 0.05"), spec("simplified", "eps = 0.0")];
    for heads in ["[1]", "[1, 1]", "[2, 1]", "[1, 2]", "[1, 2, 1]"] {
        for model in ["disentangled", "mlp_transformer"] {
            all.push(spec(model, &format!("heads = {heads}")));
        }
    }
    let feeds = ["none", "linear", "relu"];
    for (i, positions) in ["random", "sincos", "rotary"].into_iter().enumerate() {
        for (j, output) in ["free", "frozen", "tied", "tied_frozen"].into_iter().enumerate() {
            let (ff1, ff2, scale) = (feeds[(i + j) % 3], feeds[(i + 2 * j) % 3], (i + j) % 2 == 0);
            all.push(spec(
                "memory",
                &format!(
                    "dim = 6\nff1 = \"{ff1}\"\nff2 = \"{ff2}\"\npositions = \"{positions}\"\noutput = \
                     \"{output}\"\nscale_scores = {scale}"
                ),
            ));
        }
    }
    for block in ["public", "standard", "postnorm"] {
        for (i, ff) in feeds.into_iter().enumerate() {
            for norm in [true, false] {
                let (layers, heads) = ([1, 2, 3][i], [3, 2, 1][i]);
                let (positions, output) =
                    (["learned", "sincos"][i % 2], ["free", "tied", "tied_frozen"][(i + layers) % 3]);
                all.push(spec(
                    "transformer",
                    &format!(
                        "dim = 6\nlayers = {layers}\nheads = [{heads}]\nblock = \"{block}\"\nff = \
                         \"{ff}\"\nnorm = {norm}\npositions = \"{positions}\"\noutput = \"{output}\""
                    ),
                ));
            }
        }
    }
    all
}

fn params(model: &dyn Model<f64>, seed: u64) -> Vec<f64> {
    let mut draw = noise(seed);
    (0..model.layout().len()).map(|_| 0.7 * draw()).collect()
}

/// The fast model's report.
fn fast(model: &dyn Model<f64>, params: &[f64], batch: &Batch) -> Report {
    let mut ws = model.workspace(batch.kind(), batch.seqs()).unwrap();
    let mut report = Report::new(model, batch.kind(), batch.seqs(), true, true);
    model.report(params, batch, &mut ws, &mut report).unwrap();
    report
}

/// The plain pass's.
fn plain(trace: &Trace, params: &[f64], batch: &Batch, patches: &[Patch<'_>]) -> Report {
    let mut report = Report::new(trace.model(), batch.kind(), batch.seqs(), true, true);
    trace.report(params, batch, patches, &mut report).unwrap();
    report
}

#[track_caller]
fn near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = a == b || (a - b).abs() <= 1e-12 * (1.0 + b.abs());
        assert!(same, "{what}, entry {i}: {a} and {b}");
    }
}

/// Places attended to most are equal, or get the same attention: without positions (`rotary`) equal
/// tokens at the start of a sequence leave equal streams, and rounding decides.
#[track_caller]
fn same_places(
    model: &dyn Model<f64>,
    params: &[f64],
    batch: &Batch,
    (found, expected): (&[u32], &[u32]),
    what: &str,
) {
    let n = batch.seqs();
    let maps = found.len() / (n * T);
    let (mut ws, mut attention) = (model.workspace(Targets::Law, 1).unwrap(), vec![0.0; maps * T * T]);
    for b in 0..n {
        model.attention(params, batch.sequence(b), &mut ws, &mut attention).unwrap();
        for (m, i) in (0..maps).flat_map(|m| (0..T).map(move |i| (m, i))) {
            let at = (m * n + b) * T + i;
            let of = |to: &[u32]| attention[(m * T + i) * T + to[at] as usize];
            assert!((of(found) - of(expected)).abs() < 1e-14, "{what}: map {m}, query {i}");
        }
    }
}

#[test]
fn the_plain_pass_is_the_fast_one() {
    let mut names: Vec<&str> = specs().iter().map(Spec::name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), MODELS.len(), "every model");
    for spec in specs() {
        let trace = Trace::new(&spec, S, T).unwrap();
        let (model, what) = (trace.model(), format!("{spec:?}"));
        let params = params(model, 3);
        for kind in KINDS.into_iter().filter(|k| model.accepts(*k).is_ok()) {
            let batch = random_batch(kind, 5, 7, T, S);
            let (found, expected) = (plain(&trace, &params, &batch, &[]), fast(model, &params, &batch));
            near(&found.losses, &expected.losses, &what);
            near(&found.probs, &expected.probs, &what);
            assert_eq!(found.predicted, expected.predicted, "{what}");
            same_places(model, &params, &batch, (&found.attended, &expected.attended), &what);
        }
        // Every activation is shown, in order, with its size; patterns are those of the model.
        let tokens = [0, 2, 1, 1, 2];
        let mut seen = Vec::new();
        let mut maps = Vec::new();
        trace
            .forward(&params, &tokens, &mut |at, x| {
                seen.push((at, x.len()));
                if trace.points()[at].kind == Kind::Pattern {
                    maps.extend_from_slice(x);
                }
            })
            .unwrap();
        let expected: Vec<_> = trace.points().iter().map(|p| p.len()).enumerate().collect();
        assert_eq!(seen, expected, "{what}");
        let mut attention = vec![f64::NAN; maps.len()];
        model
            .attention(&params, &tokens, &mut model.workspace(Targets::Law, 1).unwrap(), &mut attention)
            .unwrap();
        near(&maps, &attention, &what);
    }
}

/// Parameters that do what taking out `name` does, where there are any: the columns or blocks that
/// nothing but this head's output meets are 0.
fn without(spec: &Spec, trace: &Trace, params: &[f64], layer: usize, kind: Kind) -> Vec<f64> {
    let (layout, mut params) = (trace.model().layout(), params.to_vec());
    let mut clear = |name: String, keep: &dyn Fn(usize) -> bool| {
        let block = layout.find(&name).unwrap_or_else(|| panic!("no block {name}"));
        let values = params[block.range()].iter_mut().enumerate();
        values.filter(|(i, _)| !keep(*i)).for_each(|(_, p)| *p = 0.0);
    };
    let none = |_: usize| false;
    match (spec, kind) {
        (Spec::Simplified(_), _) => clear("A2".into(), &none),
        (Spec::Disentangled(d), Kind::Head(h)) => {
            // Columns of the stream that hold this output, and what later layers copy of them.
            let mut width = S + T;
            let mut dead: Vec<bool> = Vec::new();
            for (l, heads) in d.heads.iter().enumerate() {
                let next: Vec<bool> = if l < layer {
                    vec![false; width * (1 + heads)]
                } else if l == layer {
                    let own = |c: usize| (width * (1 + h)..width * (2 + h)).contains(&c);
                    (0..width * (1 + heads)).map(own).collect()
                } else {
                    dead.repeat(1 + heads)
                };
                width = next.len();
                dead = next;
                if l < layer {
                    continue;
                }
                let (w, gone) = (width, dead.clone());
                if l + 1 < d.heads.len() {
                    clear(format!("A.{}", l + 1), &move |i| !gone[i % w] && !gone[i / w % w]);
                } else {
                    clear("W".into(), &move |i| !gone[i / S]);
                }
            }
        }
        (Spec::MlpTransformer(_), Kind::Head(h)) => {
            let d = S + T;
            clear(format!("V.{layer}"), &move |i| i / (d * d) != h);
        }
        (Spec::MlpTransformer(_), Kind::Mlp) => {
            clear(format!("mlp.{layer}.w2"), &none);
            clear(format!("mlp.{layer}.b2"), &none);
        }
        (Spec::Memory(_), Kind::Head(_)) => clear(format!("layers.{layer}.attention.wo.weight"), &none),
        (Spec::Transformer(t), Kind::Head(h)) => {
            let (d, each) = (t.dim, t.dim / trace.model().heads()[layer]);
            clear(format!("layers.{layer}.attention.wo.weight"), &move |i| i % d / each != h);
        }
        (Spec::Memory(_) | Spec::Transformer(_), Kind::Mlp) => {
            let names = [format!("layers.{layer}.ff.weight"), format!("layers.{layer}.ff.w2.weight")];
            names.into_iter().filter(|n| layout.find(n).is_some()).for_each(|n| clear(n, &none));
        }
        (_, other) => panic!("{other:?} is no component"),
    }
    params
}

#[test]
fn a_component_of_zeros_is_the_fast_model_without_its_parameters() {
    for spec in specs() {
        let trace = Trace::new(&spec, S, T).unwrap();
        let model = trace.model();
        let params = params(model, 11);
        for kind in KINDS.into_iter().filter(|k| model.accepts(*k).is_ok()) {
            let batch = random_batch(kind, 6, 5, T, S);
            let whole = plain(&trace, &params, &batch, &[]);
            for (at, point) in trace.points().iter().enumerate().filter(|(_, p)| p.is_component()) {
                let what = format!("{} of {spec:?}", point.name);
                let found = plain(&trace, &params, &batch, &[Patch { point: at, with: With::Zero }]);
                if matches!(spec, Spec::Simplified(_)) && point.layer == Some(1) {
                    // Nothing is predicted: −Σ y ln ε.
                    let eps: f64 = if what.contains("0.05") { 0.05 } else { 0.0 };
                    assert!(found.losses.iter().all(|l| (l + eps.ln()).abs() < 1e-12 || *l == -eps.ln()));
                    continue;
                }
                let edited = without(&spec, &trace, &params, point.layer.unwrap(), point.kind);
                let expected = fast(model, &edited, &batch);
                near(&found.losses, &expected.losses, &what);
                near(&found.probs, &expected.probs, &what);
                // It does something.
                let moved = found.probs.iter().zip(&whole.probs).any(|(a, b)| (a - b).abs() > 1e-6);
                assert!(moved, "{what}");
            }
        }
    }
}

#[test]
fn an_activation_goes_on_through_everything_after_it() {
    for spec in specs() {
        let trace = Trace::new(&spec, S, T).unwrap();
        let (model, what) = (trace.model(), format!("{spec:?}"));
        let (own, other) = (params(model, 1), params(model, 2));
        let tokens = [0, 2, 1, 1, 2, 1, 0, 0, 2, 1];
        let cache = trace.cache(&own, &tokens).unwrap();
        for (at, point) in trace.points().iter().enumerate() {
            assert_eq!(cache[at].len(), 2 * point.len());
            // Its own value changes nothing; the same parameters' neither.
            for with in [With::Value(&cache[at][point.len()..]), With::Params(&own)] {
                let out = trace.patched(&own, &tokens[T..], &[Patch { point: at, with }], &mut |_, _| ());
                assert_eq!(out.unwrap(), cache.last().unwrap()[T * S..], "{what} {}", point.name);
            }
        }
        // From another model's stream on everything is the other's, where only what follows it
        // has parameters of its own.
        let theirs = trace.cache(&other, &tokens[..T]).unwrap();
        let last = trace.points().len() - 1;
        let patch = [Patch { point: last, with: With::Params(&other) }];
        let mut after = Vec::new();
        let out = trace.patched(&own, &tokens[..T], &patch, &mut |at, x| {
            if at == last {
                after = x.to_vec();
            }
        });
        assert_eq!((&out.unwrap(), &after), (&theirs[last], &theirs[last]), "{what}");
    }
}

#[test]
fn another_runs_first_head_is_that_of_its_parameters() {
    // The stream before layer 0 has no parameters in `disentangled`; in the others E is shared.
    for (spec, blocks) in [
        (spec("disentangled", "heads = [2, 1]"), vec!["A.0"]),
        (
            spec("memory", "dim = 6\nff2 = \"relu\""),
            vec![
                "layers.0.attention.wk.weight",
                "layers.0.attention.wv.weight",
                "layers.0.attention.wo.weight",
            ],
        ),
        (spec("mlp_transformer", "heads = [1, 1]"), vec!["A.0", "V.0"]),
    ] {
        let trace = Trace::new(&spec, S, T).unwrap();
        let (model, layout) = (trace.model(), trace.model().layout());
        let (own, drawn) = (params(model, 8), params(model, 9));
        // Another run that shares what is not in `blocks`, and beside them in layer 1.
        let mut other = own.clone();
        for name in blocks.iter().copied().chain(["A.1", "layers.1.attention.wk.weight"]) {
            if let Some(block) = layout.find(name) {
                other[block.range()].copy_from_slice(&drawn[block.range()]);
            }
        }
        let mut edited = own.clone();
        for name in &blocks {
            let range = layout.find(name).unwrap().range();
            edited[range.clone()].copy_from_slice(&drawn[range]);
        }
        let heads = trace.points().iter().enumerate();
        let heads = heads.filter(|(_, p)| p.layer == Some(0) && matches!(p.kind, Kind::Head(_)));
        let patches: Vec<_> = heads.map(|(point, _)| Patch { point, with: With::Params(&other) }).collect();
        for kind in KINDS {
            let batch = random_batch(kind, 4, 6, T, S);
            let found = plain(&trace, &own, &batch, &patches);
            near(&found.losses, &fast(model, &edited, &batch).losses, &format!("{spec:?}"));
            assert_ne!(found.losses, plain(&trace, &own, &batch, &[]).losses);
        }
    }
}

#[test]
fn misfits_are_typed_errors() {
    let trace = Trace::new(&spec("disentangled", "heads = [1]"), S, T).unwrap();
    let (good, tokens) = (params(trace.model(), 1), [0, 1, 2, 0, 1]);
    let error = |result: popgrad::Result<Vec<f64>>| result.unwrap_err().to_string();
    let mut nothing = |_: usize, _: &mut [f64]| ();
    assert!(error(trace.forward(&good[1..], &tokens, &mut nothing)).starts_with("params length: "));
    assert!(error(trace.forward(&good, &tokens[1..], &mut nothing)).starts_with("T: 4 tokens"));
    let two = [tokens, tokens].concat();
    assert!(error(trace.forward(&good, &two, &mut nothing)).starts_with("T: 10"));
    assert!(error(trace.forward(&good, &[0, 1, 3, 0, 1], &mut nothing)).starts_with("tokens: 3"));
    let mut with = |point, with| error(trace.patched(&good, &tokens, &[Patch { point, with }], &mut nothing));
    assert!(with(99, With::Zero).starts_with("activation: 99"));
    assert!(with(1, With::Value(&[1.0])).starts_with("patch: 1 values"));
    assert!(with(1, With::Params(&[1.0])).starts_with("params length"));
    assert!(trace.cache(&good, &[]).is_err());
    let e = trace.find("layer0.head1.out").unwrap_err().to_string();
    assert!(e.contains("unknown activation `layer0.head1.out`") && e.contains("layer0.head0.out"), "{e}");
}
