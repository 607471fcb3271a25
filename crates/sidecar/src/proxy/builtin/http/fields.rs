//! The fields of a head that a proxy has to know, and what it may do with each: one table for all versions of
//! HTTP. Pure.
//!
//! RFC 9110 sections 7.6 (forwarding) and 7.8 (upgrade).

/// Words with which this proxy signs what it forwards, by the version it was received in.
pub(super) const VIA_1_1: &str = "1.1 sidecar";
pub(super) const VIA_1_0: &str = "1.0 sidecar";
pub(super) const VIA_2: &str = "2 sidecar";

/// A field by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Field {
    Authorization,
    Connection,
    ContentLength,
    Cookie,
    Expect,
    ForwardedFor,
    ForwardedProto,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    #[default]
    Other,
}

impl Field {
    /// By a name in any case.
    pub(super) fn of(name: &[u8]) -> Self {
        // Most names are known by their length not to be one of these.
        let (known, field): (&[u8], _) = match name.len() {
            2 => (b"te", Self::Te),
            3 => (b"via", Self::Via),
            4 => (b"host", Self::Host),
            6 if matches!(name[0], b'c' | b'C') => (b"cookie", Self::Cookie),
            6 => (b"expect", Self::Expect),
            7 if matches!(name[0], b'u' | b'U') => (b"upgrade", Self::Upgrade),
            7 => (b"trailer", Self::Trailer),
            10 if matches!(name[0], b'c' | b'C') => (b"connection", Self::Connection),
            10 => (b"keep-alive", Self::KeepAlive),
            13 => (b"authorization", Self::Authorization),
            14 if matches!(name[0], b'c' | b'C') => (b"content-length", Self::ContentLength),
            14 => (b"http2-settings", Self::Http2Settings),
            15 => (b"x-forwarded-for", Self::ForwardedFor),
            16 => (b"proxy-connection", Self::ProxyConnection),
            17 if matches!(name[0], b't' | b'T') => (b"transfer-encoding", Self::TransferEncoding),
            17 => (b"x-forwarded-proto", Self::ForwardedProto),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(known) {
            field
        } else {
            Self::Other
        }
    }

    /// Whether it concerns one connection only, whatever Connection says.
    pub(super) fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    /// Whether it belongs to the message whatever Connection says: without it the message would be another one.
    pub(super) fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Authorization
                | Self::ContentLength
                | Self::Cookie
                | Self::ForwardedFor
                | Self::ForwardedProto
                | Self::Host
                | Self::Trailer
                | Self::Via
        )
    }
}

/// The words of a list, as in Connection.
pub(super) fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = list.split(|it| *it == b',').map(<[u8]>::trim_ascii);
    words.filter(|it| !it.is_empty())
}

/// Whether a list of words has this one.
pub(super) fn has_word(list: &[u8], word: &[u8]) -> bool {
    words(list).any(|it| it.eq_ignore_ascii_case(word))
}

/// Whether a request may be sent again when nobody knows whether it has arrived (RFC 9110, 9.2.2).
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_known_in_any_case_and_others_are_not_taken_for_them() {
        for (name, field) in [
            ("Authorization", Field::Authorization),
            ("CONNECTION", Field::Connection),
            ("Content-Length", Field::ContentLength),
            ("cookie", Field::Cookie),
            ("Expect", Field::Expect),
            ("X-Forwarded-For", Field::ForwardedFor),
            ("x-forwarded-proto", Field::ForwardedProto),
            ("host", Field::Host),
            ("HTTP2-Settings", Field::Http2Settings),
            ("Keep-Alive", Field::KeepAlive),
            ("Proxy-Connection", Field::ProxyConnection),
            ("TE", Field::Te),
            ("trailer", Field::Trailer),
            ("transfer-Encoding", Field::TransferEncoding),
            ("UPGRADE", Field::Upgrade),
            ("via", Field::Via),
        ] {
            assert_eq!(Field::of(name.as_bytes()), field, "{name}");
            let other = format!("{}_", &name[1..]);
            assert_eq!(Field::of(other.as_bytes()), Field::Other, "{other}");
        }
        assert_eq!(Field::of(b""), Field::Other);
    }

    #[test]
    fn words_of_a_list_are_found_whatever_is_around_them() {
        for list in ["close", "a, Close ,b", ",,close", "\tCLOSE\t"] {
            assert!(has_word(list.as_bytes(), b"close"), "{list}");
        }
        for list in ["", "closed", "a close", "not-close, clos"] {
            assert!(!has_word(list.as_bytes(), b"close"), "{list}");
        }
    }
}
