//! The command line. Exit codes: 0 success, 1 an error in files or the system, 2 an error in
//! arguments or configuration, 3 a claim of `verify` failed, 128 + n stopped by signal n.

mod ablate;
mod attend;
mod bench;
mod compare;
mod discover;
mod draw;
mod exact;
mod export;
mod figures;
mod finished;
mod grad;
mod info;
mod list;
mod ood;
mod output;
mod plan;
mod probe;
mod progress;
mod report;
mod run;
mod sample;
mod scaling;
mod shell;
mod signals;
mod sweep;
mod table;
mod verify;

use crate::paper::studies;
use crate::theory::CLAIMS;
use crate::{Error, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use output::{detail, fail, insist, json, say, show, tell, wants_json, warn};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exact population gradients and fast CPU training for the theory of how transformers learn.
#[derive(Debug, Parser)]
#[command(name = "popgrad", version, about, max_term_width = 110)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: output::Global,
}

/// What a newcomer can do first: shown by `popgrad` alone, too.
const EXAMPLES: &str = "\
Examples:
  popgrad run chain --quick    a transformer learns a graph, in seconds; see runs/chain-quick
  popgrad run birth --quick    an induction head forms on text
  popgrad verify               the claims of the theory, each measured

`popgrad COMMAND --help` has more of them.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train an experiment of the papers and draw its figures.
    #[command(after_help = run::after_help())]
    Run(run::RunArgs),
    /// Make the figures of the papers, on one page.
    #[command(after_help = figures::after_help())]
    Figures(figures::FiguresArgs),
    /// Map the recovery of the graph over a grid of keys, by many short runs.
    #[command(after_help = sweep::AFTER_HELP)]
    Sweep(sweep::SweepArgs),
    /// Measure the cost of a training step as T, S, heads and batch grow.
    #[command(after_help = scaling::AFTER_HELP)]
    Scaling(scaling::ScalingArgs),
    /// Compute loss, predictions and gradients for your own parameters and tokens.
    #[command(after_help = grad::AFTER_HELP)]
    Grad(grad::GradArgs),
    /// Compute loss and gradients on the whole population, without sampling sequences.
    #[command(after_help = exact::AFTER_HELP)]
    Exact(exact::ExactArgs),
    /// Draw sequences of a task, with what they are drawn from.
    #[command(after_help = sample::AFTER_HELP)]
    Sample(sample::SampleArgs),
    /// Find the latent graph of token sequences from one sampled gradient, before any training.
    #[command(after_help = discover::AFTER_HELP)]
    Discover(discover::DiscoverArgs),
    /// Measure a model at given parameters: attention on the graph, recall of memories, losses.
    #[command(after_help = probe::AFTER_HELP)]
    Probe(probe::ProbeArgs),
    /// Replace each head, feed-forward part and block of a trained run, and measure the loss.
    #[command(after_help = ablate::AFTER_HELP)]
    Ablate(ablate::AblateArgs),
    /// Show attention and activations of a trained run on your own sequences.
    #[command(after_help = attend::AFTER_HELP)]
    Attend(attend::AttendArgs),
    /// Evaluate trained runs on transitions of other kinds than they were trained on.
    #[command(after_help = ood::after_help())]
    Ood(ood::OodArgs),
    /// Set runs side by side: keys that differ, results, curves in one picture.
    #[command(after_help = compare::AFTER_HELP)]
    Compare(compare::CompareArgs),
    /// Draw figures again from their records: another size, PDF, more pixels.
    #[command(after_help = draw::AFTER_HELP)]
    Draw(draw::DrawArgs),
    /// Write one page about runs or studies: curves, graph, attention and weights over time.
    #[command(after_help = report::AFTER_HELP)]
    Report(report::ReportArgs),
    /// Write a run's metrics as CSV, its weights over time and its test sets as arrays.
    #[command(after_help = export::AFTER_HELP)]
    Export(export::ExportArgs),
    /// Check the theory's claims against exact computation.
    #[command(after_help = verify::after_help())]
    Verify(verify::VerifyArgs),
    /// List presets, studies, models, tasks and claims.
    #[command(after_help = list::AFTER_HELP)]
    List(list::ListArgs),
    /// List the keys of runs: all, or those of a preset, task or model.
    #[command(after_help = list::AFTER_HELP_OF_KEYS)]
    Keys(list::KeysArgs),
    /// Describe the machine and the instruction set that the kernels use.
    #[command(after_help = info::AFTER_HELP)]
    Info,
    /// Measure the speed of kernels and training against the CPU's peak.
    #[command(after_help = bench::AFTER_HELP)]
    Bench(bench::BenchArgs),
    /// Print a script that completes commands, options and names in a shell.
    #[command(after_help = shell::AFTER_HELP)]
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one for each command.
    #[command(after_help = shell::AFTER_HELP_OF_MAN)]
    Man(shell::ManArgs),
}

/// Runs the command line of this process, and returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(run_words(std::env::args_os()))
}

/// Runs the command line of these words, the first of which is the program's name, and returns its
/// exit code: for a process that was started as something else.
pub fn run_words(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    let color = output::choose_color(words.iter().cloned());
    let parsed = Args::command().color(color).try_get_matches_from(words);
    let args = match parsed.and_then(|m| Args::from_arg_matches(&m)) {
        Ok(args) => args,
        Err(e) => return refuse(&e),
    };
    let resumed_by = match args.command {
        Command::Figures(_) => "figures",
        Command::Sweep(_) => "sweep",
        _ => "run",
    };
    match args.global.keep().and_then(|()| run_command(args.command)) {
        Ok(code) => code,
        // As a shell reports a process that a signal ended.
        Err(Error::Stopped { done, folder }) => {
            let folder = output::shell_word(&folder.to_string_lossy());
            insist(&format!("stopped after {done}; to go on: popgrad {resumed_by} --resume {folder}"));
            128 + signals::wanted().unwrap_or(2)
        }
        Err(e) => {
            fail(&e.to_string());
            u8::try_from(e.exit_code()).unwrap_or(1)
        }
    }
}

/// Prints what the parser says, and returns its exit code: help and version as clap wrote them; of
/// an error the first paragraph in one line, like every other, then clap's tips and the usage.
fn refuse(e: &clap::Error) -> u8 {
    if let Some(text) = refused_value(e) {
        fail(&text);
    } else if let Some(text) = refused_command(e) {
        fail(&text);
        let all = e.to_string();
        let lines =
            all.lines().map(str::trim).filter(|l| l.starts_with("Usage: ") || l.starts_with("For more"));
        lines.for_each(insist);
    } else if e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && e.use_stderr() {
        let text = e.to_string();
        let mut paragraphs = text.split("\n\n").map(|p| p.lines().map(str::trim));
        let first = paragraphs.next().map_or(String::new(), |p| p.collect::<Vec<_>>().join(" "));
        fail(first.trim_start_matches("error:").trim_start());
        paragraphs.flatten().filter(|l| !l.is_empty()).for_each(insist);
    } else {
        let _ = e.print();
    }
    u8::try_from(e.exit_code()).unwrap_or(2)
}

/// Runs a command, and returns its exit code where that is no error's.
fn run_command(command: Command) -> Result<u8> {
    let done = |()| 0;
    match command {
        Command::Run(args) => run::run(args).map(done),
        Command::Figures(args) => figures::figures(&args).map(done),
        Command::Sweep(args) => sweep::sweep(&args).map(done),
        Command::Scaling(args) => scaling::scaling(&args).map(done),
        Command::Grad(args) => grad::grad(args).map(done),
        Command::Exact(args) => exact::exact(&args).map(done),
        Command::Discover(args) => discover::discover(&args).map(done),
        Command::Probe(args) => probe::probe(&args).map(done),
        Command::Attend(args) => attend::attend(&args).map(done),
        Command::Ablate(args) => ablate::ablate(&args).map(done),
        Command::Sample(args) => sample::sample(&args).map(done),
        Command::Ood(args) => ood::ood(&args).map(done),
        Command::Report(args) => report::report(&args).map(done),
        Command::Export(args) => export::export(&args).map(done),
        Command::Compare(args) => compare::compare(&args).map(done),
        Command::Draw(args) => draw::draw(&args).map(done),
        Command::Verify(args) => verify::verify(&args),
        Command::List(args) => list::list(&args).map(done),
        Command::Keys(args) => list::keys(&args).map(done),
        Command::Info => info::info().map(done),
        Command::Bench(args) => bench::bench(args).map(done),
        Command::Completions(args) => shell::completions(&args, Args::command()).map(done),
        Command::Man(args) => shell::man(&args, Args::command()).map(done),
    }
}

/// The message for a command that does not exist: with the nearest of all, or with what takes this
/// word.
fn refused_command(e: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(name)) = e.get(ContextKind::InvalidSubcommand) else { return None };
    let allowed = if run::is_preset(name) || studies::find(name).is_some() {
        format!("`popgrad run {name}`, as it is a preset")
    } else if CLAIMS.iter().any(|c| c.id == name) {
        format!("`popgrad verify {name}`, as it is a claim")
    } else {
        let all = Args::command();
        let known = all.get_subcommands().map(clap::Command::get_name);
        return Some(Error::unknown("command", name, known).to_string());
    };
    Some(Error::invalid("command", format!("`{name}`"), allowed).to_string())
}

/// The message for an option whose value is refused, in the form of every other message.
fn refused_value(e: &clap::Error) -> Option<String> {
    let text = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    if value.is_empty() && e.kind() == ErrorKind::InvalidValue {
        // No value at all: the parser's own words name the option and what it takes.
        return None;
    }
    let allowed = match (e.kind(), e.get(ContextKind::ValidValue)) {
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(known))) => known.join(", "),
        (ErrorKind::ValueValidation, _) => std::error::Error::source(e)?.to_string(),
        _ => return None,
    };
    let name = option.trim_start_matches('-').split(' ').next()?;
    Some(Error::invalid(name, value, allowed).to_string())
}

/// How many threads, for commands whose results do not depend on it.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
struct Threads {
    /// Worker threads; they change the speed, not one bit of the result [default: all cores].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    threads: Option<usize>,
}

impl Threads {
    /// As [`pool`].
    fn pool(self) -> Result<rayon::ThreadPool> {
        pool(self.threads)
    }
}

/// A model at parameters in a file.
#[derive(Debug, clap::Args)]
struct ModelAt {
    /// Model: disentangled, simplified, mlp_transformer, memory or transformer.
    #[arg(long)]
    model: String,
    /// Parameters: one array per block (A.0, A.1, .., W; A1, A2; wte, ..; tok_embeddings.weight,
    /// ..), .npz or .safetensors.
    #[arg(long, value_name = "FILE")]
    params: PathBuf,
}

/// Reads the integer of an option, from `least` to `most`.
fn integer(text: &str, least: u64, most: u64) -> std::result::Result<u64, String> {
    let number = text.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("integers, {least} to {most}"))
}

/// Reads the number of an option.
fn real(text: &str) -> std::result::Result<f64, String> {
    text.parse().map_err(|_| "a number".into())
}

/// Reads `--threads`.
fn threads(text: &str) -> std::result::Result<usize, String> {
    integer(text, 1, most_threads() as u64).map(|n| n as usize)
}

/// Most threads: more than a few for each core take longer to start than they compute, and some
/// more are allowed where there are few cores, to check that results do not depend on them.
fn most_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (4 * cores).max(64)
}

/// A pool of `threads` threads, or of as many as there are cores or RAYON_NUM_THREADS says.
fn pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    // Read by the pool, which takes any number.
    let named = std::env::var_os(VARIABLE).filter(|_| threads.is_none());
    if let Some(text) = named.as_ref().map(|t| t.to_string_lossy()).filter(|t| !t.is_empty()) {
        integer(&text, 0, most_threads() as u64).map_err(|_| {
            Error::invalid(VARIABLE, text.as_ref(), format!("1 to {}, or 0 for all cores", most_threads()))
        })?;
    }
    let threads = threads.unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| crate::ram::no_threads(threads, &e))?;
    // An allocator reserves address space at a thread's first allocation: let all of them have
    // theirs before anyone asks what is left of it.
    pool.broadcast(|_| drop(std::hint::black_box(vec![0u8; 64])));
    detail(|| {
        let isa = popgrad_kernels::Isa::from_env().map_or("unknown", popgrad_kernels::Isa::name);
        format!("popgrad {}, {isa}, threads: {}", env!("CARGO_PKG_VERSION"), pool.current_num_threads())
    });
    Ok(pool)
}
