//! The documents below `/api/v2`.

use std::{io::Read as _, net::SocketAddr, time::Duration};

use axum::{http::StatusCode, response::Response};
use memberlist::{NodeState, Versions};

use super::*;
use crate::{
    cluster::metadata,
    local_view::{CheckEvidence, CheckView},
    routes::{Endpoint, Route},
};

pub(super) fn own(service: &str) -> CheckView {
    CheckView {
        service: service.to_owned(),
        kind: "HttpGet",
        args: "http://:1/".to_owned(),
        notices: Vec::new(),
        interval_ms: 3000,
        timeout_ms: 2999,
        rise: 1,
        fall: 1,
        status: Status::Alive,
        in_a_row: 1,
        last: Some(CheckEvidence {
            healthy: true,
            at: "2026-02-03T09:16:02Z".to_owned(),
            ended: tokio::time::Instant::now(),
            took: Duration::from_millis(20),
            summary: "status 200".to_owned(),
            output: String::new(),
        }),
        damped: None,
    }
}

pub(super) fn member(name: &str, last: u8, state: NodeState, meta: &str) -> Member {
    Member {
        name: name.into(),
        addr: SocketAddr::from(([10, 0, 0, last], 7946)),
        meta: meta.as_bytes().to_vec().into(),
        incarnation: 1,
        state,
        versions: Versions::OURS,
    }
}

fn at(second: u64) -> Now {
    let wall: Timestamp = "2026-02-03T09:15:00Z".parse().unwrap();
    Now {
        wall: wall.plus(Duration::from_secs(second)),
        monotonic: std::time::Instant::now(),
    }
}

/// Instances of `web` on hosts that are there, died, left, and were never members.
pub(super) fn cluster() -> State {
    let mut state = State::new("web-01", "lab");
    for name in ["web-01", "web-02", "web-03", "web-04"] {
        state.member_up(name, Upkeep::Membership, at(0));
    }
    for (host, status) in [
        ("web-01", Status::Alive),
        ("web-02", Status::Unhealthy),
        ("web-03", Status::Alive),
        ("web-04", Status::Tombstone),
        ("partner", Status::Alive),
    ] {
        let record = instance(host, "0f", status, 1);
        state.apply(record, Author::Peer, at(2)).unwrap();
    }
    state.member_down("web-03", at(3));
    state.member_down("web-04", at(3));
    state
}

async fn get(answers: &Answers, path: &str) -> Response {
    answers.answer(&head("GET", path, &[])).await
}

async fn json(answers: &Answers, path: &str) -> Value {
    let answer = get(answers, path).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    serde_json::from_str(&body_text(answer).await).unwrap()
}

async fn error(answers: &Answers, path: &str) -> (u16, String) {
    let answer = get(answers, path).await;
    let status = answer.status().as_u16();
    let document: Value = serde_json::from_str(&body_text(answer).await).unwrap();
    assert_eq!(document["status"], "error", "{path}");
    (status, document["message"].as_str().unwrap().to_owned())
}

fn hosts_of(document: &Value) -> Vec<&str> {
    let instances = document["instances"].as_array().unwrap();
    let hosts = instances.iter().map(|it| it["hostname"].as_str().unwrap());
    hosts.collect()
}

#[tokio::test]
async fn services_are_told_in_one_line_each_and_one_by_its_instances() {
    let (answers, _agent) = answers(cluster().snapshot().clone());
    let services = json(&answers, "/api/v2/services").await;
    let web = &services["services"][0];
    assert_eq!(web["name"], "web");
    assert_eq!(web["instances"]["alive"], 2);
    assert_eq!(web["instances"]["unhealthy"], 1);
    assert_eq!(web["instances"]["tombstone"], 2);
    assert_eq!(web["hosts"], 3);
    assert_eq!(web["service_ports"], serde_json::json!([8080]));
    assert_eq!(web["mode"], "http");
    let one = json(&answers, "/api/v2/services/web").await;
    assert_eq!(one["version"], services["version"]);
    assert_eq!(
        hosts_of(&one),
        ["partner", "web-01", "web-02", "web-03", "web-04"]
    );
    let instance = &one["instances"][1];
    assert_eq!(instance["version"], "1.2");
    assert_eq!(instance["weight"], 100);
    assert_eq!(instance["ports"][0]["service_port"], 8080);
    let (status, text) = error(&answers, "/api/v2/services/we%22b").await;
    assert_eq!(
        (status, text.as_str()),
        (404, "no instances of we\"b found")
    );
}

#[tokio::test]
async fn instances_are_filtered_and_a_misspelt_filter_is_refused() {
    let (answers, _agent) = answers(cluster().snapshot().clone());
    for (query, hosts) in [
        ("", &["partner", "web-01", "web-02", "web-03", "web-04"][..]),
        ("?status=alive", &["partner", "web-01"]),
        ("?status=Tombstone&host=web-03", &["web-03"]),
        ("?service=web&host=web-02", &["web-02"]),
        ("?service=web%2f2", &[]),
        (
            "?service=",
            &["partner", "web-01", "web-02", "web-03", "web-04"],
        ),
    ] {
        let document = json(&answers, &format!("/api/v2/instances{query}")).await;
        assert_eq!(hosts_of(&document), hosts, "{query}");
    }
    for (path, text) in [
        (
            "instances?host=a&hots=b",
            "unknown parameter \"hots\": expected service, host, status",
        ),
        (
            "instances?status=well",
            "status=\"well\" means nothing: expected Alive, Tombstone",
        ),
        ("services?name=web", "unknown parameter \"name\""),
        (
            "changes?since=yesterday",
            "since=\"yesterday\" means nothing",
        ),
        (
            "events?topics=changes,weather",
            "topics=\"weather\" means nothing",
        ),
    ] {
        let (status, found) = error(&answers, &format!("/api/v2/{path}")).await;
        assert_eq!(status, 400, "{path}");
        assert!(found.starts_with(text), "{path}: {found}");
    }
}

#[tokio::test]
async fn an_instance_is_told_with_its_check_and_its_routes() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    agent.local.check("0f", own("web"));
    let mut routes = Routes::default();
    let endpoint = Endpoint {
        hostname: "web-01".into(),
        id: "0f".into(),
        address: "10.0.0.1:32768".parse().unwrap(),
        weight: 100,
    };
    let route = Route {
        service: "web".into(),
        mode: catalog::ProxyMode::Http,
        endpoints: vec![endpoint],
    };
    routes.by_port.insert(8080, Arc::new(route));
    agent.routes.send_replace(Arc::new(routes));
    let here = json(&answers, "/api/v2/instances/web-01/0f").await;
    assert_eq!(here["check"]["last"]["summary"], "status 200");
    assert_eq!(here["check_at_host"], true);
    assert_eq!(here["routes"][0]["routed"], true);
    assert_eq!(here["routes"][0]["reason"], Value::Null);
    let elsewhere = json(&answers, "/api/v2/instances/web-02/0f").await;
    assert_eq!(elsewhere["check"], Value::Null);
    assert_eq!(elsewhere["check_at_host"], false);
    assert_eq!(elsewhere["routes"][0]["reason"], "not-alive");
    let pending = json(&answers, "/api/v2/instances/partner/0f").await;
    assert_eq!(pending["routes"][0]["reason"], "pending");
    let (status, text) = error(&answers, "/api/v2/instances/web-09/0f").await;
    assert_eq!(status, 404);
    assert_eq!(text, "no instance 0f of host web-09 is known");
}

#[tokio::test]
async fn hosts_are_told_as_gossip_and_their_records_say() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    let ours = metadata::write("lab").unwrap();
    let everybody = vec![
        member("serf", 9, NodeState::Alive, "\u{1}"),
        member("web-01", 1, NodeState::Alive, &ours),
        member("web-02", 2, NodeState::Alive, "{}"),
        member("web-03", 3, NodeState::Alive, &ours),
    ];
    agent.members.send_replace(Arc::new(everybody.clone()));
    json(&answers, "/api/v2/hosts").await;
    // web-03 is gone, and web-02 does not answer.
    let mut left: Vec<Member> = everybody[..3].to_vec();
    left[2].state = NodeState::Suspect;
    agent.members.send_replace(Arc::new(left));
    let document = json(&answers, "/api/v2/hosts").await;
    let hosts: Vec<_> = document["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or("-").to_owned();
            (text("name"), text("state"), text("kind"), text("address"))
        })
        .collect();
    let expected = [
        ("partner", "alive", "foreign", "-"),
        ("serf", "alive", "foreign", "10.0.0.9:7946"),
        ("web-01", "alive", "sidecar", "10.0.0.1:7946"),
        ("web-02", "suspect", "go-sidecar", "10.0.0.2:7946"),
        ("web-03", "dead", "sidecar", "10.0.0.3:7946"),
        ("web-04", "left", "foreign", "-"),
    ];
    let expected = expected.map(|(a, b, c, d)| (a.into(), b.into(), c.into(), d.into()));
    assert_eq!(hosts, expected);
    assert_eq!(document["hosts"][2]["own"], true);
    assert_eq!(document["hosts"][4]["instances"]["tombstone"], 1);
    assert_eq!(document["hosts"][1]["last_updated"], Value::Null);
    let overview = json(&answers, "/api/v2/overview").await;
    let counts = serde_json::json!({"alive": 3, "suspect": 1, "dead": 1});
    assert_eq!(overview["hosts"], counts);
    assert_eq!(overview["services"], 1);
    assert_eq!(overview["encrypted"], true);
    assert_eq!(overview["proxy"]["bind_ip"], "192.168.168.168");
}

#[tokio::test]
async fn readers_that_have_a_document_get_it_again_only_when_it_changed() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    for path in [
        "/api/v2/openapi.json",
        "/api/v2/services",
        "/api/v2/services/web",
        "/api/v2/instances",
        "/api/v2/instances?host=web-01",
        "/api/v2/hosts",
        "/api/v2/routes",
    ] {
        let answer = get(&answers, path).await;
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert!(tag.starts_with('"'), "{path}: {tag} is no strong tag");
        assert_eq!(answer.headers()["cache-control"], "no-cache", "{path}");
        for known in [&tag, "*", &format!("\"x\", W/{tag}")] {
            let request = head("GET", path, &[("if-none-match", known)]);
            let answer = answers.answer(&request).await;
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{path}");
            assert_eq!(answer.headers()["etag"], *tag, "{path}");
            assert_eq!(body_text(answer).await, "", "{path}");
        }
        // A mere refresh: another stamp, and therefore another text.
        agent.publish(|snapshot| {
            let mut state = cluster();
            let record = instance("web-01", "0f", Status::Alive, 9);
            state.apply(record, Author::Own, at(9)).unwrap();
            let version = snapshot.version;
            *snapshot = state.snapshot().clone();
            snapshot.version = version + 1;
        });
        let request = head("GET", path, &[("if-none-match", &tag)]);
        let status = answers.answer(&request).await.status();
        let is_of_records = !path.ends_with(".json") && !path.ends_with("routes");
        let expected = if is_of_records { 200 } else { 304 };
        // The hosts' text changed with the first refresh alone.
        let is_same_again = path.ends_with("hosts");
        assert_eq!(status, if is_same_again { 304 } else { expected }, "{path}");
    }
}

#[tokio::test]
async fn large_documents_are_compressed_for_those_who_ask() {
    let mut state = cluster();
    for number in 0..40 {
        let record = instance("web-01", &format!("{number:012x}"), Status::Alive, 1);
        state.apply(record, Author::Own, at(2)).unwrap();
    }
    let (answers, _agent) = answers(state.snapshot().clone());
    for path in ["/api/services.json", "/api/v2/instances"] {
        let plain = body_text(get(&answers, path).await).await;
        for accepted in ["gzip", "br, gzip;q=0.5", "GZIP"] {
            let request = head("GET", path, &[("accept-encoding", accepted)]);
            let answer = answers.answer(&request).await;
            assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
            assert_eq!(answer.headers()["vary"], "Accept-Encoding", "{path}");
            let tag = answer.headers().get("etag").cloned();
            let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20)
                .await
                .unwrap();
            let mut text = String::new();
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, plain, "{path}");
            if let Some(tag) = tag {
                assert!(tag.to_str().unwrap().ends_with("-gzip\""));
                let known = head("GET", path, &[("if-none-match", tag.to_str().unwrap())]);
                assert_eq!(answers.answer(&known).await.status(), 304);
            }
        }
        for accepted in ["identity", "gzip;q=0", "br"] {
            let request = head("GET", path, &[("accept-encoding", accepted)]);
            let answer = answers.answer(&request).await;
            assert!(!answer.headers().contains_key("content-encoding"));
            assert_eq!(body_text(answer).await, plain, "{path}");
        }
    }
}

#[tokio::test]
async fn everything_that_is_read_answers_head() {
    let server = Server::start(cluster().snapshot().clone()).await;
    for path in [
        "openapi.json",
        "overview",
        "services",
        "services/web",
        "instances",
        "instances/web-01/0f",
        "hosts",
        "routes",
        "local",
        "proxy",
        "changes",
        "events",
    ] {
        let (head, body) = server.ask(&format!("HEAD /api/v2/{path}"), "").await;
        assert_eq!(head[0], "HTTP/1.1 200 OK", "{path}");
        assert_eq!(body, "", "{path}");
        let (head, body) = server.ask(&format!("PUT /api/v2/{path}"), "").await;
        assert_eq!(head[0], "HTTP/1.1 405 Method Not Allowed", "{path}");
        assert!(body.contains("does not answer PUT"), "{path}: {body}");
    }
    let (head, body) = server.ask("GET /api/v2/nothing", "").await;
    assert_eq!(head[0], "HTTP/1.1 404 Not Found");
    assert!(body.contains("there is no /api/v2/nothing"), "{body}");
}

/// Waits until the journal has written down so many changes.
async fn written(answers: &Answers, agent: &Agent, number: u64) {
    loop {
        let document = json(answers, "/api/v2/changes").await;
        if document["last"] == format!("{}-{number}", agent.journal.epoch()) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn changes_are_told_from_where_the_reader_is() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    let none = json(&answers, "/api/v2/changes").await;
    assert_eq!(none["first"], Value::Null);
    assert_eq!(none["complete"], true);
    for (number, status) in [
        (1, Status::Unknown),
        (2, Status::Alive),
        (3, Status::Draining),
    ] {
        agent.tell(instance("web-01", "0f", status, number), Status::Unknown);
        written(&answers, &agent, number.into()).await;
    }
    let id = |number: u64| format!("{}-{number}", agent.journal.epoch());
    let ids = |document: &Value| -> Vec<String> {
        let changes = document["changes"].as_array().unwrap();
        changes
            .iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = json(&answers, "/api/v2/changes").await;
    assert_eq!(ids(&all), [id(1), id(2), id(3)]);
    assert_eq!(
        (&all["first"], &all["complete"]),
        (&id(1).into(), &true.into())
    );
    let change = &all["changes"][2];
    assert_eq!(change["instance"]["status"], "Draining");
    assert_eq!(change["derived"], false);
    assert!(change["latency_ms"].as_f64().unwrap() > 0.0);
    let rest = json(&answers, &format!("/api/v2/changes?since={}", id(2))).await;
    assert_eq!((ids(&rest), &rest["complete"]), (vec![id(3)], &true.into()));
    let nothing = json(&answers, &format!("/api/v2/changes?since={}", id(3))).await;
    assert_eq!(
        (ids(&nothing), &nothing["complete"]),
        (vec![], &true.into())
    );
    for unknown in ["abc-2", &id(4)] {
        let path = format!("/api/v2/changes?since={unknown}");
        let document = json(&answers, &path).await;
        assert_eq!(ids(&document).len(), 3, "{unknown}");
        assert_eq!(document["complete"], false, "{unknown}");
    }
}

#[tokio::test]
async fn a_change_that_was_concluded_here_has_no_latency() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    let change = cluster().member_down("web-02", at(9)).remove(0);
    agent.changes.send(change).unwrap();
    written(&answers, &agent, 1).await;
    let change = json(&answers, "/api/v2/changes").await["changes"][0].clone();
    assert_eq!(change["derived"], true);
    assert_eq!(change["latency_ms"], Value::Null);
    assert_eq!(change["instance"]["status"], "Tombstone");
}
