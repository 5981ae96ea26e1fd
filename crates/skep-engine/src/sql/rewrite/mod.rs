//! Rewrites of the syntax tree that give DataFusion's planner what it answers rightly.
