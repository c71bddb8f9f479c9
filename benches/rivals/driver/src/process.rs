//! A worker as a child process, pinned to its cores.

use rival_worker::Case;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What to start.
#[derive(Clone)]
pub struct Program {
    /// Name in tables and records.
    pub name: String,
    /// Binary and arguments.
    pub command: Vec<PathBuf>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// `cargo build -p` of this makes it; none for scripts.
    pub package: Option<&'static str>,
}

/// A running worker.
pub struct Process {
    pub name: String,
    /// What it said of itself.
    pub about: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// One answer: nanoseconds of all rounds, checksum.
pub type Answer = Result<(f64, i64), NoAnswer>;

/// Why there is none.
pub enum NoAnswer {
    /// The worker does not do this case.
    Refused(String),
    /// It does nothing any more.
    Broken(String),
}

impl Process {
    /// Starts `program` on `cores` (as `taskset -c` takes them; nowhere in particular without
    /// taskset).
    pub fn start(program: &Program, cores: Option<&str>, threads: usize) -> Result<Process, String> {
        let mut command = match cores {
            Some(cores) => {
                let mut c = Command::new("taskset");
                c.arg("-c").arg(cores).arg(&program.command[0]);
                c
            }
            None => Command::new(&program.command[0]),
        };
        command.args(&program.command[1..]).envs(program.env.iter().cloned());
        for pool in ["RAYON_NUM_THREADS", "MATMUL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"] {
            command.env(pool, threads.to_string());
        }
        // Its threads spin between calls: briefly, or they would disturb the next worker.
        command.env("OPENBLAS_THREAD_TIMEOUT", "22").env("GOMP_SPINCOUNT", "100000");
        let fail = |e: std::io::Error| format!("{}: {e}", program.name);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(fail)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { unreachable!() };
        let mut p = Process {
            name: program.name.clone(),
            about: String::new(),
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let hello = p.line()?;
        let about = hello.strip_prefix("hello ").ok_or_else(|| format!("{}: `{hello}`", p.name))?;
        p.about = about.to_string();
        Ok(p)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(n) if n > 0 => Ok(line.trim_end().to_string()),
            _ => Err(format!("{}: ended without an answer", self.name)),
        }
    }

    /// Runs a case `rounds` times.
    pub fn ask(&mut self, case: &Case, rounds: usize) -> Answer {
        let broken = |what: String| NoAnswer::Broken(format!("{}: {what}", self.name));
        let sent = writeln!(self.stdin, "{} {rounds}", case.line()).and_then(|()| self.stdin.flush());
        sent.map_err(|e| broken(e.to_string()))?;
        let line = self.line().map_err(NoAnswer::Broken)?;
        if let Some(reason) = line.strip_prefix("no ") {
            return Err(NoAnswer::Refused(format!("{}: {reason}", self.name)));
        }
        let bad = || NoAnswer::Broken(format!("{}: {line}", self.name));
        let mut words = line.split(' ');
        let (Some("ok"), Some(ns), Some(sum)) = (words.next(), words.next(), words.next()) else {
            return Err(bad());
        };
        Ok((ns.parse().map_err(|_| bad())?, sum.parse().map_err(|_| bad())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A worker ends when its input does; one that hangs is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
