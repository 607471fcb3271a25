//! An instance as users' templates see it: Go's fields, and the methods of Go's type. Check arguments
//! and HAProxy configuration files are made from it.

use catalog::{Port, Protocol, Service, Status, Timestamp};
use gotemplate::{Object, Record, Time, Value};

/// Go's name of the type; errors quote it, and functions ask for it.
pub(crate) const TYPE_NAME: &str = "*service.Service";

/// The record with its fields made into values once.
#[derive(Debug)]
pub(crate) struct Instance {
    service: Service,
    fields: Record,
}

impl Instance {
    pub(crate) fn new(service: &Service) -> Self {
        let fields = Record::new(
            TYPE_NAME,
            [
                ("ID", service.id.as_str().into()),
                ("Name", service.name.as_str().into()),
                ("Image", service.image.as_str().into()),
                ("Created", time(service.created)),
                ("Hostname", service.hostname.as_str().into()),
                ("Ports", Value::list(service.port_list().iter().map(port))),
                ("Updated", time(service.updated)),
                ("ProxyMode", service.proxy_mode.as_str().into()),
                ("Status", Value::Int(service.status.as_wire().into())),
            ],
        );
        Self {
            service: service.clone(),
            fields,
        }
    }

    /// The record itself.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    fn property(&self, method: &str) -> Option<Value> {
        let service = &self.service;
        Some(match method {
            "IsAlive" => service.is_alive().into(),
            "IsTombstone" => service.is_tombstone().into(),
            "IsDraining" => (service.status == Status::Draining).into(),
            "StatusString" => service.status.to_string().into(),
            "Version" => service.version().into(),
            "ListenerName" => format!("Service({}-{})", service.name, service.id).into(),
            _ => return None,
        })
    }

    fn port_for_service_port(&self, arguments: &[Value]) -> Result<Value, String> {
        let [number, kind] = arguments else {
            return Err(format!(
                "wrong number of args: want 2 got {}",
                arguments.len()
            ));
        };
        match (number.as_int(), kind.as_str()) {
            (Some(number), Some(kind)) => Ok(Protocol::parse(kind)
                .map_or(Value::Int64(-1), |protocol| {
                    real_port(&self.service, Some(number), protocol)
                })),
            _ => Err("wrong type of args: want an integer and a string".to_owned()),
        }
    }
}

impl Object for Instance {
    fn type_name(&self) -> &str {
        self.fields.type_name()
    }

    fn field(&self, name: &str) -> Option<Value> {
        self.fields.field(name)
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        if method == "PortForServicePort" {
            return Some(self.port_for_service_port(arguments));
        }
        let value = self.property(method)?;
        Some(if arguments.is_empty() {
            Ok(value)
        } else {
            Err(format!(
                "wrong number of args: want 0 got {}",
                arguments.len()
            ))
        })
    }

    fn print(&self) -> String {
        self.fields.print()
    }
}

fn port(port: &Port) -> Value {
    Value::object(Record::new(
        "service.Port",
        [
            ("Type", port.kind.as_str().into()),
            ("Port", Value::Int64(port.port.into())),
            ("ServicePort", Value::Int64(port.service_port.into())),
            ("IP", port.ip.as_str().into()),
        ],
    ))
}

/// A stamp as a value of Go's `time.Time` in UTC.
pub(crate) fn time(timestamp: Timestamp) -> Value {
    // Both types hold the same range.
    let moment = jiff::Timestamp::from_nanosecond(timestamp.as_unix_nanos());
    Time::utc(moment.unwrap_or_default()).into()
}

/// The real port behind a ServicePort, or -1.
pub(crate) fn real_port(service: &Service, service_port: Option<i64>, protocol: Protocol) -> Value {
    let port = service_port
        .and_then(|number| u16::try_from(number).ok())
        .and_then(|number| service.port_for_service_port(number, protocol));
    Value::Int64(port.map_or(-1, |port| i64::from(port.port)))
}
