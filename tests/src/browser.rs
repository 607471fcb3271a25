//! A browser on a host, driven as a person would: Chromium without a window, told what to do over
//! WebDriver by its own driver program.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Lab, Process,
    host::Host,
    http::{Request, Response},
    tools,
    wait::{POLL, eventually},
};

/// Where the driver listens on its host.
const DRIVER_PORT: u16 = 9515;
/// A browser starts in a second, and on a busy machine after a long while.
const START: Duration = Duration::from_secs(90);
/// The longest a single command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// How elements are named in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// What is pressed on the keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words on the keys")]
pub enum Key {
    Char(char),
    Tab,
    Enter,
    Escape,
}

impl Key {
    /// As WebDriver writes it.
    fn value(self) -> char {
        match self {
            Self::Char(char) => char,
            Self::Tab => '\u{e004}',
            Self::Enter => '\u{e007}',
            Self::Escape => '\u{e00c}',
        }
    }
}

/// A running browser with one window.
#[derive(Debug)]
pub struct Browser {
    host: Arc<Host>,
    session: String,
    /// Ends after the session, which it must still close.
    _driver: Process,
}

impl Browser {
    /// Starts one on a host, 1280 by 900 pixels, with light colours.
    ///
    /// # Panics
    /// When Chromium or its driver is not installed or does not start.
    pub fn start(lab: &Lab, host: usize) -> Self {
        let chromium = tools::require("chromium").display().to_string();
        let title = format!("browser-{}", lab.host(host).name);
        let driver = lab.program(
            host,
            &title,
            &["chromedriver", &format!("--port={DRIVER_PORT}")],
        );
        let mut browser = Self {
            host: Arc::clone(lab.host(host)),
            session: String::new(),
            _driver: driver,
        };
        eventually("the browser's driver answers", START, || {
            browser.try_command("GET", "/status", &Value::Null)
        });
        let profile = lab.dir().join(&title);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
        }}});
        let answer = browser.command("POST", "/session", &wanted);
        let session = answer["sessionId"].as_str().expect("a session has an ID");
        browser.session = format!("/session/{session}");
        browser.resize(1280, 900);
        browser.prefer_colours("light");
        browser
    }

    /// Goes to a URL and returns when the page and its scripts are loaded.
    ///
    /// # Panics
    /// When the browser cannot.
    pub fn open(&self, url: &str) {
        self.in_session("POST", "/url", &json!({ "url": url }));
    }

    /// Loads the page anew.
    pub fn reload(&self) {
        self.in_session("POST", "/refresh", &json!({}));
    }

    /// Goes back in the window's history.
    pub fn back(&self) {
        self.in_session("POST", "/back", &json!({}));
    }

    /// The address that the window shows.
    pub fn url(&self) -> String {
        let url = self.in_session("GET", "/url", &Value::Null);
        url.as_str().unwrap_or_default().to_owned()
    }

    /// What the body of a function returns, run in the page with these `arguments`. A promise is waited for.
    ///
    /// # Panics
    /// When it throws.
    pub fn run(&self, body: &str, arguments: &[Value]) -> Value {
        let script = json!({ "script": body, "args": arguments });
        self.in_session("POST", "/execute/sync", &script)
    }

    /// Runs a script until it returns something that counts as true, and returns that. The panic says what the
    /// page shows at the last look.
    ///
    /// # Panics
    /// When it does not `within` the time given.
    pub fn wait(&self, what: &str, within: Duration, body: &str) -> Value {
        let start = Instant::now();
        loop {
            let found = self.run(body, &[]);
            if !matches!(found, Value::Null | Value::Bool(false)) {
                return found;
            }
            if start.elapsed() > within {
                let shown = self.run("return document.body.innerText", &[]);
                let shown = shown.as_str().unwrap_or_default().to_owned();
                let complaints = self.complaints();
                panic!(
                    "not within {within:?}: {what}; the page shows:\n{shown}\nthe browser: {complaints:?}"
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Clicks in the middle of the first element of a CSS selector.
    ///
    /// # Panics
    /// When there is none, or something lies above it.
    pub fn click(&self, selector: &str) {
        let by = json!({ "using": "css selector", "value": selector });
        let element = self.in_session("POST", "/element", &by);
        let element = element[ELEMENT].as_str().expect("elements have names");
        self.in_session("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Presses keys, one after the other, where the focus is.
    pub fn press(&self, keys: &[Key]) {
        let strokes: Vec<_> = keys
            .iter()
            .flat_map(|key| {
                let value = key.value().to_string();
                ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": value }))
            })
            .collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.in_session("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// Types a text where the focus is.
    pub fn type_text(&self, text: &str) {
        let keys: Vec<_> = text.chars().map(Key::Char).collect();
        self.press(&keys);
    }

    /// Gives the window's inside another size, in pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Lets the system prefer `light` or `dark` colours.
    pub fn prefer_colours(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
    }

    /// Lets nothing through whose URL has one of these forms, with `*` for anything; and all with none.
    pub fn block(&self, urls: &[&str]) {
        self.devtools("Network.enable", &json!({}));
        self.devtools("Network.setBlockedURLs", &json!({ "urls": urls }));
    }

    /// What the browser had to complain about since it was asked last: errors of scripts, and what the page's
    /// policy forbade. That an agent could not be reached is none of that.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.log().into_iter();
        log.filter(|line| !line.contains("net::ERR_")).collect()
    }

    /// The errors in its log.
    fn log(&self) -> Vec<String> {
        let lines = self.in_session("POST", "/se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().into_iter().flatten();
        let severe = lines.filter(|line| line["level"] == "SEVERE");
        severe
            .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        let command = json!({ "cmd": command, "params": parameters });
        self.in_session("POST", "/goog/cdp/execute", &command);
    }

    fn in_session(&self, method: &str, path: &str, body: &Value) -> Value {
        self.command(method, &format!("{}{path}", self.session), body)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_command(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
    }

    fn try_command(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self
            .exchange(method, path, body)
            .map_err(|error| error.to_string())?;
        let document: Value = serde_json::from_str(&answer.body)
            .map_err(|error| format!("{error}: {}", answer.body))?;
        if answer.status == 200 {
            return Ok(document["value"].clone());
        }
        let error = &document["value"];
        Err(format!("{}: {}", error["error"], error["message"]))
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> io::Result<Response> {
        let driver = SocketAddr::from((Ipv4Addr::LOCALHOST, DRIVER_PORT));
        let stream = self.host.connect(driver)?;
        stream.set_read_timeout(Some(COMMAND))?;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = Request {
            method,
            path,
            // The driver listens to nobody who calls it by another name.
            headers: &[("Host", "localhost"), ("Content-Type", "application/json")],
            body: &body,
        };
        Response::read(stream, &request)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes the browser with it; what is left ends with the lab.
        let _ = self.try_command("DELETE", &self.session, &Value::Null);
    }
}
