//! hyper's way to ask for an answer, with one place for the futures of a connection's requests: they follow one
//! another, and are too large to be allocated for each.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use hyper::{Request, Response, body::Incoming, service::Service};
use tokio_util::sync::ReusableBoxFuture;

use super::{body::ResponseBody, forward::Forwarder};

type Outcome = Result<Response<ResponseBody>, Infallible>;
type Place = Mutex<Option<ReusableBoxFuture<'static, Outcome>>>;

/// Answers the requests of one HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Requests {
    forwarder: Arc<Forwarder>,
    /// Where the last request's future was.
    place: Arc<Place>,
}

/// One request being answered.
#[derive(Debug)]
pub(super) struct Answering {
    future: Option<ReusableBoxFuture<'static, Outcome>>,
    place: Arc<Place>,
}

impl Requests {
    pub(super) fn new(forwarder: Arc<Forwarder>) -> Self {
        Self {
            forwarder,
            place: Arc::default(),
        }
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let forwarder = self.forwarder.clone();
        let answer = async move { forwarder.answer(request).await };
        let free = self
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let future = match free {
            Some(mut free) => {
                free.set(answer);
                free
            }
            None => ReusableBoxFuture::new(answer),
        };
        Answering {
            future: Some(future),
            place: self.place.clone(),
        }
    }
}

impl Future for Answering {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let future = self.future.as_mut();
        let future = future.expect("invariant: a future that is ready is not polled again");
        let polled = future.poll(cx);
        if polled.is_ready() {
            let over = self.future.take();
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = over;
        }
        polled
    }
}
