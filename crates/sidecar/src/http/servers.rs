//! `/servers`: the old text page, for eyes and for scripts that cut it into columns. Pure. Values are
//! escaped, which the original forgot; otherwise it is byte for byte the original's page.

use std::fmt::Write as _;

use catalog::{Service, Snapshot, Timestamp};

/// The page as of `now`.
pub(super) fn page(snapshot: &Snapshot, now: Timestamp) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str(concat!(
        "\n \t\t\t<head>\n \t\t\t<meta http-equiv=\"refresh\" content=\"4\">\n \t\t\t</head>\n",
        "\t    \t<pre>Services ------------------------------\n"
    ));
    for host in snapshot.hosts.values() {
        line(
            &mut out,
            format_args!("  {}: ({})", host.name, age(host.last_updated, now)),
        );
        let mut services: Vec<&Service> = host.services().map(AsRef::as_ref).collect();
        services.sort_by_key(|service| (&service.name, &service.id));
        for service in services {
            let ports: Vec<String> = service
                .port_list()
                .iter()
                .map(|port| format!("{}->{}", port.service_port, port.port))
                .collect();
            line(
                &mut out,
                format_args!(
                    "      {} {:<30} {:<15} {:<45}  {:<15} {:<9}",
                    service.id,
                    service.name,
                    ports.join(","),
                    service.image,
                    age(service.updated, now),
                    service.status,
                ),
            );
        }
        out.push('\n');
    }
    out.push_str("\nCluster Hosts -------------------------\n");
    for member in snapshot.members.keys() {
        line(&mut out, format_args!("    {member}"));
    }
    out.push_str("---------------------------------------</pre>");
    out
}

/// Appends a line, escaped after it was laid out so that columns keep their width on the screen.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let mut plain = String::new();
    plain
        .write_fmt(text)
        .expect("invariant: writing to a String cannot fail");
    for character in plain.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            // Left alone: it opens nothing, and scripts look for the arrow between ports.
            _ => out.push(character),
        }
    }
    out.push('\n');
}

/// How long ago, in the largest unit that was exceeded. Both times are rounded to seconds first.
fn age(when: Timestamp, now: Timestamp) -> String {
    const SECOND: i128 = 1_000_000_000;
    const UNITS: [(u32, &str); 4] = [
        (7 * 86_400, "weeks"),
        (86_400, "days"),
        (3_600, "hours"),
        (60, "mins"),
    ];
    if when <= Timestamp::EPOCH {
        return "never".to_owned();
    }
    let rounded = |time: Timestamp| (time.as_unix_nanos() + SECOND / 2).div_euclid(SECOND);
    let seconds = u32::try_from((rounded(now) - rounded(when)).max(0)).unwrap_or(u32::MAX);
    if seconds <= 1 {
        return "1.0 sec ago".to_owned();
    }
    let unit = UNITS.iter().find(|(length, _)| seconds > *length);
    let (length, name) = unit.copied().unwrap_or((1, "secs"));
    format!("{:.1} {name} ago", f64::from(seconds) / f64::from(length))
}

#[cfg(test)]
mod tests {
    use catalog::Upkeep;

    use super::*;
    use crate::http::tests::{recorded_state, vector};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The recorded page with its hosts, which the original lists in arbitrary order, sorted.
    fn recorded(file: &str) -> String {
        let text = vector(file);
        let (head, hosts) = text
            .split_once("Cluster Hosts -------------------------\n")
            .unwrap();
        let (hosts, foot) = hosts.split_once("-----").unwrap();
        let mut hosts: Vec<&str> = hosts.lines().collect();
        hosts.sort_unstable();
        format!(
            "{head}Cluster Hosts -------------------------\n{}\n-----{foot}",
            hosts.join("\n")
        )
    }

    #[test]
    fn the_page_is_as_recorded() {
        let snapshot = recorded_state("api-state.json");
        assert_eq!(
            page(&snapshot, at("2026-11-22T07:34:04.9Z")),
            recorded("servers.txt")
        );
        let mut snapshot = recorded_state("after-kill-state.json");
        snapshot.members.remove_mut("web-03");
        let page = page(&snapshot, at("2026-11-22T07:35:49.9Z"));
        assert_eq!(page, recorded("after-kill-servers.txt"));
    }

    #[test]
    fn ages_use_the_largest_unit_exceeded() {
        let now = at("2026-02-03T12:00:00.4Z");
        for (when, text) in [
            ("2026-02-03T12:00:09Z", "1.0 sec ago"),
            ("2026-02-03T11:59:59Z", "1.0 sec ago"),
            ("2026-02-03T11:59:57.6Z", "2.0 secs ago"),
            ("2026-02-03T11:59:00Z", "60.0 secs ago"),
            ("2026-02-03T11:57:54Z", "2.1 mins ago"),
            ("2026-02-03T10:30:00Z", "1.5 hours ago"),
            ("2026-02-01T12:00:00Z", "2.0 days ago"),
            ("2026-01-06T12:00:00Z", "4.0 weeks ago"),
            ("0001-01-01T00:00:00Z", "never"),
            ("1970-01-01T00:00:00Z", "never"),
        ] {
            assert_eq!(age(at(when), now), text, "{when}");
        }
    }

    #[test]
    fn values_cannot_become_markup() {
        let mut snapshot = Snapshot::empty("web-01", "lab");
        let name = "<script>alert('x')</script>";
        snapshot.members.insert_mut(name.into(), Upkeep::Membership);
        let page = page(&snapshot, Timestamp::EPOCH);
        assert!(
            page.contains("    &lt;script>alert(&#39;x&#39;)&lt;/script>\n"),
            "{page}"
        );
    }
}
