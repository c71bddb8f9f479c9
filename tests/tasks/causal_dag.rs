//! The task with several parents: its sampler against its law, its law against enumeration, its
//! Bayes answers against both.
//!
//! Seeds are fixed, so nothing here flickers; thresholds are those of the test statistics at p =
//! 10⁻⁶ or beyond.

use popgrad::exact::law::spell;
use popgrad::exact::{DagLaw, Prior, RootLaw, TreeLaw, WordLaw};
use popgrad::rng::{Key, Purpose};
use popgrad::source::{Population, Sampled, Source};
use popgrad::task::bayes_dag::{bayes_one_parent, bayes_previous, bayes_tuples};
use popgrad::task::{CausalDag, Dag, DagRoots, Forest, Task};
use popgrad_kernels::{Isa, Kernels};
use std::collections::HashMap;

const ROOTS: [DagRoots; 2] = [DagRoots::Shared, DagRoots::Uniform];

/// Graphs of every kind: named ones, several roots, parents out of order, arities 0 to 3, a target
/// beside its siblings.
fn graphs() -> Vec<Dag> {
    let mut all: Vec<Dag> = ["-;-;1,0;0;0,1", "-;0;-;2,0;1,3", "-;-;-;0,1,2;2,0;3,1", "-;0;1;0"]
        .iter()
        .map(|t| Dag::parse(t).unwrap())
        .collect();
    all.extend([Dag::two_parents(6).unwrap(), Dag::ngram(5, 1).unwrap(), Dag::ngram(6, 3).unwrap()]);
    all
}

/// (x)_n, the rising factorial.
fn rising(x: f64, n: u32) -> f64 {
    (0..n).map(|k| x + f64::from(k)).product()
}

/// P(word and target symbol b), by the moments of each row: Π_rows Π_b (α)_{n_b} / (Sα)_n. Rows are
/// told apart by the tuple of tokens itself.
fn joint(task: &CausalDag, tokens: &[u32], b: u32) -> f64 {
    let (s, t) = (task.vocab() as f64, task.seq_len());
    let mut rows: HashMap<Vec<u32>, Vec<u32>> = HashMap::new();
    let mut p = 1.0;
    for i in 0..=t {
        let symbol = if i < t { tokens[i] } else { b };
        let tuple: Vec<u32> = task.dag().parents(i).iter().map(|p| tokens[*p]).collect();
        if tuple.is_empty() && task.roots() == DagRoots::Uniform {
            p /= s;
        } else {
            rows.entry(tuple).or_insert_with(|| vec![0; task.vocab()])[symbol as usize] += 1;
        }
    }
    for n in rows.values() {
        p *= n.iter().map(|n| rising(task.alpha(), *n)).product::<f64>()
            / rising(s * task.alpha(), n.iter().sum());
    }
    p
}

/// Every word of the task.
fn words(task: &CausalDag) -> impl Iterator<Item = Vec<u32>> {
    let (s, t) = (task.vocab(), task.seq_len());
    (0..(s as u64).pow(t as u32)).map(move |n| {
        let mut tokens = vec![0; t];
        spell(n, s, &mut tokens);
        tokens
    })
}

#[test]
fn the_law_is_that_of_enumeration() {
    for dag in graphs() {
        for (roots, s, alpha) in [(ROOTS[0], 2, 0.1), (ROOTS[1], 3, 0.7), (ROOTS[0], 3, 2.0)] {
            let task = CausalDag::new(dag.clone(), s, alpha, roots).unwrap();
            let law = DagLaw::new(task.clone());
            let n = s.pow(task.seq_len() as u32);
            let mut found = vec![f64::NAN; n * s];
            law.weights(0, &mut found);
            let total: f64 = found.iter().sum();
            assert!((total - 1.0).abs() < 1e-13, "{dag}: {total}");
            for (tokens, row) in words(&task).zip(found.chunks_exact(s)) {
                for (b, w) in row.iter().enumerate() {
                    let expected = joint(&task, &tokens, b as u32);
                    // 2T + 2 rounded factors on either side.
                    let bound = 8.0 * (task.seq_len() as f64 + 1.0) * f64::EPSILON * expected;
                    assert!((w - expected).abs() <= bound, "{dag} {tokens:?} {b}: {w} {expected}");
                }
            }
            // A word has the same bits wherever the piece begins.
            for first in [1, n / 2, n - 1] {
                let mut piece = vec![f64::NAN; (n - first) * s];
                law.weights(first as u64, &mut piece);
                assert_eq!(piece, found[first * s..], "{dag} from {first}");
            }
        }
    }
}

/// With one parent each, and the query a root beside the target's row, it is the tree's law with a
/// shared root law whose query is not uniform; with uniform roots the two agree entirely.
#[test]
fn with_one_parent_each_it_is_the_tree() {
    for (sets, parents) in [("-;0;-;2;-;4", vec![-1, 0, -1, 2]), ("-;0;1;-;3", vec![-1, 0, 1])] {
        let task = CausalDag::new(Dag::parse(sets).unwrap(), 3, 0.3, DagRoots::Uniform).unwrap();
        let forest = Forest::from_parents(&parents).unwrap();
        let tree = TreeLaw::new(forest, Prior::dirichlet(3, 0.3, RootLaw::Uniform).unwrap()).unwrap();
        let n = 3usize.pow(task.seq_len() as u32) * 3;
        let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
        DagLaw::new(task).weights(0, &mut a);
        tree.weights(0, &mut b);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 64.0 * f64::EPSILON * b));
    }
}

#[test]
fn tuples_are_the_posterior_and_no_baseline_beats_them() {
    for dag in graphs() {
        for roots in ROOTS {
            let task = CausalDag::new(dag.clone(), 3, 0.4, roots).unwrap();
            let (s, k) = (task.vocab(), dag.target().len());
            let mut f = vec![0.0; s];
            let mut losses = vec![0.0; 2 + k];
            for tokens in words(&task) {
                let w: Vec<f64> = (0..s).map(|b| joint(&task, &tokens, b as u32)).collect();
                let p: f64 = w.iter().sum();
                bayes_tuples(&task, &tokens, &mut f);
                for (f, w) in f.iter().zip(&w) {
                    assert!((f - w / p).abs() < 1e-13, "{dag} {roots:?} {tokens:?}");
                }
                for (rule, loss) in losses.iter_mut().enumerate() {
                    match rule {
                        0 => bayes_tuples(&task, &tokens, &mut f),
                        1 => bayes_previous(&task, &tokens, &mut f),
                        _ => bayes_one_parent(&task, rule - 2, &tokens, &mut f),
                    }
                    *loss -= w.iter().zip(&f).map(|(w, f)| w * f.ln()).sum::<f64>();
                }
            }
            assert!(losses[1..].iter().all(|l| *l >= losses[0] - 1e-13), "{dag}: {losses:?}");
            if dag.target().len() == 1 {
                assert!((losses[2] - losses[0]).abs() < 1e-12, "{dag}: one parent is all there is");
            } else {
                // Where (1,0) meets (0,1), both parents agree whenever one does.
                let swapped = dag.to_string() == "-;-;1,0;0;0,1";
                let better = losses[2..].iter().all(|l| *l > losses[0] + 1e-6);
                assert!(better != swapped, "{dag}: {losses:?}");
            }
        }
    }
}

/// Words and mean targets against the law: χ² within its 10⁻⁶ quantiles on either side (Wilson and
/// Hilferty).
#[test]
fn samples_follow_the_law() {
    for (dag, s, alpha) in [
        ("-;-;1,0;0;0,1", 2, 0.5),
        ("-;0;0,1;1,2;1,3;2,4", 2, 1.0),
        ("-;-;-;0,1,2;2,0;3,1", 2, 0.7),
        ("-;0;1,0;2,1", 3, 0.4),
    ] {
        for roots in ROOTS {
            let task = CausalDag::new(Dag::parse(dag).unwrap(), s, alpha, roots).unwrap();
            let t = task.seq_len();
            let (n, cells) = (200_000u32, s.pow(t as u32));
            let mut weights = vec![0.0; cells * s];
            DagLaw::new(task.clone()).weights(0, &mut weights);
            let (mut seen, mut targets) = (vec![0u32; cells], vec![0.0; cells * s]);
            let (mut work, mut x, mut y) = (task.work(), vec![0; t], vec![0.0; s]);
            let key = Key::new(11, Purpose::Test);
            for i in 0..n {
                task.sample(&key, u64::from(i), &mut work, &mut x, &mut y);
                let cell = x.iter().fold(0, |c, x| c * s + *x as usize);
                seen[cell] += 1;
                (0..s).for_each(|b| targets[cell * s + b] += y[b]);
            }
            let (mut chi2, mut worst) = (0.0, 0f64);
            for (cell, w) in weights.chunks_exact(s).enumerate() {
                let expected = f64::from(n) * w.iter().sum::<f64>();
                assert!(expected > 20.0, "{dag}: a cell too rare for the test");
                chi2 += (f64::from(seen[cell]) - expected).powi(2) / expected;
                // E[1[word] π(b)] = W; a target entry is at most 1, so its variance is at most W.
                for (b, w) in w.iter().enumerate() {
                    let z = (targets[cell * s + b] - f64::from(n) * w) / (f64::from(n) * w).sqrt();
                    worst = worst.max(z.abs());
                }
            }
            let df = cells as f64 - 1.0;
            let spread = 2.0 / (9.0 * df);
            let quantile = |z: f64| df * (1.0 - spread + z * spread.sqrt()).max(0.0).powi(3);
            println!("{dag} {roots:?}: chi² {chi2:.1} for {df} degrees of freedom, targets {worst:.2} sd");
            assert!(chi2 > quantile(-4.753) && chi2 < quantile(4.753), "{dag} {roots:?}: {chi2} for {df}");
            assert!(worst < 5.5, "{dag} {roots:?}: {worst}");
        }
    }
}

/// P(s_1 = s_2) of two roots: (1 + α)/(1 + Sα) when they share a law, 1/S when they do not.
#[test]
fn shared_roots_repeat_and_uniform_ones_do_not() {
    let (s, alpha) = (5, 0.1);
    for (roots, expected) in [(ROOTS[0], 1.1 / 1.5), (ROOTS[1], 0.2)] {
        let task = CausalDag::new(Dag::parse("-;-;0,1").unwrap(), s, alpha, roots).unwrap();
        let (mut work, mut x, mut y) = (task.work(), [0; 2], [0.0; 5]);
        let (key, n) = (Key::new(1, Purpose::Train), 50_000);
        let same = (0..n)
            .filter(|i| {
                task.sample(&key, *i, &mut work, &mut x, &mut y);
                x[0] == x[1]
            })
            .count() as f64;
        let z = (same - n as f64 * expected) / (n as f64 * expected * (1.0 - expected)).sqrt();
        assert!(z.abs() < 5.0, "{roots:?}: {} against {expected}", same / n as f64);
    }
}

/// Rows are functions of their address: tasks whose graphs differ, visiting rows in another order,
/// draw the same ones.
#[test]
fn a_row_does_not_depend_on_when_it_is_visited() {
    let (s, alpha, key) = (4, 0.2, Key::new(9, Purpose::Train));
    let task = |text: &str| CausalDag::new(Dag::parse(text).unwrap(), s, alpha, DagRoots::Shared).unwrap();
    let (a, b) = (task("-;0;0,1;1,2;2,3;3,4;4,5"), task("-;-;-;1,0;2,1;0;5,2;3,6"));
    let (mut wa, mut wb, mut y) = (a.work(), b.work(), vec![0.0; s]);
    let (mut xa, mut xb) = (vec![0; a.seq_len()], vec![0; b.seq_len()]);
    let mut shared = 0;
    for n in 0..200 {
        a.sample(&key, n, &mut wa, &mut xa, &mut y);
        assert_eq!(wa.pi(a.row(a.dag().target(), &xa)).unwrap(), y);
        b.sample(&key, n, &mut wb, &mut xb, &mut y);
        assert_eq!(wb.pi(b.row(b.dag().target(), &xb)).unwrap(), y);
        for row in wa.visited() {
            if let Some(other) = wb.pi(*row) {
                assert_eq!(wa.pi(*row).unwrap(), other);
                shared += 1;
            }
        }
        assert!(wa.visited().len() <= a.seq_len() + 1);
        for (i, x) in xa.iter().enumerate() {
            assert!(wa.pi(a.row(a.dag().parents(i), &xa)).unwrap()[*x as usize] > 0.0, "impossible token");
        }
    }
    assert!(shared > 400, "{shared}");
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let task = CausalDag::new(Dag::two_parents(9).unwrap(), 6, 0.1, DagRoots::Shared).unwrap();
    let source = Sampled::new(task, Key::new(5, Purpose::Train));
    let batch = || source.batch(64).unwrap();
    let (mut whole, mut part, mut work) = (batch(), batch(), source.work());
    source.fill(0, 64, &mut work, &mut whole);
    assert!(whole.weights().iter().all(|w| *w == 1.0));
    // The later part first, with fresh storage: neither order nor leftovers matter.
    for (first, count) in [(10, 54), (0, 10), (63, 1), (17, 3)] {
        let mut work = source.work();
        source.fill(first, count, &mut work, &mut part);
        for i in 0..count {
            assert_eq!(part.sequence(i), whole.sequence(first as usize + i));
            assert_eq!(part.law(i), whole.law(first as usize + i));
        }
    }
    source.fill(u64::MAX, 2, &mut work, &mut part);
    assert_eq!(part.sequence(1), whole.sequence(0));
}

/// Side by side on every instruction set, with few rows (drawn whole) and many (drawn token by
/// token): the bits of one sample alone.
#[test]
fn samples_side_by_side_have_the_bits_of_one_alone() {
    let key = Key::new(21, Purpose::Train);
    for (dag, s) in [
        ("-;0;0,1;1,2;1,3;2,4;2,5;3,6;3,7;4,8;4,9", 2),
        ("-;0;0,1;1,2;1,3;2,4;2,5;3,6;3,7;4,8;4,9", 7),
        ("-;-;1,0;0;-;0,1,2;5,4", 3),
        ("-;0;0,1;0,1,2;0,1,2,3;1,2,3,4", 40),
    ] {
        for (roots, alpha) in [(ROOTS[0], 0.1), (ROOTS[1], 0.001), (ROOTS[0], 10.0)] {
            let task = CausalDag::new(Dag::parse(dag).unwrap(), s, alpha, roots).unwrap();
            let (t, n, first) = (task.seq_len(), 37, u64::MAX - 20);
            let (mut xs, mut ys) = (vec![0; n * t], vec![0.0; n * s]);
            let mut work = task.work();
            for (i, (x, y)) in xs.chunks_exact_mut(t).zip(ys.chunks_exact_mut(s)).enumerate() {
                task.sample(&key, first.wrapping_add(i as u64), &mut work, x, y);
            }
            for isa in Isa::available() {
                let mut block = task.block(Kernels::new(isa).unwrap());
                for piece in [37, 1, 3, 8, 20] {
                    let (mut x, mut y) = (vec![u32::MAX; n * t], vec![f64::NAN; n * s]);
                    let rows = x.chunks_mut(piece * t).zip(y.chunks_mut(piece * s));
                    for (i, (x, y)) in rows.enumerate() {
                        task.sample_block(&key, first.wrapping_add((i * piece) as u64), &mut block, x, y);
                    }
                    assert!(x == xs, "{dag} S={s} alpha={alpha} {roots:?} on {isa:?} by {piece}");
                    assert!(y.iter().zip(&ys).all(|(a, b)| a.to_bits() == b.to_bits()), "{dag} {isa:?}");
                }
            }
        }
    }
}

/// The population as a source: probabilities and targets of the law.
#[test]
fn the_exact_source_is_the_law() {
    let task = CausalDag::new(Dag::two_parents(6).unwrap(), 3, 0.4, DagRoots::Shared).unwrap();
    let source = Population::new(&DagLaw::new(task.clone())).unwrap();
    assert_eq!(source.words(), 729);
    assert!((source.weight() - 1.0).abs() < 1e-14);
    let mut batch = source.batch(729).unwrap();
    source.fill(0, 729, &mut source.work(), &mut batch);
    let mut f = [0.0; 3];
    for i in 0..729 {
        bayes_tuples(&task, batch.sequence(i), &mut f);
        assert!(f.iter().zip(batch.law(i)).all(|(f, y)| (f - y).abs() < 1e-14));
    }
}

/// Committed bits; they may change only with an entry under "changes numbers" in CHANGELOG.md.
#[test]
fn samples_keep_their_bits() {
    /// seed, n, alpha, S, graph, roots, tokens, bits of the target's first two entries.
    type Golden<'a> = (u64, u64, f64, usize, &'a str, DagRoots, &'a [u32], [u64; 2]);
    let two_parents = Dag::two_parents(32).unwrap().to_string();
    let golden: [Golden<'_>; 4] = [
        (
            0,
            0,
            0.1,
            5,
            &two_parents,
            DagRoots::Shared,
            &[1, 4, 2, 0, 3, 4, 0, 4, 2, 2, 2, 0, 3, 0, 2, 2, 2, 0, 4, 0, 4, 4, 4, 2, 0, 4, 1, 0, 1, 3, 4, 4],
            [0x3fce41826ca55436, 0x3f1066148539527e],
        ),
        (
            0,
            1023,
            0.1,
            5,
            &two_parents,
            DagRoots::Uniform,
            &[2, 3, 0, 0, 4, 2, 2, 3, 2, 0, 1, 3, 0, 4, 0, 0, 0, 4, 0, 2, 2, 1, 3, 1, 0, 2, 2, 0, 1, 1, 1, 1],
            [0x3ea652f6f07b27cc, 0x3fe5812762915070],
        ),
        (
            42,
            1 << 40,
            0.001,
            3,
            "-;-;1,0;0;-;0,1,2;5,4",
            DagRoots::Shared,
            &[2, 2, 0, 2, 2, 2],
            [0x3ff0000000000000, 0x0000000000000000],
        ),
        (
            7,
            5,
            10.0,
            10,
            "-;0;0,1;0,1,2;1,2,3;2,3,4;3,4,5",
            DagRoots::Uniform,
            &[0, 7, 9, 8, 2, 0],
            [0x3fb261581e2ff06d, 0x3fbde25e529b17ba],
        ),
    ];
    let mut table = String::new();
    let mut same = true;
    for (seed, n, alpha, s, graph, roots, tokens, target_bits) in golden {
        let task = CausalDag::new(Dag::parse(graph).unwrap(), s, alpha, roots).unwrap();
        let (mut work, mut x, mut y) = (task.work(), vec![0; task.seq_len()], vec![0.0; s]);
        task.sample(&Key::new(seed, Purpose::Train), n, &mut work, &mut x, &mut y);
        let bits = [y[0].to_bits(), y[1].to_bits()];
        table += &format!("{x:?}, [{:#018x}, {:#018x}]\n", bits[0], bits[1]);
        same &= x == tokens && bits == target_bits;
    }
    assert!(same, "samples changed; now:\n{table}");
}
