//! What the HAProxy data plane tells of itself: values to show, nothing to act upon.

use std::collections::BTreeMap;

use serde::Serialize;

/// How HAProxy is doing, as `/api/v2/local` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HaproxyStatus {
    /// `classic` or `runtime`.
    pub mode: &'static str,
    /// Whether HAProxy runs what it should.
    pub state: State,
    /// What is wrong, for people; `None` when nothing is.
    pub trouble: Option<String>,
    /// Whether a process of it runs; `None` when that cannot be known.
    pub is_running: Option<bool>,
    /// When HAProxy was last made to run another configuration, RFC 3339.
    pub last_reload: Option<String>,
    /// Reloads and starts so far.
    pub reloads: u64,
    /// How often HAProxy was found dead and started again.
    pub revivals: u64,
    /// Differences found in what HAProxy holds and set right, such as changes by hand; runtime mode.
    pub repairs: u64,
    /// What failed so far, by step.
    pub failures: BTreeMap<&'static str, u64>,
}

/// Whether HAProxy runs what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There are no routes yet; whatever runs is left alone.
    #[default]
    Waiting,
    /// It does.
    Applied,
    /// It does not: it runs what was applied last, and `trouble` says why.
    Failed,
}
