//! Answers that are complete at once: the recorded ones, and ours.

use axum::http::{StatusCode, header};
use catalog::ProxyMode;

use super::*;
use crate::routes::{Endpoint, Exclusion, ExclusionReason, Route};

fn drained(name: &str) -> DrainOutcome {
    DrainOutcome::Done {
        done: crate::cluster::replica::Commanded {
            name: name.to_owned(),
            hostname: "web-01".to_owned(),
            status: Status::Draining,
            until: None,
        },
        kept: 1,
        applied: None,
    }
}

/// Headers that differ for good reasons: the time, and how the length is said.
fn comparable(headers: &[String]) -> Vec<String> {
    let mut headers: Vec<String> = headers
        .iter()
        .filter(|line| {
            !["Date:", "Content-Length:", "Transfer-Encoding:"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .cloned()
        .collect();
    headers.sort_unstable();
    headers
}

/// The value of a document, its lists of instances in one order.
fn ordered(text: &str) -> Value {
    let mut document: Value = serde_json::from_str(text).unwrap();
    for list in document["Services"].as_object_mut().unwrap().values_mut() {
        list.as_array_mut()
            .unwrap()
            .sort_by_key(|record| record["ID"].to_string());
    }
    document
}

#[tokio::test]
async fn answers_are_as_recorded() {
    let heads: Value = serde_json::from_str(&vector("heads.json")).unwrap();
    let mut compared = 0;
    for (file, recorded) in heads.as_object().unwrap() {
        let Some(request) = recorded["request"].as_str() else {
            continue;
        };
        // Those that tell of services have a test of their own, which goes by routes.
        if request.starts_with("GET /v1/")
            && recorded["body_bytes"].as_u64().is_none_or(|it| it >= 100)
        {
            continue;
        }
        let snapshot = match file.as_str() {
            "api-state.json" | "legacy-state.json" | "after-kill-state.json" => {
                recorded_state(file)
            }
            name if name.contains("services")
                && name.ends_with(".json")
                && !name.contains("err") =>
            {
                recorded_services(file)
            }
            "after-drain-frontend.json" => recorded_services(file),
            _ => recorded_state("api-state.json"),
        };
        let mut server = Server::start(snapshot).await;
        let mut drains = std::mem::replace(&mut server.agent.drains, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(DrainRequest { id, reply, .. }) = drains.recv().await {
                let outcome = match id.as_str() {
                    "3d7e1fd28a07" => drained("frontend"),
                    _ => DrainOutcome::NotHere,
                };
                reply.send(outcome).unwrap();
            }
        });
        let (head, body) = server.ask(request, "").await;
        assert_eq!(head[0], recorded["status"], "{request}");
        let headers: Vec<String> = recorded["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(comparable(&head[1..]), comparable(&headers), "{request}");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{request}: {head:?}"
        );
        let expected = vector(file);
        match file.as_str() {
            // The page tells ages by the clock; its own test compares it.
            "servers.txt" | "after-kill-servers.txt" => {
                assert_eq!(body.lines().next(), expected.lines().next());
                assert!(body.contains("e5cb79a1cb3e reports"), "{body}");
            }
            "api-services-frontend.json" | "after-drain-frontend.json" => {
                assert_eq!(ordered(&body), ordered(&expected), "{request}");
                assert_eq!(body.len(), expected.len(), "{request}");
            }
            _ => assert_eq!(body, expected, "{request}"),
        }
        compared += 1;
    }
    assert_eq!(compared, 27);
}

#[tokio::test]
async fn a_name_with_a_slash_is_reachable() {
    let records = json::decode_state(vector("api-state.json").as_bytes()).unwrap();
    let mut records: Vec<Service> = records.into_iter().map(Result::unwrap).collect();
    for record in &mut records {
        if record.hostname == "partner.example" {
            record.name = "acme/web:1".into();
        }
    }
    let server = Server::start(merged(records)).await;
    let (head, body) = server.ask("GET /api/services/acme%2Fweb:1.json", "").await;
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    assert!(body.contains("\"acme/web:1\": ["), "{body}");
}

#[tokio::test]
async fn names_in_errors_are_escaped() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    let answer = answers
        .answer(&head("GET", "/api/services/%3Cb%3E%22.json", &[]))
        .await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        body_text(answer).await,
        "{\"message\":\"no instances of \\u003cb\\u003e\\\" found\",\"status\":\"error\"}"
    );
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_drain() {
    let (answers, mut agent) = answers(Snapshot::empty("web-01", "lab"));
    let path = "/api/services/a/drain";
    let host = ("host", "web-01:7777");
    for origin in [
        "http://evil.example",
        "http://web-01:80",
        "null",
        "http://web-01.evil:7777",
    ] {
        let answer = answers
            .answer(&head("POST", path, &[host, ("origin", origin)]))
            .await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{origin}");
    }
    let nameless = answers
        .answer(&head("POST", path, &[("origin", "http://web-01:7777")]))
        .await;
    assert_eq!(nameless.status(), StatusCode::FORBIDDEN);
    assert!(agent.drains.try_recv().is_err());
    for headers in [vec![host], vec![host, ("origin", "http://WEB-01:7777")]] {
        let request = head("POST", path, &headers);
        let (answer, ()) = tokio::join!(answers.answer(&request), async {
            let DrainRequest { id, reply, .. } = agent.drains.recv().await.unwrap();
            reply.send(drained(&id)).unwrap();
        });
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_listen_is_not_waited_for_long() {
    let (answers, mut agent) = answers(Snapshot::empty("web-01", "lab"));
    let request = head("POST", "/api/services/a/drain", &[]);
    let answer = answers.answer(&request).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body_text(answer).await.contains("did not answer within 5s"));
    agent.drains.close();
    let answer = answers.answer(&request).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body_text(answer).await.contains("stopping"));
}

#[tokio::test]
async fn readiness_names_what_is_awaited() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let ready = head("GET", "/ready", &[]);
    assert_eq!(answers.answer(&ready).await.status(), StatusCode::OK);
    agent.ready.send_replace(vec!["docker", "join"]);
    let answer = answers.answer(&ready).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        body_text(answer).await,
        "{\"status\":\"waiting\",\"awaited\":[\"docker\",\"join\"]}"
    );
    assert_eq!(
        answers.answer(&head("GET", "/health", &[])).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn metrics_are_asked_for_at_each_scrape() {
    let server = Server::start(Snapshot::empty("web-01", "lab")).await;
    let (head, body) = server.ask("GET /metrics", "").await;
    assert!(
        head.iter()
            .any(|line| line.starts_with("Content-Type: text/plain; version=0.0.4"))
    );
    assert_eq!(body, "sidecar_up 1\n");
    let (head, body) = server.ask("HEAD /metrics", "").await;
    assert_eq!((head[0].as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
}

#[tokio::test]
async fn the_page_is_sent_again_only_when_it_changed() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    let answer = answers.answer(&head("GET", "/ui/", &[])).await;
    let tag = answer.headers()[header::ETAG].to_str().unwrap().to_owned();
    assert_eq!(
        answer.headers()[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    assert!(body_text(answer).await.starts_with("<!doctype html>"));
    for (known, status) in [
        (tag.clone(), StatusCode::NOT_MODIFIED),
        (format!("\"other\", W/{tag}"), StatusCode::NOT_MODIFIED),
        ("\"other\"".to_owned(), StatusCode::OK),
    ] {
        let request = head("GET", "/ui", &[("if-none-match", &known)]);
        assert_eq!(answers.answer(&request).await.status(), status, "{known}");
    }
    let answer = answers.answer(&head("GET", "/ui/index.html", &[])).await;
    assert_eq!(answer.headers()[header::LOCATION], "./");
    let answer = answers.answer(&head("GET", "/ui/style.css", &[])).await;
    assert_eq!(
        answer.headers()[header::CONTENT_TYPE],
        "text/css; charset=utf-8"
    );
    assert_ne!(answer.headers()[header::ETAG], tag);
    let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str();
    assert!(!policy.unwrap().contains("unsafe"));
}

#[tokio::test]
async fn unclean_paths_keep_their_query() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    let answer = answers
        .answer(&head("GET", "/api//watch?by_service=false", &[]))
        .await;
    assert_eq!(answer.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(
        answer.headers()[header::LOCATION],
        "/api/watch?by_service=false"
    );
}

#[tokio::test]
async fn routes_say_what_is_left_out_and_why() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let excluded = |reason| Exclusion {
        service_port: 8080,
        service: "late".into(),
        hostname: "web-02".into(),
        id: "b".into(),
        reason,
    };
    let routes = Routes {
        by_port: [(
            8080,
            Arc::new(Route {
                service: "web".into(),
                mode: ProxyMode::Http,
                endpoints: vec![Endpoint {
                    hostname: "web-01".into(),
                    id: "a".into(),
                    address: ([10, 0, 0, 1], 32768).into(),
                    weight: 100,
                }],
            }),
        )]
        .into(),
        excluded: vec![
            excluded(ExclusionReason::PortOwnedBy("web".into())),
            excluded(ExclusionReason::NoAddress("ten".into())),
        ],
    };
    agent.routes.send_replace(Arc::new(routes));
    let answer = answers.answer(&head("GET", "/api/v2/routes", &[])).await;
    let document: Value = serde_json::from_str(&body_text(answer).await).unwrap();
    assert_eq!(document["routes"][0]["service_port"], 8080);
    assert_eq!(document["routes"][0]["mode"], "http");
    assert_eq!(
        document["routes"][0]["endpoints"][0]["address"],
        "10.0.0.1:32768"
    );
    assert_eq!(document["excluded"][0]["reason"], "port-owned");
    assert!(
        document["excluded"][0]["explanation"]
            .as_str()
            .unwrap()
            .contains("belongs to web")
    );
    assert!(
        document["excluded"][1]["explanation"]
            .as_str()
            .unwrap()
            .contains("\"ten\"")
    );
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = Server::start(Snapshot::empty("web-01", "lab")).await;
    let (head, _) = server
        .ask(
            "GET /health",
            &format!("X-Long: {}\r\n", "x".repeat(20_000)),
        )
        .await;
    assert!(head[0].contains("431"), "{head:?}");
    let (head, body) = server
        .ask("POST /api/services/a/drain", "Content-Length: 65537\r\n")
        .await;
    assert_eq!(head[0], "HTTP/1.1 413 Payload Too Large");
    assert!(body.contains("65537"), "{body}");
    let (head, _) = server.ask("GET /health", "Content-Length: 3\r\n").await;
    assert_eq!(head[0], "HTTP/1.1 200 OK");
}
