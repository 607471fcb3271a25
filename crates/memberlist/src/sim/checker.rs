//! Named invariants, looked at after every single thing a node does. The numbers are those of the
//! table in the documentation of `sim`; what only a scenario can know (bounds on convergence, what
//! a drill expects) is checked there.
//!
//! | name | what must hold |
//! | --- | --- |
//! | P2 accuracy | while the rules say so, no running host is held suspect or dead |
//! | P4 refutation | while the rules say so, no running host is declared dead; no suspicion ends in death before its shortest time |
//! | P7 resurrection | the dead come back only by a newer incarnation, and named ones not at all |
//! | P8 incarnation | never decreases, is never invented, and only a newer one clears a suspicion |
//! | P11 self-protection | we are alive to ourselves until we leave |
//! | P13 isolation | nobody of another cluster is in the table |
//! | P14 bounds | queues, relays and datagrams per step have limits |
//! | P15 amplification | we send only to members and to whoever wrote to us, and little per datagram |
//! | P17 timers | exactly the suspects and the relays have timers, and gossip while it has something to say |
//! | P18 health | the score keeps its range |
//! | P19 takeover | a live member keeps its address |
//! | P20 Go-peer safety | every datagram reads well with the fork's eyes |

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::HostId;
use super::fork::{self, Heard};
use super::tally::Tally;
use crate::node::{Config, Counters, Event, Node, Profile, Transmit};
use crate::wire::message::NodeState;

/// Bytes by which a datagram may exceed its packing budget: a length and a checksum.
const OVER_BUDGET: usize = 7;
/// Pings a node may have outstanding for others.
const RELAYS_MAX: usize = 1024;
/// Parts of a compound that every peer reads.
const PARTS_MAX: usize = 127;
/// Requests answered per datagram.
const REPLIES_MAX: u64 = 4;
/// Timers that do not belong to a suspect or a relay.
const TIMERS_OWN_MAX: usize = 9;

/// What made a node act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Datagram { from: SocketAddr },
    Exchange,
    Timeout,
    Api,
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name, beginning with its number.
    pub invariant: &'static str,
    /// Virtual time since the start.
    pub at: Duration,
    /// Who, what and why.
    pub detail: String,
}

/// What the scenario demands for a while.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) no_suspicion: bool,
    pub(super) no_death: bool,
    /// Who is saying goodbye. The fork has no word for it in state exchanges but *dead*, which is
    /// merged as a suspicion: such an exchange may overtake the gossip.
    pub(super) leaver: Option<String>,
    /// Names that must not come back.
    pub(super) gone: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Seen {
    state: NodeState,
    incarnation: u32,
    addr: SocketAddr,
    since: Instant,
    /// Fewest and most rows of the table in the step in which the state began.
    rows: (usize, usize),
}

#[derive(Debug, Default)]
struct View {
    name: String,
    rows: BTreeMap<String, Seen>,
    rows_len: usize,
    version: u64,
    counters: Counters,
    relays: usize,
    transmits: u64,
    /// Whether anything was queued before this step, and when gossip was due.
    queued: bool,
    gossip_at: Option<Instant>,
    /// Gossip ticks in a row that came although nothing was queued.
    idle_ticks: u32,
    known: BTreeSet<SocketAddr>,
    /// Last direct ping of our own probing, by name.
    pinged: BTreeMap<String, Duration>,
}

/// Everything the invariants need to remember.
#[derive(Debug)]
pub(super) struct Checker {
    views: Vec<View>,
    /// Whether a name belongs to a running host, and its cluster.
    running: BTreeMap<String, bool>,
    clusters: BTreeMap<String, String>,
    /// Highest incarnation a name ever had itself, or was forged to have.
    genuine: BTreeMap<String, u32>,
    /// Datagrams are damaged on their way: what they claim may be nobody's word.
    damaged: bool,
    pub(super) rules: Rules,
    pub(super) violation: Option<Violation>,
}

impl Checker {
    pub(super) fn new(damaged: bool) -> Self {
        Self {
            views: Vec::new(),
            running: BTreeMap::new(),
            clusters: BTreeMap::new(),
            genuine: BTreeMap::new(),
            damaged,
            rules: Rules::default(),
            violation: None,
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.violation.is_some()
    }

    pub(super) fn fail(&mut self, invariant: &'static str, at: Duration, detail: String) {
        self.violation.get_or_insert(Violation {
            invariant,
            at,
            detail,
        });
    }

    /// A host begins a new life.
    pub(super) fn started(&mut self, id: HostId, config: &Config) {
        while self.views.len() <= id {
            self.views.push(View::default());
        }
        self.views[id] = View {
            name: config.name.clone(),
            ..View::default()
        };
        self.running.insert(config.name.clone(), true);
        self.clusters
            .insert(config.name.clone(), config.cluster_name.clone());
    }

    pub(super) fn stopped(&mut self, id: HostId) {
        if let Some(view) = self.views.get(id) {
            self.running.insert(view.name.clone(), false);
        }
    }

    /// A name is in the hands of a running host, whatever became of an impostor.
    pub(super) fn runs(&mut self, name: &str) {
        self.running.insert(name.to_owned(), true);
    }

    /// The scenario accuses or announces a name at an incarnation it has never had.
    pub(super) fn forged(&mut self, name: &str, incarnation: u32) {
        let known = self.genuine.entry(name.to_owned()).or_default();
        *known = (*known).max(incarnation);
    }

    /// Who has not been pinged directly by whom since `since`, of the running hosts.
    pub(super) fn not_pinged(&self, since: Duration) -> Option<(String, String)> {
        let running = |view: &&View| self.running.get(&view.name) == Some(&true);
        for view in self.views.iter().filter(running) {
            let live = view.rows.iter().filter(|(name, row)| {
                **name != view.name && matches!(row.state, NodeState::Alive | NodeState::Suspect)
            });
            for (name, _) in live {
                if view.pinged.get(name).is_none_or(|at| *at < since) {
                    return Some((view.name.clone(), name.clone()));
                }
            }
        }
        None
    }

    /// When a host last pinged anybody of its own accord.
    pub(super) fn last_ping(&self, id: HostId) -> Option<Duration> {
        self.views.get(id)?.pinged.values().max().copied()
    }

    /// A node is about to act.
    pub(super) fn begin(&mut self, id: HostId, node: &Node) {
        let view = &mut self.views[id];
        view.counters = *node.counters();
        view.relays = node.relays_len();
        view.transmits = 0;
        view.queued = is_queued(node);
        view.gossip_at = node.gossip_timer();
    }

    /// A node sends.
    pub(super) fn transmit(
        &mut self,
        id: HostId,
        node: &Node,
        transmit: &Transmit,
        now: Duration,
        step: Step,
        tally: &mut Tally,
    ) {
        let config = node.config();
        let view = &mut self.views[id];
        let eager = node.counters().eager_datagrams > view.counters.eager_datagrams;
        view.transmits += u64::from(!eager);
        let heard = match fork::read(&transmit.bytes, &config.cluster_name) {
            Ok(heard) => heard,
            Err(problem) => {
                let detail = format!("{} emits a datagram: {problem}", view.name);
                return self.fail("P20 Go-peer safety", now, detail);
            }
        };
        let length = transmit.bytes.len();
        if length > config.udp_buffer_size + OVER_BUDGET {
            let detail = format!("{} emits {length} bytes", view.name);
            return self.fail("P20 Go-peer safety", now, detail);
        }
        let known = view.known.contains(&transmit.to)
            || step == (Step::Datagram { from: transmit.to })
            || node.rows().any(|row| row.addr == transmit.to);
        if !known {
            let detail = format!("{} sends to a stranger, {}", view.name, transmit.to);
            return self.fail("P15 amplification", now, detail);
        }
        let relaying = node.relays_len() > view.relays;
        let relayed = node.relays_len() < view.relays && step != Step::Timeout;
        let probing = heard.iter().any(Heard::is_probing);
        let mut untold = false;
        tally.fullest_compounds += u64::from(heard.len() == PARTS_MAX);
        for message in &heard {
            match message {
                Heard::Ping { .. } if relaying => tally.pings_relayed += 1,
                Heard::Ping { node: target, .. } => {
                    view.pinged.insert(target.clone(), now);
                    // A suspect is told so before anything else: nobody else can refute.
                    let told =
                        matches!(heard.get(1), Some(Heard::Suspect { node, .. }) if node == target);
                    // It was doubted before this step, and is now: not only since the ping.
                    let before = view.rows.get(target);
                    let doubted = step == Step::Timeout
                        && before.is_some_and(|seen| seen.state == NodeState::Suspect)
                        && node.rows().any(|row| {
                            row.name == target
                                && row.state == NodeState::Suspect
                                && row.incarnation < u32::MAX
                        });
                    untold |= doubted && !told;
                }
                Heard::Ack { .. } => tally.acks_relayed += u64::from(relayed),
                Heard::Nack { .. } => tally.nacks += 1,
                _ => {}
            }
        }
        if untold {
            let detail = format!("{} pings a suspect and does not tell it", view.name);
            return self.fail("P4 refutation", now, detail);
        }
        // A damaged name may share the address of the real one.
        if step == Step::Timeout && !probing && !eager && !self.damaged {
            // As before this step, too: not only since the round.
            let state = node
                .rows()
                .find(|row| row.addr == transmit.to)
                .and_then(|row| {
                    let before = view.rows.get(row.name)?;
                    // A reminder goes to its suspect alone; it is no gossip.
                    let reminder =
                        matches!(&heard[..], [Heard::Suspect { node, .. }] if node == row.name);
                    (before.state == row.state && !reminder).then_some(row.state)
                });
            match state {
                Some(NodeState::Suspect) => tally.gossip_to_suspects += 1,
                Some(NodeState::Dead) => tally.gossip_to_dead += 1,
                _ => {}
            }
        }
    }

    /// A node's application is told something.
    pub(super) fn event(&mut self, id: HostId, event: &Event, now: Duration) -> bool {
        let Event::Left(member) = event else {
            return false;
        };
        let false_death = member.state == NodeState::Dead
            && self.running.get(&member.name) == Some(&true)
            && member.name != self.views[id].name;
        if false_death && self.rules.no_death {
            let detail = format!(
                "{} holds {} dead, which runs",
                self.views[id].name, member.name
            );
            self.fail("P4 refutation", now, detail);
        }
        false_death
    }

    /// A node has acted, and its datagrams are out.
    pub(super) fn end(
        &mut self,
        id: HostId,
        node: &Node,
        local: Instant,
        now: Duration,
        step: Step,
        tally: &mut Tally,
    ) {
        if let Step::Datagram { from } = step {
            self.views[id].known.insert(from);
        }
        let problem = self
            .check_bounds(id, node, step)
            .or_else(|| self.check_timers(id, node))
            .or_else(|| self.check_gossip(id, node, local, step))
            .or_else(|| self.check_table(id, node, local, step, tally));
        if let Some((invariant, detail)) = problem {
            let detail = format!("{}: {detail}", self.views[id].name);
            self.fail(invariant, now, detail);
        }
    }

    fn check_bounds(&self, id: HostId, node: &Node, step: Step) -> Option<(&'static str, String)> {
        let view = &self.views[id];
        let config = node.config();
        let (queued, rows) = (node.membership_queue_len(), node.rows_len());
        if queued > rows {
            let detail = format!("{queued} announcements queued for {rows} rows");
            return Some(("P14 bounds", detail));
        }
        if node.relays_len() > RELAYS_MAX {
            return Some(("P14 bounds", format!("{} relays", node.relays_len())));
        }
        let score = node.health_score();
        if score >= config.awareness_max_multiplier {
            return Some(("P18 health", format!("score {score}")));
        }
        let ended = view.relays.saturating_sub(node.relays_len()) as u64;
        let repeated = node.counters().accusations_repeated - view.counters.accusations_repeated;
        let answered =
            node.counters().old_accusations_answered - view.counters.old_accusations_answered;
        let reminded = node.counters().suspects_reminded - view.counters.suspects_reminded;
        // A probe round that begins or asks others, and what was owed to requesters.
        let probing = 1 + config.indirect_checks as u64 + view.relays as u64;
        let (name, most) = match step {
            Step::Datagram { .. } => (
                "P15 amplification",
                REPLIES_MAX + ended + repeated + answered + 1,
            ),
            Step::Timeout => {
                let gossip = config.gossip_messages * config.gossip_nodes;
                ("P14 bounds", gossip as u64 + probing + reminded)
            }
            Step::Exchange => ("P15 amplification", rows as u64),
            Step::Api => return None,
        };
        let sent = view.transmits;
        (sent > most).then(|| {
            (
                name,
                format!("{sent} datagrams in one step, at most {most}"),
            )
        })
    }

    fn check_timers(&self, id: HostId, node: &Node) -> Option<(&'static str, String)> {
        let mut timers: BTreeMap<&str, Instant> = node.suspicion_timers().collect();
        let armed = timers.len();
        for row in node.rows() {
            let timer = timers.remove(row.name);
            if timer != row.suspected_until || timer.is_some() != (row.state == NodeState::Suspect)
            {
                let detail = format!(
                    "{} is {:?}, its suspicion ends at {:?}, the timer at {timer:?}",
                    row.name, row.state, row.suspected_until
                );
                return Some(("P17 timers", detail));
            }
            // Pauses lengthen suspicions; without any the longest is known.
            if let Some(until) = timer
                && node.counters().late_wakeups == 0
            {
                let view = &self.views[id];
                let seen = view.rows.get(row.name);
                let began =
                    seen.filter(|seen| (seen.state, seen.since) == (row.state, row.state_change));
                let most =
                    began.map_or_else(|| view.rows_len.max(node.rows_len()), |seen| seen.rows.1);
                let (_, longest) = suspicion_span(node.config(), most);
                if until > row.state_change + longest {
                    return Some(("P4 refutation", format!("{} suspect too long", row.name)));
                }
            }
        }
        if let Some((name, _)) = timers.first_key_value() {
            return Some(("P17 timers", format!("a timer for {name}, who is unknown")));
        }
        if let Some(timer) = node.timer_amiss() {
            return Some(("P17 timers", format!("a timer is amiss: {timer:?}")));
        }
        let relays = node.relays_len();
        if node.relay_timers_len() != relays {
            let detail = format!("{} timers for {relays} relays", node.relay_timers_len());
            return Some(("P17 timers", detail));
        }
        let most = TIMERS_OWN_MAX + 2 * armed + 2 * relays;
        (node.timers_len() > most).then(|| ("P17 timers", format!("{} armed", node.timers_len())))
    }

    /// Gossip has a tick to come whenever there is something to say, at its pace, and at most one
    /// more after that.
    fn check_gossip(
        &mut self,
        id: HostId,
        node: &Node,
        local: Instant,
        step: Step,
    ) -> Option<(&'static str, String)> {
        let view = &mut self.views[id];
        let (queued, at) = (is_queued(node), node.gossip_timer());
        let interval = node.config().gossip_interval;
        if queued && at.is_none() && !interval.is_zero() && node.config().gossip_nodes > 0 {
            return Some(("P17 timers", "queued for no gossip round".to_owned()));
        }
        if at.is_some_and(|at| at > local + interval) {
            return Some(("P17 timers", "a gossip round left out".to_owned()));
        }
        let idle = !queued && !view.queued && at.is_some();
        if !idle {
            view.idle_ticks = 0;
        } else if step == Step::Timeout && at > view.gossip_at && view.gossip_at.is_some() {
            // Once: something may have been queued and sent within the step.
            view.idle_ticks += 1;
        }
        let ticks = view.idle_ticks;
        (ticks > 1).then(|| {
            let detail = format!("{ticks} gossip rounds with nothing to say");
            ("P17 timers", detail)
        })
    }

    fn check_table(
        &mut self,
        id: HostId,
        node: &Node,
        local: Instant,
        step: Step,
        tally: &mut Tally,
    ) -> Option<(&'static str, String)> {
        let view = &self.views[id];
        if view.version == node.members_version() && view.rows_len == node.rows_len() {
            return None;
        }
        let keep = node.config().gossip_to_the_dead;
        let overdue = |seen: &Seen| {
            !is_live(seen.state) && local.saturating_duration_since(seen.since) > keep
        };
        let mut old = std::mem::take(&mut self.views[id].rows);
        let old_len = self.views[id].rows_len;
        let mut rows = BTreeMap::new();
        let mut problem = None;
        for row in node.rows() {
            // Within one step the long dead may be forgotten and met again.
            let before = old
                .remove(row.name)
                .filter(|seen| row.state_change == seen.since || !overdue(seen));
            // After a freeze several changes may bear the same time.
            let began = before
                .as_ref()
                .filter(|seen| (seen.state, seen.since) == (row.state, row.state_change));
            let new = Seen {
                state: row.state,
                incarnation: row.incarnation,
                addr: row.addr,
                since: row.state_change,
                rows: began.map_or_else(
                    || (old_len.min(node.rows_len()), old_len.max(node.rows_len())),
                    |seen| seen.rows,
                ),
            };
            let own = row.name == node.config().name;
            if own {
                self.forged(row.name, row.incarnation);
                problem = problem.or_else(|| check_own(node, before.as_ref(), &new));
            } else {
                problem = problem
                    .or_else(|| self.check_row(node, row.name, before.as_ref(), &new, step))
                    .or_else(|| check_death(node, row.name, before.as_ref(), &new, local, step));
                let refuted = before.is_some_and(|seen| seen.state == NodeState::Suspect)
                    && new.state == NodeState::Alive;
                tally.suspicions_refuted += u64::from(refuted);
            }
            self.views[id].known.insert(row.addr);
            rows.insert(row.name.to_owned(), new);
        }
        for (name, seen) in old {
            if !overdue(&seen) {
                let detail = format!("{name} is forgotten while {:?}", seen.state);
                problem = problem.or(Some(("P14 bounds", detail)));
            }
        }
        let view = &mut self.views[id];
        view.rows = rows;
        view.rows_len = node.rows_len();
        view.version = node.members_version();
        problem
    }

    /// What may become of a row about somebody else.
    fn check_row(
        &self,
        node: &Node,
        name: &str,
        before: Option<&Seen>,
        new: &Seen,
        step: Step,
    ) -> Option<(&'static str, String)> {
        let was = before.map(|seen| (seen.state, seen.incarnation));
        let is = (new.state, new.incarnation);
        let change = || format!("{name} went from {was:?} to {is:?}");
        let live = is_live(new.state);
        let runs = self.running.get(name) == Some(&true);
        let changed = before.is_none_or(|seen| seen.state != new.state);
        let hearsay = new.state == NodeState::Suspect
            && node.config().profile == Profile::Fork
            && self.rules.leaver.as_deref() == Some(name);
        if self.rules.no_suspicion && changed && runs && !hearsay {
            let doubted = matches!(new.state, NodeState::Suspect | NodeState::Dead);
            if doubted {
                return Some(("P2 accuracy", change()));
            }
        }
        if live && self.rules.gone.contains(name) && before.is_none_or(|seen| !is_live(seen.state))
        {
            return Some(("P7 resurrection", change()));
        }
        if !self.damaged {
            let cluster = self.clusters.get(name);
            if cluster != Some(&node.config().cluster_name) {
                return Some(("P13 isolation", format!("{name} of cluster {cluster:?}")));
            }
            if new.incarnation > self.genuine.get(name).copied().unwrap_or(0) {
                return Some(("P8 incarnation", format!("{} was never its own", change())));
            }
        }
        let seen = before?;
        let moved = seen.addr != new.addr;
        let newer = new.incarnation > seen.incarnation;
        match (is_live(seen.state), live) {
            (true, _) if moved => Some(("P19 takeover", change())),
            // Hearsay of a death is a suspicion at most.
            (true, false) if step == Step::Exchange && new.state == NodeState::Dead => {
                Some(("P4 refutation", change()))
            }
            _ if new.incarnation < seen.incarnation && !moved => Some(("P8 incarnation", change())),
            (false, true) if !newer && !moved => Some(("P7 resurrection", change())),
            (false, false) if changed && !newer => Some(("P7 resurrection", change())),
            _ if seen.state == NodeState::Suspect && new.state == NodeState::Alive && !newer => {
                Some(("P8 incarnation", change()))
            }
            _ => None,
        }
    }
}

/// What may become of the row about ourselves.
fn check_own(node: &Node, before: Option<&Seen>, new: &Seen) -> Option<(&'static str, String)> {
    let fitting = match new.state {
        NodeState::Alive => true,
        NodeState::Suspect => false,
        NodeState::Dead | NodeState::Left => node.is_leaving(),
    };
    if !fitting {
        return Some((
            "P11 self-protection",
            format!("holds itself {:?}", new.state),
        ));
    }
    let seen = before?;
    if new.incarnation < seen.incarnation {
        let detail = format!(
            "own incarnation {} after {}",
            new.incarnation, seen.incarnation
        );
        return Some(("P8 incarnation", detail));
    }
    None
}

/// A suspicion that runs out must have had its time.
fn check_death(
    node: &Node,
    name: &str,
    before: Option<&Seen>,
    new: &Seen,
    local: Instant,
    step: Step,
) -> Option<(&'static str, String)> {
    let seen = before.filter(|seen| seen.state == NodeState::Suspect)?;
    if new.state != NodeState::Dead || step != Step::Timeout {
        return None;
    }
    let (shortest, _) = suspicion_span(node.config(), seen.rows.0);
    let lasted = local.saturating_duration_since(seen.since);
    // The table may have been smaller within the step in which the suspicion began.
    (lasted + Duration::from_millis(1) < shortest).then(|| {
        (
            "P4 refutation",
            format!("{name} dies after {lasted:?} of {shortest:?}"),
        )
    })
}

/// Shortest and longest suspicion in a table of so many rows.
pub(super) fn suspicion_span(config: &Config, rows: usize) -> (Duration, Duration) {
    let scale = (1000.0 * (rows.max(1) as f64).log10().max(1.0)) as u32;
    let shortest = config.probe_interval * config.suspicion_mult * scale / 1000;
    (shortest, shortest * config.suspicion_max_timeout_mult)
}

fn is_queued(node: &Node) -> bool {
    node.membership_queue_len() + node.user_queue_len() > 0
}

fn is_live(state: NodeState) -> bool {
    matches!(state, NodeState::Alive | NodeState::Suspect)
}
