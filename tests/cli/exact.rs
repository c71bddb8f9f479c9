//! `popgrad exact` and the runs on whole populations: methods agree, files and errors are as
//! documented.

use crate::support::{one_line, popgrad, text};
use popgrad::exact::quadrature::stationary_pairs;
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A folder with parameters of the simplified model at S = 3, T = 5, and of a disentangled one.
struct Case {
    dir: tempfile::TempDir,
}

fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| 2.0 * draw()).collect()
}

impl Case {
    fn new() -> Self {
        let case = Case { dir: tempfile::tempdir().unwrap() };
        let (a1, a2) = (numbers(25, 1), numbers(9, 2));
        case.write("p.npz", &[("A1", &[5, 5], a1.clone()), ("A2", &[3, 3], a2)]);
        let identity = (0..9).map(|i| if i % 4 == 0 { 1.5 } else { 0.25 }).collect();
        case.write("orbit.npz", &[("A1", &[5, 5], a1), ("A2", &[3, 3], identity)]);
        let (d0, d1) = (7, 14);
        let blocks = [
            ("A.0", &[1, d0, d0][..], numbers(d0 * d0, 3)),
            ("A.1", &[1, d1, d1][..], numbers(d1 * d1, 4)),
            ("W", &[2 * d1, 3][..], numbers(6 * d1, 5)),
        ];
        case.write("d.npz", &blocks);
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, arrays: &[(&str, &[usize], Vec<f64>)]) {
        let arrays: Vec<(&str, Array)> =
            arrays.iter().map(|(n, shape, x)| (*n, Array::new(shape, x.clone()).unwrap())).collect();
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
        write_arrays(&self.path(name), &named, None).unwrap();
    }

    /// Runs `exact` on `params` with `keys`, words separated by blanks.
    fn run(&self, params: &str, keys: &str) -> Output {
        let (params, out) = (self.path(params), self.path("out.npz"));
        let mut args = vec!["exact", "--params", text(&params), "--out", text(&out)];
        args.extend(keys.split_whitespace());
        popgrad(&args)
    }

    #[track_caller]
    fn exact(&self, params: &str, keys: &str) -> BTreeMap<String, Array> {
        let out = self.run(params, keys);
        assert!(out.status.success(), "{keys}: {}", String::from_utf8_lossy(&out.stderr));
        read_arrays(&self.path("out.npz")).unwrap()
    }

    #[track_caller]
    fn refused(&self, params: &str, keys: &str, code: i32, words: &[&str]) {
        let out = self.run(params, keys);
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{keys}: {err}");
        one_line(&err);
        assert!(words.iter().all(|w| err.contains(w)), "{keys}: {words:?} not in: {err}");
        assert!(!self.path("out.npz").exists(), "{keys}: an output was left behind");
    }
}

#[track_caller]
fn close(what: &str, a: &BTreeMap<String, Array>, b: &BTreeMap<String, Array>, tolerance: f64) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
    for (name, x) in a {
        let (x, y) = (x.to_f64_vec(), b[name].to_f64_vec());
        let largest = x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        for (x, y) in x.iter().zip(&y) {
            assert!((x - y).abs() <= tolerance * largest, "{what}, {name}: {x} and {y}");
        }
    }
}

const TASK: &str = "--model simplified S=3 parents=-1,0,0,-1 eps=0.01";

#[test]
fn methods_agree() {
    let case = Case::new();
    let uniform = format!("{TASK} alpha=0.3 roots=uniform");
    let tree = case.exact("p.npz", &format!("{uniform} method=tree"));
    close("brute", &tree, &case.exact("p.npz", &format!("{uniform} method=brute")), 1e-13);
    close("auto", &tree, &case.exact("p.npz", &uniform), 0.0);
    close("threads", &tree, &case.exact("p.npz", &format!("{uniform} --threads 5")), 0.0);
    assert!((tree["weight"].to_f64_vec()[0] - 1.0).abs() < 1e-13);
    let orbit = case.exact("orbit.npz", &format!("{uniform} method=orbit"));
    close("orbit", &orbit, &case.exact("orbit.npz", &format!("{uniform} method=brute")), 1e-13);
    // The predictions belong to the words, and their loss is the loss.
    let all = case.exact("p.npz", &format!("{uniform} --predictions"));
    assert_eq!(all["words"].shape(), [243, 5]);
    assert_eq!(all["words"].to_f64_vec()[5..10], [0.0, 0.0, 0.0, 0.0, 1.0]);
    let rows = all["predictions"].to_f64_vec();
    assert!(rows.chunks(3).all(|f| (f.iter().sum::<f64>() - 1.0).abs() < 1e-14));
    assert!((all["probabilities"].to_f64_vec().iter().sum::<f64>() - 1.0).abs() < 1e-13);
    let single = case.exact("p.npz", &format!("{uniform} --dtype f32"));
    close("f32", &tree, &single, 1e-5);
}

#[test]
fn a_prior_file_and_quadrature_and_draws() {
    let case = Case::new();
    let pi = vec![0.2, 0.3, 0.5, 0.5, 0.2, 0.3, 0.3, 0.5, 0.2, 0.6, 0.2, 0.2, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4];
    case.write("prior.npz", &[("pi", &[2, 3, 3], pi), ("weight", &[2], vec![0.25, 0.75])]);
    let prior = case.path("prior.npz");
    let with = format!("{TASK} --prior {}", text(&prior));
    let tree = case.exact("p.npz", &with);
    close("brute", &tree, &case.exact("p.npz", &format!("{with} method=brute")), 1e-13);
    let uniform = case.exact("p.npz", &format!("{with} roots=uniform"));
    assert_ne!(tree["loss"].to_f64_vec(), uniform["loss"].to_f64_vec(), "the root law matters");

    case.write("two.npz", &[("A1", &[5, 5], numbers(25, 8)), ("A2", &[2, 2], numbers(4, 9))]);
    let two = "--model simplified S=2 T=5 graph=chain alpha=0.2 eps=0.01";
    let exact = case.exact("two.npz", two);
    let sampled = case.exact("two.npz", &format!("{two} draws=4000"));
    let (loss, error) = (sampled["loss"].to_f64_vec()[0], sampled["loss_standard_error"].to_f64_vec()[0]);
    let distance = (loss - exact["loss"].to_f64_vec()[0]).abs();
    assert!(error > 0.0 && distance < 4.5 * error, "{distance} against {error}");
}

/// Rows γ/S + (1 − γ) Dirichlet(α): the quadrature is that of its atoms in a file, the draws agree
/// within their error, with either law of the roots.
#[test]
fn a_floored_prior_by_quadrature_by_file_and_by_draws() {
    let case = Case::new();
    case.write("two.npz", &[("A1", &[5, 5], numbers(25, 8)), ("A2", &[2, 2], numbers(4, 9))]);
    let rows = stationary_pairs(0.2, 32).unwrap();
    let q = rows.atoms();
    let raised: Vec<f64> = rows.pi().iter().map(|p| 0.3 / 2.0 + 0.7 * p).collect();
    case.write("prior.npz", &[("pi", &[q, 2, 2], raised), ("weight", &[q], rows.weight().to_vec())]);
    let task = "--model simplified S=2 T=5 eps=0.01 alpha=0.2";
    for (keys, words) in [
        ("gamma=0.3".to_string(), "gamma: 0.3; allowed: prior=floored only"),
        ("prior=floored".into(), "gamma: missing; allowed: 0 < gamma <= 1"),
        ("prior=floored gamma=0".into(), "gamma: 0; allowed: 0 < gamma <= 1"),
        ("roots=uniform draws=9".into(), "stationary roots or a floored prior"),
    ] {
        case.refused("two.npz", &format!("{task} {keys}"), 2, &[words]);
    }
    let floored = format!("{TASK} alpha=0.2 roots=uniform prior=floored gamma=0.3");
    case.refused("p.npz", &floored, 2, &["prior: floored with S=3", "draws=N"]);
    let beside = format!("{task} prior=floored gamma=0.3 --prior {}", text(&case.path("prior.npz")));
    case.refused(
        "two.npz",
        &beside.replace("alpha=0.2 ", ""),
        2,
        &["prior, gamma: given beside a prior file"],
    );
    for roots in ["stationary", "uniform"] {
        let of = |more: &str| {
            let model = "--model simplified S=2 T=5 graph=chain eps=0.01";
            case.exact("two.npz", &format!("{model} roots={roots} {more}"))
        };
        let exact = of("alpha=0.2 prior=floored gamma=0.3");
        close("file", &exact, &of(&format!("--prior {}", text(&case.path("prior.npz")))), 1e-10);
        let plain = of("alpha=0.2")["loss"].to_f64_vec()[0];
        let sampled = of("alpha=0.2 prior=floored gamma=0.3 draws=4000");
        let (loss, error) = (sampled["loss"].to_f64_vec()[0], sampled["loss_standard_error"].to_f64_vec()[0]);
        let distance = (loss - exact["loss"].to_f64_vec()[0]).abs();
        assert!(error > 0.0 && distance < 4.5 * error, "{distance} against {error}");
        assert!((plain - loss).abs() > 20.0 * error, "the floor matters: {plain} {loss} {error}");
    }
    let drawn = case.exact("p.npz", &format!("{floored} draws=200"));
    assert!(drawn["loss_standard_error"].to_f64_vec()[0] > 0.0);
}

#[test]
fn other_models_take_weighted_batches() {
    use popgrad::model::{DisentangledSpec, MemorySpec, MlpTransformerSpec, Spec, TransformerSpec};
    let case = Case::new();
    let memory = Spec::Memory(MemorySpec { dim: 4, ..MemorySpec::default() });
    let transformer = TransformerSpec { dim: 4, heads: vec![2], ..TransformerSpec::default() };
    // Keys that give S, and none: then it follows from the parameters.
    for (keys, spec) in [
        ("disentangled heads=1,1 S=3", Spec::Disentangled(DisentangledSpec::new(&[1, 1]))),
        ("mlp_transformer", Spec::MlpTransformer(MlpTransformerSpec::new(&[1, 1]))),
        ("memory", memory),
        ("transformer heads=2", Spec::Transformer(transformer)),
    ] {
        let model = spec.build::<f64>(3, 4).unwrap();
        let blocks: Vec<(&str, &[usize], Vec<f64>)> = model
            .layout()
            .blocks()
            .iter()
            .zip(20..)
            .map(|(b, seed)| (b.name(), b.shape(), numbers(b.len(), seed)))
            .collect();
        case.write("m.npz", &blocks);
        let task = format!("--model {keys} T=4 alpha=0.3 roots=uniform");
        let exact = case.exact("m.npz", &format!("{task} --predictions"));
        let again = case.exact("m.npz", &format!("{task} --threads 3"));
        assert!(again.iter().all(|(name, a)| a.same_bits(&exact[name])), "{keys}");
        assert_eq!(exact["predictions"].shape(), [81, 3]);
        compare_with_grad(&case, keys, &exact);
    }
}

/// The same from `grad`, the words and their weights written down.
fn compare_with_grad(case: &Case, keys: &str, exact: &BTreeMap<String, Array>) {
    let n = 81;
    let words = exact["words"].clone();
    let law: Vec<f64> = exact["probabilities"].to_f64_vec();
    let posterior: Vec<f64> = words
        .to_f64_vec()
        .chunks(4)
        .flat_map(|w| {
            // Chain of three context tokens, then the query.
            let mut counts = [[0.0f64; 3]; 3];
            for e in w[..3].windows(2) {
                counts[e[0] as usize][e[1] as usize] += 1.0;
            }
            let row = counts[w[3] as usize];
            let total: f64 = row.iter().sum();
            row.map(|c| (0.3 + c) / (0.9 + total))
        })
        .collect();
    let (batch, params, out) = (case.path("b.npz"), case.path("m.npz"), case.path("g.npz"));
    let (targets, weights) = (Array::new(&[n, 3], posterior).unwrap(), Array::vector(law));
    write_arrays(&batch, &[("tokens", &words), ("targets", &targets), ("weights", &weights)], None).unwrap();
    let files = ["--params", text(&params), "--batch", text(&batch), "--out", text(&out)];
    let keys: Vec<&str> = keys.split(' ').collect();
    let done = popgrad(&[&["grad", "--model"][..], &keys, &files].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let grad = read_arrays(&out).unwrap();
    // Two of `exact`'s arrays are words and their probabilities, one the weight; `grad` has losses.
    assert_eq!(grad.len() - 1, exact.len() - 3);
    for (name, array) in grad.iter().filter(|(name, _)| *name != "losses") {
        let (x, y) = (exact[name].to_f64_vec(), array.to_f64_vec());
        let largest = x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        // Sums of terms of size 1 leave little of some blocks.
        let allowed = 1e-13 * largest + 1e-15;
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= allowed), "{keys:?} {name}");
    }
}

#[test]
fn an_infinite_loss_is_told_and_its_gradient_finite() {
    let case = Case::new();
    let keys = "--model simplified S=3 parents=-1,0,0,-1 alpha=0.3 roots=uniform";
    let out = case.run("p.npz", keys);
    assert!(out.status.success());
    let stdout = String::from_utf8(out.stdout).unwrap();
    assert!(stdout.contains("loss: inf"), "{stdout}");
    assert!(String::from_utf8(out.stderr).unwrap().contains("infinite"));
    let arrays = read_arrays(&case.path("out.npz")).unwrap();
    assert_eq!(arrays["loss"].to_f64_vec(), [f64::INFINITY]);
    for name in ["A1", "A2"] {
        assert!(arrays[name].to_f64_vec().iter().all(|g| g.is_finite()), "{name}");
    }
    // By quadrature too, whose nodes are then judged by the gradient.
    case.write("two.npz", &[("A1", &[5, 5], numbers(25, 8)), ("A2", &[2, 2], numbers(4, 9))]);
    let arrays = case.exact("two.npz", "--model simplified S=2 T=5 graph=chain alpha=0.2");
    assert_eq!(arrays["loss"].to_f64_vec(), [f64::INFINITY]);
    assert!(arrays["A1"].to_f64_vec().iter().any(|g| *g != 0.0));
}

#[test]
fn bad_input_is_refused() {
    let case = Case::new();
    let uniform = format!("{TASK} alpha=0.3 roots=uniform");
    let cases: &[(&str, String, i32, &[&str])] = &[
        ("p.npz", format!("{TASK} roots=uniform"), 2, &["alpha: missing"]),
        ("p.npz", format!("{TASK} alpha=0.3"), 2, &["roots: stationary with S=3", "draws=N"]),
        ("p.npz", format!("{TASK} alpha=-1 roots=uniform"), 2, &["alpha: -1"]),
        ("p.npz", format!("{uniform} eps=-1").replace("eps=0.01 ", ""), 2, &["eps"]),
        ("p.npz", format!("{uniform} method=brute --dtype f32"), 2, &["dtype: f32 with method=brute", "f64"]),
        ("p.npz", format!("{uniform} seed=7"), 2, &["seed: 7", "with draws or a random graph"]),
        ("p.npz", format!("{uniform} beta0=7"), 2, &["unknown key `beta0`"]),
        (
            "p.npz",
            format!("{uniform} eps=1e20 --dtype f32").replace("eps=0.01 ", ""),
            2,
            &["eps", "0 <= eps <= 1"],
        ),
        (
            "p.npz",
            format!("{uniform} eps=1e-306 method=brute").replace("eps=0.01 ", ""),
            2,
            &["eps: 1e-306", "1e-30 <= eps <= 1"],
        ),
        (
            "p.npz",
            format!("{uniform} eps=1e-306").replace("eps=0.01 ", ""),
            2,
            &["eps: 1e-306", "1e-30 <= eps <= 1"],
        ),
        (
            "p.npz",
            format!("{TASK} alpha=1e300 roots=uniform method=brute"),
            2,
            &["alpha", "0.001 <= alpha <= 1000"],
        ),
        ("p.npz", format!("{uniform} method=tre"), 2, &["unknown method `tre`", "did you mean `tree`"]),
        ("p.npz", format!("{uniform} method=orbit"), 2, &["A2", "method=tree"]),
        ("p.npz", format!("{uniform} graph=chain"), 2, &["parents", "not both"]),
        ("p.npz", format!("{uniform} T=9"), 2, &["T: 9", "T = 5"]),
        ("p.npz", format!("{TASK} alpha=0.3 draws=5 roots=stationary --predictions"), 2, &["predictions"]),
        ("p.npz", format!("{uniform} lr=3"), 2, &["unknown key `lr`"]),
        (
            "d.npz",
            "--model disentangled heads=1,1 S=3 T=4 alpha=1 roots=uniform method=tree".into(),
            2,
            &["method: tree", "only the simplified"],
        ),
        ("p.npz", "--model simplified S=3 T=4 alpha=1 roots=uniform".into(), 1, &["A1", "[4, 4]"]),
        ("p.npz", "--model simplifed S=3 T=4 alpha=1".into(), 2, &["simplifed"]),
    ];
    for (params, keys, code, words) in cases {
        case.refused(params, keys, *code, words);
    }
    for (keys, code, words) in [
        ("draws=5", 2, &["draws", "stationary roots"][..]),
        ("roots=stationary draws=1", 2, &["draws: 1", "2 <= draws"]),
        ("heads=1,1", 2, &["unknown key `heads`"]),
        ("alpha=1e200", 2, &["alpha: 1", "0.001 <= alpha <= 1000"]),
    ] {
        // A key is given once.
        let name = |word: &str| word.split('=').next().unwrap_or_default().to_string();
        let kept = uniform.split(' ').filter(|w| !keys.split(' ').any(|k| name(k) == name(w)));
        let all = kept.chain(keys.split(' ')).collect::<Vec<_>>().join(" ");
        case.refused("p.npz", &all, code, words);
    }
    // α^count leaves f32 long before it leaves f64; the weights do not.
    case.write("two.npz", &[("A1", &[14, 14], vec![0.0; 196]), ("A2", &[2, 2], numbers(4, 9))]);
    let large = "--model simplified S=2 T=14 alpha=1000 roots=uniform eps=0.01";
    let single = case.exact("two.npz", &format!("{large} --dtype f32"));
    close("f32", &case.exact("two.npz", large), &single, 1e-4);
    std::fs::remove_file(case.path("out.npz")).unwrap();
    let d = "--model disentangled heads=1,1 S=3 T=4 alpha=1 roots=uniform eps=0.1";
    case.refused("d.npz", d, 2, &["unknown key `eps`"]);
    case.write("wide.npz", &[("A1", &[3, 3], vec![0.0; 9]), ("A2", &[300, 300], vec![0.0; 90_000])]);
    case.refused("wide.npz", "--model simplified S=300 T=3 alpha=1 roots=uniform", 2, &["S: 300", "255"]);
    let infinite = "--model simplified S=3 T=5 alpha=0.3 draws=10";
    case.refused("p.npz", infinite, 2, &["eps: 0", "with draws"]);
    // A population that would take years, and one that cannot be counted.
    case.write("long.npz", &[("A1", &[40, 40], vec![0.0; 1600]), ("A2", &[3, 3], numbers(9, 2))]);
    case.refused(
        "long.npz",
        "--model simplified S=3 T=40 alpha=1 roots=uniform",
        2,
        &["words", "unless forced"],
    );
    // The same by the number of matrices: the first of them tell.
    let drawn = format!("{TASK} alpha=0.3 draws=10^12");
    case.refused("p.npz", &drawn, 2, &["draws: 1000000000000: about ", " s by the first ", "(3600 s)"]);
    // Priors.
    let pi = |x: f64| vec![x, 0.3, 0.5, 0.5, 0.2, 0.3, 0.3, 0.5, 0.2];
    let prior = case.path("prior.npz");
    let with = format!("{TASK} --prior {}", text(&prior));
    case.write("prior.npz", &[("pi", &[1, 3, 3], pi(0.3)), ("weight", &[1], vec![1.0])]);
    case.refused("p.npz", &with, 1, &["prior.npz", "pi[0][0]"]);
    case.write("prior.npz", &[("pi", &[1, 3, 3], pi(f64::NAN)), ("weight", &[1], vec![1.0])]);
    case.refused("p.npz", &with, 1, &["prior.npz", "pi[0][0]"]);
    case.write("prior.npz", &[("pi", &[1, 3, 3], pi(0.2)), ("weight", &[1], vec![0.9])]);
    case.refused("p.npz", &with, 1, &["prior.npz", "weight"]);
    case.write("prior.npz", &[("pi", &[9], pi(0.2)), ("weight", &[1], vec![1.0])]);
    case.refused("p.npz", &with, 1, &["shape [9]", "(Q, S, S)"]);
    // Reducible: symbol 0 is never left.
    let stuck = vec![1.0, 0.0, 0.0, 0.5, 0.2, 0.3, 0.3, 0.5, 0.2];
    case.write("prior.npz", &[("pi", &[1, 3, 3], stuck), ("weight", &[1], vec![1.0])]);
    case.refused("p.npz", &with, 1, &["prior.npz", "pi[0]"]);
    case.write("prior.npz", &[("pi", &[1, 3, 3], pi(0.2)), ("weight", &[1], vec![1.0])]);
    case.refused("p.npz", &format!("{with} alpha=1"), 2, &["alpha", "prior file"]);
}

fn summary(folder: &Path, args: &[&str]) -> serde_json::Value {
    let out = popgrad(&[&["run"], args, &["--out", text(folder)]].concat());
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn algorithm_1_on_every_source() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let exact = summary(&at("exact"), &["algorithm1"]);
    // Losses of the theory document, claim 8.
    for (key, expected) in
        [("loss_start", 0.63384), ("loss_stage1", 0.62351), ("loss", 0.55583), ("bayes", 0.50983)]
    {
        let found = exact[key].as_f64().unwrap();
        assert!((found - expected).abs() <= 5.1e-6, "{key}: {found}");
    }
    assert!(exact["attention_on_parent_min"].as_f64().unwrap() >= 0.999);
    assert_eq!(exact["graph_recovered"], true);
    // Orbits are the same population, and so is every thread count, to the bit.
    let keys = ["algorithm1", "S=3", "T=5", "roots=uniform", "steps1=30", "steps=40", "checkpoint_every=10"];
    let with = |name: &str, extra: &[&str]| summary(&at(name), &[&keys[..], extra].concat());
    let (tree, orbit) = (with("tree", &[]), with("orbit", &["source=orbit"]));
    for key in ["loss", "attention_on_parent_min", "beta"] {
        let (x, y) = (tree[key].as_f64().unwrap(), orbit[key].as_f64().unwrap());
        assert!((x - y).abs() <= 1e-11, "{key}: {x} and {y}");
    }
    with("five", &["--threads", "5"]);
    let metrics = |name: &str| std::fs::read(at(name).join("metrics.jsonl")).unwrap();
    assert_eq!(metrics("tree"), metrics("five"));
    // Samples come near.
    let sampled = with("sampled", &["source=sampled", "batch=4096", "test_size=65536"]);
    let (x, y) = (tree["loss"].as_f64().unwrap(), sampled["loss"].as_f64().unwrap());
    assert!((x - y).abs() < 0.02, "{x} and {y}");
    // A run that is resumed at its end stays as it is.
    let again = popgrad(&["run", "--resume", text(&at("tree"))]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(metrics("tree"), metrics("five"));
}

#[test]
fn disentangled_trains_on_the_population() {
    let dir = tempfile::tempdir().unwrap();
    let keys =
        ["chain", "source=exact", "S=2", "T=6", "roots=uniform", "steps=20", "eval_every=10", "dtype=f64"];
    let exact = summary(&dir.path().join("exact"), &keys);
    // Counts are the posterior for uniform roots: exact references, no sampling error.
    let (counts, posterior) =
        (exact["bayes_counts"].as_f64().unwrap(), exact["bayes_posterior"].as_f64().unwrap());
    assert!((counts - posterior).abs() < 1e-13);
    assert!(exact["test_loss"].as_f64().unwrap() > counts);
    for (bad, words) in [
        (&["chain", "source=exact", "S=3", "T=6"][..], "roots: stationary with S=3"),
        (&["chain", "source=exact", "S=10", "T=20", "roots=uniform"], "words"),
        (&["chain", "source=orbit"], "source: orbit"),
        (&["chain", "source=exat"], "did you mean `exact`"),
        (&["chain", "beta0=1"], "beta0"),
        (&["algorithm1", "source=orbit", "S=3", "T=6"], "roots: stationary with S=3"),
        (&["algorithm1", "S=10", "T=20", "roots=uniform"], "a day at most"),
        (&["algorithm1", "dtype=f32"], "dtype: f32"),
        (&["algorithm1", "steps1=900"], "steps1: 900"),
        (&["algorithm1", "eps=-1"], "eps"),
        (&["algorithm1", "eps=0"], "eps > 0"),
        (&["algorithm1", "eval_every=10", "steps1=405"], "a multiple of eval_every"),
        (&["algorithm1", "weight_decay=-5"], "weight_decay: -5"),
        (&["algorithm1", "heads=1"], "heads"),
        (&["algorithm1", "source=orbit", "roots=uniform", "S=300", "T=4"], "S: 300"),
        (&["algorithm1", "model=disentangled"], "model"),
    ] {
        let folder = dir.path().join("bad");
        let out = popgrad(&[&["run"], bad, &["--out", text(&folder)]].concat());
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{bad:?}: {err}");
        assert!(err.contains(words) && err.trim_end().lines().count() == 1, "{bad:?}: {err}");
        assert!(!folder.exists());
    }
}

/// Several parents: loss and gradient of either model are those of the library's own sums over all
/// words.
#[test]
fn several_parents_are_summed_over_every_word() {
    use popgrad::batch::Targets;
    use popgrad::exact::DagLaw;
    use popgrad::model::{DisentangledSpec, SimplifiedSpec, Spec};
    use popgrad::source::{Population, Source};
    use popgrad::task::{CausalDag, Dag, DagRoots};
    let case = Case::new();
    for (name, file, keys, sets, roots) in [
        (
            "disentangled",
            "d.npz",
            "heads=1,1 S=3 graph=two_parents T=4 alpha=0.3",
            "-;0;0,1;1,2;1,3",
            DagRoots::Shared,
        ),
        (
            "disentangled",
            "d.npz",
            "heads=1,1 S=3 parent_sets=-;-;1,0;2;3,0,1 alpha=0.3 roots=uniform",
            "-;-;1,0;2;3,0,1",
            DagRoots::Uniform,
        ),
        (
            "simplified",
            "p.npz",
            "S=3 eps=0.01 graph=ngram order=2 T=5 alpha=0.3 task=causal_dag",
            "-;0;0,1;1,2;2,3;3,4",
            DagRoots::Shared,
        ),
    ] {
        let (params, out) = (case.path(file), case.path("dag.npz"));
        let mut args =
            vec!["exact", "--model", name, "--params", text(&params), "--out", text(&out), "--predictions"];
        args.extend(keys.split(' '));
        let got = popgrad(&args);
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        let task = CausalDag::new(Dag::parse(sets).unwrap(), 3, 0.3, roots).unwrap();
        let source = Population::new(&DagLaw::new(task)).unwrap();
        let (n, t) = (source.words(), source.seq_len());
        let spec = match name {
            "simplified" => Spec::Simplified(SimplifiedSpec { eps: 0.01, ..SimplifiedSpec::default() }),
            _ => Spec::Disentangled(DisentangledSpec::new(&[1, 1])),
        };
        let model = spec.build::<f64>(3, t).unwrap();
        let given = read_arrays(&params).unwrap();
        let flat: Vec<f64> =
            model.layout().blocks().iter().flat_map(|b| given[b.name()].to_f64_vec()).collect();
        let mut batch = source.batch(n).unwrap();
        source.fill(0, n, &mut source.work(), &mut batch);
        let mut ws = model.workspace(Targets::Law, n).unwrap();
        let (active, mut grad) = (vec![true; model.layout().blocks().len()], vec![0.0; flat.len()]);
        let loss = model.loss_and_grad(&flat, &batch, &active, &mut ws, &mut grad).unwrap().value();
        let found = read_arrays(&out).unwrap();
        // Sums of n terms of size at most their total, in another order.
        let close = |a: f64, b: f64, size: f64| (a - b).abs() <= n as f64 * f64::EPSILON * size.max(1e-300);
        assert!(close(found["loss"].to_f64_vec()[0], loss, loss), "{name}");
        assert!((found["weight"].to_f64_vec()[0] - 1.0).abs() < 1e-14);
        let size = grad.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        for block in model.layout().blocks() {
            for (a, b) in found[block.name()].to_f64_vec().iter().zip(&grad[block.range()]) {
                assert!(close(*a, *b, size), "{name} {}: {a} {b}", block.name());
            }
        }
        assert_eq!(found["probabilities"].to_f64_vec(), source.probabilities());
    }
    let params = case.path("d.npz");
    for (keys, expected) in [
        ("graph=two_parents T=4", "alpha: missing"),
        ("graph=two_parents alpha=0.3", "T: missing"),
        ("task=causal_dag alpha=0.3 T=4", "graph: missing"),
        ("graph=two_parents T=4 alpha=0.3 order=2", "order: 2"),
        ("graph=two_parents T=4 alpha=0.3 roots=stationary", "unknown roots `stationary`"),
        ("graph=two_parents T=4 alpha=0.3 method=tree", "method: tree"),
        ("graph=two_parents T=4 alpha=0.3 draws=5", "draws: given with task=causal_dag"),
        ("parent_sets=-;0;0,0 alpha=0.3", "parent_sets: entry 2 names 0 twice"),
        ("parent_sets=-;0;0,1 graph=ngram alpha=0.3", "parent_sets: given with graph"),
        ("parent_sets=-;0;0,1 T=5 alpha=0.3", "T: 5 with 3 parent sets"),
        ("graph=two_parents T=40 alpha=0.3", "S, T: 3^40 words"),
        ("graph=two_parents T=4 alpha=0.3 task=causal_tree", "unknown graph `two_parents`"),
    ] {
        let out = case.path("no.npz");
        let mut args =
            vec!["exact", "--model", "disentangled", "heads=1,1", "S=3", "--params", text(&params)];
        args.extend(["--out", text(&out)]);
        args.extend(keys.split(' '));
        let got = popgrad(&args);
        let err = String::from_utf8_lossy(&got.stderr).into_owned();
        assert!(got.status.code() == Some(2) && err.contains(expected), "{keys}: {err}");
        assert!(!out.exists());
    }
}

/// Entries above A1's diagonal are not read: whatever they are, nothing changes, on either type.
#[test]
fn entries_that_are_not_read_may_be_anything() {
    let case = Case::new();
    let (a1, a2) = (numbers(25, 1), numbers(9, 2));
    let (batch, out) = (case.path("b.npz"), case.path("g.npz"));
    let tokens = Array::new(&[2, 5], vec![0i64, 1, 2, 1, 0, 2, 2, 1, 0, 1]).unwrap();
    let targets = Array::new(&[2, 3], vec![0.2, 0.3, 0.5, 1.0, 0.0, 0.0]).unwrap();
    write_arrays(&batch, &[("tokens", &tokens), ("targets", &targets)], None).unwrap();
    for dtype in ["f32", "f64"] {
        let [mut exact, mut grad] = [Vec::new(), Vec::new()];
        for above in [0.0, f64::NAN, f64::NEG_INFINITY, f64::INFINITY, 1e300] {
            let own = |(i, x): (usize, &f64)| if i % 5 > i / 5 { above } else { *x };
            let poisoned = a1.iter().enumerate().map(own).collect();
            case.write("above.npz", &[("A1", &[5, 5], poisoned), ("A2", &[3, 3], a2.clone())]);
            for method in ["tree", "brute"] {
                let dtype = if method == "brute" { "f64" } else { dtype };
                let keys = format!("{TASK} alpha=0.3 roots=uniform method={method} --dtype {dtype}");
                exact.push(case.exact("above.npz", &keys));
            }
            let params = case.path("above.npz");
            let files = ["--params", text(&params), "--batch", text(&batch), "--out", text(&out)];
            let done = popgrad(&[&["grad", "--model", "simplified", "--dtype", dtype], &files[..]].concat());
            assert!(done.status.success(), "{above}: {}", String::from_utf8_lossy(&done.stderr));
            grad.push(read_arrays(&out).unwrap());
        }
        for (i, found) in exact.iter().enumerate() {
            assert!(found.iter().all(|(name, a)| a.same_bits(&exact[i % 2][name])), "{dtype} {i}");
        }
        for found in &grad {
            assert!(found.iter().all(|(name, a)| a.same_bits(&grad[0][name])), "{dtype}");
            let a1 = found["A1"].to_f64_vec();
            assert!((0..25).all(|i| (i % 5 > i / 5) <= (a1[i] == 0.0)) && a1.iter().any(|g| *g != 0.0));
        }
    }
    // On the diagonal and below it must be a number, and is named.
    let mut below = a1;
    below[5] = f64::NAN;
    case.write("below.npz", &[("A1", &[5, 5], below), ("A2", &[3, 3], a2)]);
    std::fs::remove_file(case.path("out.npz")).unwrap();
    case.refused("below.npz", &format!("{TASK} alpha=0.3 roots=uniform"), 1, &["`A1`, entry 5", "finite"]);
}

fn quantities(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&crate::support::ok(&[&["exact", "--json", "--quantities"], args].concat())).unwrap()
}

fn rows(of: &serde_json::Value) -> Vec<f64> {
    match of {
        serde_json::Value::Array(all) => all.iter().flat_map(rows).collect(),
        x => vec![x.as_f64().unwrap_or(f64::INFINITY)],
    }
}

#[track_caller]
fn near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (x, y)) in got.iter().zip(want).enumerate() {
        assert!((x - y).abs() <= tolerance, "{what}[{i}]: {x} for {y}");
    }
}

/// g, χ², ĝ and μ of a prior file, summed over all words as their definitions say.
#[test]
fn quantities_of_a_graph_are_their_definitions() {
    let case = Case::new();
    let (s, t, parents) = (3usize, 5usize, [None, Some(0), Some(0), None, None]);
    let pi = vec![0.2, 0.3, 0.5, 0.5, 0.2, 0.3, 0.3, 0.5, 0.2, 0.6, 0.2, 0.2, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4];
    let (weight, eps) = ([0.25, 0.75], 0.05);
    case.write("prior.npz", &[("pi", &[2, 3, 3], pi.clone()), ("weight", &[2], weight.to_vec())]);
    let (prior, out) = (case.path("prior.npz"), case.path("q.npz"));
    let keys = ["--prior", text(&prior), "--out", text(&out), "parents=-1,0,0,-1", "eps=0.05"];
    for roots in ["stationary", "uniform"] {
        let of_roots = format!("roots={roots}");
        let found = quantities(&[&["mu,chi2,g,ghat", of_roots.as_str()], &keys[..]].concat());
        let of = |name: &str| rows(&found["quantities"][name]);
        let (mut mus, mut g, mut ghat, mut chi2) = (Vec::new(), vec![0.0; 25], vec![0.0; 25], vec![0.0; 4]);
        for (pi, w) in pi.chunks(9).zip(weight) {
            let mut mu = vec![1.0 / 3.0; 3];
            for _ in 0..500 {
                mu = (0..3).map(|b| (0..3).map(|a| mu[a] * pi[a * 3 + b]).sum()).collect();
            }
            let root = if roots == "uniform" { vec![1.0 / 3.0; 3] } else { mu.clone() };
            let mut joint = vec![[0.0; 9]; 25];
            for code in 0..s.pow(5) {
                let word: Vec<usize> = (0..t).map(|i| code / s.pow(i as u32) % s).collect();
                let mut p = w / 3.0;
                for i in 0..4 {
                    p *= parents[i].map_or(root[word[i]], |q: usize| pi[word[q] * 3 + word[i]]);
                }
                let query = &pi[word[4] * 3..][..3];
                let share = |b: usize| word.iter().filter(|c| **c == b).count() as f64 / 5.0;
                let mean: f64 = (0..3).map(|b| query[b] * share(b) / (share(b) + eps)).sum();
                for i in 0..t {
                    for j in 0..=i {
                        joint[i * t + j][word[j] * 3 + word[i]] += p / w;
                        if word[j] == word[4] {
                            ghat[i * t + j] += 3.0 * p * (query[word[i]] / (share(word[i]) + eps) - mean);
                        }
                    }
                }
            }
            for (e, joint) in joint.iter().enumerate() {
                let (i, j) = (e / t, e % t);
                if i == 4 && j < 4 {
                    // The symbol at the query is the query.
                    let at = |x: usize| -> f64 { (0..3).map(|y| joint[x * 3 + y]).sum() };
                    g[e] += w * ((0..3).map(|x| at(x) * pi[x * 4] / mu[x]).sum::<f64>() - 1.0);
                } else if j <= i {
                    let sum: f64 = (0..9).map(|x| pi[x] / mu[x % 3] * joint[x]).sum();
                    // The query's own entry: Σ_s π(s|s)/μ(s) − S.
                    let own = (0..3).map(|x| pi[x * 4] / mu[x]).sum::<f64>() - 3.0;
                    g[e] += w * if e == 24 { own } else { sum - 1.0 };
                }
                if i < 4 && parents[i] == Some(j) {
                    let law = |x: usize, end: usize| -> f64 {
                        (0..9).filter(|y| [y / 3, y % 3][end] == x).map(|y| joint[y]).sum()
                    };
                    let ratio = |x: usize| joint[x] * joint[x] / (law(x / 3, 0) * law(x % 3, 1));
                    chi2[i] += w * ((0..9).map(ratio).sum::<f64>() - 1.0);
                }
            }
            mus.extend(mu);
        }
        near("mu", &of("mu"), &mus, 1e-13);
        near("g", &of("g"), &g, 1e-12);
        near("chi2", &of("chi2"), &chi2, 1e-13);
        near("ghat", &of("ghat"), &ghat, 1e-12);
        let arrays = read_arrays(&out).unwrap();
        assert_eq!(
            (arrays["g"].shape(), arrays["chi2"].shape(), arrays["mu"].shape()),
            (&[5, 5][..], &[4][..], &[2, 3][..])
        );
        near("file", &arrays["ghat"].to_f64_vec(), &ghat, 1e-12);
    }
}

#[test]
fn quantities_of_dirichlet_priors_and_what_is_refused() {
    // Theory, 1.3: the parent's entry is 1/(2(1 + 2α)) at S = 2; the diagonal is 0; [T, T] endless.
    let found = quantities(&["g,chi2,t_eff", "S=2", "T=6", "graph=chain", "alpha=0.5"]);
    let g = rows(&found["quantities"]["g"]);
    near("g", &[g[6], g[13], g[20], g[7], g[14]], &[0.25, 0.25, 0.25, 0.0, 0.0], 1e-9);
    assert!(found["quantities"]["g"][5][5].is_null());
    near("chi2", &rows(&found["quantities"]["chi2"]), &[0.0, 0.25, 0.25, 0.25, 0.25], 1e-9);
    let drawn = quantities(&["g", "S=2", "T=6", "alpha=0.5", "draws=2000", "seed=3"]);
    let (x, error) = (&drawn["quantities"]["g"][2][1], &drawn["standard_errors"]["g"][2][1]);
    let (x, error) = (x.as_f64().unwrap(), error.as_f64().unwrap());
    assert!(error > 0.0 && (x - 0.25).abs() < 4.5 * error, "{x} {error}");
    // What has no mean has no number, whatever was drawn; above the border it has one.
    assert!(drawn["quantities"]["g"][5][5].is_null() && drawn["standard_errors"]["g"][5][5].is_null());
    let finite = quantities(&["g", "S=3", "T=4", "alpha=0.6", "draws=50"]);
    assert!(finite["quantities"]["g"][3][3].is_f64());
    for (args, words) in [
        (&["nu", "S=2"][..], &["unknown quantity `nu`", "chi2"][..]),
        (&["g,c_v", "S=2", "T=5"], &["quantities", "task=causal_tree"]),
        (&["g", "T=5"], &["S: missing"]),
        (&["g", "S=3", "T=5", "alpha=0.1"], &["S: 3", "draws=N"]),
        (&["g", "S=2", "T=5"], &["alpha: missing"]),
        (&["ghat", "S=2", "T=5", "alpha=0.1", "eps=1e-40"], &["eps: 1e-40", "1e-30"]),
        (&["c_v", "N=4"], &["T: missing"]),
        (&["c_v", "N=4", "T=6", "S=3"], &["S: 3"]),
        (&["c_v", "N=4", "T=2"], &["T: 2"]),
        (&["g", "S=3", "T=5", "alpha=0.1", "draws=10^12"], &["draws: 1000000000000: about ", "--force"]),
        (
            &["g", "S=2", "T=5", "alpha=0.001", "draws=10000"],
            &["alpha: 0.001; of a drawn matrix, pi: symbol", "stationary probability 0", "fewer draws"],
        ),
        (&["mu", "S=3", "T=5", "alpha=0.1", "draws=10^12"], &["draws: 1000000000000", "fewer with mu"]),
        (&["mu", "S=2", "T=5", "alpha=0.1", "eps=0.1"], &["eps: 0.1", "with ghat only"]),
        (&["g", "S=2", "T=5", "alpha=0.1", "seed=3"], &["seed: 3", "with draws or a random graph"]),
        (
            &["g", "S=3", "T=5", "alpha=0.3", "roots=uniform", "draws=50"],
            &["alpha: 0.3", "(S - 1) alpha > 1 with uniform roots"],
        ),
        (&["g", "S=2", "T=5", "alpha=0.1", "--model", "simplified"], &["model", "given with quantities"]),
    ] {
        crate::support::refused(&[&["exact", "--quantities"], args].concat(), 2, words);
    }
}

/// c_v, c_k, c_x by enumeration of every sequence, as theory 2.5 states them.
#[test]
fn quantities_of_triggers_are_their_definitions() {
    use popgrad::exact::trigger_chain::words;
    let (n, t) = (4usize, 6usize);
    let law = vec![1.0 / n as f64; n];
    // All pairs (q, o) are alike.
    let all = words(&law, &law.repeat(n), 0, 1, t).unwrap();
    let hot = |x: bool| f64::from(u8::from(x));
    let share =
        |z: &[usize], t: usize, v: usize| z[..=t].iter().filter(|x| **x == v).count() as f64 / (t + 1) as f64;
    let mean = |f: &dyn Fn(&[usize]) -> f64| -> f64 { all.iter().map(|w| w.weight * f(&w.tokens)).sum() };
    let gap = |f: &dyn Fn(&[usize], usize) -> f64| -> f64 {
        (0..t).map(|i| mean(&|z| f(z, i)) - 1.0 / n as f64).sum::<f64>() / ((n - 1) * t) as f64
    };
    let a = gap(&|z, i| hot(z[i] == 1));
    let prime = gap(&|z, i| share(z, i, 1));
    let worth = |z: &[usize], i: usize| a * hot(z[i] == 1) + prime * share(z, i, 1);
    let level =
        |f: &dyn Fn(&[usize], usize) -> f64, z: &[usize]| (0..t).map(|i| f(z, i)).sum::<f64>() / t as f64;
    let (mut v, mut k, mut x) = (vec![0.0; t * t], vec![0.0; t * t], vec![0.0; t * t]);
    for i in 0..t {
        let scale = 1.0 / (t * (i + 1)) as f64;
        for s in 0..=i {
            v[i * t + s] = scale * prime * (mean(&|z| hot(z[s] == 1)) - mean(&|z| share(z, i, 1)));
            k[i * t + s] =
                scale * mean(&|z| (worth(z, i) - level(&worth, z)) * (hot(z[s] == 0) - share(z, i, 0)));
            x[i * t + s] = scale
                * prime
                * mean(&|z| {
                    (share(z, i, 0) - level(&|z, i| share(z, i, 0), z)) * (hot(z[s] == 1) - share(z, i, 1))
                });
        }
    }
    let case = Case::new();
    case.write("bigrams.npz", &[("start", &[n], law.clone()), ("bigram", &[n, n], law.repeat(n))]);
    let (file, out) = (case.path("bigrams.npz"), case.path("c.npz"));
    let found = quantities(&["c_v,c_k,c_x,a,a_prime", "N=4", "T=6", "--out", text(&out)]);
    let given = quantities(&["c_v,c_k,c_x", "T=6", "--prior", text(&file)]);
    for (name, want) in [("c_v", &v), ("c_k", &k), ("c_x", &x)] {
        near(name, &rows(&found["quantities"][name]), want, 1e-15);
        near(name, &rows(&given["quantities"][name]), want, 1e-15);
        near(name, &read_arrays(&out).unwrap()[name].to_f64_vec(), want, 1e-15);
    }
    near(
        "a",
        &[rows(&found["quantities"]["a"])[0], rows(&found["quantities"]["a_prime"])[0]],
        &[a, prime],
        1e-15,
    );
}
