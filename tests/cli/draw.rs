//! `popgrad draw`: pictures from records, in the width and the formats that are asked for.

use crate::support::{ok, refused, text};
use std::fs;

#[test]
fn pictures_are_drawn_again_from_the_records_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let run = at("run");
    let words = ["run", "chain", "S=3", "T=5", "steps=4", "batch=8", "test_size=32", "--out", text(&run)];
    ok(&words);
    let figures = run.join("figures");
    let loss = figures.join("loss.figure.json");
    let out = at("pictures");
    ok(&["draw", text(&loss), "--format", "svg,png,pdf", "--out", text(&out)]);
    // The same picture as the run's own.
    for name in ["loss.svg", "loss.png"] {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(figures.join(name)).unwrap(), "{name}");
    }
    let pdf = fs::read(out.join("loss.pdf")).unwrap();
    assert!(pdf.starts_with(b"%PDF-") && pdf.trim_ascii_end().ends_with(b"%%EOF"));
    let all: Vec<String> = fs::read_dir(&figures)
        .unwrap()
        .map(|e| e.unwrap().path().display().to_string())
        .filter(|p| p.ends_with(".json"))
        .collect();
    assert!(all.len() >= 4, "{all:?}");
    let mut words = vec!["draw", "--width", "column", "--format", "svg", "--out", text(&out)];
    words.extend(all.iter().map(String::as_str));
    ok(&words);
    let svg = fs::read_to_string(out.join("loss.svg")).unwrap();
    assert!(svg.contains("width=\"326.4\""), "{}", &svg[..200]);

    let to = |more: &[&str], code: i32, parts: &[&str]| {
        refused(&[&["draw", text(&loss), "--out", text(&at("no"))], more].concat(), code, parts);
    };
    to(&["--width", "wide"], 2, &["width: wide", "natural, column, page"]);
    to(&["--width", "0.1"], 2, &["width: 0.1 inches", "1 to 40"]);
    to(&["--width", "nan"], 2, &["width: NaN inches"]);
    to(&["--dpi", "0"], 2, &["dpi: 0", "10 to 2400"]);
    to(&["--format", "gif"], 2, &["format: gif", "svg, png, pdf"]);
    to(&["--format", "pdf,pdf"], 2, &["loss.pdf twice"]);
    to(&[text(&run.join("summary.json"))], 1, &["summary.json", "the record of a figure"]);
    to(&["/nowhere.figure.json"], 1, &["/nowhere.figure.json"]);
    assert!(!at("no").exists());
    // The run's own pictures stay as they are.
    refused(&["draw", text(&loss), "--out", text(&figures)], 2, &["out: ", "the folder of a run"]);
}
