//! Exchanges without tables, for hosts whose application has nothing to say about them: the digest of
//! the table goes before the application's state, as a real application would do it.

use bytes::Bytes;

/// First byte of ours; no state of an application begins with it.
const MAGIC: u8 = 0xb1;

/// What is said about the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    /// Our digest is this.
    Digest(u64),
    /// Ours has the same digest.
    Same,
    /// It has another.
    Differ,
}

impl Tables {
    /// This in front of a state.
    pub(super) fn before(self, state: &[u8]) -> Bytes {
        let mut out = vec![MAGIC];
        match self {
            Self::Digest(digest) => {
                out.push(b'd');
                out.extend(digest.to_le_bytes());
            }
            Self::Same => out.push(b's'),
            Self::Differ => out.push(b'x'),
        }
        out.extend_from_slice(state);
        out.into()
    }

    /// What is said, and the state behind it.
    pub(super) fn read(said: &Bytes) -> Option<(Self, Bytes)> {
        match said.get(..2)? {
            [MAGIC, b'd'] => {
                let digest = said.get(2..10)?.try_into().ok()?;
                Some((Self::Digest(u64::from_le_bytes(digest)), said.slice(10..)))
            }
            [MAGIC, b's'] => Some((Self::Same, said.slice(2..))),
            [MAGIC, b'x'] => Some((Self::Differ, said.slice(2..))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_other_states_are_not_taken_for_it() {
        for tables in [Tables::Digest(0x1234), Tables::Same, Tables::Differ] {
            let said = tables.before(b"state");
            let read = Tables::read(&said).expect("just written");
            assert_eq!(read, (tables, Bytes::from_static(b"state")));
        }
        for other in [&b""[..], b"\xb1", b"\xb1d1234567", b"a 1  00000000"] {
            assert_eq!(Tables::read(&Bytes::copy_from_slice(other)), None);
        }
    }
}
