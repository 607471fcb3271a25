//! Templates of users: check arguments and HAProxy files.
//!
//! A template is bounded in steps and output, not in time, so the bounds are what is checked.

use gotemplate::{
    Functions, OUTPUT_BYTES_MAX, Parameter, Record, SOURCE_BYTES_MAX, Template, Time, Value,
};

/// Parses `input` and executes it.
pub fn run(input: &[u8]) {
    let source = String::from_utf8_lossy(input);
    if source.len() > SOURCE_BYTES_MAX {
        return;
    }
    let functions = functions();
    match Template::parse("t", &source, &functions.names()) {
        Ok(template) => match template.execute(&data(), &functions) {
            Ok(output) => assert!(output.len() <= OUTPUT_BYTES_MAX),
            Err(error) => drop(error.to_string()),
        },
        Err(error) => drop(error.to_string()),
    }
}

fn data() -> Value {
    let port = |number: i64| {
        Value::object(Record::new(
            "main.Port",
            [
                ("Type", "tcp".into()),
                ("Port", Value::Int64(number)),
                ("ServicePort", Value::Int64(10_000 + number)),
                ("IP", "10.20.0.11".into()),
            ],
        ))
    };
    let service = |id: &str| {
        Value::object(Record::new(
            "*main.Service",
            [
                ("ID", id.into()),
                ("Name", "web-é<&>".into()),
                ("Created", now()),
                ("Ports", Value::list([port(80), port(-1)])),
                ("Status", Value::Int(0)),
            ],
        ))
    };
    let services = Value::map(
        [
            ("web", Value::list([service("a1"), service("b2")])),
            ("Team/DB_main.1", Value::list([service("c3")])),
        ],
        Value::list([]),
    );
    Value::object(Record::new(
        "struct { Services map[string][]*main.Service; User string; Group string }",
        [
            ("Services", services),
            ("Service", service("d4")),
            ("Name", "web".into()),
            ("Hostname", "node-a".into()),
            ("Status", Value::Int(1)),
            ("Created", now()),
            ("Ports", Value::list([port(80)])),
            ("User", "haproxy".into()),
            ("Group", "".into()),
        ],
    ))
}

fn now() -> Value {
    match "2026-02-03T09:15:27.123456789Z".parse() {
        Ok(time) => Time::utc(time).into(),
        Err(_) => "not reached: the text is a time".into(),
    }
}

fn functions() -> Functions<'static> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Functions::new()
        .with("now", &[], |_| Ok(now()))
        .with("host", &[], |_| Ok("10.20.0.11".into()))
        .with("container", &[], |_| Ok("node-a".into()))
        .with("tcp", &[Parameter::Int64], |arguments| {
            Ok(arguments[0].clone())
        })
        .with("udp", &[Parameter::Int64], |_| Ok(Value::Int64(-1)))
        .with("bindIP", &[], |_| Ok("192.168.168.168".into()))
        .with("getMode", &[Parameter::String], |_| Ok("http".into()))
        .with("getPorts", &[Parameter::String], |_| {
            Ok(Value::map([("10100", "32790".into())], "".into()))
        })
        .with(
            "portFor",
            &[Parameter::String, Parameter::Object("*main.Service")],
            |arguments| Ok(arguments[0].clone()),
        )
        .with(
            "ipFor",
            &[Parameter::String, Parameter::Object("*main.Service")],
            |_| Err("no such port".to_owned()),
        )
        .with("sanitizeName", &[Parameter::String], move |arguments| {
            Ok(text(&arguments[0]).to_lowercase().into())
        })
}
