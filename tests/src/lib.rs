//! virtnet-tests
