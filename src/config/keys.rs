//! Every key of a run, declared once.

use super::key::{
    Default::{Absent, Is, Needed},
    Key, Kind,
    Kind::{Flag, Integers, Text},
    Scope,
    Scope::{Model, Optimizer, Run, Task},
    count, real, word,
};

const fn key(name: &'static str, kind: Kind, scope: Scope, help: &'static str) -> Key {
    Key { name, kind, scope, help }
}

/// What `dtype` may name.
const DTYPE: Kind = word(&["f32", "f64"]);
/// Laws of what follows a trigger.
const LAWS: Kind = word(&["uniform", "bigram"]);
const FEED_FORWARD: Kind = word(&["none", "linear", "relu"]);
/// Sequences of a batch or a test set.
const SEQUENCES: Kind = count(1, 1 << 26);

/// The keys, in the order of `--help`.
pub const KEYS: &[Key] = &[
    key("preset", Text, Run(Needed), "the preset that the other keys start from"),
    key("seed", count(0, i64::MAX as u64), Run(Is("0")), "seed of every draw"),
    key("dtype", DTYPE, Run(Is("'f32'")), "type of parameters and activations"),
    key(
        "source",
        word(&["sampled", "exact", "orbit"]),
        Run(Is("'sampled'")),
        "where batches come from: samples, the whole population (exact), or the same up to relabelling of the symbols (orbit; \
         algorithm1)",
    ),
    // The tasks.
    key(
        "task",
        word(super::task::TASKS),
        Run(Is("'causal_tree'")),
        "task; follows `graph` if it is not given",
    ),
    key(
        "graph",
        word(&[
            "chain",
            "icl",
            "random",
            "many_graphs",
            "manual",
            "two_parents",
            "ngram",
            "random_parents",
            "custom",
        ]),
        Task(&[("causal_tree", Needed), ("causal_dag", Needed)]),
        "latent graph; causal_tree: chain, icl, random, many_graphs, manual, or custom (then `parents`); causal_dag: two_parents, \
         ngram, random_parents, or custom (then `parent_sets`)",
    ),
    key("order", count(1, 4096), Task(&[("causal_dag", Absent)]), "graph=ngram: parents of a position"),
    key(
        "k",
        count(1, 4096),
        Task(&[("causal_dag", Absent)]),
        "graph=random_parents: parents of a position, drawn with the seed [2]",
    ),
    key(
        "parent_sets",
        Text,
        Task(&[("causal_dag", Absent)]),
        "parents of each of the T positions and of the target, e.g. `-;0;0,1;1,2` for T=3, - for a root; sets graph=custom, \
         task=causal_dag",
    ),
    key(
        "parents",
        Integers(-1),
        Task(&[("causal_tree", Absent)]),
        "parent of each context position (T-1 of them), -1 for a root; sets graph=custom",
    ),
    key("S", count(2, 1024), Task(&[("causal_tree", Needed), ("causal_dag", Needed)]), "alphabet size"),
    key(
        "T",
        count(2, 4096),
        Task(&[("causal_tree", Needed), ("causal_dag", Needed), ("trigger_bigram", Is("256"))]),
        "sequence length, the query included; trigger_bigram: inputs of a sequence",
    ),
    key(
        "alpha",
        real(crate::num::MIN_ALPHA, crate::num::MAX_ALPHA),
        Task(&[("causal_tree", Is("0.1")), ("causal_dag", Is("0.1")), ("trigger_bigram", Absent)]),
        "Dirichlet parameter of the transition rows; trigger_bigram: with corpus=dirichlet",
    ),
    key(
        "prior",
        word(&["dirichlet", "floored"]),
        Task(&[("causal_tree", Absent)]),
        "prior of the transition rows: dirichlet, or floored (gamma/S plus 1 - gamma times a Dirichlet row: no entry below gamma/S) \
         [dirichlet]",
    ),
    key("gamma", real(0.0, 1.0), Task(&[("causal_tree", Absent)]), "prior=floored: its gamma, > 0"),
    key(
        "roots",
        word(&["stationary", "uniform", "shared"]),
        Task(&[("causal_tree", Is("'stationary'")), ("causal_dag", Is("'shared'"))]),
        "law of the roots; causal_tree: stationary or uniform; causal_dag: shared (one draw of a law) or uniform",
    ),
    key(
        "labels",
        word(&["soft", "symbol"]),
        Task(&[("causal_tree", Absent), ("causal_dag", Absent)]),
        "target of a training sequence: soft (the law of what follows the query) or symbol (one draw from it) [soft]",
    ),
    key(
        "corpus",
        Text,
        Task(&[("trigger_bigram", Is("'shipped'"))]),
        "where unigrams and bigrams come from: shipped, a UTF-8 text file, counts:FOLDER (char_unigrams.csv, char_bigrams.csv), or \
         dirichlet (random rows: `N`, `alpha`; other ones for each seed)",
    ),
    key("N", count(2, 1024), Task(&[("trigger_bigram", Absent)]), "corpus=dirichlet: alphabet size"),
    key("K", count(1, 1024), Task(&[("trigger_bigram", Is("5"))]), "triggers of a sequence"),
    key(
        "triggers",
        word(&["fixed", "random"]),
        Task(&[("trigger_bigram", Is("'fixed'"))]),
        "fixed (the K most frequent symbols after `offset`) or random (drawn for each sequence)",
    ),
    key(
        "offset",
        count(0, 1023),
        Task(&[("trigger_bigram", Absent)]),
        "triggers=fixed: most frequent symbols left out [0]",
    ),
    key("outputs", LAWS, Task(&[("trigger_bigram", Is("'uniform'"))]), "law of what follows a trigger"),
    key(
        "test_outputs",
        word(&["uniform", "bigram", "both"]),
        Task(&[("trigger_bigram", Absent)]),
        "the same on the test set; both: two test sets [that of `outputs`]",
    ),
    key(
        "no_repeat",
        Flag,
        Task(&[("trigger_bigram", Is("false"))]),
        "true: a trigger is never its own output",
    ),
    key(
        "output_split",
        real(0.0, 1.0),
        Task(&[("trigger_bigram", Absent)]),
        "share of the symbols, from the first on, that are outputs in training; in testing the others are. > 0, < 1 [all are in \
         both]",
    ),
    key(
        "loss",
        word(&["head", "all"]),
        Task(&[("trigger_bigram", Is("'head'"))]),
        "positions that count: head (a trigger's second occurrence and later ones) or all",
    ),
    // The models.
    key("model", word(crate::model::MODELS), Run(Needed), "model"),
    key(
        "dim",
        count(1, 4096),
        Model(&[("memory", Is("128")), ("transformer", Is("128"))]),
        "width d of the residual stream",
    ),
    key("layers", count(1, 64), Model(&[("transformer", Is("2"))]), "layers"),
    key(
        "heads",
        Integers(1),
        Model(&[
            ("disentangled", Is("[1, 1]")),
            ("mlp_transformer", Is("[1, 1]")),
            ("transformer", Is("[4]")),
        ]),
        "attention heads of each layer, e.g. 2,1; transformer: one number for all layers, a divisor of dim",
    ),
    key(
        "init",
        real(0.0, 1000.0),
        Model(&[("disentangled", Is("0.0")), ("mlp_transformer", Is("0.0"))]),
        "standard deviation of the initial attention matrices; at 0 the heads of a layer stay equal",
    ),
    key(
        "eps",
        Kind::ZeroOr(crate::num::MIN_EPS, crate::num::MAX_EPS),
        Model(&[("simplified", Is("0.01"))]),
        "ε of the loss -Σ y log(f + ε); in training > 0",
    ),
    key(
        "beta0",
        real(f64::NEG_INFINITY, f64::INFINITY),
        Model(&[("simplified", Is("0.1"))]),
        "A2 starts at beta0 times the identity",
    ),
    key(
        "block",
        word(&["public", "standard", "postnorm"]),
        Model(&[("transformer", Is("'public'"))]),
        "public (the feed-forward reads the block's input), standard (pre-norm), or postnorm",
    ),
    key("norm", Flag, Model(&[("transformer", Is("true"))]), "false leaves layer norms out"),
    key("ff", FEED_FORWARD, Model(&[("transformer", Is("'relu'"))]), "feed-forward of each layer"),
    key("ff1", FEED_FORWARD, Model(&[("memory", Is("'none'"))]), "feed-forward of layer 1"),
    key("ff2", FEED_FORWARD, Model(&[("memory", Is("'none'"))]), "feed-forward of layer 2"),
    key(
        "positions",
        word(&["random", "sincos", "rotary", "learned"]),
        Model(&[("memory", Is("'random'")), ("transformer", Is("'learned'"))]),
        "encoding of positions; memory: random, sincos or rotary; transformer: learned or sincos",
    ),
    key(
        "output",
        word(&["free", "frozen", "tied", "tied_frozen"]),
        Model(&[("memory", Is("'free'")), ("transformer", Is("'free'"))]),
        "output matrix",
    ),
    key("scale_scores", Flag, Model(&[("memory", Is("true"))]), "scores over sqrt(d)"),
    key(
        "scale_embeddings",
        Flag,
        Model(&[("memory", Is("false"))]),
        "embeddings start at standard deviation 1/sqrt(d) instead of 1",
    ),
    key(
        "frozen",
        Text,
        Run(Absent),
        "blocks that never train, comma-separated: names or beginnings of names (layers.1.ff), `embeddings`, `output`; memory and \
         transformer: or wk0, wk1, wo1, ff1 as in the metrics",
    ),
    key(
        "freeze_until",
        Text,
        Run(Absent),
        "blocks that train later, e.g. 300:wk0,wk1/500:wo1: the first update that moves them, and names as in `frozen`; `;` serves \
         as `/` does",
    ),
    // The optimisers.
    key(
        "optimizer",
        word(&crate::optim::Rule::NAMES),
        Run(Needed),
        "optimiser, a separate one for each block from its first update on; staged: Algorithm 1 on the simplified model",
    ),
    key("momentum", Kind::Below(0.0, 1.0), Optimizer(&[("sgd", Is("0.0"))]), "momentum"),
    key("beta1", Kind::Below(0.0, 1.0), Optimizer(&[("adamw", Is("0.9"))]), "decay of the mean gradient"),
    key("beta2", Kind::Below(0.0, 1.0), Optimizer(&[("adamw", Is("0.999"))]), "decay of the mean square"),
    key(
        "adam_eps",
        real(0.0, f64::INFINITY),
        Optimizer(&[("adamw", Is("1e-8"))]),
        "added to the root of the mean square, > 0",
    ),
    key(
        "steps1",
        count(0, i64::MAX as u64),
        Optimizer(&[("staged", Needed)]),
        "updates of A1 alone, a multiple of eval_every; the rest of `steps` goes to A2",
    ),
    key(
        "lr2",
        real(0.0, f64::INFINITY),
        Optimizer(&[("staged", Needed)]),
        "learning rate of the second stage; `lr` is that of the first",
    ),
    // The training plan.
    key("lr", real(0.0, f64::INFINITY), Run(Needed), "learning rate"),
    key("schedule", word(&["constant", "cosine"]), Run(Is("'constant'")), "learning-rate schedule"),
    key(
        "weight_decay",
        real(0.0, f64::INFINITY),
        Run(Is("0.0")),
        "weight decay of every block that trains; adamw: decoupled",
    ),
    key("steps", count(1, i64::MAX as u64), Run(Needed), "updates"),
    key("batch", SEQUENCES, Run(Needed), "sequences per update"),
    key(
        "shards",
        count(1, 4096),
        Run(Is("16")),
        "shards per batch, at most `batch`: fixes the order of sums, so it changes the last bits",
    ),
    key("eval_every", count(1, i64::MAX as u64), Run(Needed), "updates between evaluations"),
    key("test_size", SEQUENCES, Run(Needed), "sequences of the fixed test set"),
    key("checkpoint_every", count(1, i64::MAX as u64), Run(Needed), "updates between checkpoints"),
    key(
        "snapshots",
        Text,
        Run(Absent),
        "weights that are kept, by the number of updates done: log (0, 1, 2, 3, 4, 6, 8, ..), `every N`, or a list such as 0,10,100; \
         the last ones always",
    ),
    key(
        "params",
        Text,
        Run(Absent),
        "file of the parameters to start from, .npz or .safetensors, an array for each block: also a run's checkpoint or snapshot",
    ),
];
