//! Drills: one thing goes wrong in a calm cluster, and what follows is known exactly. Each has its
//! bound; the seed decides which are held, and every one of them comes up in a band of as many
//! seeds as there are drills.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use super::HostId;
use super::checker::{Rules, suspicion_span};
use super::faults::Faults;
use super::scenario::{Outcome, Run, address, all_believe, belief, name};
use crate::node::Node;
use crate::wire::encode_message;
use crate::wire::message::{Alive, Dead, Message, NodeState, RawIp, Suspect, Versions};

const SECOND: Duration = Duration::from_secs(1);

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drill {
    /// A live host is accused: it refutes in time, and the old accusation is worth nothing then.
    Accusation,
    /// Accusers are counted: each shortens a suspicion once.
    Confirmation,
    /// A live host is declared dead: it refutes and comes back everywhere.
    FalseDeath,
    /// A host crashes: it is dead everywhere in time, stays dead, and is forgotten.
    Crash,
    /// A host leaves: nobody ever suspects it.
    Leave,
    /// Two hosts cannot reach each other: others vouch for both.
    CutPair,
    /// Only streams reach a host: that is enough.
    StreamsOnly,
    /// Acks come after the timeout but before the end of the round: they count.
    LateAcks,
    /// A host stops for a part of the shortest suspicion: nobody declares anybody dead.
    ShortFreeze,
    /// A host stops for long: on waking it declares nobody dead.
    LongFreeze,
    /// A host stops while it waits for an ack, and the ack is lost meanwhile: it blames nobody.
    RudeAwakening,
    /// A host restarts, before or after its death was noticed.
    Restart,
    /// All hosts but one restart, and none of them joins the one that remembers them dead.
    MassRestart,
    /// A host comes back at another address.
    Move,
    /// A partition shorter than any suspicion: nobody dies of it.
    ShortPartition,
    /// A partition after which neither side knows the other any more.
    LongPartition,
    /// A record reaches everyone by gossip.
    Dissemination,
    /// Hundreds of records at once fill datagrams to the brim.
    Flood,
    /// A second host of the same name appears: the first one keeps the name.
    NameConflict,
    /// Accusations nobody could refute, and one that is hard to refute.
    Irrefutable,
    /// A stranger asks questions: each gets its one proper answer.
    Etiquette,
}

impl Drill {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Accusation,
        Self::Confirmation,
        Self::FalseDeath,
        Self::Crash,
        Self::Leave,
        Self::CutPair,
        Self::StreamsOnly,
        Self::LateAcks,
        Self::ShortFreeze,
        Self::LongFreeze,
        Self::RudeAwakening,
        Self::Restart,
        Self::MassRestart,
        Self::Move,
        Self::ShortPartition,
        Self::LongPartition,
        Self::Dissemination,
        Self::Flood,
        Self::NameConflict,
        Self::Irrefutable,
        Self::Etiquette,
    ];

    /// Two of them: the one whose turn it is, and any other.
    pub(super) fn draw(seed: u64, rng: &mut Pcg64Mcg) -> Vec<Self> {
        let all = Self::ALL.len();
        let turn = (seed % all as u64) as usize;
        let step = rng.random_range(1..all);
        vec![Self::ALL[turn], Self::ALL[(turn + step) % all]]
    }
}

impl Run {
    pub(super) fn perform(&mut self, drill: Drill) -> Outcome {
        match drill {
            Drill::Accusation => self.accusation(),
            Drill::Confirmation => self.confirmation(),
            Drill::FalseDeath => self.false_death(),
            Drill::Crash => self.crash(),
            Drill::Leave => self.leave(),
            Drill::CutPair => self.cut_pair(),
            Drill::StreamsOnly => self.streams_only(),
            Drill::LateAcks => self.late_acks(),
            Drill::ShortFreeze => self.short_freeze(),
            Drill::LongFreeze => self.long_freeze(),
            Drill::RudeAwakening => self.rude_awakening(),
            Drill::Restart => self.restart_one(),
            Drill::MassRestart => self.restart_most(),
            Drill::Move => self.move_one(),
            Drill::ShortPartition => self.short_partition(),
            Drill::LongPartition => self.long_partition(),
            Drill::Dissemination => self.disseminate(),
            Drill::Flood => self.flood(),
            Drill::NameConflict => self.name_conflict(),
            Drill::Irrefutable => self.irrefutable(),
            Drill::Etiquette => self.etiquette(),
        }
    }

    fn accusation(&mut self) -> Outcome {
        let accused = self.pick();
        let hearer = self.pick_other(accused);
        let incarnation = self.incarnation(accused);
        self.set_rules(Rules {
            no_death: true,
            ..Rules::default()
        });
        self.forge(hearer, &suspect(accused, incarnation, "accuser"));
        self.await_refutation(
            "P4 refutation",
            accused,
            incarnation,
            self.shortest_suspicion(),
        )?;
        self.set_rules(Rules {
            no_suspicion: true,
            ..Rules::default()
        });
        // What was refuted must not stir anybody again, nor what is older still.
        for hearer in self.live() {
            self.forge(hearer, &suspect(accused, incarnation, "accuser"));
            self.forge(hearer, &dead(accused, incarnation));
        }
        self.run_for(2 * SECOND)
    }

    fn confirmation(&mut self) -> Outcome {
        let accused = self.pick();
        let hearer = self.pick_other(accused);
        let incarnation = self.incarnation(accused);
        for other in self.live() {
            // No refutation and no other accuser may interfere.
            self.network.cut(other, hearer, 2 * SECOND);
        }
        self.run_for(3 * Faults::default().latency_max)?;
        let mut deadlines = Vec::new();
        for accuser in ["one", "one", "another"] {
            self.forge(hearer, &suspect(accused, incarnation, accuser));
            self.run_for(3 * Faults::default().latency_max)?;
            let node = self.network.node(hearer);
            let row = node.and_then(|node| node.rows().find(|row| row.name == name(accused)));
            deadlines.push(row.and_then(|row| row.suspected_until));
        }
        let wanted = self.options.config.suspicion_mult as usize - 2;
        let counts = wanted > 0 && self.live().len() >= wanted + 2;
        let [first, repeated, confirmed] = deadlines[..] else {
            return Ok(());
        };
        let fitting = if counts {
            confirmed < repeated
        } else {
            confirmed == repeated
        };
        if first.is_some() && first == repeated && fitting {
            return Ok(());
        }
        let detail = format!("{} ends the suspicion at {deadlines:?}", name(hearer));
        Err(("P4 refutation", detail))
    }

    fn false_death(&mut self) -> Outcome {
        let accused = self.pick();
        let hearer = self.pick_other(accused);
        // Told to its face, it contradicts at once.
        let incarnation = self.incarnation(accused);
        self.forge(accused, &dead(accused, incarnation));
        self.run_for(3 * Faults::default().latency_max)?;
        if self.incarnation(accused) == incarnation {
            let detail = format!("{} takes its death for granted", name(accused));
            return Err(("P4 refutation", detail));
        }
        self.run_for(5 * SECOND)?;
        let incarnation = self.incarnation(accused);
        self.forge(hearer, &dead(accused, incarnation));
        self.run_for(3 * Faults::default().latency_max)?;
        // Its old announcement is no proof of life.
        let alive = self.alive(accused, incarnation);
        self.forge(hearer, &alive);
        self.await_refutation("P5 convergence", accused, incarnation, 15 * SECOND)
    }

    fn await_refutation(
        &mut self,
        invariant: &'static str,
        accused: HostId,
        incarnation: u32,
        bound: Duration,
    ) -> Outcome {
        let live = self.live();
        self.wait(invariant, bound, "the refutation everywhere", |network| {
            live.iter().all(|id| {
                let held = network
                    .node(*id)
                    .and_then(|node| node.member(&name(accused)));
                held.is_some_and(|held| {
                    held.state == NodeState::Alive && held.incarnation > incarnation
                })
            })
        })
    }

    fn crash(&mut self) -> Outcome {
        let victim = self.pick();
        let incarnation = self.incarnation(victim);
        self.network.crash(victim);
        self.await_death(victim)?;
        self.set_rules(Rules {
            gone: BTreeSet::from([name(victim)]),
            ..Rules::default()
        });
        let live = self.live();
        let all_dead = all_believe(&self.network, &live, victim, |state| {
            state == Some(NodeState::Dead)
        });
        if all_dead {
            // Someone slow repeats what was true before.
            let hearer = self.pick();
            let alive = self.alive(victim, incarnation);
            self.forge(hearer, &alive);
        }
        self.await_oblivion(victim)
    }

    /// The crashed host is dead everywhere as soon as everyone has probed it once and the shortest
    /// suspicion is over. Unconfirmed, a suspicion would last several times longer.
    fn await_death(&mut self, victim: HostId) -> Outcome {
        let live = self.live();
        let doubted = |state| state != Some(NodeState::Alive);
        self.wait(
            "P1 completeness",
            self.two_cycles(),
            "suspicion",
            |network| live.iter().any(|id| doubted(belief(network, *id, victim))),
        )?;
        // Each failed round slows a prober down; it recovers by the next rounds.
        let rounds = live.len() as u32 + 4;
        let bound = self.shortest_suspicion() + self.options.config.probe_interval * rounds;
        self.wait("P1 completeness", bound, "death", |network| {
            all_believe(network, &live, victim, |state| {
                !matches!(state, Some(NodeState::Alive | NodeState::Suspect))
            })
        })
    }

    fn await_oblivion(&mut self, victim: HostId) -> Outcome {
        let live = self.live();
        let bound = self.options.config.gossip_to_the_dead + 3 * self.two_cycles() + 10 * SECOND;
        self.wait("P1 completeness", bound, "being forgotten", |network| {
            all_believe(network, &live, victim, |state| state.is_none())
        })
    }

    fn leave(&mut self) -> Outcome {
        let leaver = self.pick();
        let others = self.live();
        self.set_rules(Rules {
            no_suspicion: true,
            leaver: Some(name(leaver)),
            ..Rules::default()
        });
        self.network.with(leaver, Node::leave);
        self.network.tally.leaves += 1;
        let bound = 15 * self.options.config.gossip_interval + SECOND;
        self.wait(
            "P12 leave",
            bound,
            "everyone has heard the goodbye",
            |network| {
                all_believe(network, &others, leaver, |state| {
                    state == Some(NodeState::Left)
                })
            },
        )?;
        self.wait("P12 leave", 10 * SECOND, "the goodbye is out", |network| {
            network
                .node(leaver)
                .is_some_and(|node| !node.leave_pending())
        })?;
        self.network.crash(leaver);
        self.set_rules(Rules {
            no_suspicion: true,
            gone: BTreeSet::from([name(leaver)]),
            ..Rules::default()
        });
        self.await_oblivion(leaver)
    }

    fn cut_pair(&mut self) -> Outcome {
        let one = self.pick();
        let other = self.pick_other(one);
        let time = self.two_cycles();
        self.forbid_suspicion();
        self.network.cut(one, other, time);
        self.network.cut(other, one, time);
        let before = self.network.tally();
        self.run_for(time)?;
        let after = self.network.tally();
        if after.acks_relayed == before.acks_relayed {
            return Err(("P2 accuracy", "nobody vouched for anybody".to_owned()));
        }
        Ok(())
    }

    fn streams_only(&mut self) -> Outcome {
        if !self.options.config.tcp_pings {
            return Ok(());
        }
        let deaf = self.pick();
        let time = self.two_cycles();
        self.forbid_suspicion();
        for other in self.live() {
            self.network.cut_datagrams(deaf, other, time);
            self.network.cut_datagrams(other, deaf, time);
        }
        let before = self.network.tally();
        self.run_for(time)?;
        let after = self.network.tally();
        if after.probes_answered_by_tcp_only == before.probes_answered_by_tcp_only {
            return Err(("P2 accuracy", "no stream vouched for the host".to_owned()));
        }
        Ok(())
    }

    fn late_acks(&mut self) -> Outcome {
        let config = &self.options.config;
        // The round trip lies in the middle between the timeout and the end of the round.
        let latency = (config.probe_timeout + config.probe_interval) / 4;
        self.forbid_suspicion();
        self.network.set_faults(Faults {
            latency_min: latency,
            latency_mean: latency,
            latency_max: latency,
            ..Faults::default()
        });
        self.run_for(self.two_cycles())
    }

    fn short_freeze(&mut self) -> Outcome {
        let sleeper = self.pick();
        let time = self.shortest_suspicion().mul_f64(0.4);
        self.set_rules(Rules {
            no_death: true,
            ..Rules::default()
        });
        self.network.pause(sleeper, time);
        self.run_for(time)?;
        let live = self.live();
        self.wait(
            "P4 refutation",
            15 * SECOND,
            "the sleeper is believed",
            |network| {
                all_believe(network, &live, sleeper, |state| {
                    state == Some(NodeState::Alive)
                })
            },
        )
    }

    fn long_freeze(&mut self) -> Outcome {
        let sleeper = self.pick();
        let verdicts = |run: &Self| {
            let node = run.network.node(sleeper);
            node.map(|node| node.counters().deaths_declared)
        };
        let before = verdicts(self);
        self.network.pause(sleeper, 20 * SECOND);
        self.run_for(20 * SECOND)?;
        self.converge("P5 convergence", self.convergence_bound())?;
        if verdicts(self) == before {
            return Ok(());
        }
        let detail = format!("{} declares others dead on waking", name(sleeper));
        Err(("P4 refutation", detail))
    }

    fn rude_awakening(&mut self) -> Outcome {
        let sleeper = self.pick();
        // Slow enough that a ping is under way when the host stops.
        let latency = Duration::from_millis(90);
        self.network.set_faults(Faults {
            latency_min: latency,
            latency_mean: latency,
            latency_max: latency,
            ..Faults::default()
        });
        let begin = self.network.now;
        self.wait("P1 completeness", 4 * SECOND, "a ping", |network| {
            let checker = network.checker.as_ref();
            checker.and_then(|checker| checker.last_ping(sleeper)) > Some(begin)
        })?;
        let suspicions = |run: &Self| {
            let node = run.network.node(sleeper);
            node.map(|node| node.counters().suspicions)
        };
        let before = suspicions(self);
        let time = 8 * SECOND;
        for other in self.live() {
            self.network.cut(other, sleeper, time);
        }
        self.network.pause(sleeper, time);
        self.run_for(time + 5 * latency)?;
        if suspicions(self) == before {
            return Ok(());
        }
        let detail = format!("{} blames others for its own absence", name(sleeper));
        Err(("P2 accuracy", detail))
    }

    fn restart_one(&mut self) -> Outcome {
        let victim = self.pick();
        self.network.crash(victim);
        if self.rng.random_bool(0.5) {
            self.await_death(victim)?;
        }
        self.restart(victim);
        let bound = 10 * SECOND + 2 * self.options.config.push_pull_interval;
        self.converge("P5 convergence after a restart", bound)
    }

    fn restart_most(&mut self) -> Outcome {
        let survivor = self.pick();
        let mut others = self.live();
        others.retain(|id| *id != survivor);
        for id in &others {
            self.network.crash(*id);
        }
        let bound = self.convergence_bound();
        self.wait(
            "P1 completeness",
            bound,
            "the survivor is alone",
            |network| {
                let node = network.node(survivor);
                node.is_some_and(|node| node.members().len() == 1)
            },
        )?;
        others.shuffle(&mut self.rng);
        for (at, id) in others.iter().enumerate() {
            let host = &mut self.network.hosts[*id];
            host.application = Some(super::catalogue::Catalogue::default());
            let started = self.network.restart(*id);
            debug_assert!(started.is_ok(), "settings that were valid once");
            if let Some(earlier) = at.checked_sub(1) {
                self.network.join(*id, others[earlier]);
            }
        }
        self.converge("P5 convergence after a restart", bound)
    }

    fn move_one(&mut self) -> Outcome {
        let live = self.live();
        let Some(&mover) = live.last().filter(|id| **id >= super::scenario::SEEDS) else {
            return self.restart_one();
        };
        self.network.crash(mover);
        let moves = self.network.hosts[mover].life as u8;
        self.network.move_host(mover, address(mover, moves));
        self.restart(mover);
        self.converge("P5 convergence after a move", self.convergence_bound())
    }

    fn short_partition(&mut self) -> Outcome {
        let time = self.shortest_suspicion().mul_f64(0.4);
        self.set_rules(Rules {
            no_death: true,
            ..Rules::default()
        });
        self.split_in_two();
        self.run_for(time)?;
        self.network.heal();
        self.converge(
            "P4 refutation",
            15 * SECOND + self.options.config.push_pull_interval,
        )
    }

    fn long_partition(&mut self) -> Outcome {
        let sides = self.split_in_two();
        let bound = self.convergence_bound();
        let live = self.live();
        self.wait(
            "P1 completeness",
            bound,
            "the sides forget each other",
            |network| {
                live.iter().all(|one| {
                    live.iter().all(|other| {
                        sides[*one] == sides[*other] || belief(network, *one, *other).is_none()
                    })
                })
            },
        )?;
        self.network.heal();
        self.converge("P6 partition healing", bound)
    }

    fn split_in_two(&mut self) -> Vec<u32> {
        let mut live = self.live();
        live.shuffle(&mut self.rng);
        let cut = self.rng.random_range(1..live.len());
        let mut sides = vec![0; self.network.hosts_len()];
        for id in &live[..cut] {
            sides[*id] = 1;
        }
        self.network.split(sides.clone(), Vec::new());
        sides
    }

    fn disseminate(&mut self) -> Outcome {
        let author = self.pick();
        let key = "news";
        let stamp = self.write(author, key, 50);
        let live = self.live();
        let bound = 20 * self.options.config.gossip_interval + SECOND;
        self.wait("P16 user data", bound, "a record everywhere", |network| {
            live.iter().all(|id| {
                let catalogue = network.hosts[*id].application.as_ref();
                catalogue.and_then(|held| held.stamp(key)) >= Some(stamp)
            })
        })
    }

    fn flood(&mut self) -> Outcome {
        let author = self.pick();
        for number in 0..300 {
            self.write(author, &format!("f{number}"), 0);
        }
        self.converge("P16 user data", self.convergence_bound())
    }

    fn name_conflict(&mut self) -> Outcome {
        let owner = self.pick();
        let target = self.pick_other(owner);
        let id = self.network.hosts_len();
        let mut config = self.options.config.clone();
        config.name = name(owner);
        config.advertise = address(id, 250);
        self.forbid_suspicion();
        let before = self.network.tally().conflicts;
        let added = self.network.add(config);
        debug_assert_eq!(added, Ok(id), "settings that were valid once");
        self.network.join(id, target);
        self.run_for(10 * SECOND)?;
        let conflicts = self.network.tally().conflicts - before;
        self.network.crash(id);
        if let Some(checker) = &mut self.network.checker {
            checker.runs(&name(owner));
        }
        if conflicts == 0 {
            return Err(("P19 takeover", "nobody noticed the impostor".to_owned()));
        }
        Ok(())
    }

    fn irrefutable(&mut self) -> Outcome {
        let accused = self.pick();
        self.forbid_suspicion();
        let before = self.network.tally().irrefutable_refused;
        let cluster = self.options.config.cluster_name.clone();
        let mut told = 0;
        for hearer in self.live() {
            if hearer == accused {
                continue;
            }
            for message in [
                suspect(accused, u32::MAX - 1, "accuser"),
                dead(accused, u32::MAX - 1),
            ] {
                let mut bytes = encode_message(&message, &cluster);
                // Our encoder refuses to write the highest number itself.
                let highest = [0xce, 0xff, 0xff, 0xff, 0xfe];
                if let Some(at) = bytes.windows(5).position(|window| window == highest) {
                    bytes[at + 4] = 0xff;
                }
                self.forge_bytes(hearer, Bytes::from(bytes));
                told += 1;
            }
        }
        self.run_for(2 * SECOND)?;
        let refused = self.network.tally().irrefutable_refused - before;
        if refused != told {
            let detail = format!("{refused} of {told} irrefutable accusations were refused");
            return Err(("P4 refutation", detail));
        }
        self.set_rules(Rules::default());
        let far = 1 << 30;
        self.forge(accused, &suspect(accused, far, "accuser"));
        self.await_refutation("P4 refutation", accused, far, 15 * SECOND)
    }

    pub(super) fn forbid_suspicion(&mut self) {
        self.set_rules(Rules {
            no_suspicion: true,
            ..Rules::default()
        });
    }

    pub(super) fn shortest_suspicion(&self) -> Duration {
        suspicion_span(&self.options.config, self.live().len()).0
    }

    fn alive(&self, about: HostId, incarnation: u32) -> Message {
        Message::Alive(Alive {
            incarnation,
            node: name(about),
            addr: RawIp::from(self.network.addr(about).ip()),
            port: self.network.addr(about).port(),
            meta: Bytes::new(),
            versions: Versions::OURS,
        })
    }
}

fn suspect(about: HostId, incarnation: u32, from: &str) -> Message {
    Message::Suspect(Suspect {
        incarnation,
        node: name(about),
        from: from.to_owned(),
    })
}

fn dead(about: HostId, incarnation: u32) -> Message {
    Message::Dead(Dead {
        incarnation,
        node: name(about),
        from: "accuser".to_owned(),
    })
}
