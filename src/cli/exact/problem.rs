//! The population that the keys of `popgrad exact` describe.

use super::ExactArgs;
use crate::cli::grad::missing;
use crate::config;
use crate::config::task::{Graph, Roots, RowPrior};
use crate::exact::{MAX_SYMBOLS, law};
use crate::model::Spec;
use crate::source::Population;
use crate::task::{CausalDag, Dag, DagRoots, Forest, Task};
use crate::{Error, Result};
use serde::Deserialize;
use toml::Table;

/// How the sum over all sequences is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Method {
    /// The cheapest one.
    Auto,
    /// Every word, along a tree of prefixes.
    Tree,
    /// One word of each class under renaming of the symbols.
    Orbit,
    /// Every word, naively.
    Brute,
}

/// Names of the methods.
pub(super) const METHODS: [&str; 4] = ["auto", "tree", "orbit", "brute"];

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Method::Auto => "auto",
            Method::Tree => "tree",
            Method::Orbit => "orbit",
            Method::Brute => "brute",
        }
    }
}

/// Keys of tasks and methods.
#[derive(Debug, Deserialize)]
#[allow(non_snake_case)]
struct Keys {
    graph: Option<Graph>,
    order: Option<usize>,
    k: Option<usize>,
    parents: Option<Vec<i64>>,
    parent_sets: Option<String>,
    T: Option<usize>,
    prior: Option<RowPrior>,
    alpha: Option<f64>,
    gamma: Option<f64>,
    roots: Option<Roots>,
    seed: Option<u64>,
    method: Option<Method>,
    draws: Option<u64>,
}

/// The population to evaluate; the model is passed separately.
pub(super) struct Problem {
    pub(super) law: Law,
    pub(super) method: Method,
    /// ε of the simplified model, whose population over a forest has methods of its own.
    pub(super) eps: Option<f64>,
}

/// The law of words.
pub(super) enum Law {
    /// One parent each.
    Tree(TreeProblem),
    /// Several parents.
    Dag(CausalDag),
}

/// Words over a forest, under a prior of transitions.
pub(super) struct TreeProblem {
    pub(super) forest: Forest,
    pub(super) symbols: usize,
    pub(super) alpha: Option<f64>,
    /// γ of a floored prior.
    pub(super) gamma: Option<f64>,
    pub(super) stationary: bool,
    pub(super) roots_given: bool,
    pub(super) draws: Option<u64>,
    pub(super) seed: u64,
}

impl Law {
    /// T.
    pub(super) fn seq_len(&self) -> usize {
        match self {
            Law::Tree(tree) => tree.forest.seq_len(),
            Law::Dag(task) => task.seq_len(),
        }
    }
}

impl Problem {
    /// From the keys; `spec` is the model over `symbols` symbols.
    pub(super) fn new(args: &ExactArgs, table: &Table, spec: &Spec, symbols: usize) -> Result<Self> {
        let keys: Keys = config::typed(table)?;
        let method = keys.method.unwrap_or(Method::Auto);
        if method == Method::Brute && args.dtype == "f32" {
            return Err(Error::invalid("dtype", "f32 with method=brute", "f64, which brute always is"));
        }
        let eps = if let Spec::Simplified(model) = spec { Some(model.eps) } else { None };
        let law = if config::task_of(table) == "causal_dag" {
            if ![Method::Auto, Method::Brute].contains(&method) {
                let allowed = "auto or brute: only trees have a prefix tree and orbits";
                return Err(Error::invalid("method", method.name(), allowed));
            }
            Law::Dag(dag(args, keys, symbols)?)
        } else {
            if eps.is_none() && ![Method::Auto, Method::Brute].contains(&method) {
                let allowed = "auto or brute: only the simplified model has a tree and orbits";
                return Err(Error::invalid("method", method.name(), allowed));
            }
            if eps.is_some() && symbols > MAX_SYMBOLS {
                return Err(Error::invalid("S", symbols.to_string(), format!("at most {MAX_SYMBOLS}")));
            }
            Law::Tree(tree(args, keys, symbols)?)
        };
        Ok(Problem { law, method, eps })
    }

    /// Refuses predictions that cannot be written, before any work.
    pub(super) fn check_predictions(&self, s: usize, t: usize) -> Result<()> {
        if let Law::Tree(tree) = &self.law
            && tree.draws.is_some()
        {
            return Err(Error::invalid("predictions", "with draws", "a prior that is not sampled"));
        }
        let numbers = law::word_count(s, t).and_then(|n| n.checked_mul((s + t + 1) as u64));
        if numbers.is_none_or(|n| n > MOST_PREDICTIONS) {
            let found = format!("{s}^{t} words");
            return Err(Error::invalid("predictions", found, "words (T + S + 1) <= 2^26"));
        }
        Ok(())
    }
}

/// Most numbers that `--predictions` writes.
const MOST_PREDICTIONS: u64 = 1 << 26;

/// Words over the forest that the keys describe, for quantities of the task.
pub(super) fn of_tree(args: &ExactArgs, table: &Table, symbols: usize) -> Result<TreeProblem> {
    tree(args, config::typed(table)?, symbols)
}

fn tree(args: &ExactArgs, keys: Keys, symbols: usize) -> Result<TreeProblem> {
    let seed = keys.seed.unwrap_or(0);
    let forest = match (keys.graph, &keys.parents) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("parents", "given with graph", "parents=.. or graph=.., not both"));
        }
        (None, Some(list)) => Forest::from_parents(list)?,
        (graph, None) => {
            let graph = graph.unwrap_or(Graph::Chain);
            Forest::named(graph.name(), keys.T.ok_or_else(|| missing("T"))?, seed)?
        }
    };
    if let Some(t) = keys.T.filter(|t| *t != forest.seq_len()) {
        let found = format!("{t} with {} parents", forest.len_context());
        return Err(Error::invalid("T", found, format!("T = {}", forest.seq_len())));
    }
    let number = |k: Option<usize>| k.map(|k| k.to_string());
    let of_dag = [("order", number(keys.order)), ("k", number(keys.k)), ("parent_sets", keys.parent_sets)];
    for (name, value) in of_dag {
        if let Some(value) = value {
            return Err(Error::invalid(name, value, "task=causal_dag only"));
        }
    }
    let stationary = match keys.roots {
        None | Some(Roots::Stationary) => true,
        Some(Roots::Uniform) => false,
        Some(Roots::Shared) => {
            return Err(Error::unknown("roots", Roots::Shared.name(), ["stationary", "uniform"]));
        }
    };
    let random = matches!(keys.graph, Some(Graph::Random | Graph::ManyGraphs));
    if let Some(seed) = keys.seed.filter(|_| keys.draws.is_none() && !random) {
        return Err(Error::invalid("seed", seed.to_string(), "with draws or a random graph only"));
    }
    if args.prior.is_some() && (keys.prior.is_some() || keys.gamma.is_some()) {
        return Err(Error::invalid("prior, gamma", "given beside a prior file", "one of them"));
    }
    let gamma = match (keys.prior.unwrap_or_default(), keys.gamma) {
        (RowPrior::Dirichlet, Some(gamma)) => {
            return Err(Error::invalid("gamma", gamma.to_string(), "prior=floored only"));
        }
        (RowPrior::Floored, gamma) => match gamma.filter(|g| *g > 0.0) {
            Some(gamma) => Some(gamma),
            None => {
                let found = gamma.map_or("missing".into(), |g| g.to_string());
                return Err(Error::invalid("gamma", found, "0 < gamma <= 1 with prior=floored"));
            }
        },
        (RowPrior::Dirichlet, None) => None,
    };
    let closed = !stationary && gamma.is_none();
    if keys.draws.is_some() && (closed && args.quantities.is_empty() || args.prior.is_some()) {
        let found = "given with uniform roots or a prior file";
        return Err(Error::invalid("draws", found, "stationary roots or a floored prior only"));
    }
    Ok(TreeProblem {
        forest,
        symbols,
        alpha: keys.alpha,
        gamma,
        stationary,
        roots_given: keys.roots.is_some(),
        draws: keys.draws,
        seed,
    })
}

fn dag(args: &ExactArgs, keys: Keys, symbols: usize) -> Result<CausalDag> {
    let refused = |key: &str, found: String, allowed: &str| Err(Error::invalid(key, found, allowed));
    if args.prior.is_some() {
        return refused("prior", "given with task=causal_dag".into(), "its Dirichlet prior, by alpha");
    }
    for (key, given) in [
        ("draws", keys.draws.is_some()),
        ("parents", keys.parents.is_some()),
        ("prior", keys.prior.is_some()),
        ("gamma", keys.gamma.is_some()),
    ] {
        if given {
            return refused(key, "given with task=causal_dag".into(), "task=causal_tree only");
        }
    }
    let dag = match (keys.graph, &keys.parent_sets) {
        (Some(_), Some(_)) => {
            let allowed = "parent_sets=.. or graph=.., not both";
            return refused("parent_sets", "given with graph".into(), allowed);
        }
        (None, Some(text)) => {
            for (key, value, allowed) in
                [("order", keys.order, "graph=ngram only"), ("k", keys.k, "graph=random_parents only")]
            {
                if let Some(value) = value {
                    return refused(key, value.to_string(), allowed);
                }
            }
            if let Some(seed) = keys.seed {
                return refused("seed", seed.to_string(), "graph=random_parents only");
            }
            Dag::parse(text)?
        }
        (Some(graph), None) => {
            if let Some(k) = keys.k.filter(|_| graph != Graph::RandomParents) {
                return refused("k", k.to_string(), "graph=random_parents only");
            }
            if let Some(order) = keys.order.filter(|_| graph != Graph::Ngram) {
                return refused("order", order.to_string(), "graph=ngram only");
            }
            if let Some(seed) = keys.seed.filter(|_| graph != Graph::RandomParents) {
                return refused("seed", seed.to_string(), "graph=random_parents only");
            }
            let t = keys.T.ok_or_else(|| missing("T"))?;
            Dag::named(graph.name(), t, keys.order.or(keys.k), keys.seed.unwrap_or(0))?
        }
        (None, None) => return Err(missing("graph")),
    };
    if let Some(t) = keys.T.filter(|t| *t != dag.seq_len()) {
        let found = format!("{t} with {} parent sets", dag.seq_len() + 1);
        return Err(Error::invalid("T", found, format!("T = {}", dag.seq_len())));
    }
    let roots = match keys.roots {
        None | Some(Roots::Shared) => DagRoots::Shared,
        Some(Roots::Uniform) => DagRoots::Uniform,
        Some(Roots::Stationary) => {
            return Err(Error::unknown("roots", Roots::Stationary.name(), ["shared", "uniform"]));
        }
    };
    let alpha = keys.alpha.ok_or_else(|| missing("alpha"))?;
    // Refused before anything large is made.
    let entries = law::word_count(symbols, dag.seq_len()).and_then(|n| n.checked_mul(symbols as u64 + 1));
    if entries.is_none_or(|n| n > Population::MAX_ENTRIES) {
        let found = format!("{symbols}^{} words to enumerate", dag.seq_len());
        let allowed = format!("S^T (S+1) <= {}", Population::MAX_ENTRIES);
        return Err(Error::invalid("S, T", found, allowed));
    }
    CausalDag::new(dag, symbols, alpha, roots)
}
