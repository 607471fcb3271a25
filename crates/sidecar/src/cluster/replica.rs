//! What this host tells the cluster and what it believes of the cluster. Pure: inputs and time go
//! in, broadcasts and changes come out.
//!
//! Only the origin of a record writes it. This host is the origin of what its own discovery finds;
//! when anybody else's newer record says something untrue about those, it is refuted with a still
//! newer stamp. Records of this host that discovery does not know are ghosts of a former life once
//! every source has listed; until then "not seen yet" is not "gone".
//!
//! Another live host may have the same name. Then nobody is the only writer any more, and two that
//! each set right what the other says would do so for ever. So whoever answers back is left alone:
//! what is newer than a tombstone of ours stands, and of two that announce the same instance the one
//! that is contradicted again and again yields. The operator is told.
//!
//! Between our own agents a record stands as long as its host does, and nothing is repeated. Only
//! while a Go Sidecar is in the cluster, and for records under a name that is no member's, are
//! quiet records refreshed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use catalog::{
    Applied, Author, Buckets, Change, FUTURE_STAMP_MAX, Now, Rejected, Service, State, Status,
    TOMBSTONE_LIFESPAN, Timestamp,
};

use super::{
    clock::Offset,
    drains::{Drain, Drains, Key},
    metadata::Kind,
};
use crate::{discovery::SourceName, health::LocalUpdate};

/// Where somebody needs it, quiet records are stamped and sent again this often: Go peers forget what
/// they have not heard of for 80 s (Go Sidecar: 60 s).
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// Refreshes are spread over this much less than [`REFRESH_EVERY`], so that records found together
/// do not stay together.
const REFRESH_SPREAD: Duration = Duration::from_secs(10);

/// When the first Go Sidecar appears, everything is refreshed within this time: it judges records by
/// the age of their stamps.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// When an exchange brings more news than this, none of them are passed on by gossip.
const PASSED_ON_MAX: usize = 64;

/// Another host of our name is thought to be alive for so long after the last sign of it. Each of its
/// own exchanges is one: every 20 s, in a cluster of a thousand every 2 min.
const RIVALRY: Duration = Duration::from_secs(300);
/// What somebody else says of a live instance of ours is set right so often ...
const REFUTATIONS_MAX: u8 = 3;
/// ... in this time. Who says it again has a reason.
const REFUTATIONS_IN: Duration = Duration::from_secs(60);

/// A record every member should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// All of it.
    pub record: Arc<Service>,
    /// Only its status and stamp are news, and everybody who is to hear of it can tell.
    pub brief: bool,
}

impl Deref for News {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.record
    }
}

/// What an input led to.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records every member should hear of, oldest first.
    pub broadcasts: Vec<News>,
    /// What readers will see change.
    pub changes: Vec<Change>,
    /// Records refused, and why.
    pub rejected: Vec<(Arc<Service>, Rejected)>,
    /// Records under this host's name that another live program announces.
    pub foreign: Vec<Arc<Service>>,
    /// Instances whose drain has come to its end by itself.
    pub returned: Vec<String>,
}

impl Effects {
    fn extend(&mut self, more: Self) {
        self.broadcasts.extend(more.broadcasts);
        self.changes.extend(more.changes);
        self.rejected.extend(more.rejected);
        self.foreign.extend(more.foreign);
        self.returned.extend(more.returned);
    }
}

/// An instance of this host that was told to drain or to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commanded {
    /// Name of its service.
    pub name: String,
    /// Host that announces it.
    pub hostname: String,
    /// What it is from now on: draining, or what its check says.
    pub status: Status,
    /// When the drain ends by itself.
    pub until: Option<Timestamp>,
}

/// An instance this host announces.
#[derive(Debug)]
struct Own {
    /// As health reported it last.
    service: Service,
    checked: bool,
    /// Since when it is known, by us or by an agent before us: a static file does not say how old a
    /// service is, and seniority decides about ports.
    born: Timestamp,
    /// When it is refreshed, if somebody needs that.
    refresh_at: Instant,
    /// Since when, and how often, somebody else's word about it as alive was set right.
    refuted: Option<(Instant, u8)>,
}

/// Another live host of our name.
#[derive(Debug, Clone, Copy)]
struct Rival {
    /// It counts as alive until then.
    until: Instant,
    /// Whether gossip has reported it; otherwise it was noticed by what it writes.
    reported: bool,
}

/// The catalog's state and this host's part in it.
#[derive(Debug)]
pub struct Replica {
    state: State,
    hostname: String,
    own: BTreeMap<Key, Own>,
    drains: Drains,
    /// What is older and stands under our name is ours, or nobody's any more: the start, or the end of
    /// the last rivalry. What is a little newer may be, too: see [`Replica::former_until`].
    alone_since: Timestamp,
    rival: Option<Rival>,
    /// The newest stamp given or met for an own record: the next one is greater, whatever the wall
    /// clock does, unless the cluster's time turns out to be another.
    last_stamp: Timestamp,
    /// The newest stamp given before our time ever went back: what is not newer may be an echo of
    /// ours, whatever we have said since.
    echoes_until: Timestamp,
    /// From our time to that by which stamps of others are judged.
    judged_by: Offset,
    /// Sources that have not listed completely yet.
    awaited: BTreeSet<SourceName>,
    /// Members that need refreshes.
    go_members: BTreeSet<String>,
    /// Whether the first join has been tried: peers have told what they last knew of this host.
    joined: bool,
}

impl Replica {
    /// An empty replica. `awaited` names the sources whose listing completes the view of this host.
    pub fn new(
        hostname: &str,
        cluster_name: &str,
        awaited: impl IntoIterator<Item = SourceName>,
        now: Now,
    ) -> Self {
        let mut state = State::new(hostname, cluster_name);
        state.member_up(hostname, Kind::Ours.upkeep(), now);
        Self {
            awaited: awaited.into_iter().collect(),
            joined: false,
            ..Self::resumed(state, now)
        }
    }

    /// A replica that takes over what `state` knows, as seen from this host: of one that has been
    /// part of its cluster for long.
    pub fn resumed(state: State, now: Now) -> Self {
        let hostname = state.snapshot().hostname.to_string();
        Self {
            state,
            hostname,
            own: BTreeMap::new(),
            drains: Drains::new(None, now),
            alone_since: now.wall,
            rival: None,
            last_stamp: now.wall,
            echoes_until: Timestamp::EPOCH,
            judged_by: Offset::default(),
            awaited: BTreeSet::new(),
            go_members: BTreeSet::new(),
            joined: true,
        }
    }

    /// The same with the drains of the agent before, if somebody has kept them: then the cluster's
    /// word is not taken for any.
    #[must_use]
    pub fn with_drains(self, kept: Option<Vec<Drain>>, now: Now) -> Self {
        Self {
            drains: Drains::new(kept, now),
            ..self
        }
    }

    /// The drains that the next agent should know, and a number that changes with them.
    pub fn drains(&self) -> (u64, Vec<Drain>) {
        (self.drains.revision(), self.drains.list())
    }

    /// Changes when [`Replica::drains`] does.
    pub fn drains_revision(&self) -> u64 {
        self.drains.revision()
    }

    /// The name of this host, and of its node.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// What readers see.
    pub fn snapshot(&self) -> &catalog::Snapshot {
        self.state.snapshot()
    }

    /// The record held of an instance, as its origin wrote it.
    pub fn record(&self, hostname: &str, id: &str) -> Option<&Arc<Service>> {
        self.state.record(hostname, id)
    }

    /// What the start still waits for before the view of this host is complete.
    pub fn awaited(&self) -> Vec<&'static str> {
        let sources = self.awaited.iter().map(|source| match source {
            SourceName::Docker => "docker listing",
            SourceName::Static => "static file",
        });
        sources.chain((!self.joined).then_some("join")).collect()
    }

    /// Whether the first join was tried.
    pub fn has_joined(&self) -> bool {
        self.joined
    }

    /// Whether neither a check nor what the cluster last knew says how some instance of ours is.
    pub fn is_undecided(&self) -> bool {
        let unchecked = self.own.iter().filter(|(_, own)| !own.checked);
        let mut held = unchecked.map(|((host, id), _)| self.state.record(host, id));
        held.any(|held| {
            held.is_none_or(|held| held.is_tombstone() || held.status == Status::Unknown)
        })
    }

    /// Takes in news from this host's own discovery and health.
    pub fn local(&mut self, update: LocalUpdate, now: Now) -> Effects {
        let mut effects = Effects::default();
        match update {
            LocalUpdate::Present { service, checked } => {
                let key = key_of(&service);
                let refresh_at = now.monotonic + refresh_interval(&service.id);
                let known = self.own.get(&key).map(|own| own.born);
                let born = known.map_or(service.created, |born| born.min(service.created));
                self.own.insert(
                    key.clone(),
                    Own {
                        service,
                        checked,
                        born,
                        refresh_at,
                        refuted: None,
                    },
                );
                self.drains.claim(&key);
                // A former life may have told of it already.
                if let Some(held) = self.state.record(&key.0, &key.1).cloned()
                    && self.is_older_than_known(&key, &held)
                    && let Some(own) = self.own.get_mut(&key)
                {
                    own.born = held.created;
                }
                self.announce(&key, false, now, &mut effects);
            }
            LocalUpdate::Gone { id } => {
                let gone: Vec<Key> = self
                    .own
                    .keys()
                    .filter(|(_, own_id)| *own_id == id)
                    .cloned()
                    .collect();
                for key in gone {
                    self.own.remove(&key);
                    self.drains.forget(&key);
                    self.bury(&key, Timestamp::EPOCH, now, &mut effects);
                }
            }
            LocalUpdate::Listed(source) => {
                self.awaited.remove(&source);
                self.bury_ghosts(now, &mut effects);
            }
        }
        effects
    }

    /// The first join was tried, with or without success.
    pub fn joined(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        if !std::mem::replace(&mut self.joined, true) {
            let keys: Vec<Key> = self.own.keys().cloned().collect();
            for key in keys {
                self.announce(&key, false, now, &mut effects);
            }
            self.bury_ghosts(now, &mut effects);
        }
        effects
    }

    /// Takes in a record a peer sent.
    pub fn remote(&mut self, record: impl Into<Arc<Service>>, now: Now) -> Effects {
        let record = record.into();
        let mut effects = Effects::default();
        if let Err(why) = self.state.admit(&record, self.judged(now)) {
            effects.rejected.push((record, why));
            return effects;
        }
        let key = key_of(&record);
        if self.own.contains_key(&key) {
            self.remote_about_own(&key, record, now, &mut effects);
        } else if record.hostname == self.hostname {
            self.remote_about_this_host(&key, record, now, &mut effects);
        } else {
            self.merge(record, now, &mut effects);
        }
        effects
    }

    /// Takes in records of an exchange, and returns those we can beat, as we hold them.
    ///
    /// What an exchange brings is old news to whoever sent it: a little of it is passed on at once,
    /// in case it is news to others; a lot is what we have missed, and the others have not.
    pub fn exchanged(
        &mut self,
        records: Vec<impl Into<Arc<Service>>>,
        now: Now,
    ) -> (Effects, Vec<Arc<Service>>) {
        let mut all = Effects::default();
        let mut better = Vec::new();
        for record in records {
            let record = record.into();
            let key = key_of(&record);
            all.extend(self.remote(record.clone(), now));
            let held = self.state.record(&key.0, &key.1);
            better.extend(held.filter(|held| held.supersedes(&record)).cloned());
        }
        if all.broadcasts.len() > PASSED_ON_MAX {
            all.broadcasts.retain(|news| news.hostname == self.hostname);
        }
        (all, better)
    }

    /// Takes in all live records that a peer holds in some buckets, and returns what it lacks.
    pub fn offered(
        &mut self,
        buckets: &Buckets,
        records: Vec<impl Into<Arc<Service>>>,
        now: Now,
    ) -> (Effects, Vec<Arc<Service>>) {
        let records: Vec<Arc<Service>> = records.into_iter().map(Into::into).collect();
        let offered: BTreeSet<Key> = records.iter().map(|record| key_of(record)).collect();
        let (effects, mut better) = self.exchanged(records, now);
        let ours = self.state.snapshot().records_in(buckets);
        let lacking = ours.filter(|held| !held.is_tombstone() && !offered.contains(&key_of(held)));
        better.extend(lacking.cloned());
        (effects, better)
    }

    /// A member joined, returned or changed its metadata.
    pub fn member_up(&mut self, name: &str, kind: Kind, now: Now) -> Effects {
        if kind == Kind::Go {
            if self.go_members.is_empty() {
                for ((_, id), own) in &mut self.own {
                    own.refresh_at = now.monotonic + INTRODUCTION.mul_f64(spread(id));
                }
            }
            self.go_members.insert(name.to_owned());
        } else {
            self.go_members.remove(name);
        }
        Effects {
            changes: self.state.member_up(name, kind.upkeep(), now),
            ..Effects::default()
        }
    }

    /// Whether an own record must be heard of again and again to be believed.
    fn needs_refresh(&self, key: &Key) -> bool {
        !self.go_members.is_empty() || key.0 != self.hostname
    }

    /// A member died or left.
    pub fn member_down(&mut self, name: &str, now: Now) -> Effects {
        self.go_members.remove(name);
        Effects {
            changes: self.state.member_down(name, now),
            ..Effects::default()
        }
    }

    /// Takes an instance of this host out of traffic, whatever its checks say, for so long or until
    /// [`Replica::undrain`]; `None` when no such instance is here. What was said before about how long
    /// does not count any more.
    pub fn drain(
        &mut self,
        id: &str,
        timeout: Option<Duration>,
        now: Now,
    ) -> (Option<Commanded>, Effects) {
        let mut effects = Effects::default();
        let Some(key) = self.own_key(id) else {
            return (None, effects);
        };
        let until = timeout.map(|timeout| now.wall.plus(timeout));
        self.drains.put(key.clone(), until, now);
        self.announce(&key, false, now, &mut effects);
        (self.commanded(&key, until), effects)
    }

    /// Ends a drain: from now on the instance is what its check says. Does nothing to one that does
    /// not drain; `None` when no such instance is here.
    pub fn undrain(&mut self, id: &str, now: Now) -> (Option<Commanded>, Effects) {
        let mut effects = Effects::default();
        let Some(key) = self.own_key(id) else {
            return (None, effects);
        };
        if self.drains.has(&key) {
            self.drains.end(&key);
            self.announce(&key, false, now, &mut effects);
        }
        (self.commanded(&key, None), effects)
    }

    fn own_key(&self, id: &str) -> Option<Key> {
        self.own.keys().find(|(_, own_id)| own_id == id).cloned()
    }

    fn commanded(&self, key: &Key, until: Option<Timestamp>) -> Option<Commanded> {
        let own = self.own.get(key)?;
        let status = match own.checked {
            _ if self.drains.has(key) => Status::Draining,
            true => own.service.status,
            false => Status::Unknown,
        };
        Some(Commanded {
            name: own.service.name.clone(),
            hostname: key.0.clone(),
            status,
            until,
        })
    }

    /// The record of an instance of this host with this ID, once it says what it is to say.
    pub fn settled_record(&self, id: &str) -> Option<&Arc<Service>> {
        let key = self.own_key(id)?;
        let record = self.state.record(&key.0, &key.1);
        record.filter(|_| !self.drains.in_step(&key))
    }

    /// Lets time pass: refreshes what is due, expires what was not refreshed.
    pub fn tick(&mut self, now: Now) -> Effects {
        let mut effects = Effects {
            changes: self.state.expire(now),
            ..Effects::default()
        };
        self.end_rivalry(now, &mut effects);
        let (over, steps) = self.drains.due(now);
        effects.returned = over.iter().map(|(_, id)| id.clone()).collect();
        for key in over.iter().chain(&steps) {
            self.announce(key, false, now, &mut effects);
        }
        let due: Vec<Key> = self
            .own
            .iter()
            .filter(|(key, own)| own.refresh_at <= now.monotonic && self.needs_refresh(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(own) = self.own.get_mut(&key) {
                own.refresh_at = now.monotonic + refresh_interval(&key.1);
            }
            self.announce(&key, true, now, &mut effects);
        }
        effects
    }

    /// Gossip reports another live host of our name.
    pub fn rival_reported(&mut self, now: Now) {
        self.rival = Some(Rival {
            until: now.monotonic + RIVALRY,
            reported: true,
        });
    }

    /// Somebody else writes under our name, and answers back.
    fn rival_noticed(&mut self, now: Now) {
        self.rival = Some(Rival {
            until: now.monotonic + RIVALRY,
            reported: self.rival.is_some_and(|rival| rival.reported),
        });
    }

    /// Whatever the other host has left is a ghost now, and of what both announced ours stands.
    fn end_rivalry(&mut self, now: Now, effects: &mut Effects) {
        let over = self.rival.filter(|rival| rival.until <= now.monotonic);
        let Some(rival) = over else { return };
        self.rival = None;
        if rival.reported {
            self.alone_since = now.wall;
            self.bury_ghosts(now, effects);
        }
        let keys: Vec<Key> = self.own.keys().cloned().collect();
        for key in keys {
            self.announce(&key, false, now, effects);
        }
    }

    /// From now on stamps of others are judged by a time that is so far from ours.
    pub fn judge_by(&mut self, exact: Offset) {
        self.judged_by = exact;
    }

    fn judged(&self, now: Now) -> Now {
        let wall = self.judged_by.translate(now.wall);
        Now { wall, ..now }
    }

    /// The cluster's time is another than was thought, by `moved` when that is much.
    ///
    /// What is stamped beyond it could be overridden by nothing, and whoever had the right time has
    /// refused it: it is forgotten. What this host has said is said again, with stamps that others
    /// believe, be they lower than the old ones; if little has moved, and of tombstones in any case,
    /// only what would be lost.
    pub fn time_moved(&mut self, moved: Option<Offset>, now: Now) -> Effects {
        let limit = self.judged(now).wall.plus(FUTURE_STAMP_MAX);
        let lost = |held: &&Arc<Service>| held.updated > limit;
        let own = self.own.keys();
        let own = own
            .filter_map(|(host, id)| self.state.record(host, id))
            .filter(|held| !held.is_tombstone() && (moved.is_some() || lost(held)));
        let buried = self.state.records_of(&self.hostname);
        let buried = buried.filter(|held| held.is_tombstone() && lost(held));
        let said: Vec<Arc<Service>> = own.chain(buried).cloned().collect();
        let keys: BTreeSet<Key> = said.iter().map(|record| key_of(record)).collect();
        let mut changes = self.state.forget_newer_than(limit, now);
        // These are back before anybody looks.
        changes.retain(|change| !keys.contains(&key_of(&change.service)));
        if let Some(moved) = moved {
            self.alone_since = moved.translate(self.alone_since);
            self.drains.time_moved(moved);
        }
        if self.last_stamp > now.wall {
            self.echoes_until = self.echoes_until.max(self.last_stamp);
            self.last_stamp = now.wall;
        }
        let mut effects = Effects::default();
        for record in said {
            self.publish(Service::clone(&record), now, Timestamp::EPOCH, &mut effects);
        }
        effects.changes = changes;
        effects
    }

    /// Forgets what every other host has said, who is a member excepted.
    pub fn forget_others(&mut self, now: Now) -> Effects {
        // Ours, but under another name.
        let names = self.own.keys().filter(|(host, _)| *host != self.hostname);
        let said = names.filter_map(|(host, id)| self.state.record(host, id));
        let said: Vec<Arc<Service>> = said.filter(|held| !held.is_tombstone()).cloned().collect();
        let keys: BTreeSet<Key> = said.iter().map(|record| key_of(record)).collect();
        let mut changes = self.state.forget_others(&self.hostname, now);
        changes.retain(|change| !keys.contains(&key_of(&change.service)));
        let mut effects = Effects::default();
        for record in said {
            self.publish(Service::clone(&record), now, Timestamp::EPOCH, &mut effects);
        }
        effects.changes = changes;
        effects
    }

    /// When [`Replica::tick`] next has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let refreshed = self.own.iter().filter(|(key, _)| self.needs_refresh(key));
        let refresh = refreshed.map(|(_, own)| own.refresh_at).min();
        let rivalry = self.rival.map(|rival| rival.until);
        let drains = self.drains.next_deadline();
        [refresh, self.state.next_expiry(), rivalry, drains]
            .into_iter()
            .flatten()
            .min()
    }

    /// Declares everything this host announces gone, for good.
    pub fn farewell(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        for (key, _) in std::mem::take(&mut self.own) {
            self.bury(&key, Timestamp::EPOCH, now, &mut effects);
        }
        effects
    }

    /// A stamp for a record of ours, newer than every one before.
    fn stamp(&mut self, now: Now, at_least: Timestamp) -> Timestamp {
        self.last_stamp = now.wall.max(self.last_stamp.next()).max(at_least);
        self.last_stamp
    }

    /// Tells the cluster how an own instance is, when that is news or `refresh` asks for it.
    fn announce(&mut self, key: &Key, refresh: bool, now: Now, effects: &mut Effects) {
        let Some(own) = self.own.get(key) else { return };
        let held = self
            .state
            .record(&key.0, &key.1)
            .filter(|held| !held.is_tombstone())
            .cloned();
        if held.is_none() && !self.joined {
            // The cluster may know it better: how it is, and since when.
            return;
        }
        if !own.checked {
            // Nobody has asked the instance yet. What the cluster last knew stands until then, so
            // that a restarted agent takes nothing out of service.
            if held
                .as_ref()
                .is_some_and(|held| held.status == Status::Draining)
            {
                self.drains.learn(key, now);
            }
        }
        let was_draining = held
            .as_ref()
            .is_some_and(|held| held.status == Status::Draining);
        let status = match (&held, own.checked) {
            _ if self.drains.has(key) => Status::Draining,
            (_, true) => own.service.status,
            (Some(held), false) if !was_draining => held.status,
            (_, false) => Status::Unknown,
        };
        let status = match status {
            Status::Alive if self.drains.in_step(key) => Status::Unknown,
            Status::Alive if was_draining && self.needs_refresh(key) => {
                if self.drains.step(key, now) {
                    Status::Unknown
                } else {
                    Status::Alive
                }
            }
            status => status,
        };
        let record = Service {
            status,
            created: own.born,
            ..own.service.clone()
        };
        let news = held.is_none_or(|held| held.differs_materially(&record));
        if news || refresh {
            self.publish(record, now, Timestamp::EPOCH, effects);
        }
    }

    /// Stamps an own record, newer than what is held and than that, applies and broadcasts it.
    fn publish(&mut self, record: Service, now: Now, newer_than: Timestamp, effects: &mut Effects) {
        let held = self.state.record(&record.hostname, &record.id);
        let newer_than = held.map_or(newer_than, |held| newer_than.max(held.updated));
        let updated = self.stamp(now, newer_than.next());
        let record = Arc::new(Service { updated, ..record });
        let brief = self.is_brief(&record);
        match self.state.apply(record.clone(), Author::Own, now) {
            Ok(Applied::New(change)) => {
                effects.changes.extend(change);
                effects.broadcasts.push(News { record, brief });
            }
            Ok(Applied::Known) => {}
            Err(why) => effects.rejected.push((record, why)),
        }
    }

    /// Replaces what the state holds by a tombstone of ours, newer than it and than that.
    fn bury(&mut self, key: &Key, newer_than: Timestamp, now: Now, effects: &mut Effects) {
        let held = self
            .state
            .record(&key.0, &key.1)
            .filter(|held| !held.is_tombstone())
            .cloned();
        if let Some(held) = held {
            let tombstone = Service {
                status: Status::Tombstone,
                ..Service::clone(&held)
            };
            self.publish(tombstone, now, newer_than, effects);
        }
    }

    /// Whether "not found by discovery" means "not there".
    fn settled(&self) -> bool {
        self.joined && self.awaited.is_empty()
    }

    /// The newest stamp that a record of our former life may have. Its clock may have been ahead of ours,
    /// or ours set back meanwhile, as far as others believe.
    fn former_until(&self) -> Timestamp {
        let since = self.judged_by.translate(self.alone_since);
        since.plus(FUTURE_STAMP_MAX)
    }

    /// What tombstones of ours for a former life are newer than, so that whoever answers one is known by
    /// it, and a word of that life that comes late is not taken for an answer.
    fn above_former(&self, now: Now) -> Timestamp {
        let above = self.former_until().minus(FUTURE_STAMP_MAX / 2);
        above.min(self.believed(now))
    }

    /// Buries records of this host's former life that nothing here stands for.
    fn bury_ghosts(&mut self, now: Now, effects: &mut Effects) {
        if !self.settled() || self.rival.is_some() {
            return;
        }
        let until = self.former_until();
        let ghosts: Vec<Key> = self
            .state
            .records_of(&self.hostname)
            .filter(|held| !held.is_tombstone() && held.updated <= until)
            .map(|held| key_of(held))
            .filter(|key| !self.own.contains_key(key))
            .collect();
        for key in ghosts {
            self.bury(&key, self.above_former(now), now, effects);
        }
    }

    /// Whether this news needs only be told briefly.
    fn is_brief(&self, news: &Service) -> bool {
        let held = self.state.record(&news.hostname, &news.id);
        self.go_members.is_empty() && held.is_some_and(|held| held.has_same_content(news))
    }

    fn merge(&mut self, record: Arc<Service>, now: Now, effects: &mut Effects) {
        let brief = self.is_brief(&record);
        let now = self.judged(now);
        match self.state.apply(record.clone(), Author::Peer, now) {
            Ok(Applied::New(change)) => {
                effects.changes.extend(change);
                // What the state holds may differ from what came: draining sticks.
                let held = self.state.record(&record.hostname, &record.id).cloned();
                let news = held.map(|record| News { record, brief });
                effects.broadcasts.extend(news);
            }
            Ok(Applied::Known) => {}
            Err(why) => effects.rejected.push((record, why)),
        }
    }

    /// Somebody else's word about an instance of ours: adopt it when it is ours from a former life
    /// or an echo, refute it when it is untrue.
    fn remote_about_own(
        &mut self,
        key: &Key,
        record: Arc<Service>,
        now: Now,
        effects: &mut Effects,
    ) {
        if self.is_older_than_known(key, &record)
            && let Some(own) = self.own.get_mut(key)
        {
            own.born = record.created;
            self.remote_about_own(key, record, now, effects);
            return self.announce(key, false, now, effects);
        }
        let held = self.state.record(&key.0, &key.1).cloned();
        let Some(held) = held else {
            // Not announced yet: this is what the cluster last knew of us.
            self.adopt(record, now, effects);
            self.announce(key, false, now, effects);
            return;
        };
        let contradicts = record.status == Status::Draining && held.status == Status::Alive;
        if contradicts
            && record.updated >= held.updated
            && self.needs_refresh(key)
            && self.rival.is_none()
            && self.drains.step(key, now)
        {
            // A Go Sidecar has missed that it came back, and has made that of our last word.
            self.last_stamp = self.last_stamp.max(record.updated);
            self.announce(key, false, now, effects);
            return;
        }
        if !record.supersedes(&held) {
            return;
        }
        if held.differs_materially(&record) {
            if self.yields(key, &record, now) {
                effects.foreign.push(record.clone());
                self.rival_noticed(now);
                self.adopt(record, now, effects);
                return;
            }
            let newer_than = record.updated.max(self.above_echoes(now));
            self.publish(Service::clone(&held), now, newer_than, effects);
        } else {
            self.adopt(record, now, effects);
        }
    }

    /// Whether this is a word of our former life about an instance that is the same, and was known then.
    fn is_older_than_known(&self, key: &Key, record: &Service) -> bool {
        let is_former = !record.is_tombstone() && record.updated <= self.former_until();
        let own = self.own.get(key).filter(|_| is_former);
        own.is_some_and(|own| {
            let as_old = Service {
                created: record.created,
                ..own.service.clone()
            };
            record.created < own.born && as_old.has_same_content(record)
        })
    }

    /// Whether somebody else's live record of an instance of ours is left alone: setting it right
    /// has not helped, or there is another host that must be thought to believe it.
    fn yields(&mut self, key: &Key, record: &Service, now: Now) -> bool {
        if record.is_tombstone() || record.updated <= self.echoes_until {
            return false;
        }
        let Some(own) = self.own.get_mut(key) else {
            return false;
        };
        let lately = |since: &Instant| now.monotonic < *since + REFUTATIONS_IN;
        let (since, count) = own
            .refuted
            .filter(|(since, _)| lately(since))
            .unwrap_or((now.monotonic, 0));
        if count >= REFUTATIONS_MAX || self.rival.is_some() {
            return true;
        }
        own.refuted = Some((since, count + 1));
        false
    }

    /// Newer than all echoes of ours, as far as others believe it: then none that comes later, and no
    /// answer to what is stamped so, is mistaken for another one.
    fn above_echoes(&self, now: Now) -> Timestamp {
        self.echoes_until.min(self.believed(now))
    }

    /// A stamp that is ahead of its time and that others believe all the same.
    fn believed(&self, now: Now) -> Timestamp {
        self.judged(now).wall.plus(FUTURE_STAMP_MAX / 2)
    }

    /// Somebody else's word about an instance of this host that discovery does not know.
    fn remote_about_this_host(
        &mut self,
        key: &Key,
        record: Arc<Service>,
        now: Now,
        effects: &mut Effects,
    ) {
        let held = self.state.record(&key.0, &key.1);
        if held.is_some_and(|held| !record.supersedes(held)) {
            return;
        }
        // We would still know of what we have buried ourselves, unless that is long ago.
        let forgotten = held.is_none() && record.updated < now.wall.minus(TOMBSTONE_LIFESPAN);
        let known_dead = held.is_some_and(|held| held.is_tombstone());
        let former_until = if known_dead {
            self.above_former(now)
        } else {
            self.former_until()
        };
        let ghost = record.updated <= former_until || forgotten;
        let echo = known_dead && record.updated <= self.echoes_until;
        let alive = !record.is_tombstone();
        if alive && known_dead && !ghost && !echo {
            self.rival_noticed(now);
        }
        let buried = alive && (ghost || echo) && self.settled() && self.rival.is_none();
        if alive && !buried && self.settled() {
            effects.foreign.push(record.clone());
        }
        self.adopt(record, now, effects);
        if buried {
            let newer_than = self.above_former(now).max(self.above_echoes(now));
            self.bury(key, newer_than, now, effects);
        }
    }

    /// Applies a record under this host's name without passing it on.
    fn adopt(&mut self, record: Arc<Service>, now: Now, effects: &mut Effects) {
        let updated = record.updated;
        match self.state.apply(record.clone(), Author::Own, now) {
            Ok(Applied::New(change)) => {
                self.last_stamp = self.last_stamp.max(updated);
                effects.changes.extend(change);
            }
            Ok(Applied::Known) => {}
            Err(why) => effects.rejected.push((record, why)),
        }
    }
}

fn key_of(service: &Service) -> Key {
    (service.hostname.clone(), service.id.clone())
}

/// [`REFRESH_EVERY`] less a part of [`REFRESH_SPREAD`] that depends on the ID alone.
fn refresh_interval(id: &str) -> Duration {
    REFRESH_EVERY - REFRESH_SPREAD.mul_f64(spread(id))
}

/// A number from 0 to 1 that depends on the ID alone.
fn spread(id: &str) -> f64 {
    let hash = id.bytes().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    f64::from(hash % 1000) / 1000.0
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;
