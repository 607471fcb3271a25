//! LZW against a plain reading of the format: slow encoder and decoder written for these tests.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const CLEAR: u16 = 256;
const END: u16 = 257;
const CODES_MAX: u16 = 4095;

/// Packs codes, least significant bit first, at the width a decoder expects them.
struct CodeWriter {
    bytes: Vec<u8>,
    bits: u32,
    bit_count: u32,
    hi: u16,
}

impl CodeWriter {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            bits: 0,
            bit_count: 0,
            hi: END,
        }
    }

    fn write(&mut self, code: u16) {
        let width = (16 - self.hi.leading_zeros()).clamp(9, 12);
        self.bits |= u32::from(code) << self.bit_count;
        self.bit_count += width;
        while self.bit_count >= 8 {
            self.bytes.push(self.bits as u8);
            self.bits >>= 8;
            self.bit_count -= 8;
        }
        self.hi = if code == CLEAR {
            END
        } else {
            (self.hi + 1).min(CODES_MAX)
        };
    }

    fn finish(mut self) -> Vec<u8> {
        if self.bit_count > 0 {
            self.bytes.push(self.bits as u8);
        }
        self.bytes
    }
}

/// Compresses as Go does; without `clear` as an encoder that goes on with a full table.
fn reference_compress(data: &[u8], clear: bool) -> Vec<u8> {
    let mut writer = CodeWriter::new();
    writer.write(CLEAR);
    let mut table = HashMap::new();
    let mut code = None;
    for &byte in data {
        let Some(prefix) = code else {
            code = Some(u16::from(byte));
            continue;
        };
        if let Some(known) = table.get(&(prefix, byte)) {
            code = Some(*known);
            continue;
        }
        let full = writer.hi == CODES_MAX;
        writer.write(prefix);
        code = Some(u16::from(byte));
        if writer.hi == CODES_MAX && clear {
            writer.write(CLEAR);
            table.clear();
        } else if !full {
            table.insert((prefix, byte), writer.hi);
        }
    }
    if let Some(code) = code {
        writer.write(code);
    }
    writer.write(END);
    writer.finish()
}

/// What a sequence of codes means, ending at the end code.
fn reference_decode(codes: &[u16]) -> Result<Vec<u8>, CompressionProblem> {
    let mut table: HashMap<u16, Vec<u8>> = HashMap::new();
    let mut output = Vec::new();
    let mut previous: Option<Vec<u8>> = None;
    let mut hi = END;
    for &code in codes {
        let word = match code {
            0..CLEAR => vec![code as u8],
            CLEAR => {
                (table, previous, hi) = (HashMap::new(), None, END);
                continue;
            }
            END => return Ok(output),
            _ => match (table.get(&code), &previous) {
                (Some(word), _) => word.clone(),
                (None, Some(previous)) if code == hi => {
                    previous.iter().chain(&previous[..1]).copied().collect()
                }
                _ => return Err(CompressionProblem::InvalidCode),
            },
        };
        output.extend_from_slice(&word);
        if let Some(mut entry) = previous.replace(word.clone()).filter(|_| hi <= CODES_MAX) {
            entry.push(word[0]);
            table.entry(hi).or_insert(entry);
        }
        hi = (hi + 1).min(CODES_MAX + 1);
    }
    Err(CompressionProblem::NoEnd)
}

fn inflate(data: &[u8], max: usize) -> Result<Vec<u8>, CompressionProblem> {
    decompress(data, &mut { max })
}

/// Bytes without much repetition.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn samples() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        b"a".to_vec(),
        vec![b'a'; 40],
        vec![0; 100_000],
        noise(100_000),
        b"abc".repeat(20_000),
        (0..100_000_u64).map(|i| ((i * i) >> 3) as u8).collect(),
    ]
}

#[test]
fn reads_what_go_writes_with_clears_and_what_never_clears() {
    for sample in samples() {
        for clear in [true, false] {
            let data = reference_compress(&sample, clear);
            assert_eq!(inflate(&data, sample.len()).as_ref(), Ok(&sample));
        }
    }
    // Sizes Go's encoder was seen to produce: the reference encoder is like it.
    assert_eq!(reference_compress(&samples()[6], true).len(), 58_873);
    assert_eq!(reference_compress(&samples()[5], true).len(), 720);
}

#[test]
fn writes_what_it_reads() {
    for sample in samples() {
        assert_eq!(
            inflate(&compress(&sample), sample.len()).as_ref(),
            Ok(&sample)
        );
    }
}

#[test]
fn missing_end_code_is_an_error() {
    let data = compress(b"hello hello hello");
    for cut in 0..data.len() {
        assert_eq!(
            inflate(&data[..cut], 100),
            Err(CompressionProblem::NoEnd),
            "{cut} bytes"
        );
    }
}

#[test]
fn code_of_nothing_is_an_error() {
    for codes in [
        &[CLEAR, 258][..],
        &[CLEAR, 97, 259],
        &[300],
        &[CLEAR, 97, CLEAR, 258],
    ] {
        let mut writer = CodeWriter::new();
        codes.iter().for_each(|code| writer.write(*code));
        writer.write(END);
        assert_eq!(
            inflate(&writer.finish(), 100),
            Err(CompressionProblem::InvalidCode)
        );
    }
}

#[test]
fn bytes_after_the_end_code_are_ignored() {
    let mut data = compress(b"hello");
    data.extend_from_slice(&[0xff; 20]);
    assert_eq!(inflate(&data, 5), Ok(b"hello".to_vec()));
}

#[test]
fn stops_at_the_cap_and_charges_what_it_made() {
    let data = compress(&vec![0; 10_000_000]);
    assert!(data.len() < 20_000);
    assert_eq!(
        inflate(&data, 9_999_999),
        Err(CompressionProblem::TooLarge { max: 9_999_999 })
    );
    let mut budget = 10_000_001;
    assert!(decompress(&data, &mut budget).is_ok());
    assert_eq!(budget, 1);
    let mut budget = 100;
    assert!(decompress(&compress(b"hello")[..4], &mut budget).is_err());
    assert!(budget < 100);
}

proptest! {
    #[test]
    fn never_panics(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = inflate(&data, 10_000);
    }

    /// Sequences that mostly make sense, over the whole range of widths and past a full table.
    #[test]
    fn agrees_with_a_plain_reading(
        picks in proptest::collection::vec((any::<u16>(), 0_u16..2000), 0..6000),
    ) {
        let mut writer = CodeWriter::new();
        let mut codes = Vec::new();
        for (pick, chance) in &picks {
            let code = match chance {
                0 => CLEAR,
                1 => END,
                // An unknown code, where the width has room for one.
                2 if !(writer.hi + 1).is_power_of_two() => writer.hi + 1,
                3..200 => writer.hi,
                _ => pick % (writer.hi + 1),
            };
            // Clears and ends by chance of their number would leave no long sequence.
            let code = if *chance > 1 && (code == CLEAR || code == END) { 65 } else { code };
            writer.write(code);
            codes.push(code);
        }
        writer.write(END);
        codes.push(END);
        let expected = reference_decode(&codes);
        prop_assert_eq!(inflate(&writer.finish(), 1 << 30), expected);
    }
}
