//! Room for connections: so many at a time, so that their memory and their descriptors are bounded.
//!
//! Who holds a connection and asks for nothing does not keep others out. When every place is taken, the connection that
//! has waited longest for its client is closed for the next one: a client that sends its headers byte by byte, or none at
//! all, and thousands of kept connections are the same here. One that is being answered is never closed for that; where
//! all are, the next one waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Between looks for somebody who waits, where all were being answered.
const AGAIN: Duration = Duration::from_millis(100);

/// It is being answered.
const BUSY: u64 = 0;
/// It was told to go.
const LEAVING: u64 = u64::MAX;

/// The places, and who has them.
pub(crate) struct Room {
    free: Arc<Semaphore>,
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
    /// Tells who has waited longer: grows with each beginning and end of an answer.
    turn: AtomicU64,
}

/// A connection's place, as others see it.
#[derive(Debug)]
struct Seat {
    /// The turn since which it waits for its client, [`BUSY`] or [`LEAVING`].
    since: AtomicU64,
    leave: Notify,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    room: Arc<Room>,
    seat: Arc<Seat>,
    number: u64,
    #[expect(dead_code, reason = "held until the connection ends")]
    permit: OwnedSemaphorePermit,
}

/// That a connection is being answered, until it is dropped.
pub(crate) struct Busy {
    room: Arc<Room>,
    seat: Arc<Seat>,
}

impl Room {
    /// For `most` connections, one at least.
    pub(crate) fn new(most: usize) -> Self {
        let free = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free, seats: Mutex::default(), turn: AtomicU64::new(BUSY + 1) }
    }

    /// A place, for which another connection may have to go.
    pub(crate) async fn enter(self: &Arc<Self>) -> Place {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            self.make_room();
            // Never closed: an error would be one of time.
            if let Ok(Ok(permit)) = timeout(AGAIN, Arc::clone(&self.free).acquire_owned()).await {
                break permit;
            }
        };
        let number = self.next();
        let seat = Arc::new(Seat { since: AtomicU64::new(number), leave: Notify::new() });
        self.seats().insert(number, Arc::clone(&seat));
        Place { room: Arc::clone(self), seat, number, permit }
    }

    /// Tells the one that has waited longest to go.
    fn make_room(&self) {
        let seats = self.seats();
        let waiting = seats.values().map(|seat| (seat.since.load(Ordering::Acquire), seat));
        let longest = waiting.filter(|(since, _)| !matches!(*since, BUSY | LEAVING)).min_by_key(|(since, _)| *since);
        let Some((since, seat)) = longest else { return };
        // Otherwise its request came in this very moment.
        if seat.since.compare_exchange(since, LEAVING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            seat.leave.notify_one();
        }
    }

    fn next(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns when the place is wanted for another.
    pub(crate) async fn is_wanted(&self) {
        self.seat.leave.notified().await;
    }

    /// Takes note that a request has come; `None`: too late, the place is another's.
    pub(crate) fn answering(&self) -> Option<Busy> {
        let before = self.seat.since.load(Ordering::Acquire);
        let exchanged = self.seat.since.compare_exchange(before, BUSY, Ordering::AcqRel, Ordering::Acquire);
        (before != LEAVING && exchanged.is_ok())
            .then(|| Busy { room: Arc::clone(&self.room), seat: Arc::clone(&self.seat) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.seats().remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Nobody tells a busy one to go.
        self.seat.since.store(self.room.next(), Ordering::Release);
    }
}

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Busy")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_waits_longest_goes_first() {
        let room = Arc::new(Room::new(3));
        let (first, second, third) = (room.enter().await, room.enter().await, room.enter().await);
        // The first is answered, and waits again: the second has waited longer by now. The third is being answered.
        drop(first.answering());
        let busy = third.answering();
        let next = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.enter().await }
        });
        second.is_wanted().await;
        assert!(first.is_wanted().now_or_never().is_none() && third.is_wanted().now_or_never().is_none());
        // What comes now by that connection is not begun.
        assert!(second.answering().is_none());
        drop(second);
        let next = next.await.unwrap();
        // Where all are being answered, one waits until one is not.
        let _both = (first.answering(), next.answering());
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.enter().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(busy);
        third.is_wanted().await;
        drop(third);
        waiting.await.unwrap();
        assert_eq!(room.seats().len(), 2);
    }
}
