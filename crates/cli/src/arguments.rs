//! The command line: global flags, before or after the verb, and the verbs.

use std::path::PathBuf;

use clap::Parser;

use crate::commands::Command;
use crate::exit::Exit;

/// The heading of what every command takes, so that its own options stand together.
const EVERYWHERE: &str = "Options of every command";

/// Carries container images and files across an air gap, and serves them there.
#[derive(Debug, Parser)]
#[command(name = "naru", version, after_help = Exit::help(), disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Where the store is [default: `NARU_STORE`, or /var/lib/naru for root, or the user's data folder]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "PATH")]
    pub(crate) store: Option<PathBuf>,
    /// The packing list; its lock lies beside it
    #[arg(short = 'f', long = "file", global = true, help_heading = EVERYWHERE, value_name = "FILE", default_value = "naru.yaml")]
    pub(crate) list: PathBuf,
    /// Writes one JSON value a line, on stdout and on stderr
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// Says nothing but warnings, errors and what was asked for
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub(crate) quiet: bool,
    /// Whether no upstream is connected to.
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        help = "Connects to no upstream; what would need one fails, and names it [env: NARU_OFFLINE=1]"
    )]
    pub(crate) offline: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [["naru", "--store", "/s", "ls"], ["naru", "ls", "--store", "/s"]] {
            assert_eq!(Arguments::try_parse_from(line).unwrap().store, Some(PathBuf::from("/s")));
        }
    }

    #[test]
    fn help_reads_well() {
        let mut command = Arguments::command().term_width(100);
        insta::assert_snapshot!("help", command.render_help());
        command.build();
        for verb in command.get_subcommands_mut() {
            let name = format!("help-{}", verb.get_name());
            insta::assert_snapshot!(name, verb.render_help());
        }
    }
}
