//! The workers: where they are, how they are built, what they need around them.

use crate::measure::Settings;
use crate::process::{Process, Program};
use crate::record::has_avx512;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
pub fn root() -> Result<PathBuf, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).map(Path::to_path_buf).ok_or_else(|| "built outside the repository".into())
}

/// Ours, one worker for each instruction set.
pub fn ours(root: &Path, isa: &str) -> Program {
    Program {
        env: vec![("POPGRAD_ISA".into(), isa.into())],
        ..rust(root, &format!("popgrad-{isa}"), "popgrad-worker")
    }
}

fn rust(root: &Path, name: &str, package: &'static str) -> Program {
    let binary = root.join("benches/rivals/target/release").join(package);
    Program { name: name.into(), command: vec![binary], env: Vec::new(), package: Some(package) }
}

/// Everything that multiplies, ours first, as the settings choose.
pub fn all(root: &Path, settings: &Settings) -> Vec<Program> {
    let mut all: Vec<Program> = settings.isas.iter().map(|isa| ours(root, isa)).collect();
    // Once more with every product planned beforehand, on the first of them.
    if let Some(isa) = settings.isas.first() {
        let mut planned = ours(root, isa);
        planned.name += "-plan";
        planned.env.push(("RIVAL_PLANNED".into(), "1".into()));
        all.insert(1, planned);
    }
    all.push(rust(root, "faer", "faer-worker"));
    all.push(rust(root, "gemm-v4", "gemm-v4"));
    all.push(rust(root, "gemm", "gemm-default"));
    all.push(rust(root, "matrixmultiply", "matrixmultiply-worker"));
    if has_libxsmm() {
        all.push(rust(root, "libxsmm", "libxsmm-worker"));
    } else {
        eprintln!("skipped: libxsmm (no libxsmm-dev; LIBXSMM_LIB names the folder of another)");
    }
    all.push(rust(root, "onednn", "onednn-worker"));
    let has = |isa: &str| settings.isas.iter().any(|i| i == isa);
    // Beside a narrower instruction set, rivals that are held to it too.
    if has("portable") {
        all.push(rust(root, "matrixmultiply-sse2", "matrixmultiply-portable"));
    }
    if let Some((python, openblas)) = python(root) {
        let library = ("RIVAL_OPENBLAS".to_string(), openblas);
        if !has("avx512") {
            let core = ("OPENBLAS_CORETYPE".to_string(), "Haswell".to_string());
            let env = vec![library.clone(), core];
            all.push(Program { env, ..rust(root, "openblas-avx2", "openblas-worker") });
        }
        all.push(Program { env: vec![library], ..rust(root, "openblas", "openblas-worker") });
        let script = root.join("benches/rivals/python/numpy_worker.py");
        all.push(Program {
            name: "numpy".into(),
            command: vec![python, script],
            env: Vec::new(),
            package: None,
        });
    } else {
        eprintln!("skipped: openblas and numpy (no Python with numpy; `driver build` makes one)");
    }
    let wanted = |p: &Program| {
        settings.only.is_empty()
            || settings.only.iter().any(|o| p.name == *o || p.name.starts_with(&format!("{o}-")))
    };
    all.retain(wanted);
    all
}

/// Starts one, without fail: a worker that cannot run here is a line on stderr. An OpenBLAS that
/// does not know this CPU and fell back to a core without AVX-512 is told which core it has.
pub fn start(program: &Program, cores: Option<&str>, threads: usize) -> Option<Process> {
    let started = Process::start(program, cores, threads).and_then(|p| {
        let told = program.env.iter().any(|(name, _)| name == "OPENBLAS_CORETYPE");
        let blind = has_avx512()
            && !told
            && ["Haswell", "Zen", "Prescott"].iter().any(|c| p.about.ends_with(&format!("core {c}")));
        if !blind {
            return Ok(p);
        }
        let mut program = program.clone();
        program.env.push(("OPENBLAS_CORETYPE".into(), "SkylakeX".into()));
        Process::start(&program, cores, threads)
    });
    started.map_err(|e| eprintln!("skipped: {e}")).ok()
}

/// Is there a library to link? As libxsmm/build.rs looks for it.
fn has_libxsmm() -> bool {
    let folder = std::env::var("LIBXSMM_LIB").unwrap_or_else(|_| "/usr/lib".into());
    Path::new(&folder).join("libxsmm.a").exists()
}

/// A Python that has numpy, and the OpenBLAS that its wheel carries.
fn python(root: &Path) -> Option<(PathBuf, String)> {
    let find = "import glob, numpy, os; d = os.path.dirname(numpy.__file__); \
                print(glob.glob(os.path.join(d, '..', 'numpy.libs', 'libscipy_openblas64_*'))[0])";
    let candidates = [venv(root).join("bin/python"), PathBuf::from("python3")];
    candidates.into_iter().find_map(|python| {
        let out = Command::new(&python).args(["-c", find]).stderr(Stdio::null()).output().ok()?;
        out.status.success().then(|| (python, String::from_utf8_lossy(&out.stdout).trim().to_string()))
    })
}

fn venv(root: &Path) -> PathBuf {
    root.join("benches/rivals/venv")
}

/// Builds every worker by itself: one cargo invocation for several would unify the features of what
/// they share.
pub fn build(root: &Path, settings: &Settings) -> Result<(), String> {
    if python(root).is_none() {
        let venv = venv(root);
        let make = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        let pip = || Command::new(venv.join("bin/pip")).args(["install", "--quiet", "numpy"]).status();
        if !make.is_ok_and(|s| s.success()) || !pip().is_ok_and(|s| s.success()) {
            eprintln!("no numpy: its rows will be missing");
        }
    }
    let mut packages: Vec<&str> = all(root, settings).iter().filter_map(|p| p.package).collect();
    packages.push("popgrad-worker");
    packages.sort_unstable();
    packages.dedup();
    for package in packages {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--locked", "--quiet", "-p", package]);
        let status = cargo.current_dir(root.join("benches/rivals")).status();
        if !status.is_ok_and(|s| s.success()) {
            return Err(format!("cargo build -p {package} failed"));
        }
    }
    Ok(())
}
