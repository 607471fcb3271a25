//! A constant-size summary of all live records, by which two hosts find out cheaply whether they
//! know the same, and if not, in which part they differ.
//!
//! Each record falls into one of [`BUCKETS`] buckets by its identity; a bucket is the exclusive-or
//! of its records' hashes. Tombstones are not summarised, nor is what this host merely concluded: a
//! host that still holds a buried record as alive differs in that bucket, offers the record, and is
//! answered with the tombstone. So tombstones can be forgotten at different times without a
//! difference. The hash is XXH3 (64 bits, no seed) over explicit bytes: it must be the same in all
//! versions and on all machines.

use std::{fmt, sync::Arc};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::{Service, Status, Timestamp};

/// Parts of a digest. With 100,000 records a single difference costs about a hundred of them.
pub const BUCKETS: usize = 1024;
/// Bytes of an encoded digest.
pub const DIGEST_BYTES: usize = BUCKETS * size_of::<u64>();

/// Hash of a record's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64);

impl Identity {
    pub(crate) fn of(hostname: &str, id: &str) -> Self {
        // A NUL separates: neither may hold control characters.
        Self(xxh3_64(
            &[hostname.as_bytes(), &[0], id.as_bytes()].concat(),
        ))
    }

    fn bucket(self) -> usize {
        // The remainder is below 1024.
        (self.0 % BUCKETS as u64) as usize
    }

    /// Hash of what this record says; never 0, which stands for "not summarised". Without a stamp
    /// where refreshes change it all the time.
    pub(crate) fn saying(self, status: Status, updated: Option<Timestamp>) -> u64 {
        let mut bytes = [0; 25];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        let nanos = updated.map_or(i128::MIN, Timestamp::as_unix_nanos);
        bytes[8..24].copy_from_slice(&nanos.to_le_bytes());
        bytes[24] = status.as_wire();
        xxh3_64(&bytes).max(1)
    }
}

/// Buckets copied together when a digest that is shared with a clone changes.
const PAGE: usize = 32;

/// See the module documentation. A clone shares all pages of buckets that do not change.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    pages: [Arc<[u64; PAGE]>; BUCKETS / PAGE],
    root: u64,
}

impl Default for Digest {
    fn default() -> Self {
        let empty = Arc::new([0; PAGE]);
        Self {
            pages: std::array::from_fn(|_| empty.clone()),
            root: 0,
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({:016x})", self.root)
    }
}

impl Digest {
    /// All of it in one number. Equal for hosts that know the same.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Buckets in which the two differ, ascending.
    pub fn differences(&self, other: &Self) -> Buckets {
        let mut differing = Buckets::default();
        for (index, (ours, theirs)) in self.buckets().zip(other.buckets()).enumerate() {
            if ours != theirs {
                differing.insert(index);
            }
        }
        differing
    }

    fn buckets(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().flat_map(|page| **page)
    }

    /// The buckets, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.buckets().flat_map(u64::to_le_bytes).collect()
    }

    /// `None` unless there are [`DIGEST_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut digest = Self::default();
        let (chunks, rest) = bytes.as_chunks::<8>();
        if chunks.len() != BUCKETS || !rest.is_empty() {
            return None;
        }
        for (page, chunks) in digest.pages.iter_mut().zip(chunks.chunks(PAGE)) {
            for (bucket, chunk) in Arc::make_mut(page).iter_mut().zip(chunks) {
                *bucket = u64::from_le_bytes(*chunk);
                digest.root ^= *bucket;
            }
        }
        Some(digest)
    }

    /// Replaces what a record said before (0: nothing) by what it says now.
    pub(crate) fn replace(&mut self, identity: Identity, before: u64, now: u64) {
        let bucket = identity.bucket();
        Arc::make_mut(&mut self.pages[bucket / PAGE])[bucket % PAGE] ^= before ^ now;
        self.root ^= before ^ now;
    }
}

/// The bucket this record falls into, below [`BUCKETS`].
pub fn bucket_of(record: &Service) -> usize {
    Identity::of(&record.hostname, &record.id).bucket()
}

/// Hash of everything a record says but its status and stamp, the same in all versions and on all
/// machines.
pub fn content_hash(record: &Service) -> u64 {
    let Service {
        id,
        name,
        image,
        created,
        hostname,
        ports,
        updated: _,
        proxy_mode,
        status: _,
        weight,
    } = record;
    let mut hash = Xxh3Default::new();
    let mut text = |text: &str| {
        // Control characters are no part of any of them.
        hash.update(text.as_bytes());
        hash.update(&[0]);
    };
    for part in [hostname, id, name, image, proxy_mode] {
        text(part);
    }
    for port in ports.iter().flatten() {
        text(&port.kind);
        text(&port.ip);
        text(&format!("{} {}", port.port, port.service_port));
    }
    hash.update(&[u8::from(ports.is_some())]);
    hash.update(&created.as_unix_nanos().to_le_bytes());
    hash.update(weight.as_slice());
    hash.digest()
}

/// A set of buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets {
    bits: [u64; BUCKETS / 64],
}

/// Bytes of an encoded set of buckets.
pub const BUCKETS_BYTES: usize = BUCKETS / 8;

impl Buckets {
    /// Adds a bucket, below [`BUCKETS`].
    pub fn insert(&mut self, bucket: usize) {
        self.bits[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Whether this record falls into one of them.
    pub fn contain(&self, record: &Service) -> bool {
        let bucket = bucket_of(record);
        self.bits[bucket / 64] & (1 << (bucket % 64)) != 0
    }

    /// The buckets, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let present = |bucket: &usize| self.bits[bucket / 64] & (1 << (bucket % 64)) != 0;
        (0..BUCKETS).filter(present)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bits
            .iter()
            .map(|bits| bits.count_ones() as usize)
            .sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }

    /// One bit each, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bits
            .iter()
            .flat_map(|bits| bits.to_le_bytes())
            .collect()
    }

    /// `None` unless there are [`BUCKETS_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<8>();
        let bits: [[u8; 8]; BUCKETS / 64] = chunks.try_into().ok()?;
        rest.is_empty().then(|| Self {
            bits: bits.map(u64::from_le_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::service;

    fn said(digest: &mut Digest, id: &str, updated: i128) -> (Identity, u64) {
        let identity = Identity::of("h", id);
        let hash = identity.saying(Status::Alive, Some(Timestamp::from_unix_nanos(updated)));
        digest.replace(identity, 0, hash);
        (identity, hash)
    }

    #[test]
    fn content_is_all_but_status_and_stamp() {
        use crate::service::tests::service;
        let one = service("a", "1", 1, Status::Alive);
        let later = service("a", "1", 2, Status::Unhealthy);
        assert_eq!(content_hash(&one), content_hash(&later));
        // Fixed: other versions compute it, too.
        assert_eq!(content_hash(&one), 9_822_851_878_595_836_109);
        let others = [
            Service {
                ports: None,
                ..one.clone()
            },
            Service {
                ports: Some(Vec::new()),
                ..one.clone()
            },
            Service {
                name: "we".into(),
                image: "bweb:1.0".into(),
                ..one.clone()
            },
            Service {
                weight: Some(1),
                ..one.clone()
            },
            Service {
                created: Timestamp::EPOCH.next(),
                ..one.clone()
            },
            service("a", "2", 1, Status::Alive),
            service("b", "1", 1, Status::Alive),
        ];
        let mut hashes: Vec<u64> = others.iter().chain([&one]).map(content_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 8);
    }

    #[test]
    fn order_does_not_matter_and_what_is_taken_back_leaves_no_trace() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        for id in ["a", "b", "c"] {
            said(&mut one, id, 5);
        }
        for id in ["c", "a", "x", "b"] {
            said(&mut other, id, 5);
        }
        assert_ne!(one.root(), other.root());
        let differing = one.differences(&other);
        assert_eq!(differing.len(), 1);
        assert!(differing.contain(&service("h", "x", 5, Status::Alive)));
        let (identity, hash) = said(&mut Digest::default(), "x", 5);
        other.replace(identity, hash, 0);
        assert_eq!(one, other);
        assert!(one.differences(&other).is_empty());
    }

    #[test]
    fn a_newer_stamp_and_another_status_make_a_difference() {
        let identity = Identity::of("h", "a");
        let at = |nanos| Some(Timestamp::from_unix_nanos(nanos));
        let hashes = [
            identity.saying(Status::Alive, at(5)),
            identity.saying(Status::Alive, at(6)),
            identity.saying(Status::Unhealthy, at(5)),
            identity.saying(Status::Alive, None),
            Identity::of("ha", "").saying(Status::Alive, at(5)),
        ];
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(hash));
        }
    }

    #[test]
    fn hashes_are_the_same_in_every_version() {
        // What peers of other versions compute; a change here is a change of the protocol.
        let identity = Identity::of("host-1", "c0ffee");
        let hash = identity.saying(Status::Alive, Some(Timestamp::from_unix_nanos(1_700)));
        // Computed with another implementation of XXH3.
        assert_eq!(identity.0, 0xf0e420a64a7a72b5);
        assert_eq!(hash, 0x45f5256c16b62010);
    }

    #[test]
    fn bytes_there_and_back() {
        let mut digest = Digest::default();
        said(&mut digest, "a", 5);
        let bytes = digest.to_bytes();
        assert_eq!(bytes.len(), DIGEST_BYTES);
        assert_eq!(Digest::from_bytes(&bytes), Some(digest.clone()));
        assert_eq!(Digest::from_bytes(&bytes[1..]), None);
        assert_eq!(Digest::from_bytes(&[&bytes[..], &[0]].concat()), None);
        let buckets = digest.differences(&Digest::default());
        let bytes = buckets.to_bytes();
        assert_eq!(bytes.len(), BUCKETS_BYTES);
        assert_eq!(Buckets::from_bytes(&bytes), Some(buckets));
        assert_eq!(Buckets::from_bytes(&bytes[1..]), None);
        assert_eq!(Buckets::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }
}
