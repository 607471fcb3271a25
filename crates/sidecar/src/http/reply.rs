//! What answers are put together from: status, headers, body, and whether the reader has it already.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use catalog::json;

pub(super) const JSON: &str = "application/json";
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

/// Marks an answer that has no end: its connection counts as a watcher's from now on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endless;

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// An answer with a body.
pub(super) fn body(status: StatusCode, kind: &'static str, content: impl Into<Body>) -> Response {
    let mut answer = Response::new(content.into());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// An error as the original words it.
pub(super) fn error(status: StatusCode, message: &str) -> Response {
    let mut document = String::from("{\"message\":");
    json::write_text(&mut document, message);
    document.push_str(",\"status\":\"error\"}");
    body(status, JSON, document)
}

/// A document of ours, or that there was a defect.
pub(super) fn document<E: std::fmt::Display>(
    name: &str,
    encoded: Result<impl Into<Body>, E>,
) -> Response {
    match encoded {
        Ok(document) => body(StatusCode::OK, JSON, document),
        Err(error_) => {
            tracing::error!(error = %error_, "cannot encode the {name}");
            error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
    }
}

/// Adds a header; a value that cannot be one (it came from a request) is left out.
pub(super) fn with(mut answer: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value.as_bytes())) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// Opens an answer to pages of other origins.
pub(super) fn open(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    answer
}

/// A permanent redirect.
pub(super) fn moved(location: &str) -> Response {
    with(
        empty(StatusCode::MOVED_PERMANENTLY),
        header::LOCATION,
        location,
    )
}

/// Whether the reader says that it has what goes by this entity tag (in quotes), compressed or not.
pub(super) fn is_known(head: &Parts, tag: &str) -> bool {
    let known = head.headers.get_all(header::IF_NONE_MATCH).iter();
    known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|known| known == "*" || known == tag || known == compressed_tag(tag))
}

/// The entity tag of the same document in compressed form: other bytes need another strong tag.
fn compressed_tag(tag: &str) -> String {
    format!("{}-gzip\"", tag.trim_end_matches('"'))
}

/// That the reader has it already.
pub(super) fn not_modified(tag: &str) -> Response {
    cached(empty(StatusCode::NOT_MODIFIED), tag)
}

/// Adds the entity tag, and that it has to be asked about each time.
pub(super) fn cached(mut answer: Response, tag: &str) -> Response {
    answer
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    with(answer, header::ETAG, tag)
}

/// Whether the reader asks for gzip.
pub(super) fn takes_gzip(head: &Parts) -> bool {
    let accepted = head.headers.get_all(header::ACCEPT_ENCODING).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|it| it > 0.0))
        })
}

/// Says that the body is compressed, so that its tag, if it has one, is another.
pub(super) fn gzipped(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    match tag.map(compressed_tag) {
        Some(tag) => with(answer, header::ETAG, &tag),
        None => answer,
    }
}
