//! The latest changes, and what else is told to those who listen: made once, shared by all.
//!
//! One task writes here; readers look. What is told as it is now (hosts, traffic) has one place that
//! the newest takes, what is told one by one (changes) has the last [`CHANGES_MAX`]. A reader is a few
//! numbers that say how far it is, so it may be as slow as it likes.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use catalog::{Change, Timestamp};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    forms::{ChangeForm, text},
    hosts::Hosts,
    traffic,
};
use crate::proxy::builtin::PlaneStatus;

/// Changes that are kept.
pub const CHANGES_MAX: usize = 4096;
/// Least time between two tellings of the hosts.
const HOSTS_PAUSE: Duration = Duration::from_millis(250);
/// Time for what belongs together: of a host that leaves, gossip and records tell one after the other.
const HOSTS_DELAY: Duration = Duration::from_millis(20);
/// Time between two tellings of the traffic.
const TRAFFIC_EVERY: Duration = Duration::from_secs(2);
/// A reader hears at least so often that there is still somebody.
pub(super) const TICK_EVERY: Duration = Duration::from_secs(15);
/// Rest after readers were woken, for each of them: waking one and writing to it takes less than half
/// of this, so that they never take more than half a processor, however much there is to tell.
const REST_PER_READER: Duration = Duration::from_micros(20);
/// Rests shorter than this are saved up: no timer is finer.
const REST_MIN: Duration = Duration::from_millis(1);
/// Longest of these rests.
const REST_MAX: Duration = Duration::from_millis(250);
/// Readers are woken in so many groups, one after the other, so that nobody else waits for all of them.
const GROUPS: usize = 16;

/// The latest changes and the newest of all else.
#[derive(Debug)]
pub struct Journal {
    started: Timestamp,
    epoch: String,
    content: Mutex<Content>,
    /// Each tells one group of readers the count of what there is to look at.
    news: [watch::Sender<u64>; GROUPS],
    /// Who came so far; each goes to the next group.
    readers: AtomicUsize,
    traffic_readers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Content {
    /// Number of the last change; the first is 1.
    last: u64,
    /// The last changes up to that one.
    kept: VecDeque<Kept>,
    hosts: Newest,
    traffic: Newest,
    ticks: u64,
}

/// A change as it is told.
#[derive(Debug)]
struct Kept {
    event: Bytes,
    /// Where its JSON is in the event.
    json: Range<usize>,
}

/// An event of which only the newest counts.
#[derive(Debug, Default)]
struct Newest {
    /// How many there were.
    number: u64,
    event: Bytes,
}

impl Newest {
    fn replace(&mut self, name: &str, data: &str) {
        self.number += 1;
        self.event = Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
    }

    /// The event if it is another than number `seen`, which it becomes.
    fn since(&self, seen: &mut u64) -> Option<Bytes> {
        let is_news = self.number > *seen;
        *seen = self.number;
        is_news.then(|| self.event.clone())
    }
}

/// What is told to one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Topics {
    pub(super) changes: bool,
    pub(super) hosts: bool,
    pub(super) traffic: bool,
}

/// How far a reader is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    change: u64,
    hosts: u64,
    traffic: u64,
    tick: u64,
}

/// A part of the changes that are kept.
#[derive(Debug)]
pub(super) struct Excerpt {
    /// The number of the oldest change that is kept; `None` while none is.
    pub(super) first: Option<u64>,
    /// The number of the newest that there was; 0 before the first.
    pub(super) last: u64,
    /// Whether nothing is missing between the change that was named and the first of these.
    pub(super) is_complete: bool,
    /// Each as JSON.
    pub(super) changes: Vec<Bytes>,
}

impl Content {
    /// The number of the oldest change that is kept.
    fn first(&self) -> u64 {
        self.last + 1 - self.kept.len() as u64
    }

    /// The changes after number `since`, oldest first; `None` when some of them are forgotten, or when
    /// there never was a change of this number.
    fn after(&self, since: u64) -> Option<impl Iterator<Item = &Kept>> {
        let missing = usize::try_from(self.last.checked_sub(since)?).ok()?;
        let skip = self.kept.len().checked_sub(missing)?;
        Some(self.kept.range(skip..))
    }
}

impl Journal {
    /// An empty one of an agent that starts now.
    pub fn starting_now() -> Self {
        let started = Timestamp::from(SystemTime::now());
        Self {
            started,
            epoch: format!("{:x}", started.as_unix_nanos() / 1_000),
            content: Mutex::default(),
            news: std::array::from_fn(|_| watch::Sender::new(0)),
            readers: AtomicUsize::new(0),
            traffic_readers: AtomicUsize::new(0),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Each change of it is one insertion.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the agent started.
    pub(super) fn started(&self) -> Timestamp {
        self.started
    }

    /// A text that no other start of an agent on this host has.
    pub(in crate::http) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The identity of a change.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// The number of the change with this identity; `None` for one of another epoch.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.rsplit_once('-')?;
        (epoch == self.epoch).then(|| number.parse().ok())?
    }

    /// The number of the last change.
    pub(super) fn last(&self) -> u64 {
        self.content().last
    }

    /// The changes after number `since`, or all when that is not known or some after it are forgotten.
    pub(super) fn excerpt(&self, since: Option<u64>) -> Excerpt {
        let content = self.content();
        let after = since.and_then(|since| content.after(since));
        let is_complete = after.is_some();
        let json = |kept: &Kept| kept.event.slice(kept.json.clone());
        let changes = match after {
            Some(after) => after.map(json).collect(),
            None => content.kept.iter().map(json).collect(),
        };
        Excerpt {
            first: (!content.kept.is_empty()).then(|| content.first()),
            last: content.last,
            is_complete,
            changes,
        }
    }

    /// The place of a reader that has heard of change `since` and of nothing else; `None` when what came
    /// after it is not known here any more.
    pub(super) fn resumed(&self, since: u64) -> Option<Place> {
        let content = self.content();
        content.after(since).is_some().then_some(Place {
            change: since,
            hosts: 0,
            traffic: content.traffic.number,
            tick: content.ticks,
        })
    }

    /// The place of a reader that begins now, and the number of the last change.
    pub(super) fn newest(&self) -> (u64, Place) {
        let content = self.content();
        let place = Place {
            change: content.last,
            hosts: 0,
            traffic: content.traffic.number,
            tick: content.ticks,
        };
        (content.last, place)
    }

    /// The next events for a reader, `most` of them at most, which moves on; none when there is nothing new.
    pub(super) fn next(&self, topics: Topics, place: &mut Place, most: usize) -> VecDeque<Bytes> {
        let content = self.content();
        let mut events = VecDeque::new();
        if topics.changes {
            match content.after(place.change) {
                Some(after) => events.extend(after.take(most).map(|it| it.event.clone())),
                None => {
                    events.push_back(self.reset(content.last));
                    place.change = content.last;
                }
            }
            let taken = events.len() as u64;
            place.change = (place.change + taken).min(content.last);
        } else {
            place.change = content.last;
        }
        if topics.hosts {
            events.extend(content.hosts.since(&mut place.hosts));
        }
        if topics.traffic {
            events.extend(content.traffic.since(&mut place.traffic));
        }
        if place.tick != content.ticks {
            place.tick = content.ticks;
            events.push_back(Bytes::from_static(b":\n\n"));
        }
        events
    }

    /// That the reader has missed something, and where it is now.
    pub(super) fn reset(&self, last: u64) -> Bytes {
        let id = self.id(last);
        format!("id: {id}\nevent: reset\ndata: {{\"last\":\"{id}\"}}\n\n").into()
    }

    /// A receiver that is told when there is something to look at.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        self.news[number % GROUPS].subscribe()
    }

    /// Says that a reader wants to hear of the traffic, until the value is dropped.
    pub(super) fn wants_traffic(self: &Arc<Self>) -> TrafficReader {
        self.traffic_readers.fetch_add(1, Ordering::Relaxed);
        TrafficReader(self.clone())
    }

    /// Writes down a change.
    pub(super) fn record(&self, change: &Change, at: Timestamp) {
        let number = self.last() + 1;
        let id = self.id(number);
        let json = text(&ChangeForm::new(&id, change, at));
        let head = format!("id: {id}\nevent: change\ndata: ");
        let range = head.len()..head.len() + json.len();
        let kept = Kept {
            event: Bytes::from(head + &json + "\n\n"),
            json: range,
        };
        let mut content = self.content();
        content.last = number;
        if content.kept.len() == CHANGES_MAX {
            content.kept.pop_front();
        }
        content.kept.push_back(kept);
    }

    /// Some changes are lost: nobody can go on from before them.
    fn skip(&self, missed: u64) {
        let mut content = self.content();
        content.last += missed;
        content.kept.clear();
    }

    /// Writes down what happens until `shutdown`, or until who makes changes is gone.
    pub async fn run(
        self: Arc<Self>,
        mut changes: broadcast::Receiver<Change>,
        hosts: Arc<Hosts>,
        plane: watch::Receiver<Arc<PlaneStatus>>,
        shutdown: CancellationToken,
    ) {
        let (mut members, mut snapshots) = (hosts.members(), hosts.snapshots());
        let mut told = Vec::new();
        let mut hosts_due = Some(Instant::now());
        let mut hosts_rested = Instant::now();
        let mut waking = Waking::new();
        let mut tick = every(TICK_EVERY);
        let mut traffic = every(TRAFFIC_EVERY);
        loop {
            tokio::select! {
                // What is due comes first: changes may come without a pause.
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(waking.rested), if waking.is_due() => {
                    waking.wake(&self.news);
                }
                () = until(hosts_due), if hosts_due.is_some() => {
                    hosts_due = None;
                    hosts_rested = Instant::now() + HOSTS_PAUSE;
                    let document = hosts.document();
                    if document.liveness != told {
                        told.clone_from(&document.liveness);
                        let list = String::from_utf8_lossy(&document.list);
                        self.content().hosts.replace("hosts", &list);
                        waking.count += 1;
                    }
                }
                _ = tick.tick() => {
                    self.content().ticks += 1;
                    waking.count += 1;
                }
                _ = traffic.tick() => if self.traffic_readers.load(Ordering::Relaxed) > 0 {
                    let data = traffic::encode(&plane.borrow().clone());
                    self.content().traffic.replace("traffic", &data);
                    waking.count += 1;
                },
                change = changes.recv() => {
                    match change {
                        Ok(change) => self.record(&change, SystemTime::now().into()),
                        Err(RecvError::Lagged(missed)) => self.skip(missed),
                        Err(RecvError::Closed) => return,
                    }
                    waking.count += 1;
                }
                Ok(()) = members.changed() => {
                    hosts_due.get_or_insert_with(|| hosts_rested.max(Instant::now() + HOSTS_DELAY));
                }
                Ok(()) = snapshots.changed() => {
                    hosts_due.get_or_insert_with(|| hosts_rested.max(Instant::now() + HOSTS_DELAY));
                }
            }
        }
    }
}

/// Who was told of what, and when the next may be.
#[derive(Debug)]
struct Waking {
    /// Counts what there is to look at.
    count: u64,
    /// The count that each group was told last.
    told: [u64; GROUPS],
    /// The group whose turn it is.
    turn: usize,
    /// Not before this is anybody woken.
    rested: Instant,
}

impl Waking {
    fn new() -> Self {
        Self {
            count: 0,
            told: [0; GROUPS],
            turn: 0,
            rested: Instant::now(),
        }
    }

    fn is_due(&self) -> bool {
        self.told[self.turn] != self.count
    }

    /// Wakes one group after the other until it is time to rest, or all know.
    fn wake(&mut self, news: &[watch::Sender<u64>; GROUPS]) {
        let now = Instant::now();
        self.rested = self.rested.max(now);
        while self.is_due() && self.rested < now + REST_MIN {
            let group = &news[self.turn];
            self.told[self.turn] = self.count;
            self.turn = (self.turn + 1) % GROUPS;
            // Alone for who listens: without anybody it is not even looked at.
            let readers = u32::try_from(group.receiver_count()).unwrap_or(u32::MAX);
            if readers > 0 {
                group.send_replace(self.count);
            }
            self.rested += REST_PER_READER.saturating_mul(readers).min(REST_MAX);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// A reader that wants to hear of the traffic.
#[derive(Debug)]
pub(super) struct TrafficReader(Arc<Journal>);

impl Drop for TrafficReader {
    fn drop(&mut self) {
        self.0.traffic_readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to wake so many readers, and how many are woken at a time at most.
    async fn woken(readers: usize) -> (Duration, usize) {
        let journal = Journal::starting_now();
        let seats: Vec<_> = (0..readers).map(|_| journal.subscribe()).collect();
        let mut waking = Waking::new();
        waking.count += 1;
        let started = Instant::now();
        let (mut before, mut most) = (0, 0);
        while waking.is_due() {
            tokio::time::sleep_until(waking.rested).await;
            waking.wake(&journal.news);
            let told = seats.iter().filter(|it| it.has_changed().unwrap()).count();
            most = most.max(told - before);
            before = told;
        }
        assert_eq!(before, readers);
        (started.elapsed(), most)
    }

    #[tokio::test(start_paused = true)]
    async fn readers_are_woken_in_groups_with_rests_between_and_few_at_once() {
        assert_eq!(woken(0).await, (Duration::ZERO, 0));
        assert_eq!(woken(3).await, (Duration::ZERO, 3));
        let (took, most) = woken(1_600).await;
        assert!((25..=40).contains(&took.as_millis()), "{took:?}");
        assert!(most <= 200, "{most}");
        let (took, most) = woken(16_000).await;
        assert!((250..=400).contains(&took.as_millis()), "{took:?}");
        assert!(most <= 1_000, "{most}");
    }
}
