//! What one Envoy is told over one stream, and when. Pure: requests, resources and the time go in, responses
//! come out.
//!
//! - Of each kind one response is outstanding. What changes until it is answered is told by the next, so a
//!   slow Envoy costs what it has not been told yet, and no more.
//! - New things are told in the order in which they lead to each other: a listener waits for its cluster and
//!   its endpoints, a cluster goes when its listener is gone, and a listener that gives its port to another
//!   goes together with the other's arrival. Nobody waits for an answer for longer than [`WAIT_MAX`].
//! - What is refused is looked for: the changes of the refused response are told again in parts until those that
//!   cannot be had stand alone. These are left out, or stay as they were, until they change; the others are
//!   not held back.
//!
//! Truth: Envoy's "xDS REST and gRPC protocol"; measured with Envoy 1.40.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::Xxh3;

use super::resources::{Kind, Resource, Resources, port_of};

/// How long a change waits for what it depends on.
pub const WAIT_MAX: Duration = Duration::from_secs(1);
/// When a refused resource is offered again, since the reason may be gone, such as a port in use; doubled up to
/// the second.
const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// Most names that are taken out of Envoy's words to be tried alone.
const HINTS_MAX: usize = 16;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// State of the world: a response has all resources of a kind.
    Sotw,
    /// A response has what changed.
    Delta,
}

/// What a client says of one kind.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Of the response it answers; empty when it answers none.
    pub nonce: String,
    /// Why it refuses that response.
    pub error: Option<String>,
    /// Names wanted from now on: of all, in state of the world; in addition, in delta.
    pub names: Vec<String>,
    /// Names wanted no longer; delta.
    pub unsubscribe: Vec<String>,
    /// What it has already; delta, first request.
    pub initial: Vec<(String, String)>,
}

/// What a client is told of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it is about.
    pub kind: Kind,
    /// To be given back with the answer.
    pub nonce: String,
    /// Hash over names and versions of all that the client holds then; state of the world.
    pub version: String,
    /// All of them in state of the world, but for endpoints; otherwise those that differ.
    pub resources: Vec<Arc<Resource>>,
    /// Names of those that are gone; delta.
    pub removed: Vec<Arc<str>>,
}

/// A resource that the client does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// The version that is refused.
    pub version: String,
    /// The client's words.
    pub words: String,
}

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The outstanding response was taken.
    pub acked: bool,
    /// It was refused.
    pub nacked: bool,
    /// What is known to be refused since now.
    pub rejected: Option<Rejection>,
}

/// What a client holds under a name.
#[derive(Debug, Clone)]
enum Held {
    /// Told on this stream.
    Resource(Arc<Resource>),
    /// Told on an earlier one: its version.
    Version(String),
    /// It was told that there is nothing.
    Nothing,
}

impl Held {
    fn version(&self) -> Option<&str> {
        match self {
            Self::Resource(it) => Some(&it.version),
            Self::Version(it) => Some(it),
            Self::Nothing => None,
        }
    }
}

/// What is to become of a name.
type Change = (Arc<str>, Option<Arc<Resource>>);

#[derive(Debug)]
struct Refused {
    version: String,
    words: String,
    /// It is offered again, and not answered yet.
    is_offered: bool,
    retry_at: Instant,
    pause: Duration,
}

#[derive(Debug, Default)]
struct Subscribed {
    is_subscribed: bool,
    wildcard: bool,
    had_names: bool,
    names: BTreeSet<Arc<str>>,
    held: BTreeMap<Arc<str>, Held>,
    /// Names of a response that was refused: some of it may have been done nevertheless.
    uncertain: BTreeSet<Arc<str>>,
    /// Names whose state may differ from what is held.
    dirty: BTreeSet<Arc<str>>,
    /// The client waits for an answer, whatever there is to say.
    owed: bool,
    /// It has got one.
    is_answered: bool,
    /// Nonce and changes of the response that is not answered.
    pending: Option<(String, Vec<Change>)>,
    refused: BTreeMap<Arc<str>, Refused>,
    /// Parts of what was refused, each to be told by itself.
    trials: VecDeque<BTreeSet<Arc<str>>>,
    /// Since when names wait for another kind.
    waiting: BTreeMap<Arc<str>, Instant>,
}

impl Subscribed {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn holds(&self, name: &str) -> bool {
        let held = self.held.get(name);
        held.is_some_and(|it| it.version().is_some())
    }

    /// Whether the client has it, or will have it when it has read all that was sent.
    fn may_hold(&self, name: &str) -> bool {
        self.holds(name) || self.uncertain.contains(name) || self.is_pending(name, true)
    }

    /// Whether it is sure to have it, whatever it has read.
    fn is_sure_to_hold(&self, name: &str) -> bool {
        self.holds(name) && !self.is_pending(name, false)
    }

    fn is_pending(&self, name: &str, is_there: bool) -> bool {
        let mut changes = self.pending.iter().flat_map(|(_, changes)| changes);
        changes.any(|(it, resource)| &**it == name && resource.is_some() == is_there)
    }

    fn refuses(&self, resource: &Resource) -> bool {
        let refused = self.refused.get(&resource.name);
        refused.is_some_and(|it| it.version == resource.version && !it.is_offered)
    }
}

/// One stream.
#[derive(Debug)]
pub struct Subscription {
    protocol: Protocol,
    /// `None` until routing begins: nothing is said before.
    resources: Option<Arc<Resources>>,
    kinds: [Subscribed; 3],
    nonces: u64,
    /// When it was looked last whether there is something to say.
    polled: Option<Instant>,
}

/// Whether a change may be told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// When something else is answered.
    Later,
    /// Not while something else is refused.
    Shut,
}

impl Subscription {
    /// A stream on which nothing was said yet.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            resources: None,
            kinds: Default::default(),
            nonces: 0,
            polled: None,
        }
    }

    /// Whether every response was answered and nothing is left to say.
    pub fn is_settled(&self) -> bool {
        let is_settled = |it: &Subscribed| it.pending.is_none() && it.dirty.is_empty();
        self.kinds.iter().all(is_settled)
    }

    /// How many names of a kind the client knows all about.
    pub fn held(&self, kind: Kind) -> usize {
        self.kinds[kind.index()].held.len()
    }

    /// What the client does not take.
    pub fn rejections(&self) -> impl Iterator<Item = Rejection> {
        let kinds = Kind::ALL.into_iter().zip(&self.kinds);
        kinds.flat_map(|(kind, it)| {
            it.refused.iter().map(move |(name, refused)| Rejection {
                kind,
                name: name.clone(),
                version: refused.version.clone(),
                words: refused.words.clone(),
            })
        })
    }

    /// From now on these are the resources.
    pub fn update(&mut self, resources: &Arc<Resources>) {
        let known = self.resources.replace(resources.clone());
        let changed = known.and_then(|known| resources.changed_since(known.number));
        if let Some(changed) = changed {
            for (kind, name) in changed {
                let it = &mut self.kinds[kind.index()];
                if it.wants(name) || it.held.contains_key(name) {
                    it.dirty.insert(name.clone());
                }
            }
            return;
        }
        for kind in Kind::ALL {
            self.look_at_all(kind);
        }
    }

    fn look_at_all(&mut self, kind: Kind) {
        let Some(resources) = &self.resources else {
            return;
        };
        let it = &mut self.kinds[kind.index()];
        let mut dirty: BTreeSet<_> = it.held.keys().chain(&it.names).cloned().collect();
        if it.wildcard {
            dirty.extend(resources.all(kind).map(|resource| resource.name.clone()));
        }
        it.dirty = dirty;
    }

    /// Takes what the client says of a kind.
    pub fn request(&mut self, kind: Kind, request: Request, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let it = &mut self.kinds[kind.index()];
        let answered = it
            .pending
            .take_if(|(nonce, _)| *nonce == request.nonce && !nonce.is_empty());
        if let Some((_, changes)) = answered {
            match &request.error {
                None => {
                    outcome.acked = true;
                    self.accepted(kind, changes);
                }
                Some(words) => {
                    outcome.nacked = true;
                    outcome.rejected = self.refused(kind, changes, words, now);
                }
            }
        }
        let is_first = !std::mem::replace(&mut self.kinds[kind.index()].is_subscribed, true);
        match self.protocol {
            Protocol::Sotw => self.subscribe_to(kind, request.names, is_first),
            Protocol::Delta => self.change_subscription(kind, request, is_first),
        }
        let it = &mut self.kinds[kind.index()];
        it.owed |= is_first;
        let Subscribed {
            refused,
            wildcard,
            names,
            ..
        } = it;
        refused.retain(|name, _| *wildcard || names.contains(name));
        outcome
    }

    fn subscribe_to(&mut self, kind: Kind, names: Vec<String>, is_first: bool) {
        let it = &mut self.kinds[kind.index()];
        let was_wildcard = it.wildcard;
        it.had_names |= !names.is_empty();
        it.wildcard = !it.had_names || names.iter().any(|name| name == "*");
        let names: BTreeSet<Arc<str>> = names
            .into_iter()
            .filter(|name| name != "*")
            .map(Arc::from)
            .collect();
        if !is_first && names == it.names && was_wildcard == it.wildcard {
            return;
        }
        let added: Vec<_> = names.difference(&it.names).cloned().collect();
        it.owed |= !added.is_empty();
        it.names = names;
        for name in added {
            it.held.remove(&name);
            it.dirty.insert(name);
        }
        self.forget_unwanted(kind);
        if is_first || self.kinds[kind.index()].wildcard != was_wildcard {
            self.look_at_all(kind);
        }
    }

    fn change_subscription(&mut self, kind: Kind, request: Request, is_first: bool) {
        let it = &mut self.kinds[kind.index()];
        let was_wildcard = it.wildcard;
        if is_first && request.names.is_empty() {
            it.wildcard = true;
        }
        for name in request.names {
            if name == "*" {
                it.wildcard = true;
                continue;
            }
            let name: Arc<str> = name.into();
            // Who asks again has lost it.
            it.held.remove(&name);
            it.dirty.insert(name.clone());
            it.names.insert(name);
        }
        for name in request.unsubscribe {
            if name == "*" {
                it.wildcard = false;
            }
            it.names.remove(name.as_str());
        }
        for (name, version) in request.initial {
            let name: Arc<str> = name.into();
            it.held.insert(name.clone(), Held::Version(version));
            it.dirty.insert(name);
        }
        let turned = it.wildcard != was_wildcard;
        if !is_first {
            self.forget_unwanted(kind);
        }
        if turned {
            self.look_at_all(kind);
        }
    }

    /// What is wanted no longer is dropped by the client itself.
    fn forget_unwanted(&mut self, kind: Kind) {
        let it = &mut self.kinds[kind.index()];
        if it.wildcard {
            return;
        }
        let names = &it.names;
        it.held.retain(|name, _| names.contains(name));
        it.dirty.retain(|name| names.contains(name));
        it.uncertain.retain(|name| names.contains(name));
        it.waiting.retain(|name, _| names.contains(name));
    }

    fn accepted(&mut self, kind: Kind, changes: Vec<Change>) {
        let mut freed = Vec::new();
        let it = &mut self.kinds[kind.index()];
        for (name, resource) in changes {
            it.uncertain.remove(&name);
            if it.refused.remove(&name).is_some() {
                freed.push(name.clone());
            }
            if !it.wants(&name) {
                continue;
            }
            match resource {
                Some(resource) => {
                    it.held.insert(name, Held::Resource(resource));
                }
                None if it.names.contains(&name) => {
                    it.held.insert(name, Held::Nothing);
                }
                None => {
                    it.held.remove(&name);
                }
            }
        }
        // What could not be told because of it can be told now.
        self.kinds[Kind::Listener.index()].dirty.extend(freed);
    }

    fn refused(
        &mut self,
        kind: Kind,
        changes: Vec<Change>,
        words: &str,
        now: Instant,
    ) -> Option<Rejection> {
        let it = &mut self.kinds[kind.index()];
        let (sets, removals): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|(_, it)| it.is_some());
        // Whether they were done nobody knows; to be told twice that something is gone does no harm, but a
        // response of nothing else would be refused for ever.
        for (name, _) in removals {
            if sets.is_empty() {
                it.uncertain.remove(&name);
                it.held.remove(&name);
            } else {
                it.uncertain.insert(name.clone());
                it.dirty.insert(name);
            }
        }
        if let [(name, Some(resource))] = sets.as_slice() {
            let before = it.refused.get(name);
            let pause = before.map_or(RETRY_FIRST, |it| (it.pause * 2).min(RETRY_MAX));
            let refused = Refused {
                version: resource.version.clone(),
                words: words.to_owned(),
                is_offered: false,
                retry_at: now + pause,
                pause,
            };
            it.refused.insert(name.clone(), refused);
            it.uncertain.remove(name);
            return Some(Rejection {
                kind,
                name: name.clone(),
                version: resource.version.clone(),
                words: words.to_owned(),
            });
        }
        let names: Vec<Arc<str>> = sets.into_iter().map(|(name, _)| name).collect();
        it.uncertain.extend(names.iter().cloned());
        let (named, rest): (Vec<_>, Vec<_>) =
            names.iter().cloned().partition(|it| names_it(words, it));
        if !named.is_empty() && !rest.is_empty() {
            if named.len() <= HINTS_MAX {
                let singly = named.into_iter().map(|name| BTreeSet::from([name]));
                singly.for_each(|name| it.trials.push_front(name));
            } else {
                it.trials.push_front(named.into_iter().collect());
            }
            it.trials.push_front(rest.into_iter().collect());
        } else {
            let (first, second) = names.split_at(names.len() / 2);
            for half in [second, first] {
                let half: BTreeSet<_> = half.iter().cloned().collect();
                if !half.is_empty() {
                    it.trials.push_front(half);
                }
            }
        }
        None
    }

    /// What to send now, if anything. To be called until it has nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Response> {
        self.polled = Some(now);
        Kind::ALL.into_iter().find_map(|kind| self.next(kind, now))
    }

    /// When [`Self::poll`] may have something although nothing has happened, after it had nothing.
    pub fn deadline(&self) -> Option<Instant> {
        let kinds = self.kinds.iter();
        let moments = kinds.flat_map(|it| {
            let waits = it.waiting.values().map(|since| *since + WAIT_MAX);
            waits.chain(it.refused.values().map(|it| it.retry_at))
        });
        // What was due when it had nothing waits for something else.
        moments.filter(|it| Some(*it) > self.polled).min()
    }

    fn next(&mut self, kind: Kind, now: Instant) -> Option<Response> {
        let resources = self.resources.clone()?;
        self.offer_again(kind, now);
        loop {
            let it = &mut self.kinds[kind.index()];
            if !it.is_subscribed || it.pending.is_some() {
                return None;
            }
            let trial = it.trials.pop_front();
            let is_trial = trial.is_some();
            let (changes, some_wait) = self.due(kind, &resources, trial.as_ref(), now);
            let it = &mut self.kinds[kind.index()];
            if changes.is_empty() && is_trial {
                continue;
            }
            if changes.is_empty() && !it.owed {
                return None;
            }
            // An Envoy that starts takes the first answer for all there is; and in state of the world one that has
            // them from an earlier stream would lose those that wait.
            if !it.is_answered && it.held.is_empty() && some_wait {
                it.dirty.extend(changes.into_iter().map(|(name, _)| name));
                return None;
            }
            (it.owed, it.is_answered) = (false, true);
            for (name, _) in &changes {
                it.dirty.remove(name);
                it.waiting.remove(name);
            }
            if kind == Kind::Cluster {
                self.renew_endpoints(&changes);
            }
            return Some(self.response(kind, changes));
        }
    }

    /// A cluster that is told anew waits for its endpoints, though they did not change.
    fn renew_endpoints(&mut self, changes: &[Change]) {
        let endpoints = &mut self.kinds[Kind::Endpoints.index()];
        for (name, resource) in changes {
            if resource.is_none() {
                continue;
            }
            let was_held = endpoints.held.remove(name).is_some();
            let pending = endpoints.pending.as_mut().map(|(_, changes)| changes);
            let was_pending = pending.is_some_and(|changes| {
                let before = changes.len();
                changes.retain(|(it, _)| it != name);
                changes.len() < before
            });
            if was_held || was_pending {
                endpoints.dirty.insert(name.clone());
            }
        }
    }

    fn offer_again(&mut self, kind: Kind, now: Instant) {
        let it = &mut self.kinds[kind.index()];
        for (name, refused) in &mut it.refused {
            if refused.retry_at <= now {
                refused.is_offered = true;
                refused.retry_at = now + RETRY_MAX;
                it.trials.push_back(BTreeSet::from([name.clone()]));
            }
        }
    }

    /// The changes that may be told now, those of `trial` alone or all, and whether others wait. Removals are told
    /// in any case.
    fn due(
        &mut self,
        kind: Kind,
        resources: &Resources,
        trial: Option<&BTreeSet<Arc<str>>>,
        now: Instant,
    ) -> (Vec<Change>, bool) {
        let it = &self.kinds[kind.index()];
        let mut due = Vec::new();
        let mut settled = Vec::new();
        let mut later = Vec::new();
        let mut gone = Vec::new();
        let mut awaited_ports = BTreeSet::new();
        let removals = trial.map(|_| &it.dirty);
        let candidates = trial.unwrap_or(&it.dirty).iter();
        let candidates = candidates.chain(removals.into_iter().flatten());
        for name in candidates {
            let target = resources.get(kind, name).filter(|_| it.wants(name));
            let held = it.held.get(name);
            match target {
                Some(resource) => {
                    let is_held = held.and_then(Held::version) == Some(&resource.version);
                    if (is_held && !it.uncertain.contains(name)) || it.refuses(resource) {
                        settled.push(name.clone());
                        continue;
                    }
                    if trial.is_some_and(|trial| !trial.contains(name)) {
                        continue;
                    }
                    match self.gate_for_new(kind, name) {
                        Gate::Open => due.push((name.clone(), Some(resource.clone()))),
                        Gate::Later if self.has_waited(kind, name, now) => {
                            due.push((name.clone(), Some(resource.clone())));
                        }
                        Gate::Later => {
                            awaited_ports.extend(port_of(name));
                            later.push(name.clone());
                        }
                        Gate::Shut => settled.push(name.clone()),
                    }
                }
                None => {
                    gone.push(name.clone());
                    let is_unsaid = held.is_none() && it.names.contains(name);
                    let is_gone = held.is_some_and(|it| it.version().is_some())
                        || it.uncertain.contains(name)
                        || (is_unsaid && self.protocol == Protocol::Delta);
                    if !is_gone {
                        settled.push(name.clone());
                        continue;
                    }
                    match self.gate_for_gone(kind, name) {
                        Gate::Later if !self.has_waited(kind, name, now) => {
                            later.push(name.clone());
                        }
                        _ => due.push((name.clone(), None)),
                    }
                }
            }
        }
        if kind == Kind::Listener && !awaited_ports.is_empty() {
            // Its port stays open until the one who takes it is there.
            due.retain(|(name, resource)| {
                let stays = resource.is_none()
                    && port_of(name).is_some_and(|port| awaited_ports.contains(&port));
                if stays {
                    later.push(name.clone());
                }
                !stays
            });
        }
        due.sort_by(|a, b| a.0.cmp(&b.0));
        due.dedup_by(|a, b| a.0 == b.0);
        let it = &mut self.kinds[kind.index()];
        for name in settled {
            it.dirty.remove(&name);
            it.waiting.remove(&name);
        }
        for name in gone {
            it.refused.remove(&name);
        }
        let some_wait = !later.is_empty();
        for name in later {
            it.waiting.entry(name.clone()).or_insert(now);
            it.dirty.insert(name);
        }
        (due, some_wait)
    }

    fn has_waited(&self, kind: Kind, name: &str, now: Instant) -> bool {
        let since = self.kinds[kind.index()].waiting.get(name);
        since.is_some_and(|since| now.duration_since(*since) >= WAIT_MAX)
    }

    fn gate_for_new(&self, kind: Kind, name: &str) -> Gate {
        if kind != Kind::Listener || self.kinds[kind.index()].holds(name) {
            return Gate::Open;
        }
        let [clusters, endpoints, _] = &self.kinds;
        if !clusters.is_subscribed {
            return Gate::Open;
        }
        let refuses = |it: &Subscribed| it.refused.contains_key(name);
        if refuses(clusters) || refuses(endpoints) {
            return Gate::Shut;
        }
        if clusters.is_sure_to_hold(name) && endpoints.holds(name) {
            Gate::Open
        } else {
            Gate::Later
        }
    }

    fn gate_for_gone(&self, kind: Kind, name: &str) -> Gate {
        let [clusters, _, listeners] = &self.kinds;
        let before = match kind {
            Kind::Cluster => listeners,
            Kind::Endpoints => clusters,
            Kind::Listener => return Gate::Open,
        };
        if before.is_subscribed && before.may_hold(name) {
            Gate::Later
        } else {
            Gate::Open
        }
    }

    fn response(&mut self, kind: Kind, changes: Vec<Change>) -> Response {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let it = &mut self.kinds[kind.index()];
        let sets = changes.iter().filter_map(|(_, it)| it.clone());
        let (resources, removed, version) = match self.protocol {
            Protocol::Delta => {
                let removed = changes.iter().filter(|(_, it)| it.is_none());
                let removed = removed.map(|(name, _)| name.clone()).collect();
                (sets.collect(), removed, String::new())
            }
            Protocol::Sotw => {
                let held = it.held.iter().filter_map(|(name, held)| match held {
                    Held::Resource(resource) => Some((name.clone(), resource.clone())),
                    Held::Version(_) | Held::Nothing => None,
                });
                let mut all: BTreeMap<Arc<str>, Arc<Resource>> = held.collect();
                for (name, resource) in &changes {
                    match resource {
                        Some(resource) => all.insert(name.clone(), resource.clone()),
                        None => all.remove(name),
                    };
                }
                let mut hash = Xxh3::new();
                for resource in all.values() {
                    hash.update(resource.name.as_bytes());
                    hash.update(resource.version.as_bytes());
                }
                let version = format!("{:016x}", hash.digest());
                // Endpoints that are not mentioned stay as they are, clusters and listeners do not.
                let resources = match kind {
                    Kind::Endpoints => sets.collect(),
                    Kind::Cluster | Kind::Listener => all.into_values().collect(),
                };
                (resources, Vec::new(), version)
            }
        };
        it.pending = Some((nonce.clone(), changes));
        Response {
            kind,
            nonce,
            version,
            resources,
            removed,
        }
    }
}

/// Whether a client's words are about a resource. They only decide what is tried first.
fn names_it(words: &str, name: &str) -> bool {
    words.match_indices(name).any(|(at, _)| {
        let before = words[..at].chars().next_back();
        before.is_none_or(|it| it.is_whitespace() || "'\"(,;".contains(it))
    })
}

#[cfg(test)]
mod tests;
