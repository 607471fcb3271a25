//! Addresses of hosts by their names, for `ENVOY_USE_HOSTNAMES`: looked up beside everything else, and
//! remembered. A host whose name does not resolve has no address here, and its endpoints keep their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tracing::warn;

use crate::net::resolver::Resolver;

/// How long an answer is good for.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(30);
/// The time a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Lookups at a time.
const LOOKUPS_MAX: usize = 32;
/// How long new endpoints wait for the first answer about their host.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// What is known of the names of hosts.
#[derive(Debug)]
pub(super) struct Hosts {
    resolver: Resolver,
    known: BTreeMap<String, Known>,
    lookups: JoinSet<(String, Result<IpAddr, String>)>,
    slots: Arc<Semaphore>,
}

#[derive(Debug)]
struct Known {
    /// The last good answer.
    address: Option<IpAddr>,
    /// Why there was none the last time.
    trouble: Option<String>,
    is_answered: bool,
    /// When it was asked for last.
    asked: Instant,
}

impl Hosts {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            known: BTreeMap::new(),
            lookups: JoinSet::new(),
            slots: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    /// These names matter now; asks for those that are new, or whose answer is old.
    pub(super) fn want(&mut self, names: &BTreeSet<&str>) {
        self.known.retain(|name, _| names.contains(name.as_str()));
        let now = Instant::now();
        for name in names {
            let known = self.known.get_mut(*name);
            match known {
                Some(known) if now.duration_since(known.asked) < FRESH_FOR => continue,
                Some(known) => known.asked = now,
                None => {
                    let known = Known {
                        address: None,
                        trouble: None,
                        is_answered: false,
                        asked: now,
                    };
                    self.known.insert((*name).to_owned(), known);
                }
            }
            let (resolver, slots) = (self.resolver.clone(), self.slots.clone());
            let name = (*name).to_owned();
            self.lookups.spawn(async move {
                // Never closed.
                let _slot = slots.acquire().await;
                let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup(&name)).await;
                let answer = match lookup {
                    Ok(Ok(addresses)) => addresses.first().copied().ok_or_else(String::new),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer within {LOOKUP_TIMEOUT:?}")),
                };
                (name, answer)
            });
        }
    }

    /// Waits a moment until every name was answered once.
    pub(super) async fn settle(&mut self) {
        let first_answers = async {
            while self.known.values().any(|it| !it.is_answered) {
                self.next().await;
            }
        };
        // Who takes longer is heard later.
        let _ = tokio::time::timeout(FIRST_ANSWER_WITHIN, first_answers).await;
    }

    /// Takes the next answer; never comes while nothing is asked.
    pub(super) async fn next(&mut self) {
        let Some(answer) = self.lookups.join_next().await else {
            return std::future::pending().await;
        };
        let Ok((name, answer)) = answer else {
            return;
        };
        let Some(known) = self.known.get_mut(&name) else {
            return;
        };
        known.is_answered = true;
        match answer {
            Ok(address) => (known.address, known.trouble) = (Some(address), None),
            Err(error) => {
                if known.trouble.as_ref() != Some(&error) {
                    warn!(
                        host = name,
                        error,
                        "the name of a host does not resolve; its endpoints are at {}",
                        if known.address.is_some() {
                            "its last address"
                        } else {
                            "those of their ports"
                        }
                    );
                }
                known.trouble = Some(error);
            }
        }
    }

    /// The addresses that are known.
    pub(super) fn addresses(&self) -> BTreeMap<String, IpAddr> {
        let known = self.known.iter();
        known
            .filter_map(|(name, known)| Some((name.clone(), known.address?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_resolved_once_and_what_does_not_resolve_has_no_address() {
        let mut hosts = Hosts::new(Resolver::default());
        // Texts of addresses resolve without anybody's help; the other is none by any rule.
        hosts.want(&BTreeSet::from(["10.0.0.7", "not a name"]));
        assert_eq!(hosts.lookups.len(), 2);
        hosts.settle().await;
        let expected = BTreeMap::from([("10.0.0.7".to_owned(), "10.0.0.7".parse().unwrap())]);
        assert_eq!(hosts.addresses(), expected);
        hosts.want(&BTreeSet::from(["10.0.0.7"]));
        assert_eq!(hosts.lookups.len(), 0, "the answer is still good");
        hosts.want(&BTreeSet::new());
        assert!(hosts.addresses().is_empty());
    }
}
