//! A simulated cluster: hosts with services on a virtual network, and what can be done to them.

use std::{
    cell::RefCell,
    net::SocketAddr,
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

use catalog::{Author, Now, Port, Service, State, Status, Timestamp, Upkeep};
use memberlist::sim::{Faults, HostId, Network, Tally, Traffic};

use super::{
    host::{Host, Setting, WallClock},
    watch::Watch,
};
use crate::cluster::{metadata, replica::Replica};

/// Name of every simulated cluster.
const CLUSTER_NAME: &str = "simulated";

/// A right clock at the start: 2026-01-01T00:00:00Z, in seconds since 1970.
const EPOCH_S: u64 = 1_767_225_600;

/// What lies behind the hosts at the start.
const PAST: Duration = Duration::from_secs(2 * 3600);

/// Hosts that others join through.
const SEEDS: usize = 3;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Cluster {
    network: Network<Host>,
    watch: Rc<RefCell<Watch>>,
    seeds: Vec<HostId>,
    /// Bytes each host had sent when that was asked last.
    accounted: Vec<u64>,
}

/// What a [`Cluster`] begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Formation {
    pub(super) hosts: usize,
    /// So many of them, the last, and the others have been parted for an hour, and still are.
    pub(super) apart: usize,
    /// On each host.
    pub(super) services: usize,
    pub(super) seed: u64,
    pub(super) faults: Faults,
}

impl Cluster {
    /// Hosts that have known each other and each other's services for long. `ahead_ns` tells for
    /// each host by how much its wall clock is ahead.
    ///
    /// # Errors
    /// A setting the gossip refuses.
    pub(super) fn formed(
        formation: &Formation,
        ahead_ns: impl Fn(HostId) -> i128,
    ) -> anyhow::Result<Self> {
        let &Formation {
            hosts,
            apart,
            services,
            seed,
            faults,
        } = formation;
        let first = hosts - apart;
        // Some things have begun before.
        let start = Instant::now() + PAST;
        let mut network = Network::of_applications(seed, start);
        network.set_recording(false);
        network.set_measuring(true);
        let meta = metadata::write(CLUSTER_NAME)?;
        for id in 0..hosts {
            let mut config = Network::config(name(id), id);
            config.cluster_name = CLUSTER_NAME.to_owned();
            config.meta = meta.clone().into();
            config.lazy_push = Some(metadata::is_ours);
            // It changes nothing about who hears what, and is most of the work in large clusters.
            config.compression = false;
            network.add(config)?;
        }
        let parts = [0..first, first..hosts].into_iter();
        let parts: Vec<Range<HostId>> = parts.filter(|part| !part.is_empty()).collect();
        if apart > 0 {
            let sides = (0..hosts).map(|id| u32::from(id >= first));
            network.split(sides.collect(), Vec::new());
        }
        for part in &parts {
            network.acquaint_part(&part.clone().collect::<Vec<_>>());
        }
        network.set_faults(faults);

        let epoch = Timestamp::EPOCH.plus(Duration::from_secs(EPOCH_S));
        let now = Now {
            wall: epoch,
            monotonic: start,
        };
        let mut known = State::new("", CLUSTER_NAME);
        for id in 0..hosts {
            known.member_up(&name(id), Upkeep::Membership, now);
            for service in 0..services {
                let record = instance(id, service, epoch);
                known.apply(record, Author::Own, now)?;
            }
        }
        let known = parts.iter().map(|part| {
            let mut known = known.clone();
            for id in (0..hosts).filter(|id| !part.contains(id)) {
                known.member_down(&name(id), now);
            }
            known
        });
        let known: Vec<State> = known.collect();
        let seeds: Vec<HostId> = (0..SEEDS.min(hosts)).collect();
        let addresses: Rc<[SocketAddr]> = seeds.iter().map(|id| network.addr(*id)).collect();
        let watch = Rc::new(RefCell::new(Watch::new(u32::try_from(hosts - 1)?)));
        for id in 0..hosts {
            let clock = WallClock {
                start,
                epoch,
                ahead_ns: ahead_ns(id),
            };
            let setting = Setting {
                id,
                clock,
                seeds: addresses.clone(),
                watch: watch.clone(),
            };
            let known = &known[usize::from(id >= first)];
            let replica = Replica::resumed(known.seen_from(&name(id)), now);
            let own = (0..services)
                .map(|service| instance(id, service, epoch))
                .collect();
            network.set_application(id, Host::settled(setting, replica, own, start));
            network.with(id, |node, now| node.add_seeds(now, &addresses));
        }
        Ok(Self {
            accounted: vec![0; hosts],
            network,
            watch,
            seeds,
        })
    }

    /// Hosts there are, up or down.
    pub(super) fn hosts(&self) -> usize {
        self.network.hosts_len()
    }

    /// Hosts others join through.
    pub(super) fn seeds(&self) -> &[HostId] {
        &self.seeds
    }

    /// Virtual time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.network.elapsed()
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        self.network.run_for(time);
    }

    /// The network and its faults.
    pub(super) fn network(&mut self) -> &mut Network<Host> {
        &mut self.network
    }

    /// What spreads.
    pub(super) fn watch(&self) -> std::cell::Ref<'_, Watch> {
        self.watch.borrow()
    }

    /// Everything that has happened so far on the network.
    pub(super) fn tally(&self) -> Tally {
        self.network.tally()
    }

    /// The hosts that are up.
    pub(super) fn running(&self) -> impl Iterator<Item = (HostId, &Host)> {
        self.network
            .running()
            .filter_map(|(id, _)| Some((id, self.network.application(id)?)))
    }

    /// Changes what runs on a host. When `watched`, everybody who is up is expected to hear of what
    /// it says about `instance` from now on.
    pub(super) fn edit(
        &mut self,
        id: HostId,
        instance: &str,
        watched: bool,
        change: impl FnOnce(&mut Vec<Service>),
    ) {
        self.network
            .with_application(id, |host, now, node| host.edit(now, node, change));
        let record = self.network.application(id).and_then(|host| {
            let snapshot = host.snapshot();
            snapshot.service(&snapshot.hostname, instance).cloned()
        });
        if let Some(record) = record.filter(|_| watched) {
            let others: Vec<HostId> = self
                .running()
                .map(|(other, _)| other)
                .filter(|other| *other != id)
                .collect();
            let at = self.elapsed();
            self.watch
                .borrow_mut()
                .expect(&record, others.into_iter(), at);
        }
    }

    /// A check comes to another result: alive, unhealthy, unknown, and alive again. With three of them
    /// whoever missed one sees the next as a change.
    pub(super) fn flip(&mut self, id: HostId, service: usize, watched: bool) {
        let instance = instance_id(id, service);
        self.edit(id, &instance.clone(), watched, |own| {
            for service in own.iter_mut().filter(|own| own.id == instance) {
                service.status = match service.status {
                    Status::Alive => Status::Unhealthy,
                    Status::Unhealthy => Status::Unknown,
                    _ => Status::Alive,
                };
            }
        });
    }

    /// The host is gone without a word.
    pub(super) fn crash(&mut self, id: HostId) {
        self.network.crash(id);
    }

    /// A crashed host starts anew and joins.
    ///
    /// # Errors
    /// A setting the gossip refuses.
    pub(super) fn restart(&mut self, id: HostId) -> anyhow::Result<()> {
        self.network.restart(id)?;
        Ok(())
    }

    /// A host says goodbye.
    pub(super) fn leave(&mut self, id: HostId) {
        self.network
            .with_application(id, |host, now, node| host.farewell(now, node));
        self.network.with(id, |node, now| node.leave(now));
    }

    /// Whether all who are up know exactly each other and the same live records.
    pub(super) fn agreed(&self) -> bool {
        let up = self.network.running().count();
        let mut roots = self.running().map(|(_, host)| host.snapshot());
        let Some(first) = roots.next() else {
            return true;
        };
        first.members.size() == up
            && roots.all(|other| {
                other.members.size() == up && other.digest.root() == first.digest.root()
            })
    }

    /// Everything all hosts have sent so far.
    pub(super) fn traffic(&self) -> Traffic {
        let hosts = 0..self.hosts();
        hosts
            .map(|id| self.network.traffic(id))
            .fold(Traffic::default(), Traffic::plus)
    }

    /// Bytes each host that is up has sent since this was asked last.
    pub(super) fn account(&mut self) -> Vec<u64> {
        let up: Vec<HostId> = self.network.running().map(|(id, _)| id).collect();
        up.into_iter()
            .map(|id| {
                let bytes = self.network.traffic(id).bytes();
                bytes - std::mem::replace(&mut self.accounted[id], bytes)
            })
            .collect()
    }
}

/// Name of a simulated host.
pub(super) fn name(id: HostId) -> String {
    format!("host-{id:05}")
}

/// ID of an instance.
pub(super) fn instance_id(host: HostId, service: usize) -> String {
    format!("{host:06x}{service:06x}")
}

/// What runs on a host from the start.
fn instance(host: HostId, service: usize, created: Timestamp) -> Service {
    let [_, _, high, low] = (host as u32 + 1).to_be_bytes();
    Service {
        id: instance_id(host, service),
        name: format!("service-{service:03}"),
        image: format!("team/service-{service:03}:1.2.3"),
        created,
        hostname: name(host),
        ports: Some(vec![Port {
            kind: "tcp".into(),
            port: 32_768 + (service % 16_384) as u16,
            service_port: 8000 + (service % 16_384) as u16,
            ip: format!("10.0.{high}.{low}"),
        }]),
        updated: created,
        proxy_mode: "http".into(),
        weight: None,
        status: Status::Alive,
    }
}
