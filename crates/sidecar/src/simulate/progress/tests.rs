//! The line at every width, and what is written by a clock that the test turns.

use std::{cell::Cell, rc::Rc};

use expect_test::expect;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn state() -> State {
    State {
        phase: "identical digests after contact".to_owned(),
        at: Duration::from_millis(45_200),
        total: SECOND * 100,
        speed: 12.34,
    }
}

#[test]
fn the_line_gives_up_the_bar_first_and_the_name_next() {
    let lines = [100, 79, 66, 40, 20, 0].map(|width| line(&state(), width));
    expect![[r#"
        identical digests after contact  [==========>             ]  45.2 s of 100 s, 12x, 5 s left
        identical digests after contact  [=====>      ]  45.2 s of 100 s, 12x, 5 s left
        identical digests after contact  45.2 s of 100 s, 12x, 5 s left
        identic…  45.2 s of 100 s, 12x, 5 s left
        45.2 s of 100 s, 12…
    "#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn the_line_is_never_wider_than_asked() {
    for speed in [0.0, 0.04, 3.0, 1e9, f64::NAN, f64::INFINITY] {
        for width in 0..200 {
            let line = line(&State { speed, ..state() }, width);
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn the_start_and_the_end_have_no_guess() {
    let start = State {
        at: Duration::ZERO,
        speed: 0.0,
        ..state()
    };
    let end = State {
        at: SECOND * 100,
        ..state()
    };
    let over = State {
        at: SECOND * 101,
        total: Duration::ZERO,
        ..state()
    };
    let lines = [start, end, over].map(|state| line(&state, 100));
    expect![[r#"
        identical digests after contact  [>                       ]  0 ms of 100 s
        identical digests after contact  [========================]  100.0 s of 100 s, 12x
        identical digests after contact  [========================]  101.0 s of 0 ms, 12x"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn a_phase_cannot_move_the_cursor() {
    let state = State {
        phase: "a\x1b[2J\nb".to_owned(),
        ..state()
    };
    assert!(!line(&state, 100).contains(char::is_control));
}

/// A clock that the test turns, and how often it was looked at.
#[derive(Clone, Default)]
struct Clock {
    now: Rc<Cell<Duration>>,
    looks: Rc<Cell<u32>>,
}

impl Clock {
    fn reader(&self) -> Box<dyn FnMut() -> Duration> {
        let clock = self.clone();
        Box::new(move || {
            clock.looks.set(clock.looks.get() + 1);
            clock.now.get()
        })
    }

    fn turn(&self, by: Duration) {
        self.now.set(self.now.get() + by);
    }
}

fn written(mode: Mode, run: impl FnOnce(&mut Progress<'_>, &Clock)) -> String {
    let clock = Clock::default();
    let mut out = Vec::new();
    let mut progress = Progress::with_clock(&mut out, mode, SECOND * 100, clock.reader());
    run(&mut progress, &clock);
    progress.finish();
    String::from_utf8(out).unwrap()
}

/// What a terminal showed, one after the other.
fn shown(written: &str) -> Vec<&str> {
    let lines = written.split(LINE_START).skip(1);
    lines
        .map(|line| line.strip_suffix(LINE_END).unwrap())
        .collect()
}

#[test]
fn a_terminal_sees_one_line_five_times_a_second_and_then_none() {
    let text = written(Mode::Terminal(100), |progress, clock| {
        progress.phase("contact");
        for call in 1..=100_000_u32 {
            clock.turn(Duration::from_micros(10));
            progress.advance(Duration::from_millis(1) * call / 10);
        }
        // One in 64 calls, and the first few.
        assert!(clock.looks.get() < 2_000, "{}", clock.looks.get());
    });
    assert!(!text.contains('\n'));
    let lines = shown(&text);
    expect![[r#"
        contact  [>                       ]  0 ms of 100 s
        contact  [>                       ]  2.00 s of 100 s, 10x, 10 s left
        contact  [>                       ]  4.01 s of 100 s, 10x, 10 s left
        contact  [=>                      ]  6.01 s of 100 s, 10x, 10 s left
        contact  [=>                      ]  8.01 s of 100 s, 10x, 10 s left
    "#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn slow_calls_are_all_drawn() {
    let text = written(Mode::Terminal(100), |progress, clock| {
        for _ in 0..1_000 {
            clock.turn(Duration::from_micros(1));
            progress.advance(SECOND);
        }
        clock.turn(SECOND);
        // At most the calls until the next look are not drawn, then each is.
        for call in 1..=100 {
            clock.turn(SECOND);
            progress.advance(SECOND * call);
        }
    });
    let drawn = shown(&text).len();
    assert!(drawn >= 100 - CALLS_MAX as usize, "{drawn}");
}

#[test]
fn speed_follows_the_last_seconds() {
    let text = written(Mode::Terminal(100), |progress, clock| {
        progress.phase("contact");
        for second in 1..=10 {
            clock.turn(SECOND);
            progress.advance(SECOND * 5 * second);
        }
        for second in 1..=10 {
            clock.turn(SECOND);
            progress.advance(SECOND * 50 + SECOND * second);
        }
    });
    let lines = shown(&text);
    assert!(lines[10].ends_with(", 5.0x, 10 s left"), "{}", lines[10]);
    assert!(lines[20].ends_with(", 1.1x, 36 s left"), "{}", lines[20]);
}

#[test]
fn a_file_gets_one_line_per_phase() {
    let text = written(Mode::Plain, |progress, clock| {
        progress.phase("identical digests after contact");
        for second in 0..50 {
            clock.turn(SECOND / 10);
            progress.advance(SECOND * second);
        }
        progress.phase("changes");
        progress.advance(SECOND * 100);
    });
    expect![[r#"
        identical digests after contact: begins at 0 ms of 100 s of virtual time, 0 ms after the start
        changes: begins at 49.0 s of 100 s of virtual time, 5.00 s after the start
    "#]].assert_eq(&text);
}

#[test]
fn silence_is_silent() {
    let text = written(Mode::Silent, |progress, clock| {
        progress.phase("contact");
        clock.turn(SECOND);
        progress.advance(SECOND);
    });
    assert_eq!(text, "");
}

/// Takes nothing, like a pipe that nobody reads.
#[derive(Default)]
struct Closed(u32);

impl io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_tried_once() {
    let clock = Clock::default();
    let mut out = Closed::default();
    let mut progress =
        Progress::with_clock(&mut out, Mode::Terminal(80), SECOND * 9, clock.reader());
    for second in 1..=9 {
        clock.turn(SECOND);
        progress.advance(SECOND * second);
    }
    progress.finish();
    assert_eq!(out.0, 1);
}
