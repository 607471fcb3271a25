//! Which question a method and a path ask. Pure; the recorded answers of Go Sidecar are its truth,
//! quirks included: below `/api/`, an unknown single segment is a known path with a wrong method.

use axum::http::Method;

use super::{
    commands::Dialect,
    ui,
    v2::{self, Question},
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `/`: where the page is.
    Home,
    /// The page, or a file of it.
    Ui {
        /// Its name.
        file: &'static str,
    },
    /// The page by a name it does not go by.
    UiByName,
    /// The old text page.
    Servers,
    /// Services by name, with members.
    Services,
    /// One service.
    OneService {
        /// Its name.
        name: String,
    },
    /// The whole state.
    State,
    /// A document now and after each change.
    Watch,
    /// Take an instance of this host out of traffic, or back.
    Drain {
        /// Its ID.
        id: String,
        /// Whether it comes back.
        undrain: bool,
        /// How it is told and answered.
        dialect: Dialect,
    },
    /// A browser asks what it may do.
    Preflight,
    /// A document in a format that does not exist.
    UnknownExtension {
        /// Whether the right document would be open to pages of other origins.
        cross_origin: bool,
    },
    /// What is told in words of our own.
    V2(Question),
    /// Envoy's first interface: the instances of a service at a ServicePort.
    EnvoyRegistration {
        /// `NAME:PORT`, whatever it is.
        service: String,
    },
    /// The same: all services at their ServicePorts.
    EnvoyClusters,
    /// The same: where they are reached.
    EnvoyListeners,
    /// Metrics for Prometheus.
    Metrics,
    /// Whether the process answers.
    Health,
    /// Whether the agent has all it waits for.
    Ready,
}

/// Why nothing can be asked this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No such path.
    NotFound,
    /// The path exists for other methods.
    MethodNotAllowed,
    /// The path is written unclean; this is the clean one.
    Moved(String),
}

/// Finds the question.
pub(super) fn resolve(method: &Method, path: &str) -> Result<Target, Refusal> {
    let Some(relative) = path.strip_prefix('/') else {
        return Err(Refusal::NotFound);
    };
    let segments: Vec<&str> = relative.split('/').collect();
    if let Some(clean) = cleaned(&segments) {
        return Err(Refusal::Moved(clean));
    }
    let get = |target| allowed(&[Method::GET], method, target);
    // Paths the original does not have, and those it gave to its file server, answer HEAD too.
    let read = |target| allowed(&[Method::GET, Method::HEAD], method, target);
    match segments.as_slice() {
        [""] => get(Target::Home),
        ["ui"] | ["ui", ""] => read(Target::Ui {
            file: ui::page().name,
        }),
        ["ui", "index.html"] => read(Target::UiByName),
        ["ui", name] => {
            let file = ui::file(name).ok_or(Refusal::NotFound)?.name;
            read(Target::Ui { file })
        }
        ["servers"] => get(Target::Servers),
        ["metrics"] => read(Target::Metrics),
        ["health"] => read(Target::Health),
        ["ready"] => read(Target::Ready),
        ["v1", "registration", service] => get(Target::EnvoyRegistration {
            service: decoded(service).ok_or(Refusal::NotFound)?,
        }),
        ["v1", file] if !file.is_empty() && method == Method::OPTIONS => Ok(Target::Preflight),
        // Which cluster and which node ask makes no difference.
        ["v1", "clusters"] | ["v1", "clusters", _, _] => get(Target::EnvoyClusters),
        ["v1", "listeners"] | ["v1", "listeners", _, _] => get(Target::EnvoyListeners),
        ["api", "services", id, order @ ("drain" | "undrain")] => {
            command(method, id, order, Dialect::Old)
        }
        ["api", "v2", "instances", id, order @ ("drain" | "undrain")]
            if *method == Method::POST =>
        {
            command(method, id, order, Dialect::V2)
        }
        ["api", "v2", rest @ ..] if !rest.is_empty() => {
            let question = v2::question(rest, decoded).ok_or(Refusal::NotFound)?;
            read(Target::V2(question))
        }
        ["api", "services", file] => get(one_service(file).ok_or(Refusal::NotFound)?),
        ["api", file] if !file.is_empty() => match (method, document(file)) {
            (&Method::OPTIONS, _) => Ok(Target::Preflight),
            (_, Some(target)) => get(target),
            (_, None) => Err(Refusal::MethodNotAllowed),
        },
        [file] => get(document(file).ok_or(Refusal::NotFound)?),
        _ => Err(Refusal::NotFound),
    }
}

fn command(method: &Method, id: &str, order: &str, dialect: Dialect) -> Result<Target, Refusal> {
    let target = Target::Drain {
        id: decoded(id).ok_or(Refusal::NotFound)?,
        undrain: order == "undrain",
        dialect,
    };
    allowed(&[Method::POST], method, target)
}

fn allowed(methods: &[Method], method: &Method, target: Target) -> Result<Target, Refusal> {
    if methods.contains(method) {
        Ok(target)
    } else {
        Err(Refusal::MethodNotAllowed)
    }
}

/// The documents that exist both below `/api` and, for old clients, at the root.
fn document(file: &str) -> Option<Target> {
    if file == "watch" {
        return Some(Target::Watch);
    }
    match file.split_once('.')? {
        ("services", "json") => Some(Target::Services),
        ("state", "json") => Some(Target::State),
        ("services", _) => Some(Target::UnknownExtension { cross_origin: true }),
        ("state", _) => Some(Target::UnknownExtension {
            cross_origin: false,
        }),
        _ => None,
    }
}

/// `NAME.json`; the name may hold dots, and slashes when they are percent-encoded.
fn one_service(file: &str) -> Option<Target> {
    let file = decoded(file)?;
    let (name, extension) = file.rsplit_once('.')?;
    if name.is_empty() || extension.is_empty() {
        return None;
    }
    Some(match extension {
        "json" => Target::OneService {
            name: name.to_owned(),
        },
        _ => Target::UnknownExtension { cross_origin: true },
    })
}

/// Undoes percent-encoding; `None` when it is broken or hides something that is no UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|it| u8::try_from(it).ok())
        };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

/// The path without empty, `.` and `..` segments, when it has any.
fn cleaned(segments: &[&str]) -> Option<String> {
    let (last, inner) = segments.split_last()?;
    let unclean = |segment: &str| matches!(segment, "." | "..");
    if !inner
        .iter()
        .any(|segment| segment.is_empty() || unclean(segment))
        && !unclean(last)
    {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in segments {
        match *segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut path = format!("/{}", kept.join("/"));
    if (last.is_empty() || unclean(last)) && path != "/" {
        path.push('/');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Result<Target, Refusal> {
        resolve(&Method::GET, path)
    }

    fn one(name: &str) -> Result<Target, Refusal> {
        Ok(Target::OneService { name: name.into() })
    }

    #[test]
    fn names_may_hold_dots_and_encoded_slashes() {
        assert_eq!(get("/api/services/web.json"), one("web"));
        assert_eq!(get("/api/services/web.v2.json"), one("web.v2"));
        assert_eq!(get("/api/services/acme%2Fweb%3a1.json"), one("acme/web:1"));
        assert_eq!(get("/api/services/gr%C3%BCn.json"), one("grün"));
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(
                get(&format!("/api/services/{broken}.json")),
                Err(Refusal::NotFound),
                "{broken}"
            );
        }
        assert_eq!(get("/api/services/web"), Err(Refusal::NotFound));
        assert_eq!(get("/api/services/.json"), Err(Refusal::NotFound));
    }

    #[test]
    fn segments_of_new_paths_are_decoded() {
        let service = Question::Service {
            name: "acme/web:1".into(),
        };
        let path = "/api/v2/services/acme%2Fweb%3a1";
        assert_eq!(get(path), Ok(Target::V2(service)));
        let instance = Question::Instance {
            hostname: "web 01".into(),
            id: "0f".into(),
        };
        assert_eq!(
            resolve(&Method::HEAD, "/api/v2/instances/web%2001/0f"),
            Ok(Target::V2(instance))
        );
    }

    #[test]
    fn envoys_first_interface_has_its_own_paths() {
        let registration = |service: &str| {
            Ok(Target::EnvoyRegistration {
                service: service.into(),
            })
        };
        assert_eq!(get("/v1/registration/web:80"), registration("web:80"));
        assert_eq!(get("/v1/registration/a%3Ab:80"), registration("a:b:80"));
        for path in ["/v1/clusters", "/v1/clusters/lab/node"] {
            assert_eq!(get(path), Ok(Target::EnvoyClusters));
        }
        for path in ["/v1/listeners", "/v1/listeners/lab/node"] {
            assert_eq!(get(path), Ok(Target::EnvoyListeners));
        }
        assert_eq!(
            resolve(&Method::OPTIONS, "/v1/clusters"),
            Ok(Target::Preflight)
        );
        assert_eq!(get("/v1/clusters/lab"), Err(Refusal::NotFound));
        let refusal = resolve(&Method::POST, "/v1/clusters");
        assert_eq!(refusal, Err(Refusal::MethodNotAllowed));
    }

    #[test]
    fn old_paths_ask_the_same() {
        for path in [
            "/services.json",
            "/state.json",
            "/watch",
            "/services.xml",
            "/state.tar.gz",
        ] {
            assert_eq!(get(path), get(&format!("/api{path}")), "{path}");
            assert!(get(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn wrong_methods_are_told_from_unknown_paths() {
        use Refusal::{MethodNotAllowed, NotFound};
        for (method, path, refusal) in [
            (Method::HEAD, "/api/services.json", MethodNotAllowed),
            (Method::HEAD, "/watch", MethodNotAllowed),
            (Method::POST, "/state.json", MethodNotAllowed),
            (Method::DELETE, "/api/services/web.json", MethodNotAllowed),
            (Method::GET, "/api/services/x/drain", MethodNotAllowed),
            (Method::OPTIONS, "/api/services/web.json", MethodNotAllowed),
            (Method::POST, "/metrics", MethodNotAllowed),
            (Method::GET, "/api/anything", MethodNotAllowed),
            (Method::POST, "/api/v2/services", MethodNotAllowed),
            (Method::GET, "/api/v2", MethodNotAllowed),
            (Method::GET, "/api/v2/", NotFound),
            (Method::GET, "/api/v2/services/", NotFound),
            (Method::GET, "/api/v2/services/a/b", NotFound),
            (Method::GET, "/api/v2/services/%ff", NotFound),
            (Method::GET, "/api/any/thing", NotFound),
            (Method::GET, "/api", NotFound),
            (Method::GET, "/api/", NotFound),
            (Method::OPTIONS, "/other", NotFound),
            (Method::OPTIONS, "*", NotFound),
        ] {
            assert_eq!(resolve(&method, path), Err(refusal), "{method} {path}");
        }
        assert_eq!(
            resolve(&Method::OPTIONS, "/api/other"),
            Ok(Target::Preflight)
        );
        assert_eq!(resolve(&Method::HEAD, "/health"), Ok(Target::Health));
        for (path, undrain, dialect) in [
            ("/api/services/0f/drain", false, Dialect::Old),
            ("/api/services/0f/undrain", true, Dialect::Old),
            ("/api/v2/instances/0f/drain", false, Dialect::V2),
            ("/api/v2/instances/0%66/undrain", true, Dialect::V2),
        ] {
            let drain = Target::Drain {
                id: "0f".into(),
                undrain,
                dialect,
            };
            assert_eq!(resolve(&Method::POST, path), Ok(drain), "{path}");
        }
    }

    #[test]
    fn unclean_paths_are_sent_to_the_clean_one() {
        for (path, clean) in [
            ("//api//state.json", "/api/state.json"),
            ("//elsewhere.example", "/elsewhere.example"),
            ("/api/./state.json", "/api/state.json"),
            ("/ui/../api/watch", "/api/watch"),
            ("/ui//", "/ui/"),
            ("/../..", "/"),
        ] {
            assert_eq!(get(path), Err(Refusal::Moved(clean.into())), "{path}");
        }
        let page = Target::Ui { file: "index.html" };
        assert_eq!(get("/ui/"), Ok(page));
        let style = Target::Ui { file: "style.css" };
        assert_eq!(get("/ui/style.css"), Ok(style));
        assert_eq!(get("/ui/other.css"), Err(Refusal::NotFound));
        assert_eq!(get("/"), Ok(Target::Home));
    }
}
