//! What hostile bytes cost in memory, as the system sees it: items 7, 9 and 14 of `CONFORMANCE.md`.
//!
//! A program of its own with a single test, because what is measured belongs to the whole process.
#![cfg(target_os = "linux")]

use std::io::Read as _;

use memberlist::wire::{ClusterFilter, StreamDecoder, decode_packet};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A line of the process's own status, in bytes: `VmPeak` is address space, `VmHWM` memory touched.
fn peak(of: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find(|line| line.starts_with(of));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {of} in:\n{status}")) * KIB
}

/// By how much a peak rises.
fn growth(of: &str, work: impl FnOnce()) -> u64 {
    let before = peak(of);
    work();
    peak(of) - before
}

fn filter() -> ClusterFilter {
    ClusterFilter {
        name: String::new(),
        accept_missing: false,
    }
}

fn read_both(bytes: &[u8]) {
    decode_packet(bytes, &filter());
    let mut decoder = StreamDecoder::new(filter());
    for piece in bytes.chunks(1000) {
        if decoder.feed(piece).is_err() {
            return;
        }
    }
}

/// A compressed message of so many user-message bytes, made without ever holding them.
fn bomb(inflated: u64) -> Vec<u8> {
    let mut lzw = Vec::new();
    let mut encoder = weezl::encode::Encoder::new(weezl::BitOrder::Lsb, 8);
    let zeros = std::io::repeat(8).take(inflated);
    encoder
        .into_stream(&mut lzw)
        .encode_all(std::io::BufReader::new(zeros))
        .status
        .expect("encodable");
    let length = u32::try_from(lzw.len()).expect("a few hundred kilobytes");
    let head = [&b"\x09\x81\xa3Buf\xdb"[..], &length.to_be_bytes()].concat();
    [head, lzw].concat()
}

/// Every way to declare a length of 32 bits, in every structure there is, without what it declares.
fn huge_declarations() -> impl Iterator<Item = Vec<u8>> {
    let lengths = [1 << 31, u32::MAX];
    let forms = [0xdb, 0xc6, 0xc9, 0xdd, 0xdf];
    (0..=13_u8).flat_map(move |type_id| {
        lengths.into_iter().flat_map(move |length| {
            forms.into_iter().flat_map(move |form| {
                let value = [&[form][..], &length.to_be_bytes(), b"abc"].concat();
                let keys = ["Node", "Buf", "Meta", "Payload", "Unknown", "Nodes"];
                let fields = keys.into_iter().map(move |key| {
                    let head = [&[type_id, 0x81, 0xa0 | key.len() as u8], key.as_bytes()].concat();
                    [head, value.clone()].concat()
                });
                let bare = [&[type_id, form][..], &length.to_be_bytes()].concat();
                fields.chain([bare])
            })
        })
    })
}

fn fuzz(rounds: usize) {
    let mut rng = Pcg64Mcg::seed_from_u64(14);
    let mut bytes = vec![0; 2000];
    for _ in 0..rounds {
        let length = rng.random_range(1..bytes.len());
        let input = &mut bytes[..length];
        rng.fill_bytes(input);
        input[0] %= 14;
        if length > 6 && rng.random() {
            // A map of a few fields gets further than noise.
            input[1] = 0x81 + input[1] % 7;
            input[2] = 0xa0 + input[2] % 5;
        }
        read_both(input);
    }
}

#[test]
fn item_07_09_14_memory_stays_within_the_caps() {
    // 7: nothing is reserved for what is only declared. Two gigabytes would show as address space.
    let declarations: Vec<_> = huge_declarations().collect();
    assert_eq!(declarations.len(), 14 * 2 * 5 * 7);
    let grown = growth("VmPeak", || declarations.iter().for_each(|b| read_both(b)));
    assert!(grown < 256 * MIB, "{grown} bytes reserved");

    // 14: noise costs next to nothing.
    let grown = growth("VmHWM", || fuzz(30_000));
    assert!(grown < 8 * MIB, "{grown} bytes for noise");

    // 9: a datagram inflates to 128 KiB and no further, whatever is in it.
    let bomb = bomb(64 * MIB);
    assert!(bomb.len() < 400_000, "{} bytes", bomb.len());
    let grown = growth("VmHWM", || {
        for _ in 0..20 {
            let packet = decode_packet(&bomb, &filter());
            assert_eq!((packet.messages.len(), packet.errors.len()), (0, 1));
        }
    });
    assert!(grown < 4 * MIB, "{grown} bytes for a datagram");

    // 9: a stream to 40 MiB; growing a buffer to that may take the double for a moment.
    let grown = growth("VmHWM", || {
        for _ in 0..2 {
            let mut decoder = StreamDecoder::new(filter());
            assert!(decoder.feed(&bomb).is_err());
        }
    });
    assert!(grown < 100 * MIB, "{grown} bytes for a stream");
}
