//! The studies that have names: figures of the papers that take several runs, and seeds.
//!
//! Nichani, Damian, Lee 2024; numbers of figures are the paper's, parameters those of its public code. Those of Bietti et al. 2023 are in
//! `birth_studies`.
//!
//! Past 400 lines: the studies are one list, with the words that a page says of each.

use super::experiment::{Experiment, keys_of};
use super::study::{Axis, Drawing, Member, Study, slug};
use super::{birth_studies, preset};
use crate::config::{self, Key};
use crate::{Error, Result};
use toml::{Table, Value};

/// A study with a name.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// A line for `--help`.
    pub what: &'static str,
    /// What the paper shows.
    pub shows: &'static str,
    /// What to expect here.
    pub expect: &'static str,
    /// Does `popgrad figures` make it unasked?
    pub in_paper: bool,
    pub(super) drawing: Drawing,
    /// Does every run draw, too?
    pub(super) figures: bool,
    pub(super) drafts: fn(&Form) -> Vec<Draft>,
}

/// In which form a study is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) quick: bool,
    /// Repetitions.
    pub(super) seeds: Option<u64>,
}

/// A run before it is resolved.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    name: String,
    /// Of runs that repeat each other; none: it is its own.
    group: Option<String>,
    base: &'static str,
    keys: Table,
    /// Added to the study's seed.
    seed: u64,
}

impl Draft {
    pub(super) fn new(name: &str, base: &'static str) -> Self {
        Draft { name: name.into(), group: None, base, keys: Table::new(), seed: 0 }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.into(), value.into());
        self
    }

    pub(super) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A repetition, named by its group and its seed.
    pub(super) fn in_group(mut self, group: &str) -> Self {
        self.group = Some(group.into());
        self
    }
}

/// Every study that has a name.
pub const NAMED: [Named; 11] = [
    Named {
        name: "causal-fig2",
        what: "Figure 2: chain and random tree; loss, A1, A2, W",
        shows: "The loss of the two-layer disentangled transformer leaves a plateau while the position block of A1 turns into \
                the parents of the latent graph; A2 becomes an induction head (token against copied token), W reads out the \
                token that it finds.",
        expect: "For both graphs the pattern of layer 1 is the true graph, row by row; A2 has a diagonal where the query's token \
                 meets the first layer's copy, W one at the second layer's token. The loss ends .05 above the counts predictor.",
        in_paper: true,
        drawing: Drawing::Matrices,
        figures: true,
        drafts: |_| vec![Draft::new("chain", "chain"), Draft::new("random", "random")],
    },
    Named {
        name: "causal-fig5",
        what: "Figure 5: two parents, (i-1)/2 and i-1, heads 2,1; which head learned which parent",
        shows: "With two parents for each token, the two heads of the first layer share them out: one attends to the token before, \
                the other to the token half-way back.",
        expect: "Each head has one parent at nearly every position; the test loss lies below that of the best predictor with one \
                 parent and nears that of the counts of both.",
        in_paper: true,
        drawing: Drawing::Heads,
        figures: true,
        drafts: |_| vec![Draft::new("two-parents", "two-parents")],
    },
    Named {
        name: "causal-fig6",
        what: "Figure 6: icl and other graphs; loss and attention of layer 1",
        shows: "Other latent graphs, in-context pairs among them, appear in the first layer in the same way.",
        expect: "Every pattern is its graph. Roots have no parent to attend to: their rows may look like anything.",
        in_paper: true,
        drawing: Drawing::Patterns,
        figures: true,
        drafts: |_| {
            vec![
                Draft::new("icl", "icl"),
                Draft::new("manual", "manual"),
                Draft::new("random-1", "random").seed(1),
                Draft::new("random-2", "random").seed(2),
            ]
        },
    },
    Named {
        name: "causal-fig7",
        what: "Figure 7: 3-gram, parents i-2 and i-1, heads 2,1; which head learned which parent",
        shows: "In-context n-grams: each head of the first layer copies one of the preceding tokens.",
        expect: "One head has the token before, the other the one before that; loss as in Figure 5.",
        in_paper: true,
        drawing: Drawing::Heads,
        figures: true,
        drafts: |_| vec![Draft::new("3-gram", "two-parents").with("graph", "ngram").with("order", 2)],
    },
    Named {
        name: "causal-fig8",
        what: "Figure 8: transformer with MLP on the chain; average attention of layer 1",
        shows: "A transformer with embeddings and an MLP after attention, trained with AdamW over 2^12 steps, attends to the parents \
                in its first layer as the attention-only model does. Its attention depends on the tokens: shown is the average.",
        expect: "The sub-diagonal of the chain in the average pattern. More of its matrices: figures of the run's own folder.",
        in_paper: true,
        drawing: Drawing::Patterns,
        figures: true,
        drafts: |_| vec![Draft::new("mlp-transformer", "causal-fig8")],
    },
    Named {
        name: "causal-fig9",
        what: "Figure 9: random graphs; attention on the parent by position over 20 of them (seeds=K)",
        shows: "Attention on the parent, softmax of the position block of A1, at each position over 20 random graphs (S=3, T=20, \
                learning rate 1 throughout, 2^14 steps). The public notebook: mean .837, standard deviation over graphs .054.",
        expect: "Attention falls with the position. The overall mean and its spread over graphs are in the summary.",
        in_paper: true,
        drawing: Drawing::Positions,
        figures: false,
        drafts: |form| {
            let count = form.seeds.unwrap_or(if form.quick { 6 } else { 20 });
            let draft = |i| {
                let d = Draft::new(&format!("graph-{i}"), "many").seed(i);
                if form.quick { d.with("T", 10).with("batch", 512) } else { d }
            };
            (0..count).map(draft).collect()
        },
    },
    Named {
        name: "causal-seeds",
        what: "Chain and icl over seeds; 2^14 and 2^15 steps, 5 seeds each: loss and attention, mean and spread (seeds=K)",
        shows: "Not in the paper: how much of a run is chance. The public code's chain run over 2^15 steps: a plateau at 2.2455 to \
                2.246 until about step 2,500, 1.94 at step 4,096, 1.8135 at step 13,312 with attention .69 on the parent.",
        expect: "The steps at which the plateau ends differ little between seeds; the final losses by their test sets.",
        in_paper: false,
        drawing: Drawing::Seeds,
        figures: false,
        drafts: |form| {
            let count = form.seeds.unwrap_or(if form.quick { 3 } else { 5 });
            let horizons: &[u32] = if form.quick { &[9, 10] } else { &[14, 15] };
            let mut drafts = Vec::new();
            for base in ["chain", "icl"] {
                for horizon in horizons {
                    for seed in 0..count {
                        // Named by what it is resolved to: steps and seed may be given.
                        drafts.push(Draft::new(base, base).seed(seed).with("steps", 1i64 << horizon));
                    }
                }
            }
            drafts
        },
    },
    birth_studies::FIG2,
    birth_studies::FIG3,
    birth_studies::FIG4,
    birth_studies::DEPTH,
];

/// Keys of size, which drafts set and whoever asks may set again: nothing names its runs by them.
const SIZES: [&str; 3] = ["steps", "T", "batch"];

/// Keys that every run of a study on trigger bigrams has its own of: what its drafts set, and what another model or more frozen
/// blocks would take from them.
fn own_keys(drafts: &[Draft]) -> Vec<&str> {
    let mut keys: Vec<&str> = drafts.iter().flat_map(|d| d.keys.keys()).map(String::as_str).collect();
    for (key, undone_by) in [
        ("layers", "model"),
        ("ff2", "model"),
        ("freeze_until", "model"),
        ("freeze_until", "frozen"),
        ("triggers", "offset"),
    ] {
        if keys.contains(&key) {
            keys.push(undone_by);
        }
    }
    keys.retain(|k| !SIZES.contains(k));
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Keys that say what the graph is.
const GRAPH_KEYS: [&str; 5] = ["task", "graph", "order", "parents", "parent_sets"];

/// The study called `name`.
pub fn find(name: &str) -> Option<&'static Named> {
    NAMED.iter().find(|s| s.name == name)
}

/// The study called `name` in full, or in its short form if `quick`, with `layers` over every run's keys. A `seed` in them is
/// added to that of each run; `seeds` sets how many repetitions there are.
///
/// # Errors
/// An unknown name, values out of range, `seeds` where nothing is repeated, another graph.
pub fn named(name: &str, quick: bool, seeds: Option<u64>, layers: &[Table]) -> Result<Study> {
    let of = find(name).ok_or_else(|| Error::unknown("study", name, NAMED.iter().map(|s| s.name)))?;
    if let Some(k) = seeds {
        check_seeds(k)?;
        let repeats = [
            Drawing::Positions,
            Drawing::Seeds,
            Drawing::BirthRecall,
            Drawing::BirthLosses,
            Drawing::BirthDepth,
        ];
        if !repeats.contains(&of.drawing) {
            let allowed =
                "for presets of one run, causal-fig9, causal-seeds, birth-fig3, birth-fig4, birth-depth";
            return Err(Error::invalid("seeds", k.to_string(), allowed));
        }
    }
    // Titles, captions and names of the runs speak of the study's graphs.
    if let Some(key) = GRAPH_KEYS.into_iter().find(|k| layers.iter().any(|l| l.contains_key(*k))) {
        let allowed = format!("not with {name}, whose graphs are its own; presets of one run take it");
        return Err(Error::invalid(key, "given", allowed));
    }
    let drafts = (of.drafts)(&Form { quick, seeds });
    if of.drawing.is_birth() {
        // Groups are named by them.
        let own = own_keys(&drafts);
        // What every run has anyhow may be said.
        let differs = |k: &str, v: &Value| drafts.iter().any(|d| d.keys.get(k) != Some(v));
        if let Some(key) =
            own.iter().find(|k| layers.iter().any(|l| l.get(**k).is_some_and(|v| differs(k, v))))
        {
            let own = own.join(", ");
            let allowed =
                format!("not with {name}, whose runs have their own {own}; presets of one run take it");
            return Err(Error::invalid(*key, "given", allowed));
        }
    }
    let mut runs: Vec<Member> = Vec::new();
    for draft in drafts {
        let config = resolve(draft.base, quick, &draft.keys, layers, draft.seed)?;
        // A key given for all runs may make two the same.
        if runs.iter().any(|m| m.config == config) {
            continue;
        }
        let (name, group) = match (of.drawing, draft.group) {
            (Drawing::Seeds, _) => {
                let name = format!("{}-{}-seed-{}", draft.name, horizon(&config), config.seed());
                (slug(&name), group(&config))
            }
            (Drawing::Positions, _) => (draft.name, String::new()),
            (_, Some(group)) => (slug(&format!("{group}-seed-{}", config.seed())), group),
            (_, None) => (draft.name.clone(), draft.name),
        };
        runs.push(Member { name, group, config });
    }
    let title = of.what.split(';').next().unwrap_or_default().split(" (seeds").next().unwrap_or_default();
    Ok(Study {
        name: name.into(),
        title: title.into(),
        drawing: of.drawing,
        figures: of.figures,
        axes: Vec::new(),
        runs,
    })
}

/// `count` runs of a preset that differ in their seeds.
///
/// # Errors
/// As [`named`]; `algorithm1`.
pub fn seeds(base: &str, quick: bool, count: u64, layers: &[Table]) -> Result<Study> {
    check_seeds(count)?;
    check_base(base)?;
    let run = |i: u64| {
        let config = resolve(base, quick, &Table::new(), layers, i)?;
        Ok(Member { name: format!("seed-{}", config.seed()), group: group(&config), config })
    };
    Ok(Study {
        name: format!("{base}-seeds"),
        title: format!("{base}, {count} seeds"),
        drawing: if is_birth(base)? { Drawing::BirthRecall } else { Drawing::Seeds },
        figures: false,
        axes: Vec::new(),
        runs: (0..count).map(run).collect::<Result<_>>()?,
    })
}

/// A grid over `axes` of short runs of `layers` over preset `base`, `seeds` in each cell.
///
/// # Errors
/// No axis or more than two, too many runs, `algorithm1`, values out of range.
pub fn grid(base: &str, quick: bool, axes: Vec<Axis>, seeds: u64, layers: &[Table]) -> Result<Study> {
    check_seeds(seeds)?;
    check_grid_base(base)?;
    if !(1..=2).contains(&axes.len()) {
        let found = axes.iter().map(|a| a.key.as_str()).collect::<Vec<_>>().join(", ");
        let found = if found.is_empty() { "none".into() } else { found };
        return Err(Error::invalid("grid", found, "one key or two with several values, key=a,b,.."));
    }
    let cells = axes.iter().try_fold(1u64, |n, a| n.checked_mul(a.values.len() as u64));
    let count = cells.and_then(|n| n.checked_mul(seeds));
    if count.is_none_or(|n| n > super::study::MOST_RUNS as u64) {
        let found = count.map_or("more than 2^64 runs".into(), |n| format!("{n} runs"));
        return Err(Error::invalid("grid", found, format!("at most {} runs", super::study::MOST_RUNS)));
    }
    let mut runs = Vec::new();
    for cell in 0..cells.unwrap_or(0) as usize {
        let mut keys = Table::new();
        let mut rest = cell;
        for axis in axes.iter().rev() {
            keys.insert(axis.key.clone(), axis.values[rest % axis.values.len()].clone());
            rest /= axis.values.len();
        }
        let text = |a: &Axis| format!("{}={}", a.key, value_text(&keys[&a.key]));
        let place = axes.iter().map(text).collect::<Vec<_>>().join(" ");
        for i in 0..seeds {
            let mut layers = layers.to_vec();
            layers.push(keys.clone());
            let config = resolve(base, quick, &Table::new(), &layers, i)?;
            let name = slug(&format!("{place} seed={}", config.seed()));
            runs.push(Member { name, group: place.clone(), config });
        }
    }
    let keys: Vec<&str> = axes.iter().map(|a| a.key.as_str()).collect();
    Ok(Study {
        name: format!("{base}-sweep"),
        title: format!("{base}: recovery against {}, {seeds} runs in each cell", keys.join(" and ")),
        drawing: Drawing::Grid,
        figures: false,
        axes,
        runs,
    })
}

/// A value of a grid as a text.
pub(super) fn value_text(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn check_seeds(count: u64) -> Result<()> {
    if (1..=1000).contains(&count) {
        return Ok(());
    }
    Err(Error::invalid("seeds", count.to_string(), "1 to 1000"))
}

/// Algorithm 1 keeps other logs: nothing that a study gathers is in them.
pub(super) fn no_staged_runs() -> Error {
    Error::invalid("preset", "algorithm1", "for several runs (seeds=K, sweep) any other preset of one run")
}

/// Refuses presets that no grid is made of.
///
/// # Errors
/// `algorithm1`, presets of the memory-viewpoint paper, unknown ones.
pub fn check_grid_base(base: &str) -> Result<()> {
    check_base(base)?;
    if is_birth(base)? {
        // A grid is about recovering a graph.
        return Err(Error::invalid("preset", base, "one of the causal-structure paper"));
    }
    Ok(())
}

fn check_base(base: &str) -> Result<()> {
    if base == "algorithm1" { Err(no_staged_runs()) } else { Ok(()) }
}

/// Runs of one preset and one horizon repeat each other.
fn group(config: &Experiment) -> String {
    format!("{}, {} steps", config.preset(), horizon(config))
}

/// Updates as a text.
fn horizon(config: &Experiment) -> String {
    match config.steps() {
        n if n.is_power_of_two() && n > 8 => format!("2^{}", n.ilog2()),
        n => n.to_string(),
    }
}

fn resolve(base: &str, quick: bool, keys: &Table, layers: &[Table], seed: u64) -> Result<Experiment> {
    let mut tables = vec![preset(base, quick)?, keys.clone()];
    tables.extend_from_slice(layers);
    let mut config = Experiment::resolve(&tables)?;
    config.add_to_seed(seed)?;
    Ok(config)
}

fn is_birth(base: &str) -> Result<bool> {
    Ok(config::birth::is_of(&preset(base, true)?))
}

/// The keys that preset or study `name` takes.
///
/// # Errors
/// An unknown preset.
pub fn keys(name: &str) -> Result<&'static [Key]> {
    match find(name).filter(|_| super::PRESETS.iter().all(|p| p.0 != name)) {
        Some(study) if study.drawing.is_birth() => Ok(&config::birth::KEYS),
        Some(_) => Ok(&config::KEYS),
        None => Ok(keys_of(&[preset(name, true)?])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, word: &str) -> Result<Study> {
        let layer = config::parse_overrides_of(&[word.to_string()], keys(name)?)?;
        named(name, true, None, &[layer])
    }

    #[test]
    fn keys_that_a_study_varies_are_its_own() {
        for (name, own, free) in [
            (
                "birth-fig2",
                &["triggers=fixed", "offset=3"][..],
                &["K=3", "steps=8", "T=32", "loss=all", "outputs=bigram", "model=transformer"][..],
            ),
            (
                "birth-fig3",
                &["freeze_until=9:wk0", "frozen=wk0", "model=transformer"],
                &["K=3", "steps=8", "triggers=random", "ff2=linear", "offset=3", "batch=8"],
            ),
            (
                "birth-fig4",
                &[
                    "K=3",
                    "triggers=random",
                    "outputs=bigram",
                    "test_outputs=uniform",
                    "loss=head",
                    "ff2=relu",
                    "model=transformer",
                    "offset=1",
                ],
                &["steps=8", "T=32", "freeze_until=3:wk0", "no_repeat=true", "lr=1", "seed=3"],
            ),
            (
                "birth-depth",
                &["layers=1", "model=memory"],
                &["K=3", "heads=2", "loss=head", "triggers=fixed"],
            ),
        ] {
            let all = with(name, "seed=0").unwrap();
            for word in own {
                let message = with(name, word).unwrap_err().to_string();
                let key = word.split('=').next().unwrap();
                let begins = format!("{key}: given; allowed: not with {name}, whose runs have their own ");
                assert!(message.starts_with(&begins), "{message}");
            }
            for word in free {
                let study = with(name, word).unwrap();
                let names = |s: &Study| s.runs.iter().map(|m| m.group.clone()).collect::<Vec<_>>();
                assert_eq!(names(&study), names(&all), "{name} {word}");
            }
        }
    }
}
