//! The engine with paused time and checks that the tests answer by hand, and once with real ones.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    discovery::{CheckSpec, EngineHealth},
    health::{external, tests::service},
    local_view::LocalView,
    net::resolver::Resolver,
};

const INTERVAL: Duration = Duration::from_secs(3);

/// A check under way; dropping the reply makes it fail.
struct Call {
    check: Check,
    at: Instant,
    reply: oneshot::Sender<Result<Answer, Failure>>,
}

impl Call {
    fn pass(self) {
        self.reply.send(Ok(Answer::default())).unwrap();
    }

    fn fail(self) {
        self.reply.send(Err(failure())).unwrap();
    }

    fn url(&self) -> &str {
        match &self.check {
            Check::HttpGet { url } => url,
            other => panic!("not a URL: {other:?}"),
        }
    }
}

fn failure() -> Failure {
    Failure::Unusable {
        reason: "the test says so".to_owned(),
    }
}

/// Hands every check to the test.
#[derive(Clone)]
struct ByHand(mpsc::UnboundedSender<Call>);

impl Probe for ByHand {
    async fn run(&self, check: &Check, _limit: Duration) -> Result<Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(Call {
            check: check.clone(),
            at: Instant::now(),
            reply,
        });
        answer.await.unwrap_or_else(|_| Err(failure()))
    }
}

/// An engine and the ends of its channels.
struct Bench {
    sources: mpsc::Sender<(SourceName, SourceEvent)>,
    updates: mpsc::Receiver<LocalUpdate>,
    calls: mpsc::UnboundedReceiver<Call>,
    view: Arc<LocalView>,
    shutdown: CancellationToken,
    engine: JoinHandle<()>,
}

fn config() -> HealthConfig {
    HealthConfig {
        advertise_ip: Ipv4Addr::LOCALHOST.into(),
        default_endpoint: "/version".to_owned(),
        interval: INTERVAL,
        timeout: Duration::from_millis(2999),
        view: Arc::default(),
        listeners: tokio::sync::watch::channel(crate::listeners::Listeners::new()).0,
    }
}

impl Bench {
    fn new() -> Self {
        let (sources, from_sources) = mpsc::channel(16);
        let (to_writer, updates) = mpsc::channel(16);
        let (to_test, calls) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let probe = ByHand(to_test);
        let config = config();
        let view = config.view.clone();
        let engine = tokio::spawn(run(
            config,
            probe,
            from_sources,
            to_writer,
            shutdown.clone(),
        ));
        Self {
            sources,
            updates,
            calls,
            view,
            shutdown,
            engine,
        }
    }

    async fn send(&self, event: SourceEvent) {
        self.sources
            .send((SourceName::Docker, event))
            .await
            .unwrap();
    }

    async fn apply(&self, instance: &Instance) {
        self.send(SourceEvent::Apply(instance.clone())).await;
    }

    /// The next check, however long it takes.
    async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// The next update in short: id, status, whether it was checked, and the real port.
    async fn update(&mut self) -> String {
        print(self.updates.recv().await.unwrap())
    }

    /// Finds an instance and answers its first check.
    async fn alive(&mut self, id: &str) {
        self.apply(&http(id)).await;
        assert_eq!(self.update().await, format!("{id} Unknown unchecked 32768"));
        self.call().await.pass();
        assert_eq!(self.update().await, format!("{id} Alive checked 32768"));
    }
}

fn print(update: LocalUpdate) -> String {
    match update {
        LocalUpdate::Present { service, checked } => {
            let checked = if checked { "checked" } else { "unchecked" };
            let port = service.port_list()[0].port;
            format!("{} {} {checked} {port}", service.id, service.status)
        }
        LocalUpdate::Gone { id } => format!("{id} gone"),
        LocalUpdate::Listed(source) => format!("{source:?} listed"),
    }
}

fn instance(id: &str, kind: &str, args: &str) -> Instance {
    let check = CheckSpec {
        kind: Some(kind.to_owned()),
        args: Some(args.to_owned()),
        ..CheckSpec::default()
    };
    Instance {
        service: service(id),
        check,
        engine_health: None,
        listener: None,
    }
}

fn http(id: &str) -> Instance {
    instance(id, "HttpGet", "http://{{ host }}:{{ tcp 8080 }}/{{ .ID }}")
}

fn moved(id: &str, port: u16) -> Instance {
    let mut instance = http(id);
    instance.service.ports.as_mut().unwrap()[0].port = port;
    instance
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_announced_and_checked_as_soon_as_it_is_found() {
    let mut bench = Bench::new();
    let found = Instant::now();
    bench.apply(&http("a")).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    let call = bench.call().await;
    assert_eq!((call.at, call.url()), (found, "http://127.0.0.1:32768/a"));
    call.pass();
    assert_eq!(bench.update().await, "a Alive checked 32768");
    assert_eq!(Instant::now(), found);
}

#[tokio::test(start_paused = true)]
async fn one_failure_is_unhealthy_and_one_success_is_alive() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    let first = bench.call().await;
    let began = first.at;
    first.pass();
    let call = bench.call().await;
    assert_eq!(call.at, began + INTERVAL);
    call.fail();
    assert_eq!(bench.update().await, "a Unhealthy checked 32768");
    // The second failure is no news: the next update is the recovery.
    for _ in 0..2 {
        let call = bench.call().await;
        call.fail();
    }
    let call = bench.call().await;
    assert_eq!(call.at, began + 4 * INTERVAL);
    call.pass();
    assert_eq!(bench.update().await, "a Alive checked 32768");
}

#[tokio::test(start_paused = true)]
async fn a_new_instance_that_starts_slowly_is_found_soon() {
    let mut bench = Bench::new();
    let found = Instant::now();
    bench.apply(&http("a")).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    bench.call().await.fail();
    assert_eq!(bench.update().await, "a Unhealthy checked 32768");
    loop {
        let call = bench.call().await;
        if call.at >= found + Duration::from_millis(300) {
            call.pass();
            break;
        }
        call.fail();
    }
    assert_eq!(bench.update().await, "a Alive checked 32768");
    assert_eq!(Instant::now(), found + Duration::from_millis(350));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_check_delays_nobody_else() {
    let mut bench = Bench::new();
    bench.apply(&http("a")).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    let hanging = bench.call().await;
    bench.alive("b").await;
    let mut last = bench.call().await;
    for _ in 0..5 {
        let began = last.at;
        last.pass();
        last = bench.call().await;
        assert_eq!(
            (last.at, last.url()),
            (began + INTERVAL, "http://127.0.0.1:32768/b")
        );
    }
    assert!(!hanging.reply.is_closed());
    hanging.pass();
    assert_eq!(bench.update().await, "a Alive checked 32768");
}

#[tokio::test(start_paused = true)]
async fn a_changed_port_is_announced_and_checked_at_once() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    let mut old = bench.call().await;
    let changed = Instant::now();
    bench.apply(&moved("a", 40000)).await;
    assert_eq!(bench.update().await, "a Alive checked 40000");
    old.reply.closed().await;
    let call = bench.call().await;
    assert_eq!((call.at, call.url()), (changed, "http://127.0.0.1:40000/a"));
    call.fail();
    assert_eq!(bench.update().await, "a Unhealthy checked 40000");
    // It is as good as new: asked again soon.
    assert_eq!(bench.call().await.at, changed + Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn another_check_replaces_the_old_one() {
    let mut bench = Bench::new();
    bench.apply(&http("a")).await;
    let mut old = bench.call().await;
    bench
        .apply(&instance("a", "External", "/bin/check {{ tcp 8080 }}"))
        .await;
    old.reply.closed().await;
    let words = ["/bin/check", "32768"].map(str::to_owned).into();
    assert_eq!(bench.call().await.check, Check::External { words });
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_instance_is_left_alone() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    let call = bench.call().await;
    bench.apply(&http("a")).await;
    for event in [
        SourceEvent::Init,
        SourceEvent::InitApply(http("a")),
        SourceEvent::InitDone,
    ] {
        bench.send(event).await;
    }
    assert_eq!(bench.update().await, "Docker listed");
    assert!(!call.reply.is_closed());
    assert!(bench.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_gone_is_checked_no_more() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    bench.alive("b").await;
    let mut call = bench.call().await;
    let (first, second) = if call.url().ends_with("/a") {
        ("a", "b")
    } else {
        ("b", "a")
    };
    bench
        .send(SourceEvent::Delete {
            id: first.to_owned(),
        })
        .await;
    assert_eq!(bench.update().await, format!("{first} gone"));
    call.reply.closed().await;
    for _ in 0..3 {
        let call = bench.call().await;
        assert!(call.url().ends_with(second));
        call.pass();
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_listing_is_reported_after_what_it_holds() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.send(SourceEvent::Init).await;
        bench.send(SourceEvent::InitApply(http("a"))).await;
        bench.send(SourceEvent::InitDone).await;
    }
    bench.apply(&http("b")).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    assert_eq!(bench.update().await, "Docker listed");
    assert_eq!(bench.update().await, "b Unknown unchecked 32768");
}

#[tokio::test(start_paused = true)]
async fn checks_go_on_when_all_sources_have_ended() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    drop(bench.sources);
    bench.calls.recv().await.unwrap().fail();
    assert_eq!(
        print(bench.updates.recv().await.unwrap()),
        "a Unhealthy checked 32768"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_after_shutdown() {
    let mut bench = Bench::new();
    bench.apply(&http("a")).await;
    let call = bench.call().await;
    bench.shutdown.cancel();
    bench.engine.await.unwrap();
    assert!(call.reply.is_closed());
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_wants_updates() {
    let mut bench = Bench::new();
    bench.apply(&http("a")).await;
    let call = bench.call().await;
    drop(bench.updates);
    bench.engine.await.unwrap();
    assert!(call.reply.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_outcome_of_before_a_change_is_dropped() {
    let (outcomes, _received) = mpsc::channel(16);
    let (updates, _updates) = mpsc::channel(16);
    let (to_test, _calls) = mpsc::unbounded_channel();
    let mut engine = Engine::new(config(), ByHand(to_test), outcomes, updates);
    engine.watch(http("a"));
    let outcome = |generation, result| Outcome {
        id: "a".to_owned(),
        generation,
        result,
        took: Duration::ZERO,
    };
    let old = engine.generation;
    engine.watch(moved("a", 40000));
    assert_eq!(engine.judge(outcome(old, Ok(Answer::default()))), None);
    let update = engine.judge(outcome(engine.generation, Err(failure())));
    assert_eq!(print(update.unwrap()), "a Unhealthy checked 40000");
}

fn spec(interval: &str, rise: &str, fall: &str) -> Instance {
    let mut instance = http("a");
    instance.check.interval = Some(interval.to_owned());
    instance.check.rise = Some(rise.to_owned());
    instance.check.fall = Some(fall.to_owned());
    instance
}

impl Bench {
    /// Answers the next checks, `+` well and `-` badly.
    async fn play(&mut self, results: &str) {
        for result in results.chars() {
            let call = self.call().await;
            match result {
                '+' => call.pass(),
                _ => call.fail(),
            }
        }
    }

    /// What is shown of the check of `a`.
    fn shown(&self) -> serde_json::Value {
        let document: serde_json::Value =
            serde_json::from_str(&self.view.document().unwrap()).unwrap();
        document["checks"]["a"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_owner_says_how_often_and_how_many() {
    let mut bench = Bench::new();
    bench.apply(&spec("1m", "2", "3")).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    bench.play("++").await;
    assert_eq!(bench.update().await, "a Alive checked 32768");
    bench.play("--+---").await;
    assert_eq!(bench.update().await, "a Unhealthy checked 32768");
    bench.play("+-+").await;
    let call = bench.call().await;
    let began = call.at;
    call.pass();
    assert_eq!(bench.update().await, "a Alive checked 32768");
    assert_eq!(bench.call().await.at, began + Duration::from_secs(60));
    let shown = bench.shown();
    assert_eq!(
        [&shown["interval_ms"], &shown["rise"], &shown["fall"]],
        [60_000, 2, 3]
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_setting_is_shown_and_the_agents_is_used() {
    let mut bench = Bench::new();
    bench.apply(&spec("often", "1", "1")).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    bench.play("+").await;
    assert_eq!(bench.update().await, "a Alive checked 32768");
    let shown = bench.shown();
    assert_eq!(shown["interval_ms"], 3000);
    let notice = shown["notices"][0].as_str().unwrap();
    assert!(
        notice.contains("(HealthCheckInterval) \"often\" is not"),
        "{notice}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_keeps_falling_is_held_back_visibly_and_released() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    for _ in 0..2 {
        bench.play("-").await;
        assert_eq!(bench.update().await, "a Unhealthy checked 32768");
        bench.play("+").await;
        assert_eq!(bench.update().await, "a Alive checked 32768");
    }
    let fallen = bench.call().await;
    let third_fall = fallen.at;
    fallen.fail();
    // Becoming unhealthy is not held back.
    assert_eq!(bench.update().await, "a Unhealthy checked 32768");
    assert_eq!(Instant::now(), third_fall);
    bench.play("+").await;
    // The next check is asked after the result of this one was taken.
    let call = bench.call().await;
    let shown = bench.shown();
    assert_eq!(shown["status"], "Unhealthy");
    assert_eq!(shown["last"]["healthy"], true);
    assert_eq!(shown["damped"]["rule"], RULE);
    assert!(shown["damped"]["until"].is_string());
    call.pass();
    let released = loop {
        tokio::select! {
            biased;
            Some(update) = bench.updates.recv() => break print(update),
            call = bench.calls.recv() => call.unwrap().pass(),
        }
    };
    assert_eq!(released, "a Alive checked 32768");
    let held = Instant::now() - third_fall;
    let bounds = Duration::from_secs(35)..Duration::from_secs(48);
    assert!(bounds.contains(&held), "{held:?}");
    assert_eq!(bench.shown()["damped"], serde_json::Value::Null);
    assert_eq!(bench.shown()["status"], "Alive");
}

#[tokio::test(start_paused = true)]
async fn the_last_result_is_shown_with_its_evidence() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    let call = bench.call().await;
    let took = Duration::from_millis(250);
    tokio::time::advance(took).await;
    call.fail();
    assert_eq!(bench.update().await, "a Unhealthy checked 32768");
    tokio::time::advance(Duration::from_millis(100)).await;
    let shown = bench.shown();
    let url = "http://127.0.0.1:32768/a";
    assert_eq!(
        [&shown["kind"], &shown["args"], &shown["status"]],
        ["HttpGet", url, "Unhealthy"]
    );
    let last = &shown["last"];
    assert_eq!(last["summary"], "the test says so");
    assert_eq!([&last["duration_ms"], &last["age_ms"]], [250, 100]);
    assert_eq!(last["healthy"], false);
    bench.send(SourceEvent::Delete { id: "a".to_owned() }).await;
    assert_eq!(bench.update().await, "a gone");
    assert_eq!(bench.shown(), serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_says_matters_to_docker_checks_alone() {
    let mut bench = Bench::new();
    bench.alive("a").await;
    let call = bench.call().await;
    let mut instance = http("a");
    instance.engine_health = Some(EngineHealth {
        healthy: Some(false),
        output: String::new(),
    });
    bench.apply(&instance).await;
    bench.alive("b").await;
    assert!(!call.reply.is_closed());
}

/// An instance whose image has a HEALTHCHECK that says this.
fn docker(healthy: Option<bool>) -> Instance {
    let mut instance = instance("a", "Docker", "");
    instance.engine_health = Some(EngineHealth {
        healthy,
        output: "it said".to_owned(),
    });
    instance
}

/// The engine as it is used, with checks that really run.
fn real(interval: Duration) -> Bench {
    let (sources, from_sources) = mpsc::channel(16);
    let (to_writer, updates) = mpsc::channel(16);
    let (_, calls) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let config = HealthConfig {
        interval,
        timeout: Duration::from_secs(30),
        ..config()
    };
    let view = config.view.clone();
    let engine = tokio::spawn(crate::health::run(
        config,
        Resolver::default(),
        from_sources,
        to_writer,
        shutdown.clone(),
    ));
    Bench {
        sources,
        updates,
        calls,
        view,
        shutdown,
        engine,
    }
}

/// Answers every request with the next of `statuses`, and the last of them from then on.
async fn serve(statuses: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for turn in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let status = statuses[turn.min(statuses.len() - 1)];
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn real_requests_decide() {
    let mut bench = real(Duration::from_millis(10));
    let address = serve(&["204 Fine", "200 OK", "503 Busy", "404 Lost", "200 OK"]).await;
    bench
        .apply(&instance(
            "a",
            "HttpGet",
            &format!("http://:{}/", address.port()),
        ))
        .await;
    for status in [
        "Unknown unchecked",
        "Alive checked",
        "Unhealthy checked",
        "Alive checked",
    ] {
        assert_eq!(bench.update().await, format!("a {status} 32768"));
    }
}

#[tokio::test]
async fn checks_that_ask_nobody_are_settled_at_once() {
    let mut bench = real(INTERVAL);
    for (id, kind, status) in [
        ("a", "AlwaysSuccessful", "Alive"),
        ("b", "HttpGet", "Unhealthy"),
    ] {
        bench.apply(&instance(id, kind, "")).await;
        assert_eq!(
            bench.update().await,
            format!("{id} Unknown unchecked 32768")
        );
        assert_eq!(bench.update().await, format!("{id} {status} checked 32768"));
    }
}

#[tokio::test]
async fn the_engines_own_check_is_followed_by_its_events() {
    let mut bench = real(INTERVAL);
    bench.apply(&docker(None)).await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    for (healthy, status, before) in [
        (true, "Alive", "Unknown unchecked"),
        (false, "Unhealthy", "Alive checked"),
        (true, "Alive", "Unhealthy checked"),
    ] {
        bench.apply(&docker(Some(healthy))).await;
        // It is what it was until its new word has been judged.
        assert_eq!(bench.update().await, format!("a {before} 32768"));
        assert_eq!(bench.update().await, format!("a {status} checked 32768"));
        let shown = bench.shown();
        assert_eq!(shown["last"]["output"], "it said");
        assert_eq!([&shown["interval_ms"], &shown["in_a_row"]], [0, 1]);
    }
    // A restart of the engine's check says nothing yet.
    bench.apply(&docker(None)).await;
    assert_eq!(bench.update().await, "a Alive checked 32768");
}

#[tokio::test]
async fn connections_decide_where_tcp_is_asked() {
    let mut bench = real(Duration::from_millis(10));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    bench
        .apply(&instance("a", "Tcp", &address.to_string()))
        .await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    assert_eq!(bench.update().await, "a Alive checked 32768");
    assert_eq!(bench.shown()["last"]["summary"], "takes connections");
    drop(listener);
    assert_eq!(bench.update().await, "a Unhealthy checked 32768");
    let summary = bench.shown()["last"]["summary"].to_string();
    assert!(
        summary.contains(&format!("{address}: cannot connect to {address}")),
        "{summary}"
    );
}

#[tokio::test]
async fn a_running_command_is_killed_when_its_instance_is_gone() {
    let mut bench = real(INTERVAL);
    let witness = external::tests::Witness::new();
    bench
        .apply(&instance("a", "External", &witness.command_line()))
        .await;
    assert_eq!(bench.update().await, "a Unknown unchecked 32768");
    let (_, fifo, _witness) = witness.born().await;
    bench.send(SourceEvent::Delete { id: "a".to_owned() }).await;
    assert_eq!(bench.update().await, "a gone");
    external::tests::dead(fifo).await;
}

#[tokio::test]
async fn a_running_command_is_killed_at_shutdown() {
    let bench = real(INTERVAL);
    let witness = external::tests::Witness::new();
    bench
        .apply(&instance("a", "External", &witness.command_line()))
        .await;
    let (_, fifo, _witness) = witness.born().await;
    bench.shutdown.cancel();
    timeout(Duration::from_secs(30), bench.engine)
        .await
        .unwrap()
        .unwrap();
    external::tests::dead(fifo).await;
}
