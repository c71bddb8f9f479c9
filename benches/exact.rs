//! Loss and both gradients on the exact population in f64, on the threads of rayon's pool.
//! Throughput is in words (sequences).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use popgrad::exact::{Orbits, Prior, RootLaw, Tree, quadrature};
use popgrad::task::Forest;

/// A1 as after some training: the parent of a chain attended to, the rest uneven.
fn a1(t: usize) -> Vec<f64> {
    (0..t * t).map(|at| f64::from(u8::from(at / t == at % t + 1)) + 0.1 * (at * 7 % 5) as f64).collect()
}

fn dirichlet(s: usize) -> Prior {
    Prior::dirichlet(s, 0.1, RootLaw::Uniform).expect("alpha > 0")
}

/// All queries: A2 is no multiple of the identity.
fn tree(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exact/tree");
    let sizes: [(usize, &[usize]); 3] =
        [(2, &[14, 16, 18, 20, 22, 24]), (3, &[8, 10, 12, 14]), (4, &[8, 9, 10, 11, 12])];
    for (s, lengths) in sizes {
        for &t in lengths {
            let forest = Forest::chain(t).expect("T >= 2");
            let mut tree = Tree::<f64>::new(&forest, &dirichlet(s), 1e-2, false).expect("a small population");
            let a1 = a1(t);
            let mut a2: Vec<f64> = (0..s * s).map(|at| 2.0 * f64::from(u8::from(at / s == at % s))).collect();
            a2[1] = 0.25;
            group.throughput(Throughput::Elements(tree.words()));
            group.bench_function(BenchmarkId::from_parameter(format!("S{s}/T{t}")), |b| {
                b.iter(|| tree.gradients(&a1, &a2).expect("operands that fit").loss);
            });
        }
    }
    group.finish();
}

/// Stationary roots at S = 2: 5 · 12² atoms, setup and evaluation apart.
fn quadrature_prior(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exact/stationary");
    let (t, a1, a2) = (20, a1(20), [2.0, 0.25, 0.0, 2.0]);
    let forest = Forest::chain(t).expect("T >= 2");
    let prior = Prior::from(quadrature::stationary_pairs(0.1, 12).expect("alpha > 0"));
    group.bench_function("setup/S2/T20", |b| {
        b.iter(|| Tree::<f64>::new(&forest, &prior, 1e-2, false).expect("a small population").words());
    });
    let mut tree = Tree::<f64>::new(&forest, &prior, 1e-2, false).expect("a small population");
    group.throughput(Throughput::Elements(tree.words()));
    group.bench_function("gradients/S2/T20", |b| {
        b.iter(|| tree.gradients(&a1, &a2).expect("operands that fit").loss);
    });
    group.finish();
}

fn orbits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exact/orbits");
    for (s, t) in [(3, 12), (5, 10), (10, 10), (10, 11), (10, 12), (65, 12)] {
        let forest = Forest::chain(t).expect("T >= 2");
        let mut orbits = Orbits::<f64>::new(&forest, &dirichlet(s), 1e-2, false).expect("a small population");
        let a1 = a1(t);
        group.throughput(Throughput::Elements(orbits.words()));
        group.bench_function(BenchmarkId::from_parameter(format!("S{s}/T{t}")), |b| {
            b.iter(|| orbits.gradients(&a1, 2.0).expect("operands that fit").loss);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = tree, quadrature_prior, orbits
}
criterion_main!(benches);
