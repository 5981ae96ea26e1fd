//! The coordinator: performs what the scheduler decides, and gives queries their answers.
