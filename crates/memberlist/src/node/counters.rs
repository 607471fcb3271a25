//! What a node counts. Monotonic, from its start.

/// Events worth a number. All count from zero at the start of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Probe rounds that ended with an ack by datagram.
    pub probes_succeeded: u64,
    /// Pings sent once more, as no ack had come.
    pub pings_repeated: u64,
    /// Probe rounds in which only the stream answered: the UDP path to that member is broken.
    pub probes_answered_by_tcp_only: u64,
    /// Probe rounds without any answer.
    pub probes_failed: u64,
    /// Probe rounds that were given more time, as we seemed to be the problem ourselves.
    pub probes_stretched: u64,
    /// The time all probe rounds took, to their ack or to their end, in microseconds.
    pub probe_micros: u64,
    /// Acks and nacks nobody waited for any more.
    pub acks_unknown: u64,
    /// Pings meant for another node at our address.
    pub pings_for_others: u64,
    /// Pings and relay requests beyond the fourth in one datagram.
    pub requests_over_limit: u64,
    /// Relay requests for unknown targets or beyond the bound.
    pub relays_refused: u64,
    /// Announcements of members taken over: new ones, and newer ones of known members.
    pub announcements_applied: u64,
    /// Members that became suspect.
    pub suspicions: u64,
    /// Suspicions that ran out here.
    pub deaths_declared: u64,
    /// Those of them that fewer members confirmed than were wanted.
    pub deaths_unconfirmed: u64,
    /// Members that became dead or left, whoever said so.
    pub deaths_applied: u64,
    /// Accusations of ourselves that we refuted.
    pub refutations: u64,
    /// Accusations of ourselves far beyond our incarnation: broken or forged.
    pub far_accusations: u64,
    /// Accusations that could never be refuted, dropped.
    pub irrefutable_refused: u64,
    /// Accusations repeated because a restarted member did not know of them.
    pub accusations_repeated: u64,
    /// Members asked whether they live, as a table called them dead.
    pub accused_asked: u64,
    /// Those of them that answered.
    pub accused_answered: u64,
    /// Long dead believed to be back without a newer word of their own, as others had given theirs.
    pub believed_back: u64,
    /// Accusations of ourselves that we had refuted already, answered with our announcement.
    pub old_accusations_answered: u64,
    /// Suspects told once more, by us who could not reach them, that they are doubted.
    pub suspects_reminded: u64,
    /// Announcements of a name from a second address.
    pub conflicts: u64,
    /// New members refused because the table is full.
    pub members_refused: u64,
    /// State exchanges merged.
    pub merges: u64,
    /// State exchanges refused because protocol versions do not fit.
    pub merges_refused: u64,
    /// Pauses of this process that were long enough to distrust our own clock.
    pub late_wakeups: u64,
    /// Attempts to reach seeds and forgotten members again.
    pub rejoin_attempts: u64,
    /// Announcements of members dropped because the queue was full.
    pub announcements_overflowed: u64,
    /// User broadcasts too long for a datagram, sent by stream instead.
    pub broadcasts_by_stream: u64,
    /// User broadcasts too long for any transport, dropped.
    pub broadcasts_too_long: u64,
    /// User broadcasts dropped because the queue was full.
    pub broadcasts_overflowed: u64,
    /// Messages of the application that came again and were not handed to it.
    pub messages_repeated: u64,
    /// Messages that were missed and asked for.
    pub messages_wanted: u64,
    /// Questions for messages that were repeated, as nothing came.
    pub messages_wanted_again: u64,
    /// State exchanges asked for, as messages that we know to be there did not come.
    pub messages_given_up: u64,
    /// Messages sent to members that asked for them.
    pub messages_fetched: u64,
    /// Gossip rounds, those with nothing to say included.
    pub gossip_rounds: u64,
    /// Datagrams sent ahead of the gossip round.
    pub eager_datagrams: u64,
}
