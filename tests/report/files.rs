//! Run folders, logs, summaries and checkpoints: whole or absent, and the same bytes for the same
//! content.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

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
    fs::write(run.join("metrics.jsonl"), "").unwrap();
    for taken in [run.clone(), run.join("metrics.jsonl")] {
        let error = create_run_dir(&taken).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(&taken.display().to_string()));
    }
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
fn resuming_drops_later_and_torn_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut log = MetricsWriter::open(dir.path()).unwrap();
    (0..10).for_each(|i| log.metric(&record(i, i as f64)).unwrap());
    let whole = fs::read_to_string(&path).unwrap();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":10,\"lo").unwrap();

    assert_eq!(truncate_jsonl_after(&path, 100).unwrap(), 10);
    assert_eq!(fs::read_to_string(&path).unwrap(), whole, "only the torn line goes");

    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
    let mut log = MetricsWriter::open(dir.path()).unwrap();
    log.metric(&record(10, 10.0)).unwrap();
    let expected = whole.clone() + &serde_json::to_string(&record(10, 10.0)).unwrap() + "\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), expected, "appending cuts a torn line first");

    let mut log = MetricsWriter::resume(dir.path(), 4).unwrap();
    log.metric(&record(5, 5.0)).unwrap();
    let expected: String = whole.split_inclusive('\n').take(6).collect();
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);

    assert_eq!(truncate_jsonl_after(&dir.path().join("absent.jsonl"), 3).unwrap(), 0);
    for bad in [
        "{\"step\":1}\nnot json\n{\"step\":2}\n",
        "{\"step\":1}\n{\"loss\":2}\n",
        "{\"step\":1}\n{\"step\":1.5}\n",
    ] {
        fs::write(&path, bad).unwrap();
        let error = truncate_jsonl_after(&path, 5).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bad, "untouched on failure");
    }
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
    assert!(refusal().contains("expected `popgrad-checkpoint/1`"), "{}", refusal());
    let meta = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    write_arrays(&path, &[("a", &a)], Some(&meta(&[("format", "popgrad-checkpoint/2")]))).unwrap();
    assert!(refusal().contains("popgrad-checkpoint/2"), "{}", refusal());
    let mut pairs = vec![("format", "popgrad-checkpoint/1"), ("kind", "k"), ("config_fingerprint", "f")];
    write_arrays(&path, &[("a", &a)], Some(&meta(&pairs))).unwrap();
    assert!(refusal().contains("`step`"), "{}", refusal());
    pairs.push(("step", "-1"));
    write_arrays(&path, &[("a", &a)], Some(&meta(&pairs))).unwrap();
    assert!(refusal().contains("`-1`"), "{}", refusal());

    checkpoint().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    for end in [0, 7, 8, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..end]).unwrap();
        refusal();
    }
    assert!(checkpoint().save(&dir.path().join("x.npz")).is_err());
    assert!(matches!(Checkpoint::load(&dir.path().join("absent.safetensors")), Err(Error::Io { .. })));
}
