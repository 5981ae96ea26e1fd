//! The control stream over real sockets.

mod attach;
mod cluster;
mod members;
mod raw;
mod reconnect;
mod site;
