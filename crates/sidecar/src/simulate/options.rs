//! What is to be simulated: the subcommand's flags.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use memberlist::sim::Faults;

/// Most hosts: what the gossip holds.
const HOSTS_MAX: i64 = 16_000;
/// Most services on a host.
const SERVICES_MAX: i64 = 10_000;

/// Runs the shipped protocol and catalog code on many hosts in virtual time.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Hosts, each with an agent.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=HOSTS_MAX))]
    pub hosts: u32,
    /// Services on each host.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=SERVICES_MAX))]
    pub services: u32,
    /// What is between the hosts.
    #[arg(long, value_enum, default_value_t = NetworkProfile::Lan)]
    pub network: NetworkProfile,
    /// What happens.
    #[arg(long, value_enum, default_value_t = Scenario::Change)]
    pub scenario: Scenario,
    /// How long it goes on, in virtual seconds; each scenario has a default of its own.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub duration: Option<Duration>,
    /// Changes a second in the scenario churn.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// Hosts in the smaller part in the scenario reunion, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub smaller_part: u32,
    /// Wall clocks are wrong by up to so many seconds, either way.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub clock_skew: u64,
    /// Equal seeds give equal runs.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Also draw it: how many know over time, and bytes per host.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

impl Options {
    /// How long the scenario goes on.
    pub fn time(&self) -> Duration {
        let default = match self.scenario {
            Scenario::Change | Scenario::Churn | Scenario::Join => 10,
            Scenario::Reunion => 1,
            Scenario::Deploy => 20,
            Scenario::Idle | Scenario::Rack | Scenario::Restart => 60,
            Scenario::Partition => 120,
        };
        self.duration
            .unwrap_or_else(|| Duration::from_secs(default))
    }

    /// Hosts that are parted from the others at the start.
    pub fn hosts_apart(&self) -> usize {
        match self.scenario {
            Scenario::Reunion => (self.hosts * self.smaller_part / 100).max(1) as usize,
            _ => 0,
        }
    }

    /// About how long that takes with what comes before and after it.
    pub fn expected_time(&self) -> Duration {
        let more = match self.scenario {
            Scenario::Join | Scenario::Restart | Scenario::Partition | Scenario::Reunion => 2,
            _ => 0,
        };
        self.time() + Duration::from_secs(more)
    }
}

/// What is between the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkProfile {
    /// 0.2 to 2 ms one way, 1 % of the datagrams lost.
    Lan,
    /// 5 to 150 ms one way, 1 % lost.
    Wan,
    /// As lan, with 30 % lost.
    Lossy,
    /// As lan, and of every 20 s a random half is cut off from the other for 5 s.
    Partition,
}

impl NetworkProfile {
    /// Delays and losses.
    pub fn faults(self) -> Faults {
        let millis = Duration::from_millis;
        let lan = Faults {
            loss: 0.01,
            ..Faults::default()
        };
        match self {
            Self::Lan | Self::Partition => lan,
            Self::Wan => Faults {
                latency_min: millis(5),
                latency_mean: millis(50),
                latency_max: millis(150),
                ..lan
            },
            Self::Lossy => Faults { loss: 0.3, ..lan },
        }
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Nothing.
    Idle,
    /// Twice a second a check on some host comes to another result.
    Change,
    /// Many changes a second, of a hundred instances.
    Churn,
    /// A service is replaced everywhere, one instance after the other.
    Deploy,
    /// Hosts start, join, and leave in order.
    Join,
    /// A twentieth of the hosts dies at once and returns a minute later.
    Rack,
    /// All hosts are off at once and start within a minute.
    Restart,
    /// The cluster falls into parts for two minutes and finds together again.
    Partition,
    /// Two parts that have taken each other for dead for an hour find each other.
    Reunion,
}

/// The word on the command line.
pub fn word(value: &impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map_or_else(String::new, |word| word.get_name().to_owned())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (0.1..=1_000_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("expected 0.1 to 1000000 seconds".to_owned())
    }
}
