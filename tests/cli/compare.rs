//! `compare`: only what differs, the numbers of the summaries, and curves of any task.

use crate::support::{ok, refused, text};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: [&str; 5] = ["steps=6", "batch=8", "test_size=16", "eval_every=2", "checkpoint_every=2"];
const GRAPH: [&str; 4] = ["chain", "S=3", "T=5", "shards=2"];

fn run(out: &Path, what: &[&str]) {
    ok(&[&["run"], what, &TINY, &["--out", text(out)]].concat());
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(&[&["compare"], args, &["--json"]].concat())).unwrap()
}

#[test]
fn only_keys_that_differ_and_the_summaries_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(&at("a"), &GRAPH);
    run(&at("b"), &[&GRAPH[..], &["lr=0.5", "model=transformer", "optimizer=adamw", "dim=8"]].concat());
    let birth = ["birth", "T=16", "K=2", "dim=8", "shards=2"];
    run(&at("c"), &birth);
    let found = json(&[text(&at("a")), text(&at("b"))]);
    let runs = found["runs"].as_array().unwrap();
    let differs = runs[0]["differs"].as_object().unwrap();
    assert_eq!(differs["lr"], 1.0);
    assert_eq!((&differs["model"], &differs["dim"]), (&"disentangled".into(), &Value::Null));
    assert_eq!(runs[1]["differs"]["dim"], 8);
    for same in ["S", "T", "steps", "seed", "preset", "graph"] {
        assert!(!differs.contains_key(same), "{same}");
    }
    // Full digits: each number is the summary's.
    for (run, name) in runs.iter().zip(["a", "b"]) {
        let text = fs::read_to_string(at(name).join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&text).unwrap();
        let results = run["results"].as_object().unwrap();
        assert!(results.len() > 8);
        for (key, value) in results {
            assert_eq!(*value, summary[key], "{name} {key}");
        }
        assert!(!results.contains_key("seconds") && run["finished"] == true);
    }
    // For people: rounded, a column for each run, and a task without a key has a dash.
    let shown = ok(&["compare", text(&at("a")), text(&at("c"))]);
    let row = |key: &str| -> Vec<&str> {
        let line = shown.lines().find(|l| l.split_whitespace().next() == Some(key));
        line.unwrap_or_else(|| panic!("{key} in\n{shown}")).split_whitespace().collect()
    };
    let of_a: Value =
        serde_json::from_str(&fs::read_to_string(at("a").join("summary.json")).unwrap()).unwrap();
    let (gap, of_run) = (row("gap"), of_a["gap"].as_f64().unwrap());
    let shown_gap: f64 = gap[1].parse().unwrap();
    assert!((shown_gap - of_run).abs() <= 1e-4 * of_run.abs() && shown_gap != of_run, "{gap:?}, {of_run}");
    assert_eq!((gap.len(), gap[2]), (3, "-"));
    assert_eq!(row("task"), ["task", "causal_tree", "trigger_bigram"]);
    assert!(!shown.contains("steps_per_second") && !shown.lines().any(|l| l.starts_with("eval_every")));
    // One picture of both tasks: the loss of both, and the measure of each.
    let svg = at("curves.svg");
    ok(&["compare", text(&at("a")), text(&at("c")), "--out", text(&svg)]);
    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg"));
    for word in ["test loss (nats)", "attention on the parent", "accuracy at the end, test"] {
        assert!(picture.contains(word), "{word}");
    }
    // Each of the two curves of the loss has its colour.
    assert!(picture.matches("<polyline").count() >= 4, "{}", picture.matches("<polyline").count());
}

#[test]
fn runs_of_studies_unfinished_runs_and_what_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let study = at("study");
    run(&study, &[&GRAPH[..], &["seeds=2"]].concat());
    let found = json(&[text(&study)]);
    let runs = found["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    let seeds: Vec<&Value> = runs.iter().map(|r| &r["differs"]["seed"]).collect();
    assert_eq!(seeds, [0, 1]);
    assert!(runs[0]["name"].as_str().unwrap().starts_with("study/"));
    // Of a run that is not over, the last evaluation.
    run(&at("a"), &GRAPH);
    fs::remove_file(at("a").join("summary.json")).unwrap();
    let found = json(&[text(&at("a")), text(&study)]);
    let first = &found["runs"][0];
    let log = fs::read_to_string(at("a").join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&first["finished"], &first["results"]["test_loss"]), (&false.into(), &last["test_loss"]));
    assert!(ok(&["compare", text(&at("a")), text(&study)]).contains("over"));

    let none = at("none");
    fs::create_dir(&none).unwrap();
    let empty = text(&none);
    refused(&["compare", text(&at("a"))], 2, &["runs: 1 run", "2 to 64"]);
    refused(
        &["compare", text(&at("a")), empty],
        2,
        &["run: ", empty, "has no config.toml", "the folder of a run"],
    );
    refused(&["compare", text(&at("a")), "/nowhere"], 2, &["run: /nowhere does not exist"]);
    let (a, b) = (at("a"), text(&study));
    let (gif, png) = (at("x.gif"), at("x.png"));
    refused(&["compare", text(&a), b, "--out", text(&gif)], 2, &["out: ", ".svg, .png or .pdf"]);
    assert!(!gif.exists());
    ok(&["compare", text(&a), b, "--out", text(&png)]);
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    // A summary that was edited is none.
    let summary = study.join("runs").join("seed-1").join("summary.json");
    let summary = if summary.exists() {
        summary
    } else {
        let member = fs::read_dir(study.join("runs")).unwrap().next().unwrap().unwrap().path();
        member.join("summary.json")
    };
    let edited = fs::read_to_string(&summary).unwrap().replacen("0.", "1.", 1);
    fs::write(&summary, edited).unwrap();
    refused(&["compare", b], 1, &["summary.json", "damaged or edited"]);
}
