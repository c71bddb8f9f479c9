use super::*;
use crate::paper::preset;

/// Preset `base` with these arguments, each in its own layer.
fn layered(base: &str, words: &[&str]) -> Result<Config> {
    let mut tables = preset(base, false)?;
    for word in words {
        tables.push(parse_overrides(&[word.to_string()])?);
    }
    resolve(&tables)
}

/// The same with all arguments in one layer, as on a command line.
fn with(base: &str, words: &[&str]) -> Result<Config> {
    let words: Vec<String> = words.iter().map(|s| s.to_string()).collect();
    let mut tables = preset(base, false)?;
    tables.push(parse_overrides(&words)?);
    resolve(&tables)
}

/// A key of the resolved table, as TOML has it.
fn value(config: &Config, key: &str) -> String {
    config.table().get(key).map_or("-".into(), |v| v.to_string().replace('"', ""))
}

fn values(config: &Config, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|k| value(config, k)).collect()
}

#[test]
fn keys_are_declared_once_and_their_defaults_fit_them() {
    for (i, key) in KEYS.iter().enumerate() {
        assert!(KEYS[..i].iter().all(|k| k.name != key.name), "{} twice", key.name);
        let of_run = match key.scope {
            Scope::Run(default) => vec![default],
            scope => scope.owners().iter().map(|(_, default)| *default).collect(),
        };
        for default in of_run {
            if let Default::Is(text) = default {
                let table: Table = format!("value = {text}").parse().unwrap();
                assert_eq!(key.check(table["value"].clone()).unwrap(), table["value"], "{}", key.name);
            }
        }
        for (owner, _) in key.scope.owners() {
            let known: &[&str] = match key.scope.decided_by() {
                Some("task") => task::TASKS,
                Some("model") => crate::model::MODELS,
                _ => &Rule::NAMES,
            };
            assert!(known.contains(owner), "{}: {owner}", key.name);
        }
    }
}

#[test]
fn every_key_of_the_typed_parts_is_in_the_table() {
    for base in ["chain", "two-parents", "causal-fig8", "algorithm1", "birth", "birth-full"] {
        for name in layered(base, &[]).unwrap().table().keys() {
            assert!(find(name, KEYS).is_ok(), "{base}: {name}");
        }
    }
}

#[test]
fn overrides_take_effect_and_survive_the_round_trip() {
    let c = with("chain", &["steps=2^10", "heads=2,1", "alpha=1", "parents=-1,0,0", "T=4"]).unwrap();
    assert_eq!(
        values(&c, &["steps", "alpha", "graph", "heads", "parents"]),
        ["1024", "1.0", "custom", "[2, 1]", "[-1, 0, 0]"]
    );
    let table: Table = c.to_toml().parse().unwrap();
    assert_eq!(resolve(&[table]).unwrap(), c);
    // The list says how long sequences are, unless that is said too.
    for (words, t) in [(&["parents=-1,0,0"][..], 4), (&["parent_sets=-;0;0,1"], 2)] {
        assert_eq!(layered("two-parents", words).unwrap().task.seq_len(), t, "{words:?}");
        let both = [words, &["T=9"]].concat();
        let message = super::super::paper::experiment(&layered("chain", &both).unwrap());
        assert!(message.is_ok(), "the graph is read later");
    }
    let refused = with("chain", &["parents=-1,0,0", "graph=chain"]).unwrap_err().to_string();
    assert!(refused.contains("parents: [-1, 0, 0] with graph=chain"), "{refused}");
}

#[test]
fn the_task_follows_the_graph() {
    let keys = ["task", "graph", "order", "parent_sets"];
    for (words, expected) in [
        (&[][..], ["causal_tree", "chain", "-", "-"]),
        (&["graph=ngram", "order=2", "roots=shared"], ["causal_dag", "ngram", "2", "-"]),
        (&["graph=two_parents", "roots=shared"], ["causal_dag", "two_parents", "-", "-"]),
        (&["parent_sets=-;0;0,1", "roots=shared"], ["causal_dag", "custom", "-", "-;0;0,1"]),
    ] {
        let c = with("chain", words).unwrap();
        assert_eq!(values(&c, &keys), expected, "{words:?}");
        let table: Table = c.to_toml().parse().unwrap();
        assert_eq!(resolve(&[table]).unwrap(), c);
    }
    // A later graph takes task, order and parents of an earlier one away.
    let c = layered("two-parents", &["parent_sets=-;0;0,1", "graph=chain"]).unwrap();
    assert_eq!(values(&c, &["task", "parent_sets"]), ["causal_tree", "-"]);
    let c = layered("two-parents", &["parents=-1,0"]).unwrap();
    assert_eq!(values(&c, &["task", "graph"]), ["causal_tree", "custom"]);
}

#[test]
fn a_layer_takes_away_what_it_contradicts() {
    let c = with("birth", &["model=transformer", "optimizer=adamw", "beta2=0.99"]).unwrap();
    assert_eq!(
        values(&c, &["ff1", "heads", "positions", "momentum", "frozen"]),
        ["-", "[4]", "learned", "-", "-"]
    );
    let c = layered("birth", &["offset=3", "triggers=random"]).unwrap();
    assert_eq!(values(&c, &["offset", "triggers"]), ["-", "random"]);
    let c = layered("birth", &["ff2=relu", "model=memory"]).unwrap();
    assert_eq!(value(&c, "ff2"), "relu", "the same model again");
    assert_eq!(value(&with("birth", &["outputs=bigram"]).unwrap(), "test_outputs"), "bigram");
    // A resolved file holds the derived keys.
    let file: Table = with("birth", &["freeze_until=9:wk0"]).unwrap().to_toml().parse().unwrap();
    let over = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|s| s.to_string()).collect();
        resolve(&[file.clone(), parse_overrides(&words).unwrap()]).unwrap()
    };
    assert_eq!(value(&over(&["outputs=bigram"]), "test_outputs"), "bigram");
    assert_eq!(value(&over(&["outputs=bigram", "test_outputs=uniform"]), "test_outputs"), "uniform");
    assert_eq!(value(&over(&["K=2"]), "test_outputs"), "uniform");
    let c = over(&["model=transformer"]);
    assert_eq!(values(&c, &["frozen", "freeze_until"]), ["-", "-"], "they named blocks of the other model");
    let c = over(&["model=transformer", "frozen=layers.0.attention.wq"]);
    assert_eq!(c.frozen_names(), ["layers.0.attention.wq"]);
    assert_eq!(value(&over(&["model=memory"]), "freeze_until"), "9:wk0");
}

#[test]
fn any_task_takes_any_model_that_makes_sense() {
    for (base, model) in [
        ("chain", "transformer"),
        ("chain", "memory"),
        ("chain", "simplified"),
        ("two-parents", "memory"),
        ("birth", "disentangled"),
        ("birth", "mlp_transformer"),
    ] {
        let c = with(base, &[&format!("model={model}")]).unwrap();
        assert_eq!(c.model.name(), model);
    }
    // Another task takes the keys of the earlier one away and brings its own.
    let c = with("chain", &["task=trigger_bigram", "model=memory"]).unwrap();
    assert_eq!(values(&c, &["S", "graph", "corpus", "T", "K"]), ["-", "-", "shipped", "256", "5"]);
}

#[test]
fn another_model_brings_its_training_plan() {
    let plan = |base: &str, words: &[&str]| {
        let c = with(base, words).unwrap();
        (c.optimizer.name(), c.plan.lr, c.plan.weight_decay)
    };
    assert_eq!(plan("chain", &["model=disentangled"]), ("sgd", 1.0, 0.0), "the preset's own");
    assert_eq!(plan("chain", &["model=simplified"]), ("sgd", 1.0, 0.0), "trained alike");
    assert_eq!(plan("chain", &["model=transformer"]), ("adamw", 0.003, 0.0));
    assert_eq!(plan("chain", &["model=memory", "lr=0.5"]), ("adamw", 0.5, 0.0));
    assert_eq!(plan("chain", &["model=memory", "optimizer=sgd"]), ("sgd", 1.0, 0.0));
    assert_eq!(plan("birth", &["model=memory"]).0, "sgd");
    assert_eq!(plan("birth", &["model=disentangled"]), ("adamw", 0.01, 0.0));
    let full = with("birth-full", &[]).unwrap();
    assert_eq!(plan("birth-full", &["model=memory"]).1, full.plan.lr, "AdamW already");
}

#[test]
fn schedules_of_freezing_are_read() {
    for text in ["freeze_until=300:wk0, wk1;500:wo1", "freeze_until=300:wk0,wk1 / 500:wo1/"] {
        let c = with("birth", &[text]).unwrap();
        assert_eq!(c.unfreeze_steps().unwrap(), [(300, "wk0"), (300, "wk1"), (500, "wo1")]);
    }
    let c = with("birth", &[]).unwrap();
    assert_eq!(c.frozen_names(), ["embeddings", "output"]);
    assert!(with("birth", &["frozen="]).unwrap().frozen_names().is_empty());
}

#[test]
fn values_of_an_axis() {
    let of = |word: &str| parse_values(word, KEYS).map(|(key, values)| (key, values.len()));
    assert_eq!(of("alpha=0.1,1").unwrap(), ("alpha".into(), 2));
    // The commas are the value's own.
    assert_eq!(of("parent_sets=-;0;0,1").unwrap(), ("parent_sets".into(), 1));
    assert_eq!(of("heads=2,1").unwrap(), ("heads".into(), 1));
    assert!(of("alpha=1,1").unwrap_err().to_string().starts_with("alpha: 1.0 twice"));
}

#[test]
fn errors_name_the_key_and_what_is_allowed() {
    for (base, words, expected) in [
        ("chain", &["step=3"][..], "unknown key `step`, did you mean `steps`?"),
        ("chain", &["steps"], "argument: `steps`; allowed: key=value"),
        ("chain", &["steps=-3"], "steps: -3; allowed: integers, 1 <= steps < 2^63"),
        ("chain", &["steps=0"], "steps: 0; allowed: integers, 1 <= steps < 2^63"),
        ("chain", &["steps=9^99"], "steps: `9^99`"),
        ("chain", &["alpha=nan"], "alpha: nan; allowed: 0.001 <= alpha <= 1000"),
        ("chain", &["alpha=x"], "alpha: `x`; allowed: 0.001 <= alpha <= 1000"),
        ("chain", &["S=1"], "S: 1; allowed: integers, 2 <= S <= 1024"),
        ("chain", &["dtype=f16"], "unknown dtype `f16`, did you mean"),
        ("chain", &["batch=99999999999"], "batch: 99999999999; allowed: integers, 1 <= batch <= 67108864"),
        ("chain", &["preset=icl"], "preset: given as key=value; allowed: first word of `run`"),
        ("chain", &["order=2"], "order: 2; allowed: task=causal_dag only"),
        ("two-parents", &["order=2"], "order: 2; allowed: graph=ngram only"),
        ("two-parents", &["k=2"], "k: 2; allowed: graph=random_parents only"),
        ("two-parents", &["graph=random_parents", "order=2"], "order: 2; allowed: graph=ngram only"),
        ("two-parents", &["prior=floored"], "prior: \"floored\"; allowed: task=causal_tree only"),
        ("chain", &["k=2"], "k: 2; allowed: task=causal_dag only"),
        ("chain", &["gamma=0.5"], "gamma: 0.5; allowed: prior=floored only"),
        ("chain", &["prior=floored"], "gamma: missing; allowed: 0 < gamma <= 1 with prior=floored"),
        ("chain", &["prior=floored", "gamma=0"], "gamma: 0; allowed: 0 < gamma <= 1"),
        ("chain", &["prior=floored", "gamma=1.5"], "gamma: 1.5; allowed: 0 <= gamma <= 1"),
        ("chain", &["labels=symbol", "source=exact"], "labels: symbol with source=exact; allowed: soft"),
        ("algorithm1", &["labels=symbol"], "labels: symbol with source=exact"),
        ("chain", &["labels=hard"], "unknown labels `hard`; known: soft, symbol"),
        ("birth", &["labels=symbol"], "labels: \"symbol\"; allowed: task=causal_tree|causal_dag only"),
        ("chain", &["parent_sets=-;0;0", "graph=chain"], "parent_sets: -;0;0; allowed: graph=custom only"),
        ("chain", &["parents=-1,0", "graph=ngram"], "parents: [-1, 0]; allowed: task=causal_tree only"),
        ("chain", &["task=causal_dga"], "unknown task `causal_dga`, did you mean `causal_dag`?"),
        ("chain", &["source=orbit"], "source: orbit; allowed: sampled or exact"),
        ("chain", &["momentum=1"], "momentum: 1.0; allowed: >= 0, < 1"),
        ("algorithm1", &["eps=1e-31"], "eps: 1e-31; allowed: 0, or 1e-30 <= eps <= 1"),
        ("algorithm1", &["eps=2"], "eps: 2.0; allowed: 0, or 1e-30 <= eps <= 1"),
        ("birth", &["frozen=bogus", "corpus="], "corpus: ``"),
        ("chain", &["beta0=1"], "beta0: 1.0; allowed: model=simplified only"),
        ("chain", &["corpus=shipped"], "corpus: \"shipped\"; allowed: task=trigger_bigram only"),
        ("algorithm1", &["model=disentangled"], "model: disentangled with optimizer=staged"),
        ("algorithm1", &["eps=0"], "eps: 0; allowed: eps > 0"),
        (
            "algorithm1",
            &["eval_every=10", "steps1=401"],
            "steps1: 401; allowed: a multiple of eval_every = 10",
        ),
        ("algorithm1", &["dtype=f32"], "dtype: f32; allowed: f64"),
        ("birth", &["S=3"], "S: 3; allowed: task=causal_tree|causal_dag only"),
        ("birth", &["T=1"], "T: 1; allowed: integers, 2 <= T <= 4096"),
        ("birth", &["K=0"], "K: 0; allowed: integers, 1 <= K"),
        ("birth", &["model=memroy"], "unknown model `memroy`, did you mean `memory`?"),
        ("birth", &["triggers=some"], "unknown triggers `some`"),
        ("birth", &["outputs=unifrom"], "unknown outputs `unifrom`, did you mean `uniform`?"),
        ("birth", &["loss=heads"], "unknown loss `heads`, did you mean `head`?"),
        ("birth", &["heads=4"], "heads: [4]; allowed: model=disentangled|mlp_transformer|transformer only"),
        ("birth", &["norm=false"], "norm: false; allowed: model=transformer only"),
        ("birth", &["ff2=gelu"], "unknown ff2 `gelu`"),
        ("birth", &["no_repeat=1"], "no_repeat: `1`; allowed: true or false"),
        ("birth", &["output_split=1"], "output_split: 1; allowed: > 0, < 1"),
        ("birth", &["N=10"], "N: 10; allowed: corpus=dirichlet only"),
        (
            "birth",
            &["corpus=dirichlet"],
            "N: missing; allowed: integers, 2 <= N <= 1024 with corpus=dirichlet",
        ),
        ("birth", &["corpus="], "corpus: `` names nothing"),
        ("birth", &["corpus=counts:"], "corpus: `counts:` names nothing"),
        ("chain", &["S=5", "S=6"], "S: given twice, 5 and 6; allowed: every key once"),
        ("chain", &["S=5", "S=5"], "S: given twice"),
        ("chain", &["heads=2,1", "heads=1"], "heads: given twice, [2, 1] and [1]"),
        ("chain", &["S=true"], "S: `true`; allowed: integers, 2 <= S <= 1024"),
        ("chain", &["lr=true"], "lr: `true`; allowed: lr >= 0, finite"),
        ("chain", &["heads=true"], "heads: `true`; allowed: integers >= 1"),
        ("chain", &["seed=-1"], "seed: -1; allowed: integers, 0 <= seed < 2^63"),
        ("chain", &["seed=9223372036854775808"], "seed: `9223372036854775808`; allowed: integers, 0 <= seed"),
        ("chain", &["shards=5000"], "shards: 5000; allowed: integers, 1 <= shards <= 4096"),
        ("chain", &["alpha=1e300"], "alpha: 1e300; allowed: 0.001"),
        ("birth", &["freeze_until=300"], "freeze_until: `300`; allowed: UPDATE:NAMES"),
        ("birth", &["freeze_until=x:wk0"], "freeze_until: `x:wk0`"),
        ("birth", &["freeze_until=300:"], "freeze_until: `300:`"),
        ("birth", &["beta1=0.5"], "beta1: 0.5; allowed: optimizer=adamw only"),
        ("birth", &["lr=-1"], "lr: -1.0; allowed: lr >= 0"),
        ("birth", &["triggers=random", "offset=3"], "offset: 3; allowed: triggers=fixed only"),
        ("birth", &["model=transformer", "ff1=relu"], "ff1: \"relu\"; allowed: model=memory only"),
        ("birth", &["model=transformer", "block=pre"], "unknown block `pre`"),
    ] {
        let message = with(base, words).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{base} {words:?}: {message}");
    }
    let over = |base: &str, words: &[&str]| {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        resolve_over(&preset(base, true).unwrap(), &[parse_overrides(&words).unwrap()])
    };
    for (base, words, expected) in [
        (
            "chain",
            &["source=exact", "batch=7"][..],
            "batch: 7 with source=exact; allowed: source=sampled only",
        ),
        ("chain", &["test_size=9", "source=exact"], "test_size: 9 with source=exact"),
        ("algorithm1", &["source=orbit", "batch=7"], "batch: 7 with source=orbit"),
        ("chain", &["batch=8", "shards=9"], "shards: 9; allowed: at most batch = 8"),
    ] {
        let message = over(base, words).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{base} {words:?}: {message}");
    }
    assert!(over("chain", &["batch=8"]).is_ok(), "the preset's shards are no contradiction");
    // In a file: booleans are no numbers, numbers no booleans or texts, and names of keys are said.
    for (text, expected) in [
        ("S = true", "S: true; allowed: integers, 2 <= S"),
        ("lr = false", "lr: false; allowed: lr >= 0"),
        ("heads = [1, true]", "heads: [1, true]; allowed: integers >= 1"),
        ("S = 5.0", "S: 5.0; allowed: integers"),
        ("no_repeat = 1", "no_repeat: 1; allowed: true or false"),
        ("frozen = true", "frozen: true; allowed: a text: blocks that never train"),
        ("S = 5\nT = 9\nS = 6", "f.toml: line 3: duplicate key `S`, given as 5 and 6: every key once"),
        ("alpha = 1e400", "f.toml: line 1: floating-point number overflowed"),
    ] {
        let read = parse_table(Path::new("f.toml"), text).and_then(|t| check_keys(t, KEYS));
        let message = read.unwrap_err().to_string();
        assert!(message.starts_with(expected), "{text}: {message}");
    }
    let missing = resolve(&[parse_overrides(&["model=memory".into(), "optimizer=sgd".into()]).unwrap()]);
    assert_eq!(
        missing.unwrap_err().to_string(),
        "preset: missing; allowed: a text: the preset that the other keys start from"
    );
}

#[test]
fn the_fuzz_corpus_and_its_truncations_hold() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    for base in ["chain", "birth"] {
        let base = resolve(&preset(base, false).unwrap()).unwrap().table();
        let (mut count, mut resolved) = (0, 0);
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let data = std::fs::read(entry.unwrap().path()).unwrap();
            resolved += (0..=data.len()).map(|n| fuzz(&data[..n], &base).len()).sum::<usize>();
            count += 1;
        }
        assert!(count >= 7 && resolved > 0, "the corpus is there, and some of it resolves");
    }
}
