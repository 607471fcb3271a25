//! What a proxy changes in the heads of messages that hyper reads and writes: fields that concern one connection
//! only stay on it, and the endpoint is told where the request came from. Pure. Those of HTTP/1.1 from end to
//! end are written by [`super::h1`], by the same table of fields.
//!
//! RFC 9110 sections 7.6 (forwarding), 7.8 (upgrade); RFC 9112 section 3.2 (the request's target).

use std::net::SocketAddr;

use hyper::{
    HeaderMap, Method, Uri, Version,
    header::{self, Entry, HeaderName, HeaderValue},
    http::{
        request, response,
        uri::{Authority, PathAndQuery},
    },
};

use super::fields::{Field, VIA_1_0, VIA_1_1, VIA_2, has_word, words};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Why a request is not forwarded at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// HTTP/1.1 demands a Host field.
    #[error("the request has no Host")]
    NoHost,
    /// Two of them may mean two things to two readers.
    #[error("the request has more than one Host")]
    ManyHosts,
    /// It does not say what it wants.
    #[error("the target of the request is not one of a server behind a proxy")]
    BadTarget,
    /// This is no forward proxy.
    #[error("CONNECT is not served here")]
    Connect,
}

/// Makes a client's request one that can be sent to an endpoint.
///
/// # Errors
/// When nobody should forward it.
pub(super) fn prepare_request(
    head: &mut request::Parts,
    client: &HeaderValue,
    server: SocketAddr,
) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    aim(head, server)?;
    let fields = &mut head.headers;
    let mut te = fields.get_all(header::TE).iter();
    let wants_trailers = te.any(|it| has_word(it.as_bytes(), b"trailers"));
    remove_hop_by_hop(fields);
    if wants_trailers {
        fields.insert(header::TE, TRAILERS);
    }
    append(fields, FORWARDED_FOR, client.clone());
    if let Entry::Vacant(vacant) = fields.entry(FORWARDED_PROTO) {
        vacant.insert(HeaderValue::from_static("http"));
    }
    append(fields, header::VIA, via(head.version));
    Ok(())
}

/// Makes an endpoint's answer one for the client.
pub(super) fn prepare_response(head: &mut response::Parts) {
    remove_hop_by_hop(&mut head.headers);
    append(&mut head.headers, header::VIA, via(head.version));
}

/// What an endpoint is asked for: the path alone, and the authority if the target has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) path: &'a str,
    pub(super) authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// # Errors
    /// When it is not one of a server behind a proxy.
    pub(super) fn of(uri: &'a Uri, is_options: bool) -> Result<Self, Refusal> {
        let authority = uri.authority().map(Authority::as_str);
        if authority.is_some_and(|it| it.contains('@')) {
            return Err(Refusal::BadTarget);
        }
        // `OPTIONS *` and a path are all that is left; a target such as `host:80` has no path.
        let path = match uri.path_and_query().map(PathAndQuery::as_str) {
            Some(path) if path.starts_with('/') => path,
            Some("*") if is_options => "*",
            None if uri.scheme().is_some() => "/",
            _ => return Err(Refusal::BadTarget),
        };
        Ok(Self { path, authority })
    }
}

/// Sets target and Host to what an endpoint is asked: the path alone, and the authority as the client gave it.
fn aim(head: &mut request::Parts, server: SocketAddr) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Refusal::ManyHosts);
    }
    let target = Target::of(&head.uri, head.method == Method::OPTIONS)?;
    // What a target names counts more than what the field says (RFC 9112, 3.2.2).
    if let Some(authority) = target.authority {
        let host = HeaderValue::from_str(authority).map_err(|_| Refusal::BadTarget)?;
        let path = target.path.parse().map_err(|_| Refusal::BadTarget)?;
        head.headers.insert(header::HOST, host);
        head.uri = path;
    } else if host.is_none() {
        if head.version == Version::HTTP_11 {
            return Err(Refusal::NoHost);
        }
        head.headers.insert(header::HOST, address_value(server));
    }
    Ok(())
}

/// Removes what concerns one connection only.
fn remove_hop_by_hop(fields: &mut HeaderMap) {
    // Most messages have nothing of it, and to look once is cheaper than to remove.
    if !fields.keys().any(|it| field(it).is_hop_by_hop()) {
        return;
    }
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| words(value.as_bytes()))
        .filter_map(|word| HeaderName::from_bytes(word).ok())
        .filter(|name| !field(name).is_kept())
        .collect();
    let hop_by_hop = fields.keys().filter(|it| field(it).is_hop_by_hop());
    let gone: Vec<HeaderName> = hop_by_hop.cloned().chain(named).collect();
    for name in gone {
        fields.remove(name);
    }
}

fn field(name: &HeaderName) -> Field {
    Field::of(name.as_str().as_bytes())
}

/// Adds to a list, on one line.
fn append(fields: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let known: Vec<&[u8]> = fields
        .get_all(&name)
        .iter()
        .map(HeaderValue::as_bytes)
        .filter(|it| !it.is_empty())
        .collect();
    if known.is_empty() {
        fields.insert(name, value);
        return;
    }
    let mut list = known.join(&b", "[..]);
    list.extend_from_slice(b", ");
    list.extend_from_slice(value.as_bytes());
    // Made of valid values and commas: it is one.
    if let Ok(list) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        fields.insert(name, list);
    }
}

/// An address as the value of a field.
pub(super) fn address_value(address: impl ToString) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => VIA_1_0,
        Version::HTTP_2 => VIA_2,
        _ => VIA_1_1,
    })
}

#[cfg(test)]
mod tests {
    use hyper::{Request, Response};

    use super::*;

    const CLIENT: &str = "10.1.2.3";

    fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// What comes of it, and that the same comes of it where hyper has no part.
    fn prepared(mut head: request::Parts) -> Result<request::Parts, Refusal> {
        let server = "192.168.168.168:10000".parse().unwrap();
        let relayed = crate::proxy::builtin::http::h1::tests::relayed(&head, CLIENT, server);
        let prepared = prepare_request(&mut head, &HeaderValue::from_static(CLIENT), server);
        let prepared = prepared.map(|()| head);
        match (&prepared, &relayed) {
            (Ok(head), Ok((target, fields))) => {
                assert_eq!(head.uri.to_string(), *target);
                let mut expected: Vec<(String, String)> = head
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                    .collect();
                let mut fields = fields.clone();
                // The relay frames itself what it passes on.
                fields.retain(|(name, _)| name != "transfer-encoding");
                fields.sort();
                expected.sort();
                assert_eq!(fields, expected);
            }
            (prepared, relayed) => {
                let refusals = (prepared.as_ref().err(), relayed.as_ref().err());
                assert_eq!(refusals.0, refusals.1);
            }
        }
        prepared
    }

    fn field<'a>(head: &'a request::Parts, name: &str) -> Vec<&'a str> {
        let values = head.headers.get_all(name).iter();
        values.map(|it| it.to_str().unwrap()).collect()
    }

    #[test]
    fn the_endpoint_is_told_where_a_request_came_from() {
        let head = prepared(request("GET", "/a?b", &[("host", "web")])).unwrap();
        assert_eq!(field(&head, "x-forwarded-for"), [CLIENT]);
        assert_eq!(field(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(field(&head, "via"), ["1.1 sidecar"]);
        assert_eq!(head.uri, "/a?b");
    }

    #[test]
    fn what_earlier_proxies_said_is_kept_in_order() {
        let fields = [
            ("host", "web"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2, 3.3.3.3"),
            ("x-forwarded-proto", "https"),
            ("via", "1.1 edge"),
        ];
        let head = prepared(request("GET", "/", &fields)).unwrap();
        let chain = "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.1.2.3";
        assert_eq!(field(&head, "x-forwarded-for"), [chain]);
        assert_eq!(field(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(field(&head, "via"), ["1.1 edge, 1.1 sidecar"]);
    }

    #[test]
    fn fields_of_one_connection_stay_on_it() {
        let fields = [
            ("host", "web"),
            ("connection", "close, X-Secret , upgrade"),
            ("connection", "te"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, deflate"),
            ("transfer-encoding", "chunked"),
            ("x-other", "stays"),
        ];
        let head = prepared(request("GET", "/", &fields)).unwrap();
        for name in ["connection", "x-secret", "keep-alive", "proxy-connection"] {
            assert!(field(&head, name).is_empty(), "{name}");
        }
        assert!(field(&head, "transfer-encoding").is_empty());
        assert_eq!(field(&head, "te"), ["trailers"]);
        assert_eq!(field(&head, "x-other"), ["stays"]);
    }

    #[test]
    fn connection_cannot_take_away_what_the_message_is_made_of() {
        let fields = [
            ("host", "web"),
            ("content-length", "3"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "1.1.1.1"),
            (
                "connection",
                "host, content-length, cookie, x-forwarded-for",
            ),
        ];
        let head = prepared(request("POST", "/", &fields)).unwrap();
        for name in ["host", "content-length", "cookie"] {
            assert_eq!(field(&head, name).len(), 1, "{name}");
        }
        assert_eq!(field(&head, "x-forwarded-for"), ["1.1.1.1, 10.1.2.3"]);
    }

    #[test]
    fn a_target_with_an_authority_decides_about_the_host() {
        let head = prepared(request("GET", "http://a.b:81/x", &[("host", "other")])).unwrap();
        assert_eq!(field(&head, "host"), ["a.b:81"]);
        assert_eq!(head.uri, "/x");
        let head = prepared(request("OPTIONS", "*", &[("host", "web")])).unwrap();
        assert_eq!(head.uri, "*");
        let mut old = request("GET", "/", &[]);
        old.version = Version::HTTP_10;
        let head = prepared(old).unwrap();
        assert_eq!(field(&head, "host"), ["192.168.168.168:10000"]);
    }

    #[test]
    fn requests_nobody_should_forward_are_refused() {
        let two = [("host", "a"), ("host", "b")];
        for (head, refusal) in [
            (request("GET", "/", &[]), Refusal::NoHost),
            (request("GET", "/", &two), Refusal::ManyHosts),
            (request("CONNECT", "a:1", &[]), Refusal::Connect),
            (request("GET", "a:1", &[("host", "a")]), Refusal::BadTarget),
            (request("GET", "*", &[("host", "a")]), Refusal::BadTarget),
            (request("GET", "http://u@a/", &[]), Refusal::BadTarget),
        ] {
            assert_eq!(prepared(head).unwrap_err(), refusal);
        }
    }

    #[test]
    fn answers_lose_what_concerns_the_endpoints_connection() {
        let response = Response::builder()
            .header("connection", "close, x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("transfer-encoding", "chunked")
            .header("content-length", "3");
        let mut head = response.body(()).unwrap().into_parts().0;
        prepare_response(&mut head);
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "via"]);
    }
}
