//! The tormentor: makes trouble at random times, of the kinds its options allow.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::HostId;
use super::scenario::{Outcome, Run, SEEDS, address, name};
use crate::wire::message::{Alive, Dead, Message, RawIp, Suspect, Versions};

/// A host that has left is switched off after this time.
const GOODBYE: Duration = Duration::from_secs(3);
/// Most addresses a host has in a run.
const MOVES_MAX: u8 = 200;

#[derive(Debug, Clone, Copy)]
enum Deed {
    Write,
    Partition,
    Heal,
    Cut,
    MtuHole,
    Freeze,
    SlowDown,
    SpeedUp,
    Crash,
    Restart,
    Move,
    Leave,
    Forge,
}

impl Run {
    /// Chaos, for as long as the options say.
    pub(super) fn torment(&mut self) -> Outcome {
        let end = self.network.now + self.options.chaos;
        self.network.set_faults(self.options.faults);
        let deeds = self.deeds();
        while self.network.now < end {
            let mean = self.options.trouble_interval;
            let pause = mean.mul_f64(-(1.0 - self.rng.random::<f64>()).ln());
            self.run_for(pause.min(end - self.network.now))?;
            self.switch_off_the_left();
            if let Some(deed) = deeds.choose(&mut self.rng) {
                self.commit(*deed);
            }
        }
        Ok(())
    }

    fn deeds(&self) -> Vec<Deed> {
        let trouble = self.options.trouble;
        let table: [(bool, &[Deed]); 10] = [
            (true, &[Deed::Write, Deed::Write]),
            (trouble.partitions, &[Deed::Partition, Deed::Heal]),
            (trouble.cuts, &[Deed::Cut]),
            (trouble.mtu_holes, &[Deed::MtuHole]),
            (trouble.freezes, &[Deed::Freeze]),
            (trouble.slow_processors, &[Deed::SlowDown, Deed::SpeedUp]),
            (trouble.crashes, &[Deed::Crash, Deed::Restart]),
            (trouble.moves, &[Deed::Move]),
            (trouble.leaves, &[Deed::Leave, Deed::Restart]),
            (trouble.forgeries, &[Deed::Forge]),
        ];
        let allowed = table.into_iter().filter(|(allowed, _)| *allowed);
        allowed
            .flat_map(|(_, deeds)| deeds.iter().copied())
            .collect()
    }

    fn commit(&mut self, deed: Deed) {
        let id = self.pick();
        let other = self.pick_other(id);
        let seconds =
            |run: &mut Self, most| Duration::from_secs_f64(run.rng.random_range(0.1..most));
        match deed {
            Deed::Write => {
                let padding = *[0, 20, 200, 1000].choose(&mut self.rng).unwrap_or(&0);
                let key = format!("record-{}", self.rng.random_range(0..20));
                self.write(id, &key, padding);
            }
            Deed::Partition => self.begin_partition(),
            Deed::Heal => self.network.heal(),
            Deed::Cut => {
                let time = seconds(self, 20.0);
                let both = self.rng.random_bool(0.5);
                if self.rng.random_bool(0.5) {
                    self.network.cut_datagrams(id, other, time);
                } else {
                    self.network.cut(id, other, time);
                }
                if both {
                    self.network.cut(other, id, time);
                }
            }
            Deed::MtuHole => {
                let mtu = self.rng.random_range(60..600);
                self.network.limit_datagrams(id, other, mtu);
            }
            Deed::Freeze => {
                let time = seconds(self, 25.0);
                self.network.pause(id, time);
            }
            Deed::SlowDown => {
                let handling = Duration::from_micros(self.rng.random_range(100..60_000));
                let inbox = self.rng.random_range(1..100);
                self.network.set_processor(id, handling, inbox);
            }
            Deed::SpeedUp => self.network.reset_processor(id),
            Deed::Crash => self.network.crash(id),
            Deed::Restart => self.bring_back(false),
            Deed::Move => self.bring_back(true),
            Deed::Leave => {
                self.network.with(id, crate::node::Node::leave);
                self.network.tally.leaves += 1;
                self.left.insert(id, self.network.now);
            }
            Deed::Forge => self.forge_something(id, other),
        }
        self.log(&format!("{deed:?} {id} {other}"));
    }

    /// Two to three sides of any size, sometimes passable in one direction.
    fn begin_partition(&mut self) {
        let sides = self.rng.random_range(2..=3);
        let hosts = self.network.hosts_len();
        let side_of = (0..hosts)
            .map(|_| self.rng.random_range(0..sides))
            .collect();
        let open = if self.rng.random_bool(0.3) {
            vec![(0, 1)]
        } else {
            Vec::new()
        };
        self.network.split(side_of, open);
    }

    fn bring_back(&mut self, elsewhere: bool) {
        let hosts = 0..self.options.hosts;
        let down: Vec<HostId> = hosts
            .filter(|id| self.network.node(*id).is_none())
            .collect();
        let Some(&id) = down.choose(&mut self.rng) else {
            return;
        };
        let life = self.network.hosts[id].life;
        if elsewhere && id >= SEEDS && life < u64::from(MOVES_MAX) {
            self.network.move_host(id, address(id, life as u8));
        }
        self.restart(id);
    }

    fn switch_off_the_left(&mut self) {
        let now = self.network.now;
        let left = self.left.iter();
        let gone: Vec<HostId> = left
            .filter(|(_, since)| now - **since > GOODBYE)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.left.remove(&id);
            self.network.crash(id);
        }
    }

    /// A lie about `about`, told to `to`, or bytes without sense.
    fn forge_something(&mut self, to: HostId, about: HostId) {
        let incarnation = self.incarnation(about).max(1) + self.rng.random_range(0..3);
        let node = name(about);
        let from = name(self.rng.random_range(0..self.options.hosts));
        let message = match self.rng.random_range(0..5) {
            0 => Message::Suspect(Suspect {
                incarnation,
                node,
                from,
            }),
            1 if from != node => Message::Dead(Dead {
                incarnation,
                node,
                from,
            }),
            kind @ 2..=3 => {
                let elsewhere = address(about, u8::MAX);
                let at = if kind == 2 {
                    self.network.addr(about).ip()
                } else {
                    elsewhere
                };
                // A host that is down must not be announced where nobody will ever answer for it.
                if kind == 3 && self.network.node(about).is_none() {
                    return;
                }
                Message::Alive(Alive {
                    incarnation,
                    node,
                    addr: RawIp::from(at),
                    port: 7946,
                    meta: Bytes::from_static(b"forged"),
                    versions: Versions::OURS,
                })
            }
            _ => {
                let length = self.rng.random_range(0..200);
                let bytes: Vec<u8> = (0..length).map(|_| self.rng.random()).collect();
                return self.forge_bytes(to, bytes.into());
            }
        };
        self.forge(to, &message);
    }
}
