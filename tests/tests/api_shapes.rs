//! The HTTP API answers as the original's does: the same cluster as in the recordings under
//! `vectors/http`, the same requests, and answers that differ in nothing but times and identities.

#![cfg(target_os = "linux")]

#[path = "api_shapes/masked.rs"]
mod masked;

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use blackbox::{
    Agent, AgentBuilder, Answer, Json, Lab, Machine, Request, Responder, Response, Status,
    eventually,
};
use serde_json::Value;

use masked::{by_service, masked_text, servers_page, state};

const NAMES: [&str; 3] = ["web-01", "web-02", "web-03"];
const CONVERGED: Duration = Duration::from_secs(20);
const CHECKED: Duration = Duration::from_secs(15);

fn recording(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("vectors/http")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The three hosts of the recordings, with their services in their states.
struct Recorded {
    checks: Vec<Responder>,
    agents: Vec<Agent>,
}

impl Recorded {
    fn start(lab: &Lab) -> Self {
        let inputs: Value =
            serde_json::from_str(&recording("inputs-static.json")).expect("the inputs are JSON");
        let checks: Vec<_> = lab
            .hosts()
            .iter()
            .map(|host| Responder::start(host, (Ipv4Addr::LOCALHOST, 9000).into()))
            .collect();
        checks[1].set("/h/7", Answer::status(500));
        let agents: Vec<_> = NAMES
            .iter()
            .enumerate()
            .map(|(number, &name)| {
                let targets = inputs[name].as_array().expect("a list for each host");
                // The recordings have the text of the records and no proxy in front of them.
                AgentBuilder::new(lab, number)
                    .services(targets)
                    .env("SIDECAR_PROXY", "none")
                    .start()
            })
            .collect();
        let recorded = Self { checks, agents };
        eventually("the cluster is in the recorded state", CONVERGED, || {
            recorded.agents.iter().try_for_each(|agent| {
                agent.expect_members(&NAMES)?;
                agent.expect_instances("sick", &[("web-02", Status::Unhealthy)])?;
                agent.expect_instances("third-party", &[("partner.example", Status::Alive)])?;
                let everywhere = NAMES.map(|name| (name, Status::Alive));
                agent.expect_instances("frontend", &everywhere)?;
                for (service, host) in [
                    ("chat", "web-02"),
                    ("dns", "web-01"),
                    ("internal-only", "web-01"),
                    ("postgres_main", "web-01"),
                    ("reports", "web-03"),
                    ("two-ports", "web-02"),
                ] {
                    agent.expect_instances(service, &[(host, Status::Alive)])?;
                }
                Ok(())
            })
        });
        recorded
    }

    /// The agent that was asked in the recordings.
    fn asked(&self) -> &Agent {
        &self.agents[0]
    }

    fn get(&self, path: &str) -> Response {
        self.asked()
            .api(path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }
}

/// Status, and headers but for those that say how this one connection ends.
fn expect_head(file: &str, status: u16, headers: &[(String, String)]) {
    let heads: Value = serde_json::from_str(&recording("heads.json")).expect("heads are JSON");
    let head = &heads[file];
    let line = head["status"]
        .as_str()
        .unwrap_or_else(|| panic!("{file} has no recorded head"));
    assert!(
        line.contains(&format!(" {status} ")),
        "{file}: {status}, recorded was {line}"
    );
    let matters = |name: &str| {
        !["date", "connection", "transfer-encoding", "content-length"]
            .contains(&name.to_ascii_lowercase().as_str())
    };
    let mut found: Vec<_> = headers
        .iter()
        .filter(|(name, _)| matters(name))
        .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
        .collect();
    let mut wanted: Vec<_> = head["headers"]
        .as_array()
        .expect("a list of headers")
        .iter()
        .filter_map(|line| line.as_str()?.split_once(": "))
        .filter(|(name, _)| matters(name))
        .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
        .collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "headers of {file}");
}

#[test]
fn listings_have_the_fields_order_and_form_of_the_original() {
    let lab = Lab::in_subnet(Machine::Shared, [10, 77, 0], &NAMES);
    let recorded = Recorded::start(&lab);
    // One service's instances come in any order, those of a listing in the order of their stamps.
    let listing = by_service as fn(&Json) -> String;
    for (path, file, masked) in [
        ("/api/services.json", "api-services.json", listing),
        ("/services.json", "api-services.json", listing),
        (
            "/api/services/frontend.json",
            "api-services-frontend.json",
            masked_text,
        ),
        (
            "/api/services/sick.json",
            "api-services-sick.json",
            masked_text,
        ),
    ] {
        let answer = recorded.get(path);
        expect_head(file, answer.status, &answer.headers);
        assert_eq!(
            answer.body,
            answer.json().to_string(),
            "{path} is indented by two blanks"
        );
        let original = Json::parse(&recording(file));
        assert_eq!(masked(&answer.json()), masked(&original), "{path}");
    }
    for path in ["/api/state.json", "/state.json"] {
        let answer = recorded.get(path);
        expect_head("api-state.json", answer.status, &answer.headers);
        assert_eq!(answer.body, answer.json().compact(), "{path} has no blanks");
        let original = Json::parse(&recording("api-state.json"));
        assert_eq!(state(&answer.json()), state(&original), "{path}");
    }
}

#[test]
fn watches_give_the_whole_state_at_once_and_again_after_a_change() {
    let lab = Lab::in_subnet(Machine::Shared, [10, 77, 0], &NAMES);
    let recorded = Recorded::start(&lab);
    let asked = recorded.asked();
    let open = |path: &str| {
        let stream = asked.host.stream(asked.api_address(), path);
        stream.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    };
    let mut services = open("/api/watch");
    let mut old_path = open("/watch");
    let mut states = open("/api/watch?by_service=false");
    for stream in [&services, &old_path, &states] {
        assert_eq!(stream.status, 200);
        assert_eq!(content_type(&stream.headers), Some("application/json"));
    }
    let at_once = Duration::from_secs(1);
    for stream in [&mut services, &mut old_path] {
        let first = stream.next(at_once);
        assert_eq!(
            first,
            Json::parse(&first).compact(),
            "documents have no blanks"
        );
        let original = Json::parse(&recording("api-watch.1.json"));
        assert_eq!(masked_text(&Json::parse(&first)), masked_text(&original));
    }
    let first = Json::parse(&states.next(at_once));
    let original = Json::parse(&recording("api-watch-by_service-false.1.json"));
    assert_eq!(state(&first), state(&original));

    // A change of health on another host is the next document.
    recorded.checks[1].set("/h/7", Answer::ok("better"));
    for stream in [&mut services, &mut old_path] {
        let next = Json::parse(&stream.next(CHECKED));
        let sick = &next
            .member("sick")
            .expect("the service is still listed")
            .elements()[0];
        assert_eq!(sick.member("Status").and_then(Json::number), Some(0));
    }
    let next = states.next(CHECKED);
    let next = Json::parse(&next);
    let servers = next.member("Servers").expect("a state has servers");
    let of_web_02 = servers
        .member("web-02")
        .and_then(|server| server.member("Services"));
    let sick = of_web_02
        .expect("the host is still listed")
        .members()
        .iter()
        .find(|(_, record)| {
            record
                .member("Name")
                .is_some_and(|name| name.text() == "sick")
        });
    let (_, sick) = sick.expect("the service is still listed");
    assert_eq!(sick.member("Status").and_then(Json::number), Some(0));
}

fn content_type(headers: &[(String, String)]) -> Option<&str> {
    let header = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    header.map(|(_, value)| value.as_str())
}

#[test]
fn the_page_for_the_eye_is_laid_out_like_the_original() {
    let lab = Lab::in_subnet(Machine::Shared, [10, 77, 0], &NAMES);
    let recorded = Recorded::start(&lab);
    let page = recorded.get("/servers");
    expect_head("servers.txt", page.status, &page.headers);
    assert_eq!(
        servers_page(&page.body),
        servers_page(&recording("servers.txt"))
    );
}

#[test]
fn errors_and_redirects_are_those_of_the_original() {
    let lab = Lab::in_subnet(Machine::Shared, [10, 77, 0], &["web-01"]);
    let targets: Value =
        serde_json::from_str(&recording("inputs-static.json")).expect("the inputs are JSON");
    let _check = Responder::start(lab.host(0), (Ipv4Addr::LOCALHOST, 9000).into());
    let agent = AgentBuilder::new(&lab, 0)
        .services(targets["web-01"].as_array().expect("a list for each host"))
        .env("SIDECAR_PROXY", "none")
        .start();
    eventually("the service is listed", CONVERGED, || {
        agent.expect_instances("frontend", &[("web-01", Status::Alive)])
    });
    let heads: Value = serde_json::from_str(&recording("heads.json")).expect("heads are JSON");
    for file in [
        "err-no-such-service.json",
        "err-one-extension.json",
        "err-services-extension.json",
        "err-state-extension.json",
        "err-no-route.txt",
        "err-no-route-root.txt",
        "err-post-services.txt",
        "err-drain-unknown.json",
        "err-drain-get.txt",
        "options-services.txt",
        "root-redirect.txt",
    ] {
        let request = heads[file]["request"]
            .as_str()
            .expect("each recording has its request");
        let (method, path) = request.split_once(' ').expect("method and path");
        let request = Request {
            method,
            ..Request::get(path)
        };
        let answer = agent.host.request(agent.api_address(), &request);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        expect_head(file, answer.status, &answer.headers);
        assert_eq!(answer.body, recording(file), "{method} {path}");
    }

    let id = agent.instances("frontend").expect("the agent answers")[0]
        .id
        .clone();
    let path = format!("/api/services/{id}/drain");
    let answer = agent
        .host
        .request(agent.api_address(), &Request::post(&path));
    let answer = answer.expect("an agent answers its own host");
    expect_head("drain.json", answer.status, &answer.headers);
    assert_eq!(
        answer.body,
        recording("drain.json").replace("3d7e1fd28a07", &id)
    );
    eventually("the instance drains", CONVERGED, || {
        agent.expect_instances("frontend", &[("web-01", Status::Draining)])
    });
}
