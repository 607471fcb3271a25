//! The report as one self-contained SVG picture: how changes spread, and what is sent meanwhile.
//!
//! Needs nothing from the network and runs no script, so it can be mailed, put on a page or committed.
//! It follows the viewer's choice of a light or dark appearance.

mod axis;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use axis::Axis;

use super::{
    report::{CurvePoint, Load, Report, Settings, Spread, TrafficSample},
    units,
};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 700.0;
/// Left and right end of both panels.
const ACROSS: (f64, f64) = (78.0, 872.0);
/// Upper and lower end of the panel of spread.
const SPREAD: (f64, f64) = (122.0, 356.0);
/// Upper and lower end of the panel of traffic.
const TRAFFIC: (f64, f64) = (450.0, 640.0);

/// Where the axis of time since a change begins, in milliseconds.
const SPREAD_FROM_MS: f64 = 1.0;
/// Shares that are marked, and how far above the panel's lower end their labels are, in pixels: each
/// at a height of its own, as the times are often close.
const MARKS: [(f64, &str, f64); 3] = [
    (0.5, "50 %", 88.0),
    (0.99, "99 %", 52.0),
    (0.999, "99.9 %", 16.0),
];
/// Room a mark's label needs, in pixels.
const MARK_LABEL: f64 = 118.0;

/// Columns of traffic drawn at most: there are fewer pixels than that.
const COLUMNS_MAX: usize = 400;
/// A linear axis with its top this many times the largest mean would press the mean flat.
const FLAT: f64 = 40.0;

/// The picture, as a whole XML document.
pub fn svg(report: &Report) -> String {
    let mut canvas = Canvas(String::new());
    canvas.line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">"
    ));
    canvas.title(&report.settings);
    canvas.line(format_args!(
        "<style>\n{}</style>",
        include_str!("plot/style.css")
    ));
    canvas.line(format_args!(
        "<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>"
    ));
    canvas.settings(&report.settings);
    canvas.spread(report.spread.as_ref());
    canvas.traffic(&report.traffic, report.settings.virtual_s);
    canvas.line(format_args!("</svg>"));
    canvas.0
}

struct Canvas(String);

impl Canvas {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(line)
            .expect("invariant: writing to a String cannot fail");
        self.0.push('\n');
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        self.line(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
            escaped(text)
        ));
    }

    fn segment(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.line(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    fn path(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>, closed: bool) {
        let mut path = String::new();
        for (x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            path.push_str(&format!("{command}{x:.1} {y:.1}"));
        }
        let end = if closed { "Z" } else { "" };
        self.line(format_args!("<path class=\"{class}\" d=\"{path}{end}\"/>"));
    }

    fn title(&mut self, settings: &Settings) {
        self.line(format_args!(
            "<title>{}</title>",
            escaped(&headline(settings))
        ));
    }

    fn settings(&mut self, settings: &Settings) {
        self.text("title", (24.0, 34.0), &headline(settings));
        let network = format!("network {}", units::printable(&settings.network, 110));
        self.text("note", (24.0, 55.0), &network);
        let details = format!(
            "scenario {} · seed {} · {} of virtual time",
            units::printable(&settings.scenario, 50),
            settings.seed,
            units::whole_seconds(settings.virtual_s),
        );
        self.text("note", (24.0, 74.0), &details);
    }

    fn spread(&mut self, spread: Option<&Spread>) {
        self.text(
            "heading",
            (ACROSS.0, SPREAD.0 - 12.0),
            "Hosts that know of a change",
        );
        let curve = spread.map_or(&[][..], |spread| &spread.curve);
        let (Some(spread), Some(last)) = (spread, curve.last()) else {
            let reason = match spread {
                Some(_) => "no host heard of a change",
                None => "no change was made",
            };
            return self.empty(SPREAD, reason);
        };
        let x = Axis::logarithmic(SPREAD_FROM_MS, last.ms.max(SPREAD_FROM_MS) * 1.2, ACROSS);
        let y = Axis::linear(100.0, false, (SPREAD.1, SPREAD.0));
        for (value, labelled) in x.ticks() {
            let label = labelled.then(|| axis::millis_label(value));
            self.x_tick(x.pixel(value), SPREAD, label);
        }
        for (value, _) in y.ticks() {
            self.y_tick(y.pixel(value), &format!("{} %", units::trimmed(value)));
        }
        self.axis_name(SPREAD, "time since the change (logarithmic)");
        let told = format!(
            "mean of {}; {} came to every host",
            units::counted(spread.changes as u64, "change"),
            units::count(spread.changes_everywhere as u64),
        );
        self.text("note end", (ACROSS.1, SPREAD.0 - 12.0), &told);

        // From where nobody knows; and nobody hears after the last, so the line goes on level.
        let points: Vec<(f64, f64)> = std::iter::once((ACROSS.0, SPREAD.1))
            .chain((curve.iter()).map(|point| (x.pixel(point.ms), y.pixel(point.share * 100.0))))
            .chain([(ACROSS.1, y.pixel(last.share * 100.0))])
            .collect();
        let corner = (ACROSS.1, SPREAD.1);
        self.path("under", points.iter().copied().chain([corner]), true);
        self.path("line", points.iter().copied(), false);
        self.marks(curve, &x, &y);
        self.frame(SPREAD);
    }

    /// All lines and dots first, so that a label is readable where it meets a neighbour's line.
    fn marks(&mut self, curve: &[CurvePoint], x: &Axis, y: &Axis) {
        let mut labels = Vec::new();
        for (share, name, height) in MARKS {
            let Some(point) = curve.iter().find(|point| point.share >= share) else {
                continue;
            };
            let (x, y) = (x.pixel(point.ms), y.pixel(point.share * 100.0));
            self.segment("mark", (x, y), (x, SPREAD.1));
            self.line(format_args!(
                "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"
            ));
            let label = format!("{name}: {}", units::millis(point.ms));
            labels.push((x, SPREAD.1 - height, label));
        }
        for (x, y, label) in labels {
            if x + MARK_LABEL < ACROSS.1 {
                self.text("value", (x + 7.0, y), &label);
            } else {
                self.text("value end", (x - 7.0, y), &label);
            }
        }
    }

    fn traffic(&mut self, samples: &[TrafficSample], virtual_s: f64) {
        let columns = columns(samples);
        let (y, logarithmic) = traffic_axis(&columns);
        let heading = if logarithmic {
            "Bytes sent by a host per second (logarithmic)"
        } else {
            "Bytes sent by a host per second"
        };
        self.text("heading", (ACROSS.0, TRAFFIC.0 - 12.0), heading);
        let Some(last) = columns.last() else {
            return self.empty(TRAFFIC, "no traffic was sampled");
        };
        let end_s = last.at_s.max(virtual_s);
        let (second, unit) = axis::time_unit(end_s);
        let x = Axis::linear(end_s / second, false, ACROSS);
        for (value, _) in x.ticks() {
            self.x_tick(x.pixel(value), TRAFFIC, Some(units::trimmed(value)));
        }
        for (value, _) in y.ticks().into_iter().filter(|(_, labelled)| *labelled) {
            let like = if logarithmic { value } else { y.high() };
            self.y_tick(y.pixel(value), &axis::bytes_label(value, like));
        }
        self.axis_name(TRAFFIC, &format!("virtual time since the start, {unit}"));
        let line = |load: fn(&Load) -> f64| -> Vec<(f64, f64)> {
            let at = |column: &TrafficSample| {
                let load = load(&column.bytes_per_host_per_s);
                (x.pixel(column.at_s / second), y.pixel(load))
            };
            columns.iter().map(at).collect()
        };
        let (mean, p99, max) = (line(|of| of.mean), line(|of| of.p99), line(|of| of.max));
        let between = |low: &[(f64, f64)], high: &[(f64, f64)]| -> Vec<(f64, f64)> {
            low.iter().chain(high.iter().rev()).copied().collect()
        };
        self.path("band-max", between(&p99, &max), true);
        self.path("band-p99", between(&mean, &p99), true);
        self.path("line", mean, false);
        self.frame(TRAFFIC);
        self.legend();
    }

    /// Names of the line and the bands, right-aligned above the panel of traffic.
    fn legend(&mut self) {
        let y = TRAFFIC.0 - 12.0;
        let right = ACROSS.1;
        let swatch = right - 270.0;
        self.segment("line", (swatch, y - 4.5), (swatch + 20.0, y - 4.5));
        self.text("note", (swatch + 26.0, y), "mean");
        for (class, offset, name) in [
            ("band-p99", 76.0, "up to p99"),
            ("band-max", 176.0, "up to max"),
        ] {
            let x = swatch + offset;
            self.line(format_args!(
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"20\" height=\"12\"/>",
                y - 10.5
            ));
            self.text("note", (x + 26.0, y), name);
        }
    }

    fn x_tick(&mut self, x: f64, (top, bottom): (f64, f64), label: Option<String>) {
        let class = if label.is_some() { "grid" } else { "faint" };
        self.segment(class, (x, top), (x, bottom));
        if let Some(label) = label {
            self.text("middle", (x, bottom + 18.0), &label);
        }
    }

    fn y_tick(&mut self, y: f64, label: &str) {
        self.segment("grid", (ACROSS.0, y), (ACROSS.1, y));
        self.text("end", (ACROSS.0 - 8.0, y + 4.5), label);
    }

    fn axis_name(&mut self, (_, bottom): (f64, f64), name: &str) {
        let middle = f64::midpoint(ACROSS.0, ACROSS.1);
        self.text("note middle", (middle, bottom + 38.0), name);
    }

    fn empty(&mut self, panel: (f64, f64), reason: &str) {
        let middle = (
            f64::midpoint(ACROSS.0, ACROSS.1),
            f64::midpoint(panel.0, panel.1),
        );
        self.text("value middle", middle, reason);
        self.frame(panel);
    }

    fn frame(&mut self, (top, bottom): (f64, f64)) {
        let (left, right) = ACROSS;
        self.path(
            "frame",
            [(left, top), (left, bottom), (right, bottom)],
            false,
        );
    }
}

fn headline(settings: &Settings) -> String {
    format!(
        "How changes spread among {}, {} each",
        units::counted(settings.hosts as u64, "host"),
        units::counted(settings.services_per_host as u64, "service"),
    )
}

/// The axis of traffic, and whether it is logarithmic.
fn traffic_axis(columns: &[TrafficSample]) -> (Axis, bool) {
    let loads = || columns.iter().map(|column| column.bytes_per_host_per_s);
    let most = loads().map(|load| load.max).fold(0.0, f64::max);
    let means = || loads().map(|load| load.mean).filter(|mean| *mean > 0.0);
    let down = (TRAFFIC.1, TRAFFIC.0);
    if most <= means().fold(0.0, f64::max) * FLAT || means().next().is_none() {
        return (Axis::linear(most, true, down), false);
    }
    // From a power of ten below the least mean on: less than a byte is as good as nothing.
    let least = means().fold(f64::MAX, f64::min).max(1.0);
    let low = 10_f64.powf(least.log10().floor());
    (Axis::logarithmic(low, most, down), true)
}

/// `samples`, neighbours merged so that there are at most `COLUMNS_MAX`: the mean of means, the
/// largest p99 and the largest maximum, at the time of the last.
fn columns(samples: &[TrafficSample]) -> Vec<TrafficSample> {
    let per_column = samples.len().div_ceil(COLUMNS_MAX).max(1);
    let merge = |samples: &[TrafficSample]| {
        let loads = || samples.iter().map(|sample| sample.bytes_per_host_per_s);
        samples.last().map(|last| TrafficSample {
            at_s: last.at_s,
            bytes_per_host_per_s: Load {
                mean: loads().map(|load| load.mean).sum::<f64>() / samples.len() as f64,
                p99: loads().map(|load| load.p99).fold(0.0, f64::max),
                max: loads().map(|load| load.max).fold(0.0, f64::max),
            },
        })
    };
    samples.chunks(per_column).filter_map(merge).collect()
}

/// `text` as character data or a quoted attribute. What XML has no way to write becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            _ if letter.is_control() && !matches!(letter, '\t' | '\n' | '\r') => {
                safe.push('\u{fffd}');
            }
            _ => safe.push(letter),
        }
    }
    safe
}
