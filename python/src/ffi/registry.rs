//! Objectives by number: what a compiled program names in its attribute `objective`.
//!
//! The map is weak. An objective is owned by the handles of Python's functions and by compiled
//! programs: XLA calls `popgrad_instantiate` when it makes a program, and the state that this sets
//! is a reference, which XLA gives back when it destroys the program. So a program outlives the
//! function that it was compiled from, and what nobody can call any more is freed. The map is read
//! only where programs are compiled.

use crate::exact::Exact;
use crate::objective::Core;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// A model on batches, or on a population.
pub(super) struct Objective {
    pub(super) model: Arc<Core>,
    pub(super) population: Option<Arc<Exact>>,
    pub(super) double: Idle<f64>,
    pub(super) single: Idle<f32>,
}

/// Scratch that no call uses now.
pub(super) type Idle<E> = Mutex<Vec<Scratch<E>>>;

/// Flat parameters and gradient, and columns of a batch that come in another type.
pub(super) struct Scratch<E> {
    pub(super) params: Vec<E>,
    pub(super) grad: Vec<E>,
    pub(super) columns: Columns,
}

#[derive(Default)]
pub(super) struct Columns {
    pub(super) tokens: Vec<u32>,
    pub(super) labels: Vec<u32>,
    pub(super) laws: Vec<f64>,
    pub(super) weights: Vec<f64>,
}

struct Registry {
    next: i64,
    objectives: BTreeMap<i64, Weak<Objective>>,
}

impl Objective {
    /// True for these very objects.
    fn is_of(&self, model: &Arc<Core>, population: Option<&Arc<Exact>>) -> bool {
        let same = match (&self.population, population) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        same && Arc::ptr_eq(&self.model, model)
    }
}

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    let made = REGISTRY.get_or_init(|| {
        // Numbers that no other process has: a program that was saved in one finds nothing here,
        // rather than another objective.
        let next = (RandomState::new().build_hasher().finish() >> 2) as i64;
        Mutex::new(Registry { next, objectives: BTreeMap::new() })
    });
    made.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The objective of these objects, with its number: the one that lives, or a new one.
pub(super) fn register(model: &Arc<Core>, population: Option<&Arc<Exact>>) -> (i64, Arc<Objective>) {
    let mut registry = registry();
    registry.objectives.retain(|_, held| held.strong_count() > 0);
    let living = registry.objectives.iter().filter_map(|(id, held)| Some((*id, held.upgrade()?)));
    if let Some(found) = living.into_iter().find(|(_, own)| own.is_of(model, population)) {
        return found;
    }
    let made = Arc::new(Objective {
        model: Arc::clone(model),
        population: population.map(Arc::clone),
        double: Mutex::default(),
        single: Mutex::default(),
    });
    let id = registry.next;
    registry.next += 1;
    registry.objectives.insert(id, Arc::downgrade(&made));
    (id, made)
}

/// The objective of number `id`, if it lives.
pub(super) fn find(id: i64) -> Option<Arc<Objective>> {
    registry().objectives.get(&id)?.upgrade()
}

/// Objectives that live.
pub(super) fn count() -> usize {
    registry().objectives.values().filter(|held| held.strong_count() > 0).count()
}
