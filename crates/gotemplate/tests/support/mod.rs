//! The data and functions of the two kinds of templates, as Go saw them when it made the vectors.

#![allow(
    clippy::unwrap_used,
    reason = "outside of test functions clippy does not see that this is a test"
)]

use std::collections::BTreeMap;

use gotemplate::{Functions, Object, Parameter, Record, Time, Value};
use serde_json::Value as Json;

/// A service record: fields in the order of the record, and the methods templates use.
#[derive(Debug)]
pub(crate) struct Service {
    fields: Record,
    status: i64,
    ports: Vec<Port>,
    hostname: String,
}

#[derive(Debug)]
struct Port {
    kind: String,
    port: i64,
    service_port: i64,
    ip: String,
}

impl Service {
    pub(crate) fn read(json: &Json) -> Self {
        let text = |name: &str| Value::from(json[name].as_str().unwrap());
        let time = |name: &str| -> Value {
            Time::utc(json[name].as_str().unwrap().parse().unwrap()).into()
        };
        let ports: Vec<_> = json["Ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(Port::read)
            .collect();
        let status = json["Status"].as_i64().unwrap();
        let fields = Record::new(
            "*main.Service",
            [
                ("ID", text("ID")),
                ("Name", text("Name")),
                ("Image", text("Image")),
                ("Created", time("Created")),
                ("Hostname", text("Hostname")),
                ("Ports", Value::list(ports.iter().map(Port::value))),
                ("Updated", time("Updated")),
                ("ProxyMode", text("ProxyMode")),
                ("Status", Value::Int(status)),
            ],
        );
        let hostname = json["Hostname"].as_str().unwrap().to_owned();
        Self {
            fields,
            status,
            ports,
            hostname,
        }
    }

    fn port_of(&self, service_port: i64, kind: Option<&str>) -> Option<&Port> {
        self.ports.iter().find(|port| {
            port.service_port == service_port && kind.is_none_or(|kind| kind == port.kind)
        })
    }

    fn real_port(&self, service_port: i64, kind: &str) -> Value {
        Value::Int64(
            self.port_of(service_port, Some(kind))
                .map_or(-1, |port| port.port),
        )
    }
}

impl Object for Service {
    fn type_name(&self) -> &str {
        self.fields.type_name()
    }

    fn field(&self, name: &str) -> Option<Value> {
        self.fields.field(name)
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (method, arguments) {
            ("IsAlive", []) => Some(Ok((self.status == 0).into())),
            ("PortForServicePort", [Value::Int(port), Value::String(kind)]) => {
                Some(Ok(self.real_port(*port, kind)))
            }
            ("IsAlive" | "PortForServicePort", _) => Some(Err("wrong arguments".to_owned())),
            _ => None,
        }
    }

    fn print(&self) -> String {
        self.fields.print()
    }
}

impl Port {
    fn read(json: &Json) -> Self {
        Self {
            kind: json["Type"].as_str().unwrap().to_owned(),
            port: json["Port"].as_i64().unwrap(),
            service_port: json["ServicePort"].as_i64().unwrap(),
            ip: json["IP"].as_str().unwrap().to_owned(),
        }
    }

    fn value(&self) -> Value {
        Value::object(Record::new(
            "main.Port",
            [
                ("Type", self.kind.as_str().into()),
                ("Port", Value::Int64(self.port)),
                ("ServicePort", Value::Int64(self.service_port)),
                ("IP", self.ip.as_str().into()),
            ],
        ))
    }
}

/// What a check's arguments are executed with.
pub(crate) fn check_args(file: &Json) -> (Value, Functions<'static>) {
    let find = |kind: &'static str| {
        let service = Service::read(&file["service"]);
        move |arguments: &[Value]| Ok(service.real_port(arguments[0].as_int().unwrap(), kind))
    };
    let service = Service::read(&file["service"]);
    let hostname = service.hostname.clone();
    let functions = Functions::new()
        .with("host", &[], |_| Ok("10.20.0.11".into()))
        .with("container", &[], move |_| Ok(hostname.as_str().into()))
        .with("tcp", &[Parameter::Int64], find("tcp"))
        .with("udp", &[Parameter::Int64], find("udp"));
    (Value::object(service), functions)
}

/// What an HAProxy file is executed with.
pub(crate) fn haproxy(file: &Json) -> (Value, Functions<'static>) {
    let service = |name: &str| Value::object(Service::read(&file[name]));
    let services = Value::map(
        [
            (
                "web",
                Value::list([service("service"), service("service2")]),
            ),
            ("Team/DB_main.1", Value::list([service("service3")])),
        ],
        Value::list([]),
    );
    let data = Record::new(
        "struct { Services map[string][]*main.Service; User string; Group string }",
        [
            ("Services", services),
            ("User", "haproxy".into()),
            ("Group", "".into()),
        ],
    );
    let ports: BTreeMap<&str, Value> = BTreeMap::from([
        (
            "web",
            Value::map(
                [("10100", "32790".into()), ("9000", "32791".into())],
                "".into(),
            ),
        ),
        (
            "Team/DB_main.1",
            Value::map([("10200", "5432".into())], "".into()),
        ),
    ]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let with_service = [Parameter::String, Parameter::Object("*main.Service")];
    let functions = Functions::new()
        .with("now", &[], |_| {
            Ok(Time::utc("2026-02-03T09:15:27.123456789Z".parse().unwrap()).into())
        })
        .with("bindIP", &[], |_| Ok("192.168.168.168".into()))
        .with("getMode", &[Parameter::String], move |arguments| {
            Ok(if text(&arguments[0]) == "web" {
                "http"
            } else {
                "tcp"
            }
            .into())
        })
        .with("getPorts", &[Parameter::String], move |arguments| {
            let none = || Value::map::<String>([], "".into());
            Ok(ports
                .get(text(&arguments[0]).as_str())
                .cloned()
                .unwrap_or_else(none))
        })
        .with("portFor", &with_service, move |arguments| {
            let service: &Service = arguments[1].downcast().unwrap();
            let port = text(&arguments[0])
                .parse()
                .ok()
                .and_then(|port| service.port_of(port, None));
            Ok(port.map_or_else(|| "-1".into(), |port| port.port.to_string().into()))
        })
        .with("ipFor", &with_service, move |arguments| {
            let service: &Service = arguments[1].downcast().unwrap();
            let Ok(port) = text(&arguments[0]).parse() else {
                return Ok("-1".into());
            };
            let found = service.port_of(port, None);
            Ok(found
                .map_or(service.hostname.as_str(), |port| port.ip.as_str())
                .into())
        })
        .with("sanitizeName", &[Parameter::String], move |arguments| {
            let keep = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let name = text(&arguments[0]);
            Ok(name
                .chars()
                .map(|c| if keep(c) { c } else { '-' })
                .collect::<String>()
                .into())
        });
    (Value::object(data), functions)
}

/// Makes the data and functions that the templates of a vector file were executed with.
pub(crate) type World = fn(&Json) -> (Value, Functions<'static>);

/// The two vector files.
pub(crate) fn vectors() -> [(Json, World); 2] {
    let read = |text: &str| serde_json::from_str(text).unwrap();
    [
        (read(include_str!("../vectors/check-args.json")), check_args),
        (read(include_str!("../vectors/haproxy.json")), haproxy),
    ]
}
