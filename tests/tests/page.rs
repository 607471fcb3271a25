//! The page as people see it: a real browser on a host of a real cluster.

#![cfg(target_os = "linux")]

#[path = "page/look.rs"]
mod look;
#[path = "page/speed.rs"]
mod speed;
#[path = "page/use_of_it.rs"]
mod use_of_it;

use std::{fs, time::Duration};

use blackbox::{API_PORT, Agent, AgentBuilder, Browser, Lab, Machine, Responder, eventually};
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// What happens in the cluster shows within a second; the machine may be busy.
const SHOWN: Duration = Duration::from_secs(20);

fn target(name: &str, service_port: u16) -> Value {
    json!({
        "Service": {
            "Name": name, "Image": format!("registry.lab/{name}:1.2.3"),
            "Ports": [{ "Type": "tcp", "Port": 8300, "ServicePort": service_port }],
        },
        "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8300/health", "Interval": "500ms" },
    })
}

/// Three hosts with a service each and one that all have, and a browser on the first.
struct Site {
    browser: Browser,
    agents: Vec<Agent>,
    services: Vec<Responder>,
    lab: Lab,
}

impl Site {
    fn start() -> Self {
        let lab = Lab::new(Machine::Shared, &NAMES);
        let services = Responder::on_each(&lab, 8300);
        let agents: Vec<_> = (0..NAMES.len())
            .map(|host| {
                // What an agent remembers of drains is neither another host's nor another run's.
                let state = lab.dir().join(format!("state-{}", NAMES[host]));
                fs::create_dir(&state).expect("the lab's directory can be written to");
                AgentBuilder::new(&lab, host)
                    .services(&targets(host))
                    .env("SIDECAR_STATE_DIR", &state.display().to_string())
                    .start()
            })
            .collect();
        eventually("the cluster has formed", SHOWN, || {
            agents.iter().try_for_each(|it| it.expect_members(&NAMES))
        });
        let browser = Browser::start(&lab, 0);
        Self {
            browser,
            agents,
            services,
            lab,
        }
    }

    /// Opens a section of the first host's page and waits until it shows all six instances.
    fn open(&self, section: &str) {
        self.browser.open(&page(section));
        self.browser.wait(
            "the page is live and shows all instances",
            SHOWN,
            "return document.querySelector('#live').innerText.trim() === 'live' \
             && document.querySelector('#tabs a[href^=\"#services\"] b').innerText === '4'",
        );
    }
}

/// The services of a host.
fn targets(host: usize) -> Vec<Value> {
    let own = format!("only-{}", NAMES[host]);
    let port = 9601 + u16::try_from(host).expect("three hosts");
    vec![target("shared", 9600), target(&own, port)]
}

/// A section of the page as the browser's own host has it.
fn page(section: &str) -> String {
    format!("http://127.0.0.1:{API_PORT}/ui/{section}")
}
