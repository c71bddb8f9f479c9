//! Questions asked of trained parameters: does the model hold what theory says it learns?

pub mod attention;
pub mod in_context;
pub mod memory;
pub mod noise;
