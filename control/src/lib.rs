//! virtnet-control
