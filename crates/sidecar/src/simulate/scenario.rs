//! What happens to a simulated cluster, and what is measured meanwhile.

use std::time::Duration;

use catalog::Service;
use memberlist::sim::HostId;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;

use super::{
    cluster::{Cluster, instance_id},
    options::{NetworkProfile, Options, Scenario},
    report::{Phase, TrafficSample},
};

const SECOND: Duration = Duration::from_secs(1);
/// How often something waited for is looked at, and progress is told.
const LOOK: Duration = Duration::from_millis(50);
/// Instances that churn.
const CHURNING: usize = 100;
/// Instances replaced in a deployment, at most.
const DEPLOYED_MAX: usize = 100;
/// What is still under way at the end has this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// In the network profile with partitions: how often, and how long.
const PARTITION_EVERY: Duration = Duration::from_secs(20);
const PARTITION_LASTS: Duration = Duration::from_secs(5);

/// A cluster and its story.
#[derive(Debug)]
pub(super) struct Story<'a, L> {
    cluster: Cluster,
    options: &'a Options,
    rng: Pcg64Mcg,
    listener: &'a mut L,
    /// Name of what goes on.
    act: String,
    phases: Vec<Phase>,
    traffic: Vec<TrafficSample>,
    sampled: Duration,
    /// Whether the network profile has cut the cluster in two.
    cut: bool,
    /// Whether the story has its own partition.
    split: bool,
}

/// Is told what goes on, and how far in virtual time it is.
pub(super) trait Listener {
    /// Called often.
    fn at(&mut self, act: &str, elapsed: Duration);
}

impl<'a, L: Listener> Story<'a, L> {
    /// About this cluster.
    pub(super) fn new(cluster: Cluster, options: &'a Options, listener: &'a mut L) -> Self {
        Self {
            rng: Pcg64Mcg::seed_from_u64(options.seed ^ 0x5706),
            cluster,
            options,
            listener,
            act: String::new(),
            phases: Vec::new(),
            traffic: Vec::new(),
            sampled: Duration::ZERO,
            cut: false,
            split: false,
        }
    }

    /// Tells it.
    ///
    /// # Errors
    /// A setting the gossip refuses.
    pub(super) fn tell(mut self) -> anyhow::Result<(Cluster, Vec<Phase>, Vec<TrafficSample>)> {
        let time = self.options.time();
        match self.options.scenario {
            Scenario::Idle => {
                self.begin("idle");
                self.run(time);
            }
            Scenario::Change => self.changes(time),
            Scenario::Churn => self.churn(time),
            Scenario::Deploy => self.deploy(time),
            Scenario::Join => self.join()?,
            Scenario::Rack => self.rack(time)?,
            Scenario::Restart => self.restart(time)?,
            Scenario::Partition => self.partition(time),
            Scenario::Reunion => self.reunion(time),
        }
        Ok((self.cluster, self.phases, self.traffic))
    }

    fn changes(&mut self, time: Duration) {
        self.begin("changes");
        let end = self.cluster.elapsed() + time;
        while self.cluster.elapsed() < end {
            let (host, service) = (self.random_host(), self.random_service());
            self.cluster.flip(host, service, true);
            let pause = Duration::from_millis(400).mul_f64(0.75 + 0.5 * self.rng.random::<f64>());
            self.run(pause);
        }
        self.wait_for_news();
    }

    fn churn(&mut self, time: Duration) {
        self.begin("churn");
        let (hosts, services) = (self.cluster.hosts(), self.options.services as usize);
        let places: Vec<(HostId, usize)> = (0..CHURNING)
            .map(|at| (at * hosts / CHURNING % hosts, at % services))
            .collect();
        let pause = SECOND / self.options.rate;
        let end = self.cluster.elapsed() + time;
        let mut next = 0;
        while self.cluster.elapsed() < end {
            let (host, service) = places[next % CHURNING];
            self.cluster.flip(host, service, true);
            next += 1;
            self.run(pause);
        }
        self.wait_for_news();
    }

    fn deploy(&mut self, time: Duration) {
        self.begin("deployment");
        let instances = self.cluster.hosts().min(DEPLOYED_MAX);
        let mut hosts: Vec<HostId> = (0..self.cluster.hosts()).collect();
        hosts.shuffle(&mut self.rng);
        let pause = time / u32::try_from(instances).unwrap_or(u32::MAX);
        for &host in &hosts[..instances] {
            let (old, new) = (instance_id(host, 0), instance_id(host, 0xf0_0000));
            let successor = |own: &mut Vec<Service>| {
                if let Some(first) = own.iter().find(|own| own.id == old).cloned() {
                    own.push(Service {
                        id: new.clone(),
                        image: format!("{}-next", first.image),
                        ..first
                    });
                }
            };
            self.cluster.edit(host, &new, true, successor);
            self.run(pause / 2);
            let retire = |own: &mut Vec<Service>| own.retain(|own| own.id != old);
            self.cluster.edit(host, &old, true, retire);
            self.run(pause / 2);
        }
        self.wait_for_news();
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let last = self.cluster.hosts() - 1;
        self.begin("host leaves");
        self.cluster.leave(last);
        self.until(
            "a host that leaves is gone everywhere",
            10 * SECOND,
            |cluster| {
                let others = cluster.hosts() - 1;
                let gone = |(id, host): (HostId, &super::host::Host)| {
                    id == cluster.hosts() - 1 || host.snapshot().members.size() == others
                };
                cluster.running().all(gone)
            },
        );
        self.run(5 * SECOND);
        self.cluster.crash(last);
        self.begin("host joins");
        self.cluster.restart(last)?;
        self.until(
            "a host that starts agrees with all others",
            60 * SECOND,
            Cluster::agreed,
        );
        Ok(())
    }

    fn rack(&mut self, time: Duration) -> anyhow::Result<()> {
        let hosts = self.cluster.hosts();
        let rack: Vec<HostId> = (hosts - (hosts / 20).max(1)..hosts).collect();
        self.begin("before");
        self.run(2 * SECOND);
        for &host in &rack {
            self.cluster.crash(host);
        }
        let left = hosts - rack.len();
        let know = move |cluster: &Cluster| {
            let mut others = cluster.running().map(|(_, host)| host.snapshot());
            others.all(|snapshot| snapshot.members.size() == left)
        };
        self.begin("rack is dead");
        self.until("the dead are known to be dead everywhere", 2 * time, know);
        self.run(5 * SECOND);
        for &host in &rack {
            self.cluster.restart(host)?;
        }
        self.begin("rack returns");
        self.until(
            "all agree after the rack is back",
            2 * time,
            Cluster::agreed,
        );
        Ok(())
    }

    fn restart(&mut self, time: Duration) -> anyhow::Result<()> {
        let hosts = self.cluster.hosts();
        self.begin("before");
        self.run(SECOND);
        for host in 0..hosts {
            self.cluster.crash(host);
        }
        self.begin("restart");
        // The seeds come first, as nobody finds the others without them.
        let mut order: Vec<HostId> = (self.cluster.seeds().len()..hosts).collect();
        order.shuffle(&mut self.rng);
        let order: Vec<HostId> = self.cluster.seeds().iter().copied().chain(order).collect();
        let pause = time / u32::try_from(hosts).unwrap_or(u32::MAX);
        for host in order {
            self.cluster.restart(host)?;
            self.run(pause);
        }
        self.begin("after the last start");
        self.until(
            "all agree after the last start",
            2 * PATIENCE,
            Cluster::agreed,
        );
        Ok(())
    }

    fn partition(&mut self, time: Duration) {
        let parts = self.rng.random_range(2..=4);
        let sides = self.sides(parts);
        (self.split, self.cut) = (true, false);
        self.begin("in parts");
        self.cluster.network().split(sides, Vec::new());
        let end = self.cluster.elapsed() + time;
        while self.cluster.elapsed() < end {
            let (host, service) = (self.random_host(), self.random_service());
            self.cluster.flip(host, service, false);
            self.run(SECOND);
        }
        self.find_together();
    }

    fn reunion(&mut self, time: Duration) {
        self.split = true;
        self.begin("in parts");
        self.run(time);
        self.find_together();
    }

    fn find_together(&mut self) {
        self.cluster.network().heal();
        self.begin("together again");
        let alone: Vec<usize> = self
            .cluster
            .running()
            .map(|(_, host)| host.snapshot().members.size())
            .collect();
        self.until(
            "the first to see more than its part",
            2 * PATIENCE,
            move |cluster| {
                let mut now = cluster.running().zip(&alone);
                now.any(|((_, host), before)| host.snapshot().members.size() > *before)
            },
        );
        self.split = false;
        self.until(
            "identical digests after that",
            4 * PATIENCE,
            Cluster::agreed,
        );
    }

    /// The side of each host, of so many.
    fn sides(&mut self, parts: u32) -> Vec<u32> {
        let hosts = 0..self.cluster.hosts();
        hosts.map(|_| self.rng.random_range(0..parts)).collect()
    }

    fn random_host(&mut self) -> HostId {
        self.rng.random_range(0..self.cluster.hosts())
    }

    fn random_service(&mut self) -> usize {
        self.rng.random_range(0..self.options.services as usize)
    }

    fn begin(&mut self, act: &str) {
        act.clone_into(&mut self.act);
    }

    /// Waits for all who have not heard of a change.
    fn wait_for_news(&mut self) {
        self.begin("the last to hear");
        let end = self.cluster.elapsed() + PATIENCE;
        while self.cluster.elapsed() < end && self.cluster.watch().pending() > 0 {
            self.run(LOOK);
        }
    }

    /// Waits for something, and notes how long it took.
    fn until(&mut self, name: &str, limit: Duration, done: impl Fn(&Cluster) -> bool) {
        let begin = self.cluster.elapsed();
        let mut outcome = None;
        while outcome.is_none() && self.cluster.elapsed() < begin + limit {
            self.run(LOOK);
            if done(&self.cluster) {
                outcome = Some((self.cluster.elapsed() - begin).as_secs_f64());
            }
        }
        self.phases.push(Phase {
            name: name.to_owned(),
            outcome_s: outcome,
            limit_s: limit.as_secs_f64(),
        });
    }

    /// Lets time pass, with everything that goes on beside the story.
    fn run(&mut self, time: Duration) {
        let end = self.cluster.elapsed() + time;
        while self.cluster.elapsed() < end {
            self.cut_or_heal();
            let step = LOOK.min(end - self.cluster.elapsed());
            self.cluster.run_for(step);
            self.sample();
            self.listener.at(&self.act, self.cluster.elapsed());
        }
    }

    /// The network profile with partitions.
    fn cut_or_heal(&mut self) {
        if self.options.network != NetworkProfile::Partition || self.split {
            return;
        }
        let phase = self.cluster.elapsed().as_nanos() % PARTITION_EVERY.as_nanos();
        let cut = phase >= (PARTITION_EVERY - PARTITION_LASTS).as_nanos();
        if cut && !self.cut {
            let sides = self.sides(2);
            self.cluster.network().split(sides, Vec::new());
        } else if !cut && self.cut {
            self.cluster.network().heal();
        }
        self.cut = cut;
    }

    /// Once a second, what everybody has sent.
    fn sample(&mut self) {
        let elapsed = self.cluster.elapsed();
        if elapsed - self.sampled < SECOND {
            return;
        }
        let window = elapsed - std::mem::replace(&mut self.sampled, elapsed);
        let mut sent = self.cluster.account();
        let sample = TrafficSample::of_window(elapsed, window, &mut sent);
        self.traffic.extend(sample);
    }
}
