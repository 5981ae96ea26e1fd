//! Stages that travel, and what is known not to.

mod shapes;
mod specification;
