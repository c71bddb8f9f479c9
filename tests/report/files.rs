//! Run folders, logs, summaries and checkpoints: whole or absent, and the same bytes for the same
//! content.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use popgrad::Error;
use popgrad::report::arrays::{Array, ArrayData, write_arrays};
use popgrad::report::checkpoint::Checkpoint;
use popgrad::report::files::*;
use popgrad::report::metrics::{MetricsWriter, Summary};
use serde::Serialize;

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.txt");
    write_bytes_atomic(&path, b"old").unwrap();
    let failed = write_atomic(&path, |w| {
        w.write_all(b"half of the new").unwrap();
        Err(Error::invalid("x", "y", "z"))
    });
    assert!(matches!(failed, Err(Error::Invalid { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file must go");
    write_bytes_atomic(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");

    let nowhere = dir.path().join("missing/out.txt");
    let error = write_bytes_atomic(&nowhere, b"x").unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == nowhere), "{error}");
}

#[cfg(unix)]
#[test]
fn written_files_are_readable_by_others_like_any_other_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
    write_bytes_atomic(&ours, b"x").unwrap();
    fs::write(&plain, b"x").unwrap();
    let mode = |p| fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn run_folders_are_new_or_empty() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a/b/run");
    create_run_dir(&run).unwrap();
    create_run_dir(&run).unwrap();
    // What a process leaves that was killed before its first file was complete.
    for left in [LOCK_FILE, "digests.json", ".popgrad-aB3.tmp"] {
        fs::write(run.join(left), "").unwrap();
        create_run_dir(&run).unwrap();
    }
    drop(claim_folder(&run).unwrap());
    assert!(!run.join(".popgrad-aB3.tmp").exists());
    fs::write(run.join("metrics.jsonl"), "").unwrap();
    for taken in [run.clone(), run.join("metrics.jsonl")] {
        let error = create_run_dir(&taken).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(&taken.display().to_string()));
    }
}

#[test]
fn a_folder_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let first = claim_folder(&run).unwrap();
    for second in [claim_folder(&run), lock_folder(&run)] {
        let error = second.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("another process is running in it"), "{error}");
    }
    // One that comes while files are being written removes none of them.
    fs::write(run.join(".popgrad-x.tmp"), "half").unwrap();
    assert!(lock_folder(&run).is_err());
    assert!(run.join(".popgrad-x.tmp").exists());
    drop(first);
    fs::create_dir(run.join("figures")).unwrap();
    for keep in ["figures/plot.tmp", "figures/.popgrad-notes", "x.tmp"] {
        fs::write(run.join(keep), "mine").unwrap();
    }
    fs::write(run.join("figures/.popgrad-y.tmp"), "half").unwrap();
    let again = lock_folder(&run).unwrap();
    assert!(!run.join(".popgrad-x.tmp").exists() && !run.join("figures/.popgrad-y.tmp").exists());
    for kept in ["figures/plot.tmp", "figures/.popgrad-notes", "x.tmp"] {
        assert!(run.join(kept).exists(), "{kept} is not ours");
    }
    drop(again);
    assert!(claim_folder(&run).is_err(), "no longer empty");
}

/// Two threads do the same thing at the same moment, many times; returns what each of them got.
fn at_once<R: Send>(rounds: usize, one: impl Fn(usize) -> R + Sync) -> [Vec<R>; 2] {
    let arrived = AtomicUsize::new(0);
    let many = || {
        let round = |r: usize| {
            arrived.fetch_add(1, Ordering::SeqCst);
            // Sleeping threads would wake one after the other.
            while arrived.load(Ordering::SeqCst) < 2 * (r + 1) {
                std::hint::spin_loop();
            }
            one(r)
        };
        (0..rounds).map(round).collect::<Vec<R>>()
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(many), scope.spawn(many)];
        threads.map(|t| t.join().unwrap())
    })
}

#[test]
fn numbered_folders_are_made_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("runs");
    let rounds = 300;
    let found = at_once(rounds, |r| create_numbered(&parent, &format!("chain{r}x")).unwrap());
    let mut all = found.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 * rounds, "no folder twice");
    assert!(parent.join("chain0x").is_dir() && parent.join("chain0x-2").is_dir());
    // What is taken is what cannot be made, not what can be looked at.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", parent.join("chain")).unwrap();
        assert!(!parent.join("chain").exists());
        assert_eq!(create_numbered(&parent, "chain").unwrap(), parent.join("chain-2"));
    }
}

/// Both find the folder empty; the second gets the lock when the first is done.
#[test]
fn a_folder_is_claimed_once_however_fast() {
    let dir = tempfile::tempdir().unwrap();
    let rounds = 300;
    let claim = |r: usize| {
        let folder = dir.path().join(r.to_string());
        let lock = claim_folder(&folder);
        let won = lock.is_ok();
        if won {
            fs::write(folder.join("config.toml"), "mine").unwrap();
        }
        won
    };
    let [a, b] = at_once(rounds, claim);
    let both: Vec<usize> = (0..rounds).filter(|r| a[*r] == b[*r]).collect();
    assert!(both.is_empty(), "rounds {both:?} were not won by one");
}

#[test]
fn a_new_file_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.npz");
    write_new_bytes(&path, b"first").unwrap();
    let error = write_new_bytes(&path, b"second").unwrap_err();
    assert!(matches!(&error, Error::Invalid { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file must go");
}

#[derive(Serialize)]
struct Record {
    step: u64,
    loss: f64,
    rate: f32,
    gap: Option<f64>,
}

fn record(step: u64, loss: f64) -> Record {
    Record { step, loss, rate: 0.1, gap: None }
}

#[test]
fn logs_print_shortest_floats_and_null_for_nan() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = MetricsWriter::open(dir.path()).unwrap();
    let losses = [0.1, 1.0 / 3.0, 5e-324, f64::MAX, -0.0];
    for (i, &loss) in losses.iter().enumerate() {
        log.metric(&record(i as u64, loss)).unwrap();
    }
    log.metric(&record(7, f64::NAN)).unwrap();
    log.metric(&record(8, f64::NEG_INFINITY)).unwrap();
    log.timing(&record(8, 1.0)).unwrap();
    log.sync().unwrap();
    let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], r#"{"step":0,"loss":0.1,"rate":0.1,"gap":null}"#);
    for (line, loss) in lines.iter().zip(losses) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["loss"].as_f64().unwrap().to_bits(), loss.to_bits(), "{line}");
    }
    assert!(lines[5..].iter().all(|l| l.contains(r#""loss":null"#)), "{text}");
    assert_eq!(fs::read_to_string(dir.path().join("timing.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn resuming_drops_what_the_mark_does_not_cover() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let append =
        |text: &[u8]| fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(text).unwrap();
    let mut log = MetricsWriter::open(dir.path()).unwrap();
    (0..5).for_each(|i| log.metric(&record(i, i as f64)).unwrap());
    let (mark, begun) = (log.mark(), fs::read(&path).unwrap());
    assert_eq!(mark.bytes, begun.len() as u64);
    assert_eq!(mark.to_string().parse(), Ok(mark));
    (5..10).for_each(|i| log.metric(&record(i, i as f64)).unwrap());
    drop(log);
    let whole = fs::read(&path).unwrap();

    append(b"{\"st");
    let mut log = MetricsWriter::open(dir.path()).unwrap();
    assert_eq!(log.mark().bytes, whole.len() as u64, "opening cuts a torn line");
    log.metric(&record(10, 10.0)).unwrap();
    let line = serde_json::to_vec(&record(10, 10.0)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [&whole[..], &line, b"\n"].concat());

    append(b"{\"step\":11,\"lo");
    cut_log(&path, mark).unwrap();
    assert_eq!(fs::read(&path).unwrap(), begun, "what came later goes, torn or not");
    cut_log(&path, mark).unwrap();
    assert_eq!(MetricsWriter::open(dir.path()).unwrap().mark(), mark, "as if it had never stopped");

    let none = JsonlWriter::open(&dir.path().join("empty.jsonl")).unwrap().mark();
    cut_log(&dir.path().join("absent.jsonl"), none).unwrap();
    let message = cut_log(&dir.path().join("absent.jsonl"), mark).unwrap_err().to_string();
    assert!(message.contains("absent.jsonl: 0 bytes; expected at least"), "{message}");
    // Every byte counts, and a log that is refused stays as it is.
    for at in 0..begun.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let message = cut_log(&path, mark).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl: damaged or edited"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
    fs::write(&path, &begun[..begun.len() - 1]).unwrap();
    assert!(cut_log(&path, mark).unwrap_err().to_string().contains("bytes; expected at least"));
}

#[test]
fn a_torn_tail_longer_than_a_block_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    for (start, tail) in [("", 10_000), ("{\"step\":0}\n", 4096 * 2 + 7), ("{\"step\":0}\n", 0)] {
        fs::write(&path, format!("{start}{}", "x".repeat(tail))).unwrap();
        JsonlWriter::open(&path).unwrap().append(&serde_json::json!({"step": 1})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{start}{{\"step\":1}}\n"));
    }
}

#[test]
fn the_summary_keeps_order_and_prints_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let mut summary = Summary::new();
    summary.set("zeta", 0.1_f32).unwrap();
    summary.set("alpha", "a name").unwrap();
    summary.set("loss", f64::NAN).unwrap();
    summary.set("bayes", None::<f64>).unwrap();
    summary.set("trick", "a\nloss: 0").unwrap();
    summary.set("steps", 131072_u64).unwrap();
    summary.set("zeta", 1.0 / 3.0).unwrap();
    assert_eq!(
        summary.to_string(),
        "zeta: 0.3333333333333333\nalpha: a name\nloss: null\nbayes: null\ntrick: \"a\\nloss: 0\"\nsteps: 131072\n"
    );
    assert_eq!(summary.get("bayes"), Some("null"));
    assert_eq!(summary.get("absent"), None);
    let text = fs::read_to_string(summary.write(dir.path()).unwrap()).unwrap();
    let order: Vec<usize> = ["zeta", "alpha", "loss", "bayes", "trick", "steps"]
        .map(|k| text.find(&format!("\"{k}\":")).unwrap())
        .to_vec();
    assert!(order.is_sorted(), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["zeta"].as_f64(), Some(1.0 / 3.0));
    assert!(value["loss"].is_null());
    assert!(serde_json::from_str::<serde_json::Value>(&Summary::new().to_json()).unwrap().is_object());
}

fn checkpoint() -> Checkpoint {
    let signalling = f32::from_bits(0x7f80_0001);
    Checkpoint {
        step: u64::MAX,
        kind: "adamw".into(),
        config_fingerprint: "c0ffee".into(),
        state: BTreeMap::from([
            ("params".into(), Array::new(&[2, 2], vec![signalling, -0.0, f32::NAN, 0.1]).unwrap()),
            ("moments".into(), Array::vector(vec![5e-324_f64, f64::from_bits(u64::MAX)])),
            ("count".into(), Array::vector(vec![u64::MAX])),
        ]),
        extra: (0..16).map(|i| (format!("key{i}"), format!("value {i}"))).collect(),
    }
}

#[test]
fn checkpoints_return_every_bit_and_save_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step.safetensors");
    let saved = checkpoint();
    let mut first: Option<Vec<u8>> = None;
    for _ in 0..30 {
        saved.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes);
    }
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!((loaded.step, &loaded.kind), (u64::MAX, &saved.kind));
    assert_eq!((&loaded.config_fingerprint, &loaded.extra), (&saved.config_fingerprint, &saved.extra));
    assert!(loaded.state.keys().eq(saved.state.keys()));
    for (name, array) in &loaded.state {
        assert!(array.same_bits(&saved.state[name]), "{name}");
    }
    assert!(matches!(loaded.state["params"].data(), ArrayData::F32(_)));
}

/// Text of the state that looks like the digest is not taken for it.
#[test]
fn every_bit_of_a_checkpoint_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut saved = checkpoint();
    saved.config_fingerprint = "\"digest\":\"crc32:00000000\"".into();
    saved.state.insert("\"digest\":\"".into(), Array::vector(vec![1.0_f32]));
    saved.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap().config_fingerprint, saved.config_fingerprint);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for change in [1 << (at % 8), 0xFF, 1] {
            let mut bad = good.clone();
            bad[at] ^= change;
            fs::write(&path, &bad).unwrap();
            match Checkpoint::load(&path) {
                Err(e @ Error::Format { .. }) => assert!(e.to_string().contains("x.safetensors"), "{e}"),
                other => panic!("byte {at} ^ {change}: {other:?}"),
            }
        }
    }
}

#[test]
fn foreign_and_corrupt_checkpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let refusal = || match Checkpoint::load(&path) {
        Err(e @ Error::Format { .. }) => e.to_string(),
        other => panic!("expected a format error, found {other:?}"),
    };
    let a = Array::vector(vec![1.0_f32]);
    write_arrays(&path, &[("a", &a)], None).unwrap();
    assert!(refusal().contains("expected `popgrad-checkpoint/3`"), "{}", refusal());
    let meta = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    write_arrays(&path, &[("a", &a)], Some(&meta(&[("format", "popgrad-checkpoint/1")]))).unwrap();
    assert!(refusal().contains("popgrad-checkpoint/1"), "{}", refusal());
    let mut pairs = vec![("format", "popgrad-checkpoint/3"), ("kind", "k"), ("config_fingerprint", "f")];
    write_arrays(&path, &[("a", &a)], Some(&meta(&pairs))).unwrap();
    assert!(refusal().contains("`digest`"), "{}", refusal());
    pairs.extend([("step", "1"), ("digest", "crc32:0")]);
    write_arrays(&path, &[("a", &a)], Some(&meta(&pairs))).unwrap();
    assert!(refusal().contains("checkpoint digest `crc32:0`"), "{}", refusal());
    pairs[4] = ("digest", "crc32:00000000");
    write_arrays(&path, &[("a", &a)], Some(&meta(&pairs))).unwrap();
    assert!(refusal().contains("damaged or edited"), "{}", refusal());

    checkpoint().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    for end in [0, 7, 8, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..end]).unwrap();
        refusal();
    }
    assert!(checkpoint().save(&dir.path().join("x.npz")).is_err());
    assert!(matches!(Checkpoint::load(&dir.path().join("absent.safetensors")), Err(Error::Io { .. })));
}
