//! Named arrays: NumPy's files read right, ours written right, and nothing hostile gets through.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use popgrad::Error;
use popgrad::report::arrays::*;
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn assert_same(found: &Array, shape: &[usize], data: impl Into<ArrayData>, name: &str) {
    let expected = Array::new(shape, data).unwrap();
    assert!(found.same_bits(&expected), "{name}: found {found:?}, expected {expected:?}");
}

/// What make_arrays.py stored, in both formats.
fn check_common(arrays: &BTreeMap<String, Array>) {
    let signed = |lo: i64, hi: i64| vec![lo, 0, hi];
    assert_same(&arrays["i1"], &[3], signed(-128, 127), "i1");
    assert_same(&arrays["i2"], &[3], signed(-32768, 32767), "i2");
    assert_same(&arrays["i4"], &[3], signed(i32::MIN.into(), i32::MAX.into()), "i4");
    assert_same(&arrays["i8"], &[3], signed(i64::MIN, i64::MAX), "i8");
    assert_same(&arrays["u1"], &[2], vec![0, 255_u64], "u1");
    assert_same(&arrays["u2"], &[2], vec![0, 65535_u64], "u2");
    assert_same(&arrays["u4"], &[2], vec![0, u64::from(u32::MAX)], "u4");
    assert_same(&arrays["u8"], &[2], vec![0, u64::MAX], "u8");
    assert_same(&arrays["bool"], &[2, 2], vec![1, 0, 0, 1_u64], "bool");
    let tiny = 2.0_f32.powi(-24);
    let half =
        [0.0, -0.0, 1.0, -2.5, 65504.0, 2.0_f32.powi(-14), tiny, 3.0 * tiny, f32::INFINITY, -f32::INFINITY];
    let ArrayData::F32(found) = arrays["f2"].data() else { panic!("f2 is delivered as f32") };
    assert_eq!(found[..10].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), half.map(f32::to_bits));
    assert!(found[10].is_nan());
    assert_same(&arrays["f4"], &[5], vec![0.1_f32, -0.0, f32::INFINITY, f32::NAN, 1e-45], "f4");
    assert_same(&arrays["f8"], &[4], vec![0.1_f64, -0.0, -f64::INFINITY, 5e-324], "f8");
    let grid: Vec<f64> = (0..24).map(|i| f64::from(i) / 8.0).collect();
    assert_same(&arrays["c_order"], &[2, 3, 4], grid, "c_order");
    assert_same(&arrays["empty"], &[0, 3], Vec::<f32>::new(), "empty");
}

#[test]
fn reads_every_numpy_type_and_order() {
    let arrays = read_arrays(&fixture("numpy_all.npz")).unwrap();
    check_common(&arrays);
    assert!(arrays["fortran"].same_bits(&arrays["c_order"]), "Fortran order is delivered in C order");
    assert_same(&arrays["scalar"], &[], vec![1.5_f32], "scalar");
    assert_eq!(arrays.len(), 16);
}

#[test]
fn reads_savez_compressed() {
    let arrays = read_arrays(&fixture("numpy_deflate.npz")).unwrap();
    assert_same(
        &arrays["fortran"],
        &[2, 3, 4],
        (0..24).map(|i| i as f32 / 8.0).collect::<Vec<_>>(),
        "fortran",
    );
    assert_same(&arrays["zeros"], &[40, 50], vec![0_i64; 2000], "zeros");
}

#[test]
fn reads_safetensors_of_the_python_library() {
    let (arrays, metadata) = read_safetensors(&fixture("numpy_all.safetensors")).unwrap();
    check_common(&arrays);
    let expected = [("note", "é"), ("origin", "numpy")].map(|(k, v)| (k.to_string(), v.to_string()));
    assert_eq!(metadata, BTreeMap::from(expected));
    assert_eq!(read_safetensors_metadata(&fixture("numpy_all.safetensors")).unwrap(), metadata);
}

/// The message of the error that reading `path` must give.
fn refusal(path: &Path) -> String {
    match read_arrays(path) {
        Err(e @ Error::Format { .. }) => e.to_string(),
        other => panic!("{}: expected a format error, found {other:?}", path.display()),
    }
}

#[test]
fn refuses_what_it_cannot_hold_and_says_why() {
    for (file, words) in [
        ("numpy_object.npz", &["`things`", "object"][..]),
        ("numpy_structured.npz", &["`pairs`", "structured"]),
        ("numpy_text.npz", &["`words`", "<U2"]),
        ("numpy_complex.npz", &["`waves`", "<c16"]),
        ("numpy_duplicate.npz", &["same name"]),
        ("make_arrays.py", &[".npz", ".safetensors"]),
    ] {
        let message = refusal(&fixture(file));
        for word in words.iter().chain([&file]) {
            assert!(message.contains(word), "{file}: `{word}` missing in: {message}");
        }
    }
    assert!(matches!(read_arrays(Path::new("nowhere.npz")), Err(Error::Io { .. })));
}

#[test]
fn integers_are_integers_and_floats_are_not() {
    let arrays = read_arrays(&fixture("numpy_all.npz")).unwrap();
    assert_eq!(arrays["i2"].as_integers("i2").unwrap(), [-32768, 0, 32767]);
    assert_eq!(arrays["bool"].as_integers("bool").unwrap(), [1, 0, 0, 1]);
    assert_eq!(arrays["u4"].to_f64_vec(), [0.0, 4294967295.0]);
    for name in ["u8", "f4", "f8"] {
        let error = arrays[name].as_integers(name).unwrap_err();
        assert!(matches!(&error, Error::Invalid { field, .. } if field == name), "{name}: {error}");
    }
}

fn sample() -> BTreeMap<String, Array> {
    let nan = f32::from_bits(0x7fc0_1234);
    BTreeMap::from([
        ("w".to_string(), Array::new(&[2, 3], vec![0.1_f32, -0.0, nan, f32::INFINITY, 1e-45, 3.0]).unwrap()),
        ("nested/name.with dots".to_string(), Array::new(&[], vec![0.1_f64]).unwrap()),
        ("steps".to_string(), Array::vector(vec![i64::MIN, -1, i64::MAX])),
        ("seed é".to_string(), Array::vector(vec![u64::MAX])),
        ("none".to_string(), Array::new(&[3, 0], Vec::<f64>::new()).unwrap()),
    ])
}

fn listed(arrays: &BTreeMap<String, Array>) -> Vec<(&str, &Array)> {
    arrays.iter().map(|(k, v)| (k.as_str(), v)).collect()
}

#[test]
fn writes_what_it_reads_bit_for_bit_and_the_same_bytes_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let arrays = sample();
    let metadata: BTreeMap<String, String> =
        (0..20).map(|i| (format!("key {i}"), format!("\"{i}\"\n"))).collect();
    for (name, compression) in
        [("a.npz", Compression::None), ("b.npz", Compression::Deflate), ("c.safetensors", Compression::None)]
    {
        let path = dir.path().join(name);
        let mut first: Option<Vec<u8>> = None;
        for round in 0..10 {
            let mut list = listed(&arrays);
            let turn = round % list.len();
            list.rotate_left(turn);
            write_arrays_with(&path, &list, Some(&metadata), compression).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(*first.get_or_insert_with(|| bytes.clone()), bytes, "{name}, round {round}");
        }
        let read = read_arrays(&path).unwrap();
        assert!(read.keys().eq(arrays.keys()));
        for (key, array) in &read {
            assert!(array.same_bits(&arrays[key]), "{name}: {key}");
        }
    }
    assert_eq!(read_safetensors_metadata(&dir.path().join("c.safetensors")).unwrap(), metadata);
}

#[test]
fn refuses_bad_names_and_extensions_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let a = Array::vector(vec![1.0_f32]);
    for (file, list) in [
        ("x.npz", vec![("twice", &a), ("twice", &a)]),
        ("x.npz", vec![("", &a)]),
        ("x.safetensors", vec![("__metadata__", &a)]),
        ("x.txt", vec![("a", &a)]),
        ("x", vec![("a", &a)]),
    ] {
        assert!(write_arrays(&dir.path().join(file), &list, None).is_err(), "{file}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing may be left behind");
    assert!(Array::new(&[2, 2], vec![1.0_f32; 3]).is_err());
    assert!(Array::new(&[usize::MAX, 2], vec![1.0_f32; 2]).is_err());
}

/// A `.npy` with this header text and data, alone in a stored zip made by our own writer's rules.
fn npz_with_header(header: &str, data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend_from_slice(&(header.len() as u16).to_le_bytes());
    npy.extend_from_slice(header.as_bytes());
    npy.extend_from_slice(data);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&npy).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn lying_npy_headers_are_refused() {
    let parse =
        |header: &str| parse_arrays(Path::new("test"), Format::Npz, &npz_with_header(header, &[0; 8]));
    let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    assert_eq!(parse(good).unwrap()["x"].shape(), [2]);
    let nested = "(".repeat(60_000);
    for (header, word) in [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "8 bytes"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "8 bytes"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", "overflow"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904,), }", "overflow"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", "not a size"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "not a size"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': 2, }", "expected `(`"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }", "True or False"),
        ("{'descr': '<f4', 'fortran_order': False, }", "without"),
        ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "twice"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", "unknown"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x", "text after"),
        ("{'descr': '<f3', 'fortran_order': False, 'shape': (2,), }", "<f3"),
        ("{'descr': '<>f4', 'fortran_order': False, 'shape': (2,), }", "<>f4"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2LL,), }", "malformed"),
        ("{'descr': '<f4L', 'fortran_order': False, 'shape': (2,), }", "<f4L"),
        ("", "expected `{`"),
        (&nested, "expected `{`"),
    ] {
        let message = parse(header).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("`x`"), "{header:.80}: {message}");
    }
    // An empty array may have any other extents; nothing is allocated for them.
    let empty = "{'descr': '<f4', 'fortran_order': True, 'shape': (0, 4611686018427387904, 4), }";
    let parsed = parse_arrays(Path::new("test"), Format::Npz, &npz_with_header(empty, &[])).unwrap();
    assert_eq!(parsed["x"].data().len(), 0);
}

/// Headers that numpy reads, whoever wrote them.
#[test]
fn headers_of_other_writers_are_read() {
    let parse = |header: &str, data: &[u8]| {
        parse_arrays(Path::new("test"), Format::Npz, &npz_with_header(header, data))
            .unwrap()
            .remove("x")
            .unwrap()
    };
    let (one, two) = (1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes());
    let little = [one, two].concat();
    let big: Vec<u8> = little.chunks(4).flat_map(|w| w.iter().rev().copied()).collect();
    for (header, data) in [
        // Python 2, whose shapes were long integers.
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 2L), }      \n", &little),
        ("{u'descr': u'<f4',\n u'fortran_order': False, u'shape': (1L,\t2L), }", &little),
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (1L, 2), }", &little),
        ("{'shape': (1, 2), 'fortran_order': False, 'descr': '<f4'}", &little),
        ("{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (1, 2), }", &little),
        ("{'descr': '=f4', 'fortran_order': False, 'shape': (1, 2), }", &little),
        ("{'descr': 'f4', 'fortran_order': False, 'shape': (1, 2), }", &little),
        ("{'descr': '>f4', 'fortran_order': False, 'shape': (1L, 2L), }", &big),
    ] {
        assert_same(&parse(header, data), &[1, 2], vec![1.0_f32, -2.5], header);
    }
    let scalar = parse("{'descr': '>i8', 'fortran_order': False, 'shape': (), }", &(-3_i64).to_be_bytes());
    assert_same(&scalar, &[], vec![-3_i64], "scalar");
    for descr in ["|b1", "?", "<b1"] {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (3,), }}");
        assert_same(&parse(&header, &[1, 0, 1]), &[3], vec![1_u64, 0, 1], descr);
    }
    // 3 rows of 2 in Fortran order and big-endian.
    let words: Vec<u8> = [0_i16, 2, 4, 1, 3, 5].iter().flat_map(|x| x.to_be_bytes()).collect();
    let fortran = parse("{'descr': '>i2', 'fortran_order': True, 'shape': (3L, 2L), }", &words);
    assert_same(&fortran, &[3, 2], (0..6).collect::<Vec<i64>>(), "fortran");
    for (descr, data) in
        [(">f2", &[0x3C, 0x00][..]), (">f8", &1.0_f64.to_be_bytes()), (">u4", &1_u32.to_be_bytes())]
    {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}");
        assert_eq!(parse(&header, data).to_f64_vec(), [1.0], "{descr}");
    }
    let swapped = read_arrays(&fixture("numpy_big_endian.npz")).unwrap();
    assert_same(&swapped["swapped"], &[2], vec![1_i64, 2], "swapped");
}

#[test]
fn arrays_that_nobody_asks_for_are_not_read() {
    use std::io::Write;
    let npy = |header: &str, data: &[u8]| {
        let mut npy = b"\x93NUMPY\x01\x00".to_vec();
        npy.extend_from_slice(&(header.len() as u16).to_le_bytes());
        [&npy, header.as_bytes(), data].concat()
    };
    let of = |descr: &str, size: usize| {
        npy(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}"), &vec![0; size])
    };
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options =
        || zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [
        ("tokens.npy", of("'<i4'", 4)),
        ("labels", of("'<i8'", 8)),
        ("date.npy", of("'<M8[D]'", 8)),
        ("author.npy", of("'<U3'", 12)),
        ("bytes.npy", of("'|S3'", 3)),
        ("things.npy", of("'|O'", 20)),
        ("pairs.npy", of("[('a', '<f4'), ('b', '<i4')]", 8)),
        ("waves.npy", of("'<c16'", 16)),
        ("cut.npy", b"\x93NUM".to_vec()),
        ("README.txt", b"not an array at all".to_vec()),
    ] {
        zip.start_file(name, options()).unwrap();
        zip.write_all(&content).unwrap();
    }
    zip.add_directory("folder", options()).unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    assert!(parse_arrays(Path::new("f.npz"), Format::Npz, &bytes).is_err(), "not all are numbers");
    let file = ArrayFile::parse(Path::new("f.npz"), Format::Npz, bytes.clone()).unwrap();
    assert!(file.names().any(|n| n == "things") && file.names().any(|n| n == "labels"));
    let read = file.read(&["tokens", "labels", "absent"]).unwrap();
    assert_eq!(read.keys().collect::<Vec<_>>(), ["labels", "tokens"]);
    assert_eq!(file.unexpected(&["tokens", "labels"]).unwrap(), None, "only numbers may be a slip");
    assert_eq!(file.unexpected(&["tokens"]).unwrap(), Some("labels"));
    for (name, word) in [("date", "<M8"), ("things", "object"), ("pairs", "structured"), ("author", "<U3")] {
        let message = file.read(&[name]).unwrap_err().to_string();
        assert!(message.contains(&format!("`{name}`")) && message.contains(word), "{message}");
    }
    // One bit of an array that is read is noticed; of the others, nothing is read.
    let start = bytes.windows(4).position(|w| w == b"<i4'").unwrap();
    let at = start + bytes[start..].iter().position(|b| *b == b'}').unwrap() + 1;
    let mut bad = bytes.clone();
    bad[at] ^= 1;
    let bad = ArrayFile::parse(Path::new("f.npz"), Format::Npz, bad).unwrap();
    assert!(bad.read(&["tokens"]).is_err() && bad.read(&["labels"]).is_ok());

    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"q":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[8,12]},"z":{"dtype":"C64","shape":[1],"data_offsets":[12,20]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 20]].concat();
    let file = ArrayFile::parse(Path::new("f.safetensors"), Format::Safetensors, bytes).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "q", "z"]);
    assert_same(&file.read(&["a"]).unwrap()["a"], &[2], vec![0.0_f32; 2], "a");
    assert_eq!(file.unexpected(&["a"]).unwrap(), None);
    assert!(file.read(&["q"]).unwrap_err().to_string().contains("`q`: element type F8_E4M3"));
}

#[test]
fn extensions_are_compared_without_case() {
    let dir = tempfile::tempdir().unwrap();
    let array = Array::vector(vec![1.0_f64, 2.0]);
    for name in ["a.NPZ", "a.Npz", "a.SafeTensors", "a.SAFETENSORS"] {
        let path = dir.path().join(name);
        write_arrays(&path, &[("x", &array)], None).unwrap();
        assert!(read_arrays(&path).unwrap()["x"].same_bits(&array), "{name}");
        assert_eq!(ArrayFile::open(&path).unwrap().names().collect::<Vec<_>>(), ["x"]);
    }
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let parse = |header: &str, data: &[u8]| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        parse_arrays(Path::new("test"), Format::Safetensors, &bytes)
    };
    let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(parse(good, &[0; 8]).unwrap()["a"].shape(), [2]);
    for (header, word) in [
        (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, "readable"),
        (
            r#"{"a":{"dtype":"F64","shape":[2305843009213693951],"data_offsets":[0,18446744073709551608]}}"#,
            "`a`",
        ),
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#, "overflow"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, "not fully covered"),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            "same name",
        ),
        (r#"{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#, "`a`: element type C64"),
        (r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,8]}}"#, "F99"),
        ("[1]", "object"),
        ("", "EOF"),
    ] {
        let message = parse(header, &[0; 8]).unwrap_err().to_string();
        assert!(message.contains(word), "{header}: {message}");
    }
    let bf16 = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
    let read = parse(bf16, &[0x80, 0x3f, 0x20, 0xc0]).unwrap();
    assert_same(&read["a"], &[2], vec![1.0_f32, -2.5], "bf16");
}

#[test]
fn every_truncation_is_an_error() {
    for (name, format) in [("numpy_deflate.npz", Format::Npz), ("numpy_all.safetensors", Format::Safetensors)]
    {
        let bytes = std::fs::read(fixture(name)).unwrap();
        assert!(parse_arrays(Path::new("test"), format, &bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(parse_arrays(Path::new("test"), format, &bytes[..end]).is_err(), "{name} cut at {end}");
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for folder in ["tests/corpus/arrays", "tests/data"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        files.extend(paths.iter().map(|p| std::fs::read(p).unwrap()));
    }
    files
}

#[test]
fn the_corpus_never_panics() {
    let files = corpus();
    assert!(files.len() > 10, "corpus missing");
    files.iter().for_each(|bytes| fuzz_read_arrays(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutations_never_panic(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local!(static CORPUS: Vec<Vec<u8>> = corpus());
        CORPUS.with(|files| {
            let mut bytes = which.get(files).clone();
            if bytes.is_empty() {
                return;
            }
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            fuzz_read_arrays(&bytes);
        });
    }
}
