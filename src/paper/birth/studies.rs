//! The studies that have names of the memory-viewpoint paper (Bietti et al. 2023); numbers of
//! figures are the paper's.

use super::{DEPTH, LOSSES, MAPS, ORDER, RECALL};
use crate::config::KEYS;
use crate::paper::studies::{Draft, Form, Named};

/// Every study with a name.
pub(super) const STUDIES: &[Named] = &[FIG2, FIG3, FIG4, ORDER_OF_LEARNING, ONE_AND_TWO, REALISTIC];

/// Keys of sizes and rates, which drafts set and users may override: no run is named by them.
const SIZES: [&str; 5] = ["steps", "T", "batch", "dim", "lr"];

/// Keys that every run of a study has its own of: what its drafts set, and what another model or
/// more frozen blocks would take from them.
fn own_keys(drafts: &[Draft]) -> Vec<&'static str> {
    let set = |key: &str| drafts.iter().flat_map(Draft::keys).any(|k| k == key);
    let mut own: Vec<&str> = KEYS.iter().map(|k| k.name).filter(|k| set(k)).collect();
    for (key, undone_by) in [
        ("layers", "model"),
        ("ff2", "model"),
        ("freeze_until", "model"),
        ("freeze_until", "frozen"),
        ("triggers", "offset"),
    ] {
        if set(key) {
            own.push(undone_by);
        }
    }
    own.push("task");
    own.retain(|k| !SIZES.contains(k));
    own.sort_unstable();
    own.dedup();
    own
}

/// Repetitions of each group.
fn repeated(form: &Form, quick: u64, full: u64, groups: Vec<(&str, Draft)>) -> Vec<Draft> {
    let count = form.seeds.unwrap_or(if form.quick { quick } else { full });
    let of = |(group, draft): (&str, Draft)| {
        let group = group.to_string();
        (0..count).map(move |seed| draft.clone().in_group(&group).seed(seed)).collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(of).collect()
}

/// Figure 2.
const FIG2: Named = Named {
    name: "birth-fig2",
    what: "Bietti et al., Figure 2: attention of both layers on a text, fixed and random triggers",
    shows: "On a sample text, the first layer attends to the token before, the second to the token after an earlier occurrence of the \
            trigger: an induction head, for fixed triggers as for random ones.",
    expect: "Layer 1: a bright sub-diagonal, first where it matters, in the rows after triggers. Layer 2: from a trigger that has \
             occurred before (rows of Q, marked with a dot) to what followed it then.",
    in_paper: true,
    drawing: &MAPS,
    figures: true,
    own_keys,
    drafts: |form| {
        let draft = |triggers: &str, full: i64, quick: i64| {
            let d = Draft::new(&format!("{triggers}-triggers"), "birth").with("triggers", triggers);
            d.with("steps", if form.quick { quick } else { full })
        };
        vec![draft("fixed", 1000, 400), draft("random", 2000, 600)]
    },
};

/// Figure 3.
const FIG3: Named = Named {
    name: "birth-fig3",
    what: "Bietti et al., Figure 3: parts frozen at first, fixed and random triggers; accuracy and recall of each memory (seeds=K)",
    shows: "With the loss on outputs that the context determines, and one memory frozen until iteration 300, the others show the \
            order in which they are learned: W_O of layer 2 first, without which nothing is learned; then W_K of layer 2; then W_K of \
            layer 1, early positions first.",
    expect: "Nothing frozen: wo1, then wk1, then wk0, its first 64 positions before the others. wo1 frozen: nothing is learned. wk1 frozen: wo1 is \
             learned, wk0 hardly changes until wk1 starts to train. wk0 frozen: wo1 and wk1 are learned, accuracy rises once wk0 trains.",
    in_paper: true,
    drawing: &RECALL,
    figures: false,
    own_keys,
    drafts: |form| {
        let until = if form.quick { 150 } else { 300 };
        let base = |triggers: &str, block: &str| {
            let d = Draft::new("run", "birth").with("steps", if form.quick { 400 } else { 1000 });
            // Long enough to distinguish early from late positions.
            let d = if form.quick { d.with("T", 128) } else { d };
            let d = d.with("triggers", triggers);
            if block.is_empty() { d } else { d.with("freeze_until", format!("{until}:{block}")) }
        };
        let groups = vec![
            ("nothing frozen", base("fixed", "")),
            ("wo1 frozen at first", base("fixed", "wo1")),
            ("wk1 frozen at first", base("fixed", "wk1")),
            ("wk0 frozen at first", base("fixed", "wk0")),
            ("random triggers, nothing frozen", base("random", "")),
            ("random triggers, wo1 frozen at first", base("random", "wo1")),
            ("random triggers, wk1 frozen at first", base("random", "wk1")),
            ("random triggers, wk0 frozen at first", base("random", "wk0")),
        ];
        repeated(form, 2, 3, groups)
    },
};

/// Most frequent symbols left out for rare triggers: our choice, the paper gives none.
const RARE: i64 = 20;

/// Figure 4.
const FIG4: Named = Named {
    name: "birth-fig4",
    what: "Bietti et al., Figure 4: bigram and in-context loss by K, fixed, rare and random triggers; output laws (seeds=K)",
    shows: "With the loss on all tokens and a linear feed-forward in layer 2, the bigrams (loss where no trigger is, W_F) are learned \
            much sooner than the outputs that the context determines. These are learned later with fewer triggers, with rare fixed ones, \
            and with random ones. A model trained with outputs by the bigrams fails on uniform ones.",
    expect: "Bigram losses fall together within the first tens of steps, in-context losses over hundreds; those of random triggers later than \
             those of fixed ones, and of one random trigger last of all. (One fixed trigger is the most frequent symbol, which is often seen.) \
             Trained on uniform outputs: both test laws are predicted alike; trained on bigram outputs: the uniform ones far less.",
    in_paper: true,
    drawing: &LOSSES,
    figures: false,
    own_keys,
    drafts: |form| {
        let base = |triggers: &str, k: i64, outputs: &str| {
            let d = Draft::new("run", "birth").with("triggers", triggers).with("K", k);
            let d = d
                .with("loss", "all")
                .with("ff2", "linear")
                .with("outputs", outputs)
                .with("test_outputs", "both");
            if form.quick { d.with("T", 128).with("steps", 600) } else { d.with("steps", 1000) }
        };
        let groups = vec![
            ("K=5, fixed", base("fixed", 5, "uniform")),
            ("K=1, fixed", base("fixed", 1, "uniform")),
            // Of the shipped text the 21st most frequent symbol and the four after it: 1.3 to
            // 0.7%.
            ("K=5, rare", base("fixed", 5, "uniform").with("offset", RARE)),
            ("K=1, rare", base("fixed", 1, "uniform").with("offset", RARE)),
            ("K=5, random", base("random", 5, "uniform")),
            ("K=1, random", base("random", 1, "uniform")),
            ("K=5, fixed, bigram outputs", base("fixed", 5, "bigram")),
        ];
        repeated(form, 2, 3, groups)
    },
};

/// What is learned first where the weights can hold the bigrams.
const ORDER_OF_LEARNING: Named = Named {
    name: "birth-order",
    what: "Bietti et al.: the global bigrams or the context first, over K and kinds of triggers, with W_F (seeds=K)",
    shows: "With the loss on all tokens and a linear feed-forward in layer 2, the global bigrams are learned before what the context \
            determines, whatever the triggers; how much later the context follows depends on them.",
    expect: "The loss of the bigrams has fallen half-way within the first updates for every group, the loss in context later. The last tenth of \
             a nat (KL of the bigrams from the model, where no trigger is) takes long where triggers are frequent: the head that reads the context \
             answers there too. Rare triggers reach an accuracy near .6 without layer 1: an output that is rare itself stands out. Rate and \
             thresholds are ours.",
    in_paper: false,
    drawing: &LOSSES,
    figures: false,
    own_keys,
    drafts: |form| {
        let base = |triggers: &str, k: i64| {
            let d = Draft::new("run", "birth").with("triggers", triggers).with("K", k);
            let d = d.with("loss", "all").with("ff2", "linear").with("lr", 1.0).with("dim", 128);
            if form.quick {
                d.with("T", 128).with("steps", 400)
            } else {
                d.with("batch", 128).with("steps", 2000)
            }
        };
        let groups = vec![
            ("K=5, fixed", base("fixed", 5)),
            ("K=1, fixed", base("fixed", 1)),
            ("K=5, rare", base("fixed", 5).with("offset", RARE)),
            ("K=1, rare", base("fixed", 1).with("offset", RARE)),
            ("K=5, random", base("random", 5)),
            ("K=1, random", base("random", 1)),
        ];
        repeated(form, 2, 3, groups)
    },
};

/// The paper's first finding.
const ONE_AND_TWO: Named = Named {
    name: "birth-depth",
    what: "Bietti et al.: transformers of one and of two layers; accuracy in context (seeds=K)",
    shows: "A one-layer transformer does not learn the bigrams of the context; one of two layers does.",
    expect: "acc_end of one layer stays near what the bigrams alone give; that of two layers rises towards 1. Bigram losses are equal.",
    in_paper: true,
    drawing: &DEPTH,
    figures: false,
    own_keys,
    drafts: |form| {
        let base = |layers: i64| Draft::new("run", "birth-full").with("layers", layers);
        repeated(form, 3, 3, vec![("1 layer", base(1)), ("2 layers", base(2))])
    },
};

/// A block as it is used, with the axes of Figure 3.
const REALISTIC: Named = Named {
    name: "birth-realistic",
    what: "Bietti et al.: a pre-norm block with a ReLU feed-forward, all trained; memories, bigrams, accuracy (seeds=K)",
    shows: "In a transformer with layer norms, feed-forward, learned or sin/cos positions and everything trained, the same memories form, \
            and the global bigrams are learned before the context is used.",
    expect: "The loss of the bigrams falls within the first updates; accuracy in context rises later, as W_O of layer 2 and W_K of layer 1 are \
             recalled. The feed-forward of layer 2 alone is close to the bigrams at first and moves away as other parts take them over. Probes \
             read through layer norms and trained embeddings only approximately.",
    in_paper: false,
    drawing: &ORDER,
    figures: false,
    own_keys,
    drafts: |form| {
        let base = |positions: &str, triggers: &str| {
            let d = Draft::new("run", "birth-block").with("positions", positions);
            d.with("triggers", triggers)
        };
        let groups = vec![
            ("learned positions", base("learned", "fixed")),
            ("sin/cos positions", base("sincos", "fixed")),
            ("learned positions, random triggers", base("learned", "random")),
        ];
        repeated(form, 2, 3, groups)
    },
};
