//! Templates in check arguments: Go's `text/template` over the instance, with the functions Go Sidecar
//! gave it. The language is `gotemplate`'s, the data and the functions are here.

use std::net::IpAddr;

use catalog::{Protocol, Service};
use gotemplate::{Functions, Parameter, Template, Value};

use crate::template_record::{Instance, real_port};

/// Why a template gives no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ArgumentsError {
    /// It is no template, or calls functions there are not.
    #[error(transparent)]
    Parse(#[from] gotemplate::ParseError),
    /// It asks for what there is not.
    #[error(transparent)]
    Execute(#[from] gotemplate::ExecError),
}

/// The argument `source` stands for, for one instance.
///
/// `{{ host }}` is `advertise_ip`, `{{ container }}` the record's host name, `{{ tcp N }}` and
/// `{{ udp N }}` the real port behind service port N, or -1; the dot is the record.
pub(super) fn evaluate(
    source: &str,
    service: &Service,
    advertise_ip: IpAddr,
) -> Result<String, ArgumentsError> {
    if !source.contains("{{") {
        return Ok(source.to_owned());
    }
    let port = |protocol| {
        move |arguments: &[Value]| Ok(real_port(service, arguments[0].as_int(), protocol))
    };
    let functions = Functions::new()
        .with("host", &[], |_| Ok(advertise_ip.to_string().into()))
        .with("container", &[], |_| Ok(service.hostname.as_str().into()))
        .with("tcp", &[Parameter::Int64], port(Protocol::Tcp))
        .with("udp", &[Parameter::Int64], port(Protocol::Udp));
    let template = Template::parse("check", source, &functions.names())?;
    Ok(template.execute(&Value::object(Instance::new(service)), &functions)?)
}

#[cfg(test)]
mod tests {
    use catalog::{Port, Status};

    use super::*;

    /// The record behind Go's answers below.
    fn record() -> Service {
        let port = |kind: &str, port, service_port| Port {
            kind: kind.to_owned(),
            port,
            service_port,
            ip: "10.20.0.11".to_owned(),
        };
        Service {
            id: "a1b2c3d4e5f6".to_owned(),
            name: "web".to_owned(),
            image: "registry.example:5000/team/web:1.4.2".to_owned(),
            created: "2026-02-03T09:15:27Z".parse().unwrap(),
            hostname: "node-a".to_owned(),
            ports: Some(vec![
                port("tcp", 32790, 10100),
                port("tcp", 32791, 9000),
                port("udp", 32053, 53),
                port("tcp", 32792, 0),
            ]),
            updated: "2026-02-03T09:16:00.123456789Z".parse().unwrap(),
            proxy_mode: "http".to_owned(),
            weight: None,
            status: Status::Alive,
        }
    }

    fn text(source: &str) -> Result<String, String> {
        evaluate(source, &record(), "10.20.0.11".parse().unwrap()).map_err(|it| it.to_string())
    }

    #[test]
    fn templates_see_what_go_showed_them() {
        for (source, output) in [
            ("no template", "no template"),
            (
                "http://{{ host }}:{{ tcp 10100 }}/",
                "http://10.20.0.11:32790/",
            ),
            (
                "http://{{host}}:{{tcp 9000}}/status",
                "http://10.20.0.11:32791/status",
            ),
            ("{{ udp 53 }}", "32053"),
            (
                "{{ udp 10100 }} {{ tcp 53 }} {{ tcp 1 }} {{ tcp 65537 }} {{ tcp -1 }}",
                "-1 -1 -1 -1 -1",
            ),
            (
                "http://{{ container }}:{{ tcp 10100 }}/x",
                "http://node-a:32790/x",
            ),
            (
                "{{ printf \"%s:%05d\" host (tcp 10100) }}",
                "10.20.0.11:32790",
            ),
            ("{{ $p := tcp 10100 }}{{ $p }}", "32790"),
            ("{{ .Name }}-{{ .ID }}", "web-a1b2c3d4e5f6"),
            (
                "{{ .Hostname }} {{ .ProxyMode }} {{ .Status }}",
                "node-a http 0",
            ),
            (
                "{{ if and (eq .ProxyMode \"http\") (gt .Status 0) }}a{{ else }}b{{ end }}",
                "b",
            ),
            (
                "{{ (index .Ports 2).Type }}{{ (index .Ports 2).Port }}",
                "udp32053",
            ),
            (
                "{{ range .Ports }}{{ .IP }}:{{ .ServicePort }} {{ end }}",
                "10.20.0.11:10100 10.20.0.11:9000 10.20.0.11:53 10.20.0.11:0 ",
            ),
            (
                "{{ .Version }} {{ .IsAlive }} {{ .IsTombstone }} {{ .IsDraining }}",
                "1.4.2 true false false",
            ),
            (
                "{{ .StatusString }} {{ .ListenerName }}",
                "Alive Service(web-a1b2c3d4e5f6)",
            ),
            (
                "{{ .PortForServicePort 10100 \"tcp\" }} {{ .PortForServicePort 1 \"tcp\" }}",
                "32790 -1",
            ),
            ("{{ .Created }}", "2026-02-03 09:15:27 +0000 UTC"),
            ("{{ .Updated.Unix }}", "1770110160"),
            (
                "{{ $ }}",
                "{a1b2c3d4e5f6 web registry.example:5000/team/web:1.4.2 2026-02-03 09:15:27 +0000 UTC node-a \
              [{tcp 32790 10100 10.20.0.11} {tcp 32791 9000 10.20.0.11} {udp 32053 53 10.20.0.11} \
              {tcp 32792 0 10.20.0.11}] 2026-02-03 09:16:00.123456789 +0000 UTC http 0}",
            ),
        ] {
            assert_eq!(text(source).as_deref(), Ok(output), "{source}");
        }
    }

    #[test]
    fn every_template_gives_what_go_gave() {
        let file = include_str!("../../../gotemplate/tests/vectors/check-args.json");
        let file: serde_json::Value = serde_json::from_str(file).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 73);
        for case in cases {
            let ours = text(case["template"].as_str().unwrap());
            match case.get("error") {
                // An empty output is left out of the file.
                None => {
                    let output = case.get("output").map_or("", |it| it.as_str().unwrap());
                    assert_eq!(ours.as_deref(), Ok(output), "{case}");
                }
                Some(_) => assert!(ours.is_err(), "{case}: {ours:?}"),
            }
        }
    }

    #[test]
    fn failing_templates_say_what_and_where() {
        for (source, error) in [
            ("{{ host", "unclosed action"),
            ("{{ nope }}", "function \"nope\" not defined"),
            ("{{ tcp \"10100\" }}", "expected integer"),
            (
                "{{ .Nope }}",
                "can't evaluate field Nope in type *service.Service",
            ),
            ("{{ .PortForServicePort 1 }}", "want 2 got 1"),
            (
                "{{ .PortForServicePort \"tcp\" 1 }}",
                "want an integer and a string",
            ),
            ("{{ .Version 1 }}", "want 0 got 1"),
        ] {
            let text = text(source).unwrap_err();
            assert!(text.contains(error), "{source}: {text}");
        }
    }

    #[test]
    fn an_instance_without_ports_has_an_empty_list() {
        let service = Service {
            ports: None,
            ..record()
        };
        let source = "{{ len .Ports }} {{ range .Ports }}x{{ else }}none{{ end }}";
        let ip = "::1".parse().unwrap();
        assert_eq!(evaluate(source, &service, ip).unwrap(), "0 none");
        assert_eq!(evaluate("{{ host }}", &service, ip).unwrap(), "::1");
    }
}
