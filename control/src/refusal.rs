//! Why a command was refused, in the product's numbers.

use std::fmt;

use virtnet_engine::port::tap::TapError;

/// A command that was refused. Nothing of it was done, except where the code says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Which kind.
    pub code: Code,
    /// What was found, and what is allowed.
    pub detail: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The kinds. Numbers from -1000 down are the product's, in the order of its table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Code {
            $(#[doc = $text] $(#[$doc])* $name = $number,)*
        }

        impl fmt::Display for Code {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

codes! {
    InvalidArgument = -22, "Invalid argument";
    Features = -1000, "Feature bits are not supported";
    NotFound = -1001, "Device doesn't exist";
    NotHotplug = -1002, "Not a hotplug device";
    DriverLoaded = -1004, "Virtio driver should not be loaded";
    IdOutOfRange = -1006, "Device id is out of range";
    Vuid = -1007, "VUID is invalid";
    Mac = -1008, "MAC is invalid";
    Msix = -1009, "MSI-X number is invalid";
    Mtu = -1010, "MTU is invalid";
    /// It is done, and lasts until the next start.
    RecoverySave = -1013, "Recovery file can't be saved";
    Hotplug = -1031, "Hotplug failed";
    Period = -1032, "Moderation period can't be updated";
    QueueSize = -1033, "Queue size is invalid";
    SfPortAdd = -1034, "SF port can't be added";
    QueueSizePower = -1042, "Queue size must be a power of 2 above 2";
    /// It is done.
    Unusable = -1043, "Device will not be functional, do not probe it";
    DstPort = -1045, "Destination port can't be steered";
    NotSupported = -1046, "Option is not supported";
    SfCreate = -1047, "SF can't be created";
    SfNumberRange = -1048, "SF number is out of range";
    SfNumberUsed = -1049, "SF number is used already";
    QueueIndex = -1050, "Queue index is invalid";
    Speed = -1051, "Link speed is not supported";
    HashTypes = -1052, "Hash types are not supported";
    RssKeySize = -1053, "RSS max key size is invalid";
    UnplugNotReady = -1065, "Device is not ready to be unplugged";
    Queues = -1073, "Number of queues is invalid";
}

impl Code {
    /// A refusal of this kind.
    pub fn because(self, detail: impl Into<String>) -> Refusal {
        Refusal { code: self, detail: detail.into() }
    }
}

impl Refusal {
    /// Why a function could not be made: its SF's netdev is not to be had, or something else.
    pub fn of(error: anyhow::Error, else_code: Code) -> Self {
        let code = if error.chain().any(|cause| cause.is::<TapError>()) { Code::SfPortAdd } else { else_code };
        code.because(format!("{error:#}"))
    }

    /// The number that the product prints as `errno`.
    pub fn errno(&self) -> i32 {
        self.code as i32
    }

    /// The text that the product prints as `errstr`.
    pub fn errstr(&self) -> String {
        self.to_string()
    }
}
