//! Directed graphs in which a position may have several parents (paper 1, arXiv 2402.14735;
//! `InContextDAG` in its code).

use super::Forest;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// The names [`Dag::named`] knows.
pub const DAG_NAMES: [&str; 3] = ["two_parents", "ngram", "random_parents"];

/// Ordered parent tuples of the positions 0..T-1 and, as entry T, of the target: the tokens that
/// the target symbol is drawn from. Every parent comes before its child and none is named twice; a
/// root has none, the target has at least one.
///
/// Unlike in a [`Forest`], the last position is a token like the others: its parents draw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dag {
    /// Entry i is `list[ends[i - 1]..ends[i]]`.
    ends: Vec<usize>,
    list: Vec<usize>,
}

impl Dag {
    /// Longest sequence.
    pub const MAX_LEN: usize = Forest::MAX_LEN;

    /// A graph from its T + 1 parent tuples, the target's last.
    ///
    /// # Errors
    /// Fewer than 3 or more than [`MAX_LEN`](Self::MAX_LEN) + 1 entries, a parent that is not an
    /// earlier position, a parent named twice, a target without parents. The field is
    /// `parent_sets`.
    pub fn from_sets<P: AsRef<[usize]>>(sets: &[P]) -> Result<Self> {
        let refused = |problem: String, allowed: String| Err(Error::invalid("parent_sets", problem, allowed));
        if !(3..=Self::MAX_LEN + 1).contains(&sets.len()) {
            let allowed = format!("T + 1 entries, the target's last, 2 <= T <= {}", Self::MAX_LEN);
            return refused(format!("{} entries", sets.len()), allowed);
        }
        let (mut ends, mut list) = (Vec::with_capacity(sets.len()), Vec::new());
        for (i, set) in sets.iter().map(AsRef::as_ref).enumerate() {
            for (k, &p) in set.iter().enumerate() {
                if p >= i {
                    let allowed = match i {
                        0 => "- at entry 0: nothing comes before it".to_string(),
                        _ => format!("- (root) or earlier positions, 0 to {}, at entry {i}", i - 1),
                    };
                    return refused(format!("entry {i} names {p}"), allowed);
                }
                if set[..k].contains(&p) {
                    return refused(format!("entry {i} names {p} twice"), "distinct parents".into());
                }
            }
            list.extend_from_slice(set);
            ends.push(list.len());
        }
        if sets[sets.len() - 1].as_ref().is_empty() {
            return refused("no parents for the target (the last entry)".into(), "at least one".into());
        }
        Ok(Dag { ends, list })
    }

    /// A graph from its text: entries joined by `;`, parents by `,`, a root written `-`.
    /// `-;0;0,1;1,2` has T = 3.
    ///
    /// # Errors
    /// An entry that is neither `-` nor a list of positions; as [`from_sets`](Self::from_sets).
    pub fn parse(text: &str) -> Result<Self> {
        let entry = |(i, entry): (usize, &str)| -> Result<Vec<usize>> {
            if entry.trim() == "-" {
                return Ok(Vec::new());
            }
            let parent = |word: &str| {
                word.trim().parse::<usize>().map_err(|_| {
                    let found = format!("entry {i} is `{}`", entry.trim());
                    Error::invalid(
                        "parent_sets",
                        found,
                        "entries joined by `;`: positions joined by `,`, or -",
                    )
                })
            };
            entry.split(',').map(parent).collect()
        };
        Self::from_sets(&text.split(';').enumerate().map(entry).collect::<Result<Vec<_>>>()?)
    }

    /// The public notebook's rule ((i-1)/2 rounded down, i-1) for i = 0..T, the target's entry
    /// included.
    ///
    /// At i = 0 the rule names no position: a root. At i = 1 it names position 0 twice, and a
    /// parent named twice is one: position 1 follows position 0 alone.
    ///
    /// # Errors
    /// When `t` (T) is below 2 or above [`MAX_LEN`](Self::MAX_LEN).
    pub fn two_parents(t: usize) -> Result<Self> {
        Self::build(t, |i| match i {
            0 => vec![],
            1 => vec![0],
            _ => vec![(i - 1) / 2, i - 1],
        })
    }

    /// The parents i-k..i-1 in this order, k = `order`. The first k positions have fewer: all that
    /// come before them.
    ///
    /// # Errors
    /// As [`two_parents`](Self::two_parents); when k is not in 1..=T.
    pub fn ngram(t: usize, order: usize) -> Result<Self> {
        check_len(t)?;
        if !(1..=t).contains(&order) {
            return Err(Error::invalid("order", order.to_string(), format!("1 to T = {t}")));
        }
        Self::build(t, |i| (i.saturating_sub(order)..i).collect())
    }

    /// `k` distinct earlier positions, uniform among all sets of them and in ascending order, for
    /// every entry i >= k, the target's included; the first k positions are roots. `index` numbers
    /// the graphs of one key. At k = 2 the law of the public notebook's other graph.
    ///
    /// # Errors
    /// As [`two_parents`](Self::two_parents); when k is not in 1..=T.
    pub fn random_parents(t: usize, k: usize, key: &Key, index: u64) -> Result<Self> {
        check_len(t)?;
        if !(1..=t).contains(&k) {
            return Err(Error::invalid("k", k.to_string(), format!("1 to T = {t}")));
        }
        Self::build(t, |i| {
            if i < k {
                return Vec::new();
            }
            // Floyd's sample: uniform over the sets, by k draws.
            let mut set: Vec<usize> = Vec::with_capacity(k);
            for last in i - k..i {
                let variate = (i * Self::MAX_LEN + last + k - i) as u32;
                let draw = key.below(last as u64 + 1, index, variate, 0) as usize;
                set.push(if set.contains(&draw) { last } else { draw });
            }
            set.sort_unstable();
            set
        })
    }

    /// A graph by name, see [`DAG_NAMES`]. `count` is the number of parents: `ngram` needs it,
    /// `random_parents` has 2 without it, `two_parents` has its own. `seed` matters for the random
    /// ones (graph 0 of purpose `Graph`).
    ///
    /// # Errors
    /// An unknown name, a bad `t`, a count missing or out of place.
    pub fn named(name: &str, t: usize, count: Option<usize>, seed: u64) -> Result<Self> {
        match (name, count) {
            ("two_parents", None) => Self::two_parents(t),
            ("ngram", Some(k)) => Self::ngram(t, k),
            ("random_parents", k) => {
                Self::random_parents(t, k.unwrap_or(2), &Key::new(seed, Purpose::Graph), 0)
            }
            ("ngram", None) => {
                Err(Error::invalid("order", "missing", "parents per position of graph `ngram`"))
            }
            ("two_parents", Some(k)) => Err(Error::invalid("order", k.to_string(), "graph=ngram only")),
            _ => Err(Error::unknown("graph", name, DAG_NAMES)),
        }
    }

    fn build(t: usize, parents: impl FnMut(usize) -> Vec<usize>) -> Result<Self> {
        check_len(t)?;
        Self::from_sets(&(0..=t).map(parents).collect::<Vec<_>>())
    }

    /// Sequence length T.
    pub fn seq_len(&self) -> usize {
        self.ends.len() - 1
    }

    /// Parents of position `i`, or of the target where `i` is T.
    ///
    /// # Panics
    /// When `i` exceeds T.
    #[inline]
    pub fn parents(&self, i: usize) -> &[usize] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.list[start..self.ends[i]]
    }

    /// Parents of the target.
    pub fn target(&self) -> &[usize] {
        self.parents(self.seq_len())
    }

    /// Most parents that an entry has.
    pub fn max_arity(&self) -> usize {
        (0..=self.seq_len()).map(|i| self.parents(i).len()).max().unwrap_or(0)
    }

    /// The T + 1 parent tuples, as [`from_sets`](Self::from_sets) takes them.
    pub fn sets(&self) -> Vec<Vec<usize>> {
        (0..=self.seq_len()).map(|i| self.parents(i).to_vec()).collect()
    }
}

/// The text that [`Dag::parse`] reads.
impl std::fmt::Display for Dag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for i in 0..=self.seq_len() {
            if i > 0 {
                write!(f, ";")?;
            }
            let parents: Vec<String> = self.parents(i).iter().map(usize::to_string).collect();
            write!(f, "{}", if parents.is_empty() { "-".to_string() } else { parents.join(",") })?;
        }
        Ok(())
    }
}

/// Reads bytes as the text of a graph; never panics, and what is read keeps every promise of
/// [`Dag`]. The body of the fuzz target `parent_sets`, replayed on its corpus by a test.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(dag) = Dag::parse(text) else { return };
    assert_eq!(Dag::parse(&dag.to_string()).ok().as_ref(), Some(&dag), "{text}");
    assert_eq!(Dag::from_sets(&dag.sets()).ok().as_ref(), Some(&dag), "{text}");
    for i in 0..=dag.seq_len() {
        let parents = dag.parents(i);
        assert!(parents.iter().enumerate().all(|(k, p)| *p < i && !parents[..k].contains(p)), "{text}");
    }
    assert!(dag.seq_len() >= 2 && !dag.target().is_empty() && dag.max_arity() <= dag.seq_len(), "{text}");
}

fn check_len(t: usize) -> Result<()> {
    if (2..=Dag::MAX_LEN).contains(&t) {
        return Ok(());
    }
    Err(Error::invalid("T", t.to_string(), format!("2 <= T <= {}", Dag::MAX_LEN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_graphs() {
        let text = |d: Result<Dag>| d.unwrap().to_string();
        assert_eq!(text(Dag::two_parents(5)), "-;0;0,1;1,2;1,3;2,4");
        assert_eq!(text(Dag::ngram(4, 1)), "-;0;1;2;3");
        assert_eq!(text(Dag::ngram(4, 2)), "-;0;0,1;1,2;2,3");
        assert_eq!(text(Dag::ngram(3, 3)), "-;0;0,1;0,1,2");
        assert_eq!(text(Dag::named("ngram", 2, Some(2), 0)), "-;0;0,1");
        let d = Dag::named("two_parents", 32, None, 0).unwrap();
        assert_eq!(
            (d.seq_len(), d.parents(31), d.target(), d.max_arity()),
            (32, &[15, 30][..], &[15, 31][..], 2)
        );
        assert_eq!(Dag::from_sets(&d.sets()).unwrap(), d);
        assert_eq!(Dag::parse(&d.to_string()).unwrap(), d);
        assert_eq!(Dag::parse(" - ; 0 ;1 , 0").unwrap().target(), [1, 0], "the order is kept");
    }

    #[test]
    fn random_parents_have_their_law() {
        let key = Key::new(1, Purpose::Graph);
        let (n, t) = (6000, 5);
        // The ten pairs of five positions are the target's.
        let mut pairs = [0u32; 25];
        for g in 0..n {
            let dag = Dag::random_parents(t, 2, &key, g).unwrap();
            assert!((0..=t).all(|i| dag.parents(i).len() == if i < 2 { 0 } else { 2 }));
            assert!((2..=t).all(|i| dag.parents(i).is_sorted()));
            pairs[dag.target()[0] * 5 + dag.target()[1]] += 1;
        }
        let seen: Vec<f64> = pairs.iter().filter(|c| **c > 0).map(|c| f64::from(*c)).collect();
        let (mean, square) = (n as f64 / 10.0, |c: &f64| (c - n as f64 / 10.0).powi(2));
        // 9 degrees of freedom: P(chi² > 45) = 1e-6.
        assert!(seen.len() == 10 && seen.iter().map(square).sum::<f64>() / mean < 45.0, "{seen:?}");
        for k in 1..=4 {
            let dag = Dag::named("random_parents", 9, Some(k), 3).unwrap();
            assert_eq!((dag.max_arity(), dag.parents(k).len(), dag.parents(k - 1).len()), (k, k, 0));
            assert_eq!(dag.parents(k), (0..k).collect::<Vec<_>>());
            assert_ne!(dag, Dag::named("random_parents", 9, Some(k), 4).unwrap());
        }
        let two = |seed| Dag::named("random_parents", 9, None, seed).unwrap();
        assert_eq!(two(3), Dag::named("random_parents", 9, Some(2), 3).unwrap());
        for k in [0, 5] {
            let message = Dag::named("random_parents", 4, Some(k), 0).unwrap_err().to_string();
            assert_eq!(message, format!("k: {k}; allowed: 1 to T = 4"));
        }
    }

    #[test]
    fn the_fuzz_corpus_and_its_truncations_hold() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/parent_sets");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let data = std::fs::read(entry.unwrap().path()).unwrap();
            (0..=data.len()).for_each(|n| fuzz(&data[..n]));
            count += 1;
        }
        assert!(count >= 4, "the corpus is there");
    }

    #[test]
    fn bad_graphs_are_refused_by_name() {
        for (bad, expected) in [
            (
                "-;0;0,2;1",
                "parent_sets: entry 2 names 2; allowed: - (root) or earlier positions, 0 to 1, at entry 2",
            ),
            ("-;2;1;0", "parent_sets: entry 1 names 2"),
            ("0;0;1", "parent_sets: entry 0 names 0; allowed: - at entry 0"),
            ("-;0;1,0,1", "parent_sets: entry 2 names 1 twice; allowed: distinct parents"),
            ("-;0;-", "parent_sets: no parents for the target (the last entry); allowed: at least one"),
            ("-;0", "parent_sets: 2 entries; allowed: T + 1 entries"),
            ("", "parent_sets: entry 0 is ``"),
            ("-;0;", "parent_sets: entry 2 is ``"),
            ("-;0;0,", "parent_sets: entry 2 is `0,`; allowed: entries joined by `;`"),
            ("-;-1;0", "parent_sets: entry 1 is `-1`"),
            ("-;0;99999999999999999999", "parent_sets: entry 2 is `9999"),
        ] {
            let message = Dag::parse(bad).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{bad}: {message}");
        }
        let message = |d: Result<Dag>| d.unwrap_err().to_string();
        for t in [0, 1, Dag::MAX_LEN + 1, usize::MAX] {
            assert!(message(Dag::two_parents(t)).starts_with("T: "));
            assert!(message(Dag::ngram(t, 1)).starts_with("T: "));
        }
        assert_eq!(message(Dag::ngram(4, 0)), "order: 0; allowed: 1 to T = 4");
        assert_eq!(message(Dag::ngram(4, 5)), "order: 5; allowed: 1 to T = 4");
        assert!(message(Dag::named("ngram", 4, None, 0)).starts_with("order: missing"));
        assert!(message(Dag::named("two_parents", 4, Some(2), 0)).starts_with("order: 2"));
        assert!(message(Dag::named("two_parent", 4, None, 0)).contains("did you mean `two_parents`?"));
    }
}
