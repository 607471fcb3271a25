//! Answers that take time: watches, readers that do not read, requests that do not come.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use axum::body::{Body, HttpBody as _};
use tokio::{io::DuplexStream, time::Instant};

use super::*;

/// The next document of a watch; waits for it.
async fn document(body: &mut Body) -> String {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

/// Whether a watch has nothing to say now.
async fn is_silent(body: &mut Body) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx).is_pending())).await
}

async fn watched(answers: &Answers, path: &str) -> Body {
    answers.answer(&head("GET", path, &[])).await.into_body()
}

#[tokio::test]
async fn the_first_document_comes_at_once_and_one_more_after_each_change() {
    let snapshot = recorded_state("api-watch-by_service-false.1.json");
    let (answers, agent) = answers(snapshot);
    let mut state = watched(&answers, "/api/watch?by_service=false").await;
    let mut old = watched(&answers, "/watch").await;
    assert_eq!(
        document(&mut state).await,
        vector("api-watch-by_service-false.1.json")
    );
    assert_eq!(
        document(&mut old).await,
        json::encode_by_name(&agent.snapshots.borrow())
    );
    assert!(is_silent(&mut state).await);
    // A mere refresh.
    agent.publish(|snapshot| snapshot.cluster_name = "refreshed".into());
    assert!(is_silent(&mut state).await);
    assert!(is_silent(&mut old).await);
    let changes = agent.snapshots.borrow().changes;
    agent.publish(|snapshot| {
        *snapshot = recorded_state("api-watch-by_service-false.2.json");
        snapshot.version += 1_000;
        snapshot.changes = changes + 1;
    });
    assert_eq!(
        document(&mut state).await,
        vector("api-watch-by_service-false.2.json")
    );
    assert_eq!(
        document(&mut old).await,
        json::encode_by_name(&agent.snapshots.borrow())
    );
    assert!(is_silent(&mut old).await);
}

#[tokio::test]
async fn a_slow_reader_skips_to_the_last_document() {
    let (answers, agent) = answers(Snapshot::empty("web-01", "lab"));
    let mut slow = watched(&answers, "/watch?by_service=false").await;
    document(&mut slow).await;
    for change in 1..=5 {
        agent.publish_change(&format!("change-{change}"));
    }
    assert!(
        document(&mut slow)
            .await
            .contains("\"ClusterName\":\"change-5\"")
    );
    assert!(is_silent(&mut slow).await);
    drop(agent);
    assert!(
        poll_fn(|cx| Pin::new(&mut slow).poll_frame(cx))
            .await
            .is_none()
    );
}

#[tokio::test]
async fn watchers_leave_room_for_others() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    let request = head("GET", "/watch", &[]);
    let mut watching = Vec::new();
    for _ in 0..WATCHERS {
        watching.push(answers.answer(&request).await);
    }
    assert_eq!(answers.answer(&request).await.status(), 503);
    watching.pop();
    assert_eq!(answers.answer(&request).await.status(), 200);
}

/// Reads the next chunk of a chunked answer; `None` for the last.
async fn chunk(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let line = line(stream).await;
    let length = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no length: {line:?}"));
    let mut data = vec![0; length + 2];
    stream.read_exact(&mut data).await.unwrap();
    assert_eq!(data.split_off(length), b"\r\n");
    (length > 0).then(|| String::from_utf8(data).unwrap())
}

async fn line(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

async fn response_head(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<String> {
    let mut head = Vec::new();
    loop {
        match line(stream).await {
            line if line.is_empty() => return head,
            line => head.push(line),
        }
    }
}

#[tokio::test]
async fn each_document_is_a_chunk_and_the_agents_end_is_the_answers_end() {
    let server = Server::start(recorded_state("api-watch-by_service-false.1.json")).await;
    let mut stream = server
        .connect("GET /api/watch HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let recorded: Vec<String> = vector("api-watch.head.txt")
        .lines()
        .map(str::to_owned)
        .collect();
    let without_date = |head: Vec<String>| -> Vec<String> {
        head.into_iter()
            .filter(|line| !line.starts_with("Date:"))
            .collect()
    };
    let mut head = without_date(response_head(&mut stream).await);
    let mut expected = without_date(recorded);
    head.sort_unstable();
    expected.sort_unstable();
    assert_eq!(head, expected);
    let first = chunk(&mut stream).await.unwrap();
    assert_eq!(
        first,
        json::encode_by_name(&server.agent.snapshots.borrow())
    );
    server.agent.publish_change("lab");
    assert_eq!(chunk(&mut stream).await, Some(first));
    server.stop.cancel();
    assert_eq!(chunk(&mut stream).await, None);
    server.task.await.unwrap();
}

/// A connection without a network: what it holds in flight is `buffer` bytes.
fn connection(answers: &Arc<Answers>, buffer: usize) -> (DuplexStream, JoinHandle<()>) {
    let (client, stream) = tokio::io::duplex(buffer);
    let task = tokio::spawn(connection::serve(
        stream,
        answers.clone(),
        None,
        CancellationToken::new(),
    ));
    (client, task)
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_stops_nobody_and_is_cut() {
    let (answers, agent) = answers(recorded_state("api-state.json"));
    let started = Instant::now();
    let (mut stalled, task) = connection(&answers, 64);
    stalled
        .write_all(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let (mut reader, _reading) = connection(&answers, 1 << 20);
    reader
        .write_all(b"GET /watch?by_service=false HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    response_head(&mut reader).await;
    chunk(&mut reader).await.unwrap();
    for change in 0..100 {
        let name = format!("change-{change}");
        agent.publish_change(&name);
        assert!(chunk(&mut reader).await.unwrap().contains(&name));
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    task.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);
    let mut rest = Vec::new();
    stalled.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 64);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_does_read_is_not_cut() {
    let (answers, _agent) = answers(recorded_state("api-state.json"));
    let (mut slow, _task) = connection(&answers, 64);
    slow.write_all(b"GET /state.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 64];
    loop {
        // Virtual time: the reader is slow, the test is not.
        tokio::time::advance(Duration::from_secs(20)).await;
        match slow.read(&mut piece).await.unwrap() {
            0 => break,
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    assert!(answer.ends_with(vector("api-state.json").as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let (answers, _agent) = answers(Snapshot::empty("web-01", "lab"));
    for sent in [
        "GET /state.json HTTP/1.1\r\nHos",
        "",
        "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let started = Instant::now();
        let (mut client, task) = connection(&answers, 1 << 16);
        client.write_all(sent.as_bytes()).await.unwrap();
        task.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 10, "{sent:?}");
    }
}
