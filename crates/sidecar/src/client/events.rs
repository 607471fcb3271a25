//! Server-sent events, as much of them as the API uses: bytes in, events out. Pure.
//!
//! Truth: the HTML standard's "event stream interpretation". Not here: the field `retry`, and a byte order
//! mark, which agents do not send.

/// Longest event, in bytes: a list of 10,000 hosts is a tenth of it. A longer one is an error: its end is
/// not waited for.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its ID, or the last one before it; empty when there was none.
    pub(super) id: String,
    /// Its name.
    pub(super) name: String,
    /// Its lines, joined.
    pub(super) data: String,
}

/// Makes events of a stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    pending: Event,
    last_id: String,
}

/// An event that does not end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub(super) struct TooLong;

impl Events {
    /// Takes the next bytes and gives what is complete with them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            self.line_ended(&String::from_utf8_lossy(line), &mut events);
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.pending.data.len() > EVENT_BYTES_MAX {
            return Err(TooLong);
        }
        Ok(events)
    }

    fn line_ended(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.pending);
            if !event.data.is_empty() || !event.name.is_empty() {
                let id = self.last_id.clone();
                events.push(Event { id, ..event });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            "event" => value.clone_into(&mut self.pending.name),
            "data" => {
                if !self.pending.data.is_empty() {
                    self.pending.data.push('\n');
                }
                self.pending.data.push_str(value);
            }
            // A comment, which only says that the line is alive, or something newer.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, name: &str, data: &str) -> Event {
        Event {
            id: id.to_owned(),
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    const STREAM: &str = "id: 1f-0\r\nevent: hello\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n:\n\n\
                          event:change\nid:1f-1\ndata:{}\n\ndata: x\n\nevent: reset\n\nid: 2";

    #[test]
    fn events_do_not_depend_on_how_their_bytes_arrive() {
        let wanted = [
            event("1f-0", "hello", "{\"a\":\n1}"),
            event("1f-1", "change", "{}"),
            event("1f-1", "", "x"),
            event("1f-1", "reset", ""),
        ];
        for size in 1..STREAM.len() {
            let mut events = Events::default();
            let pieces = STREAM.as_bytes().chunks(size);
            let found: Vec<_> = pieces.flat_map(|it| events.take(it).unwrap()).collect();
            assert_eq!(found, wanted, "{size}");
        }
    }

    #[test]
    fn an_event_without_end_is_an_error() {
        let piece = vec![b'x'; 1024 * 1024];
        let mut events = Events::default();
        let error = (0..40).find_map(|_| events.take(&piece).err());
        assert_eq!(error, Some(TooLong));
        let mut line = b"data: ".to_vec();
        line.extend_from_slice(&piece);
        line.push(b'\n');
        let mut events = Events::default();
        let error = (0..40).find_map(|_| events.take(&line).err());
        assert_eq!(error, Some(TooLong));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(pieces in proptest::collection::vec(proptest::collection::vec(0_u8..=255, 0..40), 0..8)) {
            let mut events = Events::default();
            for piece in pieces {
                let _ = events.take(&piece);
            }
        }
    }
}
