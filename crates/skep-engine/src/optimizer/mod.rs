//! Rules of our own for the logical and the physical plan.
