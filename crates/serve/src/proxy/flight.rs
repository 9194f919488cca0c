//! One question to an upstream, however many ask it here at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use super::Failure;

type Answer<T> = Result<T, Failure>;
type UnderWay<K, T> = Mutex<HashMap<K, Shared<BoxFuture<'static, Answer<T>>>>>;

/// Questions that are under way.
pub(crate) struct Flights<K, T>(Arc<UnderWay<K, T>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// The answer to the question `key`, which `ask` asks unless it is under way. It is asked to its end, whoever of those
    /// that wait for it goes away.
    pub(crate) async fn join(&self, key: K, ask: BoxFuture<'static, Answer<T>>) -> Answer<T> {
        let shared = {
            let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shared) = under_way.get(&key) {
                shared.clone()
            } else {
                let (all, ours) = (Arc::clone(&self.0), key.clone());
                let asking = tokio::spawn(async move {
                    let answer = ask.await;
                    all.lock().unwrap_or_else(PoisonError::into_inner).remove(&ours);
                    answer
                });
                let shared = asking.map(|ended| ended.unwrap_or_else(|error| Err(Failure::inside(error))));
                let shared = shared.boxed().shared();
                under_way.insert(key, shared.clone());
                shared
            }
        };
        shared.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_asks_the_same_waits_for_the_same_answer() {
        let (flights, asked, go) =
            (Arc::new(Flights::default()), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (flights, asked, go) = (Arc::clone(&flights), Arc::clone(&asked), Arc::clone(&go));
            async move {
                let asking = async move {
                    go.notified().await;
                    Ok(asked.fetch_add(1, Ordering::SeqCst))
                };
                flights.join("key", asking.boxed()).await.unwrap()
            }
        };
        let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(ask())).collect();
        // One of them goes away, the one that began perhaps.
        let mut waiting = waiting.into_iter();
        tokio::task::yield_now().await;
        waiting.next().unwrap().abort();
        go.notify_one();
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), 0);
        }
        // What has been answered is asked anew.
        go.notify_one();
        assert_eq!(ask().await, 1);
    }
}
