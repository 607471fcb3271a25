//! Who gets which connection: the endpoints of a service in the order in which they take turns.
//!
//! The kernel counts the connections of each service and looks the turn up in a map. Turns rather than
//! chance, as in the other data planes: shares are exact, also of few connections, and no counter is shared
//! by services whose clients could keep step with it.

use std::{collections::BTreeMap, net::SocketAddr};

/// Most turns there are before they begin again, unless there are more endpoints; weights that need more are
/// rounded.
const TURNS_MAX: u64 = 1024;
/// What stands beside the turns: who gets what is not counted, all of a service of one turn.
pub(super) const FIRST: u32 = u32::MAX;

/// The endpoints of a service by turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turns {
    order: Vec<SocketAddr>,
    /// Their weights, in lowest terms.
    weights: BTreeMap<SocketAddr, u64>,
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
            weights,
        }
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

    /// How many there are before they begin again.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }

    /// Who has which turn, where others had them before: as few as possible get another. Where the number of
    /// turns changes counting begins anew, and `first` says where: rules that are replaced often would else
    /// always begin with the same endpoint.
    pub(super) fn shared_out(
        &self,
        before: &BTreeMap<u32, SocketAddr>,
        is_recounted: bool,
        first: usize,
    ) -> BTreeMap<u32, SocketAddr> {
        let mut shared = if is_recounted {
            let turned = self.order.iter().cycle().skip(first % self.order.len());
            (0..self.count()).zip(turned.copied()).collect()
        } else {
            self.passed_on(before)
        };
        let first = shared.get(&0).copied();
        if self.count() == 1 {
            shared.clear();
        }
        shared.extend(first.map(|it| (FIRST, it)));
        shared
    }

    fn passed_on(&self, before: &BTreeMap<u32, SocketAddr>) -> BTreeMap<u32, SocketAddr> {
        let mut missing = self.weights.clone();
        let mut shared = BTreeMap::new();
        for turn in 0..self.count() {
            if let Some(address) = before.get(&turn)
                && let Some(count @ 1..) = missing.get_mut(address)
            {
                *count -= 1;
                shared.insert(turn, *address);
            }
        }
        let mut missing = self.order.iter().filter(|address| {
            let count = missing.get_mut(address);
            count.is_some_and(|it| std::mem::replace(it, it.saturating_sub(1)) > 0)
        });
        for turn in 0..self.count() {
            if !shared.contains_key(&turn) {
                shared.extend(missing.next().map(|it| (turn, *it)));
            }
        }
        shared
    }
}

fn lowest(weights: &BTreeMap<SocketAddr, u8>) -> BTreeMap<SocketAddr, u64> {
    let divisor = weights
        .values()
        .fold(0, |a, b| gcd(a, u64::from(*b)))
        .max(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u8]) -> Turns {
        let endpoint = |(host, weight): (usize, &u8)| {
            (
                SocketAddr::from(([10, 0, 0, u8::try_from(host).unwrap()], 80)),
                *weight,
            )
        };
        Turns::new(&weights.iter().enumerate().map(endpoint).collect())
    }

    fn order(weights: &[u8]) -> String {
        let turns = turns(weights);
        let host = |it: &SocketAddr| it.ip().to_string().rsplit('.').next().unwrap().to_owned();
        turns.order.iter().map(host).collect()
    }

    #[test]
    fn turns_are_as_weights_say_and_spread() {
        assert_eq!(order(&[1]), "0");
        assert_eq!(order(&[7, 7, 7]), "012");
        assert_eq!(order(&[10, 30]), "1011");
        assert_eq!(order(&[1, 2, 3]), "210212");
        assert_eq!(turns(&[255, 1]).order.len(), 256);
    }

    #[test]
    fn turns_are_bounded_and_nobody_is_left_out() {
        let weights: Vec<u8> = (0..40).map(|it| 255 - it % 3).chain([1]).collect();
        let turns = turns(&weights);
        assert!(turns.order.len() <= 1100, "{}", turns.order.len());
        let last = SocketAddr::from(([10, 0, 0, 40], 80));
        assert_eq!(turns.order.iter().filter(|it| **it == last).count(), 1);
    }

    #[test]
    fn as_few_turns_as_possible_change_hands() {
        let shared = |before: &BTreeMap<u32, SocketAddr>, after: &Turns| {
            let mut shared = after.shared_out(before, false, 0);
            assert_eq!(shared.remove(&FIRST), shared.get(&0).copied());
            let mut counts = BTreeMap::<_, u64>::new();
            for address in shared.values() {
                *counts.entry(*address).or_default() += 1;
            }
            assert_eq!(counts, after.weights);
            let differs = |(turn, address): &(&u32, &SocketAddr)| before.get(turn) != Some(address);
            shared.iter().filter(differs).count()
        };
        let before = turns(&[1, 2, 3]).shared_out(&BTreeMap::new(), true, 4);
        assert_eq!(shared(&before, &turns(&[1, 2, 3])), 0);
        assert_eq!(shared(&before, &turns(&[3, 2, 1])), 2);
        let weights = [(80, 1), (81, 2), (82, 3)];
        let others = weights.map(|(port, weight)| (([10, 0, 0, 2], port).into(), weight));
        // The third stays, whose port is 80.
        let others = Turns::new(&others.into_iter().collect());
        assert_eq!(shared(&before, &others), 5);
        // What somebody took away by hand.
        let mut damaged = before.clone();
        damaged.remove(&1);
        assert_eq!(shared(&damaged, &turns(&[1, 2, 3])), 1);
    }

    #[test]
    fn counting_anew_begins_elsewhere() {
        let begins = |first| turns(&[1, 1, 1]).shared_out(&BTreeMap::new(), true, first)[&0];
        assert_ne!(begins(0), begins(1));
        assert_eq!(begins(0), begins(3));
    }
}
