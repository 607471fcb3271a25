//! `sidecar members`: the hosts of the cluster as one agent sees them.

use clap::Args;

use super::{
    Exit, Failure,
    address::Connection,
    api::Agent,
    documents::{Counts, Hosts, Overview},
    output::Output,
    table::Table,
    text::age,
};

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Print the API's document.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: &Options, output: &mut Output) -> Result<Exit, Failure> {
    let agent = Agent::of(&options.connection)?;
    show(&agent, options.json, output).await
}

async fn show(agent: &Agent, json: bool, output: &mut Output) -> Result<Exit, Failure> {
    let document = agent.get("/api/v2/hosts").await?;
    let hosts: Hosts = document.read()?;
    if json {
        output.json(&document.text)?;
        return Ok(Exit::Ok);
    }
    // Ages are by the clock that wrote the times.
    let overview: Overview = agent.get("/api/v2/overview").await?.read()?;
    output.table(&table(&hosts, &overview.now))?;
    Ok(Exit::Ok)
}

fn table(hosts: &Hosts, now: &str) -> Table<10> {
    let [alive, unhealthy, unknown, draining, gone] = Counts::HEADINGS;
    let mut table = Table::new([
        "HOST", "STATE", "KIND", "ADDRESS", "HEARD", alive, unhealthy, unknown, draining, gone,
    ]);
    for host in &hosts.hosts {
        let heard = match (&host.last_updated, host.own) {
            (_, true) => "itself".to_owned(),
            (Some(time), false) => age(time, now),
            (None, false) => "never".to_owned(),
        };
        let [alive, unhealthy, unknown, draining, gone] = host.instances.cells();
        table.row([
            host.name.clone(),
            host.state.clone(),
            host.kind.clone(),
            host.address.clone().unwrap_or_default(),
            heard,
            alive,
            unhealthy,
            unknown,
            draining,
            gone,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::client::scripted::{self, Script};

    const HOSTS: &str = r#"{"version":7,"hosts":[
        {"name":"web-01","address":"10.0.0.1","own":true,"state":"alive","kind":"sidecar",
         "last_updated":"2026-02-03T12:00:00Z","last_changed":null,
         "instances":{"alive":2,"unhealthy":1,"unknown":0,"draining":0,"tombstone":3}},
        {"name":"old-01","address":"10.0.0.2","own":false,"state":"dead","kind":"go-sidecar",
         "last_updated":"2026-02-03T11:59:30Z","instances":{"alive":0}},
        {"name":"evil\u001b[2J","address":null,"own":false,"state":"suspect","kind":"foreign",
         "last_updated":null}]}"#;
    const OVERVIEW: &str = r#"{"hostname":"web-01","cluster_name":"lab","ready":true,
        "now":"2026-02-03T12:00:10Z"}"#;

    #[tokio::test]
    async fn hosts_are_a_table_for_people_and_the_document_for_programs() {
        let script =
            Script::default()
                .at("/api/v2/hosts", 200, HOSTS)
                .at("/api/v2/overview", 200, OVERVIEW);
        let (agent, _heads) = scripted::agent(script).await;
        let mut output = Output::kept();
        assert_eq!(show(&agent, false, &mut output).await, Ok(Exit::Ok));
        expect![[r#"
            HOST           STATE    KIND        ADDRESS   HEARD   ALIVE  UNHEALTHY  UNKNOWN  DRAINING  GONE
            web-01         alive    sidecar     10.0.0.1  itself  2      1          0        0         3
            old-01         dead     go-sidecar  10.0.0.2  40 s    0      0          0        0         0
            evil\u{1b}[2J  suspect  foreign     -         never   0      0          0        0         0
        "#]].assert_eq(&output.text());
        let mut output = Output::kept();
        assert_eq!(show(&agent, true, &mut output).await, Ok(Exit::Ok));
        assert_eq!(output.text().trim_end(), HOSTS);
    }
}
