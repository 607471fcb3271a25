//! What this host sees of itself: how its sources are doing, what is odd about what they name, and
//! the evidence of its checks. Discovery and health write it, `/api/v2/local` shows it. Nothing is
//! decided from it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use catalog::Status;
use serde::{Serialize, Serializer};
use tokio::{sync::watch, time::Instant};

use crate::{
    discovery::SourceName,
    net::http_client::without_credentials,
    proxy::{
        envoy::{Board, EnvoyStatus},
        haproxy::HaproxyStatus,
        kernel::KernelStatus,
    },
};

/// Remarks kept about one subject, and subjects with remarks; more are counted only.
const REMARKS_MAX: usize = 32;
const SUBJECTS_MAX: usize = 10_000;

/// Shared by those who write it and those who show it.
#[derive(Debug, Default)]
pub struct LocalView(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    sources: BTreeMap<SourceName, SourceView>,
    remarks: BTreeMap<(SourceName, String), Vec<String>>,
    checks: BTreeMap<String, CheckView>,
    results: BTreeMap<&'static str, CheckResults>,
    listeners: BTreeMap<String, ListenerView>,
    haproxy: Option<watch::Receiver<Arc<HaproxyStatus>>>,
    kernel: Option<watch::Receiver<Arc<KernelStatus>>>,
    envoy: Option<Arc<Board>>,
}

/// The results of all checks of one kind since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckResults {
    /// Those that found an instance working.
    pub passed: u64,
    /// Those that did not.
    pub failed: u64,
    /// The time they all took.
    pub duration: Duration,
}

/// How a source of services is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceView {
    /// One stable word, for programs: `listing`, `following`, `unreachable` or `invalid`.
    pub state: &'static str,
    /// Since when it is in this state, RFC 3339.
    pub since: String,
    /// What is wrong, for people; `None` when nothing is.
    pub trouble: Option<String>,
    /// Instances it names now, or named last.
    pub instances: usize,
    /// Until when these stay although the source cannot be seen, RFC 3339; `None` while it can.
    pub held_until: Option<String>,
}

/// What is known of an instance's check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckView {
    /// Name of the service.
    pub service: String,
    /// `HttpGet`, `Tcp` and so on.
    pub kind: &'static str,
    /// The argument as evaluated, without credentials.
    pub args: String,
    /// What its owner should know about it.
    pub notices: Vec<String>,
    /// From one check to the next, in milliseconds; 0 for a check that is told of events.
    pub interval_ms: u64,
    /// The time one has, in milliseconds.
    pub timeout_ms: u64,
    /// Successes in a row that make it alive, and failures in a row that make it unhealthy.
    pub rise: u32,
    /// See `rise`.
    pub fall: u32,
    /// What it makes of the instance: `Alive`, `Unhealthy`, or `Unknown` until results have decided.
    #[serde(serialize_with = "word")]
    pub status: Status,
    /// Results in a row that say the same as the last.
    pub in_a_row: u64,
    /// The last result; `None` before the first.
    pub last: Option<CheckEvidence>,
    /// Why a change is held back, and until when; `None` when none is.
    pub damped: Option<Damped>,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckEvidence {
    /// Whether it found the instance working.
    pub healthy: bool,
    /// When it ended, RFC 3339.
    pub at: String,
    /// The same by a clock that nobody sets; shown as its age, in milliseconds.
    #[serde(rename = "age_ms", serialize_with = "age")]
    pub ended: Instant,
    /// How long it took; shown in milliseconds.
    #[serde(rename = "duration_ms", serialize_with = "millis")]
    pub took: Duration,
    /// Status code, exit status, error: in a few words.
    pub summary: String,
    /// The beginning of what the instance or the command said; empty when there was nothing.
    pub output: String,
}

/// How a webhook is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerView {
    /// Where events go, without credentials.
    pub url: String,
    /// Events it took.
    pub delivered: u64,
    /// Requests that it did not take.
    pub failed: u64,
    /// Events that it did not get by themselves, as later ones were there.
    pub merged: u64,
    /// Why it did not take the last request; `None` if it did.
    pub trouble: Option<String>,
}

impl ListenerView {
    /// One that got nothing yet.
    pub fn new(url: &str) -> Self {
        Self {
            url: without_credentials(url),
            delivered: 0,
            failed: 0,
            merged: 0,
            trouble: None,
        }
    }
}

/// A change of status that is held back because there were many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damped {
    /// The rule that holds it back.
    pub rule: String,
    /// When it is released if nothing else happens, RFC 3339.
    pub until: String,
}

fn word<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(status)
}

fn age<S: Serializer>(ended: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    millis(&ended.elapsed(), serializer)
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(whole_millis(*duration))
}

/// How the view shows durations.
pub fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl LocalView {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // Each change is one insertion or removal, so that a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A source has come to another state.
    pub fn source(&self, name: SourceName, view: SourceView) {
        self.lock().sources.insert(name, view);
    }

    /// How the sources are doing, and about how many subjects of each there is something to remark.
    pub fn sources(&self) -> BTreeMap<SourceName, (SourceView, usize)> {
        let content = self.lock();
        let remarked = |name| {
            let subjects = content.remarks.keys();
            subjects.filter(|(source, _)| *source == name).count()
        };
        let sources = content.sources.iter();
        sources
            .map(|(name, view)| (*name, (view.clone(), remarked(*name))))
            .collect()
    }

    /// All there is to remark about `subject`, a container or a file, in place of what was said
    /// before; nothing when it is fine or gone.
    pub fn remark(&self, source: SourceName, subject: &str, mut remarks: Vec<String>) {
        let key = (source, subject.to_owned());
        let mut content = self.lock();
        if remarks.is_empty() {
            content.remarks.remove(&key);
            return;
        }
        let more = remarks.len().saturating_sub(REMARKS_MAX);
        remarks.truncate(REMARKS_MAX);
        if more > 0 {
            remarks.push(format!("and {more} more"));
        }
        if content.remarks.len() < SUBJECTS_MAX || content.remarks.contains_key(&key) {
            content.remarks.insert(key, remarks);
        }
    }

    /// Forgets what was remarked about subjects of this source that are not among `there`.
    pub fn keep_remarks(&self, source: SourceName, there: impl Fn(&str) -> bool) {
        let mut content = self.lock();
        content
            .remarks
            .retain(|(by, subject), _| *by != source || there(subject));
    }

    /// The check of an instance is new, or is another one from now on.
    pub fn check(&self, id: &str, view: CheckView) {
        self.lock().checks.insert(id.to_owned(), view);
    }

    /// The check of an instance has come to a result.
    pub fn checked(&self, id: &str, evidence: CheckEvidence, in_a_row: u64) {
        let mut content = self.lock();
        let content = &mut *content;
        let Some(check) = content.checks.get_mut(id) else {
            return;
        };
        let results = content.results.entry(check.kind).or_default();
        if evidence.healthy {
            results.passed += 1;
        } else {
            results.failed += 1;
        }
        results.duration += evidence.took;
        check.in_a_row = in_a_row;
        check.last = Some(evidence);
    }

    /// What the results make of an instance.
    pub fn judged(&self, id: &str, status: Status, damped: Option<Damped>) {
        if let Some(check) = self.lock().checks.get_mut(id) {
            check.status = status;
            check.damped = damped;
        }
    }

    /// How many checks there are, by kind and by what they make of their instance.
    pub fn check_counts(&self) -> BTreeMap<(&'static str, Status), u64> {
        let mut counts = BTreeMap::new();
        for check in self.lock().checks.values() {
            *counts.entry((check.kind, check.status)).or_default() += 1;
        }
        counts
    }

    /// What is known of an instance's check; `None` when it has none.
    pub fn check_of(&self, id: &str) -> Option<CheckView> {
        self.lock().checks.get(id).cloned()
    }

    /// The results so far, by kind.
    pub fn check_results(&self) -> BTreeMap<&'static str, CheckResults> {
        self.lock().results.clone()
    }

    /// An instance is gone.
    pub fn forget_check(&self, id: &str) {
        self.lock().checks.remove(id);
    }

    /// How a listener is doing.
    pub fn listener(&self, name: &str, view: ListenerView) {
        self.lock().listeners.insert(name.to_owned(), view);
    }

    /// A listener is served at this URL no longer; it may be at another already.
    pub fn forget_listener(&self, name: &str, url: &str) {
        let url = without_credentials(url);
        let mut content = self.lock();
        if content.listeners.get(name).is_some_and(|it| it.url == url) {
            content.listeners.remove(name);
        }
    }

    /// All listeners, by name.
    pub fn listeners(&self) -> BTreeMap<String, ListenerView> {
        self.lock().listeners.clone()
    }

    /// From now on shows what this says of the HAProxy that is driven.
    pub fn show_haproxy(&self, status: watch::Receiver<Arc<HaproxyStatus>>) {
        self.lock().haproxy = Some(status);
    }

    /// How HAProxy is doing; `None` when none is driven.
    pub fn haproxy(&self) -> Option<Arc<HaproxyStatus>> {
        let content = self.lock();
        content.haproxy.as_ref().map(|it| it.borrow().clone())
    }

    /// From now on shows what this says of the kernel's rules.
    pub fn show_kernel(&self, status: watch::Receiver<Arc<KernelStatus>>) {
        self.lock().kernel = Some(status);
    }

    /// How the kernel data plane is doing; `None` when it is not used.
    pub fn kernel(&self) -> Option<Arc<KernelStatus>> {
        let content = self.lock();
        content.kernel.as_ref().map(|it| it.borrow().clone())
    }

    /// From now on shows what stands here of the xDS server.
    pub fn show_envoy(&self, board: Arc<Board>) {
        self.lock().envoy = Some(board);
    }

    /// How the xDS server is doing; `None` when there is none.
    pub fn envoy(&self) -> Option<EnvoyStatus> {
        let board = self.lock().envoy.clone();
        board.map(|board| board.status())
    }

    /// The document of `/api/v2/local`, indented JSON.
    ///
    /// # Errors
    /// None that a reader could cause: encoding plain values does not fail.
    pub fn document(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            sources: BTreeMap<&'static str, &'a SourceView>,
            remarks: Vec<Remarked<'a>>,
            checks: &'a BTreeMap<String, CheckView>,
            listeners: &'a BTreeMap<String, ListenerView>,
            #[serde(skip_serializing_if = "Option::is_none")]
            haproxy: Option<&'a HaproxyStatus>,
            #[serde(skip_serializing_if = "Option::is_none")]
            kernel: Option<&'a KernelStatus>,
            #[serde(skip_serializing_if = "Option::is_none")]
            envoy: Option<&'a EnvoyStatus>,
        }
        #[derive(Serialize)]
        struct Remarked<'a> {
            source: &'static str,
            subject: &'a str,
            remarks: &'a [String],
        }
        let haproxy = self.haproxy();
        let kernel = self.kernel();
        let envoy = self.envoy();
        // Encoded under the lock: a few hundred entries, and nothing is written to anybody.
        let content = self.lock();
        let sources = content.sources.iter();
        let remarks = content.remarks.iter();
        serde_json::to_string_pretty(&Document {
            sources: sources.map(|(name, view)| (name.as_str(), view)).collect(),
            remarks: remarks
                .map(|((source, subject), remarks)| Remarked {
                    source: source.as_str(),
                    subject,
                    remarks,
                })
                .collect(),
            checks: &content.checks,
            listeners: &content.listeners,
            haproxy: haproxy.as_deref(),
            kernel: kernel.as_deref(),
            envoy: envoy.as_ref(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(view: &LocalView) -> serde_json::Value {
        serde_json::from_str(&view.document().unwrap()).unwrap()
    }

    #[test]
    fn remarks_are_replaced_bounded_and_forgotten() {
        let view = LocalView::default();
        let many = (0..40).map(|number| number.to_string()).collect();
        view.remark(SourceName::Docker, "web", many);
        view.remark(SourceName::Static, "static.json", vec!["odd".to_owned()]);
        let remarks = document(&view)["remarks"].clone();
        assert_eq!(remarks[0]["subject"], "web");
        assert_eq!(
            remarks[0]["remarks"].as_array().unwrap().len(),
            REMARKS_MAX + 1
        );
        assert_eq!(remarks[0]["remarks"][REMARKS_MAX], "and 8 more");

        view.remark(SourceName::Docker, "web", vec!["fewer".to_owned()]);
        assert_eq!(document(&view)["remarks"][0]["remarks"][0], "fewer");
        view.keep_remarks(SourceName::Docker, |_| false);
        assert_eq!(document(&view)["remarks"][0]["source"], "static");
        view.remark(SourceName::Static, "static.json", Vec::new());
        assert_eq!(document(&view)["remarks"].as_array().unwrap().len(), 0);
    }

    fn check(kind: &'static str) -> CheckView {
        CheckView {
            service: "web".to_owned(),
            kind,
            args: "http://:1/".to_owned(),
            notices: Vec::new(),
            interval_ms: 3000,
            timeout_ms: 2999,
            rise: 1,
            fall: 1,
            status: Status::Unknown,
            in_a_row: 0,
            last: None,
            damped: None,
        }
    }

    fn evidence(healthy: bool) -> CheckEvidence {
        CheckEvidence {
            healthy,
            at: "2026-02-03T09:16:02Z".to_owned(),
            ended: Instant::now(),
            took: Duration::from_millis(20),
            summary: "status 503".to_owned(),
            output: "busy".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_is_shown_with_its_evidence_until_its_instance_is_gone() {
        let view = LocalView::default();
        view.check("abc", check("HttpGet"));
        assert_eq!(document(&view)["checks"]["abc"]["kind"], "HttpGet");
        assert_eq!(document(&view)["checks"]["abc"]["status"], "Unknown");
        view.checked("abc", evidence(false), 3);
        view.judged("abc", Status::Unhealthy, None);
        tokio::time::advance(Duration::from_millis(1500)).await;
        let shown = document(&view)["checks"]["abc"].clone();
        assert_eq!(shown["status"], "Unhealthy");
        assert_eq!(shown["in_a_row"], 3);
        assert_eq!(shown["last"]["age_ms"], 1500);
        assert_eq!(shown["last"]["output"], "busy");
        view.forget_check("abc");
        // What comes too late is nobody's.
        view.checked("abc", evidence(false), 4);
        view.judged("abc", Status::Alive, None);
        assert!(document(&view)["checks"].as_object().unwrap().is_empty());
    }

    #[test]
    fn checks_and_results_are_counted_by_kind() {
        let view = LocalView::default();
        for (id, kind) in [("a", "Tcp"), ("b", "Tcp"), ("c", "Grpc")] {
            view.check(id, check(kind));
        }
        view.checked("a", evidence(true), 1);
        view.checked("a", evidence(false), 1);
        view.checked("b", evidence(false), 1);
        view.judged("a", Status::Alive, None);
        assert_eq!(
            view.check_counts(),
            BTreeMap::from([
                (("Grpc", Status::Unknown), 1),
                (("Tcp", Status::Alive), 1),
                (("Tcp", Status::Unknown), 1)
            ])
        );
        let results = CheckResults {
            passed: 1,
            failed: 2,
            duration: Duration::from_millis(60),
        };
        assert_eq!(view.check_results(), BTreeMap::from([("Tcp", results)]));
    }
}
