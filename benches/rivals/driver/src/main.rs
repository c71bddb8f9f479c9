//! One driver for all workers: builds them, pins them, interleaves their rounds, checks every
//! result, and records medians.
//!
//! `cargo run --release -p driver -- help` lists the options;
//! docs/src/appendix/benchmarks-method.md says how to read the record.

mod cases;
mod measure;
mod process;
mod programs;
mod record;

use measure::Settings;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
driver [COMMAND] [OPTIONS]

Commands
  all      build, then machine and gemm (the default)
  build    workers, each alone, and a Python with numpy where there is none
  machine  peak of multiply-adds, load bandwidth, exp
  gemm     matrix products, ours against the rivals

Options
  --no-build         measure what is already built
  --no-record        print alone, of uncommitted work too
  --sizes A,B,..     squares, odd, batch, tall, large, or OP:MxKxN and OP:BATCH*MxKxN, OP being nn, tn or nt,
                     or one of them with -cold: operands from memory
                     [default: squares,odd,batch; large is 384 to 2048, tall sums or runs over 131072]
  --types A,B        f32, f64 [default: both]
  --threads A,B      [default: 1,2]
  --isa A,B          instruction sets of ours: avx512, avx2, portable [default: avx512,avx2, those that this CPU has];
                     without avx512, OpenBLAS held to AVX2 joins, with portable, matrixmultiply without detection
  --only A,B         implementations, by name [default: all]
  --rounds N         interleaved rounds of each case [default: 15]
  --round-ms X       length of one round [default: 2]
  --core N           core of one-thread measurements [default: 1 where there are two, else 0]
  --cores A-B        cores of the others [default: 0 to THREADS - 1]
  --out FILE         record [default: benches/record/CPU/DATE-gemm.csv]; rows measured again are replaced
";

/// What the command line asks for.
struct Args {
    command: String,
    build: bool,
    record: bool,
    out: Option<PathBuf>,
    settings: Settings,
}

fn parse(words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args =
        Args { command: "all".into(), build: true, record: true, out: None, settings: Settings::default() };
    let mut words = words.peekable();
    if let Some(command) = words.next_if(|w| !w.starts_with('-')) {
        args.command = command;
    }
    let s = &mut args.settings;
    while let Some(word) = words.next() {
        if word == "--no-build" {
            args.build = false;
            continue;
        }
        if word == "--no-record" {
            args.record = false;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word}: a value is missing"))?;
        let list = || value.split(',').map(String::from).collect::<Vec<_>>();
        let number =
            |v: &str| v.parse::<usize>().ok().filter(|n| *n > 0).ok_or(format!("{word}: `{v}` is no count"));
        match word.as_str() {
            "--sizes" => s.sizes = list(),
            "--types" => s.types = list(),
            "--isa" => s.isas = list(),
            "--only" => s.only = list(),
            "--threads" => s.threads = list().iter().map(|v| number(v)).collect::<Result<_, _>>()?,
            "--rounds" => s.rounds = number(&value)?,
            "--round-ms" => {
                let ms = value.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0);
                s.round_ns = 1e6 * ms.ok_or(format!("--round-ms: `{value}` is no time"))?;
            }
            "--core" => s.core = Some(value.parse().map_err(|_| format!("--core: `{value}` is no core"))?),
            "--cores" => s.cores = Some(value),
            "--out" => args.out = Some(value.into()),
            _ => return Err(format!("unknown option `{word}`; `driver help` lists them")),
        }
    }
    if let Some(t) = s.types.iter().find(|t| !["f32", "f64"].contains(&t.as_str())) {
        return Err(format!("--types: `{t}`; known: f32, f64"));
    }
    cases::gemm(&s.sizes, "f32", 1)?;
    Ok(args)
}

fn run() -> Result<bool, String> {
    let args = parse(std::env::args().skip(1))?;
    let root = programs::root()?;
    let command = args.command.as_str();
    if ["help", "--help", "-h"].contains(&command) {
        print!("{HELP}");
        return Ok(true);
    }
    if !["all", "build", "machine", "gemm"].contains(&command) {
        return Err(format!("unknown command `{command}`; known: all, build, machine, gemm, help"));
    }
    if command == "build" {
        programs::build(&root, &args.settings)?;
        return Ok(true);
    }
    // First, because it refuses what minutes of building would not change.
    let mut record =
        if args.record { record::Record::open(&root, "gemm", args.out)? } else { record::Record::none() };
    if args.build {
        programs::build(&root, &args.settings)?;
    }
    let mut good = true;
    if ["all", "machine"].contains(&command) {
        measure::machine(&root, &args.settings, &mut record)?;
    }
    if ["all", "gemm"].contains(&command) {
        good = measure::gemm(&root, &args.settings, &mut record)?;
    }
    if let Some(path) = record.save()? {
        println!("{}", path.display());
    }
    Ok(good)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
