//! Talks to a skep coordinator: statements out, record batches in.
