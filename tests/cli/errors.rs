//! Bad input: one line that names the field and what is allowed, the right exit code, and nothing
//! left behind.

use crate::support::{one_line, popgrad, refused, text};
use popgrad::report::arrays::{Array, write_arrays};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn run_refuses_bad_values_before_a_folder_appears() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let cases: &[(&[&str], &[&str])] = &[
        (&["chian"], &["unknown preset `chian`", "did you mean `chain`"]),
        (&["chain", "stps=4"], &["unknown key `stps`", "did you mean `steps`"]),
        (&["chain", "steps"], &["argument: `steps`", "key=value"]),
        (&["chain", "S=1"], &["S: 1", "2 <= S <= 1024"]),
        (&["chain", "S=5000"], &["S: 5000", "<= 1024"]),
        (&["chain", "T=1"], &["T: 1"]),
        (&["chain", "T=99999999"], &["T: 99999999"]),
        (&["chain", "T=-4"], &["T: -4"]),
        (&["chain", "S=1024", "T=4096", "shards=1024"], &["memory (S, T,", "MiB free"]),
        (&["chain", "alpha=0"], &["alpha: 0"]),
        (&["chain", "alpha=-1"], &["alpha: -1"]),
        (&["chain", "alpha=nan"], &["alpha: nan"]),
        (&["chain", "roots=stationery"], &["unknown roots", "did you mean `stationary`"]),
        (&["chain", "graph=chan"], &["unknown graph", "did you mean `chain`"]),
        (&["chain", "T=4", "parents=-1,0,2"], &["parents"]),
        (&["chain", "T=4", "parents=-1,0,-2"], &["parents"]),
        (&["chain", "T=9", "parents=-1,0"], &["T: 9", "T = 3"]),
        (&["manual", "T=9"], &["T"]),
        (&["chain", "task=causal_dog"], &["unknown task", "did you mean `causal_dag`"]),
        (&["chain", "graph=two_parents", "roots=stationary"], &["roots: stationary", "shared or uniform"]),
        (&["chain", "graph=chain", "parents=-1,0,0,0"], &["parents", "graph=chain", "graph=custom only"]),
        (&["two-parents", "graph=two_parent"], &["unknown graph `two_parent`"]),
        (&["two-parents", "graph=ngram"], &["order: missing"]),
        (&["two-parents", "graph=ngram", "order=0"], &["order: 0"]),
        (&["two-parents", "graph=ngram", "order=33"], &["order: 33", "1 to T = 32"]),
        (&["two-parents", "graph=ngram", "order=13"], &["parents per position: 13", "at most 12 parents"]),
        (&["two-parents", "order=2"], &["order: 2", "graph=ngram only"]),
        (&["two-parents", "task=causal_dag", "graph=custom"], &["parent_sets: missing"]),
        (&["two-parents", "T=3", "parent_sets=-;0;2;0"], &["parent_sets: entry 2 names 2"]),
        (&["two-parents", "T=3", "parent_sets=-;2;1;0"], &["parent_sets: entry 1 names 2"]),
        (&["two-parents", "T=3", "parent_sets=-;0;0,0;1"], &["parent_sets: entry 2 names 0 twice"]),
        (&["two-parents", "T=3", "parent_sets=-;0;x;1"], &["parent_sets: entry 2 is `x`"]),
        (&["two-parents", "T=3", "parent_sets=-;0;-;-"], &["no parents for the target"]),
        (&["two-parents", "T=9", "parent_sets=-;0;0,1"], &["T: 9", "T = 2"]),
        (&["two-parents", "T=9", "parents=-1,0"], &["T: 9", "T = 3"]),
        (&["algorithm1", "graph=two_parents"], &["task: causal_dag"]),
        (&["two-parents", "optimizer=sgd", "source=exact"], &["S, T: 5^32 words"]),
        (&["chain", "heads=0,1"], &["heads"]),
        (&["chain", "heads=1,-1"], &["heads"]),
        (&["chain", "heads=64,64,64,64,64"], &["at most 2^31 parameters"]),
        (&["chain", "model=disentagled"], &["unknown model", "did you mean"]),
        (&["chain", "optimizer=sdg"], &["unknown optimizer", "did you mean `sgd`"]),
        (&["chain", "lr=-1"], &["lr: -1"]),
        (&["chain", "lr=inf"], &["lr: inf"]),
        (&["chain", "weight_decay=-0.1"], &["weight_decay: -0.1"]),
        (&["chain", "schedule=cos"], &["unknown schedule"]),
        (&["chain", "steps=0"], &["steps: 0"]),
        (&["chain", "steps=2^62"], &["steps: 4611686018427387904", "steps * batch < 2^64"]),
        (&["chain", "init=-1"], &["init: -1"]),
        (&["chain", "batch=0"], &["batch: 0"]),
        (&["chain", "shards=0"], &["shards: 0"]),
        (&["chain", "eval_every=0"], &["eval_every: 0"]),
        (&["chain", "--dtype", "f16"], &["unknown dtype `f16`"]),
        (&["chain", "--threads", "0"], &["threads: 0", "integers, 1 to "]),
        (&["chain", "--threads", "-1"], &["threads: -1", "integers, 1 to "]),
        (&["chain", "--threads", "99999"], &["threads: 99999", "integers, 1 to "]),
        (&["chain", "--seed", "-1"], &["seed: -1", "0 <= seed < 2^63"]),
        (&["chain", "--seed", "x"], &["seed: `x`", "0 <= seed < 2^63"]),
        (&["chain", "--seed", "1", "seed=2"], &["seed: given twice, 2 and 1", "every key once"]),
        (&["chain", "dtype=f32", "--dtype", "f64"], &["dtype: given twice"]),
        (&["chain", "S=5", "S=6"], &["S: given twice, 5 and 6"]),
        (&["chain", "seeds=2", "seeds=3"], &["seeds: given twice, 2 and 3"]),
        (&["causal-fig2", "T=9", "--quick", "T=10"], &["T: given twice, 9 and 10"]),
        (&["chain", "source=exact", "S=2", "T=4", "batch=7"], &["batch: 7", "source=sampled only"]),
        (&["chain", "seeds=2", "source=exact", "S=2", "T=4", "test_size=7"], &["test_size: 7"]),
        (&["chain", "batch=8", "shards=100"], &["shards: 100", "at most batch = 8"]),
        (&["chain", "shards=1000000000000"], &["shards: 1000000000000", "<= 4096"]),
        (&["chain", "alpha=1e300"], &["alpha: 1e300"]),
        (&["birth", "offset=5000", "K=5"], &["offset: 5000"]),
        (
            &["birth", "corpus=dirichlet", "N=9", "alpha=1", "offset=9", "K=5"],
            &["offset: 9", "number of symbols, 9"],
        ),
        (&["birth", "corpus=dirichlet", "N=9", "alpha=1", "offset=7", "K=5"], &["K: 5", "1 to 2: 9 symbols"]),
        (&["birth", "corpus=counts:"], &["corpus: `counts:` names nothing"]),
        (&["brth-fig2"], &["unknown preset `brth-fig2`", "did you mean `birth-fig2`"]),
        (&["none-such"], &["unknown preset", "birth-depth", "causal-fig7", "algorithm1"]),
    ];
    for (args, words) in cases {
        let mut all = vec!["run"];
        all.extend_from_slice(args);
        all.extend(["--out", text(&folder)]);
        refused(&all, 2, words);
        assert!(!folder.exists(), "{args:?} left a folder behind");
    }
}

#[test]
fn what_the_parser_refuses_is_one_line_too() {
    let dir = tempfile::tempdir().unwrap();
    let there = text(dir.path()).to_string();
    refused(&["run"], 2, &["PRESET"]);
    refused(&["run", "chain", "--quikc"], 2, &["--quikc"]);
    for (args, words) in [
        (&["ood", "r", "--seed", "-1"][..], ["seed: -1", "integers, 0 to"]),
        (&["ood", "r", "--matrices", "-1"], ["matrices: -1", "integers, 1 to"]),
        (&["discover", "--text", "f", "--window", "-3"], ["window: -3", "integers, 1 to"]),
        (&["discover", "graph=chain", "S=3", "T=5", "--window", "3"], ["window: 3", "with --text only"]),
        (&["sweep", "chain", "seed=1,2", "seeds=2"], ["seed: several, 1,2", "seeds=K"]),
        (&["figures", "--only", "causal-fig8", "model=simplified"], ["model: given", "not with causal-fig8"]),
        (&["run", "birth", "frozen=bogus"], ["unknown frozen `bogus`", "embeddings, output, wk0"]),
        (&["discover", "--text", "f", "--level", "x"], ["level: x", "a number"]),
        (&["scaling", "--seconds", "-1"], ["seconds: -1", "0 < seconds <= 60"]),
        (&["verify", "--threads", "-2"], ["threads: -2", "integers, 1 to"]),
        (&["probe", "--threads", "5000"], ["threads: 5000", "integers, 1 to"]),
        (&["sweep", "--threads", "1.5"], ["threads: 1.5", "integers, 1 to"]),
    ] {
        refused(args, 2, &words);
    }
    refused(&["run", "--resume", &there, "--out", &there], 2, &["--out"]);
    refused(&["grad"], 2, &["--params"]);
    refused(&["trian"], 2, &["trian"]);
    // A line break in what a user typed does not make a second line.
    refused(&["run", "ch\nain"], 2, &["ch\\nain"]);
    refused(&["run", "chain", "foo\nbar=3"], 2, &["foo\\nbar"]);
}

#[test]
#[cfg(unix)]
fn arguments_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let bad = std::ffi::OsStr::from_bytes(b"ch\xff");
    for args in [&["run"][..], &["sweep"], &["verify"], &["run", "chain", "--seed"], &[]] {
        let out = Command::new(env!("CARGO_BIN_EXE_popgrad")).args(args).arg(bad).output().unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        one_line(&err);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {err}");
    }
}

/// Free memory is what the limit of the address space leaves; what does not fit is refused.
#[test]
#[cfg(target_os = "linux")]
fn limits_of_memory_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let with = |kilobytes: u32, args: &str| {
        let script = format!("ulimit -v {kilobytes}; exec \"$0\" {args}");
        let binary = env!("CARGO_BIN_EXE_popgrad");
        let out = Command::new("sh").args(["-c", &script, binary]).current_dir(&dir).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for args in [
        "discover graph=chain S=10 T=20 samples=2^22 --threads 2",
        "discover graph=chain S=10 T=20 samples=2^22 --score chi2 --threads 2",
        "run chain batch=2^20 steps=1 --threads 2",
        "run birth batch=2^17 steps=1 --threads 2",
        "sweep chain batch=2^20,2^21 --threads 2",
    ] {
        let (code, err) = with(600_000, args);
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{args}: {err}");
        assert!(err.starts_with("error: memory (") && err.contains(" free"), "{args}: {err}");
    }
    let (code, err) = with(600_000, "discover graph=chain S=10 T=20 samples=2^12 --threads 2");
    assert_eq!(code, Some(0), "{err}");
    // Wherever the border lies, and whatever it is that finds it: one line, and no abort.
    let tokens: Vec<u8> = b"0 1 2 1\n".repeat(1 << 17);
    fs::write(dir.path().join("tokens.txt"), tokens).unwrap();
    let mut ends = [0; 2];
    for kilobytes in [30_000, 60_000, 90_000, 140_000, 200_000, 300_000, 450_000] {
        for (n, args) in [
            "discover graph=chain S=10 T=3 samples=2^20",
            "discover --tokens tokens.txt --score chi2",
            "exact --quantities c_v N=65 T=1500",
            "exact --quantities mu S=10 T=5 graph=chain alpha=1 draws=50000",
            "run chain source=exact S=2 T=12 steps=1 --out exact",
            "run birth-full --quick steps=1 test_size=64 --out birth",
            "run chain S=256 T=12 batch=4 shards=1 test_size=4 steps=1 --out wide",
            "sweep T=5,6 seeds=1 steps=2 --out sweep",
        ]
        .into_iter()
        .enumerate()
        {
            let words = format!("{args}{kilobytes} --threads 2");
            let words = if args.contains("--out") { words } else { format!("{args} --threads 2") };
            let (code, err) = with(kilobytes, &words);
            // A file that is refused by its size names its limit.
            let told = |l: &&str| l.starts_with("error: memory") || l.contains("allowed for ");
            let errors = err.lines().filter(told).count();
            let told = matches!(code, Some(1 | 2)) && errors == 1 && !err.contains("backtrace");
            assert!(code == Some(0) || told, "{n}, {kilobytes}: {code:?} {err}");
            ends[usize::from(told)] += 1;
        }
    }
    assert!(ends.into_iter().all(|n| n > 5), "both ends are seen: {ends:?}");
}

#[test]
fn more_threads_than_the_machine_can_use_are_refused() {
    let with = |threads: &str| {
        Command::new(env!("CARGO_BIN_EXE_popgrad"))
            .args(["info", "--json"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap()
    };
    for bad in ["5000", "-1", "many"] {
        let out = with(bad);
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{bad}: {err}");
        assert!(err.starts_with(&format!("error: RAYON_NUM_THREADS: {bad}; allowed: 1 to ")), "{err}");
    }
    for (good, threads) in [("3", Some("3")), ("0", None), ("", None)] {
        let out = with(good);
        assert!(out.status.success(), "{good}");
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(threads.is_none_or(|n| text.contains(&format!("\"threads\": {n}"))), "{text}");
    }
}

#[test]
fn run_refuses_folders_and_files_it_cannot_use() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("precious.txt"), "keep me").unwrap();
    refused(&["run", "chain", "--out", text(&taken)], 2, &["run folder", "new or an empty folder"]);
    assert_eq!(fs::read_to_string(taken.join("precious.txt")).unwrap(), "keep me");
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);

    let under_file = taken.join("precious.txt").join("run");
    refused(&["run", "chain", "--out", text(&under_file)], 2, &["precious.txt"]);

    let config = dir.path().join("c.toml");
    let missing = dir.path().join("none.toml");
    let fresh = dir.path().join("fresh");
    let with =
        |path: &Path| ["run", "chain", "--config", text(path), "--out", text(&fresh)].map(String::from);
    let check = |path: &Path, code: i32, words: &[&str]| {
        let args = with(path);
        refused(&args.each_ref().map(String::as_str), code, words);
        assert!(!fresh.exists());
    };
    check(&missing, 1, &["none.toml", "cannot read"]);
    fs::write(&config, "S = 5\nT = = 3\n").unwrap();
    check(&config, 1, &["c.toml", "line 2"]);
    fs::write(&config, "stepz = 5\n").unwrap();
    check(&config, 2, &["unknown key `stepz`", "did you mean `steps`"]);
    fs::write(&config, "steps = \"many\"\n").unwrap();
    check(&config, 2, &["steps: \"many\""]);
    fs::write(&config, "preset = \"birth\"\n").unwrap();
    check(&config, 2, &["preset: `chain`", "`birth`, which the file names"]);
    fs::write(&config, "preset = 5\n").unwrap();
    check(&config, 2, &["preset: 5", "name of a preset"]);
    fs::write(&config, [0xFF, 0xFE, 0x00]).unwrap();
    check(&config, 1, &["c.toml"]);
    refused(&["run", "--resume", text(&taken)], 2, &["resume", "config.toml"]);
}

#[test]
fn resume_refuses_corrupt_and_foreign_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let args = ["run", "chain", "S=3", "T=5", "steps=4", "batch=8", "test_size=8", "--out", text(&folder)];
    assert!(Command::new(env!("CARGO_BIN_EXE_popgrad")).args(args).output().unwrap().status.success());
    let path = folder.join("checkpoint.safetensors");
    let good = fs::read(&path).unwrap();
    let resume = ["run", "--resume", text(&folder)];

    fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused(&resume, 1, &["checkpoint.safetensors"]);
    fs::write(&path, b"not a checkpoint at all").unwrap();
    refused(&resume, 1, &["checkpoint.safetensors"]);
    let array = Array::new(&[2], vec![1.0, 2.0]).unwrap();
    write_arrays(&path, &[("W", &array)], None).unwrap();
    refused(&resume, 1, &["checkpoint.safetensors", "expected"]);

    // A checkpoint of another configuration.
    fs::write(&path, &good).unwrap();
    let config = folder.join("config.toml");
    let toml = fs::read_to_string(&config).unwrap();
    fs::write(&config, toml.replace("seed = 0", "seed = 1")).unwrap();
    refused(&resume, 1, &["config.toml", "damaged or edited", "start anew"]);
    fs::write(&config, &toml).unwrap();
    let other = dir.path().join("other");
    let mut args = args.map(String::from);
    args[8] = text(&other).into();
    assert!(
        Command::new(env!("CARGO_BIN_EXE_popgrad"))
            .args(&args)
            .arg("seed=1")
            .output()
            .unwrap()
            .status
            .success()
    );
    fs::copy(other.join("checkpoint.safetensors"), &path).unwrap();
    refused(&resume, 1, &["checkpoint of another run"]);
    fs::write(&path, &good).unwrap();
    // Logs that lack records from before the checkpoint.
    let metrics = folder.join("metrics.jsonl");
    let log = fs::read(&metrics).unwrap();
    fs::write(&metrics, b"").unwrap();
    refused(&resume, 1, &["metrics.jsonl", "0 bytes", "expected at least"]);
    fs::write(&metrics, &log).unwrap();
    let timing = folder.join("timing.jsonl");
    let times = fs::read_to_string(&timing).unwrap();
    fs::write(&timing, times.lines().next().unwrap().to_string() + "\n").unwrap();
    refused(&resume, 1, &["timing.jsonl", "1 records", "expected 2"]);
    fs::write(&timing, times.replacen("seconds\":", "seconds\":1", 1)).unwrap();
    refused(&resume, 1, &["timing.jsonl: line 1", "damaged or edited"]);
    fs::write(&timing, &times).unwrap();
    // Untouched, it resumes.
    assert!(Command::new(env!("CARGO_BIN_EXE_popgrad")).args(resume).output().unwrap().status.success());
}

/// Files of a small, valid `grad` call.
struct Grad {
    dir: tempfile::TempDir,
}

impl Grad {
    fn new() -> Self {
        let grad = Grad { dir: tempfile::tempdir().unwrap() };
        grad.params(&[("A.0", &[1, 5, 5]), ("W", &[10, 2])]);
        grad.batch(vec![0, 1, 0, 1, 1, 0], &[2, 3], vec![0.5, 0.5, 0.0, 1.0], &[2, 2], None);
        grad
    }
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn params(&self, blocks: &[(&str, &[usize])]) {
        let arrays: Vec<(&str, Array)> = blocks
            .iter()
            .map(|(n, shape)| (*n, Array::new(shape, vec![0.25; shape.iter().product()]).unwrap()))
            .collect();
        let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, a)).collect();
        write_arrays(&self.at("p.npz"), &named, None).unwrap();
    }
    fn batch(
        &self,
        tokens: Vec<i64>,
        ts: &[usize],
        targets: Vec<f64>,
        ys: &[usize],
        weights: Option<Vec<f64>>,
    ) {
        let (tokens, targets) = (Array::new(ts, tokens).unwrap(), Array::new(ys, targets).unwrap());
        let mut named = vec![("tokens", &tokens), ("targets", &targets)];
        let weights = weights.map(Array::vector);
        if let Some(w) = &weights {
            named.push(("weights", w));
        }
        write_arrays(&self.at("b.npz"), &named, None).unwrap();
    }
    #[track_caller]
    fn refused(&self, sizes: &[&str], code: i32, words: &[&str]) {
        let (p, b, o) = (self.at("p.npz"), self.at("b.npz"), self.at("o.npz"));
        let mut args = vec!["grad", "--model", "disentangled"];
        args.extend_from_slice(sizes);
        args.extend(["--params", text(&p), "--batch", text(&b), "--out", text(&o)]);
        refused(&args, code, words);
        assert!(!o.exists(), "half-written output");
    }
}

const SIZES: [&str; 2] = ["heads=1", "S=2"];

#[test]
fn grad_refuses_arrays_that_do_not_fit() {
    let grad = Grad::new();
    // Two layers if not given.
    grad.refused(&["S=2"], 1, &["array `A.1` is missing"]);
    grad.refused(&["heads=1", "S=2", "lr=3"], 2, &["unknown key `lr`"]);
    grad.refused(&["heads=1", "S=3"], 1, &["targets", "expected (B, S) = (2, 3)"]);
    grad.refused(&["heads=1,1", "S=2"], 1, &["array `A.1` is missing"]);
    grad.params(&[("A.0", &[1, 5, 5]), ("W", &[10, 2]), ("V", &[1])]);
    grad.refused(&SIZES, 1, &["array `V` is no block"]);
    grad.params(&[("A.0", &[5, 5]), ("W", &[10, 2])]);
    grad.refused(&SIZES, 1, &["array `A.0` has shape [5, 5]", "[1, 5, 5]"]);
    let (a, w) =
        (Array::new(&[1, 5, 5], vec![f64::NAN; 25]).unwrap(), Array::new(&[10, 2], vec![0.0; 20]).unwrap());
    write_arrays(&grad.at("p.npz"), &[("A.0", &a), ("W", &w)], None).unwrap();
    grad.refused(&SIZES, 1, &["array `A.0`, entry 0", "NaN", "finite"]);
}

#[test]
fn grad_refuses_tokens_targets_and_weights_out_of_range() {
    let grad = Grad::new();
    let tokens = || vec![0, 1, 0, 1, 1, 0];
    let targets = || vec![0.5, 0.5, 0.0, 1.0];
    grad.batch(vec![0, 1, 0, 1, 2, 0], &[2, 3], targets(), &[2, 2], None);
    grad.refused(&SIZES, 1, &["tokens[1, 1] = 2", "0 <= symbol < S = 2"]);
    grad.batch(vec![0, -1, 0, 1, 1, 0], &[2, 3], targets(), &[2, 2], None);
    grad.refused(&SIZES, 1, &["tokens[0, 1] = -1"]);
    grad.batch(tokens(), &[6], targets(), &[2, 2], None);
    grad.refused(&SIZES, 1, &["tokens", "(B, T)"]);
    grad.batch(tokens(), &[2, 3], vec![0.5, 0.6, 0.0, 1.0], &[2, 2], None);
    grad.refused(&SIZES, 1, &["targets[0, :] sums to 1.1"]);
    grad.batch(tokens(), &[2, 3], vec![1.5, -0.5, 0.0, 1.0], &[2, 2], None);
    grad.refused(&SIZES, 1, &["targets[0, 1] = -0.5"]);
    grad.batch(tokens(), &[2, 3], vec![f64::NAN, 0.5, 0.0, 1.0], &[2, 2], None);
    grad.refused(&SIZES, 1, &["targets[0, 0] = NaN"]);
    grad.batch(tokens(), &[2, 3], targets(), &[2, 2], Some(vec![0.5, -0.5]));
    grad.refused(&SIZES, 1, &["weights[1] = -0.5"]);
    grad.batch(tokens(), &[2, 3], targets(), &[2, 2], Some(vec![0.5]));
    grad.refused(&SIZES, 1, &["weights", "[1]", "(2,)"]);
    let bad = Array::new(&[2, 3], vec![0.0; 6]).unwrap();
    let y = Array::new(&[2, 2], targets()).unwrap();
    write_arrays(&grad.at("b.npz"), &[("tokens", &bad), ("targets", &y)], None).unwrap();
    grad.refused(&SIZES, 1, &["b.npz", "tokens", "integer"]);
    let bytes = fs::read(grad.at("p.npz")).unwrap();
    fs::write(grad.at("b.npz"), &bytes[..bytes.len() - 30]).unwrap();
    grad.refused(&SIZES, 1, &["b.npz"]);
}

#[test]
fn grad_never_overwrites_what_it_reads_nor_writes_what_is_not_finite() {
    let grad = Grad::new();
    let (p, b) = (grad.at("p.npz"), grad.at("b.npz"));
    let before = fs::read(&p).unwrap();
    let call = [
        "grad",
        "--model",
        "disentangled",
        "heads=1",
        "S=2",
        "--params",
        text(&p),
        "--batch",
        text(&b),
        "--out",
    ];
    let mut all = call.to_vec();
    all.push(text(&p));
    refused(&all, 2, &["out:", "--params"]);
    assert_eq!(fs::read(&p).unwrap(), before);
    let weights = Some(vec![1.7e308, 1.7e308]);
    grad.batch(vec![0, 1, 0, 1, 1, 0], &[2, 3], vec![0.5, 0.5, 0.0, 1.0], &[2, 2], weights);
    grad.refused(&SIZES, 1, &["weights sums to inf", "finite sum > 0"]);
}

#[test]
fn grad_refuses_formats_and_places() {
    let grad = Grad::new();
    let (p, b) = (grad.at("p.npz"), grad.at("b.npz"));
    let call = |out: &Path, dtype: &str, model: &str| -> Vec<String> {
        [
            "grad",
            "--model",
            model,
            "heads=1",
            "S=2",
            "--dtype",
            dtype,
            "--params",
            text(&p),
            "--batch",
            text(&b),
        ]
        .into_iter()
        .chain(["--out", text(out)])
        .map(String::from)
        .collect()
    };
    let check = |args: Vec<String>, code: i32, words: &[&str]| {
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, words)
    };
    check(call(&grad.at("o.csv"), "f64", "disentangled"), 1, &["o.csv", ".npz", ".safetensors"]);
    check(call(&grad.at("no/such/o.npz"), "f64", "disentangled"), 1, &["o.npz"]);
    check(call(&grad.at("o.npz"), "f8", "disentangled"), 2, &["unknown dtype `f8`"]);
    check(call(&grad.at("o.npz"), "f64", "entangled"), 2, &["unknown model `entangled`"]);
}

#[test]
fn an_instruction_set_that_does_not_exist_is_refused() {
    let out = Command::new(env!("CARGO_BIN_EXE_popgrad"))
        .args(["run", "chain", "--quick", "--out", "/nonexistent/folder"])
        .env("POPGRAD_ISA", "avx1024")
        .output()
        .unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(
        !out.status.success() && err.contains("avx1024") && err.contains("portable, avx2, avx512"),
        "{err}"
    );
}

/// Alone, the command says what it can do; a slip is told with the nearest name and the usage.
#[test]
fn a_bare_command_and_slips_are_helped() {
    let out = popgrad(&[]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(out.stdout.is_empty() && err.contains("Usage: popgrad"), "{err}");
    let examples: Vec<&str> = err.lines().filter(|l| l.starts_with("  popgrad ")).collect();
    assert_eq!(examples.len(), 3, "{err}");
    for example in examples {
        let words: Vec<&str> =
            example.split("  ").find(|w| !w.is_empty()).unwrap().split(' ').skip(1).collect();
        assert!(popgrad(&[&words[..], &["--help"]].concat()).status.success(), "{words:?}");
    }
    let slip = |args: &[&str], tip: &str| {
        let out = popgrad(args);
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{err}");
        one_line(&err);
        assert!(err.starts_with("error: ") && err.contains(tip), "{err}");
    };
    slip(&["figurs"], "unknown command `figurs`, did you mean `figures`?");
    slip(&["bench", "--thread", "1"], "tip: a similar argument exists: '--threads'");
    slip(&["run", "chian"], "did you mean `chain`?");
}
