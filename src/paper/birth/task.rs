//! The trigger-bigram task of a configuration: laws from a corpus, triggers, outputs, sources.

use super::corpus;
use crate::Error;
use crate::Result;
use crate::config::task::{
    LossOn as Loss, OutputLaw as Law, TestOutputs, TriggerBigram as Keys, TriggerKind,
};
use crate::rng::{Key, Purpose};
use crate::source::{LossOn, TriggerPopulation, TriggerSource};
use crate::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use crate::task::{Corpus, TriggerBigram};
use std::path::Path;
use std::sync::Arc;

/// A trigger-bigram task for training, the ones for testing, and what symbols are called.
#[derive(Debug, Clone)]
pub struct TriggerTasks {
    /// For training.
    pub train: Arc<TriggerBigram>,
    /// For testing, with the law of its outputs: the first is the one that `acc_end_test` is about.
    pub tests: Vec<(&'static str, Arc<TriggerBigram>)>,
    /// Name of each symbol (N).
    pub symbols: Vec<String>,
    /// Digest of the counts behind the laws; `None` if the seed determines the laws.
    pub(super) digest: Option<u64>,
    /// The characters that the symbols are (N); none where symbols are numbers.
    characters: Vec<char>,
    loss: LossOn,
    seed: u64,
}

impl TriggerTasks {
    /// The tasks of these keys under `seed`.
    ///
    /// # Errors
    /// A corpus that cannot be read, triggers that do not fit it.
    pub fn new(keys: &Keys, seed: u64) -> Result<Self> {
        let (laws, characters, digest) = laws(keys, seed)?;
        let symbols = match characters.is_empty() {
            true => (0..laws.vocab()).map(|s| s.to_string()).collect(),
            false => characters.iter().map(|c| name_of(*c)).collect(),
        };
        let n = laws.vocab();
        let triggers = match keys.triggers {
            TriggerKind::Random => Triggers::Random { count: keys.K },
            TriggerKind::Fixed => Triggers::Fixed { count: keys.K, offset: keys.offset.unwrap_or(0) },
        };
        let task = |law: Law, training: bool| -> Result<Arc<TriggerBigram>> {
            let allowed = match keys.output_split {
                Some(share) => {
                    let first = (share * n as f64).floor() as usize;
                    (0..n).map(|s| (s < first) == training).collect()
                }
                None => Vec::new(),
            };
            let law = match law {
                Law::Bigram => Outputs::Bigram,
                Law::Uniform => Outputs::Uniform,
            };
            let outputs = OutputLaw { law, no_repeat: keys.no_repeat, allowed };
            Ok(Arc::new(TriggerBigram::new(laws.clone(), keys.T, triggers, outputs)?))
        };
        let tested = match (keys.test_outputs, keys.outputs) {
            (TestOutputs::Uniform, _) => vec![Law::Uniform],
            (TestOutputs::Bigram, _) => vec![Law::Bigram],
            (TestOutputs::Both, Law::Bigram) => vec![Law::Bigram, Law::Uniform],
            (TestOutputs::Both, Law::Uniform) => vec![Law::Uniform, Law::Bigram],
        };
        let tests = tested.into_iter().map(|l| Ok((l.name(), task(l, false)?))).collect::<Result<_>>()?;
        let loss = match keys.loss {
            Loss::All => LossOn::All,
            Loss::Head => LossOn::Head,
        };
        let train = task(keys.outputs, true)?;
        Ok(TriggerTasks { train, tests, symbols, digest, characters, loss, seed })
    }

    /// The symbols of a text, character by character.
    ///
    /// # Errors
    /// A character that the corpus lacks; symbols that are no characters.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if self.characters.is_empty() {
            let allowed = "tokens: the symbols of corpus=dirichlet are numbers";
            return Err(Error::invalid("text", "characters", allowed));
        }
        let symbol = |(i, c): (usize, char)| {
            let at = self.characters.iter().position(|own| *own == c);
            at.map(|at| at as u32).ok_or_else(|| {
                let all: String = self.characters.iter().map(|c| name_of(*c)).collect();
                Error::invalid(
                    "text",
                    format!("`{}` at {i}", name_of(c)),
                    format!("characters of the corpus: {all}"),
                )
            })
        };
        text.chars().enumerate().map(symbol).collect()
    }

    /// Samples of `task` for `purpose`.
    pub fn sampled(&self, task: &Arc<TriggerBigram>, purpose: Purpose) -> TriggerSource {
        TriggerSource::new(task.clone(), Key::new(self.seed, purpose), self.loss)
    }

    /// The population of the training task.
    ///
    /// # Errors
    /// More words than it holds.
    pub fn population(&self) -> Result<TriggerPopulation> {
        TriggerPopulation::new(&self.train, self.loss)
    }
}

/// π_u and π_b, the characters that the symbols are, and a digest of a corpus; symbols drawn
/// under the seed are no characters.
fn laws(keys: &Keys, seed: u64) -> Result<(Bigrams, Vec<char>, Option<u64>)> {
    let corpus = match (keys.corpus.as_str(), keys.N, keys.alpha) {
        ("dirichlet", Some(n), Some(alpha)) => {
            let laws = Bigrams::dirichlet(n, alpha, seed)?;
            return Ok((laws, Vec::new(), None));
        }
        ("shipped", ..) => Corpus::shipped(),
        // The prefix `counts:` marks a folder of counts; a path without it is a text file.
        (name, ..) => match name.strip_prefix("counts:").map(Path::new) {
            Some(folder) => {
                let [unigrams, bigrams] = corpus::COUNT_FILES.map(|file| folder.join(file));
                if folder.is_file() {
                    return Err(Error::format(
                        folder,
                        format!("a file; expected a folder with {}", of_counts()),
                    ));
                }
                corpus::read_counts(&unigrams, &bigrams)?
            }
            None => corpus::read(Path::new(name))?,
        },
    };
    let digest = Some(digest(&corpus));
    Ok((Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?, corpus.symbols().to_vec(), digest))
}

fn of_counts() -> String {
    corpus::COUNT_FILES.join(" and ")
}

/// 64-bit FNV-1a of the symbols and the counts, as little-endian words.
fn digest(corpus: &Corpus) -> u64 {
    let symbols = corpus.symbols().iter().map(|c| u64::from(u32::from(*c)));
    let counts = corpus.unigrams().iter().chain(corpus.bigrams()).copied();
    let bytes = symbols.chain(counts).flat_map(u64::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// A character that can be seen.
fn name_of(c: char) -> String {
    match c {
        ' ' => "␣".into(),
        '\n' => "↵".into(),
        '\t' => "⇥".into(),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_counts_and_symbols_apart() {
        let of = |text: &str| digest(&Corpus::from_text(text).unwrap());
        assert_eq!(of("abbaab"), of("abbaab"));
        let all = [of("abbaab"), of("abbaaba"), of("ababba"), of("acbaab"), of("accaac")];
        assert!((0..5).all(|i| !all[..i].contains(&all[i])), "{all:?}");
    }
}
