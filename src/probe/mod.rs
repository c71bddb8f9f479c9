//! Measurements on trained parameters: attention on the graph, gradient noise, recall of
//! associative memories, and accuracy in context.

pub mod attention;
pub mod in_context;
pub mod looks;
pub mod memory;
pub mod noise;
