//! Who gets which connection: the endpoints of a service in the order in which they take turns.
//!
//! The kernel counts the connections of each service and looks the turn up in a map. Turns rather than
//! chance, as in the other data planes: shares are exact, also of few connections.

use std::{collections::BTreeMap, net::SocketAddr};

/// Most turns there are before they begin again, unless there are more endpoints; weights that need more are
/// rounded.
const TURNS_MAX: u64 = 1024;
/// Begins the fingerprint: other rules for the same endpoints are to have another.
const LAYOUT: u8 = 1;

/// The endpoints of a service by turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turns {
    order: Vec<SocketAddr>,
    /// Their weights, in lowest terms.
    weights: BTreeMap<SocketAddr, u64>,
    fingerprint: u64,
}

impl Turns {
    /// For endpoints with weights from 1 on; at least one.
    pub(super) fn new(weights: &BTreeMap<SocketAddr, u8>) -> Self {
        let weights = lowest(weights);
        let mut order: Vec<(u64, SocketAddr)> = weights
            .iter()
            .flat_map(|(address, weight)| {
                // The turns of each are spread evenly over the whole.
                (0..*weight).map(move |turn| (((2 * turn + 1) << 32) / weight, *address))
            })
            .collect();
        order.sort_unstable();
        Self {
            order: order.into_iter().map(|(_, address)| address).collect(),
            fingerprint: fingerprint(&weights),
            weights,
        }
    }

    /// One address for each turn.
    pub(super) fn order(&self) -> &[SocketAddr] {
        &self.order
    }

    /// The endpoints.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.weights.keys().copied()
    }

    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.weights.contains_key(&address)
    }

    /// Turns of an endpoint, of all in `order`.
    pub(super) fn weight(&self, address: SocketAddr) -> u64 {
        self.weights.get(&address).copied().unwrap_or_default()
    }

    /// Tells these turns from others, in this agent and the next.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn lowest(weights: &BTreeMap<SocketAddr, u8>) -> BTreeMap<SocketAddr, u64> {
    let divisor = weights.values().fold(0, |a, b| gcd(a, u64::from(*b))).max(1);
    let total: u64 = weights.values().map(|it| u64::from(*it) / divisor).sum();
    let weights = weights.iter();
    weights
        .map(|(address, weight)| {
            let weight = u64::from(*weight) / divisor;
            let weight = if total > TURNS_MAX {
                (weight * TURNS_MAX + total / 2) / total
            } else {
                weight
            };
            (*address, weight.max(1))
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// FNV-1a: the same in every build, which the standard library's hashes are not.
fn fingerprint(weights: &BTreeMap<SocketAddr, u64>) -> u64 {
    let mut text = vec![LAYOUT];
    for (address, weight) in weights {
        text.extend(format!("{address} {weight};").into_bytes());
    }
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u8]) -> Turns {
        let endpoint = |(host, weight): (usize, &u8)| {
            (SocketAddr::from(([10, 0, 0, u8::try_from(host).unwrap()], 80)), *weight)
        };
        Turns::new(&weights.iter().enumerate().map(endpoint).collect())
    }

    fn order(weights: &[u8]) -> String {
        let turns = turns(weights);
        let host = |it: &SocketAddr| it.ip().to_string().rsplit('.').next().unwrap().to_owned();
        turns.order().iter().map(host).collect()
    }

    #[test]
    fn turns_are_as_weights_say_and_spread() {
        assert_eq!(order(&[1]), "0");
        assert_eq!(order(&[7, 7, 7]), "012");
        assert_eq!(order(&[10, 30]), "1011");
        assert_eq!(order(&[1, 2, 3]), "212012");
        assert_eq!(turns(&[255, 1]).order().len(), 256);
    }

    #[test]
    fn turns_are_bounded_and_nobody_is_left_out() {
        let weights: Vec<u8> = (0..40).map(|it| 255 - it % 3).chain([1]).collect();
        let turns = turns(&weights);
        assert!(turns.order().len() <= 1100, "{}", turns.order().len());
        let last = SocketAddr::from(([10, 0, 0, 40], 80));
        assert_eq!(turns.order().iter().filter(|it| **it == last).count(), 1);
    }

    #[test]
    fn fingerprint_is_of_shares_not_of_numbers() {
        assert_eq!(turns(&[1, 1]).fingerprint(), turns(&[5, 5]).fingerprint());
        assert_ne!(turns(&[1, 1]).fingerprint(), turns(&[1, 2]).fingerprint());
        // Of an agent to come: this number does not change while the rules do not.
        assert_eq!(turns(&[1]).fingerprint(), 0x9a0b_3c5f_5f4f_1d3c);
    }
}
