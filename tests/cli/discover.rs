//! `discover`: scores are the model's gradient, errors those of naive loops, roots keep their
//! level, graphs are found; and the command.

use crate::support::one_line;
use popgrad::batch::{Batch, Targets};
use popgrad::discover::{Graph, Labels, Sample, chi2, gradient, null};
use popgrad::model::{SimplifiedSpec, Spec};
use popgrad::rng::{Key, Purpose};
use popgrad::task::{CausalTree, Forest, Roots, Sampler};
use std::path::Path;
use std::process::{Command, Output};

/// Samples of a task, soft labels.
fn drawn(graph: &str, s: usize, t: usize, n: usize, seed: u64) -> (Sample, Forest) {
    let forest = Forest::named(graph, t, seed).unwrap();
    (drawn_on(&forest, s, n, seed), forest)
}

fn drawn_on(forest: &Forest, s: usize, n: usize, seed: u64) -> Sample {
    let t = forest.seq_len();
    let task = CausalTree::new(forest.clone(), s, 0.1, Roots::Stationary).unwrap();
    let (mut tokens, mut y) = (vec![0; n * t], vec![0.0; n * s]);
    task.samples(&Key::new(seed, Purpose::Test), 0, &mut task.new_work(), &mut tokens, &mut y);
    Sample { seqs: n, len: t, symbols: s, tokens, labels: Some(Labels::Soft(y)) }
}

/// −∂L/∂A1 of the simplified model at A1 = 0, A2 = β I.
fn model_gradient(sample: &Sample, eps: f64, beta: f64) -> Vec<f64> {
    let (n, t, s) = (sample.seqs, sample.len, sample.symbols);
    let spec = Spec::Simplified(SimplifiedSpec { eps, ..SimplifiedSpec::default() });
    let model = spec.build::<f64>(s, t).unwrap();
    let mut batch = Batch::with_capacity(Targets::Law, n, t, s).unwrap();
    batch.set_seqs(n);
    let parts = batch.parts_mut();
    parts.tokens.copy_from_slice(&sample.tokens);
    match sample.labels.as_ref().unwrap() {
        Labels::Soft(y) => parts.laws.copy_from_slice(y),
        Labels::Symbols(y) => {
            parts.laws.fill(0.0);
            y.iter().enumerate().for_each(|(k, c)| parts.laws[k * s + *c as usize] = 1.0);
        }
    }
    parts.weights.fill(1.0 / n as f64);
    let mut params = vec![0.0; t * t + s * s];
    (0..s).for_each(|k| params[t * t + k * s + k] = beta);
    let mut ws = model.workspace(Targets::Law, n).unwrap();
    let mut grad = vec![0.0; params.len()];
    model.loss_and_grad(&params, &batch, &[true, false], &mut ws, &mut grad).unwrap();
    grad[..t * t].iter().map(|g| -g).collect()
}

#[test]
fn scores_are_the_models_gradient_to_leading_order() {
    let (soft, _) = drawn("random", 4, 7, 300, 3);
    let hard = Labels::Symbols((0..300).map(|k| (k * 7 % 11 % 4) as u32).collect());
    let hard = Sample { labels: Some(hard), ..soft.clone() };
    for (sample, eps) in [(&soft, 0.0), (&soft, 0.05), (&hard, 0.0), (&hard, 0.3)] {
        let c = gradient::scores(&gradient::moments(sample, eps).unwrap());
        let (t, s, n) = (sample.len, sample.symbols, sample.len - 1);
        // The part odd in β: β c/(S T i) + O(β³).
        let error = |beta: f64| {
            let (up, down) = (model_gradient(sample, eps, beta), model_gradient(sample, eps, -beta));
            let mut worst = 0.0f64;
            for i in 0..n {
                for j in 0..=i {
                    let measured =
                        (up[i * t + j] - down[i * t + j]) / (2.0 * beta) * ((s * t * (i + 1)) as f64);
                    worst = worst.max((measured - c[i * n + j]).abs());
                }
            }
            worst
        };
        let (coarse, fine) = (error(0.04), error(0.01));
        let scale = c.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(fine < 1e-3 * scale, "{fine} against {scale}");
        assert!((coarse / fine / 16.0 - 1.0).abs() < 0.05, "order: {coarse} {fine}");
    }
}

#[test]
fn errors_are_those_of_naive_loops() {
    let (sample, _) = drawn("random", 4, 8, 500, 1);
    let (t, s, n, rows) = (8, 4, 500usize, 7);
    let Some(Labels::Soft(y)) = &sample.labels else { panic!() };
    // u and the hits of every sequence, as the header writes them.
    let (mut u, mut hit) = (vec![], vec![]);
    for k in 0..n {
        let word = &sample.tokens[k * t..][..t];
        let y = &y[k * s..][..s];
        let mu = |c: u32| word.iter().filter(|x| **x == c).count() as f64 / t as f64;
        let r: f64 = (0..s as u32).filter(|c| word.contains(c)).map(|c| y[c as usize]).sum();
        u.push((0..rows).map(|i| s as f64 * (y[word[i] as usize] / mu(word[i]) - r)).collect::<Vec<_>>());
        hit.push((0..rows).map(|j| f64::from(u8::from(word[j] == word[t - 1]))).collect::<Vec<_>>());
    }
    let stats = |x: &dyn Fn(usize) -> f64| {
        let mean = (0..n).map(x).sum::<f64>() / n as f64;
        let var = (0..n).map(|k| (x(k) - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        (mean, (var / n as f64).sqrt())
    };
    let m = gradient::moments(&sample, 0.0).unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-11 * (1.0 + b.abs()), "{a} {b}");
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    for i in 0..rows {
        for j in 0..rows {
            close(m.g[i * rows + j], stats(&|k| u[k][i] * hit[k][j]).0);
            let centred = |k: usize| (u[k][i] - mean(&u[k])) * (hit[k][j] - mean(&hit[k]));
            close(m.se[i * rows + j], stats(&centred).1);
        }
    }
    let graph = gradient::discover(&sample, 0.0, 0.01).unwrap();
    for p in &graph.positions[1..] {
        let (i, b) = (p.position, p.best.unwrap());
        let (score, se) = stats(&|k| u[k][i] * (hit[k][b] - mean(&hit[k][..=i])));
        close(p.score, score);
        close(p.score_se, se);
        if let Some(c) = p.second {
            let (margin, se) = stats(&|k| u[k][i] * (hit[k][b] - hit[k][c]));
            close(p.margin, margin);
            close(p.margin_se, se);
        }
    }
    assert!(graph.positions[0].best.is_none() && graph.positions[1].second.is_none());
}

fn check(graph: &Graph, truth: &Forest) {
    assert_eq!(graph.parents(), truth.parents(), "{:?}", graph.positions);
}

#[test]
fn graphs_are_found_from_4096_sequences() {
    for graph in ["chain", "icl", "random", "many_graphs"] {
        for seed in 0..3 {
            let (sample, forest) = drawn(graph, 10, 20, 4096, seed);
            check(&gradient::discover(&sample, 0.0, 0.001).unwrap(), &forest);
        }
    }
}

#[test]
fn children_of_a_common_parent_are_found() {
    // 19 positions before the query: `children` of `hub`, what is before it a chain, and what is
    // after them a chain or roots.
    let graph = |hub: i64, children: i64, roots: bool| {
        let parent = |i: i64| match i {
            _ if i <= hub => i - 1,
            _ if i <= hub + children => hub,
            _ if roots => -1,
            _ => i - 1,
        };
        Forest::from_parents(&(0..19).map(parent).collect::<Vec<_>>()).unwrap()
    };
    for (hub, children, roots) in [
        (0, 7, false),
        (0, 8, false),
        (0, 9, false),
        (0, 10, false),
        (0, 12, false),
        (0, 15, false),
        (0, 18, false),
        (0, 8, true),
        (0, 12, true),
        (4, 9, false),
        (4, 14, false),
    ] {
        let forest = graph(hub, children, roots);
        let found = gradient::discover(&drawn_on(&forest, 10, 1 << 14, 1), 0.0, 0.001).unwrap();
        assert_eq!(found.parents(), forest.parents(), "{hub} {children} {roots}: {:?}", found.positions);
        // 8 of the 18 other rows are 40%.
        assert_eq!(found.heavy, if children >= 8 { vec![hub as usize] } else { vec![] }, "{hub} {children}");
    }
    // Two parents of nine each.
    let forest = Forest::from_parents(&(0..19).map(|i| (i % 2) - 1 + i64::from(i > 1)).collect::<Vec<_>>());
    let forest = forest.unwrap();
    let found = gradient::discover(&drawn_on(&forest, 10, 1 << 14, 1), 0.0, 0.001).unwrap();
    check(&found, &forest);
}

/// Copies of `row`; the last token is the label.
fn copies(rows: &[&[u32]], times: usize) -> Sample {
    let len = rows[0].len() - 1;
    let all = || (0..times).flat_map(|_| rows.iter());
    let tokens = all().flat_map(|r| r[..len].iter().copied()).collect();
    let labels = Some(Labels::Symbols(all().map(|r| r[len]).collect()));
    Sample { seqs: times * rows.len(), len, symbols: 3, tokens, labels }
}

#[test]
fn sequences_that_do_not_vary_are_no_evidence() {
    for row in
        [&[0, 1, 0, 2, 1, 0, 1, 0, 0][..], &[0, 1, 2, 0, 1, 2, 0, 1, 2, 0], &[2, 2, 1, 0, 0, 1, 2, 1, 1]]
    {
        for times in [2, 50, 1000, 3001] {
            let sample = copies(&[row], times);
            let m = gradient::moments(&sample, 0.0).unwrap();
            assert!(m.se.iter().all(|se| *se == 0.0), "{times}: {:?}", m.se);
            let graph = gradient::discover(&sample, 0.0, 0.01).unwrap();
            assert_eq!(graph.tested, times >= 30);
            for p in &graph.positions {
                assert!(p.parent.is_none() && p.z.is_nan(), "{p:?}");
                assert!(if graph.tested { p.p == 1.0 } else { p.p.is_nan() }, "{p:?}");
            }
        }
    }
}

#[test]
fn a_parents_score_is_positive() {
    // Symbols that stay with probability 1/2: the diagonal outweighs the parent in the first rows.
    let (s, t, n) = (3usize, 12usize, 1usize << 13);
    let key = Key::new(5, Purpose::Probe);
    let (mut tokens, mut y) = (vec![0u32; n * t], vec![0.5 / s as f64; n * s]);
    for e in 0..n * t {
        let [u, v] = key.uniforms(e as u64, 0, 0);
        let stay = e % t > 0 && e % t + 1 < t && u < 0.5;
        tokens[e] = if stay { tokens[e - 1] } else { (v * s as f64) as u32 };
    }
    (0..n).for_each(|k| y[k * s + tokens[k * t + t - 1] as usize] += 0.5);
    let sample = Sample { seqs: n, len: t, symbols: s, tokens, labels: Some(Labels::Soft(y)) };
    let graph = gradient::discover(&sample, 0.0, 0.01).unwrap();
    let mut against = 0;
    for p in &graph.positions[1..] {
        assert_eq!(p.parent.is_some(), p.p <= 0.01 && p.score > 0.0, "{p:?}");
        against += usize::from(p.p <= 0.01 && p.score <= 0.0);
    }
    assert!(against > 0 && graph.parents().iter().flatten().count() > 5, "{:?}", graph.positions);
}

#[test]
fn threads_change_no_bit() {
    let (sample, _) = drawn("random", 5, 12, 5000, 4);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let g = gradient::discover(&sample, 0.0, 0.01).unwrap();
            let c = chi2::discover(&sample, 0.01).unwrap();
            let bits = |g: &Graph| g.scores.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            (bits(&g), bits(&c), format!("{:?}{:?}", g.positions, c.positions))
        })
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

/// Independent tokens, and labels that have nothing to do with them.
fn noise(s: usize, t: usize, n: usize, seed: u64) -> Sample {
    let key = Key::new(seed, Purpose::Probe);
    let token = |e: usize| key.below(s as u64, e as u64, 0, 0) as u32;
    let labels = (0..n).map(|k| key.below(s as u64, k as u64, 1, 0) as u32).collect();
    let tokens = (0..n * t).map(token).collect();
    Sample { seqs: n, len: t, symbols: s, tokens, labels: Some(Labels::Symbols(labels)) }
}

/// Most successes of `tests` at probability .01, but for once in a million: the Poisson law's
/// quantile.
fn most_false(tests: usize) -> usize {
    let mean = 0.01 * tests as f64;
    let (mut term, mut total, mut k) = ((-mean).exp(), (-mean).exp(), 0);
    while 1.0 - total > 1e-6 {
        k += 1;
        term *= mean / k as f64;
        total += term;
    }
    k
}

#[test]
fn roots_keep_their_level() {
    let (mut gradient_false, mut chi2_false) = (0, 0);
    for seed in 0..30 {
        let sample = noise(4, 21, 600, seed);
        let parents = |g: Graph| g.parents().iter().flatten().count();
        gradient_false += parents(gradient::discover(&sample, 0.0, 0.01).unwrap());
        // 570 tests here as there: without the query's row.
        let mut chi2 = chi2::discover(&sample, 0.01).unwrap();
        chi2.positions.pop();
        chi2_false += parents(chi2);
    }
    println!("of 570 roots: gradient {gradient_false}, chi2 {chi2_false} given a parent");
    let most = most_false(570);
    assert_eq!(most, 20);
    assert!(gradient_false <= most && chi2_false <= most, "{gradient_false} {chi2_false}");
}

#[test]
fn roots_of_the_task_keep_their_level_in_short_sequences() {
    for (t, seeds) in [(7, 180), (8, 150), (10, 110), (20, 50)] {
        let forest = Forest::from_parents(&vec![-1; t - 1]).unwrap();
        let tests = seeds * (t - 2);
        let mut given = [0, 0];
        for seed in 0..seeds as u64 {
            let soft = drawn_on(&forest, 3, 1 << 12, seed);
            let key = Key::new(seed, Purpose::Probe);
            let Some(Labels::Soft(y)) = &soft.labels else { panic!() };
            let draw = |(k, row): (usize, &[f64])| {
                let [u, _] = key.uniforms(k as u64, 0, 0);
                u32::from(u > row[0]) + u32::from(u > row[0] + row[1])
            };
            let hard = Labels::Symbols(y.chunks(3).enumerate().map(draw).collect());
            let hard = Sample { labels: Some(hard), ..soft.clone() };
            for (given, sample) in given.iter_mut().zip([&soft, &hard]) {
                let graph = gradient::discover(sample, 0.0, 0.01).unwrap();
                assert!(graph.tested);
                *given += graph.parents().iter().flatten().count();
            }
        }
        println!("T = {t}: soft {}, symbols {} of {tests} roots given a parent", given[0], given[1]);
        assert!(given.iter().all(|g| *g <= most_false(tests)), "T = {t}: {given:?} of {tests}");
    }
}

#[test]
fn samples_too_small_for_a_test_get_no_verdict() {
    for t in 3..=7 {
        for n in [29, 30, 1 << 13] {
            let forest = Forest::from_parents(&vec![-1; t - 1]).unwrap();
            let graph = gradient::discover(&drawn_on(&forest, 4, n, 1), 0.0, 0.01).unwrap();
            assert_eq!(graph.tested, t >= 7 && n >= 30, "{t} {n}");
            if !graph.tested {
                for p in &graph.positions {
                    assert!(p.parent.is_none() && p.p.is_nan() && p.best.is_some() == (p.position > 0));
                }
            }
        }
    }
}

#[test]
fn rare_symbols_keep_their_level_in_pair_counts() {
    for (common, s, n, seeds) in
        [(0.97, 2, 100, 100), (0.85, 4, 400, 60), (0.6, 9, 300, 60), (0.9, 30, 1000, 30)]
    {
        let (t, mut given) = (20, 0);
        for seed in 0..seeds {
            let key = Key::new(seed, Purpose::Probe);
            let token = |e: usize| {
                let [u, v] = key.uniforms(e as u64, 0, 0);
                if u < common { 0 } else { 1 + (v * (s - 1) as f64) as u32 }
            };
            let tokens = (0..n * t).map(token).collect();
            let sample = Sample { seqs: n, len: t, symbols: s, tokens, labels: None };
            given += chi2::discover(&sample, 0.01).unwrap().parents().iter().flatten().count();
        }
        let tests = seeds as usize * (t - 1);
        println!("{common} {s} {n}: {given} of {tests} roots given a parent");
        assert!(given <= most_false(tests), "{common} {s} {n}: {given} of {tests}");
    }
}

#[test]
fn pair_counts_find_a_chain_that_all_sequences_share() {
    // A fixed random matrix over 5 symbols; each sequence a chain of 10 tokens.
    let (s, t, n) = (5usize, 10usize, 3000usize);
    let task = CausalTree::new(Forest::chain(2).unwrap(), s, 0.5, Roots::Uniform).unwrap();
    let (mut work, mut y) = (task.work(), vec![0.0; s]);
    task.sample(&Key::new(2, Purpose::Prior), 0, &mut work, &mut [0; 2], &mut y);
    let key = Key::new(3, Purpose::Probe);
    let mut tokens = vec![0u32; n * t];
    for e in 0..n * t {
        let [u, _] = key.uniforms(e as u64, 0, 0);
        tokens[e] = if e % t == 0 {
            (u * s as f64) as u32
        } else {
            let row = &work.pi()[tokens[e - 1] as usize * s..][..s];
            let mut total = 0.0;
            row.iter()
                .position(|p| {
                    total += p;
                    total > u
                })
                .unwrap_or(s - 1) as u32
        };
    }
    let sample = Sample { seqs: n, len: t, symbols: s, tokens, labels: None };
    let graph = chi2::discover(&sample, 0.01).unwrap();
    let expected: Vec<Option<usize>> = (0..t).map(|i| i.checked_sub(1)).collect();
    assert_eq!(graph.parents(), expected);
    // Standard errors against eight disjoint parts of the sample.
    let parts = 8;
    let part = |k: usize| {
        let m = n / parts;
        let tokens = sample.tokens[k * m * t..(k + 1) * m * t].to_vec();
        chi2::discover(&Sample { seqs: m, tokens, ..sample.clone() }, 0.01).unwrap()
    };
    let all: Vec<Graph> = (0..parts).map(part).collect();
    for i in 2..t {
        let x: Vec<f64> = all.iter().map(|g| g.scores[i * t + i - 1]).collect();
        let mean = x.iter().sum::<f64>() / parts as f64;
        let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (parts - 1) as f64;
        let ratio = (var / parts as f64).sqrt() / graph.positions[i].score_se;
        // χ² with 7 degrees of freedom over 7, and its root: within 0.2 and 2.4 but for once in
        // 10^4.
        assert!((0.2..2.4).contains(&ratio), "position {i}: {ratio}");
    }
}

#[test]
fn polish_takes_row_and_column_effects_and_leaves_an_edge() {
    let n = 9;
    let mut x: Vec<f64> = (0..n * n).map(|e| (e / n) as f64 * 0.7 - (e % n) as f64 * 1.3 + 2.0).collect();
    x[5 * n + 2] += 4.0;
    let mut led = vec![None; n];
    led[5] = Some(2);
    assert!(null::heavy(&led).is_empty());
    let rest = null::polish(&x, n, &led);
    for e in 0..n * n {
        let expected = if e == 5 * n + 2 { 4.0 } else { 0.0 };
        assert!((rest[e] - expected).abs() < 1e-12, "{e}: {}", rest[e]);
    }
    // A column of edges in all rows but its own and two: its effect is taken to be that of the
    // others.
    let mut x: Vec<f64> =
        (0..n * n).map(|e| (e / n) as f64 * 0.7 - f64::from(u8::from(e % n == 1))).collect();
    (3..n).for_each(|i| x[i * n + 1] += 4.0);
    let led: Vec<Option<usize>> = (0..n).map(|i| (i >= 3).then_some(1)).collect();
    assert_eq!(null::heavy(&led), [1]);
    let rest = null::polish(&x, n, &led);
    for e in 0..n * n {
        // Two rows are too few for an effect of its own, −1: it shows in what is left.
        let expected = match (e / n, e % n) {
            (i, 1) if i >= 3 => 3.0,
            (0 | 2, 1) => -1.0,
            _ => 0.0,
        };
        assert!((rest[e] - expected).abs() < 1e-12, "{e}: {}", rest[e]);
    }
}

#[test]
fn tails_of_the_normal_law() {
    // Known to 16 digits.
    for (z, p) in [
        (0.0, 0.5),
        (1.0, 0.158_655_253_931_457_05),
        (2.0, 0.022_750_131_948_179_21),
        (2.9, 0.001_865_813_300_384_037_4),
        (5.0, 2.866_515_718_791_939e-7),
        (10.0, 7.619_853_024_160_527e-24),
        (-1.0, 0.841_344_746_068_542_9),
    ] {
        let found = null::upper_tail(z);
        assert!((found / p - 1.0).abs() < 1e-12, "{z}: {found} {p}");
    }
    assert_eq!(null::upper_tail(60.0), 0.0);
    assert!(null::upper_tail(f64::NAN).is_nan());
}

#[test]
fn bad_samples_are_refused_by_name() {
    let good = noise(3, 4, 10, 0);
    let message = |s: Sample| gradient::discover(&s, 0.0, 0.01).unwrap_err().to_string();
    assert!(message(Sample { labels: None, ..good.clone() }).starts_with("labels: none"));
    assert!(message(Sample { symbols: 2, ..good.clone() }).starts_with("tokens: 2; allowed: 0 to S-1 = 1"));
    assert!(message(Sample { seqs: 9, ..good.clone() }).starts_with("tokens: 40 for 9 x 4"));
    let soft = |y: Vec<f64>| Sample { labels: Some(Labels::Soft(y)), ..good.clone() };
    assert!(message(soft(vec![0.5; 30])).starts_with("labels[0]: sums to 1.5"));
    assert!(message(soft(vec![f64::NAN; 30])).starts_with("labels[0]: holds NaN"));
    assert!(message(soft(vec![1.0; 3])).starts_with("labels: another number"));
    for level in [0.0, 1.0, f64::NAN] {
        assert!(gradient::discover(&good, 0.0, level).unwrap_err().to_string().starts_with("level: "));
    }
    assert!(gradient::discover(&good, f64::NAN, 0.1).unwrap_err().to_string().starts_with("eps: NaN"));
    // Sequences that are all the same carry no evidence and divide by nothing.
    let same = Sample { tokens: vec![1; 40], ..good.clone() };
    assert!(gradient::discover(&same, 0.0, 0.01).unwrap().parents().iter().all(Option::is_none));
    assert!(chi2::discover(&same, 0.01).unwrap().parents().iter().all(Option::is_none));
}

// The command.

fn popgrad(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_popgrad")).arg("discover").args(args).output().unwrap()
}

fn stdout(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout.clone()).unwrap()
}

fn put(dir: &Path, name: &str, text: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_command_finds_and_saves_a_drawn_task_and_reads_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (save, run) = (dir.path().join("s.npz"), dir.path().join("run"));
    let (save, run) = (save.to_str().unwrap(), run.to_str().unwrap());
    let keys = ["graph=icl", "S=6", "T=10", "samples=2^12", "seed=5"];
    let json = stdout(&popgrad(&[&keys[..], &["--json", "--save", save, "--out", run]].concat()));
    let drawn: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(drawn["truth"]["found"], drawn["truth"]["edges"]);
    assert_eq!(drawn["truth"]["false_edges"], 0);
    for name in ["discover.json", "discover.svg", "discover.png"] {
        assert!(Path::new(run).join(name).is_file(), "{name}");
    }
    let json = stdout(&popgrad(&["--tokens", save, "--labels", save, "--json"]));
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["positions"], drawn["positions"]);
    assert!(read.get("truth").is_none());
    // Hard labels as text.
    let text: Vec<String> = (0..200).map(|k| format!("{} {} {}", k % 3, (k / 3) % 3, k % 2)).collect();
    let tokens = put(dir.path(), "t.txt", text.join("\n").as_bytes());
    let labels = put(dir.path(), "y.txt", "0\n1\n".repeat(100).as_bytes());
    assert!(stdout(&popgrad(&["--tokens", &tokens, "--labels", &labels])).contains("position"));
    assert!(stdout(&popgrad(&["--tokens", &tokens])).contains("200 sequences of 2 tokens"));
    let sweep = ["graph=chain", "S=4", "T=8", "samples=2^9", "--sweep", "2"];
    assert_eq!(stdout(&popgrad(&sweep)).lines().count(), 4);
    // What was written stays.
    let kept = std::fs::read(save).unwrap();
    let again = popgrad(&[&keys[..], &["seed=6", "--save", save]].concat());
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("a file that does not exist yet"));
    assert_eq!(kept, std::fs::read(save).unwrap());
}

#[test]
fn the_command_says_where_it_has_no_verdict() {
    let keys = ["graph=chain", "S=4", "T=6", "samples=2^10"];
    let table = stdout(&popgrad(&keys));
    assert!(table.contains("no test: fewer than 7 tokens") && table.contains("       ?     2"), "{table}");
    assert!(table.contains("truth: 4 of 4 edges have the highest score\n"), "{table}");
    let json = stdout(&popgrad(&[&keys[..], &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tested"], false);
    assert!(json["positions"][3]["parent"].is_null() && json["positions"][3]["p"].is_null());
    assert_eq!(json["positions"][3]["best"], 2);
    // Roots have no share of edges; short sequences no verdict.
    let roots = ["parents=-1,-1,-1,-1,-1,-1,-1", "S=3", "samples=2^8", "--sweep", "1"];
    let close = |table: String| table.split_whitespace().collect::<Vec<_>>().join(" ");
    let table = close(stdout(&popgrad(&roots)));
    assert!(table.contains("| 256 | - | - | - |") && !table.contains("NaN"), "{table}");
    let json = stdout(&popgrad(&[&roots[..], &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json[0]["found"].is_null() && json[0]["false_edges"].is_number(), "{json}");
    let short = close(stdout(&popgrad(&["graph=chain", "S=4", "T=6", "samples=2^8", "--sweep", "1"])));
    assert!(short.contains("| 1.000 | - | - | - | - |"), "{short}");
    // A candidate that leads in most rows is named.
    let star = format!("parents=-1{}", ",0".repeat(11));
    let table = stdout(&popgrad(&[&star, "S=5", "samples=2^12"]));
    assert!(table.contains("note: position 0 has the highest score in so many rows"), "{table}");
}

#[test]
fn refused_options_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (save, out) = (dir.path().join("s.npz"), dir.path().join("d"));
    let tail = ["--save", save.to_str().unwrap(), "--out", out.to_str().unwrap()];
    for (args, expected) in [
        (&["graph=chain", "S=3", "T=8", "--level", "2"][..], "level: 2"),
        (&["graph=chain", "S=3", "T=8", "--level", "-1"], "level: -1"),
        (&["graph=chain", "S=3", "T=8", "--eps=-3"], "eps: -3"),
        (&["graph=chain", "S=3", "T=8", "--eps", "nan"], "eps: NaN"),
        (&["graph=chain", "S=3", "T=8", "--score", "chi2", "--eps", "5"], "eps: 5; allowed: none"),
        (&["graph=chain", "S=3", "T=8", "--score", "chi2", "labels=symbol"], "labels: symbol; allowed: none"),
        (&["graph=chain", "S=3", "T=8", "--symbols", "99"], "symbols: 99 with a drawn task"),
        (&["graph=chain", "S=3", "T=8", "--labels", "next"], "labels: next with a drawn task"),
        (&["graph=chain", "S=3", "T=8", "samples=3", "--score", "chi2"], "tokens: 3 sequences"),
    ] {
        let run = popgrad(&[args, &tail].concat());
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{args:?}: {error}");
        one_line(&error);
        assert!(error.contains(expected), "{args:?}: {error}");
        assert!(!save.exists() && !out.exists(), "{args:?}");
    }
    let wide = put(dir.path(), "wide", "0 1 2048\n".repeat(4).as_bytes());
    let run = popgrad(&["--tokens", &wide, "--score", "chi2", "--out", out.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("S <= 2048 for score=chi2") && !out.exists());
    let sweep = popgrad(&["graph=chain", "S=3", "T=8", "--sweep", "1048576", "samples=2^20"]);
    assert_eq!(sweep.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&sweep.stderr).contains("seeds * samples * T <= 2^34"));
}

#[test]
fn the_command_reads_text() {
    let dir = tempfile::tempdir().unwrap();
    let text = "the cat sat on the mat and the dog sat on the log; ".repeat(40);
    let file = put(dir.path(), "a.txt", text.as_bytes());
    let out = stdout(&popgrad(&["--text", &file, "--window", "7", "--score", "chi2"]));
    assert!(out.contains("score chi2"), "{out}");
}

#[test]
fn bad_input_is_one_line_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| put(dir.path(), name, text.as_bytes());
    let good = file("good", "0 1 2\n2 1 0\n1 1 1\n");
    let cases: Vec<(Vec<String>, i32, &str)> = vec![
        (vec!["--tokens".into(), file("ragged", "0 1 2\n0 1\n")], 1, "line 2: 2 tokens; expected 3"),
        (vec!["--tokens".into(), file("empty", "")], 1, "empty"),
        (vec!["--tokens".into(), file("blank", "0 1 2\n\n0 1 2\n")], 1, "line 2: empty row"),
        (vec!["--tokens".into(), file("negative", "0 1 2\n0 -1 2\n")], 1, "line 2: token `-1`"),
        (vec!["--tokens".into(), file("word", "0 1 2\n0 a 2\n")], 1, "line 2: `a` is no integer"),
        (
            vec!["--tokens".into(), good.clone(), "--symbols".into(), "2".into()],
            1,
            "line 1: token `2` is not in 0..=1",
        ),
        (
            vec!["--tokens".into(), good.clone(), "--labels".into(), file("few", "0\n")],
            1,
            "1 labels; expected 3",
        ),
        (
            vec![
                "--tokens".into(),
                good.clone(),
                "--labels".into(),
                file("soft", ".5 .5 0\n.5 .5 0\n.5 .4 0\n"),
            ],
            1,
            "line 3: sums to 0.9",
        ),
        (
            vec!["--tokens".into(), good.clone(), "--labels".into(), file("nan", "1 0 0\nnan 1 0\n1 0 0\n")],
            1,
            "line 2: holds NaN",
        ),
        (
            vec!["--tokens".into(), good.clone(), "--labels".into(), file("narrow", ".5 .5\n1 0\n1 0\n")],
            1,
            "line 1: token `2` is not in 0..=1",
        ),
        (vec!["--tokens".into(), file("short", "0 1\n1 0\n")], 1, "expected at least 3"),
        (vec!["--tokens".into(), dir.path().join("absent").display().to_string()], 1, "cannot read"),
        (vec!["--tokens".into(), file("bad.npz", "nonsense")], 1, "bad.npz"),
        (vec!["--tokens".into(), file("bad.npy", "nonsense")], 1, "bad.npy"),
        (vec!["--tokens".into(), good.clone(), "--score".into(), "chi".into()], 2, "did you mean `chi2`"),
        (vec!["--tokens".into(), good.clone(), "--level".into(), "2".into()], 2, "level: 2"),
        (vec!["--tokens".into(), good.clone(), "graph=chain".into()], 2, "cannot be used with"),
        (vec![], 2, "graph: missing"),
        (vec!["graph=chain".into(), "S=3".into()], 2, "T: missing"),
        (vec!["graph=chian".into(), "S=3".into(), "T=5".into()], 2, "did you mean `chain`"),
        (vec!["graph=chain".into(), "S=3".into(), "T=5".into(), "samples=9^18".into()], 2, "memory"),
        (vec!["graph=chain".into(), "S=3".into(), "T=5".into(), "labels=hard".into()], 2, "unknown labels"),
    ];
    for (args, code, expected) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = popgrad(&args);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {error}");
        one_line(&error);
        assert!(error.contains(expected), "{args:?}: {error}");
        assert!(out.stdout.is_empty(), "{args:?}");
    }
}
