//! Who holds the store carries commands out for who does not: the same code on the other side of a socket.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use artifact::Progress;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serve::Server;
use store::{Call, Socket, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{Work, carry_out};
use crate::exit::Exit;
use crate::failure::{Failure, Report};
use crate::terminal::{Speaker, Voice};

/// Why a call failed.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    line: String,
    hint: Option<String>,
    exit: u8,
}

/// Tells the server that a command has changed its secrets.
#[derive(Debug)]
pub(crate) struct Secrets(mpsc::Sender<oneshot::Sender<()>>);

/// Where the server hears of it; what it is handed is to be dropped when it has read them.
pub(crate) type Changes = mpsc::Receiver<oneshot::Sender<()>>;

impl Secrets {
    /// Both ends.
    pub(crate) fn new() -> (Self, Changes) {
        let (sender, changes) = mpsc::channel(1);
        (Self(sender), changes)
    }

    /// Waits until the server has read them again, or is no more.
    async fn changed(&self) {
        let (reading, read) = oneshot::channel();
        if self.0.send(reading).await.is_ok() {
            let _ = read.await;
        }
    }
}

/// Asks the holder of the store in `folder`. `None`: nobody listens there.
pub(crate) async fn call(
    folder: &Path,
    work: &Work,
    files: Vec<File>,
    voice: &Speaker,
) -> anyhow::Result<Option<Exit>> {
    let request = serde_json::to_value(work).map_err(|error| {
        Failure::new(format!("the command cannot be sent to the server that holds the store: {error}"))
            .hint("name files by paths that are UTF-8, or stop the server for as long as the command runs")
    })?;
    let (folder, voice) = (folder.to_owned(), Arc::clone(voice));
    tokio::task::spawn_blocking(move || {
        // What cannot be written down any more ends the call's output, and not the call.
        let mut heard = Ok(());
        let mut part = |value: Value| {
            if heard.is_ok() {
                heard = serde_json::from_value::<(String, Value)>(value)
                    .context("the holder's answer")
                    .and_then(|(text, value)| voice.answer(&text, &value));
            }
        };
        let called = store::call(&folder, &request, &files, &*voice, &mut part)?;
        heard?;
        match called {
            None => Ok(None),
            Some(Ok(exit)) => Ok(Some(Exit::of(serde_json::from_value(exit).context("the holder's answer")?))),
            Some(Err(refusal)) => {
                let Refusal { line, hint, exit } = serde_json::from_value(refusal).context("the holder's answer")?;
                let failure = Failure::new(line).exit(Exit::of(exit));
                Err(match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
                .into())
            }
        }
    })
    .await?
}

/// What is asked for shortly before the server ends is still answered; what takes longer is told that it ends.
const GRACE: Duration = Duration::from_secs(5);

/// Carries out what others call for, until `end` says otherwise or is dropped; says through `secrets` when the server
/// must read its own again.
pub(crate) async fn listen(
    store: Store,
    socket: Socket,
    secrets: Secrets,
    server: Arc<Server>,
    end: oneshot::Receiver<()>,
) {
    let secrets = Arc::new(secrets);
    let mut calls = JoinSet::new();
    let (ending, is_ending) = watch::channel(());
    tokio::pin!(end);
    loop {
        let caller = tokio::select! {
            caller = socket.accept() => caller,
            Some(_) = calls.join_next() => continue,
            _ = &mut end => break,
        };
        let (store, secrets, runtime) = (store.clone(), Arc::clone(&secrets), tokio::runtime::Handle::current());
        let (is_ending, server) = (is_ending.clone(), Arc::clone(&server));
        // A command is long work, and gets a thread of its own beside those that serve; one that is slow in coming too.
        calls.spawn_blocking(move || match caller.call() {
            Ok(call) => runtime.block_on(answer(&store, call, &secrets, &server, is_ending)),
            Err(error) => tracing::warn!(%error, "a call on the store's socket could not be read"),
        });
    }
    drop(socket);
    let all = async { while calls.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        let _ = ending.send(());
        // Those that are still coming say nothing, and are not waited for.
        let _ = tokio::time::timeout(GRACE, async { while calls.join_next().await.is_some() {} }).await;
    }
}

async fn answer(store: &Store, mut call: Call, secrets: &Secrets, server: &Server, mut is_ending: watch::Receiver<()>) {
    let voice: Speaker =
        Arc::new(Caller { progress: call.progress(), answers: Box::new(call.answers()), by: call.by.clone() });
    let files = std::mem::take(&mut call.files);
    tracing::info!(by = %call.by, "a command for the holder of the store");
    let result = match serde_json::from_value::<Work>(call.request.clone()) {
        Ok(work) => tokio::select! {
            result = async {
                let result = carry_out(&work, files, store, (&server.audit(), &server.collection()), &voice).await;
                if work.changes_secrets() {
                    // Only then is it true that the token, the account or the CA before has ended.
                    secrets.changed().await;
                }
                result
            } => result,
            () = call.gone() => return,
            _ = is_ending.changed() => Err(Failure::new("the server that holds the store is ending")
                .hint("run it again: what was done is kept")
                .exit(Exit::Incomplete)
                .into()),
        },
        Err(error) => Err(anyhow::Error::new(error).context(
            Failure::new("the server that holds the store does not know this command")
                .hint("run the same version of naru on both sides"),
        )),
    };
    call.answer(match result {
        Ok(exit) => Ok(json!(exit as u8)),
        Err(error) => {
            let report = Report::of(&error).unwrap_or(Report { line: String::new(), hint: None, exit: Exit::Done });
            Err(json!(Refusal { line: report.line, hint: report.hint, exit: report.exit as u8 }))
        }
    });
}

/// The caller's terminal.
struct Caller {
    progress: Arc<dyn Progress>,
    answers: Box<dyn Fn(Value) + Send + Sync>,
    by: String,
}

impl Voice for Caller {
    fn answer(&self, text: &str, value: &Value) -> anyhow::Result<()> {
        (self.answers)(json!((text, value)));
        Ok(())
    }

    fn by(&self) -> String {
        self.by.clone()
    }
}

impl Progress for Caller {
    fn say(&self, line: &str) {
        self.progress.say(line);
    }
    fn warn(&self, line: &str) {
        self.progress.warn(line);
    }
    fn begin(&self, phase: &str, total: u64) {
        self.progress.begin(phase, total);
    }
    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }
    fn end(&self) {
        self.progress.end();
    }
}
