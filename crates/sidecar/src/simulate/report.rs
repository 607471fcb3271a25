//! temp
use std::time::Duration;
#[derive(Debug)]
pub struct Phase {
    pub name: String,
    pub outcome_s: Option<f64>,
    pub limit_s: f64,
}
#[derive(Debug)]
pub struct TrafficSample {
    pub at_s: f64,
    pub mean_bytes_per_host_per_s: f64,
    pub p99_bytes_per_host_per_s: f64,
    pub max_bytes_per_host_per_s: f64,
}
#[derive(Debug, Default)]
pub struct SpreadRecorder {
    at: Vec<Duration>,
    expected: usize,
    pub ms: Vec<f64>,
}
impl SpreadRecorder {
    pub fn changed(&mut self, c: usize, at: Duration, missing: usize) {
        debug_assert!(c == self.at.len());
        self.at.push(at);
        self.expected += missing;
    }
    pub fn heard(&mut self, c: usize, at: Duration) {
        self.ms.push((at - self.at[c]).as_secs_f64() * 1e3);
    }
    pub fn summary(&mut self) -> String {
        self.ms.sort_by(|a, b| a.total_cmp(b));
        if self.ms.is_empty() {
            return String::new();
        }
        let n = self.ms.len();
        let q = |x: f64| self.ms[((n - 1) as f64 * x) as usize];
        format!(
            "changes {} heard {} missing {} p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} max {:.1} ms",
            self.at.len(),
            n,
            self.expected - n,
            q(0.5),
            q(0.9),
            q(0.99),
            q(0.999),
            q(1.0)
        )
    }
}
