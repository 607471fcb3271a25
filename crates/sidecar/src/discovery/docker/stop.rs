//! Whether a signal ends a container, and how long that may take. Pure.
//!
//! The engine says that it sends a signal before anything else happens: `docker stop` sends the
//! container's stop signal, waits for its grace period, then kills. What such a container still does
//! it does for those who are connected already. Signals have the numbers of Linux, where engines run.

use std::time::Duration;

use super::wire::Inspected;

/// The engine's grace period where a container has none of its own.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest grace period that is waited for; `docker stop` may have been given another than the
/// container's, which nobody says.
const STOP_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// What the engine needs to end a container after the grace period.
const MARGIN: Duration = Duration::from_secs(5);

const INT: u8 = 2;
const QUIT: u8 = 3;
const ABRT: u8 = 6;
const KILL: u8 = 9;
const TERM: u8 = 15;
/// The first of the real-time signals, as libraries leave it to programs.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

const NAMES: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", INT),
    ("QUIT", QUIT),
    ("ABRT", ABRT),
    ("KILL", KILL),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", TERM),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("WINCH", 28),
    ("PWR", 30),
];

/// Reads a signal as engines and images write it: `15`, `SIGTERM`, `TERM`, `SIGRTMIN+3`.
pub(super) fn signal(text: &str) -> Option<u8> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<u8>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = |text: &str, default| match text {
        "" => Some(default),
        text => text.get(1..)?.parse::<u8>().ok(),
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(plus), _) => RTMIN.checked_add(number(plus, 0)?)?,
        (_, Some(minus)) => RTMAX.checked_sub(number(minus, 0)?)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&real_time).then_some(real_time)
}

/// Whether whoever sends this signal wants a program to end, whatever program it is. Other signals
/// do so only where they are the container's stop signal: `WINCH` for one, `RTMIN+3` for another.
pub(super) fn always_ends(signal: u8) -> bool {
    matches!(signal, INT | QUIT | ABRT | KILL | TERM)
}

/// How long a container that was told to end may go on.
pub(super) fn grace(container: &Inspected) -> Duration {
    let grace = match container.stop_timeout.map(u64::try_from) {
        None => STOP_TIMEOUT,
        Some(Ok(seconds)) => Duration::from_secs(seconds).clamp(STOP_TIMEOUT, STOP_TIMEOUT_MAX),
        // It has all the time in the world.
        Some(Err(_)) => STOP_TIMEOUT_MAX,
    };
    grace + MARGIN
}

/// How long it may go on when nothing else is known of it.
pub(super) fn usual_grace() -> Duration {
    STOP_TIMEOUT + MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_number_and_by_name() {
        for (text, number) in [
            ("15", Some(15)),
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("RTMAX-1", Some(63)),
            ("RTMAX", Some(64)),
            ("", None),
            ("0", None),
            ("65", None),
            ("SIG", None),
            ("RTMIN+99", None),
            ("RTMAX-99", None),
            ("RTMIN+é", None),
            ("nonsense", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }

    #[test]
    fn signals_for_reloading_and_for_logs_end_nothing() {
        for text in ["HUP", "USR1", "USR2", "WINCH", "CONT", "STOP", "RTMIN+3"] {
            assert!(!always_ends(signal(text).unwrap()), "{text}");
        }
        for text in ["TERM", "INT", "QUIT", "KILL"] {
            assert!(always_ends(signal(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn the_grace_is_the_containers_within_bounds() {
        for (stop_timeout, seconds) in [
            (None, 15),
            (Some(1), 15),
            (Some(30), 35),
            (Some(86400), 605),
            (Some(-1), 605),
        ] {
            let container = Inspected {
                stop_timeout,
                ..Inspected::default()
            };
            assert_eq!(grace(&container), Duration::from_secs(seconds));
        }
        assert_eq!(usual_grace(), grace(&Inspected::default()));
    }
}
