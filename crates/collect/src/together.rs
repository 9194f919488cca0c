//! Several things at a time.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};

/// Runs these, at most `limit` at a time; their answers in the order of the questions.
///
/// They come boxed in a list, since a stream that makes them as it goes cannot be carried to another thread (rust-lang's
/// issue 89976).
pub(crate) async fn together<T: Send>(limit: usize, work: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(work).buffered(limit).collect().await
}
