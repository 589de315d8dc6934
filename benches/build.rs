//! Generates a client of etcd's documented API and an echo service from files of our own, without a system `protoc`.
use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo::rerun-if-changed=proto");
    for (file, serves) in [("etcd.proto", false), ("echo.proto", true)] {
        let mut compiler = protox::Compiler::new([&root])?;
        compiler.include_imports(true).open_files([root.join(file)])?;
        tonic_prost_build::configure().build_server(serves).compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}
