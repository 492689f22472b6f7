//! Embeds the files of `assets/tiny/`, where they are, as the model `tiny`.

use std::{env, fmt::Write as _, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=assets");
    let dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("assets/tiny");
    let mut files = Vec::new();
    if dir.join("config.json").is_file() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|kind| ["json", "jinja", "safetensors"].iter().any(|k| kind == *k))
            {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut code =
        String::from("/// Name and bytes of each file of the embedded model; empty where there is none.\n");
    writeln!(code, "static EMBEDDED: &[(&str, &[u8])] = &[")?;
    for path in files {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        writeln!(code, "    ({name:?}, include_bytes!({path:?})),")?;
    }
    writeln!(code, "];")?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("embedded.rs"), code)?;
    Ok(())
}
