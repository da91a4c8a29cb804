//! Netdevs that functions and the switch's ways out are at. Each stays while its function does, whatever is made anew behind it.
//! Those of the pool are made before there is a function for them, and stay when it goes.

mod register;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use virtnet_engine::port::tap::{Interface, index_of};

use self::register::Register;
use crate::config::Port;

/// Netdevs by name.
#[derive(Debug)]
pub struct Netdevs {
    all: HashMap<String, Arc<Interface>>,
    /// The names of those that are made ahead.
    pool: HashSet<String>,
    /// Those of them that are still to be made, or to be taken over.
    pending: VecDeque<String>,
    /// Those of them that there are, which outlive us.
    register: Register,
    /// Whether none is to outlive us.
    destroy: bool,
}

impl Netdevs {
    /// Takes over what an earlier controller has left of the `pool`, removes what else it has left, and begins to make the rest.
    ///
    /// # Errors
    /// A name of the pool is another netdev's, or the first netdev cannot be made.
    pub fn start(pool: Vec<String>, destroy: bool, state_dir: &Path) -> anyhow::Result<Self> {
        let mut register = Register::load(state_dir);
        let names: HashSet<String> = pool.iter().cloned().collect();
        for (name, index) in register.all() {
            let is_ours = index_of(&name) == Some(index);
            if is_ours && names.contains(&name) {
                continue;
            }
            let gone =
                if is_ours { Interface::open(&name).and_then(|left| left.set_persistent(false)) } else { Ok(()) };
            gone.unwrap_or_else(|error| tracing::error!("what an earlier SF pool has left: {error}"));
            register.remove(&name);
        }
        register.save()?;
        if let Some(name) = pool.iter().find(|name| !register.has(name) && index_of(name).is_some()) {
            bail!(
                "sf_pool_percent: {name} is there already, and is none that this controller has made: it is left alone"
            );
        }
        let mut netdevs = Self { all: HashMap::new(), pool: names, pending: pool.into(), register, destroy };
        netdevs.make_next().context("sf_pool_percent")?;
        Ok(netdevs)
    }

    /// Whether there is more of the pool to be made.
    pub fn is_making(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Makes one more of the pool. One that cannot be made is in the pool no more.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_next(&mut self) -> anyhow::Result<()> {
        let Some(name) = self.pending.pop_front() else { return Ok(()) };
        let made = match self.all.contains_key(&name) {
            true => Ok(()),
            false => self.pooled(&name).and_then(|made| Ok(made.rest()?)),
        };
        if made.is_err() {
            self.pool.remove(&name);
        }
        if self.pending.is_empty() {
            tracing::info!("the SF pool is made: {} netdevs", self.pool.len());
        }
        made
    }

    /// The netdev of this name: the one that is kept, or another where there is none or somebody has deleted it.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn take(&mut self, name: &str) -> anyhow::Result<Arc<Interface>> {
        if let Some(kept) = self.all.get(name).filter(|kept| kept.is_there()) {
            return Ok(kept.clone());
        }
        if self.pool.contains(name) {
            return self.pooled(name);
        }
        let interface = Arc::new(Interface::open(name)?);
        self.all.insert(name.to_owned(), interface.clone());
        Ok(interface)
    }

    /// Nobody is at a port's netdev for a while.
    pub fn rest(&self, port: &Port) {
        let Port::Tap(tap) = port else { return };
        if let Some(Err(error)) = self.all.get(&tap.name).map(|kept| kept.rest()) {
            tracing::warn!("{error}");
        }
    }

    /// A port's netdev goes back into the pool; one that is none of the pool's goes, unless it was there before.
    pub fn give_back(&mut self, port: &Port) {
        self.rest(port);
        if let Port::Tap(tap) = port
            && !self.pool.contains(&tap.name)
        {
            self.all.remove(&tap.name);
        }
    }

    /// One of the pool: the one that was left, or a new one. It is in the register before it can outlive us.
    fn pooled(&mut self, name: &str) -> anyhow::Result<Arc<Interface>> {
        let interface = if self.register.has(name) && self.register.index(name) == index_of(name) {
            Interface::open(name)?
        } else {
            let made = Interface::make(name)?;
            let index = index_of(name).with_context(|| format!("interface {name} is gone"))?;
            self.register.set(name, index);
            self.register.save()?;
            made.set_persistent(true)?;
            made
        };
        let interface = Arc::new(interface);
        self.all.insert(name.to_owned(), interface.clone());
        Ok(interface)
    }

    /// Lets nothing of the pool outlive us.
    fn destroy(&mut self) -> anyhow::Result<()> {
        for (name, index) in self.register.all() {
            let interface = match self.all.get(&name) {
                Some(kept) => kept.clone(),
                None if index_of(&name) == Some(index) => Arc::new(Interface::open(&name)?),
                None => continue,
            };
            if interface.is_there() {
                interface.set_persistent(false)?;
            }
            self.register.remove(&name);
        }
        self.register.save()
    }
}

impl Drop for Netdevs {
    fn drop(&mut self) {
        if self.destroy
            && let Err(error) = self.destroy()
        {
            tracing::error!("the SF pool stays: {error:#}");
        }
    }
}
