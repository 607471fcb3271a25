//! Every form msgpack can have, read and written.

use proptest::prelude::*;

use super::*;

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Writer(&mut out));
    out
}

/// Every field of a structure, or what is wrong with it.
fn fields(input: &[u8]) -> Result<Vec<(&[u8], Value<'_>)>> {
    let mut fields = Fields::open(input)?;
    std::iter::from_fn(|| fields.next().transpose()).collect()
}

/// The structure `{"k": value}`.
fn with_value(value: &[u8]) -> Vec<u8> {
    [b"\x81\xa1k", value].concat()
}

fn only_value(input: &[u8]) -> Result<Value<'_>> {
    let found = fields(input)?;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, b"k");
    Ok(found[0].1)
}

#[test]
fn strings_have_the_old_forms() {
    for (length, head) in [
        (0, &[0xa0][..]),
        (31, &[0xbf]),
        (32, &[0xda, 0, 32]),
        (255, &[0xda, 0, 255]),
        (256, &[0xda, 1, 0]),
        (65_535, &[0xda, 255, 255]),
        (65_536, &[0xdb, 0, 1, 0, 0]),
    ] {
        let value = "x".repeat(length);
        let text = written(|w| {
            w.text("k", &value);
        });
        assert_eq!(&text[..2 + head.len()], [b"\xa1k", head].concat());
        assert_eq!(&text[2 + head.len()..], value.as_bytes());
        if length > 0 {
            assert_eq!(
                written(|w| {
                    w.bytes("k", value.as_bytes());
                }),
                text
            );
        }
    }
    assert_eq!(
        written(|w| {
            w.bytes("k", b"");
        }),
        b"\xa1k\xc0"
    );
}

#[test]
fn integers_are_written_shortest() {
    for (value, expected) in [
        (0, &[0][..]),
        (127, &[0x7f]),
        (128, &[0xcc, 128]),
        (255, &[0xcc, 255]),
        (256, &[0xcd, 1, 0]),
        (65_535, &[0xcd, 255, 255]),
        (65_536, &[0xce, 0, 1, 0, 0]),
        (u64::from(u32::MAX), &[0xce, 255, 255, 255, 255]),
        (1 << 32, &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
    ] {
        assert_eq!(
            written(|w| {
                w.unsigned("k", value);
            }),
            [b"\xa1k", expected].concat()
        );
        assert_eq!(
            only_value(&with_value(expected)),
            Ok(Value::Unsigned(value))
        );
    }
}

#[test]
fn scalars_are_read_in_every_form() {
    for (input, expected) in [
        (&b"\xc0"[..], Value::Nil),
        (b"\xc2", Value::Bool(false)),
        (b"\xc3", Value::Bool(true)),
        (b"\xd0\x7f", Value::Unsigned(127)),
        (b"\xd1\x00\xc8", Value::Unsigned(200)),
        (b"\xd2\x00\x01\x11\x70", Value::Unsigned(70_000)),
        (b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05", Value::Unsigned(5)),
        (b"\xff", Value::Negative(-1)),
        (b"\xe0", Value::Negative(-32)),
        (b"\xd0\x80", Value::Negative(-128)),
        (b"\xd1\xff\xff", Value::Negative(-1)),
        (b"\xd2\xff\xff\xff\xff", Value::Negative(-1)),
        (
            b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
            Value::Negative(i64::MIN),
        ),
        (
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            Value::Unsigned(u64::MAX),
        ),
        (b"\xa2ab", Value::Raw(b"ab")),
        (b"\xd9\x02ab", Value::Raw(b"ab")),
        (b"\xda\x00\x02ab", Value::Raw(b"ab")),
        (b"\xdb\x00\x00\x00\x02ab", Value::Raw(b"ab")),
        (b"\xc4\x02ab", Value::Raw(b"ab")),
        (b"\xc5\x00\x02ab", Value::Raw(b"ab")),
        (b"\xc6\x00\x00\x00\x02ab", Value::Raw(b"ab")),
        (b"\xca\x00\x00\x00\x00", Value::Other("a float")),
        (
            b"\xcb\x00\x00\x00\x00\x00\x00\x00\x00",
            Value::Other("a float"),
        ),
    ] {
        assert_eq!(only_value(&with_value(input)), Ok(expected), "{input:02x?}");
    }
}

#[test]
fn map_headers_of_every_width_and_extra_bytes_are_accepted() {
    for head in [&b"\x81"[..], b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"] {
        let input = [head, b"\xa1k\x05", b"trailing"].concat();
        assert_eq!(only_value(&input), Ok(Value::Unsigned(5)));
    }
}

#[test]
fn unknown_values_of_every_kind_are_skipped() {
    for value in [
        &b"\x90"[..],
        b"\x80",
        b"\x93\x01\xc0\xa1x",
        b"\x82\xa1x\x91\x80\x05\xc3",
        b"\xdc\x00\x02\x01\x02",
        b"\xdd\x00\x00\x00\x01\x01",
        b"\xde\x00\x01\x01\x02",
        b"\xdf\x00\x00\x00\x01\x01\x02",
        b"\xd4\x00a",
        b"\xd5\x00ab",
        b"\xd6\x00abcd",
        b"\xd7\x00abcdefgh",
        b"\xd8\x00abcdefghabcdefgh",
        b"\xc7\x00\x00",
        b"\xc7\x03\x00abc",
        b"\xc8\x00\x03\x00abc",
        b"\xc9\x00\x00\x00\x03\x00abc",
        b"\xc4\x03abc",
    ] {
        let input = [b"\x82\xa1k", value, b"\xa1z\x07"].concat();
        let found = fields(&input).unwrap();
        assert_eq!(found[1], (&b"z"[..], Value::Unsigned(7)), "{value:02x?}");
        assert_eq!(
            Scanner::structure(0).scan(&input),
            Ok(Scan::End(input.len()))
        );
    }
}

#[test]
fn nesting_ends_at_sixteen() {
    for opener in [0x91, 0xdc] {
        let nested = |depth: usize| {
            let level: &[u8] = if opener == 0xdc {
                &[0xdc, 0, 1]
            } else {
                &[0x91]
            };
            with_value(&[&level.repeat(depth - 1), &b"\x90"[..]].concat())
        };
        for (depth, expected) in [(16, None), (17, Some(MsgpackProblem::TooDeep))] {
            let input = nested(depth);
            assert_eq!(fields(&input).err(), expected, "depth {depth}");
            assert_eq!(
                Scanner::structure(0).scan(&input).err(),
                expected,
                "depth {depth}"
            );
        }
    }
}

#[test]
fn only_a_map_with_fields_is_a_structure() {
    for (input, problem) in [
        (&b"\xc0"[..], MsgpackProblem::NotAMap(0xc0)),
        (b"\x91\x01", MsgpackProblem::NotAMap(0x91)),
        (b"\x05", MsgpackProblem::NotAMap(0x05)),
        (b"\xa1k", MsgpackProblem::NotAMap(0xa1)),
        (b"\x80", MsgpackProblem::EmptyMap),
        (b"\xde\x00\x00", MsgpackProblem::EmptyMap),
        (b"\x81\x05\x05", MsgpackProblem::Key(5)),
        (b"\x81\xc0\x05", MsgpackProblem::Key(0xc0)),
        (b"\xc1", MsgpackProblem::Reserved),
        (b"\x81\xa1k\xc1", MsgpackProblem::Reserved),
    ] {
        assert_eq!(fields(input), Err(problem), "{input:02x?}");
    }
}

#[test]
fn declared_lengths_beyond_the_input_are_errors() {
    for value in [
        &b"\xa2a"[..],
        b"\xdb\x7f\xff\xff\xffa",
        b"\xdb\xff\xff\xff\xffa",
        b"\xc6\xff\xff\xff\xffa",
        b"\xc9\xff\xff\xff\xff\x00a",
        b"\xdd\xff\xff\xff\xff\x01",
        b"\xdf\x80\x00\x00\x00\x01\x01",
        b"\xcd\x01",
        b"\xd8\x00",
        b"",
    ] {
        let input = with_value(value);
        assert!(
            matches!(fields(&input), Err(MsgpackProblem::Truncated { .. })),
            "{value:02x?}"
        );
    }
    // More fields declared than there are.
    assert!(matches!(
        fields(b"\xdf\xff\xff\xff\xff\xa1k\x01"),
        Err(MsgpackProblem::Truncated { .. })
    ));
}

#[test]
fn scanner_goes_on_where_it_stopped() {
    let input = b"\x83\xa1a\x93\x01\x02\xda\x00\x03xyz\xa1b\x81\x01\x90\xa1c\xcf\x00\x00\x00\x00\x00\x00\x00\x01";
    let mut scanner = Scanner::structure(0);
    for end in 0..input.len() {
        match scanner.scan(&input[..end]) {
            Ok(Scan::Needs(needed)) => assert!(needed > end && needed <= input.len()),
            other => panic!("{other:?} after {end} bytes"),
        }
    }
    assert_eq!(scanner.scan(input), Ok(Scan::End(input.len())));
}

proptest! {
    #[test]
    fn never_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = fields(&input);
        let _ = Scanner::structure(0).scan(&input);
    }

    /// Fields and scanner are two readings of one format.
    #[test]
    fn scanner_ends_where_the_fields_end(
        mut input in proptest::collection::vec(
            prop_oneof![Just(0xa1), Just(0x81), Just(0x92), Just(0xc0), any::<u8>()], 1..60),
    ) {
        input[0] = 0x82;
        let mut read = Fields::open(&input).unwrap();
        let outcome = loop {
            match read.next() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(read.at),
                Err(problem) => break Err(problem),
            }
        };
        match (outcome, Scanner::structure(0).scan(&input)) {
            (Ok(end), scan) => prop_assert_eq!(scan, Ok(Scan::End(end))),
            (Err(MsgpackProblem::Truncated { .. }), Ok(Scan::Needs(needed))) => {
                prop_assert!(needed > input.len());
            }
            // The scanner does not look at what keys are.
            (Err(MsgpackProblem::Key(_)), _) => {}
            (Err(problem), scan) => prop_assert_eq!(scan, Err(problem)),
        }
    }
}
