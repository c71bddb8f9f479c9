//! Folders of runs: a changed bit is noticed, one process writes at a time, what a kill left goes,
//! and a signal leaves no file half-written.

use crate::support::{StopsAt, files, ok, popgrad, refused, stop_at, text};
use popgrad::paper::{self, Papers};
use popgrad::report::arrays::{Array, ArrayData};
use popgrad::report::checkpoint::Checkpoint;
use popgrad::report::files::{LOCK_FILE, claim_folder, lock_folder};
use popgrad::run::{self, Progress, folder};
use popgrad::study::{Member, Study, Watcher};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TINY: [&str; 9] = [
    "run",
    "chain",
    "S=2",
    "T=4",
    "batch=4",
    "shards=1",
    "eval_every=2",
    "checkpoint_every=2",
    "test_size=4",
];

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Contents of every file below a folder but its lock.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let kept = files(root).into_iter().filter(|p| p.file_name().unwrap() != LOCK_FILE);
    kept.map(|p| (p.clone(), fs::read(root.join(p)).unwrap())).collect()
}

/// Makes `root` hold these files and no others.
fn restore(root: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let now = contents(root);
    for gone in now.keys().filter(|p| !files.contains_key(*p)) {
        fs::remove_file(root.join(gone)).unwrap();
    }
    for (path, bytes) in files.iter().filter(|(p, b)| now.get(*p) != Some(*b)) {
        fs::write(root.join(path), bytes).unwrap();
    }
}

struct Quiet;

impl Progress for Quiet {
    fn stepped(&mut self, _: u64, _: f64) {}
    fn evaluated(&mut self, _: &'static str, _: f64) {}
    fn finished(&mut self) {}
    fn note(&mut self, _: &str) {}
    fn wants_figures(&self) -> bool {
        false
    }
}

impl Watcher for Quiet {
    fn begins(&self, _: usize, _: &[&Member]) {}
    fn started(&self, _: &Member) -> Box<dyn Progress + '_> {
        Box::new(Quiet)
    }
    fn finished(&self, _: &Member, _: &popgrad::report::metrics::Summary) {}
}

fn pool() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap()
}

fn resume(folder: &Path, pool: &rayon::ThreadPool) -> popgrad::Result<()> {
    let config = folder::read_config(folder)?;
    run::run(paper::experiment(&config)?, &config, folder, true, pool, &mut Quiet).map(drop)
}

/// The results among the files of a run: no times, no machine.
fn results(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = contents(root);
    files.retain(|p, _| {
        let name = p.file_name().unwrap().to_str().unwrap();
        ["metrics.jsonl", "checkpoint.safetensors", "attention.npz", "config.toml"].contains(&name)
    });
    let summary = fs::read(root.join("summary.json")).unwrap();
    let mut summary: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&summary).unwrap();
    ["seconds", "steps_per_second"].iter().for_each(|key| drop(summary.remove(*key)));
    files.insert("summary.json".into(), serde_json::to_vec(&summary).unwrap());
    files
}

/// One changed bit in one file of a run, at a dense sample of places: the run is resumed to the
/// same results, or refused by an error that names the file.
fn every_change(folder: &Path, expected: &BTreeMap<PathBuf, Vec<u8>>) -> [usize; 2] {
    let pool = pool();
    let whole = contents(folder);
    let mut told = [0; 2];
    for (name, good) in whole.iter().filter(|(p, _)| !p.starts_with("figures")) {
        // Where a change is most likely to pass, in texts, every byte.
        let step = if name.ends_with("checkpoint.safetensors") { 97 } else { 5 };
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 1 << ((at / step) % 8);
            fs::write(folder.join(name), &bad).unwrap();
            match resume(folder, &pool) {
                Ok(()) => {
                    let found = results(folder);
                    for (file, bytes) in expected.iter().filter(|(f, _)| *f != name) {
                        assert!(found[file] == *bytes, "{name:?} byte {at}: {file:?} is another");
                    }
                    told[0] += 1;
                }
                Err(e) => {
                    let words = e.to_string();
                    let file = name.file_name().unwrap().to_str().unwrap();
                    assert!(words.contains(file), "{name:?} byte {at}: {words}");
                    told[1] += 1;
                }
            }
            restore(folder, &whole);
        }
    }
    told
}

#[test]
fn a_changed_bit_of_a_run_is_refused_or_has_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let (done, cut) = (dir.path().join("done"), dir.path().join("cut"));
    for folder in [&done, &cut] {
        ok(&[&TINY[..], &["steps=6", "--out", text(folder)]].concat());
    }
    let mut expected = results(&done);
    let [same, refused] = every_change(&done, &expected);
    assert!(same > 30 && refused > 120, "{same} without effect, {refused} refused");
    // Stopped after its first checkpoint, and before it.
    for (stop, least) in [(4, 60), (1, 30)] {
        stop_at(&cut, stop);
        assert_eq!(cut.join("checkpoint.safetensors").exists(), stop == 4);
        resume_path(&mut expected, &cut);
        let before = contents(&cut);
        let [_, refused] = every_change(&cut, &expected);
        assert!(refused > least, "stopped at {stop}: {refused} refused");
        restore(&cut, &before);
    }
}

/// The summary holds the path of the folder.
fn resume_path(expected: &mut BTreeMap<PathBuf, Vec<u8>>, folder: &Path) {
    let key = PathBuf::from("summary.json");
    let mut summary: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&expected[&key]).unwrap();
    summary.insert("run_folder".into(), folder.display().to_string().into());
    expected.insert(key, serde_json::to_vec(&summary).unwrap());
}

#[test]
fn a_changed_bit_of_a_study_is_refused_or_has_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    for (study, more) in [("causal-fig2", &["S=2"][..]), ("birth-depth", &["--quick", "dim=8", "seeds=1"])] {
        let folder = dir.path().join(study);
        let keys = ["T=8", "steps=2", "batch=4", "shards=1", "test_size=4", "eval_every=1"];
        ok(&[&["run", study], &keys[..], more, &["checkpoint_every=2", "--out", text(&folder)]].concat());
        let gather =
            || -> popgrad::Result<()> { Study::load(&folder, &Papers)?.run(&folder, 1, &Quiet).map(drop) };
        gather().unwrap();
        let whole = contents(&folder);
        // What is gathered anew; times and paths of the runs are in none of it.
        let of_study = |p: &Path| !p.starts_with("runs") && !p.ends_with("provenance.jsonl");
        let (mut same, mut refused) = (0, 0);
        for (name, good) in &whole {
            // Figures and tables are only written, and times are of no use here.
            let picture = name.components().any(|c| c.as_os_str() == "figures");
            if picture || name.extension().is_some_and(|e| e == "csv") || name.ends_with("timing.jsonl") {
                continue;
            }
            for k in 0..6 {
                let at = (good.len() - 1) * k / 5;
                let mut bad = good.clone();
                bad[at] ^= 1 << ((k + at) % 8);
                fs::write(folder.join(name), &bad).unwrap();
                match gather() {
                    Ok(()) => {
                        let now = contents(&folder);
                        for (file, bytes) in whole.iter().filter(|(f, _)| of_study(f) && *f != name) {
                            assert!(now[file] == *bytes, "{name:?} byte {at}: {file:?} is another");
                        }
                        same += 1;
                    }
                    Err(e) => {
                        let words = e.to_string();
                        let file = name.file_name().unwrap().to_str().unwrap();
                        assert!(words.contains(file), "{name:?} byte {at}: {words}");
                        refused += 1;
                    }
                }
                restore(&folder, &whole);
            }
        }
        assert!(refused > 30, "{study}: {same} without effect, {refused} refused");
    }
}

/// A line for each session, which no digest covers and no comparison of results needs.
#[test]
fn sessions_say_where_results_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |folder: &Path| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(folder.join("provenance.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let folder = dir.path().join("run");
    let args = [&TINY[..], &["steps=4", "--threads", "2", "--out", text(&folder)]].concat();
    ok(&args);
    ok(&["run", "--resume", text(&folder), "steps=6", "--threads", "1"]);
    let sessions = lines(&folder);
    let of = |key: &str| sessions.iter().map(|s| s[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("began"), ["start", "resume"]);
    assert_eq!(of("done"), [0, 4]);
    assert_eq!(of("threads"), [2, 1]);
    let words: Vec<&str> =
        sessions[0]["command"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(words[0], env!("CARGO_BIN_EXE_popgrad"));
    assert_eq!(words[1..], args);
    let run: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("run.json")).unwrap()).unwrap();
    for key in ["version", "cpu", "arch", "isa"] {
        assert_eq!(sessions[1][key], run[key], "{key}");
    }
    // A time of day in UTC, of today or, at midnight, of yesterday.
    let date: jiff::Timestamp = sessions[0]["date"].as_str().unwrap().parse().unwrap();
    assert_eq!(date.subsec_nanosecond(), 0);
    let ago = jiff::Timestamp::now().as_second() - date.as_second();
    assert!((0..600).contains(&ago), "{ago} seconds ago");
    assert!(!fs::read_to_string(folder.join("digests.json")).unwrap().contains("provenance"));
    // A study, and each of its runs; in `figures` its folder is there before it starts.
    let figures = dir.path().join("figures");
    let keys = ["T=6", "steps=2", "batch=4", "shards=1", "test_size=4"];
    ok(&[&["figures", "--only", "causal-fig8"], &keys[..], &["--out", text(&figures)]].concat());
    ok(&["figures", "--resume", text(&figures)]);
    let study = lines(&figures.join("causal-fig8"));
    let runs = fs::read_dir(figures.join("causal-fig8/runs")).unwrap().count();
    assert_eq!(study.iter().map(|s| s["began"].clone()).collect::<Vec<_>>(), ["start", "resume"]);
    assert_eq!(study.iter().map(|s| s["done"].clone()).collect::<Vec<_>>(), [0, runs]);
    for run in fs::read_dir(figures.join("causal-fig8/runs")).unwrap() {
        assert_eq!(lines(&run.unwrap().path()).len(), 1);
    }
}

#[test]
fn other_readers_of_a_run_notice_a_changed_bit_too() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    ok(&[&TINY[..], &["steps=6", "--out", text(&folder)]].concat());
    let ood = ["ood", text(&folder), "--kinds", "cyclic", "--sequences", "8"];
    ok(&ood);
    for name in ["checkpoint.safetensors", "config.toml"] {
        let good = fs::read(folder.join(name)).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 4;
        fs::write(folder.join(name), &bad).unwrap();
        refused(&ood, 1, &[name]);
        fs::write(folder.join(name), &good).unwrap();
    }
    fs::remove_file(folder.join("digests.json")).unwrap();
    refused(&ood, 1, &["digests.json", "missing", "earlier version"]);
    refused(&["run", "--resume", text(&folder)], 1, &["digests.json", "missing"]);
    // Figures and their studies.
    let figures = dir.path().join("figures");
    let keys = ["T=6", "steps=2", "batch=4", "shards=1", "test_size=4"];
    ok(&[&["figures", "--only", "causal-fig8"], &keys[..], &["--out", text(&figures)]].concat());
    for name in ["figures.toml", "causal-fig8/study.toml", "causal-fig8/runs/chain/summary.json"] {
        let path = figures.join(name);
        let Ok(good) = fs::read(&path) else { continue };
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, &bad).unwrap();
        let file = name.rsplit('/').next().unwrap();
        refused(&["figures", "--resume", text(&figures)], 1, &[file, "damaged or edited"]);
        fs::write(&path, &good).unwrap();
    }
    ok(&["figures", "--resume", text(&figures)]);
}

/// Whoever comes second changes nothing, whatever it was asked to do.
#[test]
fn a_folder_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let there = at("there");
    ok(&[&TINY[..], &["steps=2", "--out", text(&there)]].concat());
    let sweep = at("sweep");
    let grid = ["sweep", "alpha=0.1,1", "seeds=1", "S=2", "T=4", "steps=2"];
    ok(&[&grid[..], &["--out", text(&sweep)]].concat());
    for folder in [&there, &sweep] {
        let lock = lock_folder(folder).unwrap();
        let before = contents(folder);
        let command = if *folder == sweep { "sweep" } else { "run" };
        refused(&[command, "--resume", text(folder)], 2, &["another process is running in it"]);
        assert!(contents(folder) == before);
        drop(lock);
        ok(&[command, "--resume", text(folder)]);
    }
    let new = at("new");
    let claimed = claim_folder(&new).unwrap();
    let chi2 = ["discover", "graph=chain", "S=2", "T=4", "samples=2^8"];
    let calls: [&[&str]; 7] = [
        &[&TINY[..], &["steps=2"]].concat(),
        &["run", "causal-fig2", "S=2", "T=4", "steps=2"],
        &grid,
        &["figures", "--only", "causal-fig8", "T=6", "steps=2"],
        &["verify", "argmax"],
        &chi2,
        &["ood", text(&there), "--kinds", "cyclic", "--sequences", "8"],
    ];
    for call in calls {
        // Quiet: studies have said by then how long they take.
        refused(&[call, &["-q", "--out", text(&new)]].concat(), 2, &["another process is running in it"]);
        assert!(contents(&new).is_empty(), "{call:?} left something");
    }
    refused(
        &["scaling", "--quick", "--seconds", "0.01", "--recovery", "0", "--out", text(&new)],
        2,
        &["another process is running in it"],
    );
    drop(claimed);
    ok(&[&chi2[..], &["--out", text(&new)]].concat());
}

/// From Rust: a new run never writes over what is there, and is resumed with its own configuration.
#[test]
fn the_library_takes_the_lock_too() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    ok(&[&TINY[..], &["steps=4", "--out", text(&folder)]].concat());
    let pool = pool();
    let config = folder::read_config(&folder).unwrap();
    let mut other = config.clone();
    other.plan.seed = 5;
    let before = contents(&folder);
    let call = |config: &popgrad::config::Config, folder: &Path, resumed: bool| {
        let experiment = paper::experiment(config).unwrap();
        run::run(experiment, config, folder, resumed, &pool, &mut Quiet).map(drop)
    };
    let message = call(&other, &folder, false).unwrap_err().to_string();
    assert!(message.contains("exists and is not empty"), "{message}");
    let message = call(&other, &folder, true).unwrap_err().to_string();
    assert!(message.contains("config.toml: another configuration"), "{message}");
    assert!(contents(&folder) == before);
    // Even where no checkpoint says which run it was.
    fs::remove_file(folder.join("checkpoint.safetensors")).unwrap();
    assert!(call(&other, &folder, true).is_err());
    call(&config, &folder, true).unwrap();
    let new = dir.path().join("new");
    let lock = claim_folder(&new).unwrap();
    assert!(call(&config, &new, false).unwrap_err().to_string().contains("another process"));
    assert!(contents(&new).is_empty());
    drop(lock);
    call(&config, &new, false).unwrap();
    // Another study in the folder of a study.
    let study = dir.path().join("study");
    ok(&["run", "chain", "seeds=2", "S=2", "T=4", "steps=2", "--out", text(&study)]);
    let mut there = Study::load(&study, &Papers).unwrap();
    there.runs[1].config.plan.seed = 77;
    let message = there.run(&study, 1, &Quiet).unwrap_err().to_string();
    assert!(message.contains("holds another study"), "{message}");
}

fn wait(mut children: Vec<Child>) -> Vec<Option<i32>> {
    children.iter_mut().map(|c| c.wait().unwrap().code()).collect()
}

#[test]
fn of_two_starts_into_one_folder_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let folder = dir.path().join(format!("{round}"));
        let words = |seed: &'static str| [&TINY[..], &["steps=200", seed, "--out", text(&folder)]].concat();
        let children: Vec<Child> =
            ["seed=1", "seed=2"].map(|seed| command(&words(seed)).spawn().unwrap()).into();
        let codes = wait(children);
        let won: Vec<usize> = (0..2).filter(|i| codes[*i] == Some(0)).collect();
        assert_eq!(won.len(), 1, "round {round}: {codes:?}");
        assert!(codes.contains(&Some(2)), "round {round}: {codes:?}");
        let config = folder::read_config(&folder).unwrap();
        assert_eq!(config.plan.seed, [1, 2][won[0]], "round {round}: the loser's configuration");
        assert_eq!(fs::read_to_string(folder.join("metrics.jsonl")).unwrap().lines().count(), 101);
        if round % 5 == 0 {
            ok(&["run", "--resume", text(&folder)]);
        }
    }
}

#[test]
fn starts_without_a_folder_get_one_each() {
    let dir = tempfile::tempdir().unwrap();
    let words = |seed: &'static str| [&TINY[..], &["steps=20", seed]].concat();
    let seeds = ["seed=1", "seed=2", "seed=3", "seed=4", "seed=5", "seed=6"];
    let start = |seed: &'static str| command(&words(seed)).current_dir(dir.path()).spawn().unwrap();
    let codes = wait(seeds.map(start).into());
    assert!(codes.iter().all(|c| *c == Some(0)), "{codes:?}");
    let mut found: Vec<u64> = (1..=6)
        .map(|n| if n == 1 { "runs/chain".to_string() } else { format!("runs/chain-{n}") })
        .map(|name| folder::read_config(&dir.path().join(name)).unwrap().plan.seed)
        .collect();
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_a_kill_left_is_cleared_below_the_folder_too() {
    let dir = tempfile::tempdir().unwrap();
    let (run, study) = (dir.path().join("run"), dir.path().join("study"));
    ok(&[&TINY[..], &["steps=2", "--out", text(&run)]].concat());
    ok(&["run", "causal-fig2", "S=2", "T=4", "steps=2", "batch=4", "test_size=4", "--out", text(&study)]);
    let member = fs::read_dir(study.join("runs")).unwrap().next().unwrap().unwrap().path();
    for (folder, places) in [
        (&run, vec![run.clone(), run.join("figures")]),
        (&study, vec![study.clone(), study.join("figures"), member.clone(), member.join("figures")]),
    ] {
        for place in &places {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join(".popgrad-kIll3d.tmp"), "half").unwrap();
            fs::write(place.join("mine.tmp"), "whole").unwrap();
        }
        ok(&["run", "--resume", text(folder)]);
        for place in places {
            assert!(!place.join(".popgrad-kIll3d.tmp").exists(), "{}", place.display());
            assert!(place.join("mine.tmp").exists(), "{}", place.display());
        }
    }
}

/// Every file of the folder can be read, or is not there.
fn all_whole(folder: &Path) {
    for (name, bytes) in contents(folder) {
        let words = format!("{} of {} bytes", name.display(), bytes.len());
        let file = name.file_name().unwrap().to_str().unwrap();
        if file.starts_with(".popgrad-") && file.ends_with(".tmp") {
            continue;
        }
        match name.extension().and_then(|e| e.to_str()) {
            Some("json") => drop(serde_json::from_slice::<serde_json::Value>(&bytes).expect(&words)),
            Some("toml") => drop(std::str::from_utf8(&bytes).unwrap().parse::<toml::Table>().expect(&words)),
            Some("npz" | "safetensors") => {
                drop(popgrad::report::arrays::read_arrays(&folder.join(&name)).expect(&words));
            }
            Some("png") => assert!(bytes.ends_with(b"IEND\xAE\x42\x60\x82"), "{words}"),
            Some("svg") => assert!(bytes.ends_with(b"</svg>\n") || bytes.ends_with(b"</svg>"), "{words}"),
            // A line may be torn, the last one.
            Some("jsonl") => {
                let text = String::from_utf8(bytes).unwrap();
                for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                    serde_json::from_str::<serde_json::Value>(line).expect(&words);
                }
            }
            _ => {}
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_no_file_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let keys = ["steps=300", "heads=2,1"];
    let started = Instant::now();
    ok(&[&TINY[..], &keys, &["--out", text(&whole)]].concat());
    let took = started.elapsed();
    let expected = fs::read(whole.join("checkpoint.safetensors")).unwrap();
    let mut resumed = 0;
    for round in 0..12u32 {
        let folder = dir.path().join(format!("{round}"));
        let mut child = command(&[&TINY[..], &keys, &["--out", text(&folder)]].concat()).spawn().unwrap();
        std::thread::sleep(took * round / 11);
        let signal = ["-INT", "-TERM", "-HUP"][round as usize % 3];
        // It may be over by now.
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        child.wait().unwrap();
        if folder.exists() {
            all_whole(&folder);
        }
        if folder.join("config.toml").exists() {
            let out = popgrad(&["run", "--resume", text(&folder)]);
            assert!(out.status.success(), "{signal}: {}", String::from_utf8_lossy(&out.stderr));
            assert!(fs::read(folder.join("checkpoint.safetensors")).unwrap() == expected, "{signal}");
            assert!(contents(&folder).keys().all(|p| !p.to_string_lossy().contains(".popgrad-")));
            resumed += 1;
        } else if folder.exists() {
            // As good as new.
            ok(&[&TINY[..], &keys, &["--out", text(&folder)]].concat());
        }
    }
    assert!(resumed >= 3, "{resumed} were resumed");
    // One file: whole or absent.
    for round in 0..9u32 {
        let save = dir.path().join(format!("{round}.npz"));
        let args = ["discover", "graph=chain", "S=3", "T=8", "samples=2^14", "--save", text(&save)];
        let mut child = command(&args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(round) * 12));
        let signal = ["-INT", "-TERM", "-HUP"][round as usize % 3];
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        child.wait().unwrap();
        if save.exists() {
            popgrad::report::arrays::read_arrays(&save).unwrap();
        }
    }
}

/// Without a checkpoint in sight: the update under way is finished and saved, the exit code names
/// the signal, and the run goes on from there to the same bytes. Studies too.
#[cfg(unix)]
#[test]
fn a_signal_saves_the_last_update() {
    let dir = tempfile::tempdir().unwrap();
    let rare = ["checkpoint_every=2^20", "eval_every=2^20", "steps=2^14", "shards=1", "test_size=4"];
    let task = ["run", "chain", "S=4", "T=10", "batch=64"];
    for (n, (signal, code, more)) in
        [("-INT", 130, ""), ("-TERM", 143, ""), ("-HUP", 129, ""), ("-INT", 130, "seeds=3")]
            .iter()
            .enumerate()
    {
        let args = |folder: &Path| -> Vec<String> {
            let more = [*more].into_iter().filter(|m| !m.is_empty());
            let words = task.into_iter().chain(rare).chain(more).chain(["--out", text(folder)]);
            words.map(String::from).collect()
        };
        let (folder, whole) = (dir.path().join(format!("{n}")), dir.path().join(format!("{n}-whole")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
        let child = command.args(args(&folder)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let part = if more.is_empty() { PathBuf::new() } else { Path::new("runs").join("seed-0") };
        // Training begins.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !folder.join(&part).join("run.json").exists() {
            assert!(Instant::now() < deadline, "no run");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(20));
        Command::new("kill").args([signal, &&*child.id().to_string()]).status().unwrap();
        let out = child.wait_with_output().unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(*code), "{signal}: {err}");
        let last = err.lines().last().unwrap();
        let resume = format!("; to go on: popgrad run --resume {}", text(&folder));
        assert!(last.starts_with("stopped after ") && last.ends_with(&resume), "{err}");
        let run = folder.join(&part);
        let step = Checkpoint::load(&run.join("checkpoint.safetensors")).unwrap().step;
        assert!(more.is_empty() == last.contains(&format!("update {step} of 16384")), "{err}");
        assert!(step < 16384 && !run.join("summary.json").exists());
        ok(&["run", "--resume", text(&folder)]);
        let words = args(&whole);
        ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
        for file in ["checkpoint.safetensors", "metrics.jsonl"] {
            let [cut, uncut] = [&run, &whole.join(&part)].map(|f| fs::read(f.join(file)).unwrap());
            assert!(cut == uncut, "{signal}: {file}");
        }
        assert!(contents(&folder).keys().all(|p| !p.to_string_lossy().contains(".popgrad-")));
    }
}

/// A sweep too, whose runs go side by side; what was over stays.
#[cfg(unix)]
#[test]
fn a_signal_stops_a_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let (cut, whole) = (dir.path().join("cut"), dir.path().join("whole"));
    let keys =
        ["sweep", "chain", "S=3", "T=6", "alpha=0.1,1", "seeds=3", "steps=2^12", "batch=64", "test_size=64"];
    let args = |folder: &Path| -> Vec<String> {
        keys.into_iter().chain(["--out", text(folder)]).map(String::from).collect()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgrad"));
    let child = command.args(args(&cut)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let over = || files(&cut).iter().filter(|f| f.ends_with("summary.json")).count();
    while !cut.exists() || over() == 0 {
        assert!(Instant::now() < deadline, "no run is over");
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(143), "{err}");
    let last = err.lines().last().unwrap();
    assert!(last.contains(" of 6 runs; to go on: popgrad sweep --resume "), "{err}");
    assert!(over() < 6 && !cut.join("summary.json").exists());
    ok(&["sweep", "--resume", text(&cut)]);
    let words = args(&whole);
    ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    for file in ["grid.csv", "grid.json", "runs.csv", "curves.csv", "summary.json"] {
        assert!(fs::read(cut.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(), "{file}");
    }
}

/// A run that is stopped while its folder is locked frees it, whatever way it ends.
#[test]
fn a_stopped_run_frees_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    ok(&[&TINY[..], &["steps=6", "--out", text(&folder)]].concat());
    stop_at(&folder, 3);
    let config = folder::read_config(&folder).unwrap();
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run::run(paper::experiment(&config).unwrap(), &config, &folder, true, &pool(), &mut StopsAt(5))
            .map(drop)
    }));
    assert!(again.is_err(), "it was locked or ran to its end");
    ok(&["run", "--resume", text(&folder)]);
}

/// Entries of a checkpoint that the model does not read, above the diagonal of A1, may be anything:
/// the run goes on to the same results.
#[test]
fn a_checkpoint_may_hold_anything_where_nothing_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    ok(&[&TINY[..], &["model=simplified", "steps=6", "--out", text(&folder)]].concat());
    let whole = results(&folder);
    for strange in [f32::NAN, f32::NEG_INFINITY, 1e38] {
        stop_at(&folder, 5);
        let path = folder.join("checkpoint.safetensors");
        let mut checkpoint = Checkpoint::load(&path).unwrap();
        assert_eq!(checkpoint.step, 4);
        let a1 = checkpoint.state.get_mut("A1").unwrap();
        let ArrayData::F32(values) = a1.data() else { panic!("f32") };
        let above = |i: usize| i % 4 > i / 4;
        let values: Vec<f32> =
            values.iter().enumerate().map(|(i, x)| if above(i) { strange } else { *x }).collect();
        *a1 = Array::new(&[4, 4], values).unwrap();
        checkpoint.save(&path).unwrap();
        ok(&["run", "--resume", text(&folder)]);
        let now = results(&folder);
        assert_eq!(now.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        whole.iter().for_each(|(name, bytes)| assert!(now[name] == *bytes, "{strange}: {}", name.display()));
    }
}
