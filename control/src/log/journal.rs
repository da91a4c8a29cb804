//! The log as systemd's journal has it: a line to read, and each field by itself.
//!
//! The crate for this leaves out of the line whatever is a field, such as the device it is about.

use std::fmt::{Debug, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "virtio-net-controller";
/// How long an entry waits for the journal before it is lost.
const PATIENCE: Duration = Duration::from_millis(100);
/// Of a line or a field, so that an entry fits into a datagram.
const VALUE_BYTES_MAX: usize = 8192;

/// Writes events to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal, where `output` is connected to it.
    pub fn of(output: &impl AsFd) -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        is_stream(&stream, output).then(|| Self::at(Path::new(SOCKET)).ok()).flatten()
    }

    fn at(path: &Path) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        // Whether there is a journal: it takes no notice of an empty entry.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.into() })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = fields.line();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add(outer);
            }
        }
        // Whoever does not read the log cannot hold up those who write it.
        let _ = self.socket.send_to(&entry(event.metadata(), &line, &fields), &self.path);
    }
}

/// Whether `output` is what `JOURNAL_STREAM` tells of: device and inode.
fn is_stream(stream: &str, output: &impl AsFd) -> bool {
    rustix::fs::fstat(output).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// An entry in the journal's own protocol.
fn entry(metadata: &Metadata<'_>, line: &str, fields: &Fields) -> Vec<u8> {
    let mut entry = Vec::new();
    put(&mut entry, "MESSAGE", line);
    put(&mut entry, "PRIORITY", priority(*metadata.level()));
    put(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    put(&mut entry, "CODE_MODULE", metadata.target());
    for (name, value) in &fields.values {
        put(&mut entry, &format!("VIRTNET_{}", name.to_ascii_uppercase().replace('.', "_")), value);
    }
    entry
}

/// A name, the value's length in 8 bytes, and the value, which may then have any bytes.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = cut(value);
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// As much of a text as fits, in whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As in syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// What an event or a span says.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, String)>,
}

impl Fields {
    /// All of it in one line.
    fn line(&self) -> String {
        let mut line = self.message.clone();
        for (name, value) in &self.values {
            let _ = write!(line, " {name}={value}");
        }
        line
    }

    /// Adds what an outer span says of other things.
    fn add(&mut self, outer: &Fields) {
        for (name, value) in &outer.values {
            if !self.values.iter().any(|(said, _)| said == name) {
                self.values.push((name, value.clone()));
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.values.push((name, format!("{value:?}"))),
        }
    }
}

#[cfg(test)]
mod tests;
