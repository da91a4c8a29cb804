//! What goes wrong on the control side of a function, counted under the product's names.

use std::ops::AddAssign;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident = $key:literal;)*) => {
        /// What can go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[doc = $doc])* $name,)*
        }

        impl Fault {
            /// All, in the order in which they are told.
            pub const ALL: [Self; [$($key),*].len()] = [$(Self::$name),*];

            /// As `health` has it.
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }
        }
    };
}

faults! {
    /// A queue could not be enabled or disabled.
    Steer = "sf_rqt_update_err";
    /// A link could not be put up or down.
    Link = "sf_drop_create_err";
    /// A queue could not be attached or detached.
    Attach = "sf_tir_create_err";
    /// A port could not be made.
    Port = "steer_rx_domain_err";
    /// A socket could not be made.
    Socket = "steer_rx_table_err";
    /// An announcement or a used buffer notification could not be set up.
    Announce = "sf_flows_apply_err";
    /// Nothing here is like it.
    Aarfs = "aarfs_flow_init_err";
    /// Nothing here is like it.
    Vlan = "vlan_flow_init_err";
    /// A change of the drop counter or the packet counters could not be kept.
    Counters = "drop_cnt_config_err";
}

/// How often each has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
    /// Queues whose frames did not come home in the time a worker has to answer.
    pub stalls: u64,
    /// Times that the thread which notifies drivers hung.
    pub hangs: u64,
}

impl Faults {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// How often.
    pub fn of(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, more: Self) {
        self.counts.iter_mut().zip(more.counts).for_each(|(count, more)| *count += more);
        self.stalls += more.stalls;
        self.hangs += more.hangs;
    }
}
