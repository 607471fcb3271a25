use proptest::{collection, prelude::*};

use super::*;

fn target(number: u8) -> Target {
    // Few names and few addresses: namesakes at several addresses, and several names at one.
    Target {
        name: ["node-a", "node-a-1", "b", ""][usize::from(number % 4)].to_owned(),
        address: SocketAddr::from(([10, 0, 0, number / 4], 80)),
        weight: number / 4 + 1,
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Http), Just(Kind::Tcp)]
}

fn wishes() -> impl Strategy<Value = Wanted> {
    let wish = (
        kinds(),
        collection::btree_set((0u8..16).prop_map(target), 1..6),
    );
    let wish = wish.prop_map(|(kind, targets)| Wish { kind, targets });
    collection::btree_map(8000u16..8006, wish, 0..6)
}

fn servers() -> impl Strategy<Value = BTreeMap<String, Server>> {
    let names = (0u8..16, 0u8..4).prop_map(|(number, suffix)| match suffix {
        0 => target(number).name,
        1 => "by.hand".to_owned(),
        suffix => format!("{}.{suffix}", target(number).name),
    });
    let states = prop_oneof![
        Just(ServerState::Ready),
        Just(ServerState::Maintenance),
        Just(ServerState::Other)
    ];
    let address = proptest::option::of((0u8..16).prop_map(|it| target(it).address));
    let server = (address, 0u16..3, states).prop_map(|(address, weight, state)| Server {
        address,
        weight,
        state,
    });
    collection::btree_map(names, server, 0..5)
}

/// Any state at all, as hands and interrupted batches leave it.
fn held() -> impl Strategy<Value = Held> {
    let value = prop_oneof![
        (kinds(), 0u16..5).prop_map(|(kind, number)| Pool { kind, number }.to_string()),
        Just("elsewhere".to_owned())
    ];
    let ports = collection::btree_map(7999u16..8007, collection::btree_set(value, 1..3), 0..6);
    let strays = collection::vec(Just("0x1".to_owned()), 0..2);
    let pools = collection::btree_map(
        (kinds(), 0u16..4).prop_map(|(kind, number)| Pool { kind, number }),
        servers(),
        0..8,
    );
    (ports, strays, pools).prop_map(|(ports, strays, pools)| Held {
        ports,
        strays,
        pools,
    })
}

/// What HAProxy does with a port: the endpoints its connections reach.
fn reached(held: &Held, port: u16) -> Option<BTreeSet<SocketAddr>> {
    let values = held.ports.get(&port)?;
    assert_eq!(values.len(), 1, "{values:?}");
    let pool: Pool = values.first()?.parse().expect("a port leads to a pool");
    let ready = held.pools[&pool]
        .values()
        .filter(|it| it.state == ServerState::Ready);
    Some(ready.map(|it| it.address.expect("an address")).collect())
}

proptest! {
    #[test]
    fn every_state_becomes_the_wanted_one_and_stays_it(held in held(), wanted in wishes()) {
        // The first plan may set pools free for the second.
        let mut after = held.clone();
        for command in plan(&held, &wanted).changes {
            after.apply(&command);
        }
        let first = plan(&after, &wanted);
        for command in &first.changes {
            after.apply(command);
        }
        for (port, wish) in &wanted {
            if first.unplaced.contains_key(port) {
                prop_assert!(!after.ports.contains_key(port));
                continue;
            }
            let addresses = wish.targets.iter().map(|it| it.address).collect();
            prop_assert_eq!(reached(&after, *port), Some(addresses));
            let pool: Pool = after.ports[port].first().unwrap().parse().unwrap();
            prop_assert_eq!(pool.kind, wish.kind);
            let ready = after.pools[&pool].values();
            let weights = ready.filter(|it| it.state == ServerState::Ready);
            let weights: BTreeMap<_, _> = weights.map(|it| (it.address, it.weight)).collect();
            let wished = wish.targets.iter();
            let wished = wished.map(|it| (Some(it.address), u16::from(it.weight))).collect();
            prop_assert_eq!(weights, wished);
        }
        prop_assert!(after.ports.keys().all(|port| wanted.contains_key(port)));
        prop_assert!(after.strays.is_empty());
        let second = plan(&after, &wanted);
        prop_assert_eq!(second.changes, vec![]);
        // What is left is taken away as soon as its connections have ended.
        for command in &second.cleaning {
            after.apply(command);
        }
        let third = plan(&after, &wanted);
        prop_assert_eq!(third.cleaning, vec![]);
        prop_assert_eq!(&third.unplaced, &first.unplaced);
        let is_ready = |it: &Server| it.state == ServerState::Ready;
        prop_assert!(after.pools.values().flat_map(BTreeMap::values).all(is_ready));
    }

    #[test]
    fn no_port_leads_to_a_stranger_at_any_moment(before in wishes(), wanted in wishes()) {
        let pools = Pool::all(3, 3);
        let mut held = ideal(&Held::default(), &before, pools);
        let mut commands = std::collections::VecDeque::from(plan(&held, &wanted).changes);
        while let Some(command) = commands.pop_front() {
            held.apply(&command);
            if commands.is_empty() {
                commands.extend(plan(&held, &wanted).changes);
            }
            for port in held.ports.keys().copied().collect::<Vec<_>>() {
                let reached = reached(&held, port).unwrap();
                let known = [&before, &wanted];
                let of = known.iter().filter_map(|it| it.get(&port)).flat_map(|it| &it.targets);
                let known: BTreeSet<_> = of.map(|it| it.address).collect();
                prop_assert!(!reached.is_empty(), "{port} leads nowhere after {command}");
                prop_assert!(reached.is_subset(&known), "{port}: {reached:?} after {command}");
            }
        }
    }

    #[test]
    fn a_server_whose_endpoint_stays_is_not_spoken_of(before in wishes(), wanted in wishes()) {
        let held = ideal(&Held::default(), &before, Pool::all(6, 6));
        let plan = plan(&held, &wanted);
        let said: String = plan.changes.iter().chain(&plan.cleaning).map(|it| format!("{it} \n")).collect();
        for (port, wish) in &wanted {
            let Some(old) = before.get(port).filter(|it| it.kind == wish.kind) else { continue };
            let pool: Pool = held.ports[port].first().unwrap().parse().unwrap();
            for target in old.targets.intersection(&wish.targets) {
                let (name, _) = find(&held.pools[&pool], target).unwrap();
                let words = format!(" {pool}/{name} ");
                prop_assert!(!said.contains(&words), "{}", said);
            }
            let mapped = format!(" {port} ");
            prop_assert!(!said.contains(&mapped), "{}", said);
        }
    }

    #[test]
    fn no_text_gets_out_of_its_word(hostname in any::<String>(), id in any::<String>()) {
        let endpoint = Endpoint { hostname, id, address: ([10, 0, 0, 1], 80).into(), weight: 7 };
        let name = super::target(&endpoint).name;
        prop_assert!(name.len() <= NAME_BYTES_MAX);
        prop_assert!(name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-'));
        let pool = Pool { kind: Kind::Http, number: 7 };
        let line = Command::AddServer(pool, name.clone(), endpoint.address, 7).to_string();
        prop_assert_eq!(line, format!("add server h7/{name} 10.0.0.1:80 weight 7"));
    }
}

#[test]
fn instances_at_one_address_are_one_server_with_the_largest_of_their_weights() {
    let endpoint = |(id, last, weight): (&str, u8, u8)| Endpoint {
        hostname: "node".to_owned(),
        id: id.to_owned(),
        address: ([10, 0, 0, last], 80).into(),
        weight,
    };
    let endpoints = [("a", 1, 20), ("b", 2, 30), ("c", 1, 30), ("d", 1, 10)];
    let route = Route {
        service: "web".to_owned(),
        mode: ProxyMode::Http,
        endpoints: endpoints.map(endpoint).into(),
    };
    let routes = Routes {
        by_port: [(80, route.into())].into(),
        excluded: Vec::new(),
    };
    let target = |name: &str, last: u8| Target {
        name: name.to_owned(),
        address: ([10, 0, 0, last], 80).into(),
        weight: 30,
    };
    let targets = BTreeSet::from([target("node-a", 1), target("node-b", 2)]);
    assert_eq!(wanted(&routes)[&80].targets, targets);
}

#[test]
fn without_a_change_nothing_is_said() {
    let wish = |kind| Wish {
        kind,
        targets: [target(0), target(5)].into(),
    };
    let wanted = Wanted::from([(80, wish(Kind::Http)), (90, wish(Kind::Tcp))]);
    let held = ideal(&Held::default(), &wanted, Pool::all(2, 2));
    assert_eq!(plan(&held, &wanted), Plan::default());
}

#[test]
fn the_surplus_is_named_when_the_pools_run_out() {
    let wish = Wish {
        kind: Kind::Tcp,
        targets: [target(0)].into(),
    };
    let wanted: Wanted = (80..83).map(|port| (port, wish.clone())).collect();
    let held = ideal(&Held::default(), &wanted, Pool::all(5, 2));
    assert_eq!(held.ports.keys().copied().collect::<Vec<_>>(), [80, 81]);
    let plan = plan(&held, &wanted);
    assert_eq!(plan.changes, []);
    assert_eq!(plan.unplaced, BTreeMap::from([(82, Kind::Tcp)]));
}

#[test]
fn an_endpoint_that_returns_while_it_drains_is_enabled_again() {
    let wish = Wish {
        kind: Kind::Tcp,
        targets: [target(0), target(1)].into(),
    };
    let both = Wanted::from([(80, wish.clone())]);
    let one = Wanted::from([(
        80,
        Wish {
            targets: [target(0)].into(),
            ..wish
        },
    )]);
    let mut held = ideal(&Held::default(), &both, Pool::all(0, 1));
    let leaving = plan(&held, &one);
    let pool = Pool {
        kind: Kind::Tcp,
        number: 0,
    };
    let name = || "node-a-1".to_owned();
    assert_eq!(leaving.changes, [Command::Disable(pool, name())]);
    assert_eq!(leaving.cleaning, [Command::DeleteServer(pool, name())]);
    held.apply(&leaving.changes[0]);
    assert_eq!(plan(&held, &both).changes, [Command::Enable(pool, name())]);
}

#[test]
fn names_of_pools_are_read_back_exactly() {
    for pool in Pool::all(3, 3) {
        assert_eq!(pool.to_string().parse(), Ok(pool));
    }
    for text in ["", "h", "h01", "h+1", "x1", "h70000", "ä1"] {
        assert_eq!(text.parse::<Pool>(), Err(()), "{text}");
    }
}
