//! Functions of our own.
