//! Which lcores there are, and how a thread keeps to one.

/// The lcores that this process may use, ascending.
pub fn usable() -> Vec<usize> {
    let mut lcores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    lcores.sort_unstable();
    lcores
}

/// Pins the current thread.
pub fn pin(lcore: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: lcore });
}
