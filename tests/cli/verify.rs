//! `popgrad verify`: every claim holds, wrong formulas are detected, and the command line reports
//! both.

use popgrad::exact::transition::Transition;
use popgrad::exact::trigger_chain::{Averaged, Steps, TriggerChain};
use popgrad::model::{Memories, Memory, Model};
use popgrad::task::Forest;
use popgrad::theory::{CLAIMS, Formulas, MemoryFormulas, Outcome, Settings, Verdict, run, select};
use std::fs;
use std::process::{Command, Output};

fn outcome(id: &str, formulas: Formulas) -> Outcome {
    let claim = select(&[id.to_string()]).unwrap()[0];
    run(claim, &Settings { thorough: false, formulas }).unwrap()
}

#[test]
fn every_claim_holds() {
    for claim in CLAIMS {
        let o = outcome(claim.id, Formulas::default());
        let failed: Vec<_> = o.checks.iter().filter(|c| c.verdict() == Verdict::Fail).collect();
        assert!(failed.is_empty() && !o.checks.is_empty(), "{}: {failed:#?}", claim.id);
        // A claim of finite length says how long that effectively is.
        if claim.id.starts_with("theorem") {
            assert!(o.checks.iter().any(|c| c.parameters.iter().any(|(k, _)| k == "T_eff")), "{}", claim.id);
        }
    }
    let verdict = |id| outcome(id, Formulas::default()).verdict();
    assert_eq!(verdict("diagonal"), Verdict::Counterexample);
    assert_eq!(verdict("algorithm"), Verdict::Pass);
}

/// A wrong formula, and the claims that must fail by it.
#[track_caller]
fn caught(what: &str, formulas: Formulas, claims: &[&str]) {
    for id in claims {
        let o = outcome(id, formulas);
        assert_eq!(o.verdict(), Verdict::Fail, "{what} went unseen by `{id}`");
    }
}

#[test]
fn wrong_formulas_are_seen() {
    let right = Formulas::default();
    caught("a prefactor off by T", Formulas { prefactor: |b, s, _| b / s as f64, ..right }, &["leading"]);
    caught(
        "a prefactor off by 1/1000",
        Formulas { prefactor: |b, s, t| 1.001 * b / (s * t) as f64, ..right },
        &["leading"],
    );
    caught(
        "a Jacobian without its second term",
        Formulas { jacobian: |m, x| m.iter().zip(x).map(|(m, x)| m * x).collect(), ..right },
        &["gradients", "leading"],
    );
    caught(
        "a uniform law for the stationary one",
        Formulas { stationary: |t: &Transition| vec![1.0 / t.symbols() as f64; t.symbols()], ..right },
        &["finite-length"],
    );
    caught(
        "a mask without the diagonal",
        Formulas { attended: |i| i.max(1), ..right },
        &["gradients", "leading", "finite-length"],
    );
    caught(
        "a mask that sees the next position",
        Formulas { attended: |i| i + 2, ..right },
        &["gradients", "leading"],
    );
    caught(
        "a root taken for a child of the position before it",
        Formulas { parent: |f: &Forest, i| f.parent(i).or(i.checked_sub(1)), ..right },
        &["finite-length", "symmetry", "theorem2"],
    );
    caught(
        "roots counted under the last position",
        Formulas { parent: |f: &Forest, i| f.parent(i).or(Some(f.len_context() - 1)), ..right },
        &["symmetry"],
    );
    caught("an edge less to j", Formulas { exponents: |a, b| [a, b], ..right }, &["finite-length"]);
    caught("a and b exchanged", Formulas { exponents: |a, b| [b + 1, a], ..right }, &["finite-length"]);
    caught("1/(1 + 2α)", Formulas { two_symbols: |a| 1.0 / (1.0 + 2.0 * a), ..right }, &["two-symbols"]);
    caught("λ for λ²", Formulas { lazy: |l, s| [l * (s as f64 - 1.0); 2], ..right }, &["diagonal"]);
    caught("a bound without 1 − ρ", Formulas { margin: |square, _| square, ..right }, &["data-processing"]);
    caught(
        "the direction 11ᵀ/S",
        Formulas { direction: |s| vec![1.0 / s as f64; s * s], ..right },
        &["symmetry"],
    );
    caught("moments of a fixed row", Formulas { row_moments: |_| [1.0, 0.0], ..right }, &["label-noise"]);
    caught(
        "moments of a row of total A - 1",
        Formulas { row_moments: |a| [(a - 1.0) / a, 1.0 / a], ..right },
        &["label-noise"],
    );
    caught(
        "both heads on the first parent",
        Formulas { slot: |parents, _| parents.first().copied(), ..right },
        &["several-parents"],
    );
    caught(
        "heads exchanged",
        Formulas { slot: |parents, h| parents.iter().rev().nth(h).copied(), ..right },
        &["several-parents"],
    );
    caught(
        "counts without a prior",
        Formulas {
            predictor: |_, n| {
                let total = n.iter().sum::<f64>();
                n.iter().map(|x| if total > 0.0 { x / total } else { 1.0 / n.len() as f64 }).collect()
            },
            ..right
        },
        &["symmetry"],
    );
    caught(
        "distance by one too many",
        Formulas { overlap: |r, d| r.powi(d as i32 + 1), ..right },
        &["finite-length"],
    );
}

/// The memories, one of them transposed.
fn written_turned(
    model: &Memory<f64>,
    params: &mut [f64],
    what: &Memories<'_>,
    block: &str,
) -> Result<(), popgrad::Error> {
    model.write_memories(params, what)?;
    let block = model.layout().find(&format!("{block}.weight")).expect("a block of the model");
    let d = block.shape()[0];
    let right = params[block.range()].to_vec();
    params[block.range()].iter_mut().enumerate().for_each(|(i, x)| *x = right[i % d * d + i / d]);
    Ok(())
}

#[test]
fn wrong_formulas_of_the_memory_viewpoint_are_seen() {
    let right = MemoryFormulas::default();
    let caught = |what: &str, memory: MemoryFormulas, claims: &[&str]| {
        caught(what, Formulas { memory, ..Formulas::default() }, claims);
    };
    caught(
        "a residual without p̂",
        MemoryFormulas { residual: |y, _| y, ..right },
        &["lemmas", "memory-model", "noise-filter"],
    );
    caught(
        "a lead of 1/(N - 1)",
        MemoryFormulas {
            filter: |n, t, m| [1.0 / (n - 1) as f64, (MemoryFormulas::default().filter)(n, t, m)[1]],
            ..right
        },
        &["noise-filter"],
    );
    caught(
        "noise of samples without 1 - 1/N",
        MemoryFormulas { filter: |n, t, m| [1.0 / n as f64, ((n * t * m) as f64).powf(-0.5)], ..right },
        &["noise-filter"],
    );
    caught(
        "attention's worth without its mean",
        MemoryFormulas { advantage: |of, _| of, ..right },
        &["lemmas", "memory-model"],
    );
    caught(
        "a divided by N for N − 1",
        MemoryFormulas {
            steps: |n, t| {
                let mut s = Steps::uniform(n, t)?;
                s.token *= (n - 1) as f64 / n as f64;
                Ok(s)
            },
            ..right
        },
        &["first-steps", "bigram-steps", "memory-model"],
    );
    caught(
        "a' where a belongs in the value path",
        MemoryFormulas {
            steps: |n, t| {
                let mut s = Steps::uniform(n, t)?;
                s.rows.value.iter_mut().for_each(|x| *x *= s.token / s.average);
                Ok(s)
            },
            ..right
        },
        &["first-steps", "nonlinear-step"],
    );
    caught(
        "a key gap of uncentred G",
        MemoryFormulas {
            steps: |n, t| {
                let mut s = Steps::uniform(n, t)?;
                let chain = TriggerChain::uniform(n, t)?;
                let (g, share) = (chain.mean(&[0.0, s.token, 0.0]), chain.mean(&[1.0, 0.0, 0.0]));
                let (mut sum, mut q) = (0.0, 0.0);
                for i in 0..t {
                    q += share[i];
                    sum += g.iter().sum::<f64>() / t as f64 * q / (i + 1) as f64;
                }
                s.key_gap += sum / (t * (n - 1)) as f64;
                Ok(s)
            },
            ..right
        },
        &["first-steps", "key-gap"],
    );
    caught(
        "a key gap one position late",
        MemoryFormulas {
            steps: |n, t| Ok(Steps { key_gap: Steps::uniform(n, t + 1)?.key_gap, ..Steps::uniform(n, t)? }),
            ..right
        },
        &["first-steps", "key-gap"],
    );
    caught(
        "no path through the attention of layer 2",
        MemoryFormulas {
            third: |s, c| s.rows.value.iter().zip(&s.rows.key).map(|(v, k)| v + c * k).collect(),
            ..right
        },
        &["third-step", "nonlinear-step"],
    );
    caught(
        "keys that forget the value path",
        MemoryFormulas {
            third: |s, c| s.rows.key.iter().zip(&s.rows.cross).map(|(k, x)| c * (k + x)).collect(),
            ..right
        },
        &["nonlinear-step"],
    );
    caught(
        "attention to t itself for t − 1",
        MemoryFormulas {
            steps: |n, t| {
                let mut s = Steps::uniform(n, t)?;
                (1..t).for_each(|i| s.rows.key.swap(i * t + i, i * t + i - 1));
                Ok(s)
            },
            ..right
        },
        &["third-step"],
    );
    caught(
        "a step on W_O² that forgets the mean over labels",
        MemoryFormulas {
            averaged: |start, pi, t| {
                let (mut a, n) = (Averaged::new(start, pi, t)?, start.len());
                // Σ_q Σ_t P(z_t = v | q, o) as it is.
                a.token.fill(0.0);
                for (q, o) in (0..n * n).map(|i| (i / n, i % n)).filter(|(q, o)| q != o) {
                    let chain = TriggerChain::bigram(start, pi, q, o, t)?;
                    for law in chain.marginals().chunks_exact(n) {
                        let row = &mut a.token[o * n..(o + 1) * n];
                        row.iter_mut().zip(law).for_each(|(x, p)| *x += p / (n * (n - 1) * t) as f64);
                    }
                }
                Ok(a)
            },
            ..right
        },
        &["bigram-steps"],
    );
    caught(
        "pairs with the transposed bigrams",
        MemoryFormulas {
            averaged: |start, pi, t| {
                let n = start.len();
                let mut turned: Vec<f64> = (0..n * n).map(|i| pi[i % n * n + i / n]).collect();
                for row in turned.chunks_exact_mut(n) {
                    let total: f64 = row.iter().sum();
                    row.iter_mut().for_each(|x| *x /= total);
                }
                Averaged::new(start, &turned, t)
            },
            ..right
        },
        &["bigram-steps"],
    );
    caught(
        "keys of another position",
        MemoryFormulas {
            averaged: |start, pi, t| {
                let mut a = Averaged::new(start, pi, t)?;
                (1..t).for_each(|i| a.key.swap(i * t + i, i * t + i - 1));
                Ok(a)
            },
            ..right
        },
        &["bigram-steps"],
    );
    caught(
        "the position after for the one before",
        MemoryFormulas { written: |m, p, what| written_turned(m, p, what, "layers.0.attention.wk"), ..right },
        &["memory-model"],
    );
    caught(
        "w_1(v) w_E(v)ᵀ for w_E(v) w_1(v)ᵀ",
        MemoryFormulas { written: |m, p, what| written_turned(m, p, what, "layers.1.attention.wk"), ..right },
        &["memory-model"],
    );
    caught(
        "values that call up outputs the wrong way round",
        MemoryFormulas { written: |m, p, what| written_turned(m, p, what, "layers.1.attention.wo"), ..right },
        &["memory-model"],
    );
    caught(
        "noise of the other pairs alone",
        MemoryFormulas { noise: |n, d| [n as f64 / (d * d) as f64; 2], ..right },
        &["capacity"],
    );
    caught(
        "capacity of order d",
        MemoryFormulas { noise: |n, d| [n as f64 / d as f64; 2], ..right },
        &["capacity"],
    );
}

fn popgrad(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_popgrad")).arg("verify").args(args).output().unwrap()
}

fn stdout(o: &Output) -> &str {
    std::str::from_utf8(&o.stdout).unwrap()
}

#[test]
fn the_command_writes_what_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("v");
    let text = out.to_str().unwrap();
    let o = popgrad(&["leading", "diagonal", "--json", "--out", text]);
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    assert_eq!(fs::read(out.join("verify.json")).unwrap(), o.stdout);
    let json: serde_json::Value = serde_json::from_str(stdout(&o)).unwrap();
    let claims = json["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 2);
    assert_eq!((&claims[0]["id"], &claims[0]["verdict"]), (&"leading".into(), &"pass".into()));
    assert_eq!(claims[1]["verdict"], "counterexample");
    let slope = claims[0]["checks"].as_array().unwrap().iter().find(|c| !c["fit"].is_null()).unwrap();
    assert_eq!(slope["rule"], "within");
    assert!((slope["fit"]["slope"].as_f64().unwrap() - 1.0).abs() < 0.02);
    assert!(slope["parameters"].as_array().unwrap().iter().any(|p| p[0] == "T_eff"));
    let html = fs::read_to_string(out.join("verify.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("Leading order") && html.contains("counterexample"));
    assert!(html.contains("Nichani et al. 2024 (arXiv 2402.14735), the leading order"));
    assert!(html.contains("type=\"search\"") && html.contains("name=\"viewport\""));
    assert!(out.join("figures/leading-1.svg").is_file() && out.join("figures/leading-2.png").is_file());
    // The same again on another number of threads: the same bytes.
    assert_eq!(popgrad(&["leading", "diagonal", "--json", "--threads", "1"]).stdout, o.stdout);
    // Nothing is overwritten.
    assert_eq!(popgrad(&["leading", "--out", text]).status.code(), Some(2));
}

#[test]
fn lists_and_refusals() {
    let o = popgrad(&["--list"]);
    assert_eq!(o.status.code(), Some(0));
    assert!(CLAIMS.iter().all(|c| stdout(&o).contains(&format!("{}: {}", c.id, c.title))));
    let o = popgrad(&["leding"]);
    assert_eq!(o.status.code(), Some(2));
    let err = String::from_utf8(o.stderr).unwrap();
    assert!(
        err.contains("unknown claim `leding`, did you mean `leading`?")
            && err.trim_end().lines().count() == 1,
        "{err}"
    );
    assert!(o.stdout.is_empty());
    assert_eq!(popgrad(&["--threads", "0"]).status.code(), Some(2));
    let mut ids: Vec<_> = CLAIMS.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CLAIMS.len());
}
