//! Loss and gradient sums over all words, one query, f64, one thread; throughput is in words.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use popgrad_kernels::prefix_tree::{Accumulator, Plan, Shape, Walk, Weights};
use popgrad_kernels::{Kernels, Mat, Scratch};

/// Symbols, word lengths with the query.
const SIZES: [(usize, &[usize]); 3] = [(2, &[14, 16, 18, 20, 22]), (3, &[8, 10, 12]), (4, &[8, 9, 10])];

/// The natural one, unless BELOW names the positions below the prefix.
fn prefix_len(shape: &Shape<'_>) -> usize {
    let below = std::env::var("BELOW").ok().and_then(|x| x.parse::<usize>().ok());
    below.map_or(shape.natural_prefix_len(), |x| shape.parents.len() - x)
}

fn prefix_tree(criterion: &mut Criterion) {
    let kernels = Kernels::<f64>::from_env().expect("an instruction set of this CPU");
    for (graph, parent) in [
        ("chain", (|i: usize| i.checked_sub(1)) as fn(usize) -> Option<usize>),
        ("star", |i| if i == 0 { None } else { Some(0) }),
    ] {
        let mut group = criterion.benchmark_group(format!("prefix_tree/{graph}"));
        for (s, lengths) in SIZES {
            for &t in lengths {
                let n = t - 1;
                let parents: Vec<Option<usize>> = (0..n).map(parent).collect();
                // Uniform rows, as at the start of training.
                let mix: Vec<f64> = (0..t * t).map(|at| 1.0 / (at / t + 1) as f64).collect();
                let table: Vec<f64> = (0..s).map(|c| if c == 0 { 2.0 } else { 0.1 * c as f64 }).collect();
                let words = (s as u64).pow(n as u32);
                let shape = Shape { symbols: s, parents: &parents, root_counts: false, canonical: None };
                let plan = Plan::new(&shape, prefix_len(&shape), Plan::class_limit::<f64>(0.01))
                    .expect("a shape in range");
                let walk = Walk {
                    plan: &plan,
                    query: 0,
                    table: &table,
                    mix: Mat::new(&mix, t, t).expect("T x T entries"),
                    eps: 0.01,
                    weights: Weights::Dirichlet { alpha: 0.1, shared_roots: false },
                };
                let mut scratch = Scratch::new(kernels.prefix_tree_scratch(&walk).expect("a walk in range"));
                let mut acc = Accumulator::new(s, t);
                group.throughput(Throughput::Elements(words));
                group.bench_function(BenchmarkId::from_parameter(format!("S{s}/T{t}")), |b| {
                    b.iter(|| {
                        acc.clear();
                        let all = 0..plan.prefixes();
                        kernels.prefix_tree(&walk, all, &mut acc, &mut scratch).expect("operands that fit");
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = prefix_tree
}
criterion_main!(benches);
