//! The population limit g, its χ² and the finite-T gradient, for one π.

use criterion::{Criterion, criterion_group, criterion_main};
use popgrad::exact::counts::leading;
use popgrad::exact::marginals::limit;
use popgrad::exact::transition::Transition;
use popgrad::rng::{Key, Purpose};
use popgrad::task::Forest;

fn transition(s: usize) -> Transition {
    let key = Key::new(1, Purpose::Prior);
    let mut pi: Vec<f64> = (0..s * s).map(|i| 0.05 + key.uniforms(i as u64, 0, 0)[0]).collect();
    for row in pi.chunks_exact_mut(s) {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= total);
    }
    Transition::new(s, &pi).expect("a transition matrix")
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("marginals");
    group.sample_size(10);
    let key = Key::new(2, Purpose::Graph);
    let (s, t) = (64, 256);
    // Two long branches have the most distinct forks.
    let two: Vec<i64> = (0..t as i64 - 1).map(|i| (i - 2).max(i.min(1) - 1)).collect();
    let forests = [
        ("chain", Forest::chain(t)),
        ("icl", Forest::icl(t)),
        ("random", Forest::random(t, &key, 0)),
        ("two_branches", Forest::from_parents(&two)),
    ];
    for (name, forest) in forests {
        let (forest, tr) = (forest.expect("a forest"), transition(s));
        let uniform = vec![1.0 / s as f64; s];
        group.bench_function(format!("limit/{name}/S{s}_T{t}"), |b| b.iter(|| limit(&tr, &forest, None)));
        group.bench_function(format!("limit/{name}/S{s}_T{t}/uniform_roots"), |b| {
            b.iter(|| limit(&tr, &forest, Some(&uniform)));
        });
    }
    for (s, t) in [(2, 128), (3, 64), (10, 32)] {
        for (name, forest) in [("chain", Forest::chain(t)), ("random", Forest::random(t, &key, 0))] {
            let (forest, tr) = (forest.expect("a forest"), transition(s));
            group.bench_function(format!("finite/{name}/S{s}_T{t}"), |b| {
                b.iter(|| leading(&tr, &forest, None, 0.0));
            });
        }
    }
    group.finish();
}

criterion_group!(marginals, benches);
criterion_main!(marginals);
