//! `popgrad verify`: checks claims of the theory, and writes a table, JSON and a page of
//! convergence plots.

use super::output::claim_out;
use super::table::{self, Left, columns, number};
use super::{show, tell, wants_json};
use crate::report::files::write_bytes_atomic;
use crate::report::page::{Page, Row, Section};
use crate::report::plot::{Figure, LineChart, Scale, Series, save_figure};
use crate::theory::{self, CLAIMS, Check, Claim, Fit, Outcome, Rule, Settings, Verdict};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Exit code when a claim fails.
const FAILED: u8 = 3;

/// Arguments of `popgrad verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Names of the claims [default: all].
    claims: Vec<String>,
    /// Folder for verify.json, verify.html and figures: new or empty.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Check larger sizes, and more of them.
    #[arg(long)]
    thorough: bool,
    /// List the names and statements of the claims and stop.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    threads: super::Threads,
}

/// Claims, for `--help`.
pub(super) fn after_help() -> String {
    let text = format!("Claims:\n{}", table::named_in_help(CLAIMS.iter().map(|c| (c.id, c.title.into()))));
    let examples = "\nExamples:\n  popgrad verify\n  popgrad verify leading argmax --json\n";
    text + examples
        + "\nExit code: 0 all claims hold, 3 a claim fails, 2 an error in the arguments, 1 any other error."
}

pub(super) fn verify(args: &VerifyArgs) -> Result<u8> {
    let claims = theory::select(&args.claims)?;
    if args.list {
        let listed: Vec<Listed> = claims.iter().map(|c| Listed::of(c)).collect();
        show(&listed, || listed.iter().map(Listed::text).collect())?;
        return Ok(0);
    }
    let pool = args.threads.pool()?;
    let _lock = args.out.as_deref().map(claim_out).transpose()?;
    let settings = Settings { thorough: args.thorough, ..Settings::default() };
    let mut outcomes = Vec::new();
    for claim in claims {
        let outcome = pool.install(|| theory::run(claim, &settings))?;
        if !wants_json() {
            tell(&text(&outcome))?;
        }
        outcomes.push(outcome);
    }
    let json = json(&outcomes, args.thorough)?;
    if wants_json() {
        tell(&json)?;
    } else {
        tell(&format!("{}\n", summary(&outcomes)))?;
    }
    if let Some(dir) = &args.out {
        write_bytes_atomic(&dir.join("verify.json"), json.as_bytes())?;
        page(&outcomes).save(&dir.join("verify.html"))?;
        save_figures(&outcomes, &dir.join("figures")).map_err(|e| e.of_figures(dir))?;
    }
    let failed = outcomes.iter().any(|o| o.verdict() == Verdict::Fail);
    Ok(if failed { FAILED } else { 0 })
}

/// A claim in a list.
#[derive(Serialize)]
struct Listed {
    id: &'static str,
    title: &'static str,
    statement: &'static str,
    source: &'static str,
}

impl Listed {
    fn of(c: &Claim) -> Self {
        Listed { id: c.id, title: c.title, statement: c.statement, source: c.source }
    }

    fn text(&self) -> String {
        format!("{}: {}\n    {}\n    [{}]\n", self.id, self.title, self.statement, self.source)
    }
}

fn word(v: Verdict) -> &'static str {
    match v {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Counterexample => "counterexample",
        Verdict::Noted => "noted",
    }
}

/// The condition of a check, as a formula.
fn condition(c: &Check) -> String {
    let (m, e) = (number(c.measured), number(c.expected));
    match c.rule {
        Rule::Within(tolerance) => format!("{m} = {e} ± {}", number(tolerance)),
        Rule::AtMost => format!("{m} <= {e}"),
        Rule::AtLeast => format!("{m} >= {e}"),
        Rule::Refutes => format!("{m}, not >= {e}"),
        Rule::Noted => m,
    }
}

fn parameters(c: &Check) -> String {
    c.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

fn text(o: &Outcome) -> String {
    let c = o.claim;
    let (checks, seconds) = (o.checks.len(), o.took.as_secs_f64());
    let text = format!("{}: {} ({checks} checks, {seconds:.1} s)", c.id, c.title);
    let mut rows = vec![vec![word(o.verdict()).to_string(), text]];
    for check in &o.checks {
        let text = format!("{}: {}  [{}]", check.quantity, condition(check), parameters(check));
        rows.push(vec![format!("  {}", word(check.verdict())), text]);
    }
    columns(&[("", Left), ("", Left)], rows)
}

fn summary(outcomes: &[Outcome]) -> String {
    let count = |v| outcomes.iter().filter(|o| o.verdict() == v).count();
    let checks: usize = outcomes.iter().map(|o| o.checks.len()).sum();
    format!(
        "{} claims ({checks} checks): {} hold, {} hold with their counterexample, {} fail",
        outcomes.len(),
        count(Verdict::Pass),
        count(Verdict::Counterexample),
        count(Verdict::Fail)
    )
}

#[derive(Serialize)]
struct Record<'a> {
    thorough: bool,
    verdict: Verdict,
    claims: Vec<ClaimRecord<'a>>,
}

#[derive(Serialize)]
struct ClaimRecord<'a> {
    id: &'a str,
    title: &'a str,
    statement: &'a str,
    source: &'a str,
    verdict: Verdict,
    checks: Vec<CheckRecord<'a>>,
}

#[derive(Serialize)]
struct CheckRecord<'a> {
    #[serde(flatten)]
    check: &'a Check,
    verdict: Verdict,
}

/// Without times: the same results give the same bytes.
fn json(outcomes: &[Outcome], thorough: bool) -> Result<String> {
    let claims = outcomes
        .iter()
        .map(|o| ClaimRecord {
            id: o.claim.id,
            title: o.claim.title,
            statement: o.claim.statement,
            source: o.claim.source,
            verdict: o.verdict(),
            checks: o.checks.iter().map(|check| CheckRecord { check, verdict: check.verdict() }).collect(),
        })
        .collect();
    let failed = outcomes.iter().any(|o| o.verdict() == Verdict::Fail);
    let record = Record { thorough, verdict: if failed { Verdict::Fail } else { Verdict::Pass }, claims };
    let text = serde_json::to_string_pretty(&record)
        .map_err(|e| Error::invalid("verify", e.to_string(), "results with a JSON form"))?;
    Ok(text + "\n")
}

/// The source of a claim, with the paper's number.
fn stated_in(source: &str) -> String {
    const PAPERS: [(&str, &str); 2] =
        [("Nichani et al. 2024", "arXiv 2402.14735"), ("Bietti et al. 2023", "arXiv 2306.00802")];
    let of = PAPERS.iter().find(|(paper, _)| source.starts_with(paper));
    of.map_or(source.into(), |(paper, number)| source.replacen(paper, &format!("{paper} ({number})"), 1))
}

fn page(outcomes: &[Outcome]) -> Page {
    let section = |o: &Outcome| Section {
        id: o.claim.id.into(),
        title: o.claim.title.into(),
        mark: word(o.verdict()).into(),
        text: vec![o.claim.statement.into(), format!("Stated in: {}.", stated_in(o.claim.source))],
        columns: ["verdict", "quantity", "found", "at"].map(String::from).to_vec(),
        rows: o.checks.iter().map(row).collect(),
        figures: o.checks.iter().filter_map(|c| Some(figure(c, c.fit.as_ref()?))).collect(),
        ..Section::default()
    };
    Page {
        title: "popgrad verify".into(),
        summary: summary(outcomes),
        sections: outcomes.iter().map(section).collect(),
    }
}

/// The page's figures as files: `CLAIM-1.svg`, `CLAIM-1.png`, ..
fn save_figures(outcomes: &[Outcome], dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot create folder", e))?;
    for o in outcomes {
        let figures = o.checks.iter().filter_map(|c| Some(figure(c, c.fit.as_ref()?)));
        for (n, figure) in figures.enumerate() {
            save_figure(dir, &format!("{}-{}", o.claim.id, n + 1), &figure)?;
        }
    }
    Ok(())
}

fn row(c: &Check) -> Row {
    let mark = word(c.verdict()).to_string();
    Row { cells: vec![mark.clone(), c.quantity.clone(), condition(c), parameters(c)], mark }
}

/// The points, and a dashed line of the fitted slope through their middle.
fn figure(c: &Check, fit: &Fit) -> Figure {
    let points: Vec<(f64, f64)> = fit.points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect();
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / points.len() as f64;
    let (mx, my) = (mean(&|p| p.0.log10()), mean(&|p| p.1.log10()));
    let line = points.iter().map(|p| (p.0, 10f64.powf(my + fit.slope * (p.0.log10() - mx)))).collect();
    let dashed = Series { dashed: true, ..Series::new(format!("slope {:.3}", fit.slope), line, 1) };
    LineChart {
        title: parameters(c),
        x_label: fit.x.clone(),
        y_label: fit.y.clone(),
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        series: vec![Series::new("measured", points, 0).marked(), dashed],
        size: (360.0, 240.0),
        ..LineChart::default()
    }
    .into()
}
