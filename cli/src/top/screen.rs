//! The terminal, from when it is taken to when it is as it was.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::sampler::{self, Source};
use super::view::{Next, View};

/// How long keys are waited for before news is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Shows pictures until a key or a signal ends it. The terminal is as it was afterwards; after a panic, too.
///
/// # Errors
/// The terminal's.
pub fn run(source: Source, delay: Duration) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let (_asking, news) = sampler::start(source, delay)?;
    let restored = Restored;
    let mut terminal = ratatui::try_init()?;
    let mut view = View::new(delay);
    while !ended.load(Ordering::Relaxed) {
        loop {
            match news.try_recv() {
                Ok(news) => view.hear(news),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(io::Error::other("nobody asks the service any more")),
            }
        }
        terminal.draw(|frame| view.draw(frame))?;
        if !event::poll(TICK)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && let Next::End = view.press(key)
        {
            break;
        }
    }
    drop(restored);
    Ok(())
}

/// Gives the terminal back.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // Who has closed the terminal does not miss anything.
        let _ = ratatui::try_restore();
    }
}
