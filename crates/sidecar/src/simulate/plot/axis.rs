//! An axis: from values to pixels, and where its ticks go.
//!
//! Knows nothing of what is drawn. Any axis has a length above zero and finite ends, whatever it is
//! made from, so no pixel is ever not a number.

use crate::simulate::units;

/// Ticks a linear axis has at most, roughly.
const TICKS: f64 = 6.0;
/// Pixels from which on a decade has room for labels at 1, 2 and 5; below only at 1.
const DECADE_FINE: f64 = 165.0;

/// Maps values between `low` and `high` to pixels between `from` and `to`.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// From 0 to `high`, or a bit above where a tick is if `round`.
    pub(super) fn linear(high: f64, round: bool, (from, to): (f64, f64)) -> Self {
        let high = if high.is_finite() && high > 0.0 {
            high
        } else {
            1.0
        };
        let step = step(high);
        Self {
            low: 0.0,
            high: if round {
                (high / step).ceil() * step
            } else {
                high
            },
            from,
            to,
            logarithmic: false,
        }
    }

    /// From `low`, above 0, to the next 1, 2 or 5 times a power of ten from `high` on, a decade at least.
    pub(super) fn logarithmic(low: f64, high: f64, (from, to): (f64, f64)) -> Self {
        let high = if high.is_finite() {
            high.max(low * 10.0)
        } else {
            low * 10.0
        };
        let decade = 10_f64.powf(high.log10().floor());
        let round = [1.0, 2.0, 5.0, 10.0]
            .map(|digit| digit * decade)
            .into_iter()
            .find(|edge| *edge >= high * (1.0 - 1e-9));
        Self {
            low,
            high: round.unwrap_or(high),
            from,
            to,
            logarithmic: true,
        }
    }

    /// The pixel of `value`, at the nearer end for values outside.
    pub(super) fn pixel(&self, value: f64) -> f64 {
        // Also takes what is not a number to an end.
        let value = value.max(self.low).min(self.high);
        let part = if self.logarithmic {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part * (self.to - self.from)
    }

    /// The largest value on the axis.
    pub(super) fn high(&self) -> f64 {
        self.high
    }

    /// Values with a tick, in order, each with whether it has a label.
    pub(super) fn ticks(&self) -> Vec<(f64, bool)> {
        if !self.logarithmic {
            let step = step(self.high);
            let last = (self.high / step + 1e-9).floor() as u32;
            return (0..=last).map(|n| (f64::from(n) * step, true)).collect();
        }
        let decades = (self.high / self.low).log10();
        let fine = (self.to - self.from).abs() >= decades * DECADE_FINE;
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| (1..=9).map(move |digit| (digit, power)))
            .map(|(digit, power)| {
                let labelled = digit == 1 || fine && matches!(digit, 2 | 5);
                (f64::from(digit) * 10_f64.powi(power), labelled)
            })
            .filter(|(value, _)| {
                *value >= self.low * (1.0 - 1e-9) && *value <= self.high * (1.0 + 1e-9)
            })
            .collect()
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides up to `high` into a handful of parts.
fn step(high: f64) -> f64 {
    let rough = high / TICKS;
    let decade = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * decade)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

/// `20 ms`, `1 s`, `100 s`.
pub(super) fn millis_label(millis: f64) -> String {
    if millis < 999.5 {
        format!("{} ms", units::trimmed(millis))
    } else {
        format!("{} s", units::trimmed(millis / 1e3))
    }
}

/// `20 B`, `1.5 kB`; in the unit that fits `like`.
pub(super) fn bytes_label(bytes: f64, like: f64) -> String {
    if bytes == 0.0 {
        return "0".to_owned();
    }
    let (scale, unit) = units::byte_unit(like);
    format!("{} {unit}", units::trimmed(bytes / scale))
}

/// The unit that fits a time axis up to `seconds`, and its length in seconds.
pub(super) fn time_unit(seconds: f64) -> (f64, &'static str) {
    match seconds {
        _ if seconds <= 600.0 => (1.0, "s"),
        _ if seconds <= 3.0 * 3600.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_has_round_ticks_up_to_a_tick() {
        let axis = Axis::linear(7_300.0, true, (0.0, 100.0));
        let ticks: Vec<f64> = axis.ticks().into_iter().map(|(value, _)| value).collect();
        assert_eq!(ticks, [0.0, 2_000.0, 4_000.0, 6_000.0, 8_000.0]);
        assert_eq!(axis.pixel(4_000.0), 50.0);
        assert_eq!(axis.pixel(1e9), 100.0);
        assert_eq!(axis.pixel(-1.0), 0.0);
    }

    #[test]
    fn a_logarithmic_axis_has_equal_decades() {
        let axis = Axis::logarithmic(1.0, 150.0, (0.0, 500.0));
        assert_eq!(axis.high(), 200.0);
        let labels = axis.ticks().into_iter().filter(|(_, label)| *label);
        let labels: Vec<String> = labels.map(|(value, _)| millis_label(value)).collect();
        assert_eq!(
            labels,
            [
                "1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms", "100 ms", "200 ms"
            ]
        );
        let decade = |value: f64| axis.pixel(value * 10.0) - axis.pixel(value);
        assert!((decade(1.0) - decade(10.0)).abs() < 1e-9);
        assert_eq!(axis.pixel(0.0), 0.0);
    }

    #[test]
    fn narrow_decades_are_labelled_by_powers_of_ten_only() {
        let axis = Axis::logarithmic(1.0, 1e6, (0.0, 800.0));
        let labels: Vec<f64> = (axis.ticks().into_iter())
            .filter_map(|(value, label)| label.then_some(value))
            .collect();
        assert_eq!(labels, [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6]);
    }

    #[test]
    fn odd_ranges_still_make_an_axis() {
        for high in [0.0, -5.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
            for axis in [
                Axis::linear(high, true, (10.0, 20.0)),
                Axis::logarithmic(1.0, high, (10.0, 20.0)),
            ] {
                for value in [f64::NAN, 0.0, high, f64::MAX] {
                    let pixel = axis.pixel(value);
                    assert!((10.0..=20.0 + 1e-9).contains(&pixel), "{value} on {axis:?}");
                }
                assert!(axis.ticks().len() < 5_000, "{axis:?}");
            }
        }
    }
}
