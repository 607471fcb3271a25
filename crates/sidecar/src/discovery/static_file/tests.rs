use std::path::Path;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::*;

fn config(path: impl Into<PathBuf>) -> StaticConfig {
    let advertise_ip = "10.77.0.1".parse().unwrap();
    StaticConfig {
        path: path.into(),
        hostname: "web-01".into(),
        advertise_ip,
    }
}

fn parsed(value: &Value) -> Vec<Instance> {
    parse(&value.to_string(), &config("static.json"), Timestamp::EPOCH).unwrap()
}

fn ids(value: &Value) -> Vec<String> {
    parsed(value).into_iter().map(|it| it.service.id).collect()
}

fn check_error(text: &str, expect: Expect) {
    let error = parse(text, &config("/etc/static.json"), Timestamp::EPOCH).unwrap_err();
    expect.assert_eq(&error.to_string());
}

fn described(instances: &[Instance]) -> String {
    let mut text = String::new();
    for Instance { service, check, .. } in instances {
        text += &format!(
            "{} {} {} {:?}",
            service.id, service.hostname, service.name, service.image
        );
        text += &format!(" {} {:?} {:?}", service.proxy_mode, check.kind, check.args);
        for port in service.ports.iter().flatten() {
            text += &format!(
                " {}:{}/{}<-{}",
                port.ip, port.port, port.kind, port.service_port
            );
        }
        text.push('\n');
    }
    text
}

#[test]
fn reads_the_files_of_the_recorded_cluster() {
    let files: serde_json::Map<String, Value> = serde_json::from_str(include_str!(
        "../../../tests/vectors/http/inputs-static.json"
    ))
    .unwrap();
    let text: String = files
        .values()
        .map(|file| described(&parsed(file)))
        .collect();
    expect![[r#"
        ec0ef508fa7f web-01 frontend "example/frontend:1.2.3" http Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:32001/tcp<-8080
        bc62ea013d52 web-01 postgres_main "example/postgres_main:1.2.3" tcp Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:32002/tcp<-5432
        928ce564d5a6 web-01 dns "example/dns:1.2.3" tcp Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:32053/tcp<-53 10.77.0.1:32053/udp<-53
        654cf7b64a06 web-01 internal-only "example/internal-only:1.2.3" http Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:32004/tcp<-0
        6e080181d942 web-01 frontend "example/frontend:1.2.3" http Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:31001/tcp<-8080
        4fa017053581 web-01 two-ports "example/two-ports:1.2.3" http Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:31002/tcp<-9001 10.77.0.1:31003/tcp<-9002
        0d96c712c807 web-01 chat "example/chat:1.2.3" ws Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:31004/tcp<-8090
        619641c1f821 web-01 sick "example/sick:1.2.3" http Some("HttpGet") Some("http://127.0.0.1:9000/h/7") 10.77.0.1:31005/tcp<-8091
        b64a0694bd29 partner.example third-party "static" tcp Some("AlwaysSuccessful") None 10.99.0.7:443/tcp<-8443
        6d32cdd00c13 web-01 frontend "example/frontend:1.2.4" http Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:30001/tcp<-8080
        ca7e6be70c82 web-01 reports "example/reports:1.2.3" http Some("HttpGet") Some("http://127.0.0.1:9000/h/0") 10.77.0.1:30002/tcp<-8092
    "#]].assert_eq(&text);
}

#[test]
fn the_file_is_silent_and_defaults_speak() {
    let it = parsed(&json!([
        {"Service": {"Name": "a", "ID": "x", "Status": 4, "Updated": "never", "Created": 7}},
        {"service": {"NAME": "b", "ports": [{"port": 1}], "hostName": "", "Future": {"x": []}},
         "check": null, "LISTENPORT": 10005},
        {"Service": {"Name": "c", "Ports": [], "ProxyMode": null, "Image": null}},
        {"Service": {"Name": "d", "Ports": [{"type": "UDP", "Port": 1, "IP": "::1"}]},
         "Check": {"Type": "External", "Args": "/bin/true"}},
    ]));
    expect![[r#"
        01e803a4424f web-01 a "" http None None
        2fb0ec1eb9b9 web-01 b "" http None None 10.77.0.1:1/tcp<-0
        26fed563367e web-01 c "" http None None
        92b0a5550450 web-01 d "" http Some("External") Some("/bin/true") ::1:1/udp<-0
    "#]]
    .assert_eq(&described(&it));
    assert_eq!(it[0].service.ports, None);
    assert_eq!(it[2].service.ports, Some(vec![]));
    assert!(it.iter().all(|it| it.service.updated == Timestamp::EPOCH));
    assert!(
        it.iter()
            .all(|it| it.service.status == catalog::Status::Unknown)
    );
}

#[test]
fn what_go_sidecar_took_is_kept_even_if_it_is_not_routed() {
    let it = parsed(&json!([{"Service": {"Name": "a", "ProxyMode": "quic",
                             "Ports": [{"Port": 1, "IP": "db.internal"}]}}]));
    assert_eq!(it[0].service.proxy_mode, "quic");
    assert_eq!(it[0].service.port_list()[0].ip, "db.internal");
}

#[test]
fn a_weight_is_a_number_from_1_to_255() {
    let weighed = |weight| json!([{"Service": {"Name": "a", "Weight": weight}}]);
    assert_eq!(parsed(&weighed(json!(30)))[0].service.weight, Some(30));
    assert_eq!(parsed(&weighed(json!(null)))[0].service.weight, None);
    for wrong in [json!(0), json!(256), json!("x")] {
        let text = weighed(wrong).to_string();
        let error = parse(&text, &config("static.json"), Timestamp::EPOCH);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("a weight from 1 to 255"), "{error}");
    }
}

#[test]
fn an_empty_array_and_null_name_nothing() {
    assert_eq!(parsed(&json!([])), []);
    assert_eq!(parsed(&json!(null)), []);
}

#[test]
fn ids_do_not_depend_on_what_else_the_file_names() {
    let (a, b) = (
        json!({"Service": {"Name": "a"}}),
        json!({"Service": {"Name": "b"}}),
    );
    let both = ids(&json!([a, b]));
    assert_eq!(ids(&json!([b, a])), [both[1].clone(), both[0].clone()]);
    assert_eq!(ids(&json!([b])), both[1..]);
    assert!(
        both.iter()
            .all(|id| id.len() == 12 && id.bytes().all(|it| it.is_ascii_hexdigit()))
    );
}

#[test]
fn ids_differ_by_host_name_image_and_ports_and_twins_by_their_order() {
    let twin = json!({"Service": {"Name": "a"}});
    let all = ids(&json!([
        twin, twin, twin,
        {"Service": {"Name": "a", "Hostname": "db-1"}},
        {"Service": {"Name": "a", "Image": "a"}},
        {"Service": {"Name": "aa"}},
        {"Service": {"Name": "a", "Ports": [{"Port": 1}]}},
        {"Service": {"Name": "a", "Ports": [{"Port": 1, "ServicePort": 1}]}},
        {"Service": {"Name": "a", "Ports": [{"Port": 1, "Type": "udp"}]}},
        {"Service": {"Name": "a", "Ports": [{"Port": 1, "IP": "10.0.0.1"}]}},
        {"Service": {"Name": "a", "Ports": [{"Port": 1}, {"Port": 1}]}},
    ]));
    assert_eq!(
        all.iter().collect::<BTreeSet<_>>().len(),
        all.len(),
        "{all:?}"
    );
    assert_eq!(ids(&json!([twin, twin])), all[..2]);
    // Neither the check nor the mode are part of who it is, and defaults may be spelled out.
    let same = json!([{"Service": {"Name": "a", "Hostname": "web-01", "ProxyMode": "tcp"},
                       "Check": {"Type": "AlwaysSuccessful"}}]);
    assert_eq!(ids(&same), all[..1]);
}

#[test]
fn errors_name_file_place_value_and_what_was_expected() {
    check_error(
        "",
        expect![[r#"static file "/etc/static.json", line 1, column 0: EOF while parsing a value"#]],
    );
    check_error(
        "{}",
        expect![[
            r#"static file "/etc/static.json", line 1, column 2: invalid type: map, expected an array"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Name\": \"a\"}},\n]",
        expect![[r#"static file "/etc/static.json", line 2, column 1: [1]: trailing comma"#]],
    );
    check_error(
        "[\n// the database\n]",
        expect![[r#"static file "/etc/static.json", line 2, column 1: [0]: expected value"#]],
    );
    check_error(
        "[] []",
        expect![[r#"static file "/etc/static.json", line 1, column 4: trailing characters"#]],
    );
    check_error(
        "[7]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 2: [0]: invalid type: integer `7`, expected a target such as {"Service": {…}, "Check": {…}}"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Image\": \"x\"}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 28: [0].Service.Name: it is empty, expected the name of the service"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Name\": \"a\\nb\"}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 29: [0].Service: field Name holds a control character: "a\nb""#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Name\": \"a\"}},\n {\"Service\": {\"Name\": \"b\", \"Ports\": [\n  \
         {\"Port\": 1},\n  {\"port\": \"5432\"}]}}]",
        expect![[
            r#"static file "/etc/static.json", line 4, column 17: [1].Service.Ports[1].Port: invalid type: string "5432", expected a port from 0 to 65535"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Ports\": [{\"Port\": 65536}]}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 38: [0].Service.Ports[0].Port: invalid value: integer `65536`, expected a port from 0 to 65535"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Ports\": [{\"Port\": -1}]}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 35: [0].Service.Ports[0].Port: invalid type: integer `-1`, expected a port from 0 to 65535"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Ports\": [{\"Port\": 80.0}]}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 37: [0].Service.Ports[0].Port: invalid type: floating point `80.0`, expected a port from 0 to 65535"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Ports\": [{\"ServicePort\": 1}]}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 42: [0].Service.Ports[0].Port: it is 0 or absent, expected the real port, 1 to 65535"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Ports\": [{\"Type\": \"tpc\"}]}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 38: [0].Service.Ports[0].Type: invalid value: string "tpc", expected "tcp" or "udp""#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Ports\": {}}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 25: [0].Service.Ports: invalid type: map, expected an array"#
        ]],
    );
    check_error(
        "[{\"Service\": {\"Name\": 7}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 23: [0].Service.Name: invalid type: integer `7`, expected a string"#
        ]],
    );
    check_error(
        "[{\"Check\": {\"Args\": [\"/bin/true\"]}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 20: [0].Check.Args: invalid type: sequence, expected a string"#
        ]],
    );
    check_error(
        "[{\"ListenPort\": 70000}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 21: [0].ListenPort: invalid value: integer `70000`, expected a port from 0 to 65535"#
        ]],
    );
}

#[test]
fn the_pace_of_checks_is_read_and_nonsense_is_an_error() {
    let check = |pace: Value| {
        let mut target = json!([{"Service": {"Name": "a"}}]);
        target[0]["Check"] = pace;
        parsed(&target)[0].check.clone()
    };
    let text = |text: &str| Some(text.to_owned());
    let spec = CheckSpec {
        interval: text("500ms"),
        timeout: text("1m30s"),
        rise: text("2"),
        fall: text("3"),
        ..CheckSpec::default()
    };
    assert_eq!(
        check(json!({"Interval": "500ms", "timeout": "1m30s", "RISE": 2, "Fall": "3"})),
        spec
    );
    let silent = json!({"Interval": "", "Timeout": null, "Rise": "", "Fall": null});
    assert_eq!(check(silent), CheckSpec::default());
    check_error(
        "[{\"Check\": {\"Interval\": \"3\"}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 27: [0].Check.Interval: invalid value: string "3", expected a duration such as "3s", "1m30s" or "500ms""#
        ]],
    );
    check_error(
        "[{\"Check\": {\"Timeout\": 3}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 24: [0].Check.Timeout: invalid type: integer `3`, expected a duration such as "3s", "1m30s" or "500ms""#
        ]],
    );
    check_error(
        "[{\"Check\": {\"Rise\": \"many\"}}]",
        expect![[
            r#"static file "/etc/static.json", line 1, column 26: [0].Check.Rise: invalid value: string "many", expected a number of results in a row such as 3"#
        ]],
    );
}

#[test]
fn nesting_without_end_is_an_error_and_no_crash() {
    let deep = "[".repeat(100_000);
    assert!(parse(&deep, &config("x"), Timestamp::EPOCH).is_err());
}

/// A watched file whose events arrive at `events`.
struct Watched {
    directory: tempfile::TempDir,
    view: Arc<LocalView>,
    reload: watch::Sender<u64>,
    events: mpsc::Receiver<(SourceName, SourceEvent)>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Watched {
    fn start(content: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("static.json");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let (sender, events) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let view = Arc::new(LocalView::default());
        let (reload, asked) = watch::channel(0);
        let task = run(config(path), view.clone(), asked, sender, shutdown.clone());
        let task = tokio::spawn(task);
        Self {
            directory,
            view,
            reload,
            events,
            shutdown,
            task,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("static.json")
    }

    /// As editors and configuration tools write: another file, renamed over the old one.
    fn replace(&self, content: &str) {
        let other: &Path = &self.directory.path().join("new");
        std::fs::write(other, content).unwrap();
        std::fs::rename(other, self.path()).unwrap();
    }

    async fn next(&mut self) -> SourceEvent {
        let event = timeout(Duration::from_secs(60), self.events.recv()).await;
        let (source, event) = event
            .expect("an event within a minute")
            .expect("a running source");
        assert_eq!(source, SourceName::Static);
        event
    }

    async fn listing(&mut self) -> Vec<Instance> {
        assert_eq!(self.next().await, SourceEvent::Init);
        let mut instances = Vec::new();
        loop {
            match self.next().await {
                SourceEvent::InitApply(instance) => instances.push(instance),
                SourceEvent::InitDone => return instances,
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// How the source says it is doing.
    fn shown(&self) -> Value {
        let document: Value = serde_json::from_str(&self.view.document().unwrap()).unwrap();
        document["sources"]["static"].clone()
    }

    async fn names(&mut self) -> Vec<String> {
        let mut names: Vec<_> = self
            .listing()
            .await
            .into_iter()
            .map(|it| it.service.name)
            .collect();
        names.sort();
        names
    }
}

fn file(names: &[&str]) -> String {
    let targets: Vec<_> = names
        .iter()
        .map(|it| json!({ "Service": { "Name": it } }))
        .collect();
    Value::from(targets).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_read_again_and_what_stays_keeps_its_birthday() {
    let mut watched = Watched::start(Some(&file(&["a"])));
    let before = watched.listing().await;
    watched.replace(&file(&["a", "b"]));
    let after = watched.listing().await;
    assert_eq!(after.len(), 2);
    let same = after.iter().find(|it| it.service.name == "a").unwrap();
    assert_eq!(same, &before[0]);
    std::fs::write(watched.path(), file(&["b"])).unwrap();
    assert_eq!(watched.names().await, ["b"]);
}

/// As the kubelet updates a ConfigMap: the file is a link into `..data`, a link that is replaced.
#[tokio::test(start_paused = true)]
async fn a_swapped_symlink_is_a_change() {
    use std::os::unix::fs::symlink;
    let mut watched = Watched::start(None);
    let directory = watched.directory.path().to_owned();
    let publish = |version: &str, names: &[&str]| {
        std::fs::create_dir(directory.join(version)).unwrap();
        std::fs::write(directory.join(version).join("static.json"), file(names)).unwrap();
        symlink(version, directory.join("..data_tmp")).unwrap();
        std::fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    publish("..v1", &["a"]);
    symlink("..data/static.json", watched.path()).unwrap();
    assert_eq!(watched.names().await, ["a"]);
    publish("..v2", &["b"]);
    std::fs::remove_dir_all(directory.join("..v1")).unwrap();
    assert_eq!(watched.names().await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_read_at_once_when_somebody_asks() {
    let mut watched = Watched::start(Some(&file(&["a"])));
    assert_eq!(watched.names().await, ["a"]);
    // In the middle between two looks, and although nothing has changed.
    tokio::time::sleep(LOOK_INTERVAL / 2).await;
    let asked = tokio::time::Instant::now();
    watched.reload.send_modify(|count| *count += 1);
    assert_eq!(watched.names().await, ["a"]);
    assert!(asked.elapsed() < LOOK_INTERVAL / 2);
}

#[tokio::test(start_paused = true)]
async fn its_state_is_shown_with_line_and_column_of_the_trouble() {
    let mut watched = Watched::start(Some(&file(&["a", "b"])));
    let until = async |watched: &Watched, state: &str| {
        while watched.shown()["state"] != state {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        watched.shown()
    };
    watched.listing().await;
    let shown = until(&watched, "following").await;
    assert_eq!(
        (&shown["instances"], &shown["trouble"]),
        (&json!(2), &Value::Null)
    );
    watched.replace("[\n7]");
    let shown = until(&watched, "invalid").await;
    assert_eq!(shown["instances"], 2);
    let trouble = shown["trouble"].as_str().unwrap();
    assert!(trouble.contains("line 2, column 1"), "{trouble}");
    std::fs::remove_file(watched.path()).unwrap();
    let shown = until(&watched, "unreachable").await;
    assert!(
        shown["trouble"]
            .as_str()
            .unwrap()
            .contains("does not exist")
    );
    watched.replace("[{\"Service\": {\"Name\": \"q\", \"ProxyMode\": \"quic\"}}]");
    watched.listing().await;
    until(&watched, "following").await;
    let document: Value = serde_json::from_str(&watched.view.document().unwrap()).unwrap();
    let remark = document["remarks"][0]["remarks"][0].as_str().unwrap();
    assert!(remark.contains("ProxyMode \"quic\""), "{remark}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_or_missing_file_takes_nothing_away() {
    let mut watched = Watched::start(Some(&file(&["a"])));
    assert_eq!(watched.names().await, ["a"]);
    watched.replace("[{\"Service\": {\"Name\": \"b\"}},]");
    assert!(
        timeout(Duration::from_secs(20), watched.events.recv())
            .await
            .is_err()
    );
    std::fs::remove_file(watched.path()).unwrap();
    assert!(
        timeout(Duration::from_secs(20), watched.events.recv())
            .await
            .is_err()
    );
    watched.replace(&file(&["c"]));
    assert_eq!(watched.names().await, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_missing_at_the_start_is_waited_for() {
    let mut watched = Watched::start(None);
    assert!(
        timeout(Duration::from_secs(20), watched.events.recv())
            .await
            .is_err()
    );
    watched.replace(&file(&["a"]));
    assert_eq!(watched.names().await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn each_error_is_reported_once_while_it_lasts() {
    let directory = tempfile::tempdir().unwrap();
    let (events, _receiver) = mpsc::channel(8);
    let config = config(directory.path().join("static.json"));
    let path = config.path.clone();
    let mut watcher = Watcher {
        config,
        view: Arc::default(),
        events,
        stamp: None,
        held: BTreeMap::new(),
        complaint: None,
    };
    assert!(matches!(
        watcher.look().await,
        Err(StaticError::Missing { .. })
    ));
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(
        watcher.look().await,
        Err(StaticError::NoFile { .. })
    ));
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"[\"\xff\"]").unwrap();
    assert!(matches!(
        watcher.look().await,
        Err(StaticError::NotText { offset: 2, .. })
    ));
    // Looked at already: nothing new to say.
    assert!(matches!(watcher.look().await, Ok(None)));
    std::fs::write(&path, "[7]").unwrap();
    let error = watcher.look().await.unwrap_err();
    watcher.complain(&error);
    assert_eq!(watcher.complaint, Some(error.to_string()));
    std::fs::write(&path, "[]").unwrap();
    let instances = watcher.look().await.unwrap().unwrap();
    watcher.announce(instances).await.unwrap();
    assert_eq!(watcher.complaint, None);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_shutdown_and_when_nobody_listens() {
    // Nobody takes the second event, so the source waits inside a listing.
    let watched = Watched::start(Some(&file(&["a"])));
    watched.shutdown.cancel();
    watched.task.await.unwrap();
    let watched = Watched::start(Some(&file(&["a"])));
    drop(watched.events);
    watched.task.await.unwrap();
}
