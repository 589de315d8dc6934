//! Generates the gRPC types without a system `protoc`: protox compiles the files, tonic-prost-build emits Rust.
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo::rerun-if-changed=plenum");
    let mut files: Vec<PathBuf> =
        fs::read_dir(root.join("plenum/v1"))?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("plenum_descriptor.bin");
    fs::write(&out, compiler.encode_file_descriptor_set())?;
    let generated = tonic_prost_build::configure().bytes(".").btree_map(".").codec_path("crate::codec::Codec");
    generated.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
