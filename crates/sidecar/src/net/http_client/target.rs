//! What a URL of a check means: where to connect, what to send. Pure.
//!
//! As tolerant as Go's `net/url` and `net/http` where users may rely on it (an empty host, blanks in a
//! path, credentials), and in one more case: an IPv6 address without brackets, which is what
//! `http://{{ host }}:{{ tcp 80 }}/` becomes on an IPv6 host.

use std::fmt;

use super::HttpError;
use crate::net::dial::split_authority;

/// The protocols spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    /// `user:password`, still percent-encoded.
    userinfo: Option<String>,
    /// Host and port for the `Host` header.
    pub(super) authority: String,
    /// Host without brackets; empty means this machine.
    host: String,
    port: Option<u16>,
    /// Path and query, percent-encoded; starts with a slash.
    pub(super) path: String,
}

impl Target {
    /// Reads an absolute URL; blanks around it are ignored.
    pub(super) fn parse(url: &str) -> Result<Self, HttpError> {
        let fail = |reason: String| HttpError::InvalidUrl {
            url: without_credentials(url),
            reason,
        };
        let text = url.trim();
        if text.is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        if let Some(odd) = text.chars().find(|char| char.is_control()) {
            return Err(fail(format!("it holds the control character {odd:?}")));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail("it does not begin with http:// or https://".to_owned()))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(fail(format!("its scheme {other:?} is not http or https"))),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo.to_owned()), authority),
            None => (None, authority),
        };
        let (host, port) = split_authority(authority).map_err(fail)?;
        let authority = match (host.contains(':'), port) {
            (false, _) => authority.to_owned(),
            (true, Some(port)) => format!("[{host}]:{port}"),
            (true, None) => format!("[{host}]"),
        };
        Ok(Self {
            scheme,
            userinfo,
            authority,
            host,
            port,
            path: encode_path(path),
        })
    }

    /// Where a `Location` header points, seen from here.
    pub(super) fn join(&self, location: &str) -> Result<Self, HttpError> {
        if has_scheme(location) {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme.as_str()));
        }
        let base = self.path.split('?').next().unwrap_or("/");
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with(['?', '#']) {
            format!("{base}{location}")
        } else {
            format!("{}{location}", &base[..=base.rfind('/').unwrap_or(0)])
        };
        Ok(Self {
            path: encode_path(&without_dots(&path)),
            ..self.clone()
        })
    }

    /// The host to connect to; empty means this machine.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The port to connect to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// The `Authorization` header for credentials in the URL.
    pub(super) fn credentials(&self) -> Option<String> {
        let userinfo = self.userinfo.as_ref()?;
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let mut plain = decode(user);
        plain.push(b':');
        plain.extend(decode(password));
        Some(format!("Basic {}", base64(&plain)))
    }
}

/// The URL for messages: without credentials.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.scheme.as_str(),
            self.authority,
            self.path
        )
    }
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A URL for people: what stands before an `@` in its authority is left out.
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}{path}"),
        None => url.to_owned(),
    }
}

/// Whether a reference is an absolute URL: a scheme before any path.
fn has_scheme(reference: &str) -> bool {
    let Some(colon) = reference.find(':') else {
        return false;
    };
    let scheme = &reference[..colon];
    scheme.starts_with(|char: char| char.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || "+-.".contains(char))
}

/// Path and query as they are sent: with a slash in front, without fragment, and with all that may
/// not stand in a request line percent-encoded. What is encoded already stays as it is.
fn encode_path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut encoded = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        encoded.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Takes `.` and `..` out of a path, as RFC 3986 §5.2.4 does; the query is left alone.
fn without_dots(path: &str) -> String {
    let (path, rest) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{rest}", kept.join("/"))
}

/// Takes percent-encoding away; what is not percent-encoding stays.
fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    decoded
}

/// Base64 with padding, RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, at| {
            (group << 8) | u32::from(chunk.get(at).copied().unwrap_or_default())
        });
        for at in 0..4 {
            let sextet = (group >> (18 - 6 * at)) & 0x3f;
            let char = char::from(ALPHABET[sextet as usize]);
            text.push(if at <= chunk.len() { char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    #[test]
    fn urls_are_split_into_what_to_connect_to_and_what_to_send() {
        for (url, host, port, authority, path) in [
            (
                "http://10.0.0.1:8080/health",
                "10.0.0.1",
                8080,
                "10.0.0.1:8080",
                "/health",
            ),
            ("http://web", "web", 80, "web", "/"),
            ("HTTPS://web/", "web", 443, "web", "/"),
            ("http://web:/x", "web", 80, "web:", "/x"),
            ("http://web?x=1#part", "web", 80, "web", "/?x=1"),
            ("http://:9090/x", "", 9090, ":9090", "/x"),
            ("http://[::1]:81/", "::1", 81, "[::1]:81", "/"),
            ("http://[::1]/", "::1", 80, "[::1]", "/"),
            (
                "http://fd00::12:8080/",
                "fd00::12",
                8080,
                "[fd00::12]:8080",
                "/",
            ),
            (
                "http://1:2:3:4:5:6:7:8/",
                "1:2:3:4:5:6:7:8",
                80,
                "[1:2:3:4:5:6:7:8]",
                "/",
            ),
            ("http://fd00::12/", "fd00::12", 80, "[fd00::12]", "/"),
            (
                "http://u:p@web:1/a b/ü?{x}",
                "web",
                1,
                "web:1",
                "/a%20b/%C3%BC?%7Bx%7D",
            ),
            (" http://web/%41%zz ", "web", 80, "web", "/%41%zz"),
        ] {
            let target = parse(url);
            assert_eq!(
                (
                    target.host(),
                    target.port(),
                    &*target.authority,
                    &*target.path
                ),
                (host, port, authority, path),
                "{url}"
            );
        }
    }

    #[test]
    fn no_message_repeats_a_password() {
        for url in [
            "http://me:secret@web:x/",
            "https://me:secret@web/a b",
            "ftp://me:secret@web/",
        ] {
            let text =
                Target::parse(url).map_or_else(|error| error.to_string(), |it| it.to_string());
            assert!(!text.contains("secret") && text.contains("web"), "{text}");
        }
    }

    #[test]
    fn unusable_urls_say_what_is_wrong() {
        for (url, reason) in [
            ("", "empty"),
            ("  ", "empty"),
            ("web:80/x", "http://"),
            ("ftp://web/", "\"ftp\""),
            ("http:///x", "no host"),
            ("http://:/x", "no host"),
            ("http://10.0.0.1:-1/", "\"-1\""),
            ("http://10.0.0.1:65536/", "\"65536\""),
            ("http://[::1/", "bracket"),
            ("http://[web]/", "IPv6"),
            ("http://[::1]x/", "\"x\""),
            ("http://we b/", "\"we b\""),
            ("http://web/\n", "it is fine"),
            ("http://web/\nx", "control character"),
            ("http://{{ host }}/", "host"),
        ] {
            let outcome = Target::parse(url);
            if reason == "it is fine" {
                assert!(outcome.is_ok(), "{url}");
                continue;
            }
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
            assert!(error.contains(&format!("{url:?}")), "{url}: {error}");
        }
    }

    #[test]
    fn redirects_are_read_from_where_they_were_found() {
        let base = parse("http://u:p@web:8080/a/b/c?x=1");
        for (location, url) in [
            ("http://other/y", "http://other/y"),
            ("https://other", "https://other/"),
            ("//other:1/y", "http://other:1/y"),
            ("/y?z", "http://web:8080/y?z"),
            ("y", "http://web:8080/a/b/y"),
            ("../y", "http://web:8080/a/y"),
            ("../../../../y/./z", "http://web:8080/y/z"),
            ("..", "http://web:8080/a/"),
            ("?z=a/../b", "http://web:8080/a/b/c?z=a/../b"),
            ("#part", "http://web:8080/a/b/c"),
            ("y:1/../z", "error"),
            ("/y:1", "http://web:8080/y:1"),
        ] {
            let joined = base
                .join(location)
                .map_or_else(|_| "error".to_owned(), |it| it.to_string());
            assert_eq!(joined, url, "{location}");
        }
        assert!(base.join("y").unwrap().credentials().is_some());
        assert!(base.join("http://other/").unwrap().credentials().is_none());
    }

    #[test]
    fn credentials_become_a_header_and_stay_out_of_messages() {
        for (userinfo, header) in [
            (
                "Aladdin:open%20sesame",
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            ("a", "Basic YTo="),
            ("a:b", "Basic YTpi"),
            ("a:b%4", "Basic YTpiJTQ="),
        ] {
            let target = parse(&format!("http://{userinfo}@web/"));
            assert_eq!(target.credentials().as_deref(), Some(header));
            assert_eq!(target.to_string(), "http://web/");
        }
        assert_eq!(parse("http://web/").credentials(), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(base in "(http://)?.{0,30}", location in "[ -~]{0,20}") {
            if let Ok(target) = Target::parse(&base) {
                proptest::prop_assert!(target.path.starts_with('/'));
                let _ = target.join(&location);
            }
            let _ = parse("http://web/a/b").join(&location);
        }
    }
}
