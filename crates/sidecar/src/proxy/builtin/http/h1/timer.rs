//! One timer for all deadlines of a connection. It is set when the first is needed and moved only when it
//! fires, or when another is earlier: most deadlines are over long before, and to set a timer costs more than to
//! answer a request should.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

/// The timer.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready when `deadline` is over; never without one. The caller's task is woken for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_may_come_later_and_earlier_and_each_is_kept() {
        let start = tokio::time::Instant::now();
        let mut timer = Timer::default();
        for seconds in [60, 90, 91, 5, 100, 30] {
            let begun = tokio::time::Instant::now();
            let deadline = begun + Duration::from_secs(seconds);
            // A deadline that is not reached, before each.
            let far = begun + Duration::from_secs(1000);
            let polled = poll_fn(|cx| Poll::Ready(timer.poll(cx, Some(far.into_std())))).await;
            assert!(polled.is_pending());
            poll_fn(|cx| timer.poll(cx, Some(deadline.into_std()))).await;
            let after = tokio::time::Instant::now() - deadline;
            assert!(after <= Duration::from_millis(1), "{seconds} s: {after:?}");
        }
        assert_eq!(
            (tokio::time::Instant::now() - start).as_secs(),
            60 + 90 + 91 + 5 + 100 + 30
        );
        let polled = poll_fn(|cx| Poll::Ready(timer.poll(cx, None))).await;
        assert!(polled.is_pending(), "without a deadline it is never over");
    }
}
