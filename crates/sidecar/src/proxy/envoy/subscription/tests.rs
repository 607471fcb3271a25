use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A stand-in for an Envoy: applies what it is told, refuses what it is set to, and checks the order.
struct Client {
    subscription: Subscription,
    now: Instant,
    held: [BTreeMap<String, String>; 3],
    wants_endpoints: BTreeSet<String>,
    /// Versions that it does not take.
    refuses: BTreeSet<(Kind, String)>,
    /// Whether its words name what is bad.
    is_clear: bool,
    unanswered: VecDeque<Response>,
    refused_responses: usize,
    /// Whether a listener without cluster or endpoints was seen, which is what the order is for.
    checks_order: bool,
}

fn resources(number: &mut Resources, changes: &[(Kind, &str, Option<&str>)]) -> Arc<Resources> {
    let changes: Vec<_> = changes
        .iter()
        .map(|(kind, name, content)| {
            let name: Arc<str> = Arc::from(*name);
            let resource = content.map(|it| Resource::new(&name, it.as_bytes().to_vec()));
            (*kind, name, resource)
        })
        .collect();
    number.apply(changes);
    Arc::new(number.clone())
}

fn service(
    name: &'static str,
    content: Option<&'static str>,
) -> [(Kind, &'static str, Option<&'static str>); 3] {
    Kind::ALL.map(|kind| (kind, name, content))
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        Self {
            subscription: Subscription::new(protocol),
            now: Instant::now(),
            held: Default::default(),
            wants_endpoints: BTreeSet::new(),
            refuses: BTreeSet::new(),
            is_clear: true,
            unanswered: VecDeque::new(),
            refused_responses: 0,
            checks_order: true,
        }
    }

    fn protocol(&self) -> Protocol {
        self.subscription.protocol
    }

    fn ask(&mut self, kind: Kind, request: Request) -> Outcome {
        self.subscription.request(kind, request, self.now)
    }

    fn subscribe(&mut self, kind: Kind) {
        self.ask(kind, Request::default());
    }

    /// Takes what is there to say; never more than one response of a kind.
    fn receive(&mut self) {
        while let Some(response) = self.subscription.poll(self.now) {
            let of_kind = |it: &&Response| it.kind == response.kind;
            assert_eq!(self.unanswered.iter().filter(of_kind).count(), 0);
            self.unanswered.push_back(response);
        }
    }

    /// Answers the oldest response, as Envoy does: good resources beside bad ones are applied.
    fn answer(&mut self) -> Option<Outcome> {
        let response = self.unanswered.pop_front()?;
        let kind = response.kind;
        let is_bad = |it: &Arc<Resource>| self.refuses.contains(&(kind, it.version.clone()));
        let (bad, good): (Vec<_>, Vec<_>) = response.resources.iter().cloned().partition(is_bad);
        let index = kind.index();
        let named: BTreeSet<_> = response
            .resources
            .iter()
            .map(|it| it.name.to_string())
            .collect();
        if self.protocol() == Protocol::Sotw && kind != Kind::Endpoints {
            self.held[index].retain(|name, _| named.contains(name));
        }
        for name in &response.removed {
            self.held[index].remove(&**name);
        }
        for resource in good {
            let name = resource.name.to_string();
            // Endpoints of a cluster that is gone meanwhile are nobody's.
            if kind == Kind::Endpoints && !self.wants_endpoints.contains(&name) {
                continue;
            }
            self.held[index].insert(name, resource.version.clone());
        }
        if self.checks_order {
            for name in self.held[Kind::Listener.index()].keys() {
                for kind in [Kind::Cluster, Kind::Endpoints] {
                    assert!(
                        self.held[kind.index()].contains_key(name),
                        "{name} lacks {kind:?}"
                    );
                }
            }
        }
        let mut subscribe = Vec::new();
        let mut unsubscribe = Vec::new();
        if kind == Kind::Cluster {
            let clusters: BTreeSet<_> = self.held[0].keys().cloned().collect();
            subscribe.extend(clusters.difference(&self.wants_endpoints).cloned());
            unsubscribe.extend(self.wants_endpoints.difference(&clusters).cloned());
            self.held[1].retain(|name, _| clusters.contains(name));
            self.wants_endpoints = clusters;
        }
        let error = (!bad.is_empty()).then(|| {
            self.refused_responses += 1;
            let names = bad.iter().map(|it| format!("{}: is bad\n", it.name));
            if self.is_clear {
                names.collect()
            } else {
                "something is bad".to_owned()
            }
        });
        let names = match (self.protocol(), kind) {
            (Protocol::Sotw, Kind::Endpoints) => self.wants_endpoints.iter().cloned().collect(),
            _ => Vec::new(),
        };
        let answer = Request {
            nonce: response.nonce,
            error,
            names,
            ..Request::default()
        };
        let outcome = self.ask(kind, answer);
        if !subscribe.is_empty() || !unsubscribe.is_empty() {
            let request = match self.protocol() {
                Protocol::Sotw => Request {
                    names: self.wants_endpoints.iter().cloned().collect(),
                    ..Request::default()
                },
                Protocol::Delta => Request {
                    names: subscribe,
                    unsubscribe,
                    ..Request::default()
                },
            };
            self.ask(Kind::Endpoints, request);
        }
        Some(outcome)
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.receive();
            if self.answer().is_none() {
                return;
            }
        }
        panic!("it never ends");
    }

    fn names(&self, kind: Kind) -> Vec<&str> {
        self.held[kind.index()].keys().map(String::as_str).collect()
    }
}

const BOTH: [Protocol; 2] = [Protocol::Sotw, Protocol::Delta];

fn started(protocol: Protocol, resources: &Arc<Resources>) -> Client {
    let mut client = Client::new(protocol);
    client.subscription.update(resources);
    client.subscribe(Kind::Cluster);
    client.settle();
    client.subscribe(Kind::Listener);
    client.settle();
    client
}

#[test]
fn an_empty_catalogue_is_an_answer_and_none_is_given_before_routing_begins() {
    for protocol in BOTH {
        let mut client = Client::new(protocol);
        client.subscribe(Kind::Cluster);
        client.subscribe(Kind::Listener);
        assert_eq!(client.subscription.poll(client.now), None);
        client.subscription.update(&Arc::default());
        client.receive();
        let kinds: Vec<_> = client.unanswered.iter().map(|it| it.kind).collect();
        assert_eq!(kinds, [Kind::Cluster, Kind::Listener]);
        client.settle();
        assert!(client.subscription.is_settled());
        assert_eq!(client.subscription.poll(client.now), None);
    }
}

#[test]
fn only_what_changed_is_told() {
    let mut all = Resources::default();
    let mut client = started(
        Protocol::Delta,
        &resources(
            &mut all,
            &[service("a:1", Some("1")), service("b:2", Some("1"))].concat(),
        ),
    );
    assert_eq!(client.names(Kind::Listener), ["a:1", "b:2"]);
    let changed = resources(&mut all, &[(Kind::Endpoints, "a:1", Some("2"))]);
    client.subscription.update(&changed);
    client.receive();
    let [response] = client.unanswered.make_contiguous() else {
        panic!("{:?}", client.unanswered);
    };
    assert_eq!(
        (response.kind, response.resources.len()),
        (Kind::Endpoints, 1)
    );
    client.settle();

    let mut client = started(Protocol::Sotw, &changed);
    client
        .subscription
        .update(&resources(&mut all, &[(Kind::Endpoints, "b:2", Some("3"))]));
    client.receive();
    assert_eq!(
        client.unanswered.len(),
        1,
        "types that did not change are not sent again"
    );
    assert_eq!(client.unanswered[0].resources.len(), 1);
}

#[test]
fn a_new_stream_goes_on_where_the_last_one_ended() {
    let mut all = Resources::default();
    let first = resources(
        &mut all,
        &[service("a:1", Some("1")), service("b:2", Some("1"))].concat(),
    );
    let client = started(Protocol::Delta, &first);
    let second = resources(
        &mut all,
        &[service("b:2", None), service("c:3", Some("1"))].concat(),
    );
    let mut next = Client::new(Protocol::Delta);
    next.held = client.held.clone();
    next.wants_endpoints = client.wants_endpoints.clone();
    next.subscription.update(&second);
    for kind in Kind::ALL {
        let initial = next.held[kind.index()].clone().into_iter().collect();
        let names = match kind {
            Kind::Endpoints => next.wants_endpoints.iter().cloned().collect(),
            _ => Vec::new(),
        };
        next.ask(
            kind,
            Request {
                names,
                initial,
                ..Request::default()
            },
        );
    }
    next.receive();
    let told = next.unanswered.iter().flat_map(|it| &it.resources);
    assert!(
        told.clone().all(|it| &*it.name == "c:3"),
        "{:?}",
        next.unanswered
    );
    next.settle();
    for kind in Kind::ALL {
        assert_eq!(next.names(kind), ["a:1", "c:3"], "{kind:?}");
    }
}

#[test]
fn a_whole_state_on_a_new_stream_takes_nothing_away() {
    let mut all = Resources::default();
    let first = resources(&mut all, &service("a:1", Some("1")));
    let client = started(Protocol::Sotw, &first);
    let mut next = Client::new(Protocol::Sotw);
    next.held = client.held.clone();
    next.wants_endpoints = client.wants_endpoints.clone();
    next.subscription.update(&first);
    // All kinds at once, before anything is answered.
    next.subscribe(Kind::Cluster);
    let names = vec!["a:1".to_owned()];
    next.ask(
        Kind::Endpoints,
        Request {
            names,
            ..Request::default()
        },
    );
    next.subscribe(Kind::Listener);
    for _ in 0..10 {
        next.receive();
        next.answer();
        assert_eq!(next.names(Kind::Listener), ["a:1"]);
    }
    assert!(next.subscription.is_settled());
}

#[test]
fn a_port_that_changes_its_service_is_never_without_a_listener() {
    for protocol in BOTH {
        let mut all = Resources::default();
        let mut client = started(protocol, &resources(&mut all, &service("a:80", Some("1"))));
        let taken = [service("a:80", None), service("b:80", Some("1"))].concat();
        client.subscription.update(&resources(&mut all, &taken));
        loop {
            client.receive();
            if client.answer().is_none() {
                break;
            }
            assert_eq!(client.names(Kind::Listener).len(), 1);
        }
        for kind in Kind::ALL {
            assert_eq!(client.names(kind), ["b:80"]);
        }
    }
}

#[test]
fn one_bad_resource_is_left_out_said_once_and_offered_again_later() {
    for (protocol, is_clear) in [
        (Protocol::Sotw, true),
        (Protocol::Delta, true),
        (Protocol::Delta, false),
    ] {
        let mut all = Resources::default();
        let names: [&'static str; 5] = ["a:1", "b:2", "bad:3", "d:4", "e:5"];
        let services = names.map(|name| service(name, Some(name))).concat();
        let first = resources(&mut all, &services);
        let mut client = Client::new(protocol);
        client.is_clear = is_clear;
        let bad = first.get(Kind::Listener, "bad:3").unwrap().version.clone();
        client.refuses.insert((Kind::Listener, bad));
        client.subscription.update(&first);
        client.subscribe(Kind::Cluster);
        client.settle();
        client.subscribe(Kind::Listener);
        client.settle();
        assert_eq!(client.names(Kind::Listener), ["a:1", "b:2", "d:4", "e:5"]);
        let rejected: Vec<_> = client.subscription.rejections().collect();
        assert_eq!(rejected.len(), 1);
        assert_eq!(
            (rejected[0].kind, &*rejected[0].name),
            (Kind::Listener, "bad:3")
        );
        assert!(
            client.refused_responses <= 4,
            "{}",
            client.refused_responses
        );

        // It holds nobody back, and is not told again by itself.
        let refused = client.refused_responses;
        client
            .subscription
            .update(&resources(&mut all, &service("f:6", Some("1"))));
        client.settle();
        assert_eq!(client.names(Kind::Listener).len(), 5);
        assert_eq!(client.refused_responses, refused);
        let deadline = client.subscription.deadline().unwrap();
        assert_eq!(deadline - client.now, RETRY_FIRST);
        client.now = deadline;
        client.settle();
        assert_eq!(client.refused_responses, refused + 1);
        client.refuses.clear();
        client.now = client.subscription.deadline().unwrap();
        client.settle();
        assert_eq!(client.names(Kind::Listener).len(), 6);
        assert_eq!(client.subscription.rejections().count(), 0);
    }
}

#[test]
fn what_is_refused_leads_to_nothing_and_goes_when_it_is_gone() {
    let mut all = Resources::default();
    let first = resources(&mut all, &service("bad:3", Some("1")));
    let mut client = Client::new(Protocol::Delta);
    let bad = first.get(Kind::Cluster, "bad:3").unwrap().version.clone();
    client.refuses.insert((Kind::Cluster, bad));
    client.subscription.update(&first);
    client.subscribe(Kind::Cluster);
    client.subscribe(Kind::Listener);
    client.settle();
    client.now += 2 * WAIT_MAX;
    client.settle();
    assert!(
        client.names(Kind::Listener).is_empty(),
        "its cluster is not there"
    );
    client
        .subscription
        .update(&resources(&mut all, &service("bad:3", None)));
    client.settle();
    assert_eq!(client.subscription.rejections().count(), 0);
    client
        .subscription
        .update(&resources(&mut all, &service("bad:3", Some("2"))));
    client.settle();
    assert_eq!(client.names(Kind::Listener), ["bad:3"]);
}

#[test]
fn who_asks_for_endpoints_by_name_is_told_of_these_alone_even_that_there_are_none() {
    let mut all = Resources::default();
    let first = resources(
        &mut all,
        &[service("a:1", Some("1")), service("b:2", Some("1"))].concat(),
    );
    for (protocol, removed) in [
        (Protocol::Delta, vec![Arc::from("nobody:9")]),
        (Protocol::Sotw, Vec::new()),
    ] {
        let mut subscription = Subscription::new(protocol);
        subscription.update(&first);
        let names = vec!["b:2".to_owned(), "nobody:9".to_owned()];
        let now = Instant::now();
        subscription.request(
            Kind::Endpoints,
            Request {
                names,
                ..Request::default()
            },
            now,
        );
        let response = subscription.poll(now).unwrap();
        let told: Vec<_> = response.resources.iter().map(|it| &*it.name).collect();
        assert_eq!((told, response.removed), (vec!["b:2"], removed));
    }
}

#[test]
fn a_cluster_that_is_told_anew_gets_its_endpoints_again() {
    for protocol in BOTH {
        let mut all = Resources::default();
        let mut client = started(protocol, &resources(&mut all, &service("a:1", Some("1"))));
        client
            .subscription
            .update(&resources(&mut all, &[(Kind::Cluster, "a:1", Some("2"))]));
        client.receive();
        let kinds: Vec<_> = client.unanswered.iter().map(|it| it.kind).collect();
        assert_eq!(kinds, [Kind::Cluster, Kind::Endpoints]);
        client.settle();
        assert!(client.subscription.is_settled());
    }
}

#[test]
fn nobody_is_waited_for_longer_than_a_second() {
    let mut all = Resources::default();
    let first = resources(&mut all, &service("a:1", Some("1")));
    // It takes listeners, and never answers about clusters.
    let mut subscription = Subscription::new(Protocol::Delta);
    subscription.update(&first);
    let now = Instant::now();
    subscription.request(Kind::Cluster, Request::default(), now);
    subscription.request(Kind::Listener, Request::default(), now);
    assert_eq!(subscription.poll(now).unwrap().kind, Kind::Cluster);
    assert_eq!(subscription.poll(now), None);
    assert_eq!(subscription.deadline(), Some(now + WAIT_MAX));
    let response = subscription.poll(now + WAIT_MAX).unwrap();
    assert_eq!(
        (response.kind, response.resources.len()),
        (Kind::Listener, 1)
    );
}

#[test]
fn nobody_is_woken_for_what_only_an_answer_can_bring() {
    let mut all = Resources::default();
    let mut client = started(
        Protocol::Delta,
        &resources(&mut all, &service("a:1", Some("1"))),
    );
    // A listener is told and not answered; the next one waits for its cluster, which is not answered either.
    let changed = resources(&mut all, &[(Kind::Listener, "a:1", Some("2"))]);
    client.subscription.update(&changed);
    client.receive();
    let next = resources(&mut all, &service("b:2", Some("1")));
    client.subscription.update(&next);
    for _ in 0..3 {
        client.receive();
        let deadline = client.subscription.deadline();
        assert!(deadline.is_none_or(|it| it > client.now), "{deadline:?}");
        client.now += WAIT_MAX;
    }
    client.settle();
    assert_eq!(client.names(Kind::Listener), ["a:1", "b:2"]);
    assert_eq!(client.subscription.deadline(), None);
}

#[test]
fn words_name_a_resource_by_its_whole_name() {
    let words = "Error adding/updating listener(s) web:80: cannot bind '10.0.0.1:80'\n";
    assert!(names_it(words, "web:80"));
    assert!(!names_it(words, "b:80") && !names_it(words, "eb:80"));
}

#[derive(Debug, Clone)]
enum Step {
    Set(usize, usize, u8),
    Remove(usize),
    Receive,
    Answer,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..6_usize, 0..3_usize, 0..4_u8).prop_map(|(name, kind, content)| Step::Set(name, kind, content)),
        2 => (0..6_usize).prop_map(Step::Remove),
        3 => Just(Step::Receive),
        4 => Just(Step::Answer),
        1 => (0..900_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever changes whenever, in the end a client holds what there is, but for what it refuses; of each kind
    /// one response was outstanding, and no listener was without its cluster.
    #[test]
    fn every_client_comes_to_hold_what_there_is(
        steps in steps(),
        is_delta: bool,
        is_clear: bool,
        bad in proptest::option::of(0..6_usize),
    ) {
        const NAMES: [&str; 6] = ["a:1", "b:1", "c:2", "d:3", "e:4", "bb:4"];
        let protocol = if is_delta { Protocol::Delta } else { Protocol::Sotw };
        let mut all = Resources::default();
        let mut client = started(protocol, &Arc::default());
        // A client that does not say what it refuses loses, in whole states, what is told apart.
        client.is_clear = is_clear || !is_delta;
        let content = |name: usize, content: u8| -> &'static str {
            const CONTENTS: [&str; 4] = ["0", "1", "2", "3"];
            if bad == Some(name) { "bad" } else { CONTENTS[usize::from(content)] }
        };
        let unbearable = Resource::new(&Arc::from("x"), b"bad".to_vec()).version;
        client.refuses.insert((Kind::Listener, unbearable.clone()));
        for step in steps {
            match step {
                Step::Set(name, kind, number) => {
                    // What is there is there whole.
                    let name_ = NAMES[name];
                    let kinds: Vec<_> = Kind::ALL
                        .into_iter()
                        .filter(|it| all.get(*it, name_).is_none() || it.index() == kind)
                        .map(|kind| (kind, name_, Some(content(name, number))))
                        .collect();
                    client.subscription.update(&resources(&mut all, &kinds));
                }
                Step::Remove(name) => {
                    client.subscription.update(&resources(&mut all, &service(NAMES[name], None)));
                }
                Step::Receive => client.receive(),
                Step::Answer => drop(client.answer()),
                Step::Wait(millis) => {
                    // Below what a change waits at most, and answered before: no order is given up.
                    client.settle();
                    client.now += Duration::from_millis(millis);
                }
            }
        }
        client.settle();
        for kind in Kind::ALL {
            let there: HashMap<String, String> = all
                .all(kind)
                .filter(|it| kind != Kind::Listener || it.version != unbearable)
                .map(|it| (it.name.to_string(), it.version.clone()))
                .collect();
            let held: HashMap<String, String> = client.held[kind.index()].clone().into_iter().collect();
            prop_assert_eq!(held, there, "{:?}", kind);
        }
    }
}
