//! Corpora from files: a text, or a folder with two tables of counts.
//!
//! Any bytes give a corpus or an error that names the file and the problem.

use crate::input::{self, TEXT, decode};
use crate::task::Corpus;
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::Path;

/// The tables that a folder of counts holds, in the format of [`from_counts`](Corpus::from_counts).
pub const COUNT_FILES: [&str; 2] = ["char_unigrams.csv", "char_bigrams.csv"];

/// Counts of a UTF-8 text file, or those that a folder holds as [`COUNT_FILES`].
///
/// # Errors
/// What cannot be read, is empty or not UTF-8, and what [`from_text`](Corpus::from_text) and
/// [`from_counts`](Corpus::from_counts) refuse; with the file's name.
pub fn read(path: &Path) -> Result<Corpus> {
    if path.is_dir() {
        let [unigrams, bigrams] = COUNT_FILES.map(|name| path.join(name));
        return read_counts(&unigrams, &bigrams);
    }
    parse_text(path, &input::bytes(path, TEXT)?)
}

/// Counts of two tables.
///
/// # Errors
/// As [`read`].
pub fn read_counts(unigrams: &Path, bigrams: &Path) -> Result<Corpus> {
    parse_counts([unigrams, bigrams], [&input::bytes(unigrams, TEXT)?, &input::bytes(bigrams, TEXT)?])
}

/// Counts of the bytes of a text file; `path` is for messages. A byte order mark at its start is no
/// character, and a line end is one, see [`decode`].
///
/// # Errors
/// As [`read`].
pub fn parse_text(path: &Path, bytes: &[u8]) -> Result<Corpus> {
    Corpus::from_text(&text(path, bytes)?).map_err(|e| of_file(path, e))
}

/// Counts of the bytes of two tables; `paths` are for messages.
///
/// # Errors
/// As [`read`].
pub fn parse_counts(paths: [&Path; 2], bytes: [&[u8]; 2]) -> Result<Corpus> {
    let [unigrams, bigrams] = [text(paths[0], bytes[0])?, text(paths[1], bytes[1])?];
    Corpus::from_counts(&unigrams, &bigrams).map_err(|e| {
        let first = matches!(&e, Error::Invalid { field, .. } if field == "unigrams");
        of_file(paths[usize::from(!first)], e)
    })
}

fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<Cow<'a, str>> {
    let text = decode(path, bytes)?;
    if text.is_empty() {
        return Err(Error::format(path, "empty; expected text"));
    }
    Ok(text)
}

/// Converts an error of a text or a table into one of its file.
fn of_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Invalid { problem, allowed, .. } => {
            Error::format(path, format!("{problem}; expected {allowed}"))
        }
        other => other,
    }
}

/// Bytes as a text, and up to the first byte 255 and after it as two tables; never panics, and what
/// is read has laws and survives the way through tables. The body of the fuzz target `corpus`,
/// replayed on its corpus by a test.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let [path, other] = ["a", "b"].map(Path::new);
    if let Ok(corpus) = parse_text(path, data) {
        check(&corpus);
        let decoded = decode(path, data).expect("was read");
        assert_eq!(corpus.encode(&decoded).expect("its own text").len(), decoded.chars().count());
    }
    let cut = data.iter().position(|b| *b == 255).unwrap_or(data.len());
    let second = data.get(cut + 1..).unwrap_or_default();
    if let Ok(corpus) = parse_counts([path, other], [&data[..cut], second]) {
        check(&corpus);
    }
}

fn check(corpus: &Corpus) {
    let n = corpus.vocab();
    let bigrams = corpus.bigram_law();
    for law in std::iter::once(&corpus.unigram_law()[..]).chain(bigrams.chunks_exact(n)) {
        assert!(law.iter().all(|p| (0.0..=1.0).contains(p)));
        // n roundings of quotients at most 1.
        assert!((law.iter().sum::<f64>() - 1.0).abs() <= n as f64 * f64::EPSILON);
    }
    let code = |k: usize| u32::from(corpus.symbols()[k]);
    let rows = |count: &u64, columns: &[usize]| -> String {
        let codes: Vec<String> = columns.iter().map(|k| code(*k).to_string()).collect();
        format!("{},{count}\n", codes.join(","))
    };
    let singles: String = corpus.unigrams().iter().enumerate().map(|(k, c)| rows(c, &[k])).collect();
    let pairs = corpus.bigrams().iter().enumerate().filter(|(_, c)| **c > 0);
    let pairs: String = pairs.map(|(i, c)| rows(c, &[i / n, i % n])).collect();
    let again = Corpus::from_counts(&format!("codepoint,count\n{singles}"), &format!("a,b,count\n{pairs}"));
    assert_eq!(again.ok().as_ref(), Some(corpus));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn texts_and_folders_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("text");
        fs::write(&file, "\u{feff}abbab").unwrap();
        let corpus = read(&file).unwrap();
        assert_eq!(corpus, Corpus::from_text("abbab").unwrap());
        for end in ["\r\n", "\r"] {
            fs::write(&file, "\u{feff}ab\nbab\nb".replace('\n', end)).unwrap();
            let corpus = read(&file).unwrap();
            assert_eq!(corpus, Corpus::from_text("ab\nbab\nb").unwrap(), "{end:?}");
            assert!(!corpus.symbols().contains(&'\r'));
        }
        fs::write(dir.path().join("char_unigrams.csv"), "c,n\r\n97,2\r\n98,3\r\n").unwrap();
        fs::write(dir.path().join("char_bigrams.csv"), "c,d,n\n97,98,2\n98,97,1\n98,98,1\n").unwrap();
        assert_eq!(read(dir.path()).unwrap(), corpus);
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let message = |name: &str| {
            let e = read(&path(name)).unwrap_err();
            assert_eq!(e.exit_code(), 1, "{e}");
            let text = e.to_string();
            let start = format!("{}: ", path(name).display());
            text.strip_prefix(&start).unwrap_or_else(|| panic!("{text}")).to_string()
        };
        let cases: [(&str, &[u8], &str); 6] = [
            ("empty", b"", "empty; expected text"),
            ("mark", b"\xEF\xBB\xBF", "empty"),
            ("latin", b"caf\xE9 au lait", "line 1: byte 3: not UTF-8"),
            ("cut", b"ab\xE2\x82", "line 1: byte 2: not UTF-8"),
            ("one", b"aaa", "1 distinct characters; expected 2 to 1024"),
            ("end", b"abaz", "nothing follows 'z'; expected every character followed"),
        ];
        for (name, bytes, expected) in cases {
            fs::write(path(name), bytes).unwrap();
            let found = message(name);
            assert!(found.starts_with(expected), "{name}: {found}");
        }
        assert!(message("absent").starts_with("cannot read: "));
        // Folders: nothing in it, one table, tables that disagree.
        let folder = path("counts");
        fs::create_dir(&folder).unwrap();
        let of_folder = || read(&folder).unwrap_err().to_string();
        assert!(of_folder().contains("char_unigrams.csv: cannot read"));
        fs::write(folder.join("char_unigrams.csv"), "c,n\n97,2\n98,3\n").unwrap();
        assert!(of_folder().contains("char_bigrams.csv: cannot read"));
        for (bigrams, expected) in [
            ("", "char_bigrams.csv: empty"),
            ("c,d,n\n97,98,2\n98,97,1\n98,98,3\n", "char_bigrams.csv: 'b' occurs 3 times, in 4 pairs"),
            ("c,d,n\n97,98,2\n98,97\n", "char_bigrams.csv: line 3: `98,97`; expected 3 integers"),
        ] {
            fs::write(folder.join("char_bigrams.csv"), bigrams).unwrap();
            assert!(of_folder().contains(expected), "{}", of_folder());
        }
        fs::write(folder.join("char_unigrams.csv"), "c,n\n97,2\n97,3\n").unwrap();
        assert!(of_folder().contains("char_unigrams.csv: line 3: 'a' again"), "{}", of_folder());
        // An error in a table, or a missing line, names that table.
        for (unigrams, bigrams, expected) in [
            ("c,n\n", "c,d,n\n97,98,2\n", "char_unigrams.csv: 0 distinct characters; expected 2 to 1024"),
            ("c,n\n97,5\n", "c,d,n\n97,97,4\n", "char_unigrams.csv: 1 distinct characters"),
            ("c,n\n97,2\n98,3\n", "c,d,n\n", "char_bigrams.csv: nothing follows 'a'; expected every"),
        ] {
            fs::write(folder.join("char_unigrams.csv"), unigrams).unwrap();
            fs::write(folder.join("char_bigrams.csv"), bigrams).unwrap();
            assert!(of_folder().contains(expected), "{}", of_folder());
        }
    }

    #[test]
    fn the_fuzz_corpus_and_its_truncations_hold() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/corpus");
        let mut count = 0;
        for entry in fs::read_dir(corpus).unwrap() {
            let data = fs::read(entry.unwrap().path()).unwrap();
            (0..=data.len()).for_each(|n| fuzz(&data[..n]));
            for at in 0..data.len() {
                for byte in [0, b'9', b',', 255] {
                    let mut changed = data.clone();
                    changed[at] = byte;
                    fuzz(&changed);
                }
            }
            count += 1;
        }
        assert!(count >= 6, "the corpus is there");
    }

    /// The counts that published experiments were made with, where they lie beside the project.
    #[test]
    fn published_counts_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        if !folder.join(COUNT_FILES[0]).is_file() {
            eprintln!("skipped: {} is not there", folder.display());
            return;
        }
        let corpus = read(&folder).unwrap();
        check(&corpus);
        let pairs = corpus.bigrams().iter().filter(|c| **c > 0).count();
        let characters = corpus.unigrams().iter().sum::<u64>();
        assert_eq!((corpus.vocab(), pairs, characters), (65, 1403, 1_115_394));
        // The five most frequent: blank, e, t, o, a.
        let mut order: Vec<usize> = (0..65).collect();
        order.sort_by_key(|k| std::cmp::Reverse(corpus.unigrams()[*k]));
        let most: String = order[..5].iter().map(|k| corpus.symbols()[*k]).collect();
        assert_eq!(most, " etoa");
    }
}
