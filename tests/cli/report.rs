//! `report`: one page that needs nothing else, the same bytes each time, of any task; what is named
//! by the user stays text; a run's folder stays a run's folder.

use crate::support::{files, ok, refused, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use popgrad::report::arrays::read_arrays;
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: [&str; 6] =
    ["steps=8", "batch=8", "test_size=16", "eval_every=2", "checkpoint_every=4", "shards=2"];
const GRAPH: [&str; 3] = ["chain", "S=3", "T=5"];
const TEXT: [&str; 4] = ["birth", "T=16", "K=2", "dim=8"];

fn run(out: &Path, what: &[&[&str]]) {
    ok(&[&["run"], &what.concat()[..], &TINY, &["--out", text(out)]].concat());
}

fn page(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// What the page's script reads.
fn data(html: &str) -> Value {
    let json = html.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(json).unwrap()
}

fn floats(frame: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(frame.as_str().unwrap()).unwrap();
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Nothing in it is loaded from anywhere.
#[track_caller]
fn needs_nothing(html: &str) {
    for attribute in ["src=\"", "href=\""] {
        for value in html.split(attribute).skip(1).map(|s| s.split('"').next().unwrap()) {
            let inside = value.starts_with('#') || value.starts_with("data:image/svg+xml;base64,");
            assert!(inside, "{attribute}{value}");
        }
    }
    let others = html.replace("http://www.w3.org/", "");
    assert!(!others.contains("http://") && !others.contains("https://") && !others.contains("@import"));
    assert!(html.contains("default-src 'none'") && html.contains("name=\"viewport\""));
}

#[test]
fn a_run_with_snapshots_is_shown_at_each() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a");
    run(&folder, &[&GRAPH, &["snapshots=log", "heads=2,1", "init=0.1"]]);
    let before = files(&folder);
    let told: Value = serde_json::from_str(&ok(&["report", text(&folder), "--json"])).unwrap();
    let html = page(&folder.join("report.html"));
    needs_nothing(&html);
    assert_eq!(told["bytes"], html.len());
    assert_eq!((&told["runs"], &told["snapshots"]), (&1.into(), &7.into()));
    // The same again; elsewhere; on another number of threads.
    ok(&["report", text(&folder), "--threads", "1"]);
    assert_eq!(page(&folder.join("report.html")), html);
    let other = dir.path().join("other.html");
    ok(&["report", text(&folder), "--out", text(&other)]);
    assert_eq!(page(&other), html);
    // What the script reads are the run's numbers.
    let own = &data(&html)["part-0"];
    let steps: Vec<u64> = own["steps"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 6, 8]);
    let maps = own["maps"].as_array().unwrap();
    let attention = read_arrays(&folder.join("attention.npz")).unwrap()["layer1"].to_f64_vec();
    for head in 0..2 {
        let last = floats(maps[head]["frames"].as_array().unwrap().last().unwrap());
        let of_run = &attention[head * 25..(head + 1) * 25];
        let same = |(a, b): (&f32, &f64)| (a.is_nan() && b.is_nan()) || f64::from(*a) == f64::from(*b as f32);
        assert!(last.iter().zip(of_run).all(same), "head {head}: {last:?} {of_run:?}");
    }
    // A block of the weights, in an f32 run bit by bit.
    let blocks = read_arrays(&folder.join("checkpoint.safetensors")).unwrap();
    let a0: Vec<f32> = blocks["A.0"].to_f64_vec().iter().map(|x| *x as f32).collect();
    assert_eq!(floats(maps[2]["frames"].as_array().unwrap().last().unwrap()), a0[..64]);
    assert_eq!(own["charts"][0]["series"][1]["name"], "test");
    let summary: Value = serde_json::from_str(&page(&folder.join("summary.json"))).unwrap();
    let last =
        own["charts"][0]["series"][1]["points"].as_array().unwrap().last().unwrap()[1].as_f64().unwrap();
    assert!((last - summary["test_loss"].as_f64().unwrap()).abs() < 1e-6);
    // Every true edge, found or missed.
    let edges = own["learned"].as_array().unwrap().last().unwrap().as_array().unwrap();
    assert_eq!(edges.iter().filter(|e| e[4] != 1).count(), 3);
    for part in
        ["popgrad run chain", "snapshots=log", "<math", "<noscript>", "uniform guess", "Provenance", "crc32:"]
    {
        assert!(html.contains(part), "{part}");
    }
    // The folder is still that of the run.
    let mut now = files(&folder);
    now.retain(|f| f != Path::new("report.html"));
    assert_eq!(now, before);
    ok(&["run", "--resume", text(&folder), "steps=12"]);
    ok(&["compare", text(&folder), text(&folder)]);
    ok(&["report", text(&folder)]);
    assert_ne!(page(&folder.join("report.html")), html);
}

#[test]
fn text_runs_and_runs_that_kept_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // A corpus and a folder whose names would be elements, were they not escaped.
    let odd = "b<i>&'\"";
    fs::write(at("corpus"), "</script><b>&\"'</script> <!-- abc </script>").unwrap();
    let corpus = format!("corpus={}", text(&at("corpus")));
    run(&at(odd), &[&TEXT, &[&corpus, "snapshots=every 4"]]);
    ok(&["report", text(&at(odd))]);
    let html = page(&at(odd).join("report.html"));
    needs_nothing(&html);
    assert_eq!(html.matches("</script>").count(), 2, "the data's and the script's");
    assert!(!html.contains("<i>&") && html.contains("<h1>b&lt;i&gt;&amp;"));
    assert!(html.contains("Attention on a sample") && html.contains("\"\\u003c\""));
    let own = &data(&html)["part-0"];
    assert_eq!(own["steps"], serde_json::json!([0, 4, 8]));
    let titles = html.matches("data-map=").count();
    assert_eq!((titles, own["maps"].as_array().unwrap().len()), (5, 5), "two patterns, three memories");
    assert_eq!(own["learned"], serde_json::json!([[], [], []]));
    // Without snapshots: the end, and a word on how to have more.
    run(&at("c"), &[&GRAPH]);
    ok(&["report", text(&at("c"))]);
    let html = page(&at("c").join("report.html"));
    assert_eq!(data(&html)["part-0"]["steps"], serde_json::json!([8]));
    assert!(html.contains("with snapshots=log a run keeps its weights"));
    // Of a run that is not over: its last evaluation. Before its first checkpoint: no weights.
    fs::remove_file(at("c").join("summary.json")).unwrap();
    ok(&["report", text(&at("c"))]);
    assert!(page(&at("c").join("report.html")).contains("the run is not over"));
    fs::remove_file(at("c").join("checkpoint.safetensors")).unwrap();
    ok(&["report", text(&at("c"))]);
    assert!(page(&at("c").join("report.html")).contains("no checkpoint yet"));
}

#[test]
fn every_model_and_task_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    let adam = ["optimizer=adamw", "dim=8"];
    let exact = ["algorithm1", "S=2", "T=5", "steps=8", "steps1=4", "eval_every=2", "checkpoint_every=4"];
    for (n, words) in [
        &[&GRAPH[..], &["model=transformer", "heads=2"], &adam].concat()[..],
        &[&GRAPH[..], &["model=memory"], &adam].concat(),
        &[&GRAPH[..], &["model=simplified"]].concat(),
        &["causal-fig8", "S=3", "T=5"],
        &["two-parents", "S=2", "T=6"],
        &["birth-full", "T=12", "K=2", "dim=8", "heads=2"],
    ]
    .iter()
    .enumerate()
    {
        let folder = dir.path().join(format!("r{n}"));
        run(&folder, &[words]);
        made.push(folder);
    }
    let folder = dir.path().join("exact");
    ok(&[&["run"], &exact[..], &["--out", text(&folder)]].concat());
    made.push(folder);
    for folder in &made {
        ok(&["report", text(folder)]);
        let html = page(&folder.join("report.html"));
        needs_nothing(&html);
        let own = &data(&html)["part-0"];
        assert!(!own["maps"].as_array().unwrap().is_empty(), "{folder:?}");
        assert!(!own["charts"].as_array().unwrap().is_empty(), "{folder:?}");
        for map in own["maps"].as_array().unwrap() {
            let side = |key: &str| map[key]["names"].as_array().unwrap().len();
            assert_eq!(floats(&map["frames"][0]).len(), side("rows") * side("cols"), "{folder:?}");
        }
    }
}

#[test]
fn studies_several_folders_and_what_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(&at("study"), &[&GRAPH, &["seeds=2"]]);
    run(&at("a"), &[&GRAPH]);
    ok(&["report", text(&at("study"))]);
    let html = page(&at("study").join("report.html"));
    needs_nothing(&html);
    // The study, then its runs; its table leads to them; its figures are in the page.
    for part in
        ["id=\"part-0\"", "href=\"#part-1\"", "id=\"part-2\"", "data:image/svg+xml;base64,", "Key numbers"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(data(&html)["part-0"]["charts"][0]["series"].as_array().unwrap().len(), 2);
    ok(&["report", text(&at("study"))]);
    assert_eq!(page(&at("study").join("report.html")), html);
    ok(&["run", "--resume", text(&at("study"))]);
    // More runs than have parts: the table leads to their folders.
    let grid = ["alpha=0.1,0.3,1", "lr=1,2,4,8,16", "seeds=1", "S=3", "T=5"];
    ok(&[&["sweep", "--out", text(&at("grid"))], &grid[..], &TINY].concat());
    ok(&["report", text(&at("grid"))]);
    let html = page(&at("grid").join("report.html"));
    assert!(html.contains("have no parts in this page") && !html.contains("id=\"part-1\""));
    let links: Vec<&str> = html.split("href=\"").skip(1).map(|s| s.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 15);
    assert!(links.iter().all(|l| at("grid").join(l).is_file()), "{links:?}");
    // Several.
    let both = at("both.html");
    let told = ok(&["report", text(&at("a")), text(&at("study")), "--out", text(&both)]);
    assert!(told.starts_with("report: ") && told.contains("KiB"), "{told}");
    let html = page(&both);
    assert_eq!(html.matches("<section class=\"part\"").count(), 4);

    refused(&["report"], 2, &["RUN|STUDY"]);
    refused(&["report", text(&at("a")), text(&at("study"))], 2, &["out: none, with 2 folders", "--out FILE"]);
    refused(&["report", text(&at("a")), "--out", "page.pdf"], 2, &["out: page.pdf", ".html"]);
    let inside = at("study").join("x.html");
    refused(
        &["report", text(&at("a")), "--out", text(&inside)],
        2,
        &["is in ", "the folder of a run or a study"],
    );
    let own = at("a").join("report.html");
    ok(&["report", text(&at("a")), "--out", text(&own)]);
    fs::create_dir(at("none")).unwrap();
    refused(&["report", text(&at("none"))], 2, &["has no config.toml", "the folder of a run or a study"]);
    refused(&["report", text(&at("nowhere"))], 2, &["does not exist"]);
    // One changed bit is told.
    let log = at("a").join("metrics.jsonl");
    fs::write(&log, page(&log).replacen("\"step\":0", "\"step\":1", 1)).unwrap();
    refused(&["report", text(&at("a"))], 1, &["metrics.jsonl: damaged or edited"]);
}
