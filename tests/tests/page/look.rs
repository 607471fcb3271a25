//! How it looks: colours, small windows, and texts that were meant to do harm.

use blackbox::{AgentBuilder, Browser, Lab, Machine};
use serde_json::{Value, json};

use super::{SHOWN, Site, page};

const SECTIONS: [&str; 5] = [
    "#overview",
    "#services?open=shared&open=only-alpha",
    "#hosts",
    "#routes?open=9600",
    "#changes",
];

/// The brightness of the page's background, of 255.
fn brightness(browser: &Browser) -> u64 {
    let colour = browser.run(
        "return getComputedStyle(document.body).backgroundColor",
        &[],
    );
    let colour = colour.as_str().unwrap_or_default().to_owned();
    let parts = colour
        .trim_start_matches("rgb(")
        .trim_end_matches(')')
        .split(", ");
    let parts: Vec<u64> = parts
        .map(|it| it.parse().unwrap_or_else(|_| panic!("{colour}")))
        .collect();
    parts.iter().sum::<u64>() / 3
}

#[test]
fn colours_follow_the_system_until_somebody_chooses() {
    let site = Site::start();
    let browser = &site.browser;
    site.open("");
    assert!(brightness(browser) > 200);
    browser.prefer_colours("dark");
    assert!(brightness(browser) < 60);
    // Auto, light, dark, auto.
    browser.click("#theme");
    assert!(brightness(browser) > 200);
    browser.reload();
    assert!(brightness(browser) > 200, "the choice is remembered");
    browser.click("#theme");
    browser.prefer_colours("light");
    assert!(brightness(browser) < 60);
    browser.click("#theme");
    assert!(brightness(browser) > 200, "as the system has it");
}

/// Texts of the page whose colour is too near to that of what lies behind them, by the rules of WCAG for AA.
const TOO_FAINT: &str = "
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(it => { it /= 255; return it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const found = new Set();
    for (const element of document.querySelectorAll('body *')) {
        if (![...element.childNodes].some(it => it.nodeType === 3 && it.data.trim()) || !element.checkVisibility({ contentVisibilityAuto: true })) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
        if ((a + 0.05) / (b + 0.05) < 4.5) found.add(`${element.tagName} ${element.className} ${element.textContent.slice(0, 30)}`);
    }
    return [...found];
";

#[test]
fn small_windows_need_no_scrolling_aside_and_texts_can_be_read() {
    let site = Site::start();
    let browser = &site.browser;
    for section in SECTIONS {
        for (width, scheme) in [(360, "light"), (1280, "light"), (1280, "dark")] {
            browser.resize(width, 740);
            browser.prefer_colours(scheme);
            site.open(section);
            let wide = browser.run(
                "return [document.documentElement.scrollWidth, innerWidth]",
                &[],
            );
            assert!(
                wide[0].as_u64() <= wide[1].as_u64(),
                "{section} is {wide} pixels wide: {}",
                browser.run(
                    "return [...document.querySelectorAll('body *')].filter(it => it.getBoundingClientRect().right > innerWidth) \
                     .slice(0, 5).map(it => it.outerHTML.slice(0, 200))",
                    &[]
                )
            );
            let faint = browser.run(TOO_FAINT, &[]);
            assert_eq!(faint, json!([]), "{section} in {scheme} colours");
        }
    }
}

#[test]
fn texts_of_the_cluster_are_never_markup() {
    let lab = Lab::new(Machine::Shared, &["alpha"]);
    let image = "<img src=x onerror=\"window.harmed=1\">";
    let quotes = "\"'><script>window.harmed=1</script>";
    let long = "n".repeat(300);
    let hostile = |name: &str, host: &str| {
        json!({
            "Service": {
                "Name": name, "Image": format!("{image}:{quotes}"), "Hostname": host, "ProxyMode": "tcp",
                "Ports": [{ "Type": "tcp", "Port": 8300, "ServicePort": 9600, "IP": "10.88.0.1" }],
            },
            "Check": { "Type": "AlwaysSuccessful" },
        })
    };
    let targets = [
        hostile(image, "javascript:window.harmed=1"),
        hostile(quotes, image),
        hostile(&long, quotes),
        hostile("__proto__", "constructor"),
    ];
    let _agent = AgentBuilder::new(&lab, 0).services(&targets).start();
    let browser = Browser::start(&lab, 0);
    browser.resize(360, 740);
    browser.open(&page("#services"));
    browser.wait(
        "all are listed",
        SHOWN,
        "return document.querySelectorAll('#services .fold').length === 4",
    );
    let names = browser.run(
        "return [...document.querySelectorAll('#services .opener')].map(it => it.textContent)",
        &[],
    );
    let names: Vec<_> = names
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for name in [image, quotes, &long, "__proto__"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    for opener in 0..4 {
        let open = "document.querySelectorAll('#services .opener')[arguments[0]].click()";
        browser.run(open, &[json!(opener)]);
    }
    browser.wait(
        "all are open",
        SHOWN,
        "return document.querySelectorAll('#services .instances .id').length === 4",
    );
    browser.run(
        "document.querySelector('#services .instances .id').click()",
        &[],
    );
    browser.wait(
        "details are shown",
        SHOWN,
        "return document.querySelector('.detail dl') !== null",
    );
    for section in [
        "#overview",
        "#hosts",
        "#routes?open=9600",
        "#changes",
        "#services",
    ] {
        browser.run("location.hash = arguments[0]", &[json!(section)]);
        let name = section.split('?').next().unwrap_or(section);
        browser.wait(
            "the section is shown",
            SHOWN,
            &format!("return document.querySelector({name:?}).innerText.length > 20"),
        );
        let state = browser.run(
            "return [window.harmed ?? null, document.querySelectorAll('img, body script, iframe').length, \
             [...document.querySelectorAll('a')].filter(it => !['http:', 'https:'].includes(it.protocol)).length, \
             document.documentElement.scrollWidth <= innerWidth]",
            &[],
        );
        assert_eq!(state, json!([null, 0, 0, true]), "{section}");
    }
    // A filter that came with a link is a text as well.
    browser.open(&page(&format!(
        "#services?q={}",
        "%3Cimg%20src%3Dx%20onerror%3Dwindow.harmed%3D1%3E"
    )));
    browser.wait(
        "it is a filter",
        SHOWN,
        "return document.querySelector('#filter').value.startsWith('<img')",
    );
    assert_eq!(
        browser.run("return window.harmed ?? null", &[]),
        Value::Null
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
