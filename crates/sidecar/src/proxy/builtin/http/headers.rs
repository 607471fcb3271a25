//! What a proxy changes in the heads of messages: fields that concern one connection only stay on it, and the
//! endpoint is told where the request came from. Pure.
//!
//! RFC 9110 sections 7.6 (forwarding), 7.8 (upgrade); RFC 9112 section 3.2 (the request's target).

use std::net::SocketAddr;

use hyper::{
    HeaderMap, Method, Uri, Version,
    header::{self, Entry, HeaderName, HeaderValue},
    http::{request, response, uri::PathAndQuery},
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// How this proxy signs what it forwards.
const VIA_1_1: HeaderValue = HeaderValue::from_static("1.1 sidecar");
const VIA_1_0: HeaderValue = HeaderValue::from_static("1.0 sidecar");
const VIA_2: HeaderValue = HeaderValue::from_static("2 sidecar");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
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

/// Makes a client's request one that can be sent to an endpoint. Says whether it asks for another protocol.
///
/// # Errors
/// When nobody should forward it.
pub(super) fn prepare_request(
    head: &mut request::Parts,
    client: &HeaderValue,
    server: SocketAddr,
) -> Result<bool, Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    aim(head, server)?;
    let mut asks_upgrade = false;
    let fields = &mut head.headers;
    if has_hop_by_hop(fields) {
        asks_upgrade = head.version == Version::HTTP_11 && is_upgrade(fields);
        let wants_trailers = list_has(fields, &header::TE, "trailers");
        remove_hop_by_hop(fields, asks_upgrade);
        if wants_trailers {
            fields.insert(header::TE, TRAILERS);
        }
    }
    append(fields, FORWARDED_FOR, client.clone());
    if let Entry::Vacant(vacant) = fields.entry(FORWARDED_PROTO) {
        vacant.insert(HeaderValue::from_static("http"));
    }
    append(fields, header::VIA, via(head.version));
    Ok(asks_upgrade)
}

/// Makes an endpoint's answer one for the client.
pub(super) fn prepare_response(head: &mut response::Parts, is_upgrade: bool) {
    if is_upgrade || has_hop_by_hop(&head.headers) {
        remove_hop_by_hop(&mut head.headers, is_upgrade);
    }
    append(&mut head.headers, header::VIA, via(head.version));
}

/// Whether a request may be sent again when nobody knows whether it has arrived (RFC 9110, 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Sets target and Host to what an endpoint is asked: the path alone, and the authority as the client gave it.
fn aim(head: &mut request::Parts, server: SocketAddr) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Refusal::ManyHosts);
    }
    // What a target names counts more than what the field says (RFC 9112, 3.2.2).
    if let Some(authority) = head.uri.authority() {
        if authority.as_str().contains('@') {
            return Err(Refusal::BadTarget);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadTarget)?;
        head.headers.insert(header::HOST, host);
    } else if host.is_none() {
        if head.version == Version::HTTP_11 {
            return Err(Refusal::NoHost);
        }
        head.headers.insert(header::HOST, address_value(server));
    }
    // `OPTIONS *` and a path are all that is left; a target such as `host:80` has no path.
    let path = match head.uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') => path.clone(),
        Some(path) if path.as_str() == "*" && head.method == Method::OPTIONS => path.clone(),
        None if head.uri.scheme().is_some() => PathAndQuery::from_static("/"),
        _ => return Err(Refusal::BadTarget),
    };
    if head.uri.authority().is_some() {
        head.uri = Uri::from(path);
    }
    Ok(())
}

fn is_upgrade(fields: &HeaderMap) -> bool {
    // HTTP/2 without its preface was abolished (RFC 9113, 3.1): such a wish is one of this hop and dropped.
    let names_protocol = fields
        .get(header::UPGRADE)
        .is_some_and(|it| !it.as_bytes().eq_ignore_ascii_case(b"h2c"));
    names_protocol && list_has(fields, &header::CONNECTION, "upgrade")
}

/// Whether a list of words has this one.
fn list_has(fields: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    fields.get_all(name).iter().any(|value| {
        let mut words = value.as_bytes().split(|it| *it == b',');
        words.any(|it| it.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

/// Fields that concern one connection, whatever Connection says.
static HOP_BY_HOP: [HeaderName; 5] = [
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
    header::TE,
    header::TRANSFER_ENCODING,
];

/// Whether there is anything to remove: most messages have nothing, and to look once is cheaper than to remove.
fn has_hop_by_hop(fields: &HeaderMap) -> bool {
    let other = [header::CONNECTION, header::UPGRADE];
    let mut names = fields.keys();
    names.any(|name| HOP_BY_HOP.contains(name) || other.contains(name))
}

fn remove_hop_by_hop(fields: &mut HeaderMap, keeps_upgrade: bool) {
    if fields.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = fields
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|it| *it == b','))
            .filter_map(|word| HeaderName::from_bytes(word.trim_ascii()).ok())
            .filter(|name| !(is_kept(name) || (keeps_upgrade && name == header::UPGRADE)))
            .collect();
        for name in named {
            fields.remove(name);
        }
        fields.remove(header::CONNECTION);
    }
    for name in &HOP_BY_HOP {
        fields.remove(name);
    }
    if keeps_upgrade {
        fields.insert(header::CONNECTION, UPGRADE);
    } else {
        fields.remove(header::UPGRADE);
    }
}

/// Fields that belong to the message whatever Connection says: without them it would be another one.
fn is_kept(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::COOKIE,
        header::AUTHORIZATION,
        header::TRAILER,
        header::VIA,
        FORWARDED_FOR,
        FORWARDED_PROTO,
    ]
    .contains(name)
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
    match version {
        Version::HTTP_10 => VIA_1_0,
        Version::HTTP_2 => VIA_2,
        _ => VIA_1_1,
    }
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

    fn prepared(mut head: request::Parts) -> Result<(request::Parts, bool), Refusal> {
        let server = "192.168.168.168:10000".parse().unwrap();
        let asks = prepare_request(&mut head, &HeaderValue::from_static(CLIENT), server)?;
        Ok((head, asks))
    }

    fn field<'a>(head: &'a request::Parts, name: &str) -> Vec<&'a str> {
        let values = head.headers.get_all(name).iter();
        values.map(|it| it.to_str().unwrap()).collect()
    }

    #[test]
    fn the_endpoint_is_told_where_a_request_came_from() {
        let (head, _) = prepared(request("GET", "/a?b", &[("host", "web")])).unwrap();
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
        let (head, _) = prepared(request("GET", "/", &fields)).unwrap();
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
        let (head, asks) = prepared(request("GET", "/", &fields)).unwrap();
        assert!(!asks, "no protocol is named");
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
        let (head, _) = prepared(request("POST", "/", &fields)).unwrap();
        for name in ["host", "content-length", "cookie"] {
            assert_eq!(field(&head, name).len(), 1, "{name}");
        }
        assert_eq!(field(&head, "x-forwarded-for"), ["1.1.1.1, 10.1.2.3"]);
    }

    #[test]
    fn another_protocol_is_asked_for_but_http_2() {
        let fields = [
            ("host", "web"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        let (head, asks) = prepared(request("GET", "/", &fields)).unwrap();
        assert!(asks);
        assert_eq!(field(&head, "connection"), ["upgrade"]);
        assert_eq!(field(&head, "upgrade"), ["websocket"]);
        let fields = [
            ("host", "web"),
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
        ];
        let (head, asks) = prepared(request("GET", "/", &fields)).unwrap();
        assert!(!asks && field(&head, "upgrade").is_empty());
        assert!(field(&head, "http2-settings").is_empty());
    }

    #[test]
    fn a_target_with_an_authority_decides_about_the_host() {
        let (head, _) = prepared(request("GET", "http://a.b:81/x", &[("host", "other")])).unwrap();
        assert_eq!(field(&head, "host"), ["a.b:81"]);
        assert_eq!(head.uri, "/x");
        let (head, _) = prepared(request("OPTIONS", "*", &[("host", "web")])).unwrap();
        assert_eq!(head.uri, "*");
        let mut old = request("GET", "/", &[]);
        old.version = Version::HTTP_10;
        let (head, _) = prepared(old).unwrap();
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
        prepare_response(&mut head, false);
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "via"]);
        head.headers
            .insert(header::UPGRADE, "websocket".parse().unwrap());
        prepare_response(&mut head, true);
        assert_eq!(head.headers[header::CONNECTION], "upgrade");
        assert_eq!(head.headers[header::UPGRADE], "websocket");
    }
}
