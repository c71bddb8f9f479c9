//! The population engine: what a task's whole distribution says, exactly.
//!
//! | file | holds |
//! |---|---|
//! | [`transition`] | one π with μ, B and ρ |
//! | [`marginals`] | pairs and triples on the forest; the population limit g and χ² of every edge |
//! | [`counts`] | the leading gradient ĝ at finite T |
//! | [`effective`] | T_eff |

pub mod counts;
pub mod effective;
pub mod marginals;
pub mod transition;
