//! LZW as Go's `compress/lzw` has it in `lzw.LSB` order with 8-bit literals: the GIF variant.
//! Knows nothing of the message around it.

use weezl::{BitOrder, LzwError, LzwStatus, decode::Decoder, encode::Encoder};

use super::error::CompressionProblem;

/// Bits of a literal.
const LITERAL_BITS: u8 = 8;

/// Bytes inflated between two looks at the cap.
const CHUNK_BYTES: usize = 8 * 1024;

/// What `data` inflates to. `budget` is how many bytes it may come to, and is charged with what
/// was produced, also when this fails. Bytes after the end code are ignored.
pub(super) fn decompress(data: &[u8], budget: &mut usize) -> Result<Vec<u8>, CompressionProblem> {
    let max = *budget;
    let mut decoder = Decoder::new(BitOrder::Lsb, LITERAL_BITS);
    let mut chunk = [0; CHUNK_BYTES];
    let mut output = Vec::new();
    let mut input = data;
    loop {
        let step = decoder.decode_bytes(input, &mut chunk);
        input = &input[step.consumed_in..];
        if step.consumed_out > *budget {
            *budget = 0;
            return Err(CompressionProblem::TooLarge { max });
        }
        *budget -= step.consumed_out;
        output.extend_from_slice(&chunk[..step.consumed_out]);
        match step.status {
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::NoProgress) => return Err(CompressionProblem::NoEnd),
            Ok(LzwStatus::Done) => return Ok(output),
            Err(LzwError::InvalidCode) => return Err(CompressionProblem::InvalidCode),
        }
    }
}

/// `data` compressed. Go would choose other codes here and there, which no decoder minds.
pub(super) fn compress(data: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::default();
    compressor.compress(data);
    compressor.output
}

/// Compresses one thing after the other in the same memory, 10 KiB of tables.
#[derive(Default)]
pub(super) struct Compressor {
    encoder: Option<Encoder>,
    output: Vec<u8>,
}

impl Compressor {
    /// `data` compressed, as [`compress`] does it.
    pub(super) fn compress(&mut self, data: &[u8]) -> &[u8] {
        self.output.clear();
        let encoder = self
            .encoder
            .get_or_insert_with(|| Encoder::new(BitOrder::Lsb, LITERAL_BITS));
        encoder.reset();
        let result = encoder.into_vec(&mut self.output).encode_all(data);
        result
            .status
            .expect("invariant: every byte is an 8-bit literal");
        &self.output
    }
}

/// Memory is not shared: a clone begins with none.
impl Clone for Compressor {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

#[cfg(test)]
mod tests;
