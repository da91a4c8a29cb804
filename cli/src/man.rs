//! Man pages, from the same command lines that are read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::Arguments;

/// The manual they are in.
const MANUAL: &str = "virtnet";

/// Writes a page for each command and for the controller. Returns how many.
///
/// # Errors
/// The folder or a page cannot be written.
pub fn write(folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut virtnet = Arguments::command().disable_help_subcommand(true).version(env!("CARGO_PKG_VERSION"));
    virtnet.build();
    let controller = virtnet_control::arguments::Arguments::command();
    Ok(below(&virtnet, "1", folder)? + below(&controller, "8", folder)?)
}

/// Every character by a name that roff knows, whatever it takes the file's encoding for.
fn ascii(page: &[u8]) -> String {
    let named = |character: char| match character {
        _ if character.is_ascii() => character.to_string(),
        _ => format!("\\[u{:04X}]", u32::from(character)),
    };
    String::from_utf8_lossy(page).chars().map(named).collect()
}

/// The page of a command, and those of what is below it.
fn below(command: &Command, section: &str, folder: &Path) -> Result<usize> {
    let source = format!("virtnet {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).section(section).source(source).manual(MANUAL);
    let path = folder.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).and_then(|()| fs::write(&path, ascii(&text))).with_context(|| path.display().to_string())?;
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| below(command, section, folder)).sum::<Result<usize>>().map(|count| count + 1)
}
