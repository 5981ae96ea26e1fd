//! Compiles the messages, in pure Rust.

use std::error::Error;

const FILES: [&str; 5] = [
    "proto/substrait/algebra.proto",
    "proto/substrait/extended_expression.proto",
    "proto/substrait/extensions/extensions.proto",
    "proto/substrait/plan.proto",
    "proto/substrait/type.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new()
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors)?;
    Ok(())
}
