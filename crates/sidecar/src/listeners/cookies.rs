//! The cookies of one listener. Pure.
//!
//! Each listener's requests carry a cookie that no other's do, for load balancers that choose a backend by
//! it; and what the receiver sets is sent back, as a browser would. Scope is not looked at: there is
//! one URL.

use catalog::Timestamp;

/// The cookie that ties requests to a backend.
const SESSION: &str = "sidecar-session-host";
/// Cookies kept, and the longest of them in bytes.
const COOKIES_MAX: usize = 32;
const COOKIE_BYTES_MAX: usize = 4096;

/// Name and value as they go over the wire, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// With the cookie for a listener of this host that was made now.
    pub(super) fn new(hostname: &str, now: Timestamp) -> Self {
        let fits =
            |char: &char| (' '..='~').contains(char) && !matches!(char, '"' | '\\' | ';' | ',');
        let hostname: String = hostname.chars().filter(fits).collect();
        // Both types hold the same range.
        let now = jiff::Timestamp::from_nanosecond(now.as_unix_nanos()).unwrap_or_default();
        // A time as Go prints it; for its blanks the value is quoted.
        let value = format!("\"{hostname}-{}\"", gotemplate::Time::utc(now));
        Self(vec![(SESSION.to_owned(), value)])
    }

    /// For the header `Cookie`.
    pub(super) fn header(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    /// Takes over what a header `Set-Cookie` says.
    pub(super) fn keep(&mut self, set_cookie: &str) {
        let mut parts = set_cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let usable = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if name.is_empty() || set_cookie.len() > COOKIE_BYTES_MAX || !usable(name) || !usable(value)
        {
            return;
        }
        self.0.retain(|(known, _)| known != name);
        let ended = parts.any(|attribute| {
            let age = attribute
                .split_once('=')
                .filter(|(key, _)| key.eq_ignore_ascii_case("max-age"));
            age.is_some_and(|(_, age)| age.trim().parse::<i64>().is_ok_and(|age| age <= 0))
        });
        if !ended && self.0.len() < COOKIES_MAX {
            self.0.push((name.to_owned(), value.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_its_own_and_what_the_receiver_sets() {
        let at = "2026-11-22T07:32:54.719440362Z".parse().unwrap();
        let mut cookies = Cookies::new("web-01", at);
        let session = "sidecar-session-host=\"web-01-2026-11-22 07:32:54.719440362 +0000 UTC\"";
        assert_eq!(cookies.header(), session);
        cookies.keep("SRV=a1; Path=/; HttpOnly");
        assert_eq!(cookies.header(), format!("{session}; SRV=a1"));
        cookies.keep("SRV=b2; Max-Age=60");
        assert_eq!(cookies.header(), format!("{session}; SRV=b2"));
        for odd in [
            "",
            "novalue",
            "=x",
            "a=\u{1}",
            &format!("a={}", "x".repeat(5000)),
        ] {
            cookies.keep(odd);
        }
        cookies.keep("SRV=; Max-Age=0");
        assert_eq!(cookies.header(), session);
        for number in 0..100 {
            cookies.keep(&format!("c{number}=x"));
        }
        assert_eq!(cookies.0.len(), COOKIES_MAX);
    }

    #[test]
    fn a_hostname_cannot_break_out() {
        let cookies = Cookies::new("a\"; b=c\r\nX: y", Timestamp::EPOCH);
        let header = cookies.header();
        assert_eq!(header.matches('"').count(), 2, "{header}");
        assert!(!header.contains([';', '\r', '\n']), "{header}");
    }
}
