//! Shadow virtqueues: rings of a guest whose memory nobody here can map. Somebody else reads and writes it for us, and takes its
//! time.
//!
//! The device has a ring of its own instead ([`local`]). What the guest makes available is copied there, and what the device has used
//! is copied back, one batch after the other, by a [`Future`] that goes on whenever there is something new. Slower, and the same
//! to both sides.

mod chain;
pub mod dma;
mod local;
mod packed;
mod split;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use rustix::event::{EventfdFlags, eventfd};
use virtnet_rings::{Layout, Notifier, Queue, SetupError};

pub use chain::{Broken, Shape};
pub use local::LocalError;

use chain::{Chain, Part};
use dma::{Unreachable, all, lock};
use local::{CHAIN_BYTES, Local};

/// A chain of the guest's that the device has used.
#[derive(Debug)]
struct Done {
    id: u16,
    descriptors: u16,
    /// Bytes that were written into it.
    len_bytes: u32,
}

/// What is known outside of the one who copies.
#[derive(Debug)]
struct State {
    /// Where the guest's ring stands.
    base: Arc<AtomicU32>,
    /// Who is told that chains were used.
    call: Mutex<Notifier>,
    /// There may be something new.
    is_called: AtomicBool,
}

/// A ring of a guest's.
pub struct Shadow {
    state: Arc<State>,
    copying: Pin<Box<dyn Future<Output = Broken> + Send>>,
    /// Rung by the guest, and by the device.
    bells: [Notifier; 2],
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Shadow {
    /// A ring that goes on from `base`, which rings `kick` and is told by `call`; and what the device has of it.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn new(shape: Shape, base: u32, kick: Notifier, call: Notifier) -> Result<(Self, Queue), LocalError> {
        let bell = |count| eventfd(count, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from);
        // Whoever has started it may be somebody else than its session, which goes on with it when this rings.
        let (to_device, from_device) = (bell(0)?, bell(1)?);
        let copy = |bell: &OwnedFd| Ok::<_, io::Error>(Notifier::new(Some(bell.try_clone()?)));
        let (local, queue) = Local::new(copy(&to_device)?, copy(&from_device)?)?;
        if shape.layout == Layout::Packed && base as u16 & 0x7fff >= shape.size {
            return Err(SetupError::Base { base, size: shape.size }.into());
        }
        let base = Arc::new(AtomicU32::new(base));
        let guest = match shape.layout {
            Layout::Split => Guest::Split(split::Ring::new(base.clone())),
            Layout::Packed => Guest::Packed(packed::Ring::new(base.clone())),
        };
        let state = Arc::new(State { base, call: Mutex::new(call), is_called: AtomicBool::new(false) });
        let copier = Copier { shape, guest, local, held: VecDeque::new(), device: Notifier::new(Some(to_device)) };
        let copying = Box::pin(copier.run(state.clone()));
        Ok((Self { state, copying, bells: [kick, Notifier::new(Some(from_device))] }, queue))
    }

    /// What tells that [`Self::go_on`] is to be called.
    pub fn bells(&self) -> impl Iterator<Item = &OwnedFd> {
        self.bells.iter().filter_map(Notifier::eventfd)
    }

    /// Goes on as far as it can.
    ///
    /// # Errors
    /// [`Broken`]: it does not go on any more.
    pub fn go_on(&mut self) -> Result<(), Broken> {
        for bell in &self.bells {
            self.state.is_called.fetch_or(bell.drain(), Ordering::Relaxed);
        }
        match self.copying.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(broken) => Err(broken),
            Poll::Pending => Ok(()),
        }
    }

    /// Changes who is told.
    pub fn set_call(&self, call: Notifier) {
        *lock(&self.state.call) = call;
    }

    /// Where the guest's ring stands: chains that were not given back, nor are on their way there, are available again.
    pub fn base(&self) -> u32 {
        self.state.base.load(Ordering::Relaxed)
    }
}

/// The guest's ring.
#[derive(Debug)]
enum Guest {
    Split(split::Ring),
    Packed(packed::Ring),
}

/// Does the same with either.
macro_rules! of {
    ($guest:expr, $ring:ident => $does:expr) => {
        match $guest {
            Guest::Split($ring) => $does,
            Guest::Packed($ring) => $does,
        }
    };
}

/// Who copies.
#[derive(Debug)]
struct Copier {
    shape: Shape,
    guest: Guest,
    local: Local,
    /// Chains that the device has, and how many bytes of theirs are ours.
    held: VecDeque<(Chain, usize)>,
    /// Tells the device of chains.
    device: Notifier,
}

impl Copier {
    async fn run(mut self, state: Arc<State>) -> Broken {
        let Err(broken) = self.copy(&state).await;
        broken
    }

    async fn copy(&mut self, state: &State) -> Result<Infallible, Broken> {
        of!(&mut self.guest, ring => ring.begin(&self.shape).await)?;
        loop {
            // What comes from here on is looked at the next time.
            poll_fn(|_| if state.is_called.swap(false, Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending })
                .await;
            while self.bring().await? | self.return_used(state).await? {}
        }
    }

    /// Brings the device what is available. Whether that was anything.
    async fn bring(&mut self) -> Result<bool, Broken> {
        let chains = of!(&mut self.guest, ring => ring.take(&self.shape, self.local.room()).await)?;
        let is_some = !chains.is_empty();
        let dma = &self.shape.dma;
        let asked: Vec<_> = chains
            .into_iter()
            .map(|chain| {
                let parts = if chain.is_bad { &[][..] } else { &chain.readable };
                let asked: Vec<_> = first(parts, CHAIN_BYTES).map(|(at, count)| dma.read(at, count)).collect();
                (chain, asked)
            })
            .collect();
        for (chain, asked) in asked {
            let mut bytes = Vec::new();
            for answer in asked {
                match answer.come().await {
                    Ok(more) => bytes.extend(more),
                    // It is as bad as one without a header.
                    Err(Unreachable) => {
                        bytes.clear();
                        break;
                    }
                }
            }
            let parts = if chain.is_bad { &[][..] } else { &chain.writable };
            let writable = first(parts, CHAIN_BYTES - bytes.len()).map(|(_, count)| count).sum();
            self.local.offer(&bytes, writable);
            self.held.push_back((chain, bytes.len()));
        }
        if is_some {
            self.local.publish();
            self.device.notify();
        }
        Ok(is_some)
    }

    /// Gives back what the device has used. Whether that was anything.
    async fn return_used(&mut self, state: &State) -> Result<bool, Broken> {
        let mut used = Vec::new();
        while let Some((_, readable)) = self.held.front()
            && let Some(written) = self.local.take_back(*readable)
            && let Some((chain, _)) = self.held.pop_front()
        {
            let mut rest = &written[..];
            let mut asked = Vec::new();
            for (at, count) in first(&chain.writable, written.len()) {
                let (part, behind) = rest.split_at(count);
                asked.push(self.shape.dma.write(at, part));
                rest = behind;
            }
            used.push((chain, written.len(), asked));
        }
        let mut done = Vec::with_capacity(used.len());
        for (Chain { id, descriptors, .. }, len_bytes, asked) in used {
            // Where its bytes did not arrive, none did.
            let len_bytes = if all(asked).await.is_ok() { len_bytes as u32 } else { 0 };
            done.push(Done { id, descriptors, len_bytes });
        }
        if done.is_empty() {
            return Ok(false);
        }
        let is_told = of!(&mut self.guest, ring => ring.give_back(&self.shape, &done).await)?;
        if is_told {
            lock(&state.call).notify();
        }
        Ok(true)
    }
}

/// The first bytes of these parts, up to `most`.
fn first(parts: &[Part], most: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut left = most;
    parts.iter().map_while(move |(address, len_bytes)| {
        let count = left.min(*len_bytes as usize);
        left -= count;
        (count > 0 || *len_bytes == 0).then_some((*address, count))
    })
}
