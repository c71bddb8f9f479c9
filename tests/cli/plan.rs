//! What is ahead: the configuration that `--print-config` prints is the run; `--dry-run` writes
//! nothing and counts right; studies say how much there is to do.

use crate::support::{files, ok, popgrad, refused, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

const TINY: [&str; 8] =
    ["S=3", "T=5", "steps=8", "batch=16", "shards=2", "test_size=32", "eval_every=4", "checkpoint_every=8"];

/// The same bytes in the files named, and the files are there.
#[track_caller]
fn same(a: &Path, b: &Path, names: &[&str]) {
    for name in names {
        let read = |of: &Path| fs::read(of.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(read(a) == read(b), "{name} differs");
    }
}

#[test]
fn a_printed_configuration_gives_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let words = [&["run", "chain", "seed=7", "snapshots=log", "lr=0.5"], &TINY[..]].concat();
    ok(&[&words[..], &["--out", text(&at("direct"))]].concat());
    let file = at("printed.toml");
    fs::write(&file, ok(&[&words[..], &["--print-config"]].concat())).unwrap();
    ok(&["run", "--config", text(&file), "--out", text(&at("back"))]);
    same(&at("direct"), &at("back"), &["config.toml", "metrics.jsonl", "checkpoint.safetensors"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), fs::read_to_string(at("direct/config.toml")).unwrap());
    // As JSON the same table.
    let json: Value =
        serde_json::from_str(&ok(&[&words[..], &["--print-config", "--json"]].concat())).unwrap();
    assert_eq!((&json["seed"], &json["lr"], &json["preset"]), (&7.into(), &0.5.into(), &"chain".into()));
}

#[test]
fn every_preset_prints_what_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    for preset in popgrad::paper::presets() {
        for form in [&["--quick"][..], &["source=exact", "S=2", "T=4", "roots=uniform"]] {
            let words = [&["run", &preset.name, "--print-config"], form].concat();
            let out = popgrad(&words);
            if !out.status.success() {
                assert!(form.len() > 1, "{words:?}");
                continue;
            }
            fs::write(&file, &out.stdout).unwrap();
            let again = ok(&["run", "--config", text(&file), "--print-config"]);
            assert_eq!(again.as_bytes(), out.stdout, "{words:?}");
        }
    }
}

#[test]
fn printed_studies_give_the_same_studies() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let tables = ["study.toml", "runs.csv", "curves.csv"];
    let sweep = [&["sweep", "alpha=0.1,1", "seeds=2"], &TINY[..]].concat();
    let seeds = [&["run", "chain", "seeds=2"], &TINY[..]].concat();
    let figures = ["figures", "--only", "causal-fig7", "--quick", "steps=4", "T=6", "test_size=32"];
    for (n, words) in [&sweep[..], &seeds, &figures].into_iter().enumerate() {
        let [file, direct, back] = ["toml", "direct", "back"].map(|kind| at(&format!("{n}.{kind}")));
        fs::write(&file, ok(&[words, &["--print-config"]].concat())).unwrap();
        ok(&[words, &["--out", text(&direct)]].concat());
        ok(&[words[0], "--config", text(&file), "--out", text(&back)]);
        match words[0] {
            "figures" => {
                same(&direct, &back, &["figures.toml"]);
                same(&direct.join("causal-fig7"), &back.join("causal-fig7"), &tables);
            }
            "sweep" => same(&direct, &back, &[&tables[..], &["grid.csv", "grid.json"]].concat()),
            _ => same(&direct, &back, &tables),
        }
        // Beside a whole study nothing else is said.
        refused(&[words[0], "--config", text(&file), "steps=3"], 2, &["config"]);
    }
    let [sweep, seeds, figures] = [0, 1, 2].map(|n| text(&at(&format!("{n}.toml"))).to_string());
    refused(&["run", "--config", &sweep, "--seed", "3"], 2, &["seed: given with --config"]);
    refused(&["sweep", "--config", &seeds], 1, &["without axes; expected a sweep"]);
    refused(&["sweep", "--config", &figures], 1, &[&figures]);
    refused(&["figures", "--config", &sweep], 1, &[&sweep]);
}

#[test]
fn a_dry_run_counts_right_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |words: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
        let out = command.current_dir(&dir).args(words).args(["--dry-run", "--json"]).output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(files(dir.path()).is_empty(), "{words:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let count = |v: &Value, key: &str| v[key].as_u64().unwrap();
    let run = [&["run", "chain", "snapshots=log"], &TINY[..]].concat();
    let short = plan(&run);
    assert_eq!((count(&short, "runs"), count(&short, "steps"), count(&short, "snapshots")), (1, 8, 7));
    assert!(count(&short, "memory_bytes") > 1000);
    let long = plan(&["run", "chain", "S=3", "T=5", "batch=16", "shards=2", "steps=2^22"]);
    let seconds = |v: &Value| v["seconds"].as_f64().unwrap();
    assert!(seconds(&short) > 0.0 && seconds(&long) > 100.0 * seconds(&short), "{short} {long}");
    let grid = [&["sweep", "alpha=0.1,1", "seeds=3"], &TINY[..]].concat();
    let sweep = plan(&grid);
    assert_eq!((count(&sweep, "runs"), count(&sweep, "steps")), (6, 48));
    assert!(
        count(&sweep, "disk_bytes")
            > 2 * count(&plan(&[&["run", "chain"], &TINY[..]].concat()), "disk_bytes")
    );
    let figures = plan(&["figures", "--only", "causal-fig2,causal-fig7", "--quick", "steps=4", "T=6"]);
    assert!(count(&figures, "runs") > 2 && count(&figures, "steps") == 4 * count(&figures, "runs"));
    // Runs of other sizes than those that are measured take the disk that they take alone.
    let all = ["3", "4", "6", "8", "9"].map(|s| format!("S={s}"));
    let small = ["T=5", "batch=16", "shards=2", "steps=8", "snapshots=every 2"];
    let alone = all.iter().map(|s| count(&plan(&[&["run", "chain", s], &small[..]].concat()), "disk_bytes"));
    let sum: u64 = alone.sum();
    let grid = plan(&[&["sweep", "chain", "S=3,4,6,8,9", "seeds=1"], &small[..]].concat());
    assert!(count(&grid, "disk_bytes").abs_diff(sum) < sum / 20, "{grid}, alone {sum}");
    // The disk that a run then takes, figures aside.
    let folder = dir.path().join("run");
    ok(&[&run[..], &["--out", text(&folder)]].concat());
    let held = files(&folder).into_iter().filter(|f| {
        let name = f.to_str().unwrap();
        ["metrics", "timing", "checkpoint", "snapshots"].iter().any(|kind| name.starts_with(kind))
    });
    let held: u64 = held.map(|f| fs::metadata(folder.join(f)).unwrap().len()).sum();
    let guessed = count(&short, "disk_bytes");
    assert!(guessed.abs_diff(held) < held / 3, "{guessed} guessed, {held} held");
    let shown = ok(&[&run[..], &["--dry-run"]].concat());
    assert!(shown.contains("updates: 8\n") && shown.contains(", 7 snapshots included"), "{shown}");
    // What cannot run is refused as by a run; what contradicts is, too.
    refused(&["run", "chain", "S=1", "--dry-run"], 2, &["S: 1"]);
    refused(&["run", "chain", "--dry-run", "--out", text(&folder)], 2, &["run folder: ", "not empty"]);
    refused(&["run", "chain", "--dry-run", "--print-config"], 2, &["--dry-run", "--print-config"]);
    refused(&["run", "--resume", text(&folder), "--dry-run"], 2, &["--resume", "--dry-run"]);
}

#[test]
fn studies_say_how_much_there_is_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sweep");
    let words = [&["sweep", "alpha=0.1,1", "seeds=3", "--threads", "2", "--out", text(&folder)], &TINY[..]];
    let told = |args: &[&str]| {
        let out = popgrad(args);
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{err}");
        err.lines().next().unwrap_or_default().to_string()
    };
    let first = told(&words.concat());
    assert!(first.starts_with("6 runs, 2 side by side: ") && first.contains("second"), "{first}");
    fs::remove_file(folder.join("runs/alpha=1.0-seed=2/summary.json")).unwrap();
    let left = told(&["sweep", "--resume", text(&folder)]);
    assert!(left.starts_with("1 of 6 runs left: "), "{left}");
    let figures = dir.path().join("figures");
    let only = ["figures", "--only", "causal-fig2,causal-fig7", "--quick", "steps=4", "T=6"];
    let first = told(&[&only[..], &["--out", text(&figures)]].concat());
    assert!(first.contains(" runs") && first.contains(": ") && !first.contains("left"), "{first}");
}
