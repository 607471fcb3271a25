//! Explanations of a cluster made up for it: one host that asks, one that is well, one that is dead.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn instance(id: &str, name: &str, hostname: &str, status: &str, service_port: u16) -> Value {
    json!({
        "id": id, "name": name, "hostname": hostname, "status": status,
        "created": "2026-02-03T11:00:00Z", "updated": "2026-02-03T11:59:00Z", "mode": "http",
        "ports": [{ "type": "tcp", "port": 8300, "service_port": service_port, "ip": "10.0.0.1" }],
    })
}

fn check(kind: &str, args: &str, healthy: bool, summary: &str) -> Value {
    json!({
        "kind": kind, "args": args, "status": if healthy { "Alive" } else { "Unhealthy" },
        "in_a_row": 7, "rise": 1, "fall": 1,
        "last": { "healthy": healthy, "age_ms": 1200, "duration_ms": 3, "summary": summary, "output": "" },
    })
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn world() -> World {
    let mut unported = instance("eeee1111", "cron", "web-01", "Alive", 0);
    unported["ports"][0]["service_port"] = json!(0);
    World {
        overview: read(json!({
            "hostname": "web-01", "now": "2026-02-03T12:00:00Z", "ready": true,
            "proxy": { "plane": "builtin", "bind_ip": "192.168.168.168" },
        })),
        instances: vec![
            read(instance("aaaa1111", "web", "web-01", "Alive", 10080)),
            read(instance("bbbb1111", "web", "web-01", "Unhealthy", 10080)),
            read(instance("cccc1111", "shop", "web-01", "Alive", 10080)),
            read(instance(
                "dddd1111",
                "orders-db",
                "db-01",
                "Unhealthy",
                10432,
            )),
            read(unported),
            read(instance("ffff1111", "mail", "dead-01", "Tombstone", 10025)),
            read(instance("ffff2222", "queue", "db-01", "Draining", 10030)),
        ],
        hosts: read(json!([
            { "name": "web-01", "address": "10.0.0.1", "own": true, "state": "alive" },
            { "name": "db-01", "address": "10.0.0.2", "state": "alive",
              "last_updated": "2026-02-03T11:59:58Z" },
            { "name": "dead-01", "address": "10.0.0.3", "state": "dead",
              "last_updated": "2026-02-03T11:50:00Z" },
        ])),
        routes: read(json!({
            "routes": [{
                "service_port": 10080, "service": "web", "mode": "http",
                "endpoints": [{ "hostname": "web-01", "id": "aaaa1111", "address": "10.0.0.1:8300" }],
            }],
            "excluded": [{
                "service_port": 10080, "service": "shop", "hostname": "web-01", "id": "cccc1111",
                "reason": "port-owned",
                "explanation": "the ServicePort belongs to web, which was there first",
            }],
        })),
        local: read(json!({
            "sources": { "docker": { "state": "following", "trouble": null, "instances": 4 } },
            "remarks": [{
                "source": "docker", "subject": "cart (99aa)",
                "remarks": ["it has no port \u{1b}[1m"],
            }],
            "checks": {
                "aaaa1111": check("HttpGet", "http://10.0.0.1:8300/", true, "status 200"),
                "bbbb1111": check("HttpGet", "http://10.0.0.1:8301/a b", false, "status 503"),
                "cccc1111": check("AlwaysSuccessful", "", true, "always"),
                "eeee1111": check("Tcp", "10.0.0.1:8300", true, "connected"),
            },
        })),
        proxy: read(json!({
            "ports": [{
                "service_port": 10080, "service": "web", "listening": true,
                "endpoints": [{ "address": "10.0.0.1:8300", "avoided": false }],
            }],
        })),
        containers: Vec::new(),
        api_port: 7777,
    }
}

fn shown(subject: &str, world: &World, routed: bool, expect: Expect) {
    let explanation = explain(subject, world);
    expect.assert_eq(&explanation.lines(&Output::kept()).join("\n"));
    assert_eq!(explanation.routed, routed);
}

#[test]
fn what_is_routed() {
    shown(
        "aaaa1111",
        &world(),
        true,
        expect![[r#"
            web aaaa1111 at web-01: routed on web-01
              ✓ source   docker is following
              ✓ check    HttpGet http://10.0.0.1:8300/ passed 7 times in a row, 1 s ago in 3 ms: status 200
              ✓ record   it is Alive, as of 60 s ago
              ✓ host     web-01 at 10.0.0.1 is alive
              ✓ ports    service port 10080 leads to 10.0.0.1:8300
              ✓ route    10080 leads to 10.0.0.1:8300, 1 of 1 endpoints, mode http
              ✓ proxy    the built-in proxy listens at 192.168.168.168:10080"#]],
    );
}

#[test]
fn all_instances_of_a_service_and_the_failing_one_with_its_check() {
    shown(
        "web",
        &world(),
        true,
        expect![[r#"
            web aaaa1111 at web-01: routed on web-01
              ✓ source   docker is following
              ✓ check    HttpGet http://10.0.0.1:8300/ passed 7 times in a row, 1 s ago in 3 ms: status 200
              ✓ record   it is Alive, as of 60 s ago
              ✓ host     web-01 at 10.0.0.1 is alive
              ✓ ports    service port 10080 leads to 10.0.0.1:8300
              ✓ route    10080 leads to 10.0.0.1:8300, 1 of 1 endpoints, mode http
              ✓ proxy    the built-in proxy listens at 192.168.168.168:10080
            web bbbb1111 at web-01: not routed on web-01
              ✓ source   docker is following
              ✗ check    HttpGet http://10.0.0.1:8301/a b failed 7 times in a row, 1 s ago after 3 ms: status 503 → curl -i 'http://10.0.0.1:8301/a b'
              ✗ record   it is Unhealthy, as of 60 s ago: its check fails
              ✓ host     web-01 at 10.0.0.1 is alive
              ✓ ports    service port 10080 leads to 10.0.0.1:8300"#]],
    );
}

#[test]
fn a_port_that_another_service_has() {
    shown(
        "shop",
        &world(),
        false,
        expect![[r#"
            shop cccc1111 at web-01: not routed on web-01
              ✓ source   docker is following
              ✓ check    AlwaysSuccessful passed 7 times in a row, 1 s ago in 3 ms: always
              ✓ record   it is Alive, as of 60 s ago
              ✓ host     web-01 at 10.0.0.1 is alive
              ✓ ports    service port 10080 leads to 10.0.0.1:8300
              ✗ route    10080 does not lead to it: the ServicePort belongs to web, which was there first → give it another service port; who has it: sidecar explain 10080"#]],
    );
    shown(
        "10080",
        &world(),
        true,
        expect![[r#"
        service port 10080 of web: routed on web-01
          ✓ route    10080 leads to web in mode http: 10.0.0.1:8300 (aaaa1111 at web-01)
          ! excluded shop cccc1111 at web-01 is left out: the ServicePort belongs to web, which was there first → sidecar explain cccc1111
          ! claim    web bbbb1111 at web-01 is Unhealthy → sidecar explain bbbb1111
          ✓ proxy    the built-in proxy listens at 192.168.168.168:10080"#]],
    );
}

#[test]
fn instances_of_other_hosts_are_explained_as_far_as_is_known() {
    shown(
        "orders-db",
        &world(),
        false,
        expect![[r#"
        orders-db dddd1111 at db-01: not routed on web-01
          ✓ check    it is checked at db-01 → sidecar explain dddd1111 --addr 10.0.0.2:7777
          ✗ record   it is Unhealthy, as of 60 s ago: its check at db-01 fails → sidecar explain dddd1111 --addr 10.0.0.2:7777
          ✓ host     db-01 at 10.0.0.2 is alive, last heard 2 s ago
          ✓ ports    service port 10432 leads to 10.0.0.1:8300"#]],
    );
    shown(
        "queue",
        &world(),
        false,
        expect![[r#"
        queue ffff2222 at db-01: not routed on web-01
          ✓ check    it is checked at db-01 → sidecar explain ffff2222 --addr 10.0.0.2:7777
          ✗ record   it is Draining, as of 60 s ago: somebody drained it → on db-01: sidecar undrain ffff2222
          ✓ host     db-01 at 10.0.0.2 is alive, last heard 2 s ago
          ✓ ports    service port 10030 leads to 10.0.0.1:8300"#]],
    );
    shown(
        "mail",
        &world(),
        false,
        expect![[r#"
        mail ffff1111 at dead-01: not routed on web-01
          ✗ record   it is Tombstone, as of 60 s ago: its host is dead
          ✗ host     dead-01 at 10.0.0.3 is dead, last heard 10 min ago: it said goodbye, or it has not answered for the suspicion time → is the machine up? on dead-01: sidecar doctor"#]],
    );
}

#[test]
fn who_asks_for_no_service_port_gets_none() {
    shown(
        "eeee",
        &world(),
        false,
        expect![[r#"
            cron eeee1111 at web-01: not routed on web-01
              ✓ source   docker is following
              ✓ check    Tcp 10.0.0.1:8300 passed 7 times in a row, 1 s ago in 3 ms: connected
              ✓ record   it is Alive, as of 60 s ago
              ✓ host     web-01 at 10.0.0.1 is alive
              ✗ ports    it asks for no service port: it publishes 8300 without a service port → docker run -p 8300 --label ServicePort_8300=10080 …"#]],
    );
}

#[test]
fn names_and_ports_nobody_has() {
    shown(
        "order-db",
        &world(),
        false,
        expect![[r#"
        "order-db": not routed on web-01
          ✗ record   nobody in the cluster announces it: it may be misspelt: orders-db → sidecar explain orders-db"#]],
    );
    shown(
        "cart",
        &world(),
        false,
        expect![[r#"
        "cart": not routed on web-01
          ! remark   cart (99aa) (docker): it has no port \u{1b}[1m
          ✗ record   nobody in the cluster announces it: no service has a name like it → docker ps: does it run, and publish a port? what there is: sidecar services"#]],
    );
    shown(
        "8300",
        &world(),
        false,
        expect![[r#"
        service port 8300: not routed on web-01
          ! port     8300 is the real port of web aaaa1111 at web-01: its service port is 10080
          ✗ route    8300 leads nowhere: no instance in the cluster asks for it → label a container ServicePort_<its port>=8300; what there is: sidecar services"#]],
    );
    shown(
        "10432",
        &world(),
        false,
        expect![[r#"
        service port 10432: not routed on web-01
          ! claim    orders-db dddd1111 at db-01 is Unhealthy → sidecar explain dddd1111
          ✗ route    10432 leads nowhere: no instance that asks for it is alive"#]],
    );
}

#[test]
fn containers_that_are_not_announced_are_told_of() {
    let mut world = world();
    let sighting = |id: &str, name: &str, cause: Option<&str>| Sighting {
        name: name.to_owned(),
        id: id.to_owned(),
        service: "cron-jobs".to_owned(),
        absence: cause.map(|cause| (cause.to_owned(), format!("docker start {name}"))),
    };
    world.containers = vec![
        sighting(
            "1111",
            "jobs-1",
            Some("it does not run: Exited (1) 3 minutes ago"),
        ),
        sighting("2222", "jobs-2", None),
        sighting("3333", "other", Some("it is paused")),
    ];
    world.containers[2].service = "other".to_owned();
    shown(
        "cron-jobs",
        &world,
        false,
        expect![[r#"
        "cron-jobs": not routed on web-01
          ✗ source   container jobs-1 (1111) is not announced: it does not run: Exited (1) 3 minutes ago → docker start jobs-1
          ! source   container jobs-2 (2222) runs as cron-jobs: the agent leaves it out, or has not seen it yet → sidecar explain 2222
          ✗ record   nobody in the cluster announces it: it is none of the cluster's services as it is"#]],
    );
    shown(
        "jobs-1",
        &world,
        false,
        expect![[r#"
        "jobs-1": not routed on web-01
          ✗ source   container jobs-1 (1111) is not announced: it does not run: Exited (1) 3 minutes ago → docker start jobs-1
          ✗ record   nobody in the cluster announces it: it is none of the cluster's services as it is"#]],
    );
    // One that the cluster remembers.
    world.instances[0].status = "Tombstone".to_owned();
    world.containers[0].id = "aaaa1111".to_owned();
    shown(
        "aaaa1111",
        &world,
        false,
        expect![[r#"
        web aaaa1111 at web-01: not routed on web-01
          ✗ source   container jobs-1 (aaaa1111) is not announced: it does not run: Exited (1) 3 minutes ago → docker start jobs-1
          ✗ record   it is Tombstone, as of 60 s ago: it was stopped or removed; this is remembered for 3 h → start it again: docker start
          ✓ host     web-01 at 10.0.0.1 is alive"#]],
    );
}

#[test]
fn troubles_of_the_data_plane_are_told() {
    let mut busy = world();
    busy.proxy.ports[0].listening = false;
    busy.proxy.ports[0].trouble = Some("Address in use (os error 98)".to_owned());
    shown(
        "10080",
        &busy,
        false,
        expect![[r#"
        service port 10080 of web: not routed on web-01
          ✓ route    10080 leads to web in mode http: 10.0.0.1:8300 (aaaa1111 at web-01)
          ! excluded shop cccc1111 at web-01 is left out: the ServicePort belongs to web, which was there first → sidecar explain cccc1111
          ! claim    web bbbb1111 at web-01 is Unhealthy → sidecar explain bbbb1111
          ✗ proxy    nobody listens at 192.168.168.168:10080: Address in use (os error 98) → who has it: ss -ltnp 'sport = :10080'"#]],
    );
    let mut far = world();
    far.proxy.ports[0].endpoints[0].avoided = true;
    far.proxy.ports[0].endpoints[0].connect_failures = 3;
    let explanation = explain("aaaa1111", &far);
    let avoided = explanation.parts[0].steps.last().unwrap();
    assert_eq!(avoided.state, Mark::Warning);
    assert!(explanation.routed);
    let mut young = world();
    young.overview.ready = false;
    young.overview.awaited = vec!["join".to_owned()];
    young.routes.routes.clear();
    let explanation = explain("aaaa1111", &young);
    let cause = explanation.parts[0].steps.last().unwrap().cause.clone();
    assert_eq!(
        cause.unwrap(),
        "the agent has just started and waits for: join"
    );
}

#[test]
fn programs_get_every_step() {
    let explanation = serde_json::to_value(explain("bbbb1111", &world())).unwrap();
    assert_eq!(explanation["routed"], false);
    let steps = explanation["parts"][0]["steps"].as_array().unwrap();
    let failed: Vec<_> = steps.iter().filter(|it| it["state"] == "failed").collect();
    assert_eq!(failed[0]["step"], "check");
    assert_eq!(failed[0]["cause"], "status 503");
    assert_eq!(failed[0]["fix"], "curl -i 'http://10.0.0.1:8301/a b'");
}
