//! Many things brought at a time, each by a thread that does nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::{Error, Result};

/// Things that share a commit.
const BATCH: usize = 64;

/// Work that is being done; what it brings comes in groups.
pub(crate) struct Together<B> {
    brought: mpsc::Receiver<B>,
    failed: Arc<Mutex<Option<Error>>>,
}

impl<B: Send + 'static> Together<B> {
    /// Begins, on as many threads as there are processors. The first error ends it: nobody goes on then.
    pub(crate) fn begin<W: Send + Sync + 'static>(
        work: Vec<W>,
        bring: impl Fn(&W) -> Result<Vec<B>> + Send + Sync + 'static,
    ) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (sender, brought) = mpsc::channel(BATCH);
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        let (work, bring, next) = (Arc::new(work), Arc::new(bring), Arc::new(AtomicUsize::new(0)));
        for _ in 0..threads.min(work.len()) {
            let (work, bring, next) = (Arc::clone(&work), Arc::clone(&bring), Arc::clone(&next));
            let (sender, failed) = (sender.clone(), Arc::clone(&failed));
            tokio::task::spawn_blocking(move || {
                while let Some(work) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match bring(work) {
                        Ok(brought) => {
                            for one in brought {
                                if sender.blocking_send(one).is_err() {
                                    return;
                                }
                            }
                        }
                        Err(error) => {
                            next.store(usize::MAX / 2, Ordering::Relaxed);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
        Self { brought, failed }
    }

    /// The next group; empty when all is done.
    pub(crate) async fn group(&mut self) -> Vec<B> {
        let mut group = Vec::with_capacity(BATCH);
        self.brought.recv_many(&mut group, BATCH).await;
        group
    }

    /// What went wrong, if something did.
    pub(crate) fn end(self) -> Result<()> {
        let failure = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }
}
