//! What goes where: one JSON document on stdout with `--json`, rounded text without, nothing but
//! errors and warnings on stderr with `--quiet`; colours.

use crate::support::{ok, popgrad, refused, text};
use popgrad::report::arrays::{Array, write_arrays};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const SMALL: [&str; 7] =
    ["S=3", "T=5", "steps=4", "batch=16", "shards=2", "test_size=32", "checkpoint_every=4"];

/// A file of parameters of the simplified model, S = 3, T = 5, and one of a batch for it.
fn files(dir: &Path) -> [String; 2] {
    let [params, batch] = ["p.npz", "b.npz"].map(|n| dir.join(n));
    let a1: Vec<f64> = (0..25).map(|i| 0.01 * f64::from(i)).collect();
    let a2: Vec<f64> = (0..9).map(|i| 0.1 * f64::from(i % 4)).collect();
    let arrays = [Array::new(&[5, 5], a1).unwrap(), Array::new(&[3, 3], a2).unwrap()];
    write_arrays(&params, &[("A1", &arrays[0]), ("A2", &arrays[1])], None).unwrap();
    let tokens = Array::new(&[2, 5], vec![0i64, 1, 2, 1, 0, 2, 2, 1, 0, 1]).unwrap();
    let targets = Array::new(&[2, 3], vec![0.2, 0.3, 0.5, 0.6, 0.3, 0.1]).unwrap();
    write_arrays(&batch, &[("tokens", &tokens), ("targets", &targets)], None).unwrap();
    [text(&params).into(), text(&batch).into()]
}

/// The commands, as the help lists them.
fn commands() -> BTreeSet<String> {
    let help = ok(&["--help"]);
    let lines = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let named = lines.filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    let mut names: BTreeSet<String> =
        named.filter_map(|l| l.split_whitespace().next().map(String::from)).collect();
    assert!(names.remove("help") && names.len() > 10, "{names:?}");
    names
}

/// Commands whose output is a script or a page for another program: `--json` is refused.
const NO_JSON: [&str; 1] = ["completions"];

/// A short invocation of each command, some of several forms; `out` is a new name each.
fn invocations(dir: &Path) -> Vec<Vec<String>> {
    let [params, batch] = files(dir);
    let run = text(&dir.join("trained")).to_string();
    ok(&[&["run", "chain", "alpha=0.5", "--out", &run], &SMALL[..]].concat());
    let mut made = 0;
    let mut out = || {
        made += 1;
        text(&dir.join(format!("out-{made}"))).to_string()
    };
    let exact = ["exact", "--model", "simplified", "S=3", "T=5", "roots=uniform", "graph=chain"];
    let file = |path: String| path + ".npz";
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut add = |words: &[&[&str]]| all.push(words.concat().iter().map(|w| w.to_string()).collect());
    add(&[&["run", "chain", "--out", &out()], &SMALL]);
    add(&[&["run", "chain", "seeds=2", "--out", &out()], &SMALL]);
    add(&[&["run", "causal-fig2", "--out", &out()], &SMALL[1..]]);
    add(&[&["figures", "--only", "causal-fig2,causal-fig7", "--quick", "T=6", "steps=4", "--out", &out()]]);
    add(&[&["sweep", "alpha=0.1,1", "seeds=1", "--out", &out()], &SMALL]);
    add(&[&["scaling", "--quick", "--seconds", "0.01", "--recovery", "0", "--out", &out()]]);
    add(&[&["grad", "--model", "simplified", "--params", &params, "--batch", &batch, "--out", &file(out())]]);
    add(&[&exact, &["alpha=0.1", "eps=0.01", "--params", &params, "--out", &file(out())]]);
    add(&[&["exact", "--quantities", "mu,g,t_eff", "S=2", "T=4", "graph=chain", "alpha=0.5"]]);
    add(&[&["discover", "graph=chain", "S=3", "T=7", "samples=2^8"]]);
    add(&[&["discover", "graph=chain", "S=3", "T=7", "samples=2^8", "--sweep", "1"]]);
    add(&[&["probe", "--model", "simplified", "--params", &params, "test_size=32"]]);
    let tokens = dir.join("tokens.txt");
    std::fs::write(&tokens, "0 1 2 1 0\n2 2 1 0 1\n").unwrap();
    add(&[&["ablate", &run]]);
    add(&[&["attend", &run, "--tokens", text(&tokens), "--out", &file(out())]]);
    add(&[&["sample", "chain", "2", "S=3", "T=5"]]);
    add(&[&["compare", &run, &run]]);
    let record = text(&Path::new(&run).join("figures/loss.figure.json")).to_string();
    add(&[&["draw", &record, "--width", "column", "--out", &out()]]);
    add(&[&["export", &run, "--out", &out()]]);
    add(&[&["report", &run]]);
    add(&[&["ood", &run, "--matrices", "1", "--sequences", "16"]]);
    add(&[&["verify", "leading"]]);
    add(&[&["verify", "--list"]]);
    add(&[&["list"]]);
    add(&[&["keys", "chain"]]);
    add(&[&["info"]]);
    add(&[&["bench"]]);
    add(&[&["man", &out()]]);
    all
}

/// A number with more digits than people get, anywhere in a document.
fn has_digits(v: &Value) -> bool {
    match v {
        Value::Number(n) if n.is_f64() => n.to_string().len() > 12,
        Value::Array(a) => a.iter().any(has_digits),
        Value::Object(o) => o.values().any(has_digits),
        _ => false,
    }
}

#[test]
fn every_command_prints_one_json_document_with_all_digits() {
    let dir = tempfile::tempdir().unwrap();
    let all = invocations(dir.path());
    let tried: BTreeSet<String> = all.iter().map(|w| w[0].clone()).collect();
    let known: BTreeSet<String> = commands().into_iter().filter(|c| !NO_JSON.contains(&c.as_str())).collect();
    assert_eq!(tried, known, "every command has an invocation here");
    for (n, words) in all.iter().enumerate() {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Before the command or after it.
        words.insert(if n % 2 == 0 { 0 } else { words.len() }, "--json");
        let out = popgrad(&words);
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{words:?}: {err}");
        let parsed: Result<Value, _> = serde_json::from_slice(&out.stdout);
        let value = parsed.unwrap_or_else(|e| panic!("{words:?}: {e}"));
        assert!(value.is_object() || value.is_array(), "{words:?}");
        let without = ["list", "keys", "info", "man", "export", "draw", "report"];
        let facts = without.iter().any(|c| words.contains(c)) || words.contains(&"--list");
        // Shares of a few edges are short.
        let facts = facts || words.contains(&"--sweep");
        assert!(facts || has_digits(&value), "{words:?}: {value}");
    }
}

#[test]
fn json_holds_the_numbers_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let json = |args: &[&str]| -> Value { serde_json::from_str(&ok(args)).unwrap() };
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    let found = json(&[&["run", "chain", "--json", "--out", text(&folder)], &SMALL[..]].concat());
    assert_eq!(found, read("summary.json"));
    assert_eq!(found["run_folder"], text(&folder));
    // The same for people, rounded.
    let shown = ok(&["run", "--resume", text(&folder)]);
    let line = shown.lines().find_map(|l| l.strip_prefix("test_loss: ")).unwrap();
    let (short, full) = (line.parse::<f64>().unwrap(), found["test_loss"].as_f64().unwrap());
    assert!((short - full).abs() <= 5e-5 && short != full && line.len() <= 7, "{line} {full}");

    let folder = dir.path().join("sweep");
    let keys = ["sweep", "alpha=0.1,1", "seeds=1", "--json", "--out", text(&folder)];
    let found = json(&[&keys[..], &SMALL].concat());
    let grid = std::fs::read_to_string(folder.join("grid.json")).unwrap();
    assert_eq!(found["grid"], serde_json::from_str::<Value>(&grid).unwrap());
    assert_eq!(found["grid"].as_array().unwrap().len(), 2);
    let shown = ok(&["sweep", "--resume", text(&folder)]);
    let mut lines = shown.lines();
    let words = |line: Option<&str>| line.unwrap().split_whitespace().map(String::from).collect::<Vec<_>>();
    let heads = ["alpha", "runs", "recovered", "attention_on_parent", "test_loss", "gap"];
    assert_eq!(words(lines.next()), heads);
    for (cell, alpha) in found["grid"].as_array().unwrap().iter().zip(["0.1", "1"]) {
        let row = words(lines.next());
        assert_eq!((row.len(), row[0].as_str(), row[1].as_str()), (6, alpha, "1"));
        let loss = cell["test_loss"]["mean"].as_f64().unwrap();
        assert!((row[4].parse::<f64>().unwrap() - loss).abs() < 1e-4 * loss, "{shown}");
    }

    let [params, batch] = files(dir.path());
    let out = dir.path().join("g.npz");
    let args = ["grad", "--model", "simplified", "--params", &params, "--batch", &batch, "--out", text(&out)];
    let found = json(&[&args[..], &["--json"]].concat());
    let arrays = popgrad::report::arrays::read_arrays(&out).unwrap();
    assert_eq!(found["loss"].as_f64().unwrap(), arrays["loss"].to_f64_vec()[0]);
}

#[test]
fn quiet_leaves_errors_and_warnings_and_verbose_says_more() {
    let dir = tempfile::tempdir().unwrap();
    let run = |more: &[&str], name: &str| {
        let folder = dir.path().join(name);
        let out = popgrad(&[&["run", "chain", "--out", text(&folder)], &SMALL[..], more].concat());
        assert!(out.status.success());
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let snapshots = ["snapshots=log"];
    let (plain, noted) = run(&snapshots, "plain");
    assert!(noted.contains("snapshots: "), "{noted}");
    let (kept, quiet) = run(&["snapshots=log", "-q"], "quiet");
    assert_eq!(quiet, "");
    assert_eq!(plain.lines().count(), kept.lines().count(), "results stay");
    // Equal heads stay equal: a warning, whatever is asked for.
    let (_, warned) = run(&["--quiet", "heads=2,1", "init=0"], "warned");
    assert!(warned.starts_with("warning: with init=0 ") && warned.lines().count() == 1, "{warned}");
    let (_, more) = run(&["-v"], "verbose");
    for word in ["popgrad ", "threads: ", "folder: ", "steps=4", "memory while training: "] {
        assert!(more.contains(word), "{word} is not in {more}");
    }
    refused(&["-q", "run", "chain", "--verbose"], 2, &["verbose: given with --quiet", "one of the two"]);
    refused(&["run", "chian", "--quiet"], 2, &["error: unknown preset `chian`"]);
}

#[test]
fn colours_are_there_when_asked_for() {
    let of = |args: &[&str], set: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
        for name in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
            command.env_remove(name);
        }
        command.envs(set.iter().map(|name| (name, "1")));
        let out = command.args(args).output().unwrap();
        [out.stdout, out.stderr].concat().contains(&0x1b)
    };
    for args in [&["--help"][..], &["run", "chian"], &["figurs"], &["bench", "--rounds", "0"]] {
        let with = |more: &[&'static str]| [args, more].concat();
        assert!(of(&with(&["--color", "always"]), &[]), "{args:?}");
        assert!(!of(&with(&["--color=never"]), &["CLICOLOR_FORCE"]), "{args:?}");
        assert!(!of(args, &[]), "{args:?}: no terminal");
        assert!(of(args, &["CLICOLOR_FORCE"]), "{args:?}");
        assert!(!of(args, &["CLICOLOR_FORCE", "NO_COLOR"]), "{args:?}");
    }
    refused(&["list", "--color", "sometimes"], 2, &["color: sometimes; allowed: auto, always, never"]);
}
