//! Several things at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};

/// Runs these, at most `limit` at a time; their answers in the order of the questions.
///
/// They come boxed in a list, since a stream that makes them as it goes cannot be carried to another thread (rust-lang's
/// issue 89976).
pub(crate) async fn together<T: Send>(limit: usize, work: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(work).buffered(limit).collect().await
}

/// Does each of these jobs, at most `limit` at a time; their answers in the order of the jobs. What a job needs while it
/// runs is made only then: of a list of a hundred thousand files that would be a gigabyte.
pub(crate) async fn each<'a, J: Sync, T: Send>(
    limit: usize,
    jobs: &'a [J],
    run: &(dyn Fn(&'a J) -> BoxFuture<'a, T> + Sync),
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || async {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number) else { break done };
            done.push((number, run(job).await));
        }
    };
    let workers = (0..limit.min(jobs.len())).map(|_| worker().boxed()).collect();
    let mut done: Vec<_> = together(limit, workers).await.into_iter().flatten().collect();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, answer)| answer).collect()
}
