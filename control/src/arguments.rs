//! The controller's command line.

use std::path::PathBuf;

use clap::Parser;

/// The virtio-net controller: shows virtio-net functions to guests over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "virtio-net-controller", version)]
pub struct Arguments {
    /// The configuration file, JSON.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where sockets are: /run/virtnet as root, $XDG_RUNTIME_DIR/virtnet otherwise.
    #[arg(long, value_name = "DIR", env = "VIRTNET_RUN_DIR", hide_env_values = true)]
    pub run_dir: Option<PathBuf>,
    /// Where state is: the folder state in a run folder that was given; otherwise /var/lib/virtnet as root,
    /// $XDG_STATE_HOME/virtnet or ~/.local/state/virtnet.
    #[arg(long, value_name = "DIR", env = "VIRTNET_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Read the configuration, say whether it is good, and end.
    #[arg(long)]
    pub check: bool,
}
