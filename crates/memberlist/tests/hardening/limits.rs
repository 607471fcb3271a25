//! Limits of settings, and labels: what we may have to say always fits, and what is said under
//! another label is not heard.

use bytes::Bytes;
use memberlist::node::{ConfigError, META_BYTES_MAX, NAME_BYTES_MAX};
use memberlist::wire::{
    Alive, ClusterFilter, Message, RawIp, StreamMessage, Versions, decode_packet, encode_message,
    encode_stream,
};
use memberlist::{CLUSTER_NAME_BYTES_MAX, Config, Key, Keyring};

use crate::bench::{Bench, MS, address, loopback, ping, start, until};
use crate::hostile::{ask, count, failures, socket};

fn longest() -> Alive {
    Alive {
        incarnation: u32::MAX - 1,
        node: "n".repeat(NAME_BYTES_MAX),
        addr: RawIp::V16([0xfd; 16]),
        port: u16::MAX,
        meta: Bytes::from(vec![b'm'; META_BYTES_MAX]),
        versions: Versions::OURS,
    }
}

/// With all that takes room, and without.
fn settings() -> Vec<Config> {
    let plain = |cluster: &str| Config {
        cluster_name: cluster.to_owned(),
        compression: false,
        gossip_interval: 200 * MS,
        ..Config::lan("us", address(1).ip())
    };
    let longest = "c".repeat(CLUSTER_NAME_BYTES_MAX);
    let keyring = || Key::new(&[1; 32]).ok().map(Keyring::new);
    vec![
        plain("default"),
        plain(""),
        plain(&longest),
        Config {
            label: "l".repeat(255),
            ..plain(&longest)
        },
        Config {
            keyring: keyring(),
            ..plain("default")
        },
        Config {
            keyring: keyring(),
            label: "l".repeat(255),
            ..plain(&longest)
        },
    ]
}

#[test]
fn n11_the_longest_announcement_fits_the_smallest_datagram() {
    let announcement = Message::Alive(longest());
    for mut config in settings() {
        config.udp_buffer_size = 1;
        let Err(ConfigError::UdpBufferSize { bytes: 1, min }) = config.validate() else {
            panic!("{config:?}");
        };
        let cluster = config.cluster_name.clone();
        let encoded = encode_message(&announcement, &cluster);
        let overhead = config.envelope().packet_overhead();
        let needed = 2 + 2 + encoded.len() + overhead;
        // The head of a short name is two bytes shorter.
        let spare = if cluster.len() < 32 { 2 } else { 0 };
        assert_eq!(min, needed + spare);
        config.udp_buffer_size = min - 1;
        assert!(config.validate().is_err());
        config.udp_buffer_size = min;
        config.validate().expect("enough");

        let mut bench = Bench::quiet(|settings| *settings = config);
        let errors = bench.node.handle_datagram(bench.now, address(99), &encoded);
        assert_eq!(errors, []);
        bench.pass(1000 * MS);
        let filter = ClusterFilter {
            name: cluster,
            accept_missing: false,
        };
        let told = bench.transmits().into_iter().any(|transmit| {
            assert!(transmit.bytes.len() + overhead <= min + 7);
            let packet = decode_packet(&transmit.bytes, &filter);
            packet.messages.contains(&announcement)
        });
        assert!(told, "{min}");
    }
}

#[test]
fn settings_beyond_their_limits_are_named_with_value_and_limit() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Config::lan("us", address(1).ip());
        change(&mut config);
        config.validate().expect_err("out of range").to_string()
    };
    let text = refused(|config| config.cluster_name = "c".repeat(256));
    assert_eq!(text, "cluster name of 256 bytes: expected at most 255");
    for (text, bytes, min) in [
        (refused(|config| config.udp_buffer_size = 868), 868, 869),
        (
            refused(|config| config.udp_buffer_size = 65_001),
            65_001,
            869,
        ),
        (
            refused(|config| {
                config.label = "l".repeat(255);
                config.cluster_name = "c".repeat(255);
                config.keyring = Key::new(&[1; 16]).ok().map(Keyring::new);
            }),
            1400,
            1403,
        ),
    ] {
        let expected = format!("udp buffer size {bytes}: expected {min} to 65000 bytes");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[tokio::test]
async fn r01_what_is_said_under_another_label_is_not_heard() {
    let datagram = encode_message(&Message::Ping(ping(7, "a")), "default");
    let request = encode_stream(&StreamMessage::Ping(ping(7, "a")), "", false);
    let foreign: [&[u8]; 7] = [
        b"",
        b"\xf4\x04blub",
        b"\xf4\x03blu",
        b"\xf4\x05blue ",
        b"\xf4\x00",
        b"\xf4\x04blue\xf4\x04blue",
        b"\xf4\x04blub\xf4\x04blue",
    ];
    for (label, prefix) in [("blue", &b"\xf4\x04blue"[..]), ("", b"")] {
        let mut config = loopback("a");
        config.label = label.to_owned();
        let (a, _events) = start(config).await;
        let peer = socket().await;
        let mut refused = 0;
        for foreign in foreign.iter().filter(|foreign| **foreign != prefix) {
            for (layer, bytes) in [("datagram", &datagram), ("stream", &request)] {
                let bytes = [foreign, &bytes[..]].concat();
                if layer == "datagram" {
                    peer.send_to(&bytes, a.local_addr()).await.expect("sent");
                } else {
                    assert_eq!(ask(2, &a, &bytes).await, b"", "{foreign:x?}");
                }
                refused += 1;
                until("it is counted", || count(&a.stats(), "label") == refused).await;
            }
        }
        assert_eq!(failures(&a.stats()), refused);
        assert!(peer.try_recv(&mut [0; 64]).is_err(), "nobody is answered");
        assert_ne!(ask(2, &a, &[prefix, &request].concat()).await, b"");
        let ours = [prefix, &datagram].concat();
        peer.send_to(&ours, a.local_addr()).await.expect("sent");
        let mut answer = [0; 64];
        let received = crate::bench::in_time("an ack", peer.recv(&mut answer)).await;
        assert!(answer[..received.expect("received")].starts_with(prefix));
    }
}
