//! What a sum over words needs to know before it meets numbers: which prefixes there are, and which
//! suffixes weigh the same.

use crate::elem::real::Real;
use crate::error::KernelError;
use std::collections::HashMap;

/// Longest word: a count of binary words fits 63 bits.
pub const MAX_LEN: usize = 64;
/// Most words below a prefix.
pub const MAX_SUFFIXES: u64 = 1 << 16;
/// Most prefixes of a plan.
pub const MAX_PREFIXES: u64 = 1 << 24;
/// No such edge.
pub(crate) const NONE: u32 = u32::MAX;
/// Set in an edge through which the weights of its end are computed: the first that led there.
pub(crate) const TREE: u32 = 1 << 31;

/// The words that are summed over, whatever their weights and probabilities.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// S, 2 to 255.
    pub symbols: usize,
    /// Parents of the positions 0 .. T−2.
    pub parents: &'a [Option<usize>],
    /// Do weights depend on the symbols of roots? Only if they are not uniform.
    pub root_counts: bool,
    /// `Some(m)`: only words in which every new symbol is the smallest unused one, the query being
    /// symbol 0 and coming first, with m distinct symbols in query and prefix together; each stands
    /// for all words that a relabelling makes of it.
    pub canonical: Option<usize>,
}

impl Shape<'_> {
    /// T.
    pub fn len(&self) -> usize {
        self.parents.len() + 1
    }

    /// Never: a word has its query.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Symbols that a word can hold: S, or min(S, T) of canonical words.
    pub fn tracked(&self) -> usize {
        if self.canonical.is_some() { self.symbols.min(self.len()) } else { self.symbols }
    }

    /// Positions of a prefix such that the words below it are many enough to pay for it and their
    /// classes few enough to share a cache: measured, AVX-512.
    pub fn natural_prefix_len(&self) -> usize {
        let n = self.parents.len();
        let branch = self.tracked() as f64;
        let mut below = 1;
        if self.canonical.is_some() {
            // Hardly any two suffixes weigh the same: classes should fit the second-level cache.
            while below + 1 < n && branch.powi(below as i32 + 1) <= 512.0 {
                below += 1;
            }
            return n.saturating_sub(below);
        }
        // The longer the suffixes the larger their classes; but a call needs two vectors of
        // prefixes, or two threads idle.
        while below + 1 < n
            && branch.powi(below as i32 + 1) <= 2200.0
            && branch.powi((n - below - 1) as i32) >= 16.0
        {
            below += 1;
        }
        // Long words: a list of prefixes that is not too long either.
        while below + 1 < n
            && branch.powi(below as i32 + 1) <= MAX_SUFFIXES as f64
            && branch.powi((n - below) as i32) > (1 << 19) as f64
        {
            below += 1;
        }
        n.saturating_sub(below)
    }
}

/// Prefixes and classes of suffixes of a [`Shape`].
///
/// Suffixes of one class have the same transitions, counted, and so the same weights below any
/// prefix. They form a graph with a node per class at each level: `next[node][symbol]`.
#[derive(Debug, Clone)]
pub struct Plan {
    symbols: usize,
    tracked: usize,
    parents: Vec<Option<usize>>,
    prefix_len: usize,
    canonical: Option<usize>,
    root_counts: bool,
    /// (count, prefix_len).
    prefixes: Vec<u8>,
    count: usize,
    prefix_class: Vec<u32>,
    /// A prefix of each class.
    prefix_of_class: Vec<usize>,
    next: Vec<u32>,
    first_leaf: u32,
    /// Words of each class of whole suffixes, and the symbols that they use.
    size: Vec<u32>,
    used: Vec<u8>,
    /// (classes, T − 1 − prefix_len): a suffix of each.
    suffix: Vec<u8>,
}

/// Counts by which weights are told apart: of transitions inside the suffix, of children by parent
/// in the prefix, of roots; symbols used; symbols of suffix positions that still matter.
#[derive(Clone)]
struct Key {
    bytes: Vec<u8>,
    tracked: usize,
    prefix_len: usize,
}

impl Key {
    fn used(&mut self) -> &mut u8 {
        let n = self.tracked;
        &mut self.bytes[n * n + self.prefix_len * n + n]
    }
    fn symbol(&mut self, level: usize) -> &mut u8 {
        let n = self.tracked;
        &mut self.bytes[n * n + self.prefix_len * n + n + 1 + level]
    }
}

impl Plan {
    /// The plan of a shape. `prefix_len` positions, below T − 1, make up a prefix, the unit of
    /// work; `largest` bounds the words of a class where it can: see [`Plan::class_limit`].
    ///
    /// # Errors
    /// A shape out of range, too many prefixes or words below one.
    pub fn new(shape: &Shape<'_>, prefix_len: usize, largest: u64) -> Result<Self, KernelError> {
        let op = "prefix_tree";
        let domain = |what, allowed| Err(KernelError::Domain { op, what, allowed });
        let t = shape.len();
        if !(2..=255).contains(&shape.symbols) {
            return domain("symbols", "2 to 255");
        }
        if !(2..=MAX_LEN).contains(&t) {
            return domain("words", "2 to 64 positions");
        }
        if prefix_len >= t - 1 {
            return domain("prefix_len", "below the number of context positions");
        }
        if shape.parents.iter().enumerate().any(|(j, p)| p.is_some_and(|p| p >= j)) {
            return domain("parents", "earlier positions");
        }
        let n = shape.tracked();
        if shape.canonical.is_some_and(|m| m == 0 || m > n.min(prefix_len + 1)) {
            return domain("canonical", "1 to as many symbols as query and prefix can hold");
        }
        let power = |len: usize| (n as u64).saturating_pow(len as u32);
        // A bound for canonical words too, if a loose one.
        let suffixes = match shape.canonical {
            None => power(t - 1 - prefix_len),
            Some(m) => {
                (0..t - 1 - prefix_len).fold(1, |x: u64, l| x.saturating_mul((m + l + 1).min(n) as u64))
            }
        };
        if suffixes > MAX_SUFFIXES {
            return domain("prefix_len", "at most 2^16 words below a prefix");
        }
        let mut plan = Plan {
            symbols: shape.symbols,
            tracked: n,
            parents: shape.parents.to_vec(),
            prefix_len,
            canonical: shape.canonical,
            root_counts: shape.root_counts,
            prefixes: Vec::new(),
            count: 0,
            prefix_class: Vec::new(),
            prefix_of_class: Vec::new(),
            next: Vec::new(),
            first_leaf: 0,
            size: Vec::new(),
            used: Vec::new(),
            suffix: Vec::new(),
        };
        if shape.canonical.is_none() && power(prefix_len) > MAX_PREFIXES || !plan.list_prefixes() {
            return domain("prefixes", "at most 2^24");
        }
        plan.classify_prefixes();
        // Classes that grow too large are told apart by their first symbols too.
        for kept in 0..=plan.levels() {
            plan.classify_suffixes(kept);
            if plan.largest_class() <= largest {
                break;
            }
        }
        Ok(plan)
    }

    /// How many factors f + ε, each between ε and 1 + ε, can be multiplied before their logarithm
    /// is taken; at least 1.
    pub fn class_limit<E: Real>(eps: f64) -> u64 {
        let room = if size_of::<E>() == 4 { 75.0 } else { 600.0 };
        let each = eps.ln().abs().max(eps.ln_1p());
        ((room / each) as u64).max(1)
    }

    fn list_prefixes(&mut self) -> bool {
        let (p, n) = (self.prefix_len, self.tracked);
        let mut word = vec![0u8; p];
        let mut next = vec![0u8; p + 1];
        let mut used = vec![1usize; p + 1];
        let mut l = 0;
        loop {
            let kids = if l == p {
                if self.canonical.is_none_or(|m| m == used[l]) {
                    self.prefixes.extend_from_slice(&word);
                    self.count += 1;
                }
                if self.count as u64 > MAX_PREFIXES {
                    return false;
                }
                0
            } else if let Some(m) = self.canonical {
                // No use in words that can no longer reach m symbols.
                if used[l] + (p - l) < m { 0 } else { (used[l] + 1).min(m) }
            } else {
                n
            };
            if l == p || next[l] as usize >= kids {
                if l == 0 {
                    return true;
                }
                l -= 1;
                continue;
            }
            word[l] = next[l];
            used[l + 1] = used[l].max(next[l] as usize + 1);
            next[l] += 1;
            l += 1;
            next[l] = 0;
        }
    }

    /// The last child of position `q`, if it has one.
    fn last_child(&self, q: usize) -> Option<usize> {
        self.parents.iter().rposition(|p| *p == Some(q))
    }

    fn classify_prefixes(&mut self) {
        let (p, n) = (self.prefix_len, self.tracked);
        let seen: Vec<bool> = (0..p).map(|q| self.last_child(q).is_some_and(|j| j >= p)).collect();
        let mut classes = HashMap::new();
        for at in 0..self.count {
            let word = &self.prefixes[at * p..(at + 1) * p];
            let mut key = vec![0u8; n * n + n + p];
            for (j, &b) in word.iter().enumerate() {
                match self.parents[j] {
                    Some(q) => key[word[q] as usize * n + b as usize] += 1,
                    None if self.root_counts => key[n * n + b as usize] += 1,
                    None => {}
                }
                key[n * n + n + j] = if seen[j] { b } else { u8::MAX };
            }
            let id = classes.len() as u32;
            let class = *classes.entry(key).or_insert_with(|| {
                self.prefix_of_class.push(at);
                id
            });
            self.prefix_class.push(class);
        }
    }

    /// Builds the graph; classes are told apart by their first `kept` symbols too.
    fn classify_suffixes(&mut self, kept: usize) {
        let (p, n, h) = (self.prefix_len, self.tracked, self.levels());
        let mut root = Key { bytes: vec![u8::MAX; n * n + p * n + n + 1 + h], tracked: n, prefix_len: p };
        root.bytes[..n * n + p * n + n].fill(0);
        *root.used() = self.canonical.unwrap_or(n) as u8;
        let mut level = vec![(root, Vec::new(), 1u64)];
        self.next.clear();
        let mut first = 0;
        for l in 0..h {
            let j = p + l;
            let below = first + level.len();
            let mut classes: HashMap<Vec<u8>, usize> = HashMap::new();
            let mut deeper: Vec<(Key, Vec<u8>, u64)> = Vec::new();
            for (mut key, word, size) in level {
                let used = *key.used() as usize;
                let kids = if self.canonical.is_some() { (used + 1).min(n) } else { n };
                for b in 0..n {
                    if b >= kids {
                        self.next.push(NONE);
                        continue;
                    }
                    let mut k = key.clone();
                    match self.parents[j] {
                        Some(q) if q >= p => k.bytes[*key.symbol(q - p) as usize * n + b] += 1,
                        Some(q) => k.bytes[n * n + q * n + b] += 1,
                        None if self.root_counts => k.bytes[n * n + p * n + b] += 1,
                        None => {}
                    }
                    *k.used() = used.max(b + 1) as u8;
                    *k.symbol(l) = b as u8;
                    for q in 0..=l {
                        if q >= kept && self.last_child(p + q).is_none_or(|last| last <= j) {
                            *k.symbol(q) = u8::MAX;
                        }
                    }
                    let id = deeper.len();
                    let mut edge = *classes.entry(k.bytes.clone()).or_insert(id) as u32;
                    if edge as usize == id {
                        let mut word = word.clone();
                        word.push(b as u8);
                        deeper.push((k, word, size));
                        edge |= TREE;
                    } else {
                        deeper[edge as usize].2 += size;
                    }
                    self.next.push(edge + below as u32);
                }
            }
            first = below;
            level = deeper;
        }
        self.first_leaf = first as u32;
        self.size.clear();
        self.used.clear();
        self.suffix.clear();
        for (mut key, word, size) in level {
            self.size.push(size as u32);
            self.used.push(*key.used());
            self.suffix.extend_from_slice(&word);
        }
    }

    /// S.
    pub fn symbols(&self) -> usize {
        self.symbols
    }

    /// Symbols that words hold: S, or min(S, T) of canonical words.
    pub fn tracked(&self) -> usize {
        self.tracked
    }

    /// T.
    pub fn word_len(&self) -> usize {
        self.parents.len() + 1
    }

    /// Parents of the positions 0 .. T−2.
    pub fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    /// Positions of a prefix.
    pub fn prefix_len(&self) -> usize {
        self.prefix_len
    }

    /// Symbols of query and prefix, of a plan of canonical words.
    pub fn canonical(&self) -> Option<usize> {
        self.canonical
    }

    /// Do weights depend on the symbols of roots?
    pub fn root_counts(&self) -> bool {
        self.root_counts
    }

    /// Prefixes.
    pub fn prefixes(&self) -> usize {
        self.count
    }

    /// Symbols of a prefix.
    pub fn prefix(&self, at: usize) -> &[u8] {
        &self.prefixes[at * self.prefix_len..(at + 1) * self.prefix_len]
    }

    /// Classes of prefixes: those of one class have the same weights with any suffix.
    pub fn prefix_classes(&self) -> usize {
        self.prefix_of_class.len()
    }

    /// The class of a prefix.
    pub fn prefix_class(&self, at: usize) -> usize {
        self.prefix_class[at] as usize
    }

    /// A prefix of a class.
    pub fn prefix_of(&self, class: usize) -> &[u8] {
        self.prefix(self.prefix_of_class[class])
    }

    /// Classes of suffixes.
    pub fn suffix_classes(&self) -> usize {
        self.size.len()
    }

    /// A suffix of a class.
    pub fn suffix_of(&self, class: usize) -> &[u8] {
        let h = self.levels();
        &self.suffix[class * h..(class + 1) * h]
    }

    /// Suffixes of a class.
    pub fn suffixes_in(&self, class: usize) -> u64 {
        u64::from(self.size[class])
    }

    /// Distinct symbols of a word of a class, of a plan of canonical words; otherwise S.
    pub fn used_in(&self, class: usize) -> usize {
        self.used[class] as usize
    }

    /// Suffixes of the largest class.
    pub fn largest_class(&self) -> u64 {
        self.size.iter().copied().max().unwrap_or(0).into()
    }

    /// Suffixes.
    pub fn suffixes(&self) -> u64 {
        self.size.iter().map(|x| u64::from(*x)).sum()
    }

    /// Words, of one query.
    pub fn words(&self) -> u64 {
        self.suffixes() * self.count as u64
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.prefixes.capacity()
            + self.suffix.capacity()
            + self.used.capacity()
            + 4 * (self.prefix_class.capacity() + self.next.capacity() + self.size.capacity())
            + size_of::<usize>() * self.prefix_of_class.capacity()
    }

    /// Weights that a table holds for a word.
    pub fn row(&self) -> usize {
        self.tracked + usize::from(self.canonical.is_some())
    }

    /// Positions below the prefix.
    pub(crate) fn levels(&self) -> usize {
        self.parents.len() - self.prefix_len
    }

    /// Edges by node and symbol, the classes of whole suffixes coming last, and the first of these.
    pub(crate) fn graph(&self) -> (&[u32], u32) {
        (&self.next, self.first_leaf)
    }

    /// The class of a suffix.
    pub(crate) fn suffix_class(&self, word: impl Iterator<Item = usize>) -> usize {
        let mut node = 0;
        for b in word {
            node = (self.next[node * self.tracked + b] & !TREE) as usize;
        }
        node - self.first_leaf as usize
    }
}
