//! The JSON of the static file: an array of targets, with the field names Go Sidecar gave them.
//!
//! Not the meaning (defaults, identity, validation live in the parent), only the shape. Read by hand
//! rather than by derive for three reasons: Go matches keys without regard to case, `null` leaves a
//! field unset, and an error should say which field of which target it is about.

use std::{fmt, net::IpAddr};

use catalog::{Port, Protocol, ProxyMode, Service, Status, Timestamp};
use serde::de::{
    Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

use crate::config::values::parse_duration;

/// Most targets of a file.
const TARGETS_MAX: usize = 10_000;
/// Longest argument of a check, a URL or a command line.
const ARGS_BYTES_MAX: usize = 16 << 10;

/// One entry of the array.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) service: RawService,
    pub(super) check: RawCheck,
    /// Port of this host at which it takes events; 0 is none.
    pub(super) listen_port: PortNumber,
}

#[derive(Debug, Default)]
pub(super) struct RawService {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) hostname: String,
    pub(super) proxy_mode: String,
    pub(super) weight: Weight,
    pub(super) ports: Option<List<RawPort>>,
}

#[derive(Debug, Default)]
pub(super) struct RawPort {
    pub(super) kind: PortType,
    pub(super) port: PortNumber,
    pub(super) service_port: PortNumber,
    pub(super) ip: String,
}

#[derive(Debug, Default)]
pub(super) struct RawCheck {
    pub(super) kind: String,
    pub(super) args: String,
    pub(super) interval: Length,
    pub(super) timeout: Length,
    pub(super) rise: Count,
    pub(super) fall: Count,
}

/// Reads an object as Go does: unknown keys are ignored, of a repeated key the last counts, `null`
/// changes nothing. What the object holds is checked at its end, so that the error has its line.
macro_rules! object {
    ($type:ident, $expected:literal, { $($key:literal => $field:ident),+ $(,)? }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_unit<E: Error>(self) -> Result<$type, E> {
                        Ok($type::default())
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                        let mut it = $type::default();
                        while let Some(key) = map.next_key::<String>()? {
                            $(if key.eq_ignore_ascii_case($key) {
                                let value = map.next_value();
                                if let Some(value) = value.map_err(|error| within(concat!(".", $key), error))? {
                                    it.$field = value;
                                }
                                continue;
                            })+
                            map.next_value::<IgnoredAny>()?;
                        }
                        it.check().map_err(A::Error::custom)?;
                        Ok(it)
                    }
                }

                deserializer.deserialize_any(Fields)
            }
        }
    };
}

impl Target {
    fn check(&self) -> Result<(), String> {
        if self.service.name.is_empty() {
            return Err(".Service.Name: it is empty, expected the name of the service".to_owned());
        }
        Ok(())
    }
}

impl RawService {
    /// The instance's record; `hostname` and `ip` stand where the file is silent.
    pub(super) fn record(&self, hostname: &str, ip: IpAddr, created: Timestamp) -> Service {
        let or = |text: &str, default: &str| {
            if text.is_empty() {
                default.to_owned()
            } else {
                text.to_owned()
            }
        };
        let port = |raw: &RawPort| Port {
            kind: raw.kind.0.as_str().to_owned(),
            port: raw.port.0,
            service_port: raw.service_port.0,
            ip: or(&raw.ip, &ip.to_string()),
        };
        Service {
            id: String::new(),
            name: self.name.clone(),
            image: self.image.clone(),
            created,
            hostname: or(&self.hostname, hostname),
            ports: self
                .ports
                .as_ref()
                .map(|ports| ports.0.iter().map(port).collect()),
            updated: Timestamp::EPOCH,
            proxy_mode: or(&self.proxy_mode, ProxyMode::default().as_str()),
            status: Status::Unknown,
            weight: self.weight.0,
        }
    }

    fn check(&self) -> Result<(), String> {
        let mut record = self.record("any", IpAddr::from([0, 0, 0, 0]), Timestamp::EPOCH);
        record.id.push_str("any");
        record.validate().map_err(|error| error.to_string())
    }
}

impl RawPort {
    fn check(&self) -> Result<(), String> {
        if self.port.0 == 0 {
            return Err(".Port: it is 0 or absent, expected the real port, 1 to 65535".to_owned());
        }
        Ok(())
    }
}

impl RawCheck {
    fn check(&self) -> Result<(), String> {
        match self.args.len() {
            0..=ARGS_BYTES_MAX => Ok(()),
            length => Err(format!(
                ".Args: it is {length} bytes long, more than {ARGS_BYTES_MAX}"
            )),
        }
    }
}

object!(Target, "a target such as {\"Service\": {…}, \"Check\": {…}}", {
    "Service" => service,
    "Check" => check,
    "ListenPort" => listen_port,
});
object!(RawService, "a service such as {\"Name\": \"db\", \"Ports\": […]}", {
    "Name" => name,
    "Image" => image,
    "Hostname" => hostname,
    "ProxyMode" => proxy_mode,
    "Weight" => weight,
    "Ports" => ports,
});
object!(RawPort, "a port such as {\"Type\": \"tcp\", \"Port\": 5432, \"ServicePort\": 10432}", {
    "Type" => kind,
    "Port" => port,
    "ServicePort" => service_port,
    "IP" => ip,
});
object!(RawCheck, "a check such as {\"Type\": \"HttpGet\", \"Args\": \"http://…\"}", {
    "Type" => kind,
    "Args" => args,
    "Interval" => interval,
    "Timeout" => timeout,
    "Rise" => rise,
    "Fall" => fall,
});

/// A duration as Go writes it, kept as text; empty when not given. Whether it is a sensible one is
/// health's to say.
#[derive(Debug, Default)]
pub(super) struct Length(pub(super) String);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"3s\", \"1m30s\" or \"500ms\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Length, E> {
                if text.is_empty() || parse_duration(text).is_some() {
                    return Ok(Length(text.to_owned()));
                }
                Err(E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// A share of the traffic; `None` when not given.
#[derive(Debug, Default)]
pub(super) struct Weight(pub(super) Option<u8>);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Share;

        impl Visitor<'_> for Share {
            type Value = Weight;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a weight from 1 to 255")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Weight, E> {
                match u8::try_from(number) {
                    Ok(weight @ 1..) => Ok(Weight(Some(weight))),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(Share)
    }
}

/// A number of results, written as a number or as text, kept as text; empty when not given.
#[derive(Debug, Default)]
pub(super) struct Count(pub(super) String);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of results in a row such as 3")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Count, E> {
                if text.is_empty() || text.parse::<u32>().is_ok() {
                    return Ok(Count(text.to_owned()));
                }
                Err(E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

/// Puts a place, `.Key` or `[index]`, before an error's text, so that nested places make a path:
/// `[0].Service.Ports[1].Port: …`. `serde_json` keeps line and column at the text's end.
fn within<E: Error>(place: impl fmt::Display, error: E) -> E {
    let text = error.to_string();
    let joint = if text.starts_with(['.', '[']) {
        ""
    } else {
        ": "
    };
    E::custom(format_args!("{place}{joint}{text}"))
}

/// An array whose errors name the position, counted from 0.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                loop {
                    let index = items.len();
                    let item = seq.next_element();
                    match item.map_err(|error| within(format_args!("[{index}]"), error))? {
                        None => return Ok(List(items)),
                        Some(_) if index == TARGETS_MAX => {
                            let most = format_args!("more than {TARGETS_MAX} items");
                            return Err(A::Error::custom(most));
                        }
                        Some(item) => items.push(item),
                    }
                }
            }
        }

        deserializer.deserialize_any(Items(std::marker::PhantomData))
    }
}

/// A port from 0 to 65535.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct PortNumber(pub(super) u16);

impl<'de> Deserialize<'de> for PortNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = PortNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 0 to 65535")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<PortNumber, E> {
                let unexpected = Unexpected::Unsigned(number);
                let number = u16::try_from(number);
                number
                    .map(PortNumber)
                    .map_err(|_| E::invalid_value(unexpected, &self))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

/// `tcp`, the default, or `udp`, in any case.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortType(pub(super) Protocol);

impl Default for PortType {
    fn default() -> Self {
        Self(Protocol::Tcp)
    }
}

impl<'de> Deserialize<'de> for PortType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = PortType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"tcp\" or \"udp\"")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<PortType, E> {
                if word.is_empty() {
                    return Ok(PortType::default());
                }
                let unexpected = Unexpected::Str(word);
                let protocol = Protocol::parse(word);
                protocol
                    .map(PortType)
                    .ok_or_else(|| E::invalid_value(unexpected, &self))
            }
        }

        deserializer.deserialize_any(Word)
    }
}
