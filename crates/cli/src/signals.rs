//! Signals: how a process is asked to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// Waits until the user (Ctrl-C) or the system (SIGTERM) wants an end. It listens from the call on, and not only once
/// it is awaited: what is begun meanwhile can be ended already.
pub(crate) fn end() -> impl Future<Output = Exit> {
    let (interrupt, terminate) = (stream(SignalKind::interrupt()), stream(SignalKind::terminate()));
    async {
        tokio::select! {
            () = next(interrupt) => Exit::Interrupted,
            () = next(terminate) => Exit::Terminated,
        }
    }
}

/// SIGHUP, by which a server is told to read its configuration and certificates again.
pub(crate) fn hangups() -> Option<Signal> {
    stream(SignalKind::hangup())
}

/// Takes SIGXFSZ for good: a file that may not grow so large is then an error of the one who writes it, which is said,
/// and no longer the end of the process.
pub(crate) fn hear_of_large_files() {
    drop(stream(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())));
}

fn stream(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::warn!(%error, "a signal cannot be listened for")).ok()
}

async fn next(stream: Option<Signal>) {
    match stream {
        Some(mut stream) => {
            stream.recv().await;
        }
        None => std::future::pending().await,
    }
}
