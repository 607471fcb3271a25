//! Labels that mean nothing, and the ones their owners surely meant. Pure.

use super::SERVICE_PORT;

/// Labels longer than this are nobody's slip.
const CHARS_MAX: usize = 40;
/// Letters that may be missing, too many, wrong or swapped.
const SLIPS_MAX: usize = 2;

/// The label that was meant by this one, or `None` when it is a right one or somebody else's.
pub(super) fn meant(label: &str, name: Option<&str>, known: &[&str]) -> Option<String> {
    let mut right = known.iter().copied().chain(name);
    if label.chars().count() > CHARS_MAX || right.clone().any(|it| it == label) {
        return None;
    }
    let plain = plain(label);
    let letters = plain.trim_end_matches(|it: char| it.is_ascii_digit());
    if is_slip(letters, &self::plain(SERVICE_PORT)) {
        let digits = &plain[letters.len()..];
        let port = if digits.is_empty() { "PORT" } else { digits };
        return Some(format!("{SERVICE_PORT}{port}"));
    }
    right
        .find(|it| is_slip(&plain, &self::plain(it)))
        .map(str::to_owned)
}

/// Without what people write differently: case and separators.
fn plain(label: &str) -> String {
    let separators = ['_', '-', '.', ' '];
    let kept = label.chars().filter(|it| !separators.contains(it));
    kept.flat_map(char::to_lowercase).collect()
}

/// Whether both differ by few letters; in a short word every letter counts.
fn is_slip(written: &str, right: &str) -> bool {
    let allowed = SLIPS_MAX.min(right.chars().count() / 5);
    distance(written, right) <= allowed
}

/// Least number of letters to insert, remove, replace or swap with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().collect();
    let other: Vec<char> = other.chars().collect();
    let mut table = vec![vec![0_usize; other.len() + 1]; one.len() + 1];
    for (row, cells) in table.iter_mut().enumerate() {
        cells[0] = row;
    }
    for (column, cell) in table[0].iter_mut().enumerate() {
        *cell = column;
    }
    for row in 1..=one.len() {
        for column in 1..=other.len() {
            let same = one[row - 1] == other[column - 1];
            let mut least = (table[row - 1][column] + 1)
                .min(table[row][column - 1] + 1)
                .min(table[row - 1][column - 1] + usize::from(!same));
            let swapped = row > 1
                && column > 1
                && one[row - 1] == other[column - 2]
                && one[row - 2] == other[column - 1];
            if swapped {
                least = least.min(table[row - 2][column - 2] + 1);
            }
            table[row][column] = least;
        }
    }
    table[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::docker::labels::LABELS;

    #[test]
    fn slips_are_recognised_and_strangers_are_left_alone() {
        for (label, right) in [
            ("HealtCheck", Some("HealthCheck")),
            ("HealthChekc", Some("HealthCheck")),
            ("healthcheck", Some("HealthCheck")),
            ("Health-Check-Args", Some("HealthCheckArgs")),
            ("HealthCheckArg", Some("HealthCheckArgs")),
            ("HealthCheckIntervall", Some("HealthCheckInterval")),
            ("SERVICE_NAME", Some("ServiceName")),
            ("SeviceName", Some("ServiceName")),
            ("proxymode", Some("ProxyMode")),
            ("SidecarDiscovery", Some("SidecarDiscover")),
            ("SidecarDiscover", None),
            ("ServicePort80", Some("ServicePort_80")),
            ("ServicePort-8080", Some("ServicePort_8080")),
            ("serviceport_80", Some("ServicePort_80")),
            ("SevicePort_80", Some("ServicePort_80")),
            ("ServicePort", Some("ServicePort_PORT")),
            ("ServiceName", None),
            ("HealthCheck", None),
            ("com.docker.compose.service", None),
            ("org.opencontainers.image.title", None),
            ("maintainer", None),
            ("traefik.enable", None),
            ("Service", None),
            ("Health", None),
            ("", None),
            ("_", None),
        ] {
            let found = meant(label, Some("ServiceName"), &LABELS);
            assert_eq!(found.as_deref(), right, "{label}");
        }
        let long = "HealthCheck".repeat(100_000);
        assert_eq!(meant(&long, None, &LABELS), None);
        assert_eq!(meant("ServiceName", None, &LABELS), None);
    }

    #[test]
    fn distances() {
        for (one, other, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("abc", "acb", 1),
            ("abc", "xbc", 1),
            ("abc", "abcd", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }
}
