//! `sidecar keygen`: a new gossip key as text.

use anyhow::Context as _;
use data_encoding::BASE64;
use rand::{TryRng as _, rngs::SysRng};
use zeroize::Zeroizing;

/// A random key of `bytes` bytes in base64, from the operating system's generator.
///
/// # Errors
/// When the operating system gives no random numbers.
pub fn generate(bytes: usize) -> anyhow::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new(vec![0; bytes]);
    SysRng
        .try_fill_bytes(&mut key)
        .context("the system gives no random numbers")?;
    Ok(Zeroizing::new(BASE64.encode(&key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip_keys::parse_key;

    #[test]
    fn generated_keys_are_usable_and_differ() {
        for (bytes, letters) in [(16, 24), (24, 32), (32, 44)] {
            let [one, other] = [(); 2].map(|()| generate(bytes).unwrap());
            assert_eq!(one.len(), letters);
            assert_ne!(parse_key(&one).unwrap(), parse_key(&other).unwrap());
        }
    }
}
