//! What becomes of a function's state, by what happens to it.

use crate::class::Class;

/// What can happen to a function. The first three are done on the board, the others on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The controller ends and is started again.
    ControllerRestart,
    /// Another version of the controller takes over.
    LiveUpdate,
    /// The PF is unplugged.
    HotUnplug,
    /// The number of VFs becomes 0.
    DestroyVfs,
    /// The guest's driver lets go of the function.
    UnloadDriver,
    /// Host and board lose power.
    PowerCycle,
    /// The host boots again under power.
    WarmReboot,
    /// The guest moves to another host.
    LiveMigration,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 8] = [
        Self::ControllerRestart,
        Self::LiveUpdate,
        Self::HotUnplug,
        Self::DestroyVfs,
        Self::UnloadDriver,
        Self::PowerCycle,
        Self::WarmReboot,
        Self::LiveMigration,
    ];
}

/// What becomes of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is taken up again.
    Recover,
    /// Its file is removed.
    Delete,
    /// It is not taken up.
    Forget,
    /// This does not happen to such a function.
    NotApplicable,
}

/// What becomes of the state of a function of `class` after `event`.
pub fn recovers(class: Class, event: Event) -> Outcome {
    match (event, class) {
        (Event::ControllerRestart | Event::LiveUpdate | Event::LiveMigration, _) => Outcome::Recover,
        (Event::HotUnplug, Class::HotplugPf) => Outcome::Forget,
        (Event::HotUnplug, _) => Outcome::NotApplicable,
        (Event::DestroyVfs, Class::Vf) => Outcome::Delete,
        (Event::DestroyVfs, _) => Outcome::NotApplicable,
        (Event::UnloadDriver | Event::WarmReboot, Class::Vf) => Outcome::Forget,
        (Event::UnloadDriver | Event::WarmReboot, _) => Outcome::Recover,
        (Event::PowerCycle, _) => Outcome::Forget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [(Class, &str); 3] = [
        (Class::StaticPf, "yes | yes | n/a | n/a | yes | no | yes | yes"),
        (Class::HotplugPf, "yes | yes | no | n/a | yes | no | yes | yes"),
        (Class::Vf, "yes | yes | n/a | file deleted | no | no | no | yes"),
    ];

    fn cell(outcome: Outcome) -> &'static str {
        match outcome {
            Outcome::Recover => "yes",
            Outcome::Delete => "file deleted",
            Outcome::Forget => "no",
            Outcome::NotApplicable => "n/a",
        }
    }

    #[test]
    fn each_row_is_as_documented() {
        assert_eq!(TABLE.map(|(class, _)| class), Class::ALL);
        for (class, row) in TABLE {
            let found = Event::ALL.map(|event| cell(recovers(class, event)));
            assert_eq!(found.join(" | "), row, "{class:?}");
        }
    }

    #[test]
    fn each_column_is_as_documented() {
        let columns: [(Event, [&str; 3]); 8] = [
            (Event::ControllerRestart, ["yes", "yes", "yes"]),
            (Event::LiveUpdate, ["yes", "yes", "yes"]),
            (Event::HotUnplug, ["n/a", "no", "n/a"]),
            (Event::DestroyVfs, ["n/a", "n/a", "file deleted"]),
            (Event::UnloadDriver, ["yes", "yes", "no"]),
            (Event::PowerCycle, ["no", "no", "no"]),
            (Event::WarmReboot, ["yes", "yes", "no"]),
            (Event::LiveMigration, ["yes", "yes", "yes"]),
        ];
        for (event, column) in columns {
            assert_eq!(Class::ALL.map(|class| cell(recovers(class, event))), column, "{event:?}");
        }
    }
}
