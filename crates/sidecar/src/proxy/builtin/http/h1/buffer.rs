//! Room for bytes on their way. It is lent by the thread and given back as soon as nothing is in it: so a
//! connection that waits has none, and one that works finds some that is warm.

use std::{
    cell::RefCell,
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::tcp::ReadHalf,
};

/// What is read at once, in bytes. Only a head that is longer makes a buffer grow.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;
/// Buffers of each kind that a thread keeps for the next who needs one.
const SPARE_MAX: usize = 32;
/// Longest buffer to write from that is kept, in bytes.
const SPARE_BYTES_MAX: usize = 2 * BUFFER_BYTES;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { inputs: Vec::new(), outputs: Vec::new() }) };
}

struct Spare {
    inputs: Vec<Box<[u8]>>,
    outputs: Vec<Vec<u8>>,
}

/// What was read of a connection and is not used yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Without length while it is not needed.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first so many are used.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "no more is used than is there");
        if self.is_empty() {
            self.release();
        }
    }

    /// Reads more: how many bytes, none at the end of the stream. Everything that is there stays, so the caller
    /// sees to it that it does not become too much.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        let polled = Pin::new(from).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.end += count;
        if self.is_empty() {
            self.release();
        }
        polled.map_ok(|()| count)
    }

    fn make_room(&mut self) {
        if self.buffer.is_empty() {
            let spare = SPARE.with_borrow_mut(|it| it.inputs.pop());
            self.buffer = spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
            note_lent(1);
        } else if self.end == self.buffer.len() {
            let kept = self.bytes().len();
            if kept * 2 > self.buffer.len() {
                let mut larger = vec![0; self.buffer.len() * 2].into_boxed_slice();
                larger[..kept].copy_from_slice(self.bytes());
                self.buffer = larger;
            } else {
                self.buffer.copy_within(self.start..self.end, 0);
            }
            (self.start, self.end) = (0, kept);
        }
    }

    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            note_lent(-1);
        }
        if buffer.len() == BUFFER_BYTES {
            // A thread that ends needs none.
            let _ = SPARE.try_with(|spare| {
                let inputs = &mut spare.borrow_mut().inputs;
                if inputs.len() < SPARE_MAX {
                    inputs.push(buffer);
                }
            });
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.release();
    }
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Outbox(Vec<u8>);

impl Outbox {
    /// An empty one.
    pub(super) fn new() -> Self {
        let spare = SPARE.with_borrow_mut(|it| it.outputs.pop());
        note_lent(1);
        Self(spare.unwrap_or_default())
    }
}

impl Deref for Outbox {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Outbox {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        note_lent(-1);
        if bytes.capacity() == 0 || bytes.capacity() > SPARE_BYTES_MAX {
            return;
        }
        bytes.clear();
        let _ = SPARE.try_with(|spare| {
            let outputs = &mut spare.borrow_mut().outputs;
            if outputs.len() < SPARE_MAX {
                outputs.push(bytes);
            }
        });
    }
}

/// Buffers of this thread that somebody has.
#[cfg(test)]
pub(in crate::proxy::builtin) fn lent() -> isize {
    LENT.get()
}

#[cfg(test)]
thread_local! {
    static LENT: std::cell::Cell<isize> = const { std::cell::Cell::new(0) };
}

/// Notes that so many buffers more are lent.
fn note_lent(_count: isize) {
    #[cfg(test)]
    LENT.set(LENT.get() + _count);
}
