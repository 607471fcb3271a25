//! The short form of news between our own agents: an instance is as everybody knows it, but for its
//! status. Most news are of this kind, and it takes a tenth of a whole record.
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | `d1 55` |
//! | 8 | stamp, nanoseconds since 1970, little-endian |
//! | 1 | status, as in JSON |
//! | 4 | low half of the hash of all else ([`catalog::content_hash`]), little-endian |
//! | 1 + n | length and name of the host |
//! | rest | ID of the instance |
//!
//! Whoever has no record with this hash cannot use it, and knows that it has missed something.

use bytes::Bytes;
use catalog::{Service, Status, Timestamp, content_hash};

use super::exchange::MAGIC;

const UPDATE: u8 = b'U';
const FIXED_BYTES: usize = 16;

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Owner of the instance.
    pub hostname: String,
    /// The instance.
    pub id: String,
    /// Its status.
    pub status: Status,
    /// Stamp of the news.
    pub updated: Timestamp,
    content: u32,
}

impl StatusUpdate {
    /// Whether these bytes are meant as one.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(&[MAGIC, UPDATE])
    }

    /// What this record says to those who know it but for its status and stamp. `None` when its
    /// stamp or the name of its host do not fit.
    pub fn encode(record: &Service) -> Option<Bytes> {
        let updated = i64::try_from(record.updated.as_unix_nanos()).ok()?;
        let host = record.hostname.as_bytes();
        let mut out = Vec::with_capacity(FIXED_BYTES + host.len() + record.id.len());
        out.extend([MAGIC, UPDATE]);
        out.extend(updated.to_le_bytes());
        out.push(record.status.as_wire());
        out.extend(content(record).to_le_bytes());
        out.push(u8::try_from(host.len()).ok()?);
        out.extend(host);
        out.extend(record.id.as_bytes());
        Some(out.into())
    }

    /// Reads one; `None` when it is cut off, or a name is empty or no text.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[MAGIC, UPDATE])?;
        let (updated, rest) = rest.split_first_chunk()?;
        let (&status, rest) = rest.split_first()?;
        let (content, rest) = rest.split_first_chunk()?;
        let (&length, rest) = rest.split_first()?;
        let (host, id) = rest.split_at_checked(length.into())?;
        let text = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        Some(Self {
            hostname: text(host)?,
            id: text(id)?,
            status: Status::from_wire(status.into()),
            updated: Timestamp::from_unix_nanos(i64::from_le_bytes(*updated).into()),
            content: u32::from_le_bytes(*content),
        })
    }

    /// The whole record, when `held` is what the sender took for known.
    pub fn applied_to(&self, held: &Service) -> Option<Service> {
        (content(held) == self.content).then(|| Service {
            status: self.status,
            updated: self.updated,
            ..held.clone()
        })
    }
}

fn content(record: &Service) -> u32 {
    // The low half.
    content_hash(record) as u32
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::service;
    use super::*;

    #[test]
    fn an_update_makes_the_record_of_those_who_know_it() {
        let held = service("a", "1", 1, Status::Alive);
        let news = service("a", "1", 2, Status::Unhealthy);
        let bytes = StatusUpdate::encode(&news).expect("it fits");
        assert_eq!(bytes.len(), FIXED_BYTES + 2);
        assert!(StatusUpdate::is(&bytes));
        let update = StatusUpdate::decode(&bytes).expect("it is one");
        assert_eq!(update.applied_to(&held), Some(news));
        let other = Service {
            image: "web:2".into(),
            ..held
        };
        assert_eq!(update.applied_to(&other), None);
    }

    #[test]
    fn what_is_cut_off_is_none() {
        let news = service("host", "1", 2, Status::Draining);
        let bytes = StatusUpdate::encode(&news).expect("it fits");
        for length in 0..bytes.len() {
            assert_eq!(StatusUpdate::decode(&bytes[..length]), None, "{length}");
        }
        let no_text = [&bytes[..bytes.len() - 1], &[0xff]].concat();
        assert_eq!(StatusUpdate::decode(&no_text), None);
    }

    #[test]
    fn a_stamp_beyond_the_form_is_told_in_full() {
        let mut news = service("host", "1", 2, Status::Alive);
        news.updated = Timestamp::from_unix_nanos(i128::from(i64::MAX) + 1);
        assert_eq!(StatusUpdate::encode(&news), None);
    }
}
