//! What stages look like.
