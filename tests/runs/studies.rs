//! Experiments made of several runs, through the binary: the same bits side by side, alone and
//! after a kill; pages whose links lead somewhere; grids; and what is refused.

use crate::support::{files, ok, popgrad, refused, stop_at, text};
use popgrad::config::Config;
use popgrad::report::checkpoint::Checkpoint;
use popgrad::report::digest::write_with;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TINY: [&str; 6] = ["T=6", "batch=24", "shards=3", "eval_every=4", "checkpoint_every=4", "test_size=40"];

fn study(name: &str, folder: &Path, extra: &[&str]) -> String {
    let mut args = vec!["run", name];
    args.extend(TINY);
    args.extend(extra);
    args.extend(["--out", text(folder)]);
    ok(&args)
}

/// The same files with the same bytes, those aside that hold times, machines and paths.
#[track_caller]
fn same(a: &Path, b: &Path) {
    // The digests are of files that are compared, and of run.json.
    let of_result = |p: &PathBuf| {
        let name = p.file_name().unwrap().to_str().unwrap();
        let in_run = p.starts_with("runs") || p.iter().nth(1).is_some_and(|d| d == "runs");
        let of_machine = ["timing.jsonl", "run.json", "provenance.jsonl", "digests.json"];
        !(of_machine.contains(&name) || name == "summary.json" && in_run)
    };
    let list = |root: &Path| files(root).into_iter().filter(of_result).collect::<Vec<_>>();
    let names = list(a);
    assert_eq!(names, list(b));
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(
            fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(),
            "{} differs",
            name.display()
        );
    }
}

#[test]
fn side_by_side_in_turn_and_alone_are_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // Three runs on two threads: two side by side, then one with both.
    let keys = ["seeds=3", "steps=12"];
    for threads in ["1", "2", "5"] {
        study("causal-fig9", &at(threads), &[&keys[..], &["--threads", threads]].concat());
    }
    same(&at("1"), &at("2"));
    same(&at("1"), &at("5"));
    for run in ["graph-0", "graph-2"] {
        let together = at("2").join("runs").join(run);
        let config = together.join("config.toml");
        let alone = at(&format!("alone-{run}"));
        ok(&["run", "--config", text(&config), "--out", text(&alone)]);
        for file in ["config.toml", "metrics.jsonl", "checkpoint.safetensors", "attention.npz"] {
            assert!(
                fs::read(together.join(file)).unwrap() == fs::read(alone.join(file)).unwrap(),
                "{run}: {file}"
            );
        }
    }
    // Graphs differ: the comparison can fail.
    let metrics = |run: &str| fs::read(at("1").join("runs").join(run).join("metrics.jsonl")).unwrap();
    assert_ne!(metrics("graph-0"), metrics("graph-1"));
    // A seed moves all graphs along.
    study("causal-fig9", &at("seed"), &[&keys[..], &["--seed", "1"]].concat());
    let moved = fs::read(at("seed").join("runs/graph-0/metrics.jsonl")).unwrap();
    assert_eq!(moved, metrics("graph-1"));
}

/// The run in `folder` anew, up to its sixth update.
fn half_done(folder: &Path) {
    let config = stop_at(folder, 6);
    let checkpoint = Checkpoint::load(&folder.join("checkpoint.safetensors")).unwrap();
    assert_eq!((checkpoint.step, config.plan.steps), (4, 12));
    assert!(!folder.join("summary.json").exists());
}

#[test]
fn a_study_in_any_state_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let keys = ["seeds=6", "steps=12"];
    study("causal-fig9", &whole, &keys);
    study("causal-fig9", &cut, &keys);
    // One run not begun, one with an empty folder, one killed before its first file had its name,
    // one half done, one whole but for its summary, one finished; nothing gathered.
    let run = |i: u32| cut.join(format!("runs/graph-{i}"));
    fs::remove_dir_all(run(0)).unwrap();
    for i in [1, 4] {
        fs::remove_dir_all(run(i)).unwrap();
        fs::create_dir(run(i)).unwrap();
    }
    fs::write(run(4).join(".popgrad-aB3xyz.tmp"), "preset = \"ma").unwrap();
    half_done(&run(5));
    fs::remove_file(run(2).join("summary.json")).unwrap();
    for name in ["runs.csv", "curves.csv", "positions.csv", "summary.json"] {
        fs::remove_file(cut.join(name)).unwrap();
    }
    fs::remove_dir_all(cut.join("figures")).unwrap();
    let before = fs::metadata(run(3).join("summary.json")).unwrap().modified().unwrap();
    ok(&["run", "--resume", text(&cut)]);
    same(&whole, &cut);
    let after = fs::metadata(run(3).join("summary.json")).unwrap().modified().unwrap();
    assert_eq!(before, after, "a finished run is left alone");
}

#[test]
fn a_killed_study_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let keys = ["seeds=2", "steps=1500"];
    study("causal-fig9", &whole, &keys);
    let mut args = vec!["run", "causal-fig9"];
    args.extend(TINY);
    args.extend(keys);
    args.extend(["--out", text(&cut)]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_popgrad"))
        .args(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !cut.join("runs/graph-0/checkpoint.safetensors").exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!cut.join("summary.json").exists(), "the study was over before it could be killed");
    ok(&["run", "--resume", text(&cut)]);
    same(&whole, &cut);
}

#[test]
fn seeds_of_any_preset_have_a_mean_and_a_spread() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("seeds");
    let out = study("icl", &folder, &["seeds=3", "steps=8", "S=3", "--seed", "5"]);
    assert!(out.contains("icl, 8 steps: test_loss: "), "{out}");
    let curves = fs::read_to_string(folder.join("curves.csv")).unwrap();
    let rows: Vec<Vec<&str>> = curves.lines().skip(1).map(|l| l.split(',').collect()).collect();
    // The group's name has a comma and so is quoted: two cells here.
    assert_eq!(rows.iter().map(|r| r[2]).collect::<Vec<_>>(), ["0", "4", "8"]);
    // Mean and deviation by hand, from the logs.
    let last = |seed: u64| -> f64 {
        let log = fs::read_to_string(folder.join(format!("runs/seed-{seed}/metrics.jsonl"))).unwrap();
        let record: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        record["test_loss"].as_f64().unwrap()
    };
    let losses = [last(5), last(6), last(7)];
    let mean = losses.iter().sum::<f64>() / 3.0;
    let sd = (losses.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 2.0).sqrt();
    let cell = |i: usize| rows[2][i].parse::<f64>().unwrap();
    assert!((cell(4) - mean).abs() < 1e-15 && (cell(5) - sd).abs() < 1e-15 && sd > 0.0);
    for figure in ["curves", "positions"] {
        assert!(fs::metadata(folder.join(format!("figures/{figure}.png"))).unwrap().len() > 500);
    }
    assert!(!folder.join("runs/seed-5/figures").exists(), "repetitions draw nothing of their own");
}

#[test]
fn attention_by_position_leaves_out_the_row_that_serves_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    study("causal-fig5", &folder, &["S=3", "steps=4"]);
    let json = |path: PathBuf| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let graph = json(folder.join("runs/two-parents/run.json"))["parents"].as_str().unwrap().to_string();
    let parents = |position: usize| graph.split(';').nth(position).unwrap().split(',').count() as f64;
    let csv = fs::read_to_string(folder.join("positions.csv")).unwrap();
    // Positions from 0, as in `parents`; mean attention there.
    let rows: Vec<(usize, f64)> = csv
        .lines()
        .skip(1)
        .map(|l| l.split(',').collect::<Vec<_>>())
        .map(|c| (c[1].parse().unwrap(), c[3].parse().unwrap()))
        .collect();
    // Position 0 is a root, position 5 = T - 1 the last.
    assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // So do the figures count.
    let svg = fs::read_to_string(folder.join("figures/attention.svg")).unwrap();
    assert!(svg.contains("\n5\n") && !svg.contains("\n6\n"));
    let pairs: f64 = rows.iter().map(|r| parents(r.0)).sum();
    let mean = rows.iter().map(|r| parents(r.0) * r.1).sum::<f64>() / pairs;
    let summary = json(folder.join("summary.json"));
    let whole = summary["two-parents.attention_on_parent_mean"].as_f64().unwrap();
    assert!((mean - whole).abs() < 1e-12, "{mean} by position, {whole} in all");
}

#[test]
fn matrices_of_a_model_with_embeddings_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    // Keys are those of every run: two layers of which this model draws one.
    study("causal-fig2", &folder, &["S=3", "steps=2", "model=mlp_transformer", "optimizer=adamw", "lr=0.01"]);
    assert!(fs::metadata(folder.join("figures/matrices.svg")).unwrap().len() > 500);
}

/// Every architecture on every task has a best head in each layer; that of a model whose first
/// layer has one head, blind to tokens, is what its run logs.
#[test]
fn the_best_head_of_each_layer_is_found_in_any_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    study("causal-architectures", &folder, &["S=3", "steps=4"]);
    let csv = fs::read_to_string(folder.join("heads.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|l| l.split(',').collect()).collect();
    assert_eq!(rows.len(), 24, "three models of two layers on three tasks, one with two parents:\n{csv}");
    for row in &rows {
        let (head, heads) = (row[3].parse::<usize>().unwrap(), row[4].parse::<usize>().unwrap());
        let on: f64 = row[5].parse().unwrap();
        assert!((1..=heads).contains(&head) && on > 0.0 && on < 1.0, "{row:?}");
        assert_eq!(
            heads > 1,
            row[0].contains("transformer") || row[0].contains("two-parents-dis") && row[1] == "1"
        );
    }
    for task in ["chain", "icl"] {
        let run = format!("{task}-disentangled");
        let path = folder.join("runs").join(&run).join("summary.json");
        let summary: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let row = rows.iter().find(|r| r[0] == run && r[1] == "1").unwrap();
        let (found, logged): (f64, f64) =
            (row[5].parse().unwrap(), summary["attention_on_parent_mean"].as_f64().unwrap());
        assert!((found - logged).abs() < 1e-6, "{found} {logged}");
    }
    assert!(fs::metadata(folder.join("figures/attention.svg")).unwrap().len() > 500);
}

/// Laws and symbols as labels: two groups of the same sequences.
#[test]
fn labels_are_compared_on_the_same_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    study("causal-labels", &folder, &["S=3", "steps=4", "seeds=2"]);
    let loss = |run: &str| {
        let path = folder.join("runs").join(run).join("metrics.jsonl");
        let text = fs::read_to_string(path).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        (first["test_loss"].clone(), last["test_loss"].clone(), last["train_loss"].clone())
    };
    for seed in [0, 1] {
        let soft = loss(&format!("law-as-label-seed-{seed}"));
        let symbol = loss(&format!("symbol-as-label-seed-{seed}"));
        assert_eq!(soft.0, symbol.0, "one test set, of laws");
        assert!(soft.1 != symbol.1 && soft.2 != symbol.2);
    }
}

#[test]
fn runs_are_named_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    study("causal-seeds", &folder, &["S=3", "steps=2^4", "seeds=2", "--quick", "--seed", "7"]);
    let mut names: Vec<String> = fs::read_dir(folder.join("runs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["chain-2^4-seed-7", "chain-2^4-seed-8", "icl-2^4-seed-7", "icl-2^4-seed-8"]);
}

#[test]
fn a_preset_that_a_figure_is_named_after_can_be_swept() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sweep");
    let mut args = vec!["sweep", "causal-fig8", "alpha=0.1,1", "S=3", "steps=2", "seeds=1"];
    args.extend(TINY);
    args.extend(["--out", text(&folder)]);
    ok(&args);
    let csv = fs::read_to_string(folder.join("grid.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let config = fs::read_to_string(folder.join("runs/alpha=0.1-seed=0/config.toml")).unwrap();
    assert!(config.contains("model = \"mlp_transformer\"") && config.contains("lr = 0.01\n"), "{config}");
}

/// Values of `attribute` in a page.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    html.split(&format!("{attribute}=\"")).skip(1).map(|s| s.split('"').next().unwrap()).collect()
}

#[test]
fn figures_make_a_page_whose_links_lead_somewhere() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("figures");
    let keys = ["S=3", "T=6", "steps=4", "batch=8", "test_size=8", "eval_every=2", "checkpoint_every=2"];
    let mut args = vec!["figures", "--quick", "--out", text(&folder)];
    args.extend(keys);
    // A key of the other paper's studies; S is none of theirs.
    args.push("loss=all");
    ok(&args);
    let html = fs::read_to_string(folder.join("index.html")).unwrap();
    let mut checked = 0;
    for link in values(&html, "href").into_iter().chain(values(&html, "src")) {
        match link.strip_prefix('#') {
            Some(id) => assert!(values(&html, "id").contains(&id), "{link}"),
            None => {
                assert!(!link.contains(':') && !link.starts_with('/'), "{link} leaves the folder");
                assert!(folder.join(link).is_file(), "{link} leads nowhere");
            }
        }
        checked += 1;
    }
    assert!(checked > 40, "{checked} links");
    for study in ["causal-fig2", "causal-fig5", "causal-fig6", "causal-fig7", "causal-fig8", "causal-fig9"] {
        assert!(html.contains(&format!("popgrad run {study} {} --quick", keys.join(" "))), "{study}");
    }
    for study in ["birth-fig2", "birth-fig3", "birth-fig4", "birth-depth"] {
        let command = format!("popgrad run {study} {} loss=all --quick", keys[1..].join(" "));
        assert!(html.contains(&command), "{study}");
    }
    assert!(!html.contains("causal-seeds"), "made only when asked");
    // Nothing is left to do, and the page comes out the same.
    let out = popgrad(&["figures", "--resume", text(&folder)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::read_to_string(folder.join("index.html")).unwrap(), html);
    // One of them by its own command.
    let alone = dir.path().join("alone");
    let mut args = vec!["run", "causal-fig2", "--quick", "--out", text(&alone)];
    args.extend(keys);
    ok(&args);
    same(&folder.join("causal-fig2"), &alone);
}

#[test]
fn figures_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("figures");
    let keys = ["T=6", "steps=2", "batch=8", "test_size=8"];
    let mut args = vec!["figures", "--quick", "--only", "causal-seeds,causal-fig9", "--out", text(&folder)];
    args.extend(keys);
    ok(&args);
    let mut there: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    let expected = [".lock", "causal-fig9", "causal-seeds", "digests.json", "figures.toml", "index.html"];
    assert_eq!(there, expected);
    // Two horizons became one: no run is made twice.
    let runs = fs::read_dir(folder.join("causal-seeds/runs")).unwrap().count();
    assert_eq!(runs, 2 * 3);
}

#[test]
fn a_sweep_fills_its_grid() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, again) = (dir.path().join("sweep"), dir.path().join("again"));
    let keys = ["icl", "T=4,6", "alpha=0.1,1,10", "seeds=2", "S=3", "steps=6", "batch=16", "test_size=20"];
    for (folder, threads) in [(&folder, "2"), (&again, "1")] {
        let mut args = vec!["sweep"];
        args.extend(keys);
        args.extend(["--threads", threads, "--out", text(folder)]);
        ok(&args);
    }
    same(&folder, &again);
    let csv = fs::read_to_string(folder.join("grid.csv")).unwrap();
    let places: Vec<String> =
        csv.lines().map(|l| l.split(',').take(3).collect::<Vec<_>>().join(",")).collect();
    let expected = ["T,alpha,runs", "4,0.1,2", "4,1.0,2", "4,10.0,2", "6,0.1,2", "6,1.0,2", "6,10.0,2"];
    assert_eq!(places, expected);
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("grid.json")).unwrap()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 6);
    assert_eq!((&json[5]["at"]["T"], &json[5]["at"]["alpha"]), (&6.into(), &10.0.into()));
    // The cell's numbers are those of its runs.
    let attention = |seed: u64| {
        let name = format!("runs/T=6-alpha=10.0-seed={seed}/summary.json");
        let run: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
        run["attention_on_parent_mean"].as_f64().unwrap()
    };
    let mean = (attention(0) + attention(1)) / 2.0;
    assert!((json[5]["attention_on_parent"]["mean"].as_f64().unwrap() - mean).abs() < 1e-15);
    assert!(fs::metadata(folder.join("figures/phase.svg")).unwrap().len() > 500);
    let html = fs::read_to_string(folder.join("sweep.html")).unwrap();
    assert!(values(&html, "src").iter().all(|l| folder.join(l).is_file()));
    ok(&["sweep", "--resume", text(&folder)]);
    same(&folder, &again);
}

#[test]
fn a_cell_that_diverges_is_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sweep");
    let args = [
        "sweep",
        "lr=1,1e30",
        "seeds=1",
        "T=4",
        "steps=6",
        "eval_every=1",
        "schedule=constant",
        "--out",
        text(&folder),
    ];
    let out = ok(&args);
    assert!(out.contains("diverged: 1\n"), "{out}");
    let csv = fs::read_to_string(folder.join("grid.csv")).unwrap();
    assert!(csv.lines().nth(2).unwrap().ends_with(",1,0,0,,,,"), "{csv}");
    let again = ok(&["sweep", "--resume", text(&folder)]);
    assert_eq!(out, again);
}

#[test]
fn scaling_measures_every_size() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("scaling");
    let out = ok(&["scaling", "--quick", "--seconds", "0.01", "--recovery", "20", "--out", text(&folder)]);
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("scaling.json")).unwrap()).unwrap();
    assert_eq!(json["points"].as_array().unwrap().len(), 8);
    assert!(json["points"].as_array().unwrap().iter().all(|p| p["ms_per_step"].as_f64().unwrap() > 0.0));
    for fit in json["fits"].as_array().unwrap() {
        assert!(out.contains(&format!("time ~ {}^", fit["key"].as_str().unwrap())));
        assert!(fit["exponent"].as_f64().unwrap().is_finite());
    }
    assert_eq!(json["recovery"].as_array().unwrap().len(), 4);
    for found in json["recovery"].as_array().unwrap() {
        let (key, size) = (found["key"].as_str().unwrap(), &found["size"]);
        let gap = |seed: u64| {
            let run = folder.join(format!("recovery-{key}/runs/{key}={size}-seed={seed}/summary.json"));
            let summary: serde_json::Value = serde_json::from_str(&fs::read_to_string(run).unwrap()).unwrap();
            summary["gap"].as_f64().unwrap()
        };
        let mean = (0..3).map(gap).sum::<f64>() / 3.0;
        assert!((found["gap"].as_f64().unwrap() - mean).abs() < 1e-12, "{found}, not {mean}");
        assert!(out.contains(&format!("gap {mean:.3} nats")), "{out}");
    }
    assert!(folder.join("scaling.svg").is_file());
    // A key given is that of the recovery runs, too.
    let given = dir.path().join("given");
    let mut args = vec!["scaling", "--quick", "--seconds", "0.01", "--recovery", "20", "lr=0.5", "S=2"];
    args.extend(["alpha=0.3", "--out", text(&given)]);
    ok(&args);
    let config = |run: &str| Config::read(&given.join(run).join("config.toml")).unwrap();
    let by_length = config("recovery-T/runs/T=8-seed=0");
    let keys = |c: &Config| ["lr", "alpha", "S", "T"].map(|k| c.table()[k].to_string());
    assert_eq!(keys(&by_length), ["0.5", "0.3", "2", "8"]);
    let by_alphabet = config("recovery-S/runs/S=6-seed=0");
    assert_eq!(keys(&by_alphabet), ["0.5", "0.3", "6", "12"]);
    let none = dir.path().join("none");
    let out = ok(&["scaling", "--quick", "--seconds", "0.01", "--recovery", "0", "--out", text(&none)]);
    assert!(!out.contains("left out") && !out.contains("recovered"), "none was asked for: {out}");
}

#[test]
fn bad_input_is_refused_before_a_folder_appears() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let many: String = (2..102).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let (many_t, many_s) = (format!("T={many}"), format!("S={many}"));
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", "causal-fig3"], &["unknown preset `causal-fig3`"]),
        (&["run", "chain", "seeds=0"], &["seeds: 0", "1 to 1000"]),
        (&["run", "chain", "seeds=x"], &["seeds: `x`"]),
        (&["run", "chain", "seeds=-2"], &["seeds: `-2`"]),
        (&["run", "chain", "seeds=1001"], &["seeds: 1001"]),
        (&["run", "chian", "seeds=2"], &["unknown preset `chian`", "did you mean `chain`"]),
        (&["run", "causal-fig2", "seeds=2"], &["seeds: 2", "causal-fig9"]),
        (&["run", "causal-fig2", "alpha=0"], &["alpha: 0"]),
        (&["run", "causal-fig9", "--seed", "9223372036854775807"], &["seed: too large"]),
        (&["figures", "--only", "causal-fig3"], &["unknown figure `causal-fig3`", "did you mean"]),
        (&["figures", "stps=2"], &["unknown key `stps`"]),
        (&["figures", "seeds=2"], &["seeds: given"]),
        (&["figures", "T=1"], &["T: 1"]),
        (&["sweep", "alhpa=1,2"], &["unknown key `alhpa`", "did you mean `alpha`"]),
        (&["sweep", "alpha=1,x"], &["alpha: `x`"]),
        (&["sweep", "alpha=1,,2"], &["alpha: ``"]),
        (&["sweep", "alpha=1,1"], &["alpha: 1.0 twice"]),
        (&["sweep", "alpha=0,1"], &["alpha: 0"]),
        (&["sweep", "alpha=1,2", "alpha=3,4"], &["alpha: given twice"]),
        (&["sweep", &many_t, &many_s], &["grid: 50000 runs", "at most 4096"]),
        (&["sweep", "alpha=1,2", "seeds=0"], &["seeds: 0"]),
        (&["sweep", "graph=chain,chan"], &["unknown graph `chan`"]),
        (&["sweep", "causal-fig2", "alpha=1,2"], &["preset: causal-fig2", "of a single run"]),
        (&["sweep", "alpha"], &["unknown preset `alpha`"]),
        (&["scaling", "--seconds", "0"], &["seconds: 0"]),
        (&["scaling", "--seconds", "nan"], &["seconds: NaN"]),
        (&["scaling", "--recovery=-1"], &["recovery: -1"]),
        (&["scaling", "model=disentagled"], &["unknown model"]),
        (&["scaling", "steps=1"], &["steps: given", "sets these itself"]),
        (&["scaling", "eval_every=1"], &["eval_every: given"]),
        (&["run", "chain", "preset=icl"], &["preset: given as key=value", "first word"]),
        (&["run", "chain", "--quick", "preset=bogus"], &["preset: given as key=value"]),
        (&["figures", "preset=icl"], &["preset: given as key=value"]),
        (&["scaling", "preset=icl"], &["preset: given as key=value"]),
        (&["sweep", "preset=chain,icl"], &["preset: given as key=value"]),
        (&["sweep", "chain", "preset=icl", "T=4,5"], &["preset: given as key=value"]),
        (&["run", "algorithm1", "seeds=2"], &["preset: algorithm1", "several runs"]),
        (&["sweep", "algorithm1", "alpha=0.1,1"], &["preset: algorithm1", "several runs"]),
        (&["sweep", "algorithm1"], &["preset: algorithm1"]),
        (&["run", "causal-fig2", "graph=icl"], &["graph: given", "causal-fig2"]),
        (&["run", "causal-fig6", "parents=-1,0,0"], &["parents: given", "causal-fig6"]),
        (&["figures", "--only", "causal-fig7", "order=3"], &["order: given", "causal-fig7"]),
    ];
    for (args, words) in cases {
        let mut all = args.to_vec();
        all.extend(["--out", text(&folder)]);
        refused(&all, 2, words);
        assert!(!folder.exists(), "{args:?} left a folder behind");
    }
    let nowhere = dir.path().join("nowhere");
    for command in ["figures", "sweep", "run"] {
        refused(&[command, "--resume", text(&nowhere)], 2, &["resume", "nowhere"]);
    }
}

#[test]
fn a_damaged_study_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("study");
    study("causal-fig9", &folder, &["seeds=2", "steps=4"]);
    let path = folder.join("study.toml");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, word) in [
        ("steps = 4", "steps = 0", "graph-0"),
        ("steps = 4", "steps = \"many\"", "study.toml"),
        ("name = \"graph-1\"", "name = \"graph-0\"", "twice"),
        ("name = \"graph-1\"", "name = \"../graph\"", "../graph"),
        ("drawing = \"positions\"", "drawing = \"pictures\"", "pictures"),
        ("figures = false", "figures = false\nmore = 1", "more"),
        // Another configuration than the one that ran.
        ("steps = 4", "steps = 8", "config.toml"),
    ] {
        assert!(good.contains(from), "{from}");
        let changed = good.replace(from, to);
        write_with(&folder, "study.toml", changed.as_bytes()).unwrap();
        refused(&["run", "--resume", text(&folder)], 1, &[word]);
        // As one that was edited, it is refused before anything in it is read.
        write_with(&folder, "study.toml", good.as_bytes()).unwrap();
        fs::write(&path, &changed).unwrap();
        refused(&["run", "--resume", text(&folder)], 1, &["study.toml: damaged or edited"]);
    }
    write_with(&folder, "study.toml", good.as_bytes()).unwrap();
    fs::write(folder.join("runs/graph-1/attention.npz"), "no zip").unwrap();
    refused(&["run", "--resume", text(&folder)], 1, &["attention.npz"]);
    let summary = folder.join("runs/graph-0/summary.json");
    fs::write(&summary, "{").unwrap();
    refused(&["run", "--resume", text(&folder)], 1, &["graph-0", "summary.json"]);
}

#[test]
fn a_grid_has_any_number_of_axes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let tiny = ["batch=8", "shards=2", "steps=2", "eval_every=2", "test_size=16", "checkpoint_every=2"];
    let folder = at("whole");
    let axes = ["S=2,3", "T=4,5", "heads=1;1,1", "seeds=2"];
    let told = ok(&[&["sweep"], &axes[..], &tiny, &["--out", text(&folder)]].concat());
    assert!(!told.contains("figure: "), "{told}");
    // A line for each cell, the last key fastest, with the numbers of its runs.
    let csv = fs::read_to_string(folder.join("grid.csv")).unwrap();
    let mut lines = csv.lines();
    assert!(lines.next().unwrap().starts_with("S,T,heads,runs,recovered,"));
    let mut expected = Vec::new();
    for s in [2, 3] {
        for t in [4, 5] {
            for (heads, name) in [("[1]", "1"), ("\"[1,1]\"", "1-1")] {
                let loss = |seed: u64| -> f64 {
                    let run = format!("runs/S={s}-T={t}-heads={name}-seed={seed}/summary.json");
                    let summary = fs::read_to_string(folder.join(run)).unwrap();
                    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
                    summary["test_loss"].as_f64().unwrap()
                };
                expected.push((format!("{s},{t},{heads},2,"), (loss(0) + loss(1)) / 2.0));
            }
        }
    }
    let found: Vec<&str> = lines.collect();
    assert_eq!(found.len(), expected.len());
    for (line, (start, loss)) in found.iter().zip(&expected) {
        assert!(line.starts_with(start), "{line} is not {start}");
        let cell: f64 = line.rsplit(',').nth(1).unwrap().parse().unwrap();
        assert!((cell - loss).abs() < 1e-14, "{line}: {loss}");
    }
    // A row of maps for each S, under its name.
    let svg = fs::read_to_string(folder.join("figures/phase.svg")).unwrap();
    assert!(svg.contains("\nS=2\n") && svg.contains("\nS=3\n"));
    // Half of it, resumed, is the same.
    let cut = at("cut");
    ok(&[&["sweep"], &axes[..], &tiny, &["--out", text(&cut)]].concat());
    fs::remove_dir_all(cut.join("runs/S=3-T=5-heads=1-1-seed=1")).unwrap();
    fs::remove_file(cut.join("grid.csv")).unwrap();
    ok(&["sweep", "--resume", text(&cut)]);
    same(&folder, &cut);
    // Too many rows of maps: tables alone, and it says so.
    let many = at("many");
    let alphas = "alpha=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,1.1,1.2,1.3,1.4,1.5,1.6,1.7";
    let words = [&["sweep", alphas, "S=2,3", "T=4,5", "seeds=1"], &tiny[..], &["--out", text(&many)]];
    let told = ok(&words.concat());
    assert!(told.contains("figure: none: 17 choices of all keys but the last two"), "{told}");
    assert!(!many.join("figures/phase.svg").exists());
    assert!(!fs::read_to_string(many.join("sweep.html")).unwrap().contains("phase"));
    assert_eq!(fs::read_to_string(many.join("grid.csv")).unwrap().lines().count(), 1 + 68);
}
