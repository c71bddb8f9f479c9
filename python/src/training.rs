//! Runs: training in a thread of its own, while the caller's thread runs callbacks and listens to
//! signals.

use crate::errors::OrRaise;
use crate::{args, pools, tables};
use numpy::{PyArray1, PyArrayMethods};
use popgrad::config::{self, Config};
use popgrad::report::arrays::{Array, ArrayData};
use popgrad::report::files::create_run_dir;
use popgrad::run::{self, Progress, folder};
use popgrad::{Error, paper};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the caller's thread looks for signals.
const POLL: Duration = Duration::from_millis(40);

/// What the training thread tells the caller's.
enum Event {
    /// An update is done: its number, its loss, the parameters. The training thread waits.
    Moved(u64, f64, popgrad::Result<Vec<(String, Array)>>),
    Evaluated(&'static str, f64),
    Note(String),
    Warn(String),
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    step: AtomicU64,
    loss: AtomicU64,
}

struct Watcher {
    shared: Arc<Shared>,
    events: Sender<Event>,
    replies: Receiver<()>,
    callbacks: bool,
    figures: bool,
}

impl Watcher {
    fn tell(&self, event: Event) {
        // Where nobody listens any more, the run is being stopped.
        let _ = self.events.send(event);
    }
}

impl Progress for Watcher {
    fn stepped(&mut self, step: u64, loss: f64) {
        self.shared.step.store(step, Ordering::Relaxed);
        self.shared.loss.store(loss.to_bits(), Ordering::Relaxed);
    }

    fn moved(&mut self, step: u64, weights: &dyn Fn() -> popgrad::Result<Vec<(String, Array)>>) {
        if self.callbacks && !self.wants_to_stop() {
            // No update has been made before step 1, so there is no loss.
            let loss =
                if step == 0 { f64::NAN } else { f64::from_bits(self.shared.loss.load(Ordering::Relaxed)) };
            self.tell(Event::Moved(step, loss, weights()));
            let _ = self.replies.recv();
        }
    }

    fn evaluated(&mut self, name: &'static str, value: f64) {
        self.tell(Event::Evaluated(name, value));
    }

    fn finished(&mut self) {}

    fn wants_to_stop(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn note(&mut self, text: &str) {
        self.tell(Event::Note(text.into()));
    }

    fn warn(&mut self, text: &str) {
        self.tell(Event::Warn(text.into()));
    }

    fn wants_figures(&self) -> bool {
        self.figures
    }
}

/// How a run is made.
struct Plan {
    config: Config,
    folder: PathBuf,
    resumed: bool,
    threads: Option<usize>,
    figures: bool,
}

/// Resolves keys over a preset, and returns the configuration.
#[pyfunction]
#[pyo3(signature = (preset, quick, keys))]
pub(crate) fn resolve<'py>(
    py: Python<'py>,
    preset: &str,
    quick: bool,
    keys: &Bound<'_, PyDict>,
) -> PyResult<Bound<'py, PyDict>> {
    tables::dict(py, &resolved(preset, quick, keys)?.table())
}

fn resolved(preset: &str, quick: bool, keys: &Bound<'_, PyDict>) -> PyResult<Config> {
    let keys = tables::table(keys)?;
    config::refuse_preset(&keys).or_raise()?;
    let layers = paper::preset(preset, quick).or_raise()?;
    config::resolve_over(&layers, &[keys]).or_raise()
}

/// Presets, with what they are.
#[pyfunction]
pub(crate) fn presets() -> Vec<(String, String)> {
    paper::presets().into_iter().map(|p| (p.name, p.what)).collect()
}

/// Trains in a new folder. `callback(step, loss, params)` is called after every update, in this
/// thread; `show(step, loss, name, value)` now and then; `note(text, warning)` with remarks.
/// Returns the summary, or None if it was stopped.
#[pyfunction]
#[pyo3(signature = (
    preset, quick, keys, folder, *, threads=None, figures=false, callback=None, show=None, note=None
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(crate) fn train(
    py: Python<'_>,
    preset: &str,
    quick: bool,
    keys: &Bound<'_, PyDict>,
    folder: PathBuf,
    #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
    figures: bool,
    callback: Option<Py<PyAny>>,
    show: Option<Py<PyAny>>,
    note: Option<Py<PyAny>>,
) -> PyResult<Option<String>> {
    let config = resolved(preset, quick, keys)?;
    let experiment = paper::experiment(&config).or_raise()?;
    let pool = pools::pool(threads)?;
    // Everything is checked before a folder is made.
    py.detach(|| pool.install(|| run::check(experiment, &config))).or_raise()?;
    create_run_dir(&folder).or_raise()?;
    go(py, Plan { config, folder, resumed: false, threads, figures }, [callback, show, note])
}

/// Goes on with the run in `folder`, to `steps` updates if that is given; else as [`train`].
#[pyfunction]
#[pyo3(signature = (folder, steps=None, *, threads=None, figures=false, callback=None, show=None, note=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(crate) fn resume(
    py: Python<'_>,
    folder: PathBuf,
    #[pyo3(from_py_with = args::steps)] steps: Option<u64>,
    #[pyo3(from_py_with = args::threads)] threads: Option<usize>,
    figures: bool,
    callback: Option<Py<PyAny>>,
    show: Option<Py<PyAny>>,
    note: Option<Py<PyAny>>,
) -> PyResult<Option<String>> {
    let config = match steps {
        Some(steps) => folder::extend(&folder, steps, paper::experiment),
        None => folder::read_config(&folder),
    };
    let plan = Plan { config: config.or_raise()?, folder, resumed: true, threads, figures };
    go(py, plan, [callback, show, note])
}

fn go(
    py: Python<'_>,
    plan: Plan,
    [callback, show, note]: [Option<Py<PyAny>>; 3],
) -> PyResult<Option<String>> {
    let experiment = paper::experiment(&plan.config).or_raise()?;
    let pool = pools::pool(plan.threads)?;
    let shared = Arc::new(Shared::default());
    let ((events, inbox), (reply, replies)) = (channel(), channel());
    // Borrowed by code that is detached; nobody else locks it.
    let inbox = Mutex::new(inbox);
    let (own, callbacks, figures) = (Arc::clone(&shared), callback.is_some(), plan.figures);
    let training = std::thread::Builder::new().name("popgrad".into()).spawn(move || {
        let mut watcher = Watcher { shared: own, events, replies, callbacks, figures };
        run::run(experiment, &plan.config, &plan.folder, plan.resumed, &pool, &mut watcher)
    });
    let training = training.map_err(|e| PyRuntimeError::new_err(format!("cannot start a thread: {e}")))?;
    let mut failed: Option<PyErr> = None;
    let mut last = None;
    loop {
        let event = py.detach(|| inbox.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(POLL));
        let mut heard = py.check_signals();
        match event {
            Ok(Event::Moved(step, loss, weights)) => {
                if let (Ok(()), Some(f)) = (&heard, &callback) {
                    heard = weights
                        .or_raise()
                        .and_then(|w| params(py, w))
                        .and_then(|params| f.call1(py, (step, loss, params)).map(|_| ()));
                }
                if heard.is_err() {
                    shared.stop.store(true, Ordering::Relaxed);
                }
                let _ = reply.send(());
            }
            Ok(Event::Evaluated(name, value)) => last = Some((name, value)),
            Ok(Event::Note(text)) => heard = heard.and_then(|()| remark(py, &note, &text, false)),
            Ok(Event::Warn(text)) => heard = heard.and_then(|()| remark(py, &note, &text, true)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let (Ok(()), Some(show)) = (&heard, &show) {
            let step = shared.step.load(Ordering::Relaxed);
            let loss = f64::from_bits(shared.loss.load(Ordering::Relaxed));
            let (name, value) = last.unwrap_or(("", f64::NAN));
            heard = show.call1(py, (step, loss, name, value)).map(|_| ());
        }
        if let Err(e) = heard {
            shared.stop.store(true, Ordering::Relaxed);
            failed.get_or_insert(e);
        }
    }
    let ended = py.detach(|| training.join());
    let ended = ended.map_err(|_| PyRuntimeError::new_err("the training thread panicked"))?;
    let interrupted = failed.as_ref().is_some_and(|e| e.is_instance_of::<PyKeyboardInterrupt>(py));
    match (ended, failed) {
        (_, Some(e)) if !interrupted => Err(e),
        (Ok(outcome), _) => {
            outcome.figures.or_raise()?;
            Ok(Some(outcome.summary.to_json()))
        }
        (Err(Error::Stopped { .. }), _) => Ok(None),
        (Err(e), _) => Err(crate::errors::from(e)),
    }
}

fn remark(py: Python<'_>, note: &Option<Py<PyAny>>, text: &str, warning: bool) -> PyResult<()> {
    match note {
        Some(note) => note.call1(py, (text, warning)).map(|_| ()),
        None => Ok(()),
    }
}

/// Named arrays as a dictionary.
pub(crate) fn params<'py>(py: Python<'py>, all: Vec<(String, Array)>) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for (name, array) in all {
        let shape = array.shape().to_vec();
        let array = match array.into_data() {
            ArrayData::F32(x) => PyArray1::from_vec(py, x).reshape(shape)?.into_any(),
            ArrayData::F64(x) => PyArray1::from_vec(py, x).reshape(shape)?.into_any(),
            other => {
                let kind = other.type_name();
                return Err(PyRuntimeError::new_err(format!("{name}: {kind} among parameters")));
            }
        };
        out.set_item(name, array)?;
    }
    Ok(out)
}
