//! Measurements: facts about the machine, and the speed of kernels and training steps.

mod machine;
mod repeated;
pub mod rivals;
mod suite;

pub use machine::{Cache, Machine};
pub use repeated::Repeated;
pub use suite::run;

use crate::{Error, Result};
use serde::Serialize;
use std::time::{Duration, Instant};

/// A measurement: a function that is called repeatedly, with the same amount of work each time.
pub struct Lane<'a> {
    /// What it is, e.g. `gemm 64x64x64`.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Threads that it keeps busy.
    pub threads: usize,
    /// Work of one call in `unit` x 1 s: flops for GFLOP/s are given as flops / 10⁹.
    pub work: f64,
    /// Unit of the rate.
    pub unit: &'static str,
    /// One call.
    pub call: Box<dyn FnMut() -> Result<()> + Send + 'a>,
}

/// The result of a lane. Times are of one call, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// As in [`Lane`].
    pub name: String,
    /// As in [`Lane`].
    pub dtype: &'static str,
    /// As in [`Lane`].
    pub threads: usize,
    /// Median over the rounds.
    pub median_ns: f64,
    /// Fastest round.
    pub min_ns: f64,
    /// Slowest round.
    pub max_ns: f64,
    /// Work over the median.
    pub rate: f64,
    /// Unit of the rate.
    pub unit: &'static str,
    /// Rate over the multiply-add peak of the same type on as many threads, where both count flops.
    pub share_of_peak: Option<f64>,
}

/// Name of the lane that the others are compared with.
pub const PEAK: &str = "multiply-add peak";

/// Times all lanes in `rounds` rounds. Each round starts with another lane, so a machine that slows
/// down for a while slows all lanes. In a round a lane makes as many calls as take about `round`, a
/// number found beforehand; its time is their mean.
///
/// # Errors
/// `rounds` 0; errors of a lane.
pub fn interleave(lanes: &mut [Lane<'_>], rounds: usize, round: Duration) -> Result<Vec<Measured>> {
    if rounds == 0 {
        return Err(Error::invalid("rounds", "0", "at least 1"));
    }
    let calls: Vec<u32> = lanes.iter_mut().map(|lane| calibrate(lane, round)).collect::<Result<_>>()?;
    let mut times = vec![Vec::with_capacity(rounds); lanes.len()];
    for shift in 0..rounds {
        for i in 0..lanes.len() {
            let i = (i + shift) % lanes.len();
            times[i].push(time(&mut lanes[i], calls[i])?);
        }
    }
    let mut out: Vec<Measured> = lanes.iter().zip(times).map(|(lane, times)| measured(lane, times)).collect();
    let peaks = out.clone();
    for m in out.iter_mut().filter(|m| m.name != PEAK) {
        let peak =
            |p: &&Measured| p.name == PEAK && (p.dtype, p.threads, p.unit) == (m.dtype, m.threads, m.unit);
        m.share_of_peak = peaks.iter().find(peak).map(|p| m.rate / p.rate);
    }
    Ok(out)
}

/// Calls that take about `round`; the first ones also warm caches.
fn calibrate(lane: &mut Lane<'_>, round: Duration) -> Result<u32> {
    let mut calls = 1;
    for _ in 0..3 {
        let ns = time(lane, calls)?;
        calls = (round.as_nanos() as f64 / ns).clamp(1.0, 1e8) as u32;
    }
    Ok(calls)
}

/// Nanoseconds of one call, the mean of `calls`.
fn time(lane: &mut Lane<'_>, calls: u32) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        (lane.call)()?;
    }
    // A clock too coarse to see it must not make a rate infinite.
    Ok((start.elapsed().as_nanos() as f64).max(1.0) / f64::from(calls))
}

/// Median, least and largest of some times.
fn summary(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    let n = times.len();
    [0.5 * (times[(n - 1) / 2] + times[n / 2]), times[0], times[n - 1]]
}

fn measured(lane: &Lane<'_>, times: Vec<f64>) -> Measured {
    let [median_ns, min_ns, max_ns] = summary(times);
    Measured {
        name: lane.name.clone(),
        dtype: lane.dtype,
        threads: lane.threads,
        median_ns,
        min_ns,
        max_ns,
        rate: lane.work * 1e9 / median_ns,
        unit: lane.unit,
        share_of_peak: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane<'a>(name: &str, unit: &'static str, call: impl FnMut() -> Result<()> + Send + 'a) -> Lane<'a> {
        Lane { name: name.into(), dtype: "f32", threads: 1, work: 1.0, unit, call: Box::new(call) }
    }

    #[test]
    fn rounds_take_turns_and_medians_are_medians() {
        let m = measured(&lane("x", "GB/s", || Ok(())), vec![9.0, 2.0, 4.0, 3.0]);
        assert_eq!((m.min_ns, m.median_ns, m.max_ns), (2.0, 3.5, 9.0));
        assert_eq!(m.rate, 1e9 / 3.5);
        assert_eq!(measured(&lane("x", "GB/s", || Ok(())), vec![9.0, 2.0, 4.0]).median_ns, 4.0);

        // Slow enough that every round is one call: after three calls each to calibrate, the lanes
        // rotate.
        let log = std::sync::Mutex::new(Vec::new());
        let note = |name: char| {
            std::thread::sleep(Duration::from_millis(1));
            log.lock().unwrap().push(name);
            Ok(())
        };
        let mut lanes = ["a", "b", "c"].map(|n| lane(n, "x", move || note(n.chars().next().unwrap())));
        let out = interleave(&mut lanes, 4, Duration::from_micros(10)).unwrap();
        let names: Vec<&str> = out.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        drop(lanes);
        assert_eq!(log.into_inner().unwrap().iter().collect::<String>(), "aaabbbcccabcbcacababc");
    }

    #[test]
    fn shares_are_of_the_peak_of_the_same_type_and_unit() {
        let wait = |ms: u64| {
            move || {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
        };
        let mut other = lane(PEAK, "GFLOP/s", wait(1));
        other.dtype = "f64";
        let mut lanes = [
            other,
            lane(PEAK, "GFLOP/s", wait(1)),
            lane("half", "GFLOP/s", wait(2)),
            lane("bytes", "GB/s", wait(1)),
        ];
        let out = interleave(&mut lanes, 3, Duration::from_micros(1)).unwrap();
        assert_eq!(out[2].share_of_peak, Some(out[2].rate / out[1].rate));
        assert_eq!([0, 1, 3].map(|i| out[i].share_of_peak), [None; 3]);
    }

    #[test]
    fn a_lane_that_fails_ends_it() {
        let mut lanes = [lane("x", "GB/s", || Err(Error::invalid("x", "bad", "good")))];
        assert!(interleave(&mut lanes, 1, Duration::from_micros(1)).is_err());
        assert!(interleave(&mut [], 0, Duration::from_micros(1)).is_err());
    }
}
