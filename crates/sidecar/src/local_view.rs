//! What this host sees of itself: how its sources are doing, what is odd about what they name, and
//! the evidence of its checks. Discovery and health write it, `/api/v2/local` shows it. Nothing is
//! decided from it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use crate::discovery::SourceName;

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckView {
    /// Name of the service.
    pub service: String,
    /// `HttpGet`, `Tcp` and so on.
    pub kind: String,
    /// The argument, as evaluated.
    pub args: String,
    /// From one check to the next, in milliseconds; 0 for a check that is told of events.
    pub interval_ms: u64,
    /// The time one has, in milliseconds.
    pub timeout_ms: u64,
    /// Successes in a row that make it alive, and failures in a row that make it unhealthy.
    pub rise: u32,
    /// See `rise`.
    pub fall: u32,
    /// What the instance counts as now.
    pub status: String,
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
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Status code, exit status, error: in a few words.
    pub summary: String,
    /// The beginning of what the instance or the command said; empty when there was nothing.
    pub output: String,
}

/// A change of status that is held back because there were many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damped {
    /// The rule that holds it back.
    pub rule: String,
    /// When it is released if nothing else happens, RFC 3339.
    pub until: String,
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

    /// The check of an instance has come to a result, or is new.
    pub fn check(&self, id: &str, view: CheckView) {
        self.lock().checks.insert(id.to_owned(), view);
    }

    /// An instance is gone.
    pub fn forget_check(&self, id: &str) {
        self.lock().checks.remove(id);
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
        }
        #[derive(Serialize)]
        struct Remarked<'a> {
            source: &'static str,
            subject: &'a str,
            remarks: &'a [String],
        }
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

    #[test]
    fn a_check_is_shown_until_its_instance_is_gone() {
        let view = LocalView::default();
        let check = CheckView {
            kind: "HttpGet".to_owned(),
            ..CheckView::default()
        };
        view.check("abc", check);
        assert_eq!(document(&view)["checks"]["abc"]["kind"], "HttpGet");
        view.forget_check("abc");
        assert!(document(&view)["checks"].as_object().unwrap().is_empty());
    }
}
