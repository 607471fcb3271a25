//! HAProxy's configuration file from a template: Go's `text/template` with the data and the functions
//! the original gave it, so that its users' files give the same text.
//!
//! Values in, text out. The time is a value too: rendered twice with the same one, the same services
//! give the same text, which is how a change is told from the mere passing of time.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    rc::Rc,
};

use catalog::Timestamp;
use gotemplate::{Functions, Parameter, Record, Template, Value};

use super::instances::Shown;
use crate::template_record::{Instance, TYPE_NAME, time};

/// The template that is used when none is given.
pub(super) const BUILT_IN: &str = include_str!("default.cfg.tmpl");

/// What functions give that does not come from the cluster.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    /// `bindIP`.
    pub(super) bind: IpAddr,
    /// `.User`.
    pub(super) user: &'a str,
    /// `.Group`.
    pub(super) group: &'a str,
    /// Whether `ipFor` gives host names.
    pub(super) use_hostnames: bool,
    /// `statsSocket`.
    pub(super) stats_socket: &'a Path,
}

/// Why a template gives no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// It is no template, or calls functions there are not.
    #[error("parse: {0}")]
    Parse(#[from] gotemplate::ParseError),
    /// It asks for what there is not.
    #[error("execute: {0}")]
    Execute(#[from] gotemplate::ExecError),
}

/// Makes the text of `source`; `name` stands in errors.
///
/// # Errors
/// When it is no template, or asks for what there is not.
pub(super) fn render(
    name: &str,
    source: &str,
    shown: &Shown,
    surroundings: &Surroundings<'_>,
    now: Timestamp,
) -> Result<String, TemplateError> {
    let functions = functions(shown, surroundings, now);
    let template = Template::parse(name, source, &functions.names())?;
    Ok(template.execute(&data(shown, surroundings), &functions)?)
}

fn data(shown: &Shown, surroundings: &Surroundings<'_>) -> Value {
    let services = shown.services.iter().map(|(name, service)| {
        let records = service.instances.iter().map(|it| &it.record);
        let records = records.map(|it| Value::object(Instance::new(it)));
        (name.as_str(), Value::list(records))
    });
    Value::object(Record::new(
        "struct { Services map[string][]*service.Service; User string; Group string }",
        [
            ("Services", Value::map(services, Value::list([]))),
            ("User", surroundings.user.into()),
            ("Group", surroundings.group.into()),
        ],
    ))
}

fn functions<'a>(
    shown: &'a Shown,
    surroundings: &'a Surroundings<'a>,
    now: Timestamp,
) -> Functions<'a> {
    let service = |arguments: &[Value]| {
        let name = arguments[0].as_str().unwrap_or_default();
        shown.services.get(name)
    };
    let places = Rc::new(Places::of(shown));
    let of_instance = [Parameter::String, Parameter::Object(TYPE_NAME)];
    let socket = surroundings.stats_socket.to_string_lossy();
    Functions::new()
        .with("now", &[], move |_| Ok(time(now)))
        .with("bindIP", &[], |_| Ok(surroundings.bind.to_string().into()))
        .with("statsSocket", &[], move |_| {
            Ok(quoted(&socket).as_ref().into())
        })
        .with("getMode", &[Parameter::String], move |arguments| {
            let mode = service(arguments).map_or("http", |it| match it.mode {
                catalog::ProxyMode::Tcp => "tcp",
                catalog::ProxyMode::Http | catalog::ProxyMode::Ws => "http",
            });
            Ok(mode.into())
        })
        .with("getPorts", &[Parameter::String], move |arguments| {
            let ports = service(arguments).into_iter().flat_map(|it| &it.ports);
            let ports = ports.map(|(port, real)| (port.to_string(), real.to_string().into()));
            Ok(Value::map(ports, "".into()))
        })
        .with("portFor", &of_instance, {
            let places = places.clone();
            move |arguments| {
                let (_, port) = places.find(arguments);
                Ok(port.map_or_else(|| "-1".into(), |it| it.to_string().into()))
            }
        })
        .with("ipFor", &of_instance, move |arguments| {
            if service_port(arguments).is_none() {
                return Ok("-1".into());
            }
            let Some(instance) = arguments[1].downcast::<Instance>() else {
                return Ok("-1".into());
            };
            let hostname = instance.service().hostname.as_str();
            let (ip, _) = places.find(arguments);
            Ok(match ip {
                Some(ip) if !(surroundings.use_hostnames && is_host(hostname)) => {
                    ip.to_string().into()
                }
                _ => hostname.into(),
            })
        })
        .with("weightOf", &[Parameter::Object(TYPE_NAME)], |arguments| {
            let instance = arguments[0].downcast::<Instance>();
            let weight = instance.map_or(catalog::DEFAULT_WEIGHT, |it| it.service().weight());
            Ok(weight.to_string().into())
        })
        .with("sanitizeName", &[Parameter::String], |arguments| {
            Ok(sanitized(arguments[0].as_str().unwrap_or_default()).into())
        })
}

/// A number, as Go's `ParseInt` reads it.
fn service_port(arguments: &[Value]) -> Option<i64> {
    arguments[0].as_str()?.parse().ok()
}

/// Where every instance answers, by service, host and ID as templates see them.
struct Places<'a>(BTreeMap<(&'a str, &'a str, &'a str), &'a BTreeMap<u16, SocketAddr>>);

impl<'a> Places<'a> {
    fn of(shown: &'a Shown) -> Self {
        let instances = shown.services.values().flat_map(|it| &it.instances);
        let places = instances.map(|it| {
            let record = &it.record;
            let key = (&*record.name, &*record.hostname, &*record.id);
            (key, &it.routed)
        });
        Self(places.collect())
    }

    /// Where an instance answers for a ServicePort: as routed; of what is not routed, its first port.
    fn find(&self, arguments: &[Value]) -> (Option<IpAddr>, Option<u16>) {
        let wanted = service_port(arguments).and_then(|it| u16::try_from(it).ok());
        let (Some(wanted), Some(instance)) = (wanted, arguments[1].downcast::<Instance>()) else {
            return (None, None);
        };
        let record = instance.service();
        let key = (&*record.name, &*record.hostname, &*record.id);
        if let Some(at) = self.0.get(&key).and_then(|routed| routed.get(&wanted)) {
            return (Some(at.ip()), Some(at.port()));
        }
        let mut ports = record.port_list().iter();
        let port = ports.find(|port| port.service_port == wanted);
        let ip = port.and_then(catalog::Service::address_of);
        (ip, port.map(|port| port.port))
    }
}

/// Whether a resolver can be asked for it.
fn is_host(text: &str) -> bool {
    let labels = text.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    });
    labels && text.len() <= 253
}

/// Lower case letters, digits and hyphens; anything else becomes a hyphen.
pub(super) fn sanitized(name: &str) -> String {
    let is_kept = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.replace(|c| !is_kept(c), "-")
}

/// One word of HAProxy's configuration.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:@+".contains(c);
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
pub(super) mod tests;
