//! A progress line on a terminal: the phase, how far virtual time has come, and how long it still takes.
//!
//! Where there is no terminal, one plain line per phase. Only the caller knows where to write and
//! whether a terminal shows it. What the line says is `line`, without a clock or a terminal.

use std::{
    io,
    time::{Duration, Instant},
};

use super::units;

/// Redrawn at most this often, by the clock on the wall.
const REDRAW_EVERY: Duration = Duration::from_millis(200);
/// Calls between two looks at the clock, at most: rare enough to cost nothing, and few enough that
/// the line still moves when calls become slow.
const CALLS_MAX: u32 = 64;
/// Looks at the clock closer together than this are too many.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Speed is the mean over about this long, the latest counting most.
const SPEED_OVER: Duration = Duration::from_secs(3);

/// Width of the bar without its brackets, in characters, where there is room.
const BAR_CHARS: usize = 24;
/// The narrowest bar that is still one.
const BAR_CHARS_MIN: usize = 6;
/// Width that the phase's name takes at most.
const PHASE_CHARS_MAX: usize = 34;

/// Back to the start of the line, and no wrapping: a line too long for the terminal is cut off
/// rather than drawn below itself.
const LINE_START: &str = "\r\x1b[?7l";
/// Clear what was longer before, and wrap again.
const LINE_END: &str = "\x1b[K\x1b[?7h";

/// What the line shows.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// What is waited for.
    pub phase: String,
    /// Virtual time since the start of the run.
    pub at: Duration,
    /// Virtual time of the whole run.
    pub total: Duration,
    /// Virtual seconds per second; 0 while unknown.
    pub speed: f64,
}

impl State {
    /// Share of the run that is done, 0 to 1.
    fn share(&self) -> f64 {
        if self.at >= self.total {
            return 1.0;
        }
        self.at.as_secs_f64() / self.total.as_secs_f64()
    }

    /// Time by the clock on the wall until the end, in seconds; not finite while speed is unknown.
    fn left_s(&self) -> f64 {
        self.total.saturating_sub(self.at).as_secs_f64() / self.speed
    }
}

/// `state` in at most `width` characters; the widest form that fits of: all, a shorter bar, no bar, a
/// shorter name.
pub fn line(state: &State, width: usize) -> String {
    let phase = units::printable(&state.phase, PHASE_CHARS_MAX);
    let numbers = numbers(state);
    let used = phase.chars().count() + numbers.chars().count();
    // The bar's brackets, and two blanks on either side.
    let bar_chars = width.saturating_sub(used + 6).min(BAR_CHARS);
    if bar_chars >= BAR_CHARS_MIN {
        return format!("{phase}  [{}]  {numbers}", bar(state.share(), bar_chars));
    }
    let phase_chars = width.saturating_sub(numbers.chars().count() + 2);
    if phase_chars > 0 {
        return format!("{}  {numbers}", units::printable(&phase, phase_chars));
    }
    units::printable(&numbers, width)
}

/// `12.5 s of 120 s, 40x, 3 s left`.
fn numbers(state: &State) -> String {
    let mut text = format!(
        "{} of {}",
        units::seconds(state.at.as_secs_f64()),
        units::whole_seconds(state.total.as_secs_f64()),
    );
    if state.speed > 0.0 && state.speed.is_finite() {
        let decimals = usize::from(state.speed < 9.95);
        text.push_str(&format!(", {:.decimals$}x", state.speed));
        if state.at < state.total {
            // Whole seconds: more would only flicker.
            let left = units::whole_seconds(state.left_s().ceil().max(1.0));
            text.push_str(&format!(", {left} left"));
        }
    }
    text
}

fn bar(share: f64, chars: usize) -> String {
    let done = ((share * chars as f64) as usize).min(chars);
    let head = if done < chars { ">" } else { "" };
    let ahead = chars - done - head.len();
    format!("{}{head}{}", "=".repeat(done), " ".repeat(ahead))
}

/// Where the line goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A terminal with this many columns: one line, redrawn.
    Terminal(usize),
    /// Anything else: a line per phase.
    Plain,
    /// Nothing is written.
    Silent,
}

/// Follows a run and writes about it.
pub struct Progress<'a> {
    out: &'a mut dyn io::Write,
    mode: Mode,
    /// Time by the clock on the wall since the start.
    clock: Box<dyn FnMut() -> Duration + 'a>,
    state: State,
    pace: Pace,
    drawn: Option<Duration>,
}

impl<'a> Progress<'a> {
    /// For a run of `total` virtual time that begins now, told to `out`.
    pub fn new(out: &'a mut dyn io::Write, mode: Mode, total: Duration) -> Self {
        let start = Instant::now();
        Self::with_clock(out, mode, total, Box::new(move || start.elapsed()))
    }

    fn with_clock(
        out: &'a mut dyn io::Write,
        mode: Mode,
        total: Duration,
        clock: Box<dyn FnMut() -> Duration + 'a>,
    ) -> Self {
        Self {
            out,
            mode,
            clock,
            state: State {
                phase: String::new(),
                at: Duration::ZERO,
                total,
                speed: 0.0,
            },
            pace: Pace::default(),
            drawn: None,
        }
    }

    /// From here on, `phase` is waited for.
    pub fn phase(&mut self, phase: &str) {
        self.state.phase = phase.to_owned();
        match self.mode {
            Mode::Silent => {}
            Mode::Terminal(_) => {
                let wall = (self.clock)();
                self.draw(wall);
            }
            Mode::Plain => {
                let wall = (self.clock)();
                let text = format!(
                    "{}: begins at {} of {} of virtual time, {} after the start\n",
                    units::printable(&self.state.phase, 80),
                    units::seconds(self.state.at.as_secs_f64()),
                    units::whole_seconds(self.state.total.as_secs_f64()),
                    units::seconds(wall.as_secs_f64()),
                );
                self.write(&text);
            }
        }
    }

    /// Virtual time has come to `at`. May be called for every event: most calls only count.
    pub fn advance(&mut self, at: Duration) {
        self.state.at = at;
        if !matches!(self.mode, Mode::Terminal(_)) || !self.pace.is_time_to_look() {
            return;
        }
        let wall = (self.clock)();
        self.pace.looked(wall);
        let is_due = (self.drawn).is_none_or(|drawn| wall.saturating_sub(drawn) >= REDRAW_EVERY);
        if is_due {
            self.state.speed = self.pace.speed(wall, at);
            self.draw(wall);
        }
    }

    /// The run is over: clears the line, so that what follows starts on an empty one.
    pub fn finish(mut self) {
        if self.drawn.is_some() {
            self.write(&format!("{LINE_START}{LINE_END}"));
        }
    }

    fn draw(&mut self, wall: Duration) {
        let Mode::Terminal(columns) = self.mode else {
            return;
        };
        self.drawn = Some(wall);
        // The last column stays free: a cursor behind it would be on the next line.
        let text = line(&self.state, columns.saturating_sub(1));
        self.write(&format!("{LINE_START}{text}{LINE_END}"));
    }

    /// Who does not listen any more is not told any more; the run is worth more than its progress.
    fn write(&mut self, text: &str) {
        let written = self.out.write_all(text.as_bytes());
        if written.and_then(|()| self.out.flush()).is_err() {
            self.mode = Mode::Silent;
            self.drawn = None;
        }
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("mode", &self.mode)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// When to look at the clock, and how fast virtual time goes by it.
#[derive(Debug)]
struct Pace {
    calls_left: u32,
    calls_between: u32,
    looked: Duration,
    /// Time by the clock, virtual time and speed when speed was last taken.
    last: (Duration, Duration, Option<f64>),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            calls_left: 1,
            calls_between: 1,
            looked: Duration::ZERO,
            last: (Duration::ZERO, Duration::ZERO, None),
        }
    }
}

impl Pace {
    fn is_time_to_look(&mut self) -> bool {
        self.calls_left -= 1;
        self.calls_left == 0
    }

    fn looked(&mut self, wall: Duration) {
        let since = wall.saturating_sub(self.looked);
        self.calls_between = match since {
            _ if since < LOOK_EVERY => (self.calls_between * 2).min(CALLS_MAX),
            _ if since > REDRAW_EVERY => 1,
            _ => self.calls_between,
        };
        self.calls_left = self.calls_between;
        self.looked = wall;
    }

    fn speed(&mut self, wall: Duration, at: Duration) -> f64 {
        let (last_wall, last_at, last_speed) = self.last;
        let wall_s = wall.saturating_sub(last_wall).as_secs_f64();
        if wall_s == 0.0 {
            return last_speed.unwrap_or(0.0);
        }
        let now = at.saturating_sub(last_at).as_secs_f64() / wall_s;
        let speed = last_speed.map_or(now, |last_speed| {
            let weight = 1.0 - (-wall_s / SPEED_OVER.as_secs_f64()).exp();
            last_speed + (now - last_speed) * weight
        });
        self.last = (wall, at, Some(speed));
        speed
    }
}

#[cfg(test)]
mod tests;
