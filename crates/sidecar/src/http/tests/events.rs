//! Those who listen at `/api/v2/events`.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use axum::body::{Body, HttpBody as _};
use memberlist::NodeState;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    v2::{cluster, member},
    *,
};

/// One event; a comment has neither name nor ID.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// The next event, or comment; waits for it.
async fn event(body: &mut Body) -> Event {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    let frame = timeout(Duration::from_secs(60), frame).await;
    let bytes = frame.expect("an event in time").unwrap().unwrap();
    parsed(str::from_utf8(&bytes.into_data().unwrap()).unwrap())
}

fn parsed(text: &str) -> Event {
    assert!(text.ends_with("\n\n"), "{text:?}");
    let mut event = Event::default();
    for line in text.trim_end().lines() {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = id.into(),
            Some(("event", name)) => event.name = name.into(),
            Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
            _ => assert_eq!(line, ":"),
        }
    }
    event
}

/// The next that is no comment and not of the hosts.
async fn change(body: &mut Body) -> Event {
    loop {
        let event = event(body).await;
        if !["", "hosts"].contains(&event.name.as_str()) {
            return event;
        }
    }
}

/// Whether there is nothing to say now.
async fn is_silent(body: &mut Body) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx).is_pending())).await
}

async fn listen(answers: &Answers, query: &str, headers: &[(&str, &str)]) -> Body {
    let path = format!("/api/v2/events{query}");
    let answer = answers.answer(&head("GET", &path, headers)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    answer.into_body()
}

#[tokio::test(start_paused = true)]
async fn hello_comes_first_and_then_what_happens() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    let mut body = listen(&answers, "", &[]).await;
    let hello = event(&mut body).await;
    let epoch = agent.journal.epoch().to_owned();
    assert_eq!(
        (hello.name.as_str(), hello.id),
        ("hello", format!("{epoch}-0"))
    );
    assert_eq!(hello.data["hostname"], "web-01");
    assert_eq!(hello.data["last"], format!("{epoch}-0"));
    assert_eq!(hello.data["version"], cluster().snapshot().changes);
    let hosts = event(&mut body).await;
    assert_eq!(hosts.name, "hosts");
    assert_eq!(hosts.data[1]["name"], "web-01");
    agent.tell(
        instance("web-02", "0f", Status::Alive, 5),
        Status::Unhealthy,
    );
    let told = event(&mut body).await;
    assert_eq!(
        (told.name.as_str(), &told.id),
        ("change", &format!("{epoch}-1"))
    );
    assert_eq!(told.data["id"], told.id);
    assert_eq!(told.data["previous"], "Unhealthy");
    assert_eq!(told.data["instance"]["status"], "Alive");
    assert!(is_silent(&mut body).await);
}

#[tokio::test(start_paused = true)]
async fn who_comes_again_hears_what_it_has_missed() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let mut first = listen(&answers, "?topics=changes", &[]).await;
    event(&mut first).await;
    for number in 1..=4 {
        agent.tell(
            instance("web-01", "0f", Status::Alive, number),
            Status::Unknown,
        );
        change(&mut first).await;
    }
    let id = |number: u64| format!("{}-{number}", agent.journal.epoch());
    for (query, headers) in [
        (String::new(), vec![("last-event-id", id(2))]),
        (format!("?last_event_id={}", id(2)), vec![]),
        (
            format!("?last_event_id={}", id(4)),
            vec![("last-event-id", id(2))],
        ),
    ] {
        let headers: Vec<_> = headers.iter().map(|(a, b)| (*a, b.as_str())).collect();
        let mut again = listen(&answers, &query, &headers).await;
        // Who loses the connection right here goes on from the same place.
        let hello = event(&mut again).await;
        assert_eq!((hello.name.as_str(), hello.id), ("hello", id(2)));
        assert_eq!(hello.data["last"], id(4));
        for number in [3, 4] {
            let missed = change(&mut again).await;
            assert_eq!((missed.name.as_str(), missed.id), ("change", id(number)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_missed_what_is_forgotten_begins_anew() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let mut slow = listen(&answers, "?topics=changes", &[]).await;
    event(&mut slow).await;
    let mut quick = listen(&answers, "?topics=changes", &[]).await;
    event(&mut quick).await;
    for number in 0..=CHANGES_MAX {
        let second = u8::try_from(number % 60).unwrap();
        agent.tell(
            instance("web-01", "0f", Status::Alive, second),
            Status::Unknown,
        );
        change(&mut quick).await;
    }
    let last = format!("{}-{}", agent.journal.epoch(), CHANGES_MAX + 1);
    let reset = change(&mut slow).await;
    assert_eq!((reset.name.as_str(), &reset.id), ("reset", &last));
    assert_eq!(reset.data["last"], last);
    assert!(is_silent(&mut slow).await);
    let forgotten = format!("{}-0", agent.journal.epoch());
    for unknown in ["62fb1a04d8f2e-17", "nonsense", &forgotten] {
        let mut again = listen(&answers, "", &[("last-event-id", unknown)]).await;
        assert_eq!(event(&mut again).await.id, last, "{unknown}");
        assert_eq!(event(&mut again).await.name, "reset", "{unknown}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_that_were_lost_on_the_way_are_not_passed_over_in_silence() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let mut body = listen(&answers, "?topics=changes", &[]).await;
    event(&mut body).await;
    // More than the channel holds, before the journal gets its turn.
    for number in 1..=20 {
        agent.tell(
            instance("web-01", "0f", Status::Alive, number),
            Status::Unknown,
        );
    }
    let reset = change(&mut body).await;
    assert_eq!(reset.name, "reset");
}

#[tokio::test(start_paused = true)]
async fn hosts_are_told_when_somebody_comes_or_goes() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    let mut body = listen(&answers, "?topics=hosts", &[]).await;
    assert_eq!(event(&mut body).await.name, "hello");
    let first = event(&mut body).await;
    assert_eq!(first.data.as_array().unwrap().len(), 5);
    let someone = member("web-05", 5, NodeState::Alive, "{}");
    agent.members.send_replace(Arc::new(vec![someone.clone()]));
    let came = event(&mut body).await;
    assert_eq!(came.data[5]["name"], "web-05");
    assert_eq!(came.data[5]["state"], "alive");
    // A change of records alone is none of liveness.
    let started = Instant::now();
    agent.tell(
        instance("web-02", "0f", Status::Alive, 5),
        Status::Unhealthy,
    );
    let suspect = Member {
        state: NodeState::Suspect,
        ..someone
    };
    agent.members.send_replace(Arc::new(vec![suspect]));
    let suspected = event(&mut body).await;
    assert_eq!(suspected.data[5]["state"], "suspect");
    let waited = started.elapsed();
    assert!(waited <= Duration::from_millis(251), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_a_comment() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    let mut body = listen(&answers, "?topics=changes", &[]).await;
    event(&mut body).await;
    let started = Instant::now();
    for times in 1..=3 {
        assert_eq!(event(&mut body).await, Event::default());
        let waited = started.elapsed();
        assert!(waited <= Duration::from_secs(15 * times), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_is_told_to_those_who_ask_for_it() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let mut other = listen(&answers, "?topics=changes", &[]).await;
    event(&mut other).await;
    let mut body = listen(&answers, "?topics=traffic", &[]).await;
    event(&mut body).await;
    let started = Instant::now();
    let first = event(&mut body).await;
    assert_eq!(first.name, "traffic");
    assert_eq!(first.data["ports"], serde_json::json!([]));
    let port = crate::proxy::builtin::PortStatus {
        service: "web".into(),
        mode: catalog::ProxyMode::Tcp,
        listen: crate::proxy::builtin::ListenState::Listening,
        connections_open: 1,
        connections_total: 7,
        connections_unserved: 0,
        connect_failures: 0,
        to_endpoints_bytes: 0,
        to_clients_bytes: 0,
        requests_total: 0,
        retries_total: 0,
        own_answers: Default::default(),
        endpoints: Vec::new(),
    };
    agent.plane.send_modify(|plane| {
        let mut plane_now = PlaneStatus::clone(plane);
        plane_now.ports.insert(8080, Arc::new(port));
        *plane = Arc::new(plane_now);
    });
    let second = event(&mut body).await;
    assert_eq!(second.data["ports"][0]["connections_total"], 7);
    assert!(started.elapsed() <= Duration::from_secs(4));
    assert!(is_silent(&mut other).await);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_listener_stops_nobody_and_is_cut() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    let started = Instant::now();
    let (mut stalled, stream) = tokio::io::duplex(64);
    let task = tokio::spawn(connection::serve(
        stream,
        None,
        answers.clone(),
        None,
        CancellationToken::new(),
    ));
    stalled
        .write_all(b"GET /api/v2/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        .await
        .unwrap();
    let mut quick = listen(&answers, "?topics=changes", &[]).await;
    event(&mut quick).await;
    for number in 0..200 {
        agent.tell(
            instance("web-01", "0f", Status::Alive, number % 60),
            Status::Unknown,
        );
        assert_eq!(change(&mut quick).await.name, "change");
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    task.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);
    let mut rest = Vec::new();
    stalled.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 64);
}

#[tokio::test(start_paused = true)]
async fn who_listens_takes_no_place_of_others() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    let connections = Arc::new(Semaphore::new(1));
    for path in ["/api/v2/events", "/api/watch"] {
        let slot = connections.clone().try_acquire_owned().ok();
        assert!(slot.is_some(), "before {path}");
        let (mut client, stream) = tokio::io::duplex(1 << 16);
        tokio::spawn(connection::serve(
            stream,
            None,
            answers.clone(),
            slot,
            CancellationToken::new(),
        ));
        client
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
            .await
            .unwrap();
        client.read_u8().await.unwrap();
        assert_eq!(connections.available_permits(), 1, "after {path}");
        // The first of them still listens.
        tokio::spawn(async move { client.read_to_end(&mut Vec::new()).await });
    }
    let mut listening = Vec::new();
    for _ in 0..WATCHERS - 2 {
        listening.push(listen(&answers, "", &[]).await);
    }
    let request = head("GET", "/api/v2/events", &[]);
    let refused = answers.answer(&request).await;
    assert_eq!(refused.status(), 503);
    assert!(body_text(refused).await.contains("8 clients watch already"));
    listening.pop();
    listening.push(listen(&answers, "", &[]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_hears_everything_in_order() {
    const LISTENERS: usize = 300;
    const CHANGES: u64 = 300;
    let (api, agent) = api(Snapshot::empty("web-01", "lab"));
    let answers = Answers::new(api, LISTENERS, CancellationToken::new());
    let mut listeners = JoinSet::new();
    for _ in 0..LISTENERS {
        let mut body = listen(&answers, "?topics=changes", &[]).await;
        listeners.spawn(async move {
            assert_eq!(event(&mut body).await.name, "hello");
            for number in 1..=CHANGES {
                let change = change(&mut body).await;
                let (_, heard) = change.id.rsplit_once('-').unwrap();
                assert_eq!(heard, number.to_string(), "{}", change.name);
            }
        });
    }
    for number in 1..=CHANGES {
        let second = u8::try_from(number % 60).unwrap();
        agent.tell(
            instance("web-01", "0f", Status::Alive, second),
            Status::Unknown,
        );
        while !agent.changes.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    while let Some(listener) = listeners.join_next().await {
        listener.unwrap();
    }
}
