//! The report as text for a terminal, at most 100 columns wide.
//!
//! For people only: the JSON form is for programs. Colours say no more than the words do, and only
//! whoever writes the text knows whether a terminal shows it.

use super::{
    report::{Phase, Quantiles, Report, Settings, Spread, Totals, TrafficSample},
    units,
};

/// Width of a row's name.
const NAME_CHARS: usize = 40;
/// Width of a row's value.
const VALUE_CHARS: usize = 12;

/// The report as lines of text, with terminal colours if `colours`.
pub fn text(report: &Report, colours: bool) -> String {
    let mut table = Table {
        text: String::new(),
        colours,
    };
    table.settings(&report.settings);
    table.spread(report.spread.as_ref());
    table.phases(&report.phases);
    table.traffic(&report.traffic, &report.totals);
    table.totals(&report.totals);
    table.text
}

/// How a word stands out, as SGR parameters.
#[derive(Clone, Copy)]
enum Look {
    Plain,
    Heading,
    Good,
    Bad,
}

impl Look {
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Heading => Some("1"),
            Self::Good => Some("32"),
            Self::Bad => Some("1;31"),
        }
    }

    fn of(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

struct Table {
    text: String,
    colours: bool,
}

impl Table {
    fn settings(&mut self, settings: &Settings) {
        let cluster = format!(
            "{}, {} each, for {} of virtual time",
            units::counted(settings.hosts as u64, "host"),
            units::counted(settings.services_per_host as u64, "service"),
            units::whole_seconds(settings.virtual_s),
        );
        self.paint(&cluster, Look::Heading);
        self.text.push('\n');
        self.line(&format!(
            "network {}\nscenario {}; seed {}",
            units::printable(&settings.network, 80),
            units::printable(&settings.scenario, 60),
            settings.seed,
        ));
    }

    fn spread(&mut self, spread: Option<&Spread>) {
        let Some(spread) = spread else {
            self.heading("Time from a change", &[]);
            self.line("  no change was made");
            return;
        };
        let columns = ["p50", "p90", "p99", "p99.9", "max"];
        self.heading("Time from a change", &columns);
        self.quantiles("until a host knows", spread.quantiles_ms);
        self.quantiles("until every host knows", spread.everywhere_ms);
        self.line(&format!(
            "  {} to {}, {} told everywhere",
            units::counted(spread.changes as u64, "change"),
            units::counted(spread.hosts_to_reach as u64, "other host"),
            units::count(spread.changes_everywhere as u64),
        ));
        self.text.push_str("  ");
        self.paint(
            &format!("{} never heard", units::count(spread.missing)),
            Look::of(spread.missing == 0),
        );
        let pairs = spread.heard + spread.missing;
        self.line(&format!(
            " of {} pairs of change and host",
            units::count(pairs)
        ));
        if let Some(slowest) = &spread.slowest_change {
            let told = |ms: Option<f64>| {
                ms.map_or_else(
                    || "never".to_owned(),
                    |ms| format!("after {}", units::millis(ms)),
                )
            };
            self.line(&format!(
                "  slowest change, number {}: half of the hosts knew {}, all {}",
                slowest.change,
                told(slowest.p50_ms),
                told(slowest.last_ms.filter(|_| slowest.missing == 0)),
            ));
        }
    }

    fn quantiles(&mut self, name: &str, quantiles: Option<Quantiles>) {
        let values = match quantiles {
            Some(at) => [at.p50, at.p90, at.p99, at.p99_9, at.max].map(units::millis),
            None => [units::NONE; 5].map(str::to_owned),
        };
        self.row(name, &values.map(|value| (value, Look::Plain)));
    }

    fn phases(&mut self, phases: &[Phase]) {
        if phases.is_empty() {
            return;
        }
        self.heading("Phase", &["took", "limit"]);
        for phase in phases {
            let took = match phase.outcome_s {
                Some(seconds) => (units::seconds(seconds), Look::Good),
                None => ("not in time".to_owned(), Look::Bad),
            };
            let limit = (units::whole_seconds(phase.limit_s), Look::Plain);
            self.row(&phase.name, &[took, limit]);
        }
    }

    fn traffic(&mut self, samples: &[TrafficSample], totals: &Totals) {
        self.heading("Sent by a host", &["mean", "p99", "max"]);
        let plain = |rate: f64| (units::rate(rate), Look::Plain);
        let none = || (units::NONE.to_owned(), Look::Plain);
        self.row(
            "in the whole run",
            &[plain(totals.mean_bytes_per_host_per_s), none(), none()],
        );
        let loads = samples.iter().map(|sample| sample.bytes_per_host_per_s);
        let Some(busiest) = loads.clone().max_by(|a, b| a.mean.total_cmp(&b.mean)) else {
            return;
        };
        self.row(
            "when all together sent most",
            &[plain(busiest.mean), plain(busiest.p99), plain(busiest.max)],
        );
        let most = loads.map(|load| load.max).fold(0.0, f64::max);
        self.row("the busiest host ever", &[none(), none(), plain(most)]);
    }

    fn totals(&mut self, totals: &Totals) {
        self.heading("In total", &["number", "bytes"]);
        let plain = |text: String| (text, Look::Plain);
        for (name, number, bytes) in [
            (
                "datagrams",
                totals.datagrams,
                totals.bytes.saturating_sub(totals.bytes_by_stream),
            ),
            ("streams", totals.streams, totals.bytes_by_stream),
        ] {
            let row = [
                plain(units::count(number)),
                plain(units::bytes(bytes as f64)),
            ];
            self.row(name, &row);
        }
        self.heading("Went wrong", &["number"]);
        for (name, number) in [
            ("false deaths", totals.false_deaths),
            ("lost services", totals.lost_services),
            ("zombies", totals.zombies),
        ] {
            self.row(name, &[(units::count(number), Look::of(number == 0))]);
        }
        let memory = totals.peak_memory_mib.map_or_else(String::new, |mib| {
            format!(", at most {mib:.0} MiB of memory")
        });
        self.line(&format!(
            "\nSimulated in {}, {} of processor time{memory}",
            units::seconds(totals.wall_s),
            units::seconds(totals.cpu_s),
        ));
    }

    fn heading(&mut self, name: &str, columns: &[&str]) {
        self.text.push('\n');
        let mut line = if columns.is_empty() {
            name.to_owned()
        } else {
            format!("{name:<NAME_CHARS$}")
        };
        for column in columns {
            line.push_str(&format!("{column:>VALUE_CHARS$}"));
        }
        self.paint(&line, Look::Heading);
        self.text.push('\n');
    }

    fn row(&mut self, name: &str, values: &[(String, Look)]) {
        let name = units::printable(name, NAME_CHARS - 2);
        self.text.push_str("  ");
        self.text.push_str(&name);
        let gap = (NAME_CHARS - 2).saturating_sub(name.chars().count());
        self.text.push_str(&" ".repeat(gap));
        for (value, look) in values {
            // Colours have no width, so the blanks go outside.
            let gap = VALUE_CHARS.saturating_sub(value.chars().count());
            self.text.push_str(&" ".repeat(gap));
            self.paint(value, *look);
        }
        self.text.push('\n');
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn paint(&mut self, word: &str, look: Look) {
        match look.sgr().filter(|_| self.colours) {
            Some(sgr) => self.text.push_str(&format!("\x1b[{sgr}m{word}\x1b[0m")),
            None => self.text.push_str(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::simulate::report::tests::sample;

    fn empty() -> Report {
        let mut report = sample();
        report.settings.hosts = 1;
        report.spread = None;
        report.phases.clear();
        report.traffic.clear();
        report.totals = Totals::default();
        report
    }

    #[test]
    fn the_whole_table() {
        expect![[r#"
            1,000 hosts, 10 services each, for 2 min 00 s of virtual time
            network lan: 0.5 ms, 0.1 % lost
            scenario steady change; seed 42

            Time from a change                               p50         p90         p99       p99.9         max
              until a host knows                          140 ms      281 ms      624 ms      1.72 s      1.75 s
              until every host knows                      1.73 s      1.75 s      1.75 s      1.75 s      1.75 s
              20 changes to 999 other hosts, 20 told everywhere
              0 never heard of 19,980 pairs of change and host
              slowest change, number 19: half of the hosts knew after 158 ms, all after 1.75 s

            Phase                                           took       limit
              identical digests after contact             12.4 s        60 s
              dead host's services gone everywhere   not in time        30 s

            Sent by a host                                  mean         p99         max
              in the whole run                         1.03 kB/s           -           -
              when all together sent most              6.22 kB/s   13.7 kB/s   24.8 kB/s
              the busiest host ever                            -           -   24.8 kB/s

            In total                                      number       bytes
              datagrams                                1,234,567     77.8 MB
              streams                                      4,321     45.7 MB

            Went wrong                                    number
              false deaths                                     0
              lost services                                    3
              zombies                                          0

            Simulated in 33.5 s, 31.2 s of processor time, at most 413 MiB of memory
        "#]].assert_eq(&text(&sample(), false));
    }

    #[test]
    fn the_table_of_a_run_in_which_nothing_happened() {
        expect![[r#"
            1 host, 10 services each, for 2 min 00 s of virtual time
            network lan: 0.5 ms, 0.1 % lost
            scenario steady change; seed 42

            Time from a change
              no change was made

            Sent by a host                                  mean         p99         max
              in the whole run                             0 B/s           -           -

            In total                                      number       bytes
              datagrams                                        0         0 B
              streams                                          0         0 B

            Went wrong                                    number
              false deaths                                     0
              lost services                                    0
              zombies                                          0

            Simulated in 0 ms, 0 ms of processor time
        "#]]
        .assert_eq(&text(&empty(), false));
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let plain = text(&sample(), false);
        assert!(!plain.contains('\x1b'));
        let mut coloured = text(&sample(), true);
        assert!(coloured.contains("\x1b[1;31mnot in time\x1b[0m"));
        for sgr in ["\x1b[0m", "\x1b[1m", "\x1b[32m", "\x1b[1;31m"] {
            coloured = coloured.replace(sgr, "");
        }
        assert_eq!(coloured, plain);
    }

    #[test]
    fn long_names_and_large_numbers_stay_within_100_columns() {
        let mut report = sample();
        report.settings.network = "n".repeat(200);
        report.settings.scenario = "\x1b[2J".repeat(50);
        report.settings.seed = u64::MAX;
        report.phases[0].name = "phase ".repeat(30);
        report.totals.datagrams = 999_999_999;
        let table = text(&report, false);
        assert!(!table.contains('\x1b'));
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
