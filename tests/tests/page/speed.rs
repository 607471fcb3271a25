//! How fast it is, and how little it takes.

use std::time::Duration;

use blackbox::{Agent, AgentBuilder, Browser, Lab, Machine, Request, eventually};
use serde_json::{Value, json};

use super::{SHOWN, page};

const FIRST_PAINT_MS: f64 = 300.0;
const PAGE_BYTES: u64 = 200 * 1024;
const FRAME_MS: f64 = 100.0;
const SERVICES: usize = 1000;
const INSTANCES: usize = 10;

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

#[test]
fn the_first_paint_is_soon_and_nobody_else_is_asked() {
    let lab = Lab::new(Machine::Alone, &["alpha"]);
    let target = json!({ "Service": { "Name": "web", "Ports": [{ "Port": 8300, "ServicePort": 9600 }] }, "Check": { "Type": "AlwaysSuccessful" } });
    let _agent = AgentBuilder::new(&lab, 0).services(&[target]).start();
    let browser = Browser::start(&lab, 0);
    let mut paints = Vec::new();
    for _ in 0..7 {
        browser.open("about:blank");
        browser.open(&page("#services"));
        browser.wait(
            "the service is shown",
            SHOWN,
            "return document.querySelector('#services .fold') !== null",
        );
        let paint = browser.wait(
            "something is painted",
            SHOWN,
            "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null",
        );
        paints.push(paint.as_f64().expect("a time"));
    }
    println!(
        "first contentful paint {:.0} ms (median of {paints:.0?})",
        median(paints.clone())
    );
    assert!(median(paints.clone()) <= FIRST_PAINT_MS, "{paints:?}");
    let loaded = browser.run(
        "const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]; \
         return [all.filter(it => new URL(it.name).origin !== location.origin).map(it => it.name), \
             all.filter(it => new URL(it.name).pathname.startsWith('/ui/')).reduce((sum, it) => sum + it.decodedBodySize, 0)]",
        &[],
    );
    assert_eq!(loaded[0], json!([]), "nobody else is asked");
    let bytes = loaded[1].as_u64().unwrap_or_default();
    println!("the page has {bytes} bytes");
    assert!((20_000..=PAGE_BYTES).contains(&bytes), "{bytes} bytes");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Types a letter and another away again, and measures from each to the end of the frame that shows it.
const FILTER: &str = "
    const filter = document.querySelector('#filter');
    const frame = () => new Promise(done => requestAnimationFrame(() => {
        // Behind the callbacks of this frame the page is laid out; then a message is next.
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = done;
        port2.postMessage(0);
    }));
    return (async () => {
        const all = [];
        for (const text of ['s', 'se', 'service-01', 'service-012', 'host-3', '', 'status:alive', 'host-3 service-09', '']) {
            await frame();
            const start = performance.now();
            filter.value = text;
            filter.dispatchEvent(new Event('input', { bubbles: true }));
            await frame();
            document.body.offsetHeight;
            all.push(performance.now() - start);
        }
        return all;
    })();
";

/// Scrolls through the list and measures each frame's work.
const SCROLL: &str = "
    const frame = () => new Promise(done => requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = done;
        port2.postMessage(0);
    }));
    return (async () => {
        const all = [];
        const high = document.documentElement.scrollHeight;
        for (let step = 0; step < 20; step++) {
            const start = performance.now();
            scrollTo(0, high * ((step * 7) % 20) / 20);
            await frame();
            document.body.offsetHeight;
            all.push(performance.now() - start);
        }
        scrollTo(0, 0);
        return all;
    })();
";

fn many() -> Vec<Value> {
    let all = (0..SERVICES).flat_map(|service| (0..INSTANCES).map(move |host| (service, host)));
    all.map(|(service, host)| {
        json!({
            "Service": {
                "Name": format!("service-{service:04}"), "Image": "registry.lab/service:1.2.3", "Hostname": format!("host-{host}"),
                "Ports": [{ "Type": "tcp", "Port": 10_000 + service, "IP": "10.88.0.9" }],
            },
            "Check": { "Type": "AlwaysSuccessful" },
        })
    })
    .collect()
}

fn count(agent: &Agent) -> Result<(), String> {
    let request = Request {
        // The documents are for those who call the agent by a name of its own.
        headers: &[("Host", "localhost")],
        ..Request::get("/api/v2/overview")
    };
    let overview = agent
        .host
        .request(agent.api_address(), &request)
        .map_err(|error| error.to_string())?;
    let overview: Value =
        serde_json::from_str(&overview.body).map_err(|error| error.to_string())?;
    let alive = overview["instances"]["alive"].as_u64().unwrap_or_default();
    if alive == (SERVICES * INSTANCES) as u64 {
        Ok(())
    } else {
        Err(format!("{alive} instances are alive"))
    }
}

#[test]
fn a_thousand_services_of_ten_instances_stay_responsive() {
    let lab = Lab::new(Machine::Alone, &["alpha"]);
    let agent = AgentBuilder::new(&lab, 0).services(&many()).launch();
    eventually("all instances are alive", Duration::from_secs(120), || {
        count(&agent)
    });
    let browser = Browser::start(&lab, 0);
    browser.open(&page("#services"));
    browser.wait(
        "all services are listed",
        3 * SHOWN,
        &format!("return document.querySelectorAll('#services .fold').length === {SERVICES}"),
    );
    browser.wait(
        "the last changes are in",
        SHOWN,
        "return document.querySelector('#live').innerText.trim() === 'live'",
    );
    let mut typed = Vec::new();
    let mut scrolled = Vec::new();
    for _ in 0..3 {
        typed.extend(numbers(&browser.run(FILTER, &[])));
        scrolled.extend(numbers(&browser.run(SCROLL, &[])));
    }
    println!(
        "from a key to the frame {:.0} ms (median of {typed:.0?})",
        median(typed.clone())
    );
    println!(
        "a frame of scrolling {:.0} ms (median of {scrolled:.0?})",
        median(scrolled.clone())
    );
    assert_eq!((typed.len(), scrolled.len()), (27, 60));
    assert!(median(typed.clone()) < FRAME_MS, "{typed:?}");
    assert!(median(scrolled.clone()) < FRAME_MS, "{scrolled:?}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
