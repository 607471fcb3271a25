//! Server-sent events as little as a test needs: one after the other, comments passed over.

use std::{
    io::{self, Read},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::http::{Body, Request, split};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its ID; empty when it has none.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub data: String,
}

impl Event {
    /// The data as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

/// An endless answer made of events.
#[derive(Debug)]
pub struct EventStream {
    /// The status code.
    pub status: u16,
    socket: TcpStream,
    body: Body,
    /// What was read and not yet returned.
    text: String,
}

impl EventStream {
    pub(crate) fn open(
        mut stream: TcpStream,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Self> {
        let request = Request {
            headers,
            ..Request::get(path)
        };
        request.write(&mut stream)?;
        let socket = stream.try_clone()?;
        let (head, reader) = split(stream)?;
        Ok(Self {
            status: head.status,
            body: Body::new(reader, &head),
            socket,
            text: String::new(),
        })
    }

    /// The next event.
    ///
    /// # Panics
    /// When there is no complete one `within` the time given.
    pub fn next(&mut self, within: Duration) -> Event {
        let deadline = Instant::now() + within;
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let event = parse(block);
                self.text = rest.to_owned();
                match event {
                    Some(event) => return event,
                    None => continue,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .expect("a timeout above zero");
            let mut piece = [0; 8192];
            let read = self.body.read(&mut piece).unwrap_or_else(|error| {
                panic!(
                    "no event within {within:?} ({error}), so far {:?}",
                    self.text
                )
            });
            assert_ne!(read, 0, "the stream ended after {:?}", self.text);
            // The tests' names are ASCII, so that no character is ever parted.
            self.text += std::str::from_utf8(&piece[..read]).expect("events are UTF-8");
        }
    }
}

/// An event; `None` for comments alone.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_default().to_owned()
    };
    let event = Event {
        id: field("id"),
        name: field("event"),
        data: field("data"),
    };
    (!event.name.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::{Event, parse};

    #[test]
    fn comments_are_no_events() {
        assert_eq!(parse(":"), None);
        let event = Event {
            id: "a-1".into(),
            name: "change".into(),
            data: "{\"id: \":1}".into(),
        };
        let text = "id: a-1\nevent: change\ndata: {\"id: \":1}";
        assert_eq!(parse(text), Some(event));
    }
}
