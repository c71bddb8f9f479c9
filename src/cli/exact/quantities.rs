//! `popgrad exact --quantities`: what the theory speaks of, for a task alone, without a model.

use super::problem::{TreeProblem, of_tree};
use super::{ExactArgs, keys_of_task, prior};
use crate::cli::grad::{held_names, missing, shape_error, take};
use crate::cli::{show, table};
use crate::config;
use crate::exact::effective::effective_length;
use crate::exact::marginals::limit;
use crate::exact::quadrature::{MAX_NODES, monte_carlo, stationary_pairs};
use crate::exact::transition::Transition;
use crate::exact::trigger_chain::{Averaged, Steps};
use crate::exact::{FinitePrior, counts, quadrature};
use crate::num::{Sum, check_eps};
use crate::report::arrays::{Array, ArrayFile, write_arrays};
use crate::rng::{Key, Purpose};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;
use toml::Table;

/// Quantities of a task over a graph, one parent each.
const OF_GRAPHS: [&str; 6] = ["mu", "chi2", "g", "ghat", "rho", "t_eff"];
/// Quantities of sequences with a trigger.
const OF_TRIGGERS: [&str; 5] = ["c_v", "c_k", "c_x", "a", "a_prime"];
/// Largest change of a number, relative to the largest of its kind and 1, at which quadrature has
/// converged.
const CONVERGED: f64 = 1e-10;
/// The same for ρ = |1 − p − q|, whose kink lets quadrature converge slowly.
const CONVERGED_RHO: f64 = 1e-5;

/// Named numbers with their shapes.
struct Quantity {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// What is written and printed.
struct Found {
    /// Facts about the task.
    about: Map<String, Value>,
    quantities: Vec<Quantity>,
    /// Of the means over drawn matrices.
    errors: Vec<Quantity>,
}

pub(super) fn quantities(args: &ExactArgs) -> Result<()> {
    for (name, given) in [
        ("model", args.model.is_some()),
        ("params", args.params.is_some()),
        ("predictions", args.predictions),
    ] {
        if given {
            return Err(Error::invalid(name, "given with quantities", "a task alone"));
        }
    }
    let known = || OF_GRAPHS.into_iter().chain(OF_TRIGGERS);
    let mut wanted: Vec<&'static str> = Vec::new();
    for name in &args.quantities {
        let found = known().find(|k| k == name);
        wanted.push(found.ok_or_else(|| Error::unknown("quantity", name, known()))?);
    }
    let table = config::parse_keys(&args.keys, &keys_of_task()?)?;
    let triggers = wanted.iter().filter(|n| OF_TRIGGERS.contains(n)).count();
    let task = table.get("task").and_then(|v| v.as_str());
    let found = args.threads.pool()?.install(|| match (triggers, task) {
        (0, None | Some("causal_tree")) => of_graph(args, &table, &wanted),
        (n, None | Some("trigger_bigram")) if n == wanted.len() => of_triggers(args, &table, &wanted),
        _ => {
            let found = format!("{} with task={}", args.quantities.join(","), task.unwrap_or("any"));
            let allowed = "mu, chi2, g, ghat, rho, t_eff of task=causal_tree, or c_v, c_k, c_x, a, a_prime of \
                           task=trigger_bigram";
            Err(Error::invalid("quantities", found, allowed))
        }
    })?;
    check(&found.quantities)?;
    if let Some(out) = &args.out {
        write(out, &found)?;
    }
    let object =
        |of: &[Quantity]| of.iter().map(|q| (q.name.to_string(), nested(&q.shape, &q.values))).collect();
    let mut all = found.about;
    all.insert("quantities".into(), Value::Object(object(&found.quantities)));
    if !found.errors.is_empty() {
        all.insert("standard_errors".into(), Value::Object(object(&found.errors)));
    }
    show(&all, || table::of_object(&all))
}

/// Rows in rows; a number that is not finite is null.
fn nested(shape: &[usize], values: &[f64]) -> Value {
    match shape.split_first() {
        None => json!(values[0]),
        Some((_, [])) => json!(values),
        Some((n, rest)) => values.chunks((values.len() / n).max(1)).map(|row| nested(rest, row)).collect(),
    }
}

/// Refuses what is no number. An entry of g may be +∞: its mean may not exist.
fn check(quantities: &[Quantity]) -> Result<()> {
    for q in quantities {
        if let Some(x) = q.values.iter().find(|x| x.is_nan() || (x.is_infinite() && q.name != "g")) {
            return Err(Error::invalid(q.name, x.to_string(), "a task for which it is finite"));
        }
    }
    Ok(())
}

fn write(out: &Path, found: &Found) -> Result<()> {
    let array = |q: &Quantity| Array::new(&q.shape, q.values.clone());
    let mut arrays: Vec<(String, Array)> = Vec::new();
    for q in &found.quantities {
        arrays.push((q.name.into(), array(q)?));
    }
    for q in &found.errors {
        arrays.push((format!("{}_standard_error", q.name), array(q)?));
    }
    let named: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a)).collect();
    write_arrays(out, &named, None)
}

/// What means over π are taken of.
struct OfGraph<'a> {
    problem: &'a TreeProblem,
    eps: f64,
    wanted: &'a [&'static str],
    /// Roots follow a law of their own, that of each atom; else μ.
    own_roots: bool,
}

impl OfGraph<'_> {
    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(&name)
    }

    /// True if E 1/μ(s) is infinite: near 0 the law of μ(s) is that of the S − 1 entries of π that
    /// lead to s, of density μ^{(S−1)α−1}. A floor under the rows is one under μ.
    fn endless(&self, alpha: f64) -> bool {
        (self.problem.symbols - 1) as f64 * alpha <= 1.0 && self.problem.gamma.is_none()
    }

    /// g (T, T), χ² (T − 1), ρ and ĝ (T, T), those that are wanted, in this order, of one atom.
    fn of_atom(&self, prior: &FinitePrior, q: usize) -> Result<Vec<f64>> {
        let x = self.problem;
        let transition = Transition::new(x.symbols, prior.atom_pi(q))?;
        let roots = self.own_roots.then(|| prior.atom_roots(q));
        let mut out = Vec::new();
        if ["g", "chi2", "rho", "t_eff"].iter().any(|n| self.wants(n)) {
            let of = limit(&transition, &x.forest, roots)?;
            out.extend_from_slice(if self.wants("g") { &of.g } else { &[] });
            out.extend_from_slice(if self.wants("chi2") { &of.chi2 } else { &[] });
            out.push(of.rho);
        }
        if self.wants("ghat") {
            out.extend(counts::leading(&transition, &x.forest, roots, self.eps)?);
        }
        Ok(out)
    }

    /// The mean over the atoms, in order.
    fn mean(&self, prior: &FinitePrior) -> Result<Vec<f64>> {
        let mut sums: Vec<Sum> = Vec::new();
        for q in 0..prior.atoms() {
            let one = self.of_atom(prior, q)?;
            sums.resize(one.len(), Sum::new());
            sums.iter_mut().zip(&one).for_each(|(s, x)| s.add(prior.weight()[q] * x));
        }
        Ok(sums.iter().map(Sum::value).collect())
    }

    /// Cuts the numbers of [`OfGraph::of_atom`] into quantities.
    fn named(&self, values: &[f64], errors: bool) -> Vec<Quantity> {
        let t = self.problem.forest.seq_len();
        let (mut rest, mut out) = (values, Vec::new());
        let mut take = |name: &'static str, shape: &[usize]| {
            let (own, more) = rest.split_at(shape.iter().product());
            rest = more;
            out.push(Quantity { name, shape: shape.to_vec(), values: own.to_vec() });
        };
        for (name, shape) in [("g", &[t, t][..]), ("chi2", &[t - 1])] {
            if self.wants(name) {
                take(name, shape);
            }
        }
        if ["g", "chi2", "rho", "t_eff"].iter().any(|n| self.wants(n)) {
            take("rho", &[]);
        }
        if self.wants("ghat") {
            take("ghat", &[t, t]);
        }
        let rho = out.iter().find(|q| q.name == "rho").map(|q| q.values[0]);
        if let Some(rho) = rho.filter(|_| self.wants("t_eff") && !errors) {
            let values = vec![effective_length(&self.problem.forest, rho)];
            out.push(Quantity { name: "t_eff", shape: vec![], values });
        }
        out.retain(|q| self.wants(q.name));
        out
    }
}

/// μ of every atom (Q, S), and the atoms' probabilities (Q).
fn stationary_laws(prior: &FinitePrior) -> Result<Vec<Quantity>> {
    let (q, s) = (prior.atoms(), prior.symbols());
    let mut values = Vec::with_capacity(q * s);
    for a in 0..q {
        values.extend_from_slice(Transition::new(s, prior.atom_pi(a))?.mu());
    }
    Ok(vec![
        Quantity { name: "mu", shape: vec![q, s], values },
        Quantity { name: "weight", shape: vec![q], values: prior.weight().to_vec() },
    ])
}

fn of_graph(args: &ExactArgs, table: &Table, wanted: &[&'static str]) -> Result<Found> {
    let given = table.get("S").and_then(|v| v.as_integer()).and_then(|s| usize::try_from(s).ok());
    let symbols = match (given, &args.prior) {
        (Some(s), _) => s,
        (None, Some(path)) => prior::symbols(path)?,
        (None, None) => return Err(missing("S")),
    };
    let eps = table.get("eps").and_then(|v| v.as_float()).unwrap_or(0.0);
    check_eps(eps)?;
    if table.contains_key("eps") && !wanted.contains(&"ghat") {
        return Err(Error::invalid("eps", eps.to_string(), "with ghat only: no other quantity has an ε"));
    }
    if let Some(method) = table.get("method") {
        return Err(Error::invalid("method", method.to_string(), "none with quantities"));
    }
    let problem = of_tree(args, table, symbols)?;
    let x = &problem;
    let mut of = OfGraph { problem: x, eps, wanted, own_roots: !x.stationary };
    let (means, mut errors, laws, method);
    match &args.prior {
        Some(path) => {
            let (prior, roots_given) = prior::finite(path, x, symbols)?;
            if let Some(alpha) = x.alpha {
                return Err(Error::invalid("alpha", alpha.to_string(), "no alpha beside a prior file"));
            }
            of.own_roots |= roots_given;
            (means, errors, method) = (of.mean(&prior)?, Vec::new(), "prior file".to_string());
            laws = of.wants("mu").then(|| stationary_laws(&prior)).transpose()?;
        }
        None => {
            let alpha = x.alpha.ok_or_else(|| missing("alpha"))?;
            match x.draws {
                Some(draws) => {
                    let endless = of.endless(alpha);
                    if endless && of.own_roots && of.wants("g") {
                        let allowed =
                            "(S - 1) alpha > 1 with uniform roots: else entries of g have no finite mean";
                        return Err(Error::invalid("alpha", alpha.to_string(), allowed));
                    }
                    let key = Key::new(x.seed, Purpose::Prior);
                    let one = prior::of_rows(x, &quadrature::draws(symbols, alpha, &key, 0, 1)?)?;
                    let len = of.of_atom(&one, 0)?.len();
                    laws = match (of.wants("mu"), usize::try_from(draws)) {
                        (true, Ok(n)) => {
                            let rows = quadrature::draws(symbols, alpha, &key, 0, n).map_err(|_| {
                                Error::invalid(
                                    "draws",
                                    draws.to_string(),
                                    "fewer with mu, which holds every matrix",
                                )
                            })?;
                            Some(stationary_laws(&prior::of_rows(x, &rows)?)?)
                        }
                        (true, Err(_)) => {
                            return Err(Error::invalid("draws", draws.to_string(), "fewer with mu"));
                        }
                        (false, _) => None,
                    };
                    let mut watch = prior::Watch::new(draws, args.force);
                    let mean = monte_carlo(symbols, alpha, &key, draws, len, |p, out| {
                        let one = prior::of_rows(x, p).and_then(|p| of.of_atom(&p, 0));
                        // The first draw went through: this one is too near to a reducible chain.
                        out.copy_from_slice(&one.map_err(|e| {
                            let found = format!("{alpha}; of a drawn matrix, {e}");
                            Error::invalid("alpha", found, "larger ones, or fewer draws")
                        })?);
                        watch.one_more()
                    })?;
                    let (mut mean, mut error) = (mean.mean, mean.standard_error);
                    if endless && of.wants("g") {
                        let query = x.forest.seq_len() * x.forest.seq_len() - 1;
                        (mean[query], error[query]) = (f64::INFINITY, f64::INFINITY);
                    }
                    (means, errors) = (mean, of.named(&error, true));
                    method = format!("{draws} matrices drawn");
                }
                None if symbols == 2 => {
                    let (nodes, found, prior) = by_quadrature(&of, alpha)?;
                    (means, errors) = (found, Vec::new());
                    method = format!("quadrature with {nodes} nodes per axis");
                    laws = of.wants("mu").then(|| stationary_laws(&prior)).transpose()?;
                }
                None => {
                    let allowed = "draws=N, or a prior file: there is no quadrature beyond S=2";
                    return Err(Error::invalid("S", symbols.to_string(), allowed));
                }
            }
        }
    }
    let mut quantities = laws.unwrap_or_default();
    quantities.extend(of.named(&means, false));
    errors.retain(|q| q.name != "mu");
    let about = json!({
        "task": "causal_tree", "S": symbols, "T": x.forest.seq_len(), "parents": x.forest.parents_i64(),
        "roots": if of.own_roots { if x.stationary { "given" } else { "uniform" } } else { "stationary" },
        "eps": eps, "method": method,
    });
    let Value::Object(about) = about else { unreachable!("an object") };
    Ok(Found { about, quantities, errors })
}

/// Doubles the nodes until nothing moves. g\[T−1, T−1\] has no finite mean where α <= 1.
fn by_quadrature(of: &OfGraph<'_>, alpha: f64) -> Result<(usize, Vec<f64>, FinitePrior)> {
    let t = of.problem.forest.seq_len();
    let endless = (of.wants("g") && of.endless(alpha)).then_some(t * t - 1);
    let counted = |name: &str, n: usize| if of.wants(name) { n } else { 0 };
    let rho = counted("g", t * t) + counted("chi2", t - 1);
    let has_rho = ["g", "chi2", "rho", "t_eff"].iter().any(|n| of.wants(n));
    // ρ is a by-product where it is not wanted.
    let slow = ["rho", "t_eff"].iter().any(|n| of.wants(n)).then_some(CONVERGED_RHO / CONVERGED);
    let weight = |at: usize| if has_rho && at == rho { slow.map_or(0.0, f64::recip) } else { 1.0 };
    let mut last: Option<Vec<f64>> = None;
    let mut nodes = 8;
    loop {
        let prior = prior::of_rows(of.problem, &stationary_pairs(alpha, nodes)?)?;
        let mut now = of.mean(&prior)?;
        if let Some(at) = endless {
            now[at] = f64::INFINITY;
        }
        let scale = now.iter().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
        let moved = last.as_ref().map(|old| {
            let both = old.iter().zip(&now).enumerate().filter(|(_, (a, _))| a.is_finite());
            both.map(|(at, (a, b))| weight(at) * (a - b).abs()).fold(0.0, f64::max)
        });
        match moved {
            Some(moved) if moved <= CONVERGED * scale => return Ok((nodes, now, prior)),
            Some(moved) if 2 * nodes > MAX_NODES => {
                let found = format!("the quantities still move by {moved:e} at {nodes} nodes per axis");
                let allowed = "an alpha at which their means are finite";
                return Err(Error::invalid("alpha", found, allowed));
            }
            _ => (last, nodes) = (Some(now), 2 * nodes),
        }
    }
}

fn of_triggers(args: &ExactArgs, table: &Table, wanted: &[&'static str]) -> Result<Found> {
    if let Some((key, value)) = table.iter().find(|(k, _)| !["task", "N", "T"].contains(&k.as_str())) {
        return Err(Error::invalid(key, value.to_string(), "N and T alone with these quantities"));
    }
    let count = |key: &str| table.get(key).and_then(|v| v.as_integer()).and_then(|n| usize::try_from(n).ok());
    let len = count("T").ok_or_else(|| missing("T"))?;
    let (n, tokens, rows, gaps) = match &args.prior {
        None => {
            let n = count("N").ok_or_else(|| missing("N"))?;
            let Steps { token, average, rows, .. } = Steps::uniform(n, len)?;
            (n, "uniform", [rows.value, rows.key, rows.cross], Some([token, average]))
        }
        Some(path) => {
            let [start, bigram] = bigrams(path)?;
            let n = start.len();
            if let Some(given) = count("N").filter(|given| *given != n) {
                return Err(Error::invalid("N", given.to_string(), format!("{n}, as in the prior file")));
            }
            let of = Averaged::new(&start, &bigram, len).map_err(|e| Error::format(path, e.to_string()))?;
            (n, "bigrams of a file", [of.value, of.key, of.cross], None)
        }
    };
    let mut quantities = Vec::new();
    for (name, values) in ["c_v", "c_k", "c_x"].into_iter().zip(rows) {
        quantities.push(Quantity { name, shape: vec![len, len], values });
    }
    for (i, name) in ["a", "a_prime"].into_iter().enumerate() {
        match gaps {
            Some(gaps) => quantities.push(Quantity { name, shape: vec![], values: vec![gaps[i]] }),
            None if wanted.contains(&name) => {
                return Err(Error::invalid(name, "with bigrams of a file", "uniform tokens"));
            }
            None => {}
        }
    }
    quantities.retain(|q| wanted.contains(&q.name));
    let about = json!({ "task": "trigger_bigram", "N": n, "T": len, "tokens": tokens });
    let Value::Object(about) = about else { unreachable!("an object") };
    Ok(Found { about, quantities, errors: Vec::new() })
}

/// `start` (N) and `bigram` (N, N) of a file.
fn bigrams(path: &Path) -> Result<[Vec<f64>; 2]> {
    let file = ArrayFile::open(path)?;
    let (mut arrays, held) = (file.read(&["start", "bigram"])?, held_names(&file));
    let [start, bigram] = ["start", "bigram"].map(|name| take(&mut arrays, &held, path, name));
    let (start, bigram) = (start?, bigram?);
    let &[n] = start.shape() else { return Err(shape_error(path, "start", &start, "(N)")) };
    if bigram.shape() != [n, n] {
        return Err(shape_error(path, "bigram", &bigram, &format!("(N, N) = ({n}, {n})")));
    }
    Ok([start.to_f64_vec(), bigram.to_f64_vec()])
}
