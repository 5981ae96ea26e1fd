//! Stages, settings and errors as bytes, and back.
