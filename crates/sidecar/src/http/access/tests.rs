use axum::http::Request;

use super::*;

const TOKEN: &str = "0123456789abcdef0123";

fn caller(peer: &str, local: &str) -> Option<Caller> {
    Some(Caller {
        peer: peer.parse().unwrap(),
        local: local.parse().unwrap(),
    })
}

fn loopback() -> Option<Caller> {
    caller("127.0.0.1:50000", "127.0.0.1:7777")
}

fn elsewhere() -> Option<Caller> {
    caller("10.0.0.2:50000", "10.0.0.1:7777")
}

fn access(token: Option<&str>, token_reads: bool) -> Access {
    let tokens = token.map(|token| watch::channel(Arc::new(Tokens::one(token).unwrap())).1);
    let names = ["localhost", "web-01", "web-01.local", "*.example.com"];
    Access::new(tokens, token_reads, names.map(str::to_owned).to_vec())
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const DRAIN: &str = "/api/v2/instances/1/drain";

#[test]
fn the_state_is_changed_from_this_host_or_with_a_token() {
    let bearer = ("authorization", "Bearer 0123456789abcdef0123");
    let lower = ("authorization", "bearer  0123456789abcdef0123 ");
    let wrong = ("authorization", "Bearer 0123456789abcdef0124");
    let basic = ("authorization", "Basic 0123456789abcdef0123");
    let own = caller("10.0.0.1:50000", "10.0.0.1:7777");
    let mapped = caller("[::ffff:10.0.0.1]:50000", "[::ffff:10.0.0.1]:7777");
    let loopback6 = caller("[::1]:50000", "[::1]:7777");
    let mapped_loopback = caller("[::ffff:127.0.0.1]:50000", "[::ffff:127.0.0.1]:7777");
    let neighbour6 = caller("[fd00::2]:50000", "[fd00::1]:7777");
    use Refused::{NoToken, NotHere, WrongToken};
    for (token, caller, headers, expected) in [
        (None, loopback(), &[][..], Ok(())),
        (None, loopback6, &[], Ok(())),
        (None, mapped_loopback, &[], Ok(())),
        (None, own, &[], Ok(())),
        (None, mapped, &[], Ok(())),
        (None, elsewhere(), &[], Err(NotHere)),
        (None, neighbour6, &[], Err(NotHere)),
        (None, None, &[], Err(NotHere)),
        (None, elsewhere(), &[bearer], Err(NotHere)),
        (Some(TOKEN), loopback(), &[], Ok(())),
        (Some(TOKEN), loopback(), &[wrong], Ok(())),
        (Some(TOKEN), elsewhere(), &[bearer], Ok(())),
        (Some(TOKEN), elsewhere(), &[lower], Ok(())),
        (Some(TOKEN), None, &[bearer], Ok(())),
        (Some(TOKEN), elsewhere(), &[], Err(NoToken)),
        (Some(TOKEN), elsewhere(), &[basic], Err(NoToken)),
        (Some(TOKEN), elsewhere(), &[wrong], Err(WrongToken)),
    ] {
        for path in [DRAIN, "/api/services/1/drain", "/api/services/1/undrain"] {
            let access = access(token, false);
            let decided = access.decide(caller, &head("POST", path, headers));
            assert_eq!(decided, expected, "{token:?} {caller:?} {headers:?}");
        }
    }
}

#[test]
fn a_token_that_is_not_there_yet_lets_nobody_in() {
    let (sender, tokens) = watch::channel(Arc::new(Tokens::default()));
    let access = Access::new(Some(tokens), false, vec![]);
    let ask = || {
        let headers = [("authorization", "Bearer 0123456789abcdef0123")];
        access.decide(elsewhere(), &head("POST", DRAIN, &headers))
    };
    assert_eq!(ask(), Err(Refused::WrongToken));
    sender.send_replace(Arc::new(Tokens::one(TOKEN).unwrap()));
    assert_eq!(ask(), Ok(()));
}

#[test]
fn reading_is_open_unless_a_token_is_asked_for_there_too() {
    let read = |token_reads, caller, path, headers: &[_]| {
        access(Some(TOKEN), token_reads).decide(caller, &head("GET", path, headers))
    };
    let bearer = ("authorization", "Bearer 0123456789abcdef0123");
    let documents = [
        "/api/state.json",
        "/watch",
        "/metrics",
        "/api/v2/routes",
        "/ui/",
    ];
    for path in documents {
        assert_eq!(read(false, elsewhere(), path, &[]), Ok(()), "{path}");
        assert_eq!(
            read(true, elsewhere(), path, &[]),
            Err(Refused::NoToken),
            "{path}"
        );
        assert_eq!(read(true, elsewhere(), path, &[bearer]), Ok(()), "{path}");
        assert_eq!(read(true, loopback(), path, &[]), Ok(()), "{path}");
    }
    for path in ["/health", "/ready"] {
        assert_eq!(read(true, elsewhere(), path, &[]), Ok(()), "{path}");
    }
}

#[test]
fn a_page_reaches_this_host_by_its_own_names_alone() {
    let access = access(Some(TOKEN), false);
    for (host, is_own) in [
        ("web-01", true),
        ("WEB-01:7777", true),
        ("web-01.", true),
        ("web-01.local:7777", true),
        ("localhost:7777", true),
        ("10.9.8.7:7777", true),
        ("10.9.8.7", true),
        ("[fd00::1]:7777", true),
        ("[::1]", true),
        ("a.example.com", true),
        ("example.com", false),
        ("evil.example", false),
        ("web-01.evil.example:7777", false),
        ("localhost.evil.example", false),
        ("aexample.com", false),
        ("web-01:7777:evil", false),
        ("[evil.example]:7777", false),
        ("[::1]evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("evil.example@127.0.0.1", false),
        (":7777", false),
        ("", false),
    ] {
        let misdirected = Err(Refused::Misdirected(host.to_owned()));
        let expected = if is_own { Ok(()) } else { misdirected };
        let named = [("host", host)];
        for (method, path) in [
            ("POST", DRAIN),
            ("GET", "/api/v2/routes"),
            ("GET", "/ui/"),
            ("HEAD", "/ui"),
        ] {
            let decided = access.decide(loopback(), &head(method, path, &named));
            assert_eq!(decided, expected, "{host} {method} {path}");
        }
        // What Go Sidecar's clients read is as open as it was.
        let decided = access.decide(loopback(), &head("GET", "/api/state.json", &named));
        assert_eq!(decided, Ok(()), "{host}");
        // A page has no token.
        let named = [named[0], ("authorization", "Bearer 0123456789abcdef0123")];
        let decided = access.decide(loopback(), &head("GET", "/api/v2/routes", &named));
        assert_eq!(decided, Ok(()), "{host}");
    }
    let twice = [("host", "web-01"), ("host", "evil.example")];
    let decided = access.decide(loopback(), &head("POST", DRAIN, &twice));
    assert!(matches!(decided, Err(Refused::Misdirected(_))));
}

#[test]
fn a_token_does_not_help_a_page_of_another_origin() {
    let headers = [
        ("host", "web-01:7777"),
        ("origin", "http://evil.example"),
        ("authorization", "Bearer 0123456789abcdef0123"),
    ];
    let decided = access(Some(TOKEN), false).decide(loopback(), &head("POST", DRAIN, &headers));
    assert_eq!(decided, Err(Refused::Origin));
}

#[test]
fn refusals_say_what_would_be_right() {
    let access = access(Some(TOKEN), false);
    let misdirected = Refused::Misdirected("evil.example".to_owned());
    for (refused, words) in [
        (
            misdirected,
            &["\"evil.example\"", "web-01.local", "SIDECAR_API_HOSTS"][..],
        ),
        (
            Refused::NotHere,
            &[
                "127.0.0.1",
                "SIDECAR_API_TOKEN_FILE",
                "Authorization: Bearer",
            ],
        ),
        (Refused::NoToken, &["SIDECAR_API_TOKEN", "127.0.0.1"]),
        (Refused::WrongToken, &["SIDECAR_API_TOKEN_FILE"]),
    ] {
        let text = access.explain(&refused);
        for word in words {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains("0123"), "{text}");
    }
}
