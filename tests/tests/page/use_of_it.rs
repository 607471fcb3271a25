//! What happens, and what people do.

use blackbox::{AgentBuilder, Answer, Browser, Key, Lab, Machine, Status, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SHOWN, Site, page, target, targets};

/// The text of the row of an instance of `shared`, by its host.
fn row(host: &str) -> String {
    format!(
        "return [...document.querySelectorAll('#services [data-key=shared] .instances tbody tr')] \
         .map(it => it.innerText).find(it => it.includes('{host}'))"
    )
}

fn row_with(host: &str, word: &str) -> String {
    format!(
        "return [...document.querySelectorAll('#services [data-key=shared] .instances tbody tr')] \
         .some(it => it.innerText.includes('{host}') && it.innerText.includes('{word}'))"
    )
}

#[test]
fn changes_on_other_hosts_appear_without_a_reload() {
    let site = Site::start();
    let browser = &site.browser;
    site.open("#services?open=shared");
    browser.run("window.unchanged = true", &[]);
    browser.wait("beta is alive", SHOWN, &row_with("beta", "Alive"));

    site.services[1].set("/health", Answer::status(503));
    browser.wait("beta is unhealthy", SHOWN, &row_with("beta", "Unhealthy"));
    let alpha = browser.run(&row("alpha"), &[]);
    assert!(
        alpha.as_str().unwrap_or_default().contains("200"),
        "the evidence of the own check is missing: {alpha}"
    );
    site.services[1].set("/health", Answer::status(200));
    browser.wait("beta is alive again", SHOWN, &row_with("beta", "Alive"));

    let mut more = targets(2);
    more.push(target("newcomer", 9700));
    site.lab
        .write("static-gamma.json", &Value::from(more).to_string());
    browser.wait(
        "the new service is listed",
        SHOWN,
        "return document.querySelector('#services [data-key=newcomer]') !== null",
    );
    browser.press(&[Key::Char('4')]);
    browser.wait(
        "it is routed",
        SHOWN,
        "return document.querySelector('#routes [data-key=\"9700\"] .of-endpoints')?.innerText === '1 endpoint'",
    );
    browser.press(&[Key::Char('5')]);
    browser.wait(
        "the changes are listed with the time they took",
        SHOWN,
        "const lines = [...document.querySelectorAll('#changes .timeline li')].map(it => it.innerText); \
         return lines.some(it => /newcomer/.test(it) && /took [\\d.]+ m?s/.test(it)) \
             && lines.some(it => /shared/.test(it) && /beta/.test(it) && /Unhealthy/.test(it))",
    );
    assert_eq!(browser.run("return window.unchanged", &[]), json!(true));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn what_is_looked_at_stays_in_the_address() {
    let site = Site::start();
    let browser = &site.browser;
    site.open("");
    browser.click("#tabs a[href^='#services']");
    browser.click("#filter");
    browser.type_text("host:beta only");
    let one = "const shown = [...document.querySelectorAll('#services .fold')]; \
         return shown.length === 1 && shown[0].dataset.key === 'only-beta' \
             && shown[0].querySelector('.instances') !== null \
             && location.hash.includes('q=host%3Abeta+only')";
    browser.wait("the filter finds one service and opens it", SHOWN, one);
    browser.reload();
    browser.wait("it does so after a reload", SHOWN, one);
    assert_eq!(
        browser.run("return document.querySelector('#filter').value", &[]),
        json!("host:beta only")
    );
    browser.click("#tabs a[href^='#hosts']");
    browser.wait(
        "the filter holds for hosts",
        SHOWN,
        "return location.hash.startsWith('#hosts') \
             && [...document.querySelectorAll('#hosts .hosts tbody tr')].map(it => it.innerText).join().includes('beta')",
    );
    browser.back();
    browser.wait("back leads to the services", SHOWN, one);
    browser.back();
    browser.wait(
        "and once more to what was there before the filter",
        SHOWN,
        "return location.hash === '#services' && document.querySelector('#filter').value === '' \
             && document.querySelectorAll('#services .fold').length === 4",
    );
    browser.click("#gone");
    browser.wait(
        "the address says that gone ones are shown",
        SHOWN,
        "return location.hash.includes('gone=1')",
    );
}

#[test]
fn an_instance_is_drained_on_the_page_of_its_host() {
    let site = Site::start();
    let browser = &site.browser;
    site.open("#services?open=shared");
    browser.wait(
        "beta's instance is listed",
        SHOWN,
        &row_with("beta", "Alive"),
    );
    let elsewhere = browser.run(
        "const row = [...document.querySelectorAll('.instances tbody tr')].find(it => it.innerText.includes('beta')); \
         return [row.querySelector('.command') === null, row.querySelector('.of-check a').href]",
        &[],
    );
    assert_eq!(
        elsewhere[0],
        json!(true),
        "others' instances have no command"
    );
    let link = elsewhere[1].as_str().unwrap_or_default();
    assert!(
        link.starts_with("http://10.88.0.2:7777/ui/#services"),
        "{link}"
    );

    let is = |status| {
        move |agents: &[blackbox::Agent]| {
            agents.iter().try_for_each(|agent| {
                let wanted = [
                    ("alpha", status),
                    ("beta", Status::Alive),
                    ("gamma", Status::Alive),
                ];
                agent.expect_instances("shared", &wanted)
            })
        }
    };
    // What still changes may move a button from under the mouse.
    browser.wait("its check is done", SHOWN, &row_with("alpha", "200"));
    for host in ["alpha", "beta", "gamma"] {
        browser.wait("all are alive", SHOWN, &row_with(host, "Alive"));
    }
    browser.click("#services [data-key=shared] .command");
    browser.wait(
        "it asks first",
        SHOWN,
        "return document.querySelector('#ask').open",
    );
    browser.click("#ask .primary");
    eventually("it drains everywhere", SHOWN, || {
        is(Status::Draining)(&site.agents)
    });
    browser.wait("the page shows it", SHOWN, &row_with("alpha", "Draining"));
    browser.wait(
        "the outcome is told",
        SHOWN,
        "return document.querySelector('#toasts .good')?.innerText.includes('Draining')",
    );
    browser.wait("it can be taken back", SHOWN, &row_with("alpha", "Undrain"));
    browser.click("#services [data-key=shared] .command");
    eventually("it is alive again everywhere", SHOWN, || {
        is(Status::Alive)(&site.agents)
    });
    browser.wait("the page shows it", SHOWN, &row_with("alpha", "Alive"));
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // The same page from another host: its agent does not take commands from there, and says so.
    browser.open("http://10.88.0.2:7777/ui/#services?open=shared");
    browser.wait("beta's page is there", SHOWN, &row_with("beta", "Drain"));
    browser.click("#services [data-key=shared] .command");
    browser.click("#ask .primary");
    browser.wait(
        "the refusal is shown",
        SHOWN,
        "return document.querySelector('#toasts .bad')?.innerText.includes('Cannot drain shared')",
    );
}

#[test]
fn an_agent_that_is_away_is_told_and_found_again() {
    let mut site = Site::start();
    site.open("#services");
    let banner = "return document.querySelector('#banners .bad')?.innerText.includes('The agent of alpha is not to be reached')";
    site.browser.run("window.unchanged = true", &[]);
    site.agents[0].kill();
    site.browser.wait("the page says so", SHOWN, banner);
    site.browser.wait(
        "what was known stays",
        SHOWN,
        "return document.body.classList.contains('stale') && document.querySelectorAll('#services .fold').length === 4",
    );
    // It misses what happens meanwhile.
    let mut more = targets(2);
    more.push(target("newcomer", 9700));
    site.lab
        .write("static-gamma.json", &Value::from(more).to_string());
    eventually("the others know it", SHOWN, || {
        site.agents[1].expect_instances("newcomer", &[("gamma", Status::Alive)])
    });
    site.agents[0].restart();
    site.browser.wait(
        "the page recovers and shows what it missed",
        SHOWN,
        "return document.querySelector('#banners .bad') === null && !document.body.classList.contains('stale') \
             && document.querySelector('#live').innerText.trim() === 'live' \
             && document.querySelector('#services [data-key=newcomer]') !== null",
    );
    assert_eq!(
        site.browser.run("return window.unchanged", &[]),
        json!(true)
    );
}

#[test]
fn several_hosts_that_do_not_answer_are_a_banner() {
    let mut site = Site::start();
    site.open("#hosts");
    site.agents[1].signal(Signal::KILL);
    site.agents[2].signal(Signal::KILL);
    site.browser.wait(
        "the page warns",
        3 * SHOWN,
        "return document.querySelector('#banners .warn')?.innerText.includes('2 of 3 hosts do not answer')",
    );
    site.browser.wait(
        "both are dead in the list, in words",
        3 * SHOWN,
        "return [...document.querySelectorAll('#hosts .hosts tbody .status')].filter(it => it.innerText.trim() === 'Dead').length === 2",
    );
}

#[test]
fn everything_is_reached_by_keyboard() {
    let site = Site::start();
    let browser = &site.browser;
    site.open("");
    let focused = |what: &str| {
        format!(
            "return document.activeElement.matches({what:?}) && document.activeElement.matches(':focus-visible')"
        )
    };
    browser.press(&[Key::Tab]);
    browser.wait(
        "first comes the way past the head",
        SHOWN,
        &focused("#skip"),
    );
    browser.press(&[Key::Char('2')]);
    browser.wait(
        "a number chooses a section",
        SHOWN,
        "return !document.querySelector('#services').hidden",
    );
    browser.press(&[Key::Char('/')]);
    browser.wait("a slash leads to the filter", SHOWN, &focused("#filter"));
    browser.type_text("shared");
    browser.wait(
        "it finds the service",
        SHOWN,
        "return document.querySelectorAll('#services .fold').length === 1 && document.querySelector('#found').innerText.includes('1 service')",
    );
    browser.press(&[Key::Escape]);
    browser.wait(
        "escape clears it",
        SHOWN,
        "return document.querySelector('#filter').value === '' && document.querySelectorAll('#services .fold').length === 4",
    );
    // From the filter on: the box for gone ones, five statuses, the first service.
    for _ in 0..12 {
        browser.press(&[Key::Tab]);
        let at = browser.run("return document.activeElement.className", &[]);
        if at == json!("opener") {
            break;
        }
    }
    browser.wait("tabs lead to the services", SHOWN, &focused(".opener"));
    let outline = browser.run(
        "return getComputedStyle(document.activeElement, '::after').outlineStyle",
        &[],
    );
    assert_eq!(outline, json!("solid"), "the focus can be seen");
    browser.press(&[Key::Enter]);
    browser.wait(
        "enter opens it",
        SHOWN,
        "return document.activeElement.getAttribute('aria-expanded') === 'true' && document.querySelector('#services .instances tbody tr') !== null",
    );
    browser.press(&[Key::Tab, Key::Enter]);
    browser.wait(
        "and the details of an instance",
        SHOWN,
        "return document.querySelector('#services .detail')?.innerText.includes('registry.lab') && location.hash.includes('at=')",
    );
}

#[test]
fn a_part_of_the_page_that_did_not_arrive_is_asked_for_again() {
    let lab = Lab::new(Machine::Shared, &["alpha"]);
    let agent = AgentBuilder::new(&lab, 0)
        .services(&[target("web", 9600)])
        .start();
    eventually("the service is announced", SHOWN, || {
        agent.instances("web").and_then(|found| {
            let missing = || "none".to_owned();
            found.first().map(drop).ok_or_else(missing)
        })
    });
    let browser = Browser::start(&lab, 0);
    browser.block(&["*/ui/store.js"]);
    browser.open(&page("#services"));
    let tries = "return Number(sessionStorage.getItem('sidecar-tries'))";
    browser.wait("it has failed", SHOWN, &format!("{tries} >= 1"));
    browser.block(&[]);
    browser.wait(
        "the page shows the service",
        SHOWN,
        "return document.querySelector('#services [data-key=web]') !== null",
    );
    assert_eq!(browser.run(tries, &[]), json!(0), "the count begins anew");
}
