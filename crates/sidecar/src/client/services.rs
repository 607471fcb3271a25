//! `sidecar services`: services by health, or the instances of one, of a host or with a status.

use clap::{Args, ValueEnum};

use super::{
    Exit, Failure,
    address::Connection,
    api::{Agent, encoded},
    documents::{Counts, Instances, Overview, Port, Services},
    output::Output,
    selection::similar,
    table::Table,
    text::age,
};

/// What is asked for.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Show the instances of this service.
    name: Option<String>,
    /// Show the instances of this host.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Show the instances with this status.
    #[arg(long, value_name = "STATUS", ignore_case = true)]
    status: Option<Status>,
    #[command(flatten)]
    connection: Connection,
    /// Print the API's document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Status {
    Alive,
    Unhealthy,
    Unknown,
    Draining,
    Tombstone,
}

impl Status {
    /// The API's word.
    fn word(self) -> &'static str {
        match self {
            Self::Alive => "Alive",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
            Self::Draining => "Draining",
            Self::Tombstone => "Tombstone",
        }
    }
}

pub(super) async fn run(options: &Options, output: &mut Output) -> Result<Exit, Failure> {
    let agent = Agent::of(&options.connection)?;
    show(&agent, options, output).await
}

async fn show(agent: &Agent, options: &Options, output: &mut Output) -> Result<Exit, Failure> {
    if options.name.is_none() && options.host.is_none() && options.status.is_none() {
        return all(agent, options.json, output).await;
    }
    let filters = [
        ("service", options.name.as_deref()),
        ("host", options.host.as_deref()),
        ("status", options.status.map(Status::word)),
    ];
    let filters = filters
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    let query: Vec<String> = filters
        .map(|(key, value)| format!("{key}={}", encoded(value)))
        .collect();
    let path = format!("/api/v2/instances?{}", query.join("&"));
    let document = agent.get(&path).await?;
    let found: Instances = document.read()?;
    if found.instances.is_empty() {
        return Err(Failure::no(nothing(agent, options).await?));
    }
    if options.json {
        output.json(&document.text)?;
        return Ok(Exit::Ok);
    }
    let overview: Overview = agent.get("/api/v2/overview").await?.read()?;
    output.table(&instances(&found, &overview.now))?;
    Ok(Exit::Ok)
}

async fn all(agent: &Agent, json: bool, output: &mut Output) -> Result<Exit, Failure> {
    let document = agent.get("/api/v2/services").await?;
    let services: Services = document.read()?;
    if json {
        output.json(&document.text)?;
    } else {
        output.table(&summary(&services))?;
    }
    Ok(Exit::Ok)
}

/// Says that there is nothing of the kind, and what there is with a similar name.
async fn nothing(agent: &Agent, options: &Options) -> Result<String, Failure> {
    let known: Services = agent.get("/api/v2/services").await?.read()?;
    let mut text = "no instances".to_owned();
    if let Some(name) = &options.name {
        text.push_str(&format!(" of {name:?}"));
    }
    if let Some(host) = &options.host {
        text.push_str(&format!(" on {host:?}"));
    }
    if let Some(status) = options.status {
        text.push_str(&format!(" that are {}", status.word()));
    }
    let Some(name) = &options.name else {
        return Ok(text);
    };
    let names: Vec<&str> = known.services.iter().map(|it| it.name.as_str()).collect();
    if names.contains(&name.as_str()) {
        return Ok(text);
    }
    match similar(name, &names).as_slice() {
        [] => text.push_str(&format!("; `sidecar explain {name}` looks further")),
        similar => text.push_str(&format!("; did you mean {}?", similar.join(" or "))),
    }
    Ok(text)
}

fn summary(services: &Services) -> Table<9> {
    let [alive, unhealthy, unknown, draining, gone] = Counts::HEADINGS;
    let mut table = Table::new([
        "SERVICE", alive, unhealthy, unknown, draining, gone, "HOSTS", "PORTS", "MODE",
    ]);
    for service in &services.services {
        let [alive, unhealthy, unknown, draining, gone] = service.instances.cells();
        let ports = service.service_ports.iter().map(u16::to_string);
        table.row([
            service.name.clone(),
            alive,
            unhealthy,
            unknown,
            draining,
            gone,
            service.hosts.to_string(),
            ports.collect::<Vec<_>>().join(","),
            service.mode.clone(),
        ]);
    }
    table
}

fn instances(found: &Instances, now: &str) -> Table<7> {
    let mut table = Table::new(["SERVICE", "HOST", "ID", "VERSION", "STATUS", "AGE", "PORTS"]);
    for instance in &found.instances {
        table.row([
            instance.name.clone(),
            instance.hostname.clone(),
            instance.id.clone(),
            instance.version.clone(),
            instance.status.clone(),
            age(&instance.created, now),
            ports(&instance.ports),
        ]);
    }
    table
}

/// `10080→10.0.0.1:8300/tcp`: the service port, if there is one, and where it leads.
fn ports(ports: &[Port]) -> String {
    let ports = ports.iter().map(|port| {
        let claim = match port.service_port {
            0 => String::new(),
            service_port => format!("{service_port}→"),
        };
        format!("{claim}{}:{}/{}", port.ip, port.port, port.kind)
    });
    ports.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::client::scripted::{self, Script};

    const SERVICES: &str = r#"{"version":7,"services":[
        {"name":"orders-db","instances":{"alive":1},"hosts":1,"service_ports":[10432],"mode":"tcp"},
        {"name":"web","instances":{"alive":2,"unhealthy":1},"hosts":2,
         "service_ports":[10080,10443],"mode":"http"}]}"#;
    const WEB: &str = r#"{"version":7,"instances":[
        {"id":"0123456789ab","name":"web","image":"web:1.2","version":"1.2","hostname":"web-01",
         "status":"Alive","created":"2026-02-03T11:00:00Z","updated":"2026-02-03T11:59:00Z",
         "mode":"http","weight":1,
         "ports":[{"type":"tcp","port":8300,"service_port":10080,"ip":"10.0.0.1"},
                  {"type":"udp","port":53,"service_port":0,"ip":"10.0.0.1"}]},
        {"id":"b","name":"web","image":"web","version":"","hostname":"web-02","status":"Unhealthy",
         "created":"2026-02-03T11:59:50Z","updated":"2026-02-03T11:59:50Z","ports":[]}]}"#;
    const OVERVIEW: &str = r#"{"hostname":"web-01","cluster_name":"lab","ready":true,
        "now":"2026-02-03T12:00:00Z"}"#;

    fn script(instances: &str) -> Script {
        Script::default()
            .at("/api/v2/services", 200, SERVICES)
            .at("/api/v2/instances", 200, instances)
            .at("/api/v2/overview", 200, OVERVIEW)
    }

    async fn shown(script: Script, options: &Options) -> Result<String, Failure> {
        let (agent, _heads) = scripted::agent(script).await;
        let mut output = Output::kept();
        show(&agent, options, &mut output).await?;
        Ok(output.text())
    }

    #[tokio::test]
    async fn services_are_counted_by_health() {
        let text = shown(script(WEB), &Options::default()).await.unwrap();
        expect![[r#"
            SERVICE    ALIVE  UNHEALTHY  UNKNOWN  DRAINING  GONE  HOSTS  PORTS        MODE
            orders-db  1      0          0        0         0     1      10432        tcp
            web        2      1          0        0         0     2      10080,10443  http
        "#]]
        .assert_eq(&text);
    }

    #[tokio::test]
    async fn instances_of_one_are_listed_and_filters_are_the_agents() {
        let options = Options {
            name: Some("web".to_owned()),
            host: Some("a b".to_owned()),
            status: Some(Status::Alive),
            ..Options::default()
        };
        let (agent, mut heads) = scripted::agent(script(WEB)).await;
        let mut output = Output::kept();
        show(&agent, &options, &mut output).await.unwrap();
        let head = heads.recv().await.unwrap();
        let line = "GET /api/v2/instances?service=web&host=a%20b&status=Alive HTTP/1.1\r\n";
        assert!(head.starts_with(line), "{head}");
        expect![[r#"
            SERVICE  HOST    ID            VERSION  STATUS     AGE     PORTS
            web      web-01  0123456789ab  1.2      Alive      60 min  10080→10.0.0.1:8300/tcp 10.0.0.1:53/udp
            web      web-02  b             -        Unhealthy  10 s    -
        "#]].assert_eq(&output.text());
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_a_no_with_similar_names() {
        let nothing = r#"{"version":7,"instances":[]}"#;
        let mut options = Options {
            name: Some("order-db".to_owned()),
            ..Options::default()
        };
        let failure = shown(script(nothing), &options).await.unwrap_err();
        assert_eq!(
            failure,
            Failure::no("no instances of \"order-db\"; did you mean orders-db?")
        );
        options.name = Some("web".to_owned());
        options.status = Some(Status::Draining);
        let failure = shown(script(nothing), &options).await.unwrap_err();
        assert_eq!(
            failure,
            Failure::no("no instances of \"web\" that are Draining")
        );
    }
}
