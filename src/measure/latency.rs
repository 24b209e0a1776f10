//! Times of many runs, and memory. Knows clocks and counters; not what is run.

use std::time::{Duration, Instant};

/// The value that a share `q` of `sorted` does not exceed (nearest rank); `None` of nothing.
pub(super) fn percentile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Times of runs, sorted.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Vec<f64>);

impl Latency {
    /// From times; at least one is needed.
    pub fn new(times: impl IntoIterator<Item = Duration>) -> Option<Latency> {
        let mut seconds: Vec<f64> = times.into_iter().map(|t| t.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        (!seconds.is_empty()).then_some(Latency(seconds))
    }

    /// Times `run` until `budget` is used up, at least `least` times, after one run that does not count.
    ///
    /// # Errors
    /// The first of `run`.
    pub fn measure<E>(
        budget: Duration,
        least: usize,
        mut run: impl FnMut() -> Result<(), E>,
    ) -> Result<Latency, E> {
        run()?;
        let start = Instant::now();
        let mut times = vec![];
        while times.len() < least.max(1) || start.elapsed() < budget {
            let once = Instant::now();
            run()?;
            times.push(once.elapsed());
        }
        Ok(Latency::new(times).expect("at least one run was timed"))
    }

    /// Seconds that a share `q` of the runs does not exceed.
    pub fn percentile(&self, q: f64) -> f64 {
        percentile(&self.0, q).expect("there is at least one time")
    }

    /// The middle one, in seconds.
    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    /// Number of runs.
    pub fn runs(&self) -> usize {
        self.0.len()
    }
}

/// Most memory that this process has had at once, in bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let check = |millis: &[u64], q: f64, expected: f64| {
            let latency = Latency::new(millis.iter().map(|m| Duration::from_millis(*m))).unwrap();
            assert_eq!(latency.percentile(q), expected, "{q} of {millis:?}");
        };
        check(&[3, 1, 2], 0.5, 0.002);
        check(&[3, 1, 2], 0.99, 0.003);
        check(&[7], 0.01, 0.007);
        check(&[1, 2, 3, 4], 0.5, 0.002);
        assert_eq!(Latency::new([]), None);
    }
}
