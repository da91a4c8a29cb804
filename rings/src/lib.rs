//! virtnet-rings
