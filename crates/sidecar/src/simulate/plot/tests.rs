//! The picture is well-formed XML whatever the report says, and says what the report says.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::simulate::report::{CurvePoint, SpreadRecorder, tests::sample};

/// An element's name and the text right inside it.
type Element = (String, String);

/// All elements of `document`, in the order in which they end. A subset of XML without comments,
/// CDATA, processing instructions and declarations, none of which a picture needs.
///
/// # Errors
///
/// When the document is not well-formed: says why and where.
fn parse(document: &str) -> Result<Vec<Element>, String> {
    let mut rest = document.trim_end();
    let mut open: Vec<Element> = Vec::new();
    let mut ended = Vec::new();
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        match open.last_mut() {
            Some((_, inside)) => inside.push_str(&unescape(text)?),
            None if text.is_empty() && ended.is_empty() => {}
            None => return Err(format!("text outside the root: {rest:.60}")),
        }
        let end = tag.find('>').ok_or("a tag without an end")?;
        let (tag, after) = (&tag[1..end], &tag[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            let element = open.pop().ok_or("an end without a start")?;
            if element.0 != name {
                return Err(format!("{} ended by {name}", element.0));
            }
            ended.push(element);
        } else if let Some(tag) = tag.strip_suffix('/') {
            ended.push((start_tag(tag)?, String::new()));
        } else {
            open.push((start_tag(tag)?, String::new()));
        }
    }
    match open.pop() {
        Some((name, _)) => Err(format!("{name} never ends")),
        None if !rest.is_empty() => Err(format!("text after the root: {rest:.60}")),
        None => Ok(ended),
    }
}

/// The name in a start tag whose attributes are in order.
fn start_tag(tag: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(letter)
    };
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    if !is_name(name) {
        return Err(format!("not a name: {tag:.60}"));
    }
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (key, value) = rest
            .split_once("=\"")
            .ok_or_else(|| format!("attributes {rest}"))?;
        let (value, after) = value
            .split_once('"')
            .ok_or_else(|| format!("no quote in {rest}"))?;
        if !is_name(key) || seen.contains(&key) {
            return Err(format!("attribute {key} in {tag:.60}"));
        }
        unescape(value)?;
        seen.push(key);
        rest = match after.strip_prefix(' ') {
            Some(rest) => rest,
            None if after.is_empty() => after,
            None => return Err(format!("no blank before {after}")),
        };
    }
    Ok(name.to_owned())
}

fn unescape(text: &str) -> Result<String, String> {
    let forbidden = |c: char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if let Some(letter) = text.chars().find(|c| forbidden(*c)) {
        return Err(format!("{letter:?} cannot be written in XML"));
    }
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, after) = part
            .split_once(';')
            .ok_or_else(|| format!("a bare & before {part}"))?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => return Err(format!("entity {name}")),
        });
        plain.push_str(after);
    }
    Ok(plain)
}

fn texts(report: &Report) -> Vec<String> {
    let elements = parse(&svg(report)).unwrap();
    let texts = elements.into_iter().filter(|(name, _)| name == "text");
    texts.map(|(_, text)| text).collect()
}

fn has(texts: &[String], wanted: &str) -> bool {
    texts.iter().any(|text| text == wanted)
}

#[test]
fn the_check_itself_finds_what_is_wrong() {
    for wrong in [
        "<a>",
        "<a></b>",
        "</a>",
        "<a/><b/>x",
        "x<a/>",
        "<a b=c/>",
        "<a b=\"1\" b=\"2\"/>",
        "<a b=\"1\"c=\"2\"/>",
        "<a>&</a>",
        "<a>&nbsp;</a>",
        "<a>\u{1}</a>",
        "<a><</a>",
        "<a",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    let good = parse("<a b=\"&lt;\" c-d=\"\">x<b/>&amp;y</a>\n").unwrap();
    let expected = [("b", ""), ("a", "x&y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(good, expected);
}

#[test]
fn a_whole_report_makes_two_panels_with_marks_and_ticks() {
    let texts = texts(&sample());
    for wanted in [
        "How changes spread among 1,000 hosts, 10 services each",
        "network lan: 0.5 ms, 0.1 % lost",
        "scenario steady change · seed 42 · 2 min 00 s of virtual time",
        "50 %: 140 ms",
        "99 %: 624 ms",
        "99.9 %: 1.72 s",
        "1 ms",
        "1 s",
        "100 %",
        "25 kB",
        "100",
        "virtual time since the start, s",
    ] {
        assert!(has(&texts, wanted), "no {wanted:?} in {texts:#?}");
    }
}

#[test]
fn a_share_that_is_never_reached_has_no_mark() {
    let mut recorder = SpreadRecorder::new(100);
    recorder.changed(1, Duration::ZERO).unwrap();
    for _ in 0..60 {
        recorder.heard(1, Duration::from_millis(20)).unwrap();
    }
    let report = Report {
        spread: recorder.spread(),
        ..sample()
    };
    let texts = texts(&report);
    assert!(has(&texts, "50 %: 20 ms"), "{texts:?}");
    assert!(
        !texts.iter().any(|text| text.starts_with("99")),
        "{texts:?}"
    );
}

#[test]
fn empty_panels_say_why() {
    let mut report = sample();
    report.spread = None;
    report.traffic.clear();
    report.settings.virtual_s = 0.0;
    let told = texts(&report);
    assert!(has(&told, "no change was made"), "{told:?}");
    assert!(has(&told, "no traffic was sampled"), "{told:?}");

    let mut recorder = SpreadRecorder::new(3);
    recorder.changed(1, Duration::ZERO).unwrap();
    report.spread = recorder.spread();
    let told = texts(&report);
    assert!(has(&told, "no host heard of a change"), "{told:?}");
}

#[test]
fn one_host_that_sends_far_more_makes_the_axis_logarithmic() {
    let mut report = sample();
    assert!(!has(&texts(&report), "1 MB"));
    report.traffic[50].bytes_per_host_per_s.max = 2e6;
    let texts = texts(&report);
    for wanted in ["100 B", "1 kB", "1 MB"] {
        assert!(has(&texts, wanted), "no {wanted:?} in {texts:?}");
    }
}

#[test]
fn a_long_run_is_drawn_with_bounded_columns_that_keep_every_peak() {
    let mut report = sample();
    let quiet = report.traffic[100];
    report.traffic = (0..100_000)
        .map(|second| TrafficSample {
            at_s: f64::from(second),
            ..quiet
        })
        .collect();
    report.traffic[54_321].bytes_per_host_per_s.max = 9_876.5;
    let columns = columns(&report.traffic);
    assert!(columns.len() <= COLUMNS_MAX, "{}", columns.len());
    let most = (columns.iter())
        .map(|column| column.bytes_per_host_per_s.max)
        .fold(0.0, f64::max);
    assert_eq!(most, 9_876.5);
    assert_eq!(columns.last().unwrap().at_s, 99_999.0);
    assert!(svg(&report).len() < 100_000);
    assert!(has(&texts(&report), "virtual time since the start, h"));
}

#[test]
fn names_are_escaped_not_interpreted() {
    let mut report = sample();
    report.settings.scenario = "<script>a&b".to_owned();
    let document = svg(&report);
    assert!(!document.contains("<script"));
    assert!(texts(&report)[2].contains("<script>a&b"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_report_is_well_formed(
        name in any::<String>(),
        numbers in prop::collection::vec(any::<f64>(), 12),
        share in 0.0..=1.0_f64,
    ) {
        let mut report = sample();
        report.settings.scenario = name.clone();
        report.settings.network = name;
        report.settings.virtual_s = numbers[0];
        report.traffic.truncate(2);
        for (sample, numbers) in report.traffic.iter_mut().zip(numbers[1..].chunks(4)) {
            sample.at_s = numbers[0];
            sample.bytes_per_host_per_s = Load {
                mean: numbers[1],
                p99: numbers[2],
                max: numbers[3],
            };
        }
        if let Some(spread) = &mut report.spread {
            spread.curve = vec![CurvePoint { ms: numbers[9], share }];
        }
        let document = svg(&report);
        prop_assert!(parse(&document).is_ok(), "{:?} in {document}", parse(&document));
        for word in ["\"NaN", "\"inf", "LNaN", "Linf", " NaN", " inf", "\"-inf"] {
            prop_assert!(!document.contains(word), "{word} in {document}");
        }
    }
}
