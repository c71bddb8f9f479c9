//! What a configuration stands for: task, sources, model, schedule of freezing.
//!
//! Past 400 lines with its tests: names, aliases and refusals are tried one by one.

use super::figures;
use crate::config;
use crate::config::birth::{BOTH, BirthConfig};
use crate::model::sequence::named_blocks;
use crate::model::{
    BlockKind, FeedForward, Memory, MemorySpec, Output, Positions, SequenceModel, Transformer,
    TransformerSpec,
};
use crate::optim::{Hyper, Schedule, Thaw};
use crate::paper::corpus;
use crate::rng::{Key, Purpose};
use crate::source::{LossOn, TriggerSource};
use crate::task::trigger_bigram::{Bigrams, OutputLaw, Outputs, Triggers};
use crate::task::{Corpus, TriggerBigram};
use crate::train::{self, Plan};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::path::Path;
use std::sync::Arc;
use toml::Table;

/// A trigger-bigram task for training, the ones for testing, and what symbols are called.
#[derive(Debug, Clone)]
pub struct Setup {
    /// For training.
    pub task: Arc<TriggerBigram>,
    /// For testing, with the law of its outputs: the first is the one that `acc_end_test` is about.
    pub tests: Vec<(&'static str, Arc<TriggerBigram>)>,
    /// Name of each symbol (N).
    pub symbols: Vec<String>,
    /// Digest of the counts that the laws are made of; none where the seed says it all.
    pub(super) digest: Option<u64>,
    loss: LossOn,
    seed: u64,
}

impl Setup {
    /// Of `config`.
    ///
    /// # Errors
    /// A corpus that cannot be read, triggers that do not fit it.
    pub fn of(config: &BirthConfig) -> Result<Self> {
        let (laws, symbols, digest) = laws(config)?;
        let n = laws.vocab();
        let triggers = match config.triggers.as_str() {
            "random" => Triggers::Random { count: config.K },
            _ => Triggers::Fixed { count: config.K, offset: config.offset.unwrap_or(0) },
        };
        let task = |law: &str, training: bool| -> Result<Arc<TriggerBigram>> {
            let allowed = match config.output_split {
                Some(share) => {
                    let first = (share * n as f64).floor() as usize;
                    (0..n).map(|s| (s < first) == training).collect()
                }
                None => Vec::new(),
            };
            let law = if law == "bigram" { Outputs::Bigram } else { Outputs::Uniform };
            let outputs = OutputLaw { law, no_repeat: config.no_repeat, allowed };
            Ok(Arc::new(TriggerBigram::new(laws.clone(), config.T, triggers, outputs)?))
        };
        let law = |name: &str| if name == "bigram" { "bigram" } else { "uniform" };
        let tested = match config.test_outputs.as_str() {
            BOTH if config.outputs == "bigram" => vec!["bigram", "uniform"],
            BOTH => vec!["uniform", "bigram"],
            one => vec![law(one)],
        };
        let tests = tested.into_iter().map(|l| Ok((l, task(l, false)?))).collect::<Result<_>>()?;
        let loss = if config.loss == "all" { LossOn::All } else { LossOn::Head };
        Ok(Setup { task: task(&config.outputs, true)?, tests, symbols, digest, loss, seed: config.seed })
    }

    /// N.
    pub fn vocab(&self) -> usize {
        self.task.vocab()
    }

    /// Training sequences.
    pub fn train(&self) -> TriggerSource {
        self.source(&self.task, Purpose::Train)
    }

    /// Held-out sequences of each test law.
    pub fn held_out(&self) -> Vec<TriggerSource> {
        self.tests.iter().map(|(_, t)| self.source(t, Purpose::Test)).collect()
    }

    /// Sequences for pictures, of the first test law.
    pub fn samples(&self) -> TriggerSource {
        self.source(&self.tests[0].1, Purpose::Probe)
    }

    fn source(&self, task: &Arc<TriggerBigram>, purpose: Purpose) -> TriggerSource {
        TriggerSource::new(task.clone(), Key::new(self.seed, purpose), self.loss)
    }
}

/// π_u and π_b, the names of the symbols, and a digest of a corpus.
fn laws(config: &BirthConfig) -> Result<(Bigrams, Vec<String>, Option<u64>)> {
    let corpus = match (config.corpus.as_str(), config.N, config.alpha) {
        ("dirichlet", Some(n), Some(alpha)) => {
            let laws = Bigrams::dirichlet(n, alpha, config.seed)?;
            return Ok((laws, (0..n).map(|s| s.to_string()).collect(), None));
        }
        ("shipped", ..) => Corpus::shipped(),
        // The prefix says what the folder is; any folder is read so, but no text.
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
    let names = corpus.symbols().iter().map(|c| name_of(*c)).collect();
    let digest = Some(digest(&corpus));
    Ok((Bigrams::new(corpus.unigram_law(), corpus.bigram_law())?, names, digest))
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

/// The model, and of each of its blocks when it trains.
///
/// # Errors
/// Sizes out of range, names of blocks that it has not.
pub(super) fn model<E: Elem>(
    config: &BirthConfig,
    vocab: usize,
) -> Result<(Box<dyn SequenceModel<E>>, Vec<Thaw>)> {
    // Names are resolved against the blocks there are, so those come first.
    let all = build::<E>(config, vocab, Vec::new())?;
    let mut frozen = Vec::new();
    for name in config.frozen_names() {
        let meant = named_blocks("frozen", name, all.layout())?;
        frozen.extend(meant.iter().map(|b| all.layout().blocks()[*b].name().to_string()));
    }
    let model = build::<E>(config, vocab, frozen)?;
    let mut from: Vec<Option<u64>> = model.trainable().iter().map(|can| can.then_some(0)).collect();
    let mut named: Vec<usize> = Vec::new();
    for (update, name) in config.thaws()? {
        for block in named_blocks("freeze_until", name, model.layout())? {
            let known = model.layout().blocks()[block].name();
            let Some(own) = &mut from[block] else {
                return Err(Error::invalid("freeze_until", known, "blocks that train at all"));
            };
            *own = update;
            if named.contains(&block) {
                return Err(Error::invalid("freeze_until", format!("{known} twice"), "every block once"));
            }
            named.push(block);
        }
    }
    match from.iter().flatten().min() {
        None => return Err(Error::invalid("frozen", "every block", "at least one block to train")),
        Some(first) if *first >= config.steps => {
            let found = format!("every block until update {first} or later");
            let allowed = format!("at least one block to train within steps = {}", config.steps);
            return Err(Error::invalid("freeze_until", found, allowed));
        }
        _ => {}
    }
    let blocks = model.layout().blocks().iter().zip(from);
    let thaws = blocks.map(|(b, from)| Thaw { name: b.name().into(), range: b.range(), from }).collect();
    Ok((model, thaws))
}

/// Reads bytes as a configuration, and resolves the names of blocks in what is small enough to build; never panics. The body of the fuzz
/// target `config`, replayed on its corpus by a test.
#[doc(hidden)]
pub fn fuzz(data: &[u8], base: &Table) {
    for mut config in config::birth::fuzz(data, base) {
        // Sizes have no say in names.
        (config.T, config.dim) = (config.T.min(8), 4 * config.heads.unwrap_or(1));
        if config.layers.unwrap_or(2) > 4 || config.dim > 64 {
            continue;
        }
        if let Ok((model, thaws)) = model::<f32>(&config, 5) {
            assert!(thaws.iter().any(|t| t.from.is_some_and(|from| from < config.steps)));
            assert_eq!(thaws.len(), model.layout().blocks().len());
        }
    }
}

pub(super) fn build<E: Elem>(
    config: &BirthConfig,
    vocab: usize,
    frozen: Vec<String>,
) -> Result<Box<dyn SequenceModel<E>>> {
    let ff = |value: &Option<String>| match value.as_deref() {
        Some("linear") => FeedForward::Linear,
        Some("relu") => FeedForward::Relu,
        _ => FeedForward::None,
    };
    let positions = match config.positions.as_str() {
        "sincos" => Positions::SinCos,
        "rotary" => Positions::Rotary,
        "learned" => Positions::Learned,
        _ => Positions::Random,
    };
    let output = match config.output.as_str() {
        "frozen" => Output::Frozen,
        "tied" => Output::Tied,
        "tied_frozen" => Output::TiedFrozen,
        _ => Output::Free,
    };
    if config.model == "memory" {
        return Ok(Box::new(Memory::<E>::new(&MemorySpec {
            vocab,
            seq_len: config.T,
            dim: config.dim,
            ff: [ff(&config.ff1), ff(&config.ff2)],
            positions,
            output,
            scale_scores: config.scale_scores.unwrap_or(true),
            scale_embeddings: config.scale_embeddings.unwrap_or(false),
            frozen,
        })?));
    }
    Ok(Box::new(Transformer::<E>::new(&TransformerSpec {
        vocab,
        seq_len: config.T,
        dim: config.dim,
        layers: config.layers.unwrap_or(2),
        heads: config.heads.unwrap_or(4),
        block: match config.block.as_deref() {
            Some("standard") => BlockKind::Standard,
            Some("postnorm") => BlockKind::PostNorm,
            _ => BlockKind::Public,
        },
        norm: config.norm.unwrap_or(true),
        ff: ff(&config.ff),
        positions,
        output,
        frozen,
    })?))
}

/// How training goes.
pub(super) fn plan(config: &BirthConfig) -> Result<Plan> {
    Ok(Plan {
        steps: config.steps,
        batch: config.batch,
        shards: config.shards,
        lr: config.lr,
        schedule: Schedule::parse(&config.schedule)?,
        eval_every: config.eval_every,
        checkpoint_every: config.checkpoint_every,
    })
}

/// Numbers of the optimiser; customary ones where the configuration gives none.
pub(super) fn hyper(config: &BirthConfig) -> Hyper {
    let usual = Hyper::default();
    Hyper {
        weight_decay: config.weight_decay,
        momentum: config.momentum.unwrap_or(usual.momentum),
        beta1: config.beta1.unwrap_or(usual.beta1),
        beta2: config.beta2.unwrap_or(usual.beta2),
        eps: config.adam_eps.unwrap_or(usual.eps),
    }
}

/// Sequences among which the sample for pictures is chosen.
pub(super) const SAMPLES: usize = 64;
/// Most bytes of attention on the sample that are kept whole.
const MOST_ATTENTION: usize = 64 << 20;

/// Positions of the sample whose attention is kept, of `t`: all of them, or as many as pictures show where (layers, heads, T, T) would be
/// too much.
pub(super) fn kept([layers, heads]: [usize; 2], t: usize) -> usize {
    let whole = [layers, heads, t, t, size_of::<f64>()].into_iter().try_fold(1usize, usize::checked_mul);
    if whole.is_some_and(|bytes| bytes <= MOST_ATTENTION) { t } else { t.min(figures::SHOWN) }
}

/// Bytes that a run holds while it trains.
///
/// # Errors
/// A configuration that cannot run.
pub fn memory(config: &BirthConfig) -> Result<usize> {
    fn typed<E: Elem>(config: &BirthConfig) -> Result<usize> {
        let setup = Setup::of(config)?;
        let (model, _) = model::<E>(config, setup.vocab())?;
        // Training, and as much again for the metrics. Of a position: 20 bytes of a batch, 12 of its report, 4 of each attention.
        let [layers, heads] = model.attention_shape();
        let per_position = [
            (config.test_size, 32 * setup.tests.len()),
            (config.batch, 12 + 4 * layers * heads),
            (SAMPLES, 20),
        ];
        // As it comes, as an array, and as bytes of a file.
        let kept = kept([layers, heads], config.T);
        let attention = 3 * size_of::<f64>() * layers * heads * kept * kept;
        let training = train::labelled_memory(model.as_ref(), &plan(config)?).and_then(|b| b.checked_mul(2));
        let with = |sum: Option<usize>, (seqs, bytes): (usize, usize)| {
            sum?.checked_add(seqs.checked_mul(config.T)?.checked_mul(bytes)?)
        };
        let all = per_position.into_iter().fold(training, with).and_then(|b| b.checked_add(attention));
        Ok(all.unwrap_or(usize::MAX))
    }
    match config.dtype.as_str() {
        "f64" => typed::<f64>(config),
        _ => typed::<f32>(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper::preset;

    fn with(base: &str, words: &[&str]) -> BirthConfig {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        let small = ["T=8".to_string(), "dim=8".into(), "K=2".into()];
        let layer = |w: &[String]| config::parse_overrides_of(w, &config::birth::KEYS).unwrap();
        config::birth::resolve(&[preset(base, false).unwrap(), layer(&small), layer(&words)]).unwrap()
    }

    /// The first update of each block that trains.
    fn trains(base: &str, words: &[&str]) -> Result<Vec<(String, u64)>> {
        let (_, thaws) = model::<f32>(&with(base, words), 5)?;
        Ok(thaws.into_iter().filter_map(|t| Some((t.name, t.from?))).collect())
    }

    #[test]
    fn every_alias_names_its_block() {
        let own = |i: &str| format!("layers.{i}.weight");
        for (alias, blocks) in [
            ("embeddings", vec!["tok_embeddings.weight".to_string()]),
            ("output", vec!["output.weight".into()]),
            ("wk0", vec![own("0.attention.wk")]),
            ("wk1", vec![own("1.attention.wk")]),
            ("wo1", vec![own("1.attention.wo")]),
            ("ff1", vec![own("1.ff.w1"), own("1.ff.w2")]),
        ] {
            let words = ["frozen=", "ff2=relu", &format!("freeze_until=7:{alias}")];
            let late = trains("birth", &words).unwrap().into_iter().filter(|t| t.1 == 7);
            assert_eq!(late.map(|t| t.0).collect::<Vec<_>>(), blocks, "{alias}");
            let words = ["ff=relu", &format!("frozen={alias}")];
            let left = trains("birth-full", &words).unwrap();
            assert!(left.len() > 5 && left.iter().all(|t| !blocks.contains(&t.0)), "{alias}");
        }
        let linear = trains("birth", &["ff2=linear", "freeze_until=7:ff1"]).unwrap();
        assert!(linear.contains(&(own("1.ff"), 7)), "{linear:?}");
    }

    #[test]
    fn every_word_of_output_and_feed_forward_runs_with_the_preset() {
        for output in ["free", "frozen", "tied", "tied_frozen"] {
            for model in ["memory", "transformer"] {
                let words =
                    [&format!("output={output}"), &format!("model={model}"), "frozen=embeddings,output"];
                let left = trains("birth", &words.map(|w: &str| w)).unwrap();
                assert!(
                    left.iter().all(|t| t.0 != "output.weight" && t.0 != "tok_embeddings.weight"),
                    "{output}"
                );
            }
            let left = trains("birth", &[&format!("output={output}")]).unwrap();
            assert_eq!(left.len(), 3, "{output}: {left:?}");
        }
        for (words, extra) in
            [(["ff1=none", "ff2=linear"], 1), (["ff1=linear", "ff2=relu"], 3), (["ff1=relu", "ff2=none"], 2)]
        {
            assert_eq!(trains("birth", &words).unwrap().len(), 3 + extra, "{words:?}");
        }
        // Only what is there is offered.
        let message = trains("birth", &["output=tied", "freeze_until=9:outptu"]).unwrap_err().to_string();
        assert!(
            message.contains("wk0") && !message.contains("output") && !message.contains("ff1"),
            "{message}"
        );
        assert!(trains("birth", &["output=tied", "freeze_until=9:output"]).is_err());
    }

    #[test]
    fn schedules_that_train_nothing_or_contradict_themselves_are_refused() {
        let refused = |words: &[&str], expected: &str| {
            let message = trains("birth", words).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{words:?}: {message}");
        };
        let all = "freeze_until=8:wk0,wk1,wo1";
        refused(&["steps=8", all], "freeze_until: every block until update 8 or later");
        assert_eq!(trains("birth", &["steps=9", all]).unwrap().len(), 3);
        assert!(trains("birth", &["steps=8", "freeze_until=100:wk0"]).is_ok(), "the others train");
        refused(&["freeze_until=3:wk0/5:layers.0"], "freeze_until: layers.0.attention.wk.weight twice");
        refused(&["freeze_until=3:wk0,wk0"], "freeze_until: layers.0.attention.wk.weight twice");
    }

    #[test]
    fn a_digest_tells_counts_and_symbols_apart() {
        let of = |text: &str| digest(&Corpus::from_text(text).unwrap());
        assert_eq!(of("abbaab"), of("abbaab"));
        let all = [of("abbaab"), of("abbaaba"), of("ababba"), of("acbaab"), of("accaac")];
        assert!((0..5).all(|i| !all[..i].contains(&all[i])), "{all:?}");
    }

    #[test]
    fn attention_is_kept_whole_where_that_is_little() {
        assert_eq!(
            [kept([2, 4], 1024), kept([2, 4], 1025), kept([2, 1], 2048), kept([64, 64], 30)],
            [1024, 40, 2048, 30]
        );
        let (short, long) =
            (with("birth-full", &[]), with("birth-full", &["T=4096", "batch=1", "test_size=1"]));
        assert!(memory(&long).unwrap() > memory(&short).unwrap());
        // Positions weigh what they weigh.
        let more = with("birth-full", &["test_size=513"]);
        assert_eq!(memory(&more).unwrap() - memory(&short).unwrap(), 8 * 32);
    }

    #[test]
    fn names_of_the_fuzz_corpus_resolve_or_are_refused() {
        let base = preset("birth", false).unwrap();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("birth") {
                assert!(!config::birth::fuzz(&data, &base).is_empty(), "{name} resolves");
            }
            (0..=data.len()).for_each(|n| fuzz(&data[..n], &base));
        }
    }
}
