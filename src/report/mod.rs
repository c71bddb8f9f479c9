//! The output of runs: run folders, named arrays, checkpoints, metrics and figures.
//!
//! This module uses plain records only (paths, shapes, numbers, labels): no model, no task. Every
//! file it writes is either complete or absent, and the same input gives the same bytes.
//!
//! | file | holds |
//! |---|---|
//! | [`files`] | atomic writes, run folders, JSON-lines logs that survive a crash |
//! | [`arrays`] | named arrays in `.npz` and `.safetensors`, from untrusted bytes |
//! | [`digest`] | digests of files that are read back |
//! | [`checkpoint`] | training state, bit for bit |
//! | [`metrics`] | `metrics.jsonl`, `timing.jsonl`, the summary |
//! | [`html`] | pages: their shell, reports of runs and studies, formulas |
//! | [`page`] | an HTML page of tables and figures |
//! | [`records`] | logs as cells of a table |
//! | [`plot`] | line charts and heat maps, one SVG and the PNG drawn from it |

pub mod arrays;
pub mod checkpoint;
pub mod digest;
pub mod files;
pub mod html;
pub mod metrics;
pub mod page;
pub mod plot;
pub mod records;
