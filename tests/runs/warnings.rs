//! A run says where its end does not mean what it seems to, and only there.

use crate::support::{ok, popgrad, text};
use popgrad::paper;
use popgrad::run::verdict::{Warning, curve, warnings};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn summary(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn a_run_that_went_wrong_says_so_and_one_that_did_not_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let chain = ["run", "chain", "S=5", "T=6", "batch=64", "shards=2", "test_size=256", "eval_every=4"];
    let run = |name: &str, more: &[&str]| {
        let out = popgrad(&[&chain[..], more, &["--out", text(&at(name))]].concat());
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{name}: {err}");
        (summary(&at(name))["warnings"].clone(), err)
    };
    let (found, err) = run("wild", &["steps=40", "lr=200", "schedule=constant"]);
    assert_eq!(found, serde_json::json!(["above_uniform_guess", "loss_rose"]), "{err}");
    let lines: Vec<&str> = err.lines().filter(|l| l.starts_with("warning: ")).collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].contains("is above 1.6094, that of a uniform guess of 5 symbols"), "{err}");
    assert!(lines[1].contains("the test loss rose from ") && lines[1].contains("at update "), "{err}");
    let (found, err) = run("calm", &["steps=40", "lr=1"]);
    assert!(found == serde_json::json!([]) && !err.contains("warning"), "{found} {err}");
    // The curve is the log's, all sessions of it, and the words follow from it.
    let log = fs::read_to_string(at("wild").join("metrics.jsonl")).unwrap();
    let records: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let own: Vec<(u64, f64)> =
        records.iter().map(|r| (r["step"].as_u64().unwrap(), r["test_loss"].as_f64().unwrap())).collect();
    assert_eq!(curve(&at("wild")).unwrap(), own);
    assert!(matches!(warnings(&own, 5)[1], Warning::Rose { best, .. } if best < 1.62), "{own:?}");
    // Of each run of a study, by its name; the table has them.
    let study = at("study");
    let keys = ["steps=40", "lr=200", "schedule=constant", "seeds=2", "--out", text(&study)];
    let out = popgrad(&[&chain[..], &keys].concat());
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && err.matches("warning: seed-").count() == 4, "{err}");
    let runs = fs::read_to_string(study.join("runs.csv")).unwrap();
    assert!(runs.lines().next().unwrap().contains("warnings"), "{runs}");
    assert!(runs.contains("above_uniform_guess"), "{runs}");
}

/// The short form of Figure 7 shows what the figure is about: each head holds its own parent, and
/// the loss is far below what one parent allows.
#[test]
fn figure_7_in_short_parts_the_heads() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("fig7");
    ok(&["run", "causal-fig7", "--quick", "--out", text(&folder)]);
    let found = summary(&folder.join("runs/3-gram"));
    let number = |key: &str| found[key].as_f64().unwrap();
    assert!(number("heads_split_parents") > 0.7, "{found}");
    assert!(number("gap") < 0.03 && number("bayes_one_parent") - number("test_loss") > 0.15, "{found}");
    let of = |k: usize| found["head_of_parent"][k].as_u64().unwrap() as usize;
    assert_ne!(of(0), of(1));
    for k in 0..2 {
        let on = found["attention_of_assigned_head"][k].as_f64().unwrap();
        assert_eq!(found["attention_of_heads"][of(k) - 1][k].as_f64().unwrap(), on);
        let other = found["attention_of_heads"][of(1 - k) - 1][k].as_f64().unwrap();
        assert!(on > 0.7 && other < 0.05, "{found}");
        let said = format!("head {} on parent {} with mean attention {on:.3}", of(k), k + 1);
        assert!(found["recovery"].as_str().unwrap().contains(&said), "{found}");
    }
    assert_eq!(fs::read_dir(folder.join("runs")).unwrap().count(), 1);
}

/// The curves of the short forms of all presets, as recorded in `quick_curves.json`: nothing is
/// wrong with any of them. The quickest run here, too.
#[test]
fn no_preset_gives_a_false_alarm() {
    let text_of = include_str!("quick_curves.json");
    let recorded: BTreeMap<String, Vec<(u64, f64)>> = serde_json::from_str(text_of).unwrap();
    let mut presets: Vec<String> = paper::presets().into_iter().map(|p| p.name).collect();
    presets.sort();
    assert_eq!(recorded.keys().cloned().collect::<Vec<_>>(), presets, "record the new preset's curve");
    for (name, curve) in &recorded {
        let config = popgrad::config::resolve(&paper::preset(name, true).unwrap()).unwrap();
        let vocab = paper::experiment(&config).unwrap().setup(&config).unwrap().vocab();
        assert_eq!(curve.last().unwrap().0, config.plan.steps, "{name}: another curve than its short form's");
        assert_eq!(warnings(curve, vocab), [], "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["algorithm1", "manual"] {
        let folder = dir.path().join(name);
        ok(&["run", name, "--quick", "--out", text(&folder)]);
        assert_eq!(summary(&folder)["warnings"], serde_json::json!([]), "{name}");
        let (now, before) = (curve(&folder).unwrap(), &recorded[name]);
        assert_eq!(now.len(), before.len(), "{name}");
        for (a, b) in now.iter().zip(before) {
            assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-3, "{name}: {a:?} and {b:?}");
        }
    }
}
