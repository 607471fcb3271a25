//! Settings that keep others out of the gossip: keys, the switches for changing over, the label, the
//! networks that may talk to us.

use memberlist::{Keyring, Subnet, wire::LABEL_BYTES_MAX};

use super::{HIDDEN, Reader, values::parse_list};
use crate::gossip_keys::{GossipKeys, parse_key};

/// See the variables of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipSecurity {
    /// `SIDECAR_GOSSIP_KEY` or `SIDECAR_GOSSIP_KEY_FILE`.
    pub keys: GossipKeys,
    /// `SIDECAR_GOSSIP_VERIFY_INCOMING`.
    pub verify_incoming: bool,
    /// `SIDECAR_GOSSIP_VERIFY_OUTGOING`.
    pub verify_outgoing: bool,
    /// `SIDECAR_GOSSIP_LABEL`.
    pub label: String,
    /// `SIDECAR_GOSSIP_ALLOW`; none means everybody.
    pub allow_from: Vec<Subnet>,
}

impl GossipSecurity {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let label = format!("at most {LABEL_BYTES_MAX} bytes");
        Self {
            keys: reader.gossip_keys(),
            verify_incoming: reader.switch("SIDECAR_GOSSIP_VERIFY_INCOMING"),
            verify_outgoing: reader.switch("SIDECAR_GOSSIP_VERIFY_OUTGOING"),
            label: reader.parsed("SIDECAR_GOSSIP_LABEL", &label, |text| {
                (text.len() <= LABEL_BYTES_MAX).then(|| text.to_owned())
            }),
            allow_from: reader.list(
                "SIDECAR_GOSSIP_ALLOW",
                "networks such as 10.0.0.0/8 or fd00::/8, without bits set behind them, or addresses",
                |text| text.parse().ok(),
            ),
        }
    }

    /// What an operator should not forget.
    pub(super) fn warnings(&self) -> Vec<String> {
        let open = [
            (
                self.verify_incoming,
                "SIDECAR_GOSSIP_VERIFY_INCOMING",
                "gossip in plain text is accepted from anybody",
            ),
            (
                self.verify_outgoing,
                "SIDECAR_GOSSIP_VERIFY_OUTGOING",
                "this host sends its gossip in plain text",
            ),
        ];
        let without_keys = self.keys == GossipKeys::None;
        open.into_iter()
            .filter(|(verify, ..)| !verify)
            .map(|(_, name, effect)| {
                if without_keys {
                    format!("{name} is false, which means nothing without gossip keys")
                } else {
                    format!("{name} is false: {effect}; meant for changing over to encryption")
                }
            })
            .collect()
    }
}

impl Reader<'_> {
    /// No part of a key may get into a setting that is shown, or into an error.
    fn gossip_keys(&mut self) -> GossipKeys {
        let (text, given_as) = self.take("SIDECAR_GOSSIP_KEY");
        if let Some(setting) = self.settings.last_mut()
            && !text.is_empty()
        {
            HIDDEN.clone_into(&mut setting.value);
        }
        let file = self.text("SIDECAR_GOSSIP_KEY_FILE");
        if text.is_empty() {
            return match file.as_str() {
                "" => GossipKeys::None,
                file => GossipKeys::File(file.into()),
            };
        }
        if !file.is_empty() {
            let expected = "nothing while SIDECAR_GOSSIP_KEY is set: keep one of the two";
            self.wrong("SIDECAR_GOSSIP_KEY_FILE".to_owned(), &file, expected);
        }
        let expected = "16, 24 or 32 bytes in base64, several with commas";
        let mut keys = Vec::new();
        for (index, item) in parse_list(&text).iter().enumerate() {
            match parse_key(item) {
                Ok(key) => keys.push(key),
                Err(problem) => {
                    let number = index + 1;
                    let expected = format!("{expected}; number {number} is {problem}");
                    self.wrong(given_as.clone(), HIDDEN, expected);
                    return GossipKeys::None;
                }
            }
        }
        Keyring::from_keys(keys).map_or_else(
            |problem| {
                self.wrong(given_as, HIDDEN, format!("{expected}; {problem}"));
                GossipKeys::None
            },
            GossipKeys::Given,
        )
    }
}
