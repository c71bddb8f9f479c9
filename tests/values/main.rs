//! Values of short runs, compared byte for byte with records. A change that only restructures code
//! must not change them.
//!
//! `runs.toml` lists the runs by their command lines, a folder for each instruction set holds the
//! records, and `renamed.toml` says which keys have other names since. Pictures are not looked at:
//! a run is stopped once its numbers are there.
//!
//! `cargo test --test values` checks on every instruction set that this CPU and the records have.
//! Variables:
//! - `POPGRAD_RECORD_VALUES=1` rewrites the records of the instruction sets of this CPU instead;
//! - `POPGRAD_BIN` names another binary, such as a release build or one of an earlier commit;
//! - `POPGRAD_VALUES_THREADS` is the number of threads of a run \[2\]: no value depends on it.
//!
//! The records are those of x86-64 Linux with glibc: the standard library takes logarithms and
//! exponentials from there.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Keys of a summary that tell of the machine.
const NOT_OF_THE_RESULT: [&str; 3] = ["seconds", "steps_per_second", "run_folder"];

/// Largest number of differences of one file that are listed.
const TOLD: usize = 5;

/// A line of `runs.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    name: String,
    /// The command line.
    words: String,
    /// Of a study: its tables that are recorded.
    #[serde(default)]
    tables: Vec<String>,
    /// Are batch and test set no powers of two, on purpose?
    #[serde(default)]
    odd: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    run: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renamed {
    keys: Names,
    /// Keys of summaries and columns of tables that came after the records.
    added: Vec<String>,
}

/// Of each old name, the new one.
type Names = BTreeMap<String, String>;

/// Of each path below the folder of an instruction set, what the file holds.
type Files = BTreeMap<String, String>;

fn folder() -> PathBuf {
    Path::new(ROOT).join("tests/values")
}

fn read_toml<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = folder().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The instruction sets that this CPU has, by the names that `POPGRAD_ISA` takes. Not asked of the
/// binary: one that lost an instruction set must not pass.
fn instruction_sets() -> Vec<&'static str> {
    let mut all = Vec::new();
    #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    {
        all.push("portable");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        all.extend(avx2.then_some("avx2"));
        all.extend(avx512.then_some("avx512"));
    }
    all
}

/// Does the run, in a folder of its own, and returns its numbers.
fn numbers_of(run: &Run, isa: &str) -> Result<Files, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let out = dir.path().join("out");
    let binary = std::env::var("POPGRAD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_popgrad").into());
    let threads = std::env::var("POPGRAD_VALUES_THREADS").unwrap_or_else(|_| "2".into());
    let errors = dir.path().join("errors");
    let mut child = Command::new(&binary)
        .args(run.words.split_whitespace())
        .args(["--threads", &threads, "--out"])
        .arg(&out)
        .env("POPGRAD_ISA", isa)
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors).map_err(|e| e.to_string())?)
        .spawn()
        .map_err(|e| format!("{binary}: {e}"))?;
    // The summary is the last of the numbers; every file has its name only once it is whole.
    let wanted: Vec<PathBuf> =
        run.tables.iter().map(String::as_str).chain(["summary.json"]).map(|f| out.join(f)).collect();
    let started = Instant::now();
    while !wanted.iter().all(|f| f.exists()) {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            if wanted.iter().all(|f| f.exists()) {
                break;
            }
            let told = fs::read_to_string(&errors).unwrap_or_default();
            return Err(format!("{status} without a result: {}", told.trim()));
        }
        if started.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            let _ = child.wait();
            return Err("no result within 120 seconds".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // It draws its pictures, or is over.
    let _ = child.kill();
    child.wait().map_err(|e| e.to_string())?;
    gather(run, &out)
}

/// The numbers in the folder of a run or a study.
fn gather(run: &Run, out: &Path) -> Result<Files, String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut files = Files::new();
    if run.tables.is_empty() {
        let text = read(&out.join("metrics.jsonl"))? + &summary_line(&read(&out.join("summary.json"))?)?;
        files.insert(format!("{}.jsonl", run.name), text);
        return Ok(files);
    }
    for table in &run.tables {
        files.insert(format!("{}/{table}", run.name), read(&out.join(table))?);
    }
    for entry in fs::read_dir(out.join("runs")).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let member = entry.file_name().to_string_lossy().into_owned();
        files.insert(format!("{}/{member}.jsonl", run.name), read(&entry.path().join("metrics.jsonl"))?);
    }
    Ok(files)
}

/// A summary as one line, without the facts about the machine.
fn summary_line(text: &str) -> Result<String, String> {
    let mut summary: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|e| format!("summary.json: {e}"))?;
    NOT_OF_THE_RESULT.iter().for_each(|key| drop(summary.remove(*key)));
    let line = BTreeMap::from([("summary", summary)]);
    Ok(serde_json::to_string(&line).map_err(|e| e.to_string())? + "\n")
}

/// Every file below `root`, or none where there is no such folder.
fn records(root: &Path) -> Files {
    let mut files = Files::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let parts = path.strip_prefix(root).unwrap().iter();
                let name: Vec<_> = parts.map(|p| p.to_string_lossy()).collect();
                files.insert(name.join("/"), fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn record(root: &Path, files: &Files) {
    if root.exists() {
        fs::remove_dir_all(root).unwrap();
    }
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A record under the names that keys have now.
fn renamed(file: &str, text: &str, names: &Names) -> String {
    let new = |name: &str| names.get(name).map_or(name, String::as_str).to_string();
    if names.is_empty() {
        return text.to_string();
    }
    if file.ends_with(".csv") {
        let line = |l: &str| cells(l).iter().map(|c| new(c)).collect::<Vec<_>>().join(",") + "\n";
        return text.lines().map(line).collect();
    }
    // Every second piece between quotes is inside them; names hold no quote themselves.
    let pieces: Vec<&str> = text.split('"').collect();
    let is_name = |i: usize| i % 2 == 1 && pieces.get(i + 1).is_some_and(|p| p.starts_with(':'));
    let piece = |(i, p): (usize, &&str)| if is_name(i) { new(p) } else { p.to_string() };
    pieces.iter().enumerate().map(piece).collect::<Vec<_>>().join("\"")
}

/// What was found, without the keys of the summary, or the columns, that are `added` and that the
/// record does not have.
fn without(file: &str, recorded: &str, found: &str, added: &[String]) -> String {
    if file.ends_with(".csv") {
        let header = |text: &str| text.lines().next().map(cells).unwrap_or_default();
        let old = header(recorded);
        let kept: Vec<bool> = header(found).iter().map(|c| old.contains(c) || !added.contains(c)).collect();
        let line = |l: &str| {
            let all = cells(l).into_iter().zip(&kept);
            all.filter_map(|(cell, keep)| keep.then_some(cell)).collect::<Vec<_>>().join(",") + "\n"
        };
        return found.lines().map(line).collect();
    }
    let of = |text: &str| serde_json::from_str::<Value>(text.lines().last()?).ok();
    let (old, Some(Value::Object(mut new))) = (of(recorded), of(found)) else { return found.into() };
    let Some(Value::Object(summary)) = new.get_mut("summary") else { return found.into() };
    let has = |key: &str| old.as_ref().is_some_and(|o| o["summary"].get(key).is_some());
    summary.retain(|key, _| has(key) || !added.contains(key));
    let before = found.trim_end().rfind('\n').map_or("", |at| &found[..=at]);
    format!("{before}{}\n", serde_json::to_string(&new).unwrap())
}

/// The cells of a line of a table, with their quotes.
fn cells(line: &str) -> Vec<String> {
    let (mut all, mut inside) = (vec![String::new()], false);
    for c in line.chars() {
        inside ^= c == '"';
        match all.last_mut() {
            Some(last) if inside || c != ',' => last.push(c),
            _ => all.push(String::new()),
        }
    }
    all
}

/// Every value of a file with its place, in the order of the file.
fn values(file: &str, text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    if file.ends_with(".csv") {
        let mut lines = text.lines().map(cells);
        let header = lines.next().unwrap_or_default();
        for row in lines {
            let place = row.iter().take(3).cloned().collect::<Vec<_>>().join(",");
            for (i, cell) in row.iter().enumerate() {
                let column = header.get(i).map_or("no column", String::as_str);
                all.push((format!("row {place}: {column}"), cell.clone()));
            }
        }
        return all;
    }
    for (i, line) in text.lines().enumerate() {
        match serde_json::from_str::<Value>(line) {
            Ok(record) => {
                let place = match (record.get("step"), record.get("summary")) {
                    (Some(step), _) => format!("step {step}: "),
                    (None, Some(_)) => String::new(),
                    (None, None) => format!("line {}: ", i + 1),
                };
                flatten(place, &record, &mut all);
            }
            Err(_) => all.push((format!("line {}", i + 1), line.to_string())),
        }
    }
    all
}

fn flatten(place: String, value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            let dot = if place.is_empty() || place.ends_with(": ") { "" } else { "." };
            map.iter().for_each(|(key, v)| flatten(format!("{place}{dot}{key}"), v, all));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| flatten(format!("{place}[{i}]"), v, all));
        }
        other => all.push((place, other.to_string())),
    }
}

/// Numbers of an f64 between `a` and `b`; none where one is no finite number.
fn units_between(a: &str, b: &str) -> Option<u64> {
    let place = |text: &str| {
        let x = text.parse::<f64>().ok().filter(|x| x.is_finite())?;
        let bits = x.abs().to_bits() as i64;
        Some(if x < 0.0 { -bits } else { bits })
    };
    Some(place(a)?.abs_diff(place(b)?))
}

/// What differs between a record and what was found, a line each; nothing where the bytes are the
/// same. Where keys were renamed, their order may be another one.
fn differences(file: &str, recorded: &str, found: &str, names: &Names) -> Vec<String> {
    let recorded = renamed(file, recorded, names);
    if recorded == found {
        return Vec::new();
    }
    let (old, new) = (values(file, &recorded), values(file, found));
    let now: BTreeMap<&str, &str> = new.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let before: BTreeMap<&str, &str> = old.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let (mut told, mut largest) = (Vec::new(), None);
    for (place, a) in &old {
        match now.get(place.as_str()) {
            Some(b) if a == b => {}
            Some(b) => {
                let units = units_between(a, b);
                largest = largest.max(units);
                let units = units.map_or(String::new(), |n| format!(", {n} units in the last place"));
                told.push(format!("{place}: recorded {a}, found {b}{units}"));
            }
            None => told.push(format!("{place}: recorded {a}, found nothing")),
        }
    }
    for (place, b) in new.iter().filter(|(k, _)| !before.contains_key(k.as_str())) {
        told.push(format!("{place}: recorded nothing, found {b}"));
    }
    if told.is_empty() && names.is_empty() {
        told.push("the same values in other bytes: order of keys, or how numbers are written".into());
    }
    if told.len() > TOLD {
        let rest = told.split_off(TOLD).len();
        let most = largest.map_or(String::new(), |n| format!("; at most {n} units in the last place"));
        told.push(format!("and {rest} more{most}"));
    }
    told
}

/// Past the harness, which keeps what passing tests print.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "values: {text}");
}

#[test]
fn values_are_those_recorded() {
    let Runs { run: runs } = read_toml("runs.toml");
    let Renamed { keys: names, added } = read_toml("renamed.toml");
    let recording = std::env::var("POPGRAD_RECORD_VALUES").is_ok_and(|v| v == "1");
    let sets = instruction_sets();
    if sets.is_empty() {
        say("skipped: records are of x86-64 Linux with glibc");
    }
    let mut wrong: Vec<String> = Vec::new();
    for isa in sets {
        let root = folder().join(isa);
        if !recording && !root.exists() {
            say(&format!("{isa}: skipped: nothing is recorded for it"));
            continue;
        }
        let started = Instant::now();
        let mut found = Files::new();
        let before = wrong.len();
        for run in &runs {
            match numbers_of(run, isa) {
                Ok(files) => found.extend(files),
                Err(problem) => wrong.push(format!("{isa}: {}: {problem}", run.name)),
            }
        }
        say(&format!("{isa}: {} runs in {:.1} s", runs.len(), started.elapsed().as_secs_f64()));
        if recording {
            if wrong.len() == before {
                record(&root, &found);
            }
            continue;
        }
        let recorded = records(&root);
        for (file, text) in &found {
            match recorded.get(file) {
                Some(record) => {
                    let told = differences(file, record, &without(file, record, text, &added), &names);
                    wrong.extend(told.into_iter().map(|d| format!("{isa}: {file}: {d}")));
                }
                None => wrong.push(format!("{isa}: {file}: no record")),
            }
        }
        for file in recorded.keys().filter(|f| !found.contains_key(*f)) {
            wrong.push(format!("{isa}: {file}: recorded, but no run gave it"));
        }
    }
    assert!(wrong.is_empty(), "values differ from the records:\n{}", wrong.join("\n"));
}

/// A mean over a power of two is exact by division and by multiplication alike; two runs differ.
#[test]
fn runs_have_names_of_their_own_and_even_sizes() {
    let Runs { run: runs } = read_toml("runs.toml");
    let mut names: Vec<&str> = runs.iter().map(|r| r.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
    assert_eq!(runs.iter().filter(|r| r.odd).count(), 2);
    for run in &runs {
        let size = |key: &str| run.words.split(' ').find_map(|w| w.strip_prefix(key)?.parse::<usize>().ok());
        let sizes = [size("batch="), size("test_size=")];
        let even = sizes.iter().flatten().all(|n| n.is_power_of_two());
        assert_eq!(even, !run.odd, "{}: {sizes:?}", run.name);
    }
}

#[test]
fn a_difference_is_told_by_step_key_and_distance() {
    let none = Names::new();
    let a = "{\"step\":0,\"loss\":0.5,\"on\":[1.0,null]}\n{\"summary\":{\"gap\":-1.0}}\n";
    assert!(differences("a.jsonl", a, a, &none).is_empty());
    let b = a.replace("0.5", "0.5000000000000002").replace("null", "2.0");
    assert_eq!(
        differences("a.jsonl", a, &b, &none),
        [
            "step 0: loss: recorded 0.5, found 0.5000000000000002, 2 units in the last place",
            "step 0: on[1]: recorded null, found 2.0",
        ]
    );
    let b = a.replace("gap", "rest");
    assert_eq!(
        differences("a.jsonl", a, &b, &none),
        ["summary.gap: recorded -1.0, found nothing", "summary.rest: recorded nothing, found -1.0"]
    );
    let names = Names::from([("gap".into(), "rest".into()), ("step".into(), "update".into())]);
    assert!(differences("a.jsonl", a, &b.replace("step", "update"), &names).is_empty());
    assert!(!differences("a.jsonl", a, &b, &names).is_empty(), "one of them has its old name");
    let spaced = a.replace(":0.5", ": 0.5");
    assert!(differences("a.jsonl", a, &spaced, &none)[0].starts_with("the same values in other bytes"));
    assert_eq!(units_between("-0.0", "0.0"), Some(0));
    assert_eq!(units_between("-5e-324", "5e-324"), Some(2));

    let added = ["rest".to_string()];
    let more = a.replace("\"gap\"", "\"rest\":[1],\"gap\"");
    assert_eq!(without("a.jsonl", a, a, &added), a);
    assert_eq!(without("a.jsonl", a, &more, &added), a);
    assert_eq!(
        without("a.jsonl", &more, &more, &added),
        more.replace(r#""rest":[1],"gap":-1.0"#, r#""gap":-1.0,"rest":[1]"#)
    );
    assert_eq!(
        without("a.csv", "g,x\n", "g,\"r, s\",rest,x\n1,2,\"3,4\",5\n", &added),
        "g,\"r, s\",x\n1,2,5\n"
    );

    let table = "group,step,runs,loss_mean,sd\n\"a, b\",4,2,1.5,\n";
    let other = table.replace("1.5", "1.25");
    assert_eq!(
        differences("a.csv", table, &other, &none),
        ["row \"a, b\",4,2: loss_mean: recorded 1.5, found 1.25, 1125899906842624 units in the last place"]
    );
    let names = Names::from([("loss_mean".into(), "mean".into())]);
    assert!(differences("a.csv", table, &table.replace("loss_mean", "mean"), &names).is_empty());
}
