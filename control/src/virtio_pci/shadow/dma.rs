//! Reads and writes of memory that somebody else makes for us, and answers later.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// Bytes that are read or written at a time.
pub const TRANSFER_BYTES_MAX: usize = 4096;

/// What is to be done.
#[derive(Debug)]
pub enum Wanted {
    /// So many bytes are to be read.
    Read(usize),
    /// These are to be written.
    Write(Vec<u8>),
}

/// It cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable;

/// What was read; nothing of a write.
type Outcome = Result<Vec<u8>, Unreachable>;

/// A read or a write, of up to [`TRANSFER_BYTES_MAX`].
#[derive(Debug)]
pub struct Transfer {
    /// Where.
    pub address: u64,
    /// What.
    pub wanted: Wanted,
    /// What is known to be so once it is on its way.
    then: Option<(Arc<AtomicU32>, u32)>,
    outcome: Mutex<Option<Outcome>>,
}

impl Transfer {
    /// It was made, and this was read; or it cannot be.
    pub fn answer(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
    }
}

/// Where transfers are asked for, and taken up.
#[derive(Clone, Debug, Default)]
pub struct Dma(Arc<Mutex<VecDeque<Arc<Transfer>>>>);

/// What comes of a read or a write, once all of it was answered.
#[derive(Debug)]
pub struct Answer(Vec<Arc<Transfer>>);

impl Dma {
    /// The next transfer to be made. One that nobody waits for any more is none.
    pub fn take(&self) -> Option<Arc<Transfer>> {
        let mut transfers = lock(&self.0);
        let next = std::iter::from_fn(|| transfers.pop_front()).find(|transfer| Arc::strong_count(transfer) > 1)?;
        if let Some((known, value)) = &next.then {
            known.store(*value, Ordering::Relaxed);
        }
        Some(next)
    }

    /// Asks for `len_bytes` at an address.
    pub fn read(&self, address: u64, len_bytes: usize) -> Answer {
        let steps = (0..len_bytes).step_by(TRANSFER_BYTES_MAX);
        self.ask(address, steps.map(|at| Wanted::Read(TRANSFER_BYTES_MAX.min(len_bytes - at))), None)
    }

    /// Asks that these bytes be written there.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Answer {
        self.ask(address, bytes.chunks(TRANSFER_BYTES_MAX).map(|bytes| Wanted::Write(bytes.to_vec())), None)
    }

    /// The same. Once it is on its way, nobody calls it back: from then on `known` is this value.
    pub fn write_then(&self, address: u64, bytes: &[u8], known: &Arc<AtomicU32>, value: u32) -> Answer {
        self.ask(address, [Wanted::Write(bytes.to_vec())].into_iter(), Some((known.clone(), value)))
    }

    fn ask(&self, address: u64, parts: impl Iterator<Item = Wanted>, then: Option<(Arc<AtomicU32>, u32)>) -> Answer {
        let transfers = parts.enumerate().map(|(part, wanted)| {
            // An address beyond the last is none of the guest's, either.
            let address = address.wrapping_add((part * TRANSFER_BYTES_MAX) as u64);
            Arc::new(Transfer { address, wanted, then: then.clone(), outcome: Mutex::default() })
        });
        let transfers: Vec<_> = transfers.collect();
        lock(&self.0).extend(transfers.iter().cloned());
        Answer(transfers)
    }
}

impl Answer {
    /// Waits for it.
    ///
    /// # Errors
    /// [`Unreachable`], if some of it is.
    pub async fn come(self) -> Outcome {
        let mut bytes = Vec::new();
        for transfer in &self.0 {
            let outcome = poll_fn(|_| lock(&transfer.outcome).take().map_or(Poll::Pending, Poll::Ready));
            bytes.extend(outcome.await?);
        }
        Ok(bytes)
    }
}

/// Waits for all of them.
///
/// # Errors
/// [`Unreachable`], if one is.
pub async fn all(answers: Vec<Answer>) -> Result<(), Unreachable> {
    for answer in answers {
        answer.come().await?;
    }
    Ok(())
}

/// Nobody panics with it.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
