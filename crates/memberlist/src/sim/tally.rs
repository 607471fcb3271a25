//! Counts of what a run contained: what the network did, what befell the hosts, and what the nodes
//! made of it. A run in which nothing went wrong proves nothing; these numbers show that it did.

use crate::node::Counters;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened so far. All count from zero.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Tally {
            /// Name and number of each.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Adds the numbers of another run or host.
            pub fn absorb(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

tally! {
    /// Datagrams that arrived.
    delivered,
    /// Datagrams lost, each for itself.
    lost,
    /// Datagrams lost in a burst.
    lost_in_burst,
    /// Datagrams too long for their link.
    lost_to_mtu,
    /// Datagrams that met a full inbox.
    lost_to_inbox,
    /// Datagrams delivered twice.
    duplicated,
    /// Datagrams made late so that others overtake them.
    reordered,
    /// Datagrams damaged on their way.
    damaged,
    /// Datagrams and streams that met a cut, a partition or a host that is down.
    blocked,
    /// Datagrams to an address nobody has.
    astray,
    /// State exchanges completed.
    exchanges,
    /// Sides of state exchanges written without a table.
    brief_sides,
    /// State exchanges begun because the tables turned out to differ.
    tables_exchanged,
    /// Connections refused, broken or made slow by chance.
    streams_harmed,
    /// Datagrams with anything a node could not read. Zero among our own nodes on a network that
    /// does not damage them.
    unreadable,
    /// Datagrams made up and sent in by the scenario.
    forged,
    /// Partitions begun.
    partitions,
    /// Single links cut.
    cuts,
    /// Hosts crashed.
    crashes,
    /// Hosts started again.
    restarts,
    /// Hosts started again at another address.
    moves,
    /// Hosts frozen.
    freezes,
    /// Hosts that began to handle datagrams slowly.
    slowdowns,
    /// Hosts that left in good order.
    leaves,
    /// Records written by the application.
    writes,
    /// Datagrams with as many parts as the fork can read.
    fullest_compounds,
    /// Gossip datagrams to members held suspect.
    gossip_to_suspects,
    /// Gossip datagrams to members held dead.
    gossip_to_dead,
    /// Pings sent to a member by relays.
    pings_relayed,
    /// Acks that came back through a relay.
    acks_relayed,
    /// Nacks sent by relays.
    nacks,
    /// Suspicions ended by a refutation.
    suspicions_refuted,
    /// Live hosts declared dead.
    false_deaths,
    /// Rounds of failure detection that ended with an ack by datagram.
    probes_succeeded,
    /// Pings sent once more within a round.
    pings_repeated,
    /// Rounds in which only the stream answered.
    probes_answered_by_tcp_only,
    /// Rounds without an answer.
    probes_failed,
    /// Members that became suspect.
    suspicions,
    /// Suspicions that ran out.
    deaths_declared,
    /// Accusations of themselves that nodes refuted.
    refutations,
    /// Accusations repeated to a restarted member.
    accusations_repeated,
    /// Members asked whether they live, as a table called them dead.
    accused_asked,
    /// Those of them that answered.
    accused_answered,
    /// Refuted accusations answered once more.
    old_accusations_answered,
    /// Suspects told once more that they are doubted.
    suspects_reminded,
    /// Announcements of a name from a second address.
    conflicts,
    /// Irrefutable accusations refused.
    irrefutable_refused,
    /// Acks and nacks nobody waited for any more.
    acks_unknown,
    /// Pauses long enough for a node to distrust its clock.
    late_wakeups,
    /// Attempts to reach seeds and forgotten members again.
    rejoin_attempts,
    /// User broadcasts too long for a datagram.
    broadcasts_by_stream,
    /// Datagrams sent ahead of the gossip round.
    eager_datagrams,
    /// Messages of which members only told, and that were asked for and sent.
    messages_fetched,
    /// Questions for messages that were repeated, as nothing came.
    messages_wanted_again,
    /// Exchanges of states, as messages did not come for all the asking.
    messages_given_up,
}

impl From<&Counters> for Tally {
    fn from(counters: &Counters) -> Self {
        Self {
            probes_succeeded: counters.probes_succeeded,
            pings_repeated: counters.pings_repeated,
            probes_answered_by_tcp_only: counters.probes_answered_by_tcp_only,
            probes_failed: counters.probes_failed,
            suspicions: counters.suspicions,
            deaths_declared: counters.deaths_declared,
            refutations: counters.refutations,
            accusations_repeated: counters.accusations_repeated,
            accused_asked: counters.accused_asked,
            accused_answered: counters.accused_answered,
            old_accusations_answered: counters.old_accusations_answered,
            suspects_reminded: counters.suspects_reminded,
            conflicts: counters.conflicts,
            irrefutable_refused: counters.irrefutable_refused,
            acks_unknown: counters.acks_unknown,
            late_wakeups: counters.late_wakeups,
            rejoin_attempts: counters.rejoin_attempts,
            broadcasts_by_stream: counters.broadcasts_by_stream,
            eager_datagrams: counters.eager_datagrams,
            messages_fetched: counters.messages_fetched,
            messages_wanted_again: counters.messages_wanted_again,
            messages_given_up: counters.messages_given_up,
            ..Self::default()
        }
    }
}
