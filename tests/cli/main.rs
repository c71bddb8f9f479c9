//! The commands, through the binary: results, bad input, exit codes.

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod ablate;
mod attend;
mod compare;
mod discover;
mod discover_rare;
mod draw;
mod errors;
mod exact;
mod export;
mod grad;
mod info_bench;
mod input;
mod ood;
mod output;
mod plan;
mod probe;
mod report;
mod sample;
mod shell;
mod slips;
mod verify;
