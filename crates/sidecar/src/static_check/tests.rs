use std::collections::BTreeMap;

use expect_test::expect;

use super::*;
use crate::config::Flags;

/// What becomes of a file on a host `web-01` at 10.77.0.1; its place is shown as `FILE`.
async fn checked(text: &str) -> (String, serde_json::Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("static.json");
    std::fs::write(&file, text).unwrap();
    let environment = [("SIDECAR_ADVERTISE_IP", "10.77.0.1")];
    let environment: BTreeMap<String, String> = environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let config = Config::resolve(&Flags::new(), &environment, "web-01").unwrap();
    let outcome = check(&config, file.clone()).await.unwrap();
    let document = serde_json::from_str(&json(&outcome).unwrap()).unwrap();
    let shown = match outcome {
        Ok(preview) => preview.to_string(),
        Err(error) => error.to_string(),
    };
    (shown.replace(&file.display().to_string(), "FILE"), document)
}

const FILE: &str = r#"[
 { "Service": { "Name": "orders-db", "Hostname": "db-1", "ProxyMode": "tcp",
                "Ports": [ { "Port": 5432, "ServicePort": 10432, "IP": "10.20.0.50" } ] },
   "Check": { "Type": "External", "Args": "/bin/ping {{ host }}", "Interval": "5s", "Fall": 3 } },
 { "Service": { "Name": "web", "Ports": [ { "Port": 80, "ServicePort": 10432 },
                                          { "Port": 81 } ] },
   "Check": { "Rise": 1000 } },
 { "Service": { "Name": "old", "ProxyMode": "quic", "Ports": [ { "Port": 9, "ServicePort": 9 } ] } }
]"#;

#[tokio::test]
async fn it_shows_what_is_announced_what_is_routed_and_what_is_not() {
    let (shown, document) = checked(FILE).await;
    expect![[r#"
        FILE: services 3, routes 1

        announced:
          SERVICE    ID            HOST    MODE  PORTS                                        CHECK
          orders-db  929ce9d0de8e  db-1    tcp   10.20.0.50:5432/tcp as 10432                 External /bin/ping 10.77.0.1
          web        9c53be3af980  web-01  http  10.77.0.1:80/tcp as 10432, 10.77.0.1:81/tcp  HttpGet http://10.77.0.1:80/version
          old        163af865c015  web-01  quic  10.77.0.1:9/tcp as 9                         HttpGet http://10.77.0.1:9/version

        routed, once the checks pass:
          PORT   SERVICE    MODE  TO
          10432  orders-db  tcp   10.20.0.50:5432

        not routed:
          PORT   SERVICE  ID            BECAUSE
          9      old      163af865c015  its ProxyMode "quic" is none of http, tcp, ws
          10432  web      9c53be3af980  the ServicePort belongs to orders-db, which was there first

        remark: static service "web": number of successes (HealthCheckRise) "1000" is not a whole number from 1 to 100; using 1

        remark: static service "web": no health check given, using the default: HttpGet http://10.77.0.1:80/version

        remark: static service "old": ProxyMode "quic" is not one of http, tcp, ws; proxies leave it out

        remark: static service "old": no health check given, using the default: HttpGet http://10.77.0.1:9/version
    "#]].assert_eq(&shown);
    assert_eq!(document["valid"], true);
    let first = &document["services"][0];
    assert_eq!(first["record"]["Hostname"], "db-1");
    assert_eq!(first["check"]["interval_ms"], 5000);
    assert_eq!(first["check"]["args"], "/bin/ping 10.77.0.1");
    let route = &document["routing"]["routes"][0];
    assert_eq!(route["service"], "orders-db");
    assert_eq!(route["endpoints"][0]["address"], "10.20.0.50:5432");
    let reasons = document["routing"]["excluded"].as_array().unwrap().iter();
    let reasons: Vec<_> = reasons.map(|it| it["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["unknown-mode", "port-owned"]);
}

#[tokio::test]
async fn an_error_has_its_line_and_column() {
    let (shown, document) = checked("[\n  7\n]").await;
    assert!(shown.contains("line 2, column 3"), "{shown}");
    assert_eq!(document["valid"], false);
    assert_eq!(document["error"]["line"], 2);
    assert_eq!(document["error"]["column"], 3);
    assert!(
        document["error"]["message"]
            .as_str()
            .unwrap()
            .contains("[0]")
    );
}
