//! Who holds the store carries commands out for who does not: the same code on the other side of a socket.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use artifact::Progress;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Call, Socket, Store};

use super::{Work, carry_out};
use crate::exit::Exit;
use crate::failure::{Failure, Report};
use crate::terminal::{Speaker, Voice};

/// What came of a call.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    exit: u8,
    answers: Vec<(String, Value)>,
}

/// Why a call failed, and what it had answered by then.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    line: String,
    hint: Option<String>,
    exit: u8,
    answers: Vec<(String, Value)>,
}

/// Asks the holder of the store in `folder`. `None`: nobody listens there.
pub(crate) async fn call(
    folder: &Path,
    work: &Work,
    files: Vec<File>,
    voice: &Speaker,
) -> anyhow::Result<Option<Exit>> {
    let request = serde_json::to_value(work).context("the command cannot be sent")?;
    let (folder, progress) = (folder.to_owned(), Arc::clone(voice));
    let called = tokio::task::spawn_blocking(move || store::call(&folder, &request, &files, &*progress)).await??;
    match called {
        None => Ok(None),
        Some(Ok(outcome)) => {
            let Outcome { exit, answers } = serde_json::from_value(outcome).context("the holder's answer")?;
            for (text, value) in answers {
                voice.answer(&text, &value)?;
            }
            Ok(Some(Exit::of(exit)))
        }
        Some(Err(refusal)) => {
            let Refusal { line, hint, exit, answers } =
                serde_json::from_value(refusal).context("the holder's answer")?;
            for (text, value) in answers {
                voice.answer(&text, &value)?;
            }
            let failure = Failure::new(line).exit(Exit::of(exit));
            Err(match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
            .into())
        }
    }
}

/// Carries out what others call for, until it is dropped.
pub(crate) async fn listen(store: &Store, socket: Socket) -> anyhow::Result<()> {
    loop {
        let call = socket.accept().await?;
        let (store, runtime) = (store.clone(), tokio::runtime::Handle::current());
        // A command is long work, and gets a thread of its own beside those that serve.
        tokio::task::spawn_blocking(move || runtime.block_on(answer(&store, call)));
    }
}

async fn answer(store: &Store, mut call: Call) {
    let caller = Arc::new(Caller { progress: call.progress(), answers: Mutex::default() });
    let voice: Speaker = caller.clone();
    let files = std::mem::take(&mut call.files);
    tracing::info!(by = %call.by, "a command for the holder of the store");
    let result = match serde_json::from_value::<Work>(call.request.clone()) {
        Ok(work) => tokio::select! {
            result = carry_out(&work, files, store, &voice) => result,
            () = call.gone() => return,
        },
        Err(error) => Err(anyhow::Error::new(error).context(
            Failure::new("the server that holds the store does not know this command")
                .hint("run the same version of naru on both sides"),
        )),
    };
    let answers = std::mem::take(&mut *caller.answers.lock().unwrap_or_else(PoisonError::into_inner));
    call.answer(match result {
        Ok(exit) => Ok(json!(Outcome { exit: exit as u8, answers })),
        Err(error) => {
            let report = Report::of(&error).unwrap_or(Report { line: String::new(), hint: None, exit: Exit::Done });
            let Report { line, hint, exit } = report;
            Err(json!(Refusal { line, hint, exit: exit as u8, answers }))
        }
    });
}

/// The caller's terminal: progress goes there at once, answers at the end.
struct Caller {
    progress: Arc<dyn Progress>,
    answers: Mutex<Vec<(String, Value)>>,
}

impl Voice for Caller {
    fn answer(&self, text: &str, value: &Value) -> anyhow::Result<()> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((text.to_owned(), value.clone()));
        Ok(())
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
