//! What every command does with the files it reads: marks and line ends of text, limits, folders
//! and pipes, extensions in capitals, arrays that nobody asks for.

use crate::support::{ok, refused, text};
use popgrad::report::arrays::{Array, read_arrays, write_arrays};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The same text as other systems and editors write it.
fn forms(plain: &str) -> Vec<Vec<u8>> {
    let marked = |text: &str| format!("\u{feff}{text}").into_bytes();
    let (crlf, cr) = (plain.replace('\n', "\r\n"), plain.replace('\n', "\r"));
    vec![crlf.clone().into_bytes(), cr.clone().into_bytes(), marked(plain), marked(&crlf), marked(&cr)]
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.at(name), bytes).unwrap();
        text(&self.at(name)).to_string()
    }
}

fn rows() -> (String, String) {
    let row = |k: u32| format!("{} {} {}\n", k % 3, (k / 3) % 3, (k * 7 / 2) % 3);
    ((0..60).map(row).collect(), (0..60).map(|k| format!("{}\n", k * k % 3)).collect())
}

#[test]
fn token_and_label_files_of_any_system_are_the_same() {
    let files = Files::new();
    let (tokens, labels) = rows();
    let soft = labels.replace('0', "1 0 0").replace("1\n", "0 1 0\n").replace('2', "0 0 1");
    let soft = if soft.contains("0 0 1") { soft } else { "1 0 0\n".repeat(60) };
    for answers in [&labels, &soft] {
        let run = |t: &[u8], y: &[u8]| {
            ok(&["discover", "--json", "--tokens", &files.put("t", t), "--labels", &files.put("y", y)])
        };
        let expected = run(tokens.as_bytes(), answers.as_bytes());
        for (t, y) in forms(&tokens).iter().zip(&forms(answers)) {
            assert_eq!(run(t, y), expected);
        }
        // Blank lines at the end, as editors and shells leave them.
        for end in ["\n", "\n\n", " \n", "\r\n\r\n"] {
            assert_eq!(run((tokens.clone() + end).as_bytes(), (answers.clone() + end).as_bytes()), expected);
        }
    }
    let blank = files.put("blank", b"0 1 2\r\r1 0 2\r");
    refused(&["discover", "--tokens", &blank], 1, &["line 2: empty row"]);
    let wide: Vec<u8> = [0xFF, 0xFE].into_iter().chain(tokens.bytes().flat_map(|b| [b, 0])).collect();
    let short = files.put("short.txt", b"abcde");
    refused(
        &["discover", "--text", &short],
        1,
        &["short.txt: 5 characters; expected two windows of at least 3"],
    );
    for name in ["wide.txt", "wide"] {
        refused(
            &["discover", "--tokens", &files.put(name, &wide)],
            1,
            &[name, "UTF-16", "expected text in UTF-8"],
        );
        refused(&["discover", "--text", &files.put(name, &wide)], 1, &[name, "UTF-16"]);
    }
    refused(
        &["discover", "--tokens", &files.put("x", b"0 1\r\n\xFF 1\r\n")],
        1,
        &["line 2: byte 5: not UTF-8"],
    );
}

#[test]
fn texts_of_any_system_are_the_same() {
    let files = Files::new();
    let plain = "the cat sat on the mat\nand the dog sat on the log;\n".repeat(30);
    let run = |bytes: &[u8]| {
        let file = files.put("a.txt", bytes);
        ok(&["discover", "--json", "--text", &file, "--window", "7", "--score", "chi2"])
    };
    let expected = run(plain.as_bytes());
    forms(&plain).iter().for_each(|form| assert_eq!(run(form), expected));
    // A corpus, and counts of one.
    let small = ["K=1", "T=12", "dim=8", "steps=2", "batch=4", "test_size=4", "eval_every=1", "--quick"];
    let train = |name: &str, corpus: &str| {
        let folder = files.at(name);
        ok(&[&["run", "birth", corpus], &small[..], &["--out", text(&folder)]].concat());
        fs::read(folder.join("metrics.jsonl")).unwrap()
    };
    let corpus = |bytes: &[u8]| format!("corpus={}", files.put("corpus.txt", bytes));
    let expected = train("plain", &corpus(plain.as_bytes()));
    for (k, form) in forms(&plain).iter().enumerate() {
        assert_eq!(train(&format!("corpus-{k}"), &corpus(form)), expected);
    }
    fs::create_dir(files.at("counts")).unwrap();
    let counts = format!("corpus=counts:{}", text(&files.at("counts")));
    let (single, pairs) = ("c,n\n97,2\n98,3\n", "a,b,n\n97,98,2\n98,97,1\n98,98,1\n\n");
    let put = |u: &[u8], b: &[u8]| {
        files.put("counts/char_unigrams.csv", u);
        files.put("counts/char_bigrams.csv", b);
    };
    put(single.as_bytes(), pairs.as_bytes());
    let expected = train("counted", &counts);
    for (k, (u, b)) in forms(single).iter().zip(&forms(pairs)).enumerate() {
        put(u, b);
        assert_eq!(train(&format!("counted-{k}"), &counts), expected);
    }
}

#[test]
fn configurations_of_any_system_are_the_same() {
    let files = Files::new();
    let plain = "preset = \"chain\" # of Figure 2\nS = 2\nT = 4\nsteps = 2\nbatch = 4\ntest_size = 4\n";
    let run = |name: &str, bytes: &[u8]| {
        let (config, folder) = (files.put("c.toml", bytes), files.at(name));
        ok(&["run", "--config", &config, "--out", text(&folder)]);
        fs::read(folder.join("config.toml")).unwrap()
    };
    let expected = run("plain", plain.as_bytes());
    for (k, form) in forms(plain).iter().enumerate() {
        assert_eq!(run(&k.to_string(), form), expected);
    }
    let bad = files.put("bad.toml", b"\xEF\xBB\xBFS = 2\rT = = 3\r");
    refused(&["run", "chain", "--config", &bad], 1, &["bad.toml: line 2"]);
    let wide = files.put("wide.toml", b"\xFE\xFF\0S");
    refused(&["run", "chain", "--config", &wide], 1, &["wide.toml: UTF-16"]);
}

#[cfg(target_os = "linux")]
#[test]
fn what_never_ends_is_refused_by_the_name_of_its_limit() {
    let out = tempfile::tempdir().unwrap();
    let out = text(&out.path().join("run")).to_string();
    let (zero, limit) = ("/dev/zero", "bytes; allowed for a");
    refused(&["run", "chain", "--config", zero, "--out", &out], 1, &[zero, limit, "configuration: 1 MiB"]);
    refused(&["discover", "--tokens", zero], 1, &[zero, limit, "text: "]);
    refused(&["run", "birth", &format!("corpus={zero}"), "--out", &out], 1, &[zero, limit, "text: "]);
    assert!(!Path::new(&out).exists());
    let files = Files::new();
    let large = files.at("large.toml");
    fs::File::create(&large).unwrap().set_len((1 << 20) + 1).unwrap();
    refused(&["run", "chain", "--config", text(&large)], 1, &["large.toml: more than 1048576 bytes"]);
    // A file of holes, larger than any memory.
    for name in ["large.npz", "large.npy", "large.safetensors", "large.txt"] {
        let large = files.at(name);
        fs::File::create(&large).unwrap().set_len(1 << 42).unwrap();
        refused(&["discover", "--tokens", text(&large)], 1, &[name, limit]);
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_read_and_folders_are_not() {
    let files = Files::new();
    let (tokens, labels) = rows();
    let (t, y) = (files.put("t", tokens.as_bytes()), files.put("y", labels.as_bytes()));
    let expected = ok(&["discover", "--json", "--tokens", &t, "--labels", &y]);
    let binary = env!("CARGO_BIN_EXE_popgrad");
    let call = format!("{binary} discover --json --tokens <(cat {t}) --labels <(cat {y})");
    if let Ok(out) = Command::new("bash").args(["-c", &call]).output() {
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            expected,
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let folder = files.at("run");
        let call = format!(
            "{binary} run chain --config <(printf 'S = 2\\r\\nT = 4\\r\\nsteps = 2\\r\\n') --out {}",
            text(&folder)
        );
        assert!(Command::new("bash").args(["-c", &call]).output().unwrap().status.success());
        assert!(folder.join("summary.json").exists());
    }
    let folder = text(files.0.path()).to_string();
    for args in [&["--tokens", &folder][..], &["--text", &folder], &["--tokens", &t, "--labels", &folder]] {
        refused(&[&["discover"], args].concat(), 1, &["a folder; expected a file"]);
    }
    refused(&["run", "chain", "--config", &folder], 1, &["a folder; expected a file"]);
    let npz = files.at("folder.npz");
    fs::create_dir(&npz).unwrap();
    refused(&["discover", "--tokens", text(&npz)], 1, &["folder.npz: a folder; expected a file"]);
}

#[test]
fn extensions_in_capitals_are_the_same() {
    let files = Files::new();
    let save = text(&files.at("s.NPZ")).to_string();
    let keys = ["discover", "graph=chain", "S=3", "T=8", "samples=2^8", "--json"];
    ok(&[&keys[..], &["--save", &save]].concat());
    let expected = ok(&["discover", "--json", "--tokens", &save, "--labels", &save]);
    for name in ["s.Npz", "s.SAFETENSORS", "s.SafeTensors"] {
        let path = files.at(name);
        let arrays = read_arrays(Path::new(&save)).unwrap();
        let list: Vec<(&str, &Array)> = arrays.iter().map(|(k, v)| (k.as_str(), v)).collect();
        write_arrays(&path, &list, None).unwrap();
        assert_eq!(ok(&["discover", "--json", "--tokens", text(&path), "--labels", text(&path)]), expected);
    }
    // A bare array, as Python 2 wrote it.
    let header = "{'descr': '>i4', 'fortran_order': False, 'shape': (40L, 9L), }\n";
    let data: Vec<u8> = (0..360_i32).flat_map(|k| (k * k % 3).to_be_bytes()).collect();
    let bytes =
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let plain: String = (0..40)
        .map(|r| (0..9).map(|c| format!("{} ", (r * 9 + c) * (r * 9 + c) % 3)).collect::<String>() + "\n")
        .collect();
    let expected = ok(&["discover", "--json", "--tokens", &files.put("plain.txt", plain.as_bytes())]);
    for name in ["t.npy", "t.NPY", "t.Npy"] {
        assert_eq!(ok(&["discover", "--json", "--tokens", &files.put(name, &bytes)]), expected, "{name}");
    }
    // Nobody takes what another has just written.
    refused(&[&keys[..], &["--save", &save]].concat(), 2, &["a file that does not exist yet"]);
}

/// A zip of `.npy` files: those of `arrays`, and one of dates and one of texts.
fn with_notes(files: &Files, name: &str, arrays: &[(&str, &Array)]) -> String {
    use std::io::{Read, Write};
    let plain = files.at("plain.npz");
    write_arrays(&plain, arrays, None).unwrap();
    let mut from = zip::ZipArchive::new(fs::File::open(&plain).unwrap()).unwrap();
    let mut to = zip::ZipWriter::new(fs::File::create(files.at(name)).unwrap());
    let options = zip::write::SimpleFileOptions::default;
    for (name, descr, size) in [("a-date", "<M8[D]", 8), ("z-author", "<U5", 20), ("m-object", "|O", 3)] {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (), }}");
        to.start_file(format!("{name}.npy"), options()).unwrap();
        to.write_all(b"\x93NUMPY\x01\x00").unwrap();
        to.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        to.write_all(header.as_bytes()).unwrap();
        to.write_all(&vec![0; size]).unwrap();
    }
    for i in 0..from.len() {
        let mut entry = from.by_index(i).unwrap();
        let (mut bytes, name) = (Vec::new(), entry.name().unwrap().into_owned());
        entry.read_to_end(&mut bytes).unwrap();
        to.start_file(name, options()).unwrap();
        to.write_all(&bytes).unwrap();
    }
    to.finish().unwrap();
    text(&files.at(name)).to_string()
}

#[test]
fn dates_and_texts_beside_the_arrays_do_not_matter() {
    let files = Files::new();
    let tokens = Array::new(&[60, 3], (0..180_i64).map(|k| k * k % 3).collect::<Vec<_>>()).unwrap();
    let labels = Array::vector((0..60_i64).map(|k| k % 3).collect::<Vec<_>>());
    let noted = with_notes(&files, "noted.npz", &[("tokens", &tokens), ("labels", &labels)]);
    let plain = text(&files.at("plain.npz")).to_string();
    let run = |t: &str, y: &str| ok(&["discover", "--json", "--tokens", t, "--labels", y]);
    assert_eq!(run(&noted, &noted), run(&plain, &plain));
    refused(
        &["discover", "--tokens", &with_notes(&files, "n.npz", &[("x", &tokens)])],
        1,
        &["`tokens` is missing", "a-date, m-object, x, z-author"],
    );

    let law = Array::new(&[60, 3], [1.0, 0.0, 0.0].repeat(60)).unwrap();
    let block = |shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        Array::new(shape, (0..n).map(|k| (k % 7) as f64 / 8.0).collect::<Vec<_>>()).unwrap()
    };
    let (a, w) = (block(&[1, 6, 6]), block(&[12, 3]));
    let params = with_notes(&files, "p.npz", &[("A.0", &a), ("W", &w)]);
    let plain_params = text(&files.at("p0.npz")).to_string();
    fs::copy(files.at("plain.npz"), &plain_params).unwrap();
    let batch = with_notes(&files, "b.npz", &[("tokens", &tokens), ("targets", &law)]);
    let plain_batch = text(&files.at("b0.npz")).to_string();
    fs::copy(files.at("plain.npz"), &plain_batch).unwrap();
    let grad = |p: &str, b: &str, out: &str| {
        let out = files.at(out);
        ok(&["grad", "--model", "disentangled", "heads=1", "--params", p, "--batch", b, "--out", text(&out)]);
        fs::read(out).unwrap()
    };
    assert_eq!(grad(&params, &batch, "g.NPZ"), grad(&plain_params, &plain_batch, "g0.npz"));
    // A prior, too; but numbers that nobody expects are a slip of the name.
    let pi = Array::new(&[1, 3, 3], [0.5, 0.25, 0.25].repeat(3)).unwrap();
    let weight = Array::vector(vec![1.0]);
    let prior = with_notes(&files, "prior.npz", &[("pi", &pi), ("weight", &weight)]);
    let exact = |prior: &str| {
        let out = text(&files.at("e.npz")).to_string();
        let keys = ["exact", "--model", "disentangled", "heads=1", "T=3", "graph=chain", "--params", &params];
        [&keys[..], &["--prior", prior, "--out", &out]]
            .concat()
            .iter()
            .map(|w| w.to_string())
            .collect::<Vec<_>>()
    };
    ok(&exact(&prior).iter().map(String::as_str).collect::<Vec<_>>());
    let slip = with_notes(&files, "slip.npz", &[("pi", &pi), ("weight", &weight), ("root", &weight)]);
    refused(
        &exact(&slip).iter().map(String::as_str).collect::<Vec<_>>(),
        1,
        &["slip.npz: array `root` is not expected"],
    );
}
