//! virtnet-engine
