use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::*;

/// 32 bytes of 1, of 2, and 16 bytes of 3.
const KEY_1: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_2: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const KEY_3: &str = "AwMDAwMDAwMDAwMDAwMDAw==";

const PATIENCE: Duration = Duration::from_secs(20);

fn key(text: &str) -> Key {
    parse_key(text).unwrap()
}

#[test]
fn keys_are_base64_of_three_lengths() {
    assert_eq!(key(KEY_1), Key::new(&[1; 32]).unwrap());
    assert_eq!(key(KEY_3), Key::new(&[3; 16]).unwrap());
    assert!(parse_key(&BASE64.encode(&[7; 24])).is_ok());
    for (text, problem) in [
        ("", KeyTextError::Length(0)),
        ("AQEB", KeyTextError::Length(3)),
        (&BASE64.encode(&[1; 31]), KeyTextError::Length(31)),
        (&BASE64.encode(&[1; 33]), KeyTextError::Length(33)),
        (&KEY_3[..22], KeyTextError::NotBase64),
        ("not a key at all", KeyTextError::NotBase64),
        ("AwMDAwMDAwMDAwMDAwMD-_==", KeyTextError::NotBase64),
    ] {
        assert_eq!(parse_key(text).unwrap_err(), problem, "{text}");
    }
}

#[test]
fn a_file_has_one_key_a_line_and_comments() {
    let path = Path::new("/etc/keys");
    let text = format!("# since March\r\n{KEY_2}\r\n\n  {KEY_1}  \n#{KEY_3}\n");
    let keyring = parse_file(path, &text).unwrap();
    assert_eq!(keyring.keys(), [key(KEY_2), key(KEY_1)]);

    for text in ["", "# nothing\n\n"] {
        let error = parse_file(path, text).unwrap_err().to_string();
        assert!(error.contains("no gossip key"), "{error}");
    }
    let many: String = (0..17).map(|it| BASE64.encode(&[it; 16]) + "\n").collect();
    let error = parse_file(path, &many).unwrap_err().to_string();
    assert!(error.contains("more than 16"), "{error}");
}

#[test]
fn a_wrong_line_is_named_and_not_repeated() {
    let secret = "c2VjcmV0IHNlY3JldA";
    let text = format!("{KEY_1}\n{secret}\n");
    let error = parse_file(Path::new("/etc/keys"), &text).unwrap_err();
    let (shown, debug) = (error.to_string(), format!("{error:?}"));
    assert!(shown.contains("\"/etc/keys\", line 2"), "{shown}");
    for text in [shown, debug] {
        assert!(!text.contains(&secret[..6]) && !text.contains(&KEY_1[..6]));
    }
}

struct NoState;

impl memberlist::Delegate for NoState {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::new()
    }
}

async fn member(keys: &GossipKeys) -> Handle {
    let config = memberlist::Config {
        bind: (Ipv4Addr::LOCALHOST, 0).into(),
        keyring: load(keys).await.unwrap(),
        ..memberlist::Config::lan("a", Ipv4Addr::LOCALHOST.into())
    };
    // Events that nobody reads are dropped.
    let (handle, _) = memberlist::start(config, Arc::new(NoState)).await.unwrap();
    handle
}

async fn until_keys_are(gossip: &Handle, expected: &[&str]) {
    let expected: Vec<Key> = expected.iter().map(|text| key(text)).collect();
    let reached = async {
        while gossip.keys() != expected {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.expect("the file is read in time");
}

#[tokio::test]
async fn the_keys_of_a_running_member_follow_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let write = |lines: &[&str]| std::fs::write(&path, lines.join("\n")).unwrap();
    write(&[KEY_1]);
    let gossip = member(&GossipKeys::File(path.clone())).await;
    assert_eq!(gossip.keys(), [key(KEY_1)]);
    let shutdown = CancellationToken::new();
    let following = tokio::spawn(follow(path.clone(), gossip.clone(), shutdown.clone()));

    write(&[KEY_1, KEY_2]);
    until_keys_are(&gossip, &[KEY_1, KEY_2]).await;
    write(&[KEY_2, KEY_1]);
    until_keys_are(&gossip, &[KEY_2, KEY_1]).await;
    write(&[KEY_2]);
    until_keys_are(&gossip, &[KEY_2]).await;
    // Replaced by rename, as orchestrators do.
    let new = folder.path().join("new");
    std::fs::write(&new, KEY_3).unwrap();
    std::fs::rename(&new, &path).unwrap();
    until_keys_are(&gossip, &[KEY_3]).await;

    shutdown.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_gone_or_wrong_leaves_the_keys_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, KEY_1).unwrap();
    let gossip = member(&GossipKeys::File(path.clone())).await;
    let mut follower = secret_file::Follower::new(path.clone());
    let taken = |text| take(&path, &gossip, text);
    // Of different lengths, since clocks of file systems are coarse.
    for wrong in ["", "# empty", "rubbish!", "AQEB"] {
        std::fs::write(&path, wrong).unwrap();
        follower.look(taken).await;
        assert!(follower.complaint.is_some(), "{wrong:?}");
        assert_eq!(gossip.keys(), [key(KEY_1)]);
        // Said once: the file has not changed.
        follower.complaint = None;
        follower.look(taken).await;
        assert_eq!(follower.complaint, None);
    }
    std::fs::remove_file(&path).unwrap();
    follower.look(taken).await;
    assert!(follower.complaint.is_some());
    assert_eq!(gossip.keys(), [key(KEY_1)]);
    std::fs::write(&path, KEY_2).unwrap();
    follower.look(taken).await;
    assert_eq!(
        (follower.complaint, gossip.keys()),
        (None, vec![key(KEY_2)])
    );
}

#[tokio::test]
async fn a_start_needs_the_file() {
    let missing = GossipKeys::File("/nowhere/keys".into());
    let error = load(&missing).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/keys"), "{error}");
    let error = load(&GossipKeys::File("/".into())).await.unwrap_err();
    assert!(error.to_string().contains("\"/\""), "{error}");
    assert_eq!(load(&GossipKeys::None).await.unwrap(), None);
}
