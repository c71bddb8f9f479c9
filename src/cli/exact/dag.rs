//! `popgrad exact` on the task with several parents: any model, by weighted batches of all words.

use super::{ExactArgs, METHODS, check_word_count, finish, keys, of_batches, predictions};
use crate::cli::grad::{Sizes, missing, read_params};
use crate::cli::pool;
use crate::config;
use crate::exact::{DagLaw, law};
use crate::model::{self, ModelSpec};
use crate::source::Exact;
use crate::task::{CausalDag, Dag, DagRoots, Task};
use crate::{Error, Result};
use popgrad_kernels::Elem;
use std::time::Instant;
use toml::Table;

/// Evaluates, if the keys name this task.
pub(super) fn exact<E: Elem>(args: &ExactArgs) -> Result<Option<()>> {
    let simplified = args.model == "simplified";
    let table = config::parse_keys(&args.keys, &keys(simplified))?;
    if config::task_of(&table)? != "causal_dag" {
        return Ok(None);
    }
    let (task, sizes) = (task(args, &table)?, Sizes::of(&table)?);
    let spec = ModelSpec {
        name: args.model.clone(),
        vocab: task.vocab(),
        seq_len: task.seq_len(),
        heads: if simplified { Vec::new() } else { sizes.heads()? },
        eps: sizes.eps,
    };
    let model = model::build::<E>(&spec)?;
    let params = read_params::<E>(&args.params, model.layout())?;
    if args.predictions {
        check_word_count(task.vocab(), task.seq_len())?;
    }
    let started = Instant::now();
    let (found, words) = pool(args.threads)?.install(|| -> Result<_> {
        let source = Exact::new(&DagLaw::new(task))?;
        let found = of_batches(model.as_ref(), &params, &source)?;
        let words =
            if args.predictions { Some(predictions(&source, model.as_ref(), &params)?) } else { None };
        Ok((found, words))
    })?;
    finish(args, model.layout(), &found, words, started).map(Some)
}

fn task(args: &ExactArgs, table: &Table) -> Result<CausalDag> {
    let refused = |key: &str, found: &str, allowed: &str| Err(Error::invalid(key, found, allowed));
    let count =
        |name: &str| table.get(name).and_then(|v| v.as_integer()).and_then(|i| usize::try_from(i).ok());
    let word = |name: &str| table.get(name).and_then(|v| v.as_str());
    if args.prior.is_some() {
        return refused("prior", "given with task=causal_dag", "its Dirichlet prior, by alpha");
    }
    for key in ["draws", "parents"] {
        if table.contains_key(key) {
            return refused(key, "given with task=causal_dag", "task=causal_tree only");
        }
    }
    let method = word("method").unwrap_or("auto");
    if !METHODS.contains(&method) {
        return Err(Error::unknown("method", method, METHODS));
    }
    if !["auto", "brute"].contains(&method) {
        return refused("method", method, "auto or brute: only trees have a prefix tree and orbits");
    }
    let t = count("T");
    let dag = match (word("graph"), word("parent_sets")) {
        (Some(_), Some(_)) => {
            return refused("parent_sets", "given with graph", "parent_sets=.. or graph=.., not both");
        }
        (None, Some(text)) => Dag::parse(text)?,
        (Some(name), None) => Dag::named(name, t.ok_or_else(|| missing("T"))?, count("order"))?,
        (None, None) => return Err(missing("graph")),
    };
    if word("parent_sets").is_some()
        && let Some(order) = count("order")
    {
        return refused("order", &order.to_string(), "graph=ngram only");
    }
    if let Some(t) = t.filter(|t| *t != dag.seq_len()) {
        let found = format!("{t} with {} parent sets", dag.seq_len() + 1);
        return Err(Error::invalid("T", found, format!("T = {}", dag.seq_len())));
    }
    let roots = match word("roots").unwrap_or("shared") {
        "shared" => DagRoots::Shared,
        "uniform" => DagRoots::Uniform,
        other => return Err(Error::unknown("roots", other, ["shared", "uniform"])),
    };
    let alpha = table.get("alpha").and_then(|v| v.as_float()).ok_or_else(|| missing("alpha"))?;
    let symbols = Sizes::of(table)?.symbols()?;
    // Refused before parameters are read.
    let entries = law::word_count(symbols, dag.seq_len()).and_then(|n| n.checked_mul(symbols as u64 + 1));
    if entries.is_none_or(|n| n > Exact::MAX_ENTRIES) {
        let found = format!("{symbols}^{} words to enumerate", dag.seq_len());
        return Err(Error::invalid("S, T", found, format!("S^T (S+1) <= {}", Exact::MAX_ENTRIES)));
    }
    CausalDag::new(dag, symbols, alpha, roots)
}
