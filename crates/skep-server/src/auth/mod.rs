//! Who asks: users, their passwords and tokens, and the gate that every request passes.
//!
//! - [`users`]: the file of users.
//! - [`token`]: what a client says in place of a password once it has said it.
//! - [`throttle`]: what makes guessing slow.
//! - [`login`]: credentials in, a principal out.
//! - [`gate`]: in front of all services; finds out who asks, before a message is read.
//!
//! **Invariant:** no password, hash, token or key is shown by `Debug`, by an error or in a log.

pub(crate) mod gate;
mod key;
mod login;
mod throttle;
mod token;
pub mod users;

pub(crate) use key::SigningKey;
pub(crate) use login::Login;
