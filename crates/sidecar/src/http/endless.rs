//! Bodies without an end, made by a reader that waits for what comes next.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

/// Who makes the parts of a body.
pub(super) trait Reader: Sized + Send + 'static {
    /// Waits until there is something to be sent. `None` when there never will be.
    fn next(self) -> impl Future<Output = Option<(Bytes, Self)>> + Send;
}

/// A body of all the parts of a reader, each asked for when the one before was taken.
pub(super) fn body<R: Reader>(reader: R) -> Body {
    let parts = stream::unfold(reader, R::next);
    Body::from_stream(parts.map(Ok::<_, Infallible>).fuse())
}
