//! What the proxy answers by itself, with the reason: in words for people, and for programs in the field
//! Proxy-Status (RFC 9209), by which these can be told from answers of endpoints.

use hyper::{
    Response, StatusCode,
    header::{HeaderName, HeaderValue},
};

use super::{body::ResponseBody, headers::Refusal};

/// Seconds after which it may be otherwise: as long as an endpoint is avoided at first.
const RETRY_AFTER: &str = "1";

/// Why there is no answer of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The request is not one to forward.
    Refused(Refusal),
    /// The client did not send the body it announced.
    ClientSilent,
    /// The client's body broke off, or was not as announced.
    ClientBroken,
    /// The service has no endpoint at all.
    NoEndpoint,
    /// It has, and none of so many could be connected to.
    Unreachable { tried: usize },
    /// The endpoint ended the connection, or said what is not HTTP.
    Broken,
    /// It said nothing in time.
    Silent,
}

impl Trouble {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Refused(Refusal::Connect) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused(_) | Self::ClientBroken => StatusCode::BAD_REQUEST,
            Self::ClientSilent => StatusCode::REQUEST_TIMEOUT,
            Self::NoEndpoint | Self::Unreachable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The error types of RFC 9209.
    fn kind(self) -> &'static str {
        match self {
            Self::Refused(Refusal::Connect) => "sidecar; error=http_request_denied",
            Self::Refused(_) | Self::ClientSilent | Self::ClientBroken => {
                "sidecar; error=http_request_error"
            }
            Self::NoEndpoint => "sidecar; error=destination_not_found",
            Self::Unreachable { .. } => "sidecar; error=destination_unavailable",
            Self::Broken => "sidecar; error=connection_terminated",
            Self::Silent => "sidecar; error=http_response_timeout",
        }
    }

    fn words(self, service: &str) -> String {
        match self {
            Self::Refused(refusal) => refusal.to_string(),
            Self::ClientSilent => "the body of the request did not come in time".to_owned(),
            Self::ClientBroken => "the body of the request broke off".to_owned(),
            Self::NoEndpoint => format!("no instance of {service} is healthy"),
            Self::Unreachable { tried } => {
                format!("no instance of {service} can be reached, {tried} tried")
            }
            Self::Broken => {
                format!("the instance of {service} broke the connection before it answered")
            }
            Self::Silent => format!("the instance of {service} did not answer in time"),
        }
    }

    /// The body of the answer.
    pub(super) fn text(self, service: &str) -> String {
        format!("sidecar: {}\n", self.words(service))
    }

    /// The fields of the answer beside those of framing and connection.
    pub(super) fn fields(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let may_be_otherwise = matches!(self, Self::NoEndpoint | Self::Unreachable { .. });
        [
            ("content-type", "text/plain; charset=utf-8"),
            ("proxy-status", self.kind()),
        ]
        .into_iter()
        .chain(may_be_otherwise.then_some(("retry-after", RETRY_AFTER)))
    }

    /// Whether the client is the cause. Then what is left of its request would be taken for the next one, or
    /// what comes next is as doubtful.
    pub(super) fn is_the_clients(self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::ClientSilent | Self::ClientBroken
        )
    }

    /// The answer over HTTP/2.
    pub(super) fn answer(self, service: &str) -> Response<ResponseBody> {
        let mut answer = Response::new(ResponseBody::own(self.text(service)));
        *answer.status_mut() = self.status();
        for (name, value) in self.fields() {
            let name = HeaderName::from_static(name);
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_has_its_status_and_says_why() {
        let unreachable = Trouble::Unreachable { tried: 2 };
        for (trouble, status, kind) in [
            (Trouble::NoEndpoint, 503, "destination_not_found"),
            (unreachable, 503, "destination_unavailable"),
            (Trouble::Broken, 502, "connection_terminated"),
            (Trouble::Silent, 504, "http_response_timeout"),
            (Trouble::ClientSilent, 408, "http_request_error"),
            (Trouble::Refused(Refusal::NoHost), 400, "http_request_error"),
            (
                Trouble::Refused(Refusal::Connect),
                405,
                "http_request_denied",
            ),
        ] {
            let answer = trouble.answer("web");
            assert_eq!(answer.status(), status, "{trouble:?}");
            let field = answer.headers()["proxy-status"].to_str().unwrap();
            assert!(field.ends_with(kind), "{field}");
            let retry = answer.headers().contains_key("retry-after");
            assert_eq!(retry, status == 503, "{trouble:?}");
        }
    }
}
