//! `naru init`: a packing list to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;

pub(crate) fn run(context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let path = &context.list;
    let named = || path.display().to_string();
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Failure::new(format!("{} is there already", named()))
                .hint("edit it, or name another with `-f FILE`")
                .into());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path).display().to_string();
            return Err(Failure::new(format!("{}: there is no folder {folder}", named()))
                .hint(format!("make it first: mkdir -p {folder}"))
                .into());
        }
        opened => opened.with_context(named)?,
    };
    file.write_all(collect::STARTER.as_bytes()).with_context(named)?;
    voice.answer(&named(), &json!({ "file": path.to_string_lossy() }))?;
    let which = if path == Path::new("naru.yaml") { String::new() } else { format!(" -f {}", named()) };
    voice.say(&format!("edit it, then: naru lock{which} && naru pull{which}"));
    Ok(Exit::Done)
}
