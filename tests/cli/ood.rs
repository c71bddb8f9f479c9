//! `ood`: sequences follow the transitions they are given, an induction head predicts them, and the
//! command on real run folders.

use crate::support::{one_line, popgrad};
use popgrad::config::{parse_overrides, resolve};
use popgrad::model::trace::Trace;
use popgrad::model::{Simplified, Spec};
use popgrad::paper::causal::ood::{KINDS, Outcome, Sizes, Subject, count, evaluate, matrix, sample_given};
use popgrad::paper::preset;
use popgrad::rng::{Key, Purpose};
use popgrad::run::Trained;
use popgrad::task::Forest;
use std::path::Path;

const SIZES: Sizes = Sizes { matrices: 3, sequences: 2000, seed: 1 };

#[test]
fn matrices_are_of_their_kind() {
    let s = 5;
    for (kind, _) in KINDS {
        let all: Vec<Vec<f64>> =
            (0..count(kind, &SIZES)).map(|m| matrix(kind, s, 0.1, &SIZES, m).unwrap()).collect();
        assert!(all.len() == 1 || all[0] != all[1], "{kind}");
        assert_eq!(all.len(), if ["cyclic", "lazy"].contains(&kind) { 1 } else { 3 }, "{kind}");
        for pi in &all {
            for row in pi.chunks(s) {
                assert!(
                    (row.iter().sum::<f64>() - 1.0).abs() < 1e-12 && row.iter().all(|p| *p > 0.0),
                    "{kind}"
                );
            }
        }
    }
    let one = |kind: &str| matrix(kind, s, 0.1, &SIZES, 0).unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} {b}");
    close(one("cyclic")[4 * s], 0.9 + 0.02);
    close(one("lazy")[s + 1], 0.5 + 0.1);
    assert!(one("uniform").iter().all(|p| *p >= 0.18 && *p <= 0.28));
    assert!(one("deterministic").chunks(s).all(|r| r.iter().filter(|p| **p > 0.9).count() == 1));
    let rank = one("rank-one");
    assert_eq!(rank[..s], rank[3 * s..4 * s]);
    assert!(matrix("lazzy", s, 0.1, &SIZES, 0).unwrap_err().to_string().contains("did you mean `lazy`"));
}

#[test]
fn sequences_follow_the_given_transitions() {
    let (s, t) = (3, 5);
    let forest = Forest::from_parents(&[-1, 0, 0, -1]).unwrap();
    let (pi, root) = ([0.2, 0.3, 0.5, 0.0, 0.6, 0.4, 0.7, 0.1, 0.2], [0.5, 0.2, 0.3]);
    let (key, n) = (Key::new(8, Purpose::Probe), 60_000u64);
    let mut word = [0; 5];
    let mut pairs = vec![[0.0f64; 9]; 4];
    for k in 0..n {
        sample_given(&forest, s, &pi, &root, &key, k, &mut word);
        // Edges 0→1 and 0→2; the root 3 and the query 4 beside position 0.
        for (at, i) in [(0, 1), (1, 2), (2, 3), (3, t - 1)] {
            pairs[at][word[0] as usize * 3 + word[i] as usize] += 1.0;
        }
    }
    for (at, counts) in pairs.iter().enumerate() {
        let mut chi2 = 0.0;
        for (e, c) in counts.iter().enumerate() {
            let row = match at {
                0 | 1 => pi[e],
                2 => root[e % 3],
                _ => 1.0 / 3.0,
            };
            let expected = n as f64 * root[e / 3] * row;
            if expected == 0.0 {
                assert_eq!(*c, 0.0, "an impossible transition");
            } else {
                chi2 += (c - expected) * (c - expected) / expected;
            }
        }
        // At most 8 degrees of freedom: P(χ² > 42) = 1.4e-6.
        assert!(chi2 < 42.0, "{at}: {chi2}");
    }
}

/// The induction head on a chain of T tokens, S = 3.
fn head(t: usize) -> Subject {
    let words = [format!("T={t}"), "S=3".into(), "source=sampled".into()];
    let mut layers = preset("algorithm1", false).unwrap();
    layers.push(parse_overrides(&words).unwrap());
    let config = resolve(&layers).unwrap();
    let Spec::Simplified(spec) = &config.model else { panic!("another model") };
    let model = Simplified::<f64>::new(3, t, spec).unwrap();
    let params = model.construction(Forest::chain(t).unwrap().parents(), 40.0, 60.0).unwrap();
    let trace = Trace::new(&config.model, 3, t).unwrap();
    Subject::new(Trained { config, step: 0, trace, params }).unwrap()
}

#[test]
fn the_induction_head_predicts_what_it_was_never_trained_on() {
    for kind in ["dirichlet1", "cyclic", "uniform", "lazy"] {
        let of = |t: usize| evaluate(&head(t), kind, &SIZES).unwrap();
        let (short, long): (Outcome, Outcome) = (of(24), of(192));
        assert!(long.t_eff > 4.0 * short.t_eff, "{kind}");
        // T_eff^-½ would be 1/√8 = .35.
        assert!(long.sup_error < 0.6 * short.sup_error, "{kind}: {} {}", short.sup_error, long.sup_error);
        for o in [&short, &long] {
            assert!(o.mean_error <= o.sup_error && o.sup_error <= o.worst_query, "{kind}");
            // ε in the model's loss can take it a little below the entropy.
            assert!(o.entropy <= o.loss + 0.05 && o.entropy <= o.bayes_counts + 1e-12, "{kind}: {o:?}");
        }
    }
}

#[test]
fn errors_over_matrices_do_not_vanish_with_more_sequences_of_each() {
    let of = |matrices: usize, sequences: usize| {
        let sizes = Sizes { matrices, sequences, seed: 1 };
        evaluate(&head(24), "dirichlet1", &sizes).unwrap()
    };
    let (few, many) = (of(8, 500), of(8, 8000));
    // Independent sequences would give a quarter.
    for (few, many) in [(few.loss_se, many.loss_se), (few.sup_error_se, many.sup_error_se)] {
        assert!(many > 0.5 * few && many > 0.0, "{few} {many}");
    }
    // One matrix: over its sequences.
    let ratio = of(1, 8000).sup_error_se / of(1, 500).sup_error_se;
    assert!((0.2..0.3).contains(&ratio), "{ratio}");
    let sizes = Sizes { matrices: 1 << 16, sequences: 1 << 20, seed: 0 };
    assert!(evaluate(&head(24), "lazy", &sizes).unwrap_err().to_string().contains("<= 2^30"));
}

fn train(dir: &Path, name: &str, more: &[&str]) -> String {
    let folder = dir.join(name).display().to_string();
    let base = [
        "run",
        "chain",
        "--quick",
        "steps=64",
        "eval_every=64",
        "test_size=256",
        "batch=64",
        "S=3",
        "--out",
        &folder,
    ];
    let out = popgrad(&[&base[..], more].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    folder
}

#[test]
fn the_command_on_run_folders() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (train(dir.path(), "a", &["T=6"]), train(dir.path(), "b", &["T=12", "dtype=f64"]));
    let kept = std::fs::read(Path::new(&a).join("metrics.jsonl")).unwrap();
    let out = dir.path().join("ood").display().to_string();
    let args = ["ood", &a, &b, "--matrices", "2", "--sequences", "300", "--json"];
    let run = |more: &[&str]| {
        let out = popgrad(&[&args[..], more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let json = run(&["--out", &out, "--threads", "1"]);
    assert_eq!(json, run(&["--threads", "2"]), "threads change nothing");
    assert_eq!(json, std::fs::read(Path::new(&out).join("ood.json")).unwrap());
    assert!(Path::new(&out).join("ood.svg").is_file());
    let runs: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(runs[1]["T"], 12);
    assert_eq!(runs[0]["kinds"].as_array().unwrap().len(), KINDS.len());
    assert_eq!(kept, std::fs::read(Path::new(&a).join("metrics.jsonl")).unwrap(), "the run is left alone");
    let table = popgrad(&["ood", &a, "--kinds", "cyclic,lazy", "--sequences", "100"]);
    assert_eq!(String::from_utf8(table.stdout).unwrap().lines().count(), 4);
    let empty = dir.path().join("empty").display().to_string();
    std::fs::create_dir(&empty).unwrap();
    for (args, expected) in [
        (vec!["ood"], "required"),
        (vec!["ood", &empty], "has no config.toml"),
        (vec!["ood", &a, "--kinds", "lazzy"], "unknown kind `lazzy`, did you mean `lazy`"),
        (vec!["ood", &a, "--matrices", "0"], "matrices: 0; allowed: integers, 1 to"),
        (vec!["ood", &a, "--matrices", "65536", "--sequences", "67108864"], "<= 2^30"),
        (vec!["ood", &a, "--sequences", "1"], "sequences: 1; allowed: integers, 2 to"),
        (vec!["ood", &a, "--out", &b], "is not empty"),
    ] {
        let out = popgrad(&args);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {error}");
        one_line(&error);
        assert!(error.contains(expected), "{error}");
    }
    // A run stopped before its first checkpoint keeps its logs.
    std::fs::remove_file(Path::new(&a).join("checkpoint.safetensors")).unwrap();
    let out = popgrad(&["ood", &a]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("has no checkpoint.safetensors"));
    assert_eq!(kept, std::fs::read(Path::new(&a).join("metrics.jsonl")).unwrap());
}

#[test]
fn every_model_of_a_run_on_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    for model in popgrad::model::MODELS {
        let word = format!("model={model}");
        let mut more = vec!["T=5", "lr=0.01", word.as_str()];
        if ["memory", "transformer"].contains(model) {
            more.push("dim=8");
        }
        let folder = train(dir.path(), model, &more);
        let out = popgrad(&["ood", &folder, "--kinds", "cyclic", "--sequences", "50", "--json"]);
        assert!(out.status.success(), "{model}: {}", String::from_utf8_lossy(&out.stderr));
        let runs: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let found = &runs[0]["kinds"][0];
        let (mean, sup) = (found["mean_error"].as_f64().unwrap(), found["sup_error"].as_f64().unwrap());
        assert!(0.0 < mean && mean <= sup && sup < 1.0, "{model}: {found}");
        assert_eq!((&runs[0]["graph"], &runs[0]["S"]), (&"chain".into(), &3.into()), "{model}");
    }
}
