//! Typed configuration of the tasks.

use serde::{Deserialize, Serialize};

/// Names of the tasks.
pub const TASKS: &[&str] = &["causal_tree", "causal_dag", "trigger_bigram"];

/// A task and its keys; the key `task` names the variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// In-context Markov chains over a forest: one parent each.
    CausalTree(CausalTree),
    /// The same over a graph with several parents.
    CausalDag(CausalDag),
    /// Bigram sequences with in-context triggers.
    TriggerBigram(TriggerBigram),
}

impl Task {
    /// Its name, one of [`TASKS`].
    pub fn name(&self) -> &'static str {
        match self {
            Task::CausalTree(_) => "causal_tree",
            Task::CausalDag(_) => "causal_dag",
            Task::TriggerBigram(_) => "trigger_bigram",
        }
    }

    /// Labels of training sequences; those of trigger bigrams are symbols of the sequence.
    pub fn labels(&self) -> Option<Labels> {
        match self {
            Task::CausalTree(t) => Some(t.labels),
            Task::CausalDag(t) => Some(t.labels),
            Task::TriggerBigram(_) => None,
        }
    }

    /// Tokens per sequence (T).
    pub fn seq_len(&self) -> usize {
        match self {
            Task::CausalTree(t) => t.T,
            Task::CausalDag(t) => t.T,
            Task::TriggerBigram(t) => t.T,
        }
    }
}

/// Latent graphs by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Graph {
    Chain,
    Icl,
    Random,
    ManyGraphs,
    Manual,
    TwoParents,
    Ngram,
    RandomParents,
    Custom,
}

impl Graph {
    /// The named ones in which positions may have several parents.
    pub const DAGS: [Graph; 3] = [Graph::TwoParents, Graph::Ngram, Graph::RandomParents];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Graph::Chain => "chain",
            Graph::Icl => "icl",
            Graph::Random => "random",
            Graph::ManyGraphs => "many_graphs",
            Graph::Manual => "manual",
            Graph::TwoParents => "two_parents",
            Graph::Ngram => "ngram",
            Graph::RandomParents => "random_parents",
            Graph::Custom => "custom",
        }
    }

    /// True if positions may have several parents.
    pub fn is_dag(self) -> bool {
        Graph::DAGS.contains(&self)
    }
}

/// Law of the roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roots {
    /// The stationary law of π.
    Stationary,
    /// Uniform.
    Uniform,
    /// One draw of a Dirichlet law, shared by all roots of a sequence.
    Shared,
}

impl Roots {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Roots::Stationary => "stationary",
            Roots::Uniform => "uniform",
            Roots::Shared => "shared",
        }
    }
}

/// What a training sequence of a causal task is labelled with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// The law of the next symbol.
    #[default]
    Soft,
    /// One symbol drawn from that law.
    Symbol,
}

impl Labels {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Labels::Soft => "soft",
            Labels::Symbol => "symbol",
        }
    }
}

/// Prior of the rows of π.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowPrior {
    /// Dirichlet(α).
    #[default]
    Dirichlet,
    /// γ/S + (1 − γ) Dirichlet(α): no entry below γ/S.
    Floored,
}

/// True for what a key is without being given, so that files need not hold it.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Keys of `causal_tree`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(non_snake_case)]
pub struct CausalTree {
    /// Latent graph.
    pub graph: Graph,
    /// Parent list of a custom graph, -1 for a root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<i64>,
    /// Alphabet size.
    pub S: usize,
    /// Sequence length, query included.
    pub T: usize,
    /// Prior of the rows of π.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prior: RowPrior,
    /// Dirichlet parameter of the rows of π.
    pub alpha: f64,
    /// γ of a floored prior.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Law of the roots.
    pub roots: Roots,
    /// Labels of training sequences.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
}

/// Keys of `causal_dag`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(non_snake_case)]
pub struct CausalDag {
    /// Latent graph.
    pub graph: Graph,
    /// Parents of a position in an n-gram graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<usize>,
    /// Parents of a position in a random graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// Parent tuples of a custom graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_sets: Option<String>,
    /// Alphabet size.
    pub S: usize,
    /// Sequence length.
    pub T: usize,
    /// Dirichlet parameter of the rows of the transition tensors.
    pub alpha: f64,
    /// Law of the roots.
    pub roots: Roots,
    /// Labels of training sequences.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
}

/// Fixed or random triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    /// The most frequent symbols.
    Fixed,
    /// Drawn for each sequence.
    Random,
}

/// Law of what follows a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputLaw {
    /// Uniform.
    Uniform,
    /// The bigrams.
    Bigram,
}

impl OutputLaw {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            OutputLaw::Uniform => "uniform",
            OutputLaw::Bigram => "bigram",
        }
    }
}

/// Laws of the outputs on test sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestOutputs {
    /// Uniform.
    Uniform,
    /// The bigrams.
    Bigram,
    /// Two test sets, that of training first.
    Both,
}

/// Positions that count in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// A trigger's second occurrence and later ones.
    Head,
    /// All.
    All,
}

/// Keys of `trigger_bigram`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(non_snake_case)]
pub struct TriggerBigram {
    /// `shipped`, a file, `counts:FOLDER`, or `dirichlet`.
    pub corpus: String,
    /// Alphabet size of random bigrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub N: Option<usize>,
    /// Their Dirichlet parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Inputs of a sequence.
    pub T: usize,
    /// Triggers of a sequence.
    pub K: usize,
    /// Fixed or random.
    pub triggers: TriggerKind,
    /// Frequent symbols that are no fixed triggers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    /// Law of the outputs.
    pub outputs: OutputLaw,
    /// The same on test sets.
    pub test_outputs: TestOutputs,
    /// True if a trigger is never its own output.
    pub no_repeat: bool,
    /// Share of the symbols that are outputs in training only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_split: Option<f64>,
    /// Positions that count.
    pub loss: LossOn,
}
