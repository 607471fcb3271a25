//! Bodies of requests that came by HTTP/2, and of their answers: nothing is kept of them but what is on its way.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{access::Record, link::Link, progress::Progress};
use crate::proxy::builtin::balance::Lease;

/// What a client sends to an endpoint.
#[derive(Debug)]
pub(in crate::proxy::builtin) struct RequestBody {
    incoming: Option<Incoming>,
    progress: Option<Arc<Progress>>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self {
            incoming: Some(incoming),
            progress: Some(Arc::new(Progress::new(Instant::now()))),
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            incoming: None,
            progress: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.incoming.is_none()
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        if polled.is_ready()
            && let Some(progress) = &self.progress
        {
            progress.moved();
            let has_ended = self.incoming.as_ref().is_none_or(Body::is_end_stream);
            if has_ended || matches!(polled, Poll::Ready(None)) {
                progress.end();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let empty = || SizeHint::with_exact(0);
        self.incoming.as_ref().map_or_else(empty, Body::size_hint)
    }
}

/// What a client gets.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    /// The request counts as in flight until the end.
    lease: Option<Lease>,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Source {
    /// From a link, which is given back at the end.
    Link(Incoming, Option<Box<Link>>),
    /// From a connection that somebody else moves.
    Shared(Incoming),
    /// Words of our own.
    Own(Option<Bytes>),
}

impl Source {
    /// Whether nothing more will come, as far as is known without asking.
    fn has_ended(&self) -> bool {
        match self {
            Self::Link(incoming, _) | Self::Shared(incoming) => incoming.is_end_stream(),
            Self::Own(text) => text.is_none(),
        }
    }
}

impl ResponseBody {
    fn new(source: Source, lease: Option<Lease>) -> Self {
        Self {
            source,
            lease,
            record: None,
        }
    }

    pub(super) fn of_link(incoming: Incoming, link: Box<Link>, lease: Lease) -> Self {
        Self::new(Source::Link(incoming, Some(link)), Some(lease))
    }

    pub(super) fn shared(incoming: Incoming, lease: Lease) -> Self {
        Self::new(Source::Shared(incoming), Some(lease))
    }

    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        let text = Some(text.into()).filter(|it| !it.is_empty());
        Self::new(Source::Own(text), None)
    }

    /// Has the end of the answer written down.
    pub(super) fn recorded(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Source::Link(_, link) = &mut self.source
            && let Some(link) = link.take()
        {
            link.finish(cx);
        }
        self.lease = None;
        if let Some(record) = &mut self.record {
            record.is_whole = true;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let polled = match &mut this.source {
            Source::Link(incoming, Some(link)) => link.poll_body(cx, incoming),
            Source::Link(incoming, None) | Source::Shared(incoming) => {
                Pin::new(incoming).poll_frame(cx)
            }
            Source::Own(text) => Poll::Ready(text.take().map(|it| Ok(Frame::data(it)))),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(record), Some(data)) = (&mut this.record, frame.data_ref())
        {
            record.bytes += data.len() as u64;
        }
        if this.source.has_ended() || matches!(polled, Poll::Ready(None)) {
            this.finish(cx);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // While a link has to be given back, somebody has to come by once more.
        let holds_link = matches!(self.source, Source::Link(_, Some(_)));
        !holds_link && self.source.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Link(incoming, _) | Source::Shared(incoming) => incoming.size_hint(),
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
