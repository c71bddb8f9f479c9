//! `popgrad info` and `popgrad bench`: they run, their JSON is valid, and bad arguments are
//! refused. No test here depends on time.

use crate::support::one_line;
use serde_json::Value;
use std::process::{Command, Output};

fn popgrad(args: &[&str], isa: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
    match isa {
        Some(isa) => command.env("POPGRAD_ISA", isa),
        None => command.env_remove("POPGRAD_ISA"),
    };
    command.args(args).output().unwrap()
}

#[track_caller]
fn json(out: &Output) -> Value {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[track_caller]
fn refused(out: &Output, words: &[&str]) {
    let err = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(out.status.code(), Some(2), "{err}");
    assert!(out.stdout.is_empty());
    one_line(&err);
    assert!(words.iter().all(|w| err.contains(w)), "{words:?} in {err}");
}

/// An instruction set that this CPU has and does not choose by itself.
const OTHER: &str = "portable";

#[test]
fn info_tells_the_instruction_set_and_why() {
    let best = json(&popgrad(&["info", "--json"], None));
    let isas = best["isas"].as_array().unwrap();
    assert_eq!(best["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(isas.first().unwrap(), OTHER);
    assert_eq!(&best["isa"], isas.last().unwrap());
    assert_eq!(best["isa_reason"], "the best that this CPU has");
    assert!(best["threads"].as_u64().unwrap() >= 1 && best["cores"].as_u64().unwrap() >= 1);

    let forced = json(&popgrad(&["info", "--json"], Some(OTHER)));
    assert_eq!((&forced["isa"], &forced["isa_reason"]), (&OTHER.into(), &"set by POPGRAD_ISA".into()));

    let out = popgrad(&["info"], Some(OTHER));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && text.contains("portable: set by POPGRAD_ISA"), "{text}");
    assert!(text.lines().count() == 6 && text.starts_with("popgrad "), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn info_knows_linux() {
    let info = json(&popgrad(&["info", "--json"], None));
    assert!(info["memory"].as_u64() >= info["memory_available"].as_u64());
    assert!(info["memory_available"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn unknown_instruction_sets_are_refused() {
    refused(&popgrad(&["info"], Some("sse9")), &["sse9"]);
    refused(&popgrad(&["bench"], Some("sse9")), &["sse9"]);
    let out = popgrad(&["bench", "--isa", "avx215"], None);
    refused(&out, &["unknown instruction set `avx215`", "did you mean `avx512`", "portable, avx2, avx512"]);
    refused(&popgrad(&["bench", "--isa", OTHER, "--threads", "0"], None), &["threads: 0", "integers, 1 to "]);
    refused(&popgrad(&["info", "--jsno"], None), &["--jsno"]);
    // What this CPU lacks is refused too, by the option as by the variable.
    let has = json(&popgrad(&["info", "--json"], None))["isas"].clone();
    for isa in ["avx2", "avx512"].into_iter().filter(|i| !has.as_array().unwrap().contains(&Value::from(*i)))
    {
        refused(&popgrad(&["bench", "--isa", isa], None), &[isa]);
        refused(&popgrad(&["info"], Some(isa)), &[isa]);
    }
}

#[test]
fn bench_measures_everything_on_the_instruction_set_asked_for() {
    // The option wins over the variable, even over one that names nothing.
    let report = json(&popgrad(&["bench", "--json", "--isa", OTHER, "--threads", "2"], Some("sse9")));
    assert_eq!((&report["isa"], &report["isa_reason"]), (&OTHER.into(), &"set by --isa".into()));
    let results = report["results"].as_array().unwrap();
    let positive = |r: &Value, key: &str| r[key].as_f64().is_some_and(|x| x > 0.0 && x.is_finite());
    for r in results {
        assert!(["rate", "median_ns", "min_ns", "max_ns"].iter().all(|k| positive(r, k)), "{r}");
        assert!(r["min_ns"].as_f64() <= r["median_ns"].as_f64(), "{r}");
        assert!(r["median_ns"].as_f64() <= r["max_ns"].as_f64(), "{r}");
        // Shares exactly where flops are compared with a peak on as many threads.
        let shares = r["unit"] == "GFLOP/s" && r["name"] != "multiply-add peak";
        assert_eq!(positive(r, "share_of_peak"), shares, "{r}");
        assert_eq!(r["threads"] == 2, r["name"].as_str().unwrap().starts_with("training step"), "{r}");
    }
    let kinds =
        ["multiply-add peak", "gemm", "exp", "load", "attention", "population", "sampling", "training step"];
    for kind in kinds {
        assert!(results.iter().any(|r| r["name"].as_str().unwrap().starts_with(kind)), "no {kind}");
    }
}

#[test]
fn rivals_that_are_not_installed_are_skipped_with_a_word() {
    let only = ["--rivals", "--only", "product 16", "--rounds", "1", "--threads", "1"];
    let all = |more: &[&str]| popgrad(&[&["bench"], &only[..], more].concat(), None);
    let out = all(&["--python", "no-such-python"]);
    let (text, err) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{err}");
    assert!(text.contains("product 16x16x16 (f32)") && text.contains("popgrad  "), "{text}");
    for framework in ["torch", "jax", "numpy"] {
        assert!(err.contains(&format!("skipped: {framework}: no-such-python")), "{err}");
    }
    let report = json(&all(&["--python", "no-such-python", "--json"]));
    assert_eq!(report["skipped"].as_array().unwrap().len(), 3);
    let comparison = &report["comparisons"][0];
    assert_eq!((&comparison["threads"], &comparison["rounds"]), (&1.into(), &1.into()));
    assert!(comparison["times"][0]["median_ns"].as_f64().unwrap() > 0.0);

    let none = ["bench", "--rivals", "--only", "nothing", "--python", "no-such-python"];
    let out = popgrad(&none, None);
    assert_eq!(out.status.code(), Some(2));
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.lines().last().unwrap().contains("only: nothing; allowed:"), "{err}");
    refused(
        &popgrad(&["bench", "--rivals", "--rounds", "0"], None),
        &["rounds: 0; allowed: integers, 1 to "],
    );
}

/// One that starts and says something else, or nothing.
#[cfg(unix)]
#[test]
fn rivals_that_answer_nonsense_are_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    let answers =
        [("exit 1", "ended without an answer"), ("echo '{\"error\": \"old\"}'", "old"), ("echo x", "x")];
    for (script, why) in answers {
        std::fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let python = python.to_str().unwrap();
        let args =
            ["bench", "--rivals", "--only", "product 16", "--rounds", "1", "--threads", "1", "--python"];
        let out = popgrad(&[&args[..], &[python]].concat(), None);
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success() && err.contains(&format!("skipped: jax: {why}")), "{err}");
    }
}

#[test]
fn lists_are_text_and_json() {
    let all = json(&popgrad(&["list", "--json"], None));
    let names = |kind: &str| -> Vec<String> {
        let entries = all[kind].as_array().unwrap();
        entries.iter().map(|e| e["name"].as_str().unwrap().to_string()).collect()
    };
    assert!(names("presets").contains(&"chain".into()) && names("studies").contains(&"birth-fig3".into()));
    assert_eq!(names("models"), popgrad::model::MODELS);
    assert_eq!(names("claims").len(), popgrad::theory::CLAIMS.len());
    let text = String::from_utf8(popgrad(&["list", "tasks"], None).stdout).unwrap();
    assert!(text.lines().count() == 3 && text.contains("  causal_dag "), "{text}");
    refused(&popgrad(&["list", "presetz"], None), &["did you mean `presets`?"]);

    let keys = json(&popgrad(&["keys", "birth", "--json"], None));
    assert!(keys.as_array().unwrap().iter().any(|k| k["name"] == "momentum" && k["allowed"] != ""));
    let text = String::from_utf8(popgrad(&["keys", "memory"], None).stdout).unwrap();
    assert!(text.starts_with("Keys with model=memory:\n") && text.contains("\n  ff1 "), "{text}");
    refused(&popgrad(&["keys", "memry"], None), &["did you mean `memory`?"]);
    // What the help of `run` shows runs.
    let help = String::from_utf8(popgrad(&["run", "--help"], None).stdout).unwrap();
    assert!(help.lines().count() < 60 && help.contains("\nExamples:\n"), "{help}");
    for words in
        [&["birth", "model=transformer", "layers=3", "heads=4"][..], &["chain", "S=5", "snapshots=log"]]
    {
        let out = popgrad(&[&["run"], words, &["--help"]].concat(), None);
        assert!(String::from_utf8(out.stdout).unwrap().contains("Keys with "), "{words:?}");
    }
}
