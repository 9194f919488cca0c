//! A blob that is on its way here, as those see it who hand its bytes on meanwhile.
//!
//! They read the file that is being written, behind what was written. Its last bytes they get when the hash of all is
//! right, and who has begun to read what is then written anew gets nothing more: nobody can tell what he has.

use std::io;

use store::Written;
use tokio::sync::watch;

use super::Failure;

/// The last bytes are held back until all are proven.
const TAIL: u64 = 64 * 1024;

/// How far a blob has come.
#[derive(Debug)]
pub(crate) struct Growth {
    size: u64,
    state: watch::Sender<State>,
}

#[derive(Clone, Debug)]
struct State {
    arrived: u64,
    /// How often it was begun anew.
    beginnings: u64,
    end: Option<Result<(), Failure>>,
}

impl Growth {
    /// Of a blob of so many bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, state: watch::Sender::new(State { arrived: 0, beginnings: 0, end: None }) }
    }

    /// Takes note of what is in the file.
    pub(crate) fn tell(&self, written: Written) {
        self.state.send_modify(|state| match written {
            Written::UpTo(bytes) => state.arrived = bytes,
            Written::Anew => {
                state.arrived = 0;
                state.beginnings += 1;
            }
        });
    }

    /// Nothing more comes: all is there and proven, or not. What is told first counts.
    pub(crate) fn end(&self, end: Result<(), Failure>) {
        self.state.send_modify(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// How often it was begun anew.
    pub(crate) fn beginnings(&self) -> u64 {
        self.state.borrow().beginnings
    }

    /// Waits for the first byte, or the news that none will come.
    pub(crate) async fn begun(&self) -> Result<(), Failure> {
        let mut state = self.state.subscribe();
        // The sender is ours: it lives as long as we do.
        match state.wait_for(|state| state.arrived > 0 || state.end.is_some()).await.as_deref() {
            Ok(State { end: Some(Err(failure)), .. }) => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until there is something at `offset` that may be read, and says up to where. `since`: what
    /// [`Growth::beginnings`] was when the first byte was read, if one was.
    pub(crate) async fn reach(&self, offset: u64, since: Option<u64>) -> io::Result<u64> {
        let held_back = self.size.saturating_sub(TAIL);
        let is_other = |state: &State| since.is_some_and(|since| since != state.beginnings);
        let may_read = |state: &State| state.arrived.min(held_back);
        let mut state = self.state.subscribe();
        let state = state
            .wait_for(|state| state.end.is_some() || is_other(state) || may_read(state) > offset)
            .await
            .map_err(io::Error::other)?;
        match &state.end {
            _ if is_other(&state) => Err(anew()),
            Some(Ok(())) => Ok(self.size),
            Some(Err(failure)) => Err(io::Error::other(failure.to_string())),
            None => Ok(may_read(&state)),
        }
    }

    /// Whether what was read since then may be handed on.
    pub(crate) fn is_same(&self, since: u64) -> io::Result<()> {
        if self.beginnings() == since { Ok(()) } else { Err(anew()) }
    }
}

fn anew() -> io::Error {
    io::Error::other("the upstream began anew, perhaps with other bytes")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_end_is_held_back_until_it_is_proven() {
        let growth = Growth::new(200_000);
        assert!(growth.begun().now_or_never().is_none() && growth.reach(0, None).now_or_never().is_none());
        growth.tell(Written::UpTo(100_000));
        growth.begun().await.unwrap();
        assert_eq!(growth.reach(0, None).await.unwrap(), 100_000);
        assert!(growth.reach(100_000, Some(0)).now_or_never().is_none());
        growth.tell(Written::UpTo(200_000));
        assert_eq!(growth.reach(100_000, Some(0)).await.unwrap(), 200_000 - TAIL);
        assert!(growth.reach(200_000 - TAIL, Some(0)).now_or_never().is_none());
        growth.end(Ok(()));
        assert_eq!(growth.reach(200_000 - TAIL, Some(0)).await.unwrap(), 200_000);
    }

    #[tokio::test]
    async fn who_read_what_was_written_anew_gets_no_more() {
        let growth = Growth::new(200_000);
        growth.tell(Written::UpTo(100_000));
        growth.tell(Written::Anew);
        growth.tell(Written::UpTo(150_000));
        assert!(growth.reach(50_000, Some(0)).await.is_err() && growth.is_same(0).is_err());
        assert!(growth.reach(0, None).await.is_ok() && growth.is_same(1).is_ok());
        growth.end(Ok(()));
        assert!(growth.reach(50_000, Some(0)).await.is_err(), "proven or not");
    }

    #[tokio::test]
    async fn what_failed_is_said() {
        let growth = Growth::new(10);
        growth.end(Err(Failure::NoAnswer("the upstream is gone".to_owned())));
        assert!(matches!(growth.begun().await, Err(Failure::NoAnswer(_))));
        assert!(growth.reach(0, None).await.unwrap_err().to_string().contains("gone"));
    }
}
