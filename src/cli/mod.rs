//! The command line. Exit codes: 0 success, 1 an error in files or the system, 2 an error in
//! arguments or configuration, 3 a claim of `verify` failed, 128 + n stopped by signal n.

mod bench;
mod discover;
mod exact;
mod figures;
mod grad;
mod info;
mod list;
mod ood;
mod output;
mod probe;
mod progress;
mod run;
mod scaling;
mod signals;
mod sweep;
mod verify;

use crate::{Error, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::process::ExitCode;

/// Exact population gradients and fast CPU training for the theory of how transformers learn.
#[derive(Debug, Parser)]
#[command(name = "popgrad", version, about, max_term_width = 110)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
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
    /// Find the latent graph of token sequences from one sampled gradient, before any training.
    #[command(after_help = discover::AFTER_HELP)]
    Discover(discover::DiscoverArgs),
    /// Measure a model at given parameters: attention on the graph, recall of memories, losses.
    #[command(after_help = probe::AFTER_HELP)]
    Probe(probe::ProbeArgs),
    /// Evaluate trained runs on transitions of other kinds than they were trained on.
    #[command(after_help = ood::after_help())]
    Ood(ood::OodArgs),
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
    Info(info::InfoArgs),
    /// Measure the speed of kernels and training against the CPU's peak.
    #[command(after_help = bench::AFTER_HELP)]
    Bench(bench::BenchArgs),
}

/// Runs the command line of this process, and returns its exit code.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help and version as clap wrote them; of an error the first paragraph in one line,
            // like every other, then clap's tips and the usage.
            if let Some(text) = refused_value(&e) {
                say(&format!("error: {text}"));
            } else if e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && e.use_stderr() {
                let text = e.to_string();
                let mut paragraphs = text.split("\n\n").map(|p| p.lines().map(str::trim));
                say(&paragraphs.next().map_or(String::new(), |p| p.collect::<Vec<_>>().join(" ")));
                paragraphs.flatten().filter(|l| !l.is_empty()).for_each(say);
            } else {
                let _ = e.print();
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let resumed_by = match args.command {
        Command::Figures(_) => "figures",
        Command::Sweep(_) => "sweep",
        _ => "run",
    };
    let result = match args.command {
        Command::Run(args) => run::run(args).map(|()| ExitCode::SUCCESS),
        Command::Figures(args) => figures::figures(&args).map(|()| ExitCode::SUCCESS),
        Command::Sweep(args) => sweep::sweep(&args).map(|()| ExitCode::SUCCESS),
        Command::Scaling(args) => scaling::scaling(&args).map(|()| ExitCode::SUCCESS),
        Command::Grad(args) => grad::grad(args).map(|()| ExitCode::SUCCESS),
        Command::Exact(args) => exact::exact(&args).map(|()| ExitCode::SUCCESS),
        Command::Discover(args) => discover::discover(&args).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => probe::probe(&args).map(|()| ExitCode::SUCCESS),
        Command::Ood(args) => ood::ood(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::verify(&args),
        Command::List(args) => list::list(&args).map(|()| ExitCode::SUCCESS),
        Command::Keys(args) => list::keys(&args).map(|()| ExitCode::SUCCESS),
        Command::Info(args) => info::info(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::bench(args).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        // As a shell reports a process that a signal ended.
        Err(Error::Stopped { done, folder }) => {
            let folder = output::shell_word(&folder.to_string_lossy());
            say(&format!("stopped after {done}; to go on: popgrad {resumed_by} --resume {folder}"));
            ExitCode::from(128 + signals::wanted().unwrap_or(2))
        }
        Err(e) => {
            say(&format!("error: {e}"));
            ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1))
        }
    }
}

/// The message for an option whose value is refused, in the form of every other message.
fn refused_value(e: &clap::Error) -> Option<String> {
    let text = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let allowed = std::error::Error::source(e)?.to_string();
    let name = option.trim_start_matches('-').split(' ').next()?;
    (e.kind() == ErrorKind::ValueValidation).then(|| Error::invalid(name, value, allowed).to_string())
}

/// Prints a line on stderr. Control characters are escaped, so that it stays one line whatever the
/// user typed. A closed stderr is ignored.
fn say(text: &str) {
    let line: String = text
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints text on stdout. A closed pipe (`| head`) is not an error.
fn tell(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", "cannot write", e)),
        _ => Ok(()),
    }
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
    Ok(pool)
}
