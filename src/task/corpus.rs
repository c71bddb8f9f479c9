//! Character statistics of a text, from which the trigger-bigram task draws its sequences.

use crate::input::lines_end_alike;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Counts of single characters and of adjacent pairs. Symbol k is the k-th distinct character in
/// order of code points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    symbols: Vec<char>,
    unigrams: Vec<u64>,
    /// (N, N) row-major: row = first.
    bigrams: Vec<u64>,
}

/// The text that ships with the project.
const SHIPPED: &str = include_str!("corpus/harbour.txt");

impl Corpus {
    /// Most distinct characters.
    pub const MAX_SYMBOLS: usize = 1024;

    /// Counts of `text`. A line end is one character, LF, whether the text has LF, CR LF or CR.
    ///
    /// # Errors
    /// Fewer than two or more than [`MAX_SYMBOLS`](Self::MAX_SYMBOLS) distinct characters; a
    /// character that nothing follows (it occurs only at the end of the text). The
    /// field is `corpus`.
    pub fn from_text(text: &str) -> Result<Self> {
        let text = lines_end_alike(text);
        let mut singles: BTreeMap<char, u64> = BTreeMap::new();
        for c in text.chars() {
            *singles.entry(c).or_default() += 1;
        }
        let symbols: Vec<char> = singles.keys().copied().collect();
        let n = check_symbols("corpus", &symbols)?;
        let number = |c: char| symbols.binary_search(&c).expect("every character was counted");
        let mut bigrams = vec![0; n * n];
        let mut before: Option<usize> = None;
        for c in text.chars().map(number) {
            if let Some(b) = before {
                bigrams[b * n + c] += 1;
            }
            before = Some(c);
        }
        Corpus { symbols, unigrams: singles.into_values().collect(), bigrams }.checked("corpus")
    }

    /// Counts from two tables of comma-separated values with a header line each: `codepoint,count`
    /// and `first_codepoint,second_codepoint,count`, code points in decimal. Pairs that are not
    /// listed do not occur.
    ///
    /// # Errors
    /// A line that does not parse, a character or pair listed twice, a pair of a character that the
    /// first table lacks, a count of 0; tables that disagree: in a text every occurrence of a
    /// character but the last is the first of one pair, and every one but the first the second of
    /// one. The fields are `unigrams` and `bigrams`.
    pub fn from_counts(unigrams: &str, bigrams: &str) -> Result<Self> {
        let mut singles: BTreeMap<char, u64> = BTreeMap::new();
        for (at, [c, count]) in table::<2>("unigrams", &lines_end_alike(unigrams))? {
            let c = character("unigrams", at, c)?;
            if singles.insert(c, count).is_some() {
                return Err(bad_line("unigrams", at, format!("{c:?} again"), "each character once"));
            }
        }
        let symbols: Vec<char> = singles.keys().copied().collect();
        let n = check_symbols("unigrams", &symbols)?;
        let mut pairs = vec![0; n * n];
        for (at, [first, second, count]) in table::<3>("bigrams", &lines_end_alike(bigrams))? {
            let mut index = [0; 2];
            for (i, c) in index.iter_mut().zip([first, second]) {
                let c = character("bigrams", at, c)?;
                *i = symbols.binary_search(&c).map_err(|_| {
                    bad_line("bigrams", at, format!("{c:?}"), "characters that the unigrams list")
                })?;
            }
            let entry = &mut pairs[index[0] * n + index[1]];
            if *entry != 0 {
                return Err(bad_line("bigrams", at, "a pair again".into(), "each pair once"));
            }
            *entry = count;
        }
        Corpus { symbols, unigrams: singles.into_values().collect(), bigrams: pairs }.checked("bigrams")
    }

    /// Counts of the text that ships with the project, a play with a few papers found in its tower.
    pub fn shipped() -> Self {
        Corpus::from_text(SHIPPED).expect("the shipped text has counts; a test holds that")
    }

    /// `field` is the field of the error for a character that nothing follows.
    fn checked(self, field: &str) -> Result<Self> {
        let n = self.symbols.len();
        if self.unigrams.iter().try_fold(0u64, |sum, c| sum.checked_add(*c)).is_none() {
            return Err(Error::invalid("unigrams", "2^64 characters or more", "counts of a sum below 2^64"));
        }
        let followed = |k: usize| saturating_sum(self.bigrams[k * n..(k + 1) * n].iter());
        if let Some(k) = (0..n).find(|k| followed(*k) == 0) {
            let allowed = "every character followed by another one somewhere";
            return Err(Error::invalid(field, format!("nothing follows {:?}", self.symbols[k]), allowed));
        }
        let mut ends = [0u64; 2];
        for (k, c) in self.symbols.iter().enumerate() {
            let (first, second) = (followed(k), saturating_sum(self.bigrams[k..].iter().step_by(n)));
            for (end, pairs) in ends.iter_mut().zip([first, second]) {
                let missing = self.unigrams[k].wrapping_sub(pairs);
                if missing > 1 {
                    let found = format!("{c:?} occurs {} times, in {pairs} pairs", self.unigrams[k]);
                    let allowed = "counts of one text: as many pairs as occurrences, one less at either end of the text";
                    return Err(Error::invalid("bigrams", found, allowed));
                }
                *end += missing;
            }
        }
        if ends != [1, 1] {
            let found = format!("{} characters end the text, {} begin it", ends[0], ends[1]);
            return Err(Error::invalid("bigrams", found, "counts of one text: one each"));
        }
        Ok(self)
    }

    /// N, the number of distinct characters.
    pub fn vocab(&self) -> usize {
        self.symbols.len()
    }

    /// The character of each symbol (N).
    pub fn symbols(&self) -> &[char] {
        &self.symbols
    }

    /// Occurrences of each symbol (N).
    pub fn unigrams(&self) -> &[u64] {
        &self.unigrams
    }

    /// Occurrences of each adjacent pair, (N, N) row-major, row = first.
    pub fn bigrams(&self) -> &[u64] {
        &self.bigrams
    }

    /// π_u (N).
    pub fn unigram_law(&self) -> Vec<f64> {
        normalised(&self.unigrams)
    }

    /// π_b(·|row), (N, N) row-major.
    pub fn bigram_law(&self) -> Vec<f64> {
        self.bigrams.chunks_exact(self.vocab()).flat_map(normalised).collect()
    }

    /// The symbols of `text`.
    ///
    /// # Errors
    /// A character that the corpus lacks. The field is `text`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let number = |c: char| {
            self.symbols
                .binary_search(&c)
                .map(|k| k as u32)
                .map_err(|_| Error::invalid("text", format!("{c:?}"), "characters of the corpus"))
        };
        lines_end_alike(text).chars().map(number).collect()
    }
}

fn normalised(counts: &[u64]) -> Vec<f64> {
    let total = saturating_sum(counts.iter()) as f64;
    counts.iter().map(|c| *c as f64 / total).collect()
}

fn saturating_sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum: u64, c| sum.saturating_add(*c))
}

fn check_symbols(field: &str, symbols: &[char]) -> Result<usize> {
    let n = symbols.len();
    if (2..=Corpus::MAX_SYMBOLS).contains(&n) {
        return Ok(n);
    }
    let allowed = format!("2 to {}", Corpus::MAX_SYMBOLS);
    Err(Error::invalid(field, format!("{n} distinct characters"), allowed))
}

fn bad_line(field: &str, at: usize, found: String, allowed: &str) -> Error {
    Error::invalid(field, format!("line {at}: {found}"), allowed)
}

/// The records below the header line, with their line numbers; empty lines are skipped.
fn table<const W: usize>(field: &str, text: &str) -> Result<Vec<(usize, [u64; W])>> {
    let mut records = Vec::new();
    for (i, line) in text.lines().enumerate().skip(1).filter(|(_, l)| !l.trim().is_empty()) {
        let values: Option<Vec<u64>> = line.split(',').map(|x| x.trim().parse().ok()).collect();
        let record: Option<[u64; W]> = values.and_then(|v| v.try_into().ok());
        match record {
            Some(r) if r[W - 1] > 0 => records.push((i + 1, r)),
            _ => {
                let allowed = format!("{W} integers, the last of them a count >= 1");
                return Err(bad_line(field, i + 1, format!("`{line}`"), &allowed));
            }
        }
    }
    Ok(records)
}

fn character(field: &str, at: usize, code: u64) -> Result<char> {
    u32::try_from(code)
        .ok()
        .and_then(char::from_u32)
        .ok_or_else(|| bad_line(field, at, format!("{code}"), "the code point of a character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let c = Corpus::from_text("abbab").unwrap();
        assert_eq!((c.symbols(), c.unigrams()), (&['a', 'b'][..], &[2, 3][..]));
        assert_eq!(c.bigrams(), [0, 2, 1, 1]);
        assert_eq!(c.unigram_law(), [0.4, 0.6]);
        assert_eq!(c.bigram_law(), [0.0, 1.0, 0.5, 0.5]);
        assert_eq!(c.encode("ba").unwrap(), [1, 0]);
        let lines = Corpus::from_text("ab\nba\nab\nb").unwrap();
        for end in ["\r\n", "\r"] {
            let text = "ab\nba\nab\nb".replace('\n', end);
            assert_eq!(Corpus::from_text(&text).unwrap(), lines, "{end:?}");
            assert_eq!(lines.encode(&text).unwrap().len(), 10);
        }
        assert_eq!(c.encode("bc").unwrap_err().to_string(), "text: 'c'; allowed: characters of the corpus");
        let same = Corpus::from_counts(
            "codepoint,count\n97,2\n98,3\n",
            "first,second,count\n97,98,2\n98,97,1\n98,98,1\n",
        );
        assert_eq!(same.unwrap(), c);
        let old = Corpus::from_counts("u,n\r97,2\r98,3\r", "a,b,n\r97,98,2\r98,97,1\r98,98,1\r\r");
        assert_eq!(old.unwrap(), c);
    }

    #[test]
    fn the_shipped_text_is_a_corpus() {
        assert!(SHIPPED.len() >= 30_000, "{}", SHIPPED.len());
        let c = Corpus::shipped();
        assert!((60..=80).contains(&c.vocab()), "{}", c.vocab());
        assert_eq!(c.unigrams().iter().sum::<u64>(), SHIPPED.chars().count() as u64);
        assert_eq!(c.bigrams().iter().sum::<u64>() + 1, SHIPPED.chars().count() as u64);
    }

    #[test]
    fn bad_texts_and_tables_are_refused() {
        let text = |t: &str| Corpus::from_text(t).unwrap_err().to_string();
        assert_eq!(text(""), "corpus: 0 distinct characters; allowed: 2 to 1024");
        assert!(text("aaaa").starts_with("corpus: 1 distinct"));
        assert!(text("abaz").starts_with("corpus: nothing follows 'z'"));
        let many: String = (0x4E00..0x4E00 + 1025).filter_map(char::from_u32).collect();
        assert!(text(&many).starts_with("corpus: 1025 distinct"));
        let (u, b) = ("c,n\n97,2\n98,3\n", "c,d,n\n97,98,2\n98,97,1\n98,98,1\n");
        for (unigrams, bigrams, expected) in [
            ("c,n\n97,2\n98,x\n", b, "unigrams: line 3: `98,x`; allowed: 2 integers"),
            ("c,n\n97,2\n97,3\n", b, "unigrams: line 3: 'a' again"),
            ("c,n\n97,2\n98,0\n", b, "unigrams: line 3: `98,0`"),
            ("c,n\n97,2\n55296,1\n", b, "unigrams: line 3: 55296; allowed: the code point"),
            ("c,n\n97,18446744073709551615\n98,1\n", b, "unigrams: 2^64 characters"),
            (u, "c,d,n\n97,98,2\n99,97,1\n", "bigrams: line 3: 'c'; allowed: characters that"),
            (u, "c,d,n\n97,98,2\n97,98,1\n", "bigrams: line 3: a pair again"),
            ("c,n\n", b, "unigrams: 0 distinct characters"),
            ("c,n\n97,5\n", b, "unigrams: 1 distinct characters"),
            (u, "c,d,n\n", "bigrams: nothing follows 'a'"),
            (u, "c,d,n\n97,98,2\n", "bigrams: nothing follows 'b'"),
            (u, "c,d,n\n97,98,2\n98,97,1\n98,98,3\n", "bigrams: 'b' occurs 3 times, in 4 pairs"),
            (u, "c,d,n\n97,98,2\n98,97,2\n98,98,1\n", "bigrams: 0 characters end the text"),
        ] {
            let message = Corpus::from_counts(unigrams, bigrams).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
