//! Commands under `/api/v2`: what the agent is told, and what it is said to have done.

use std::time::Duration;

use axum::http::StatusCode;
use catalog::Status;
use tokio::sync::oneshot;

use super::*;
use crate::cluster::{confirm::Applied, replica::Commanded};

fn commanded(status: Status, until: Option<&str>) -> Commanded {
    Commanded {
        name: "web \"1\"".to_owned(),
        hostname: "web-01".to_owned(),
        status,
        until: until.map(|text| text.parse().unwrap()),
    }
}

/// Sends a command and plays the agent; the answer.
async fn ask(path: &str, act: impl FnOnce(&DrainRequest) -> DrainOutcome) -> (StatusCode, String) {
    let (answers, mut agent) = answers(recorded_state("api-state.json"));
    let request = head("POST", path, &[]);
    let (answer, ()) = tokio::join!(answers.answer(&request), async {
        let request = agent.drains.recv().await.unwrap();
        let outcome = act(&request);
        request.reply.send(outcome).unwrap();
    });
    (answer.status(), body_text(answer).await)
}

#[tokio::test]
async fn a_drain_says_until_when_and_who_has_followed() {
    let path = "/api/v2/instances/a%2F1/drain?timeout=10m&wait=30s";
    let (status, body) = ask(path, |request| {
        assert_eq!(request.id, "a/1");
        let timeout = Some(Duration::from_secs(600));
        assert_eq!(request.order, DrainOrder::Drain { timeout });
        assert_eq!(request.wait, Some(Duration::from_secs(30)));
        let (sender, applied) = oneshot::channel();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let outcome = Applied {
            confirmed: names(&["web-01", "web-02"]),
            unconfirmed: names(&["web-03"]),
            not_asked: names(&["go"]),
        };
        sender.send(outcome).unwrap();
        DrainOutcome::Done {
            done: commanded(Status::Draining, Some("2026-12-01T08:10:00.5Z")),
            kept: 3,
            applied: Some(applied),
        }
    })
    .await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(
        body,
        "{\"id\":\"a/1\",\"name\":\"web \\\"1\\\"\",\"hostname\":\"web-01\",\"status\":\"Draining\",\
         \"until\":\"2026-12-01T08:10:00.5Z\",\"applied\":{\"confirmed\":[\"web-01\",\"web-02\"],\
         \"unconfirmed\":[\"web-03\"],\"not_asked\":[\"go\"]}}"
    );
}

#[tokio::test]
async fn an_undrain_says_what_the_instance_is_now() {
    let (status, body) = ask("/api/v2/instances/1/undrain", |request| {
        assert_eq!(request.order, DrainOrder::Undrain);
        assert_eq!(request.wait, None);
        DrainOutcome::Done {
            done: commanded(Status::Unhealthy, None),
            kept: 0,
            applied: None,
        }
    })
    .await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["status"], "Unhealthy");
    assert!(document["until"].is_null() && document["applied"].is_null());
}

#[tokio::test]
async fn an_instance_of_another_host_is_told_from_none() {
    let snapshot = recorded_state("api-state.json");
    let elsewhere = snapshot
        .services()
        .find(|it| it.hostname != "web-01" && !it.is_tombstone())
        .unwrap()
        .clone();
    let path = format!("/api/v2/instances/{}/drain", elsewhere.id);
    let (status, body) = ask(&path, |_| DrainOutcome::NotHere).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(
        body.contains(&format!("it is on {}", elsewhere.hostname)),
        "{body}"
    );
    let (status, body) = ask("/api/v2/instances/no/drain", |_| DrainOutcome::NotHere).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("nor on any other"), "{body}");
}

#[tokio::test]
async fn what_is_refused_does_not_reach_the_agent() {
    let (answers, mut agent) = answers(recorded_state("api-state.json"));
    let wrong = head("POST", "/api/v2/instances/1/drain?timeout=soon", &[]);
    let mut remote = head("POST", "/api/v2/instances/1/drain", &[]);
    remote.extensions.insert(Caller {
        peer: ([10, 0, 0, 2], 50000).into(),
        local: ([10, 0, 0, 1], 7777).into(),
    });
    let rebound = [("host", "evil.example")];
    let rebound = head("POST", "/api/v2/instances/1/drain", &rebound);
    for (request, status, word) in [
        (wrong, StatusCode::BAD_REQUEST, "timeout=\\\"soon\\\""),
        (remote, StatusCode::FORBIDDEN, "SIDECAR_API_TOKEN"),
        (rebound, StatusCode::MISDIRECTED_REQUEST, "evil.example"),
    ] {
        let answer = answers.answer(&request).await;
        assert_eq!(answer.status(), status);
        let body = body_text(answer).await;
        assert!(body.contains(word), "{body}");
    }
    assert!(agent.drains.try_recv().is_err());
}

/// A drain counts as given when it is on disk, unless the disk is slow.
#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_the_disk_but_not_for_ever() {
    let (mut api, mut agent) = api(recorded_state("api-state.json"));
    let (written, seen) = watch::channel(1);
    api.drains_written = seen;
    let answers = Answers::new(api, 8, CancellationToken::new());
    let request = head("POST", "/api/services/1/drain", &[]);
    for kept in [2, 3] {
        let started = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(answers.answer(&request), async {
            let DrainRequest { reply, .. } = agent.drains.recv().await.unwrap();
            let done = commanded(Status::Draining, None);
            let applied = None;
            let outcome = DrainOutcome::Done {
                done,
                kept,
                applied,
            };
            reply.send(outcome).unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if kept == 2 {
                written.send_replace(kept);
            }
        });
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let expected = if kept == 2 { 1 } else { 2 };
        assert_eq!(started.elapsed().as_secs(), expected);
    }
}
