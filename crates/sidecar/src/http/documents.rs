//! The large documents, encoded at most once per snapshot however many readers ask, and shared by all.
//!
//! One of a kind is encoded at a time, aside from the tasks that answer. Who asks meanwhile waits for
//! it, and gets one of a snapshot that is no older than the question: under a storm of changes the
//! work is bounded to one processor per kind, and nobody reads less than was true when they asked.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use catalog::{Service, Snapshot, json};
use flate2::{Compression, write::GzEncoder};
use tokio::sync::watch;

use super::v2;

/// Smallest document that is sent compressed: below, a head and one packet are most of the cost.
pub(super) const GZIP_FROM_BYTES: usize = 4 * 1024;

/// The documents about everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Services by name with the members, indented.
    Services,
    /// The whole state.
    State,
    /// Services by name, bare.
    ByName,
    /// `/api/v2/services`.
    Summaries,
    /// `/api/v2/instances` without a filter.
    Instances,
}

/// All of them.
const KINDS: usize = 5;

/// The documents about one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum OfService {
    /// `/api/services/NAME.json`.
    Listing,
    /// `/api/v2/services/NAME`.
    Instances,
}

/// A document as it is, and compressed; either when it is first asked for.
#[derive(Debug, Default)]
struct Encoded {
    plain: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

/// A snapshot and what has been asked of it so far.
#[derive(Debug)]
pub(super) struct Documents {
    /// What the documents tell of.
    pub(super) snapshot: Arc<Snapshot>,
    encoded: [Encoded; KINDS],
    by_name: OnceLock<HashMap<String, Vec<Arc<Service>>>>,
    of_services: Mutex<HashMap<(OfService, String), Bytes>>,
    counts: OnceLock<v2::Counts>,
}

impl Documents {
    fn of(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            encoded: Default::default(),
            by_name: OnceLock::new(),
            of_services: Mutex::default(),
            counts: OnceLock::new(),
        }
    }

    /// The document if it was asked for before.
    fn ready(&self, kind: Kind, compressed: bool) -> Option<&Bytes> {
        let encoded = &self.encoded[kind as usize];
        if compressed {
            encoded.gzip.get()
        } else {
            encoded.plain.get()
        }
    }

    /// The document, made if it has to be: takes some milliseconds for thousands of instances.
    fn make(&self, kind: Kind, compressed: bool) -> Bytes {
        let encoded = &self.encoded[kind as usize];
        let plain = encoded.plain.get_or_init(|| match kind {
            Kind::Services => json::encode_services(&self.snapshot).into(),
            Kind::State => json::encode_state(&self.snapshot).into(),
            Kind::ByName => json::encode_by_name(&self.snapshot).into(),
            Kind::Summaries => v2::documents::services(&self.snapshot).into(),
            Kind::Instances => v2::documents::instances(&self.snapshot).into(),
        });
        if compressed {
            encoded.gzip.get_or_init(|| gzip(plain)).clone()
        } else {
            plain.clone()
        }
    }

    /// Instances of a service, ordered by host and ID; `None` when there are none.
    pub(super) fn service(&self, name: &str) -> Option<&[Arc<Service>]> {
        let by_name = self.by_name.get_or_init(|| {
            let mut names: HashMap<String, Vec<Arc<Service>>> = HashMap::new();
            for service in self.snapshot.services() {
                match names.get_mut(&service.name) {
                    Some(list) => list.push(service.clone()),
                    None => {
                        names.insert(service.name.clone(), vec![service.clone()]);
                    }
                }
            }
            names
        });
        by_name.get(name).map(Vec::as_slice)
    }

    /// A document about one service; `None` when it has no instances.
    pub(super) fn of_service(&self, form: OfService, name: &str) -> Option<Bytes> {
        let instances = self.service(name)?;
        // No more entries than services there are: those without instances have left above.
        let of_services = || {
            self.of_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let key = (form, name.to_owned());
        if let Some(document) = of_services().get(&key) {
            return Some(document.clone());
        }
        let document: Bytes = match form {
            OfService::Listing => json::encode_service_list(&self.snapshot, name)?.into(),
            OfService::Instances => v2::documents::service(&self.snapshot, name, instances).into(),
        };
        of_services().insert(key, document.clone());
        Some(document)
    }

    /// What there is, counted.
    pub(super) fn counts(&self) -> &v2::Counts {
        self.counts
            .get_or_init(|| v2::Counts::of_snapshot(&self.snapshot))
    }
}

fn gzip(plain: &[u8]) -> Bytes {
    // The fastest level: text of this kind becomes a tenth with any, and the highest takes ten times
    // as long.
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::fast());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("invariant: writing to a Vec cannot fail")
        .into()
}

/// Hands out the documents of the newest snapshot.
#[derive(Debug)]
pub(super) struct Library {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Held only to look at or replace the pointer, never while encoding or writing.
    latest: Mutex<Arc<Documents>>,
    /// Held by who encodes a document of the kind.
    turns: [tokio::sync::Mutex<()>; KINDS],
}

impl Library {
    pub(super) fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        let first = snapshots.borrow().clone();
        Self {
            snapshots,
            latest: Mutex::new(Arc::new(Documents::of(first))),
            turns: Default::default(),
        }
    }

    /// A receiver of its own, for a reader that waits for news.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The documents of the newest snapshot; never those of an older one than handed out before.
    pub(super) fn latest(&self) -> Arc<Documents> {
        let newest = self.snapshots.borrow().clone();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.version > latest.snapshot.version {
            *latest = Arc::new(Documents::of(newest));
        }
        latest.clone()
    }

    /// A document of the newest snapshot, and where it belongs; compressed when that is wanted and
    /// worth it, which the last value tells.
    pub(super) async fn get(&self, kind: Kind, compressed: bool) -> (Arc<Documents>, Bytes, bool) {
        let (documents, plain) = self.form(kind, false).await;
        if !compressed || plain.len() < GZIP_FROM_BYTES {
            return (documents, plain, false);
        }
        let (documents, gzip) = self.form(kind, true).await;
        (documents, gzip, true)
    }

    async fn form(&self, kind: Kind, compressed: bool) -> (Arc<Documents>, Bytes) {
        let documents = self.latest();
        if let Some(document) = documents.ready(kind, compressed) {
            let document = document.clone();
            return (documents, document);
        }
        let _turn = self.turns[kind as usize].lock().await;
        // Of the newest by now: it serves all that have come while another was made.
        let documents = self.latest();
        if let Some(document) = documents.ready(kind, compressed) {
            let document = document.clone();
            return (documents, document);
        }
        let made = {
            let documents = documents.clone();
            tokio::task::spawn_blocking(move || documents.make(kind, compressed)).await
        };
        // Refused only by a runtime that shuts down; the answer will hardly leave then.
        let document = made.unwrap_or_else(|_| documents.make(kind, compressed));
        (documents, document)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::http::tests::recorded_state;

    #[tokio::test]
    async fn a_document_is_encoded_once_per_snapshot() {
        let mut snapshot = Snapshot::empty("web-01", "lab");
        let (sender, receiver) = watch::channel(Arc::new(snapshot.clone()));
        let library = Library::new(receiver);
        let (_, first, _) = library.get(Kind::State, false).await;
        let (_, again, _) = library.get(Kind::State, false).await;
        assert_eq!(first.as_ptr(), again.as_ptr());
        snapshot.version += 1;
        snapshot.cluster_name = "other".into();
        sender.send_replace(Arc::new(snapshot));
        let (_, second, _) = library.get(Kind::State, false).await;
        assert!(String::from_utf8_lossy(&second).contains("other"));
    }

    #[tokio::test]
    async fn large_documents_are_compressed_once_for_those_who_ask() {
        let snapshot = recorded_state("api-state.json");
        let library = Library::new(watch::channel(Arc::new(snapshot)).1);
        let (_, plain, _) = library.get(Kind::Services, false).await;
        assert!(plain.len() > GZIP_FROM_BYTES);
        let (_, gzip, is_compressed) = library.get(Kind::Services, true).await;
        assert!(is_compressed && gzip.len() < plain.len() / 3);
        let (_, again, _) = library.get(Kind::Services, true).await;
        assert_eq!(gzip.as_ptr(), again.as_ptr());
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..])
            .read_to_end(&mut text)
            .unwrap();
        assert_eq!(text, plain);
        let (_, small, is_compressed) = library.get(Kind::Summaries, true).await;
        assert!(!is_compressed && small.starts_with(b"{\"version\":"));
    }

    #[test]
    fn a_service_is_found_without_a_walk_and_encoded_once() {
        let documents = Documents::of(Arc::new(recorded_state("api-state.json")));
        for form in [OfService::Listing, OfService::Instances] {
            let first = documents.of_service(form, "frontend").unwrap();
            let again = documents.of_service(form, "frontend").unwrap();
            assert_eq!(first.as_ptr(), again.as_ptr());
            assert_eq!(documents.of_service(form, "nobody"), None);
        }
        assert_eq!(documents.service("frontend").unwrap().len(), 3);
    }
}
