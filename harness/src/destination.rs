//! Where a file that the command line names goes: through links, into pipes, to stdout.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use kvsweep_plots::Picture;

use crate::output;

/// Links that are followed before a cycle is assumed, as Linux does.
const LINKS: usize = 40;

/// Whether the path stands for stdout: `-`, or another name of what stdout is connected to, such as `/dev/stdout`.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path == "-" || is_same_as_stdout(path)
}

#[cfg(unix)]
fn is_same_as_stdout(path: &Path) -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let (Ok(named), Ok(stdout)) = (fs_err::metadata(path), stdout.and_then(|file| file.metadata())) else {
        return false;
    };
    (named.dev(), named.ino()) == (stdout.dev(), stdout.ino())
}

#[cfg(not(unix))]
fn is_same_as_stdout(_: &Path) -> bool {
    false
}

/// Writes `bytes` to what `path` names. A file, also behind links, is the old one or the new one, whole, and keeps its
/// permissions; anything else that exists (a pipe, a device) is written to; see [`is_stdout`] for stdout.
///
/// # Errors
/// A folder, a cycle of links, whatever the system refuses; the message names the path.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if is_stdout(path) {
        return output::bytes(bytes);
    }
    write_named(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Writes a picture; its form is the path's ending, PNG on stdout.
///
/// # Errors
/// An ending that is no picture's; see [`write`](fn@write).
pub(crate) fn write_picture(path: &Path, picture: &Picture) -> anyhow::Result<()> {
    let bytes = if is_stdout(path) { picture.png()? } else { picture.encode(path)? };
    write(path, &bytes)
}

fn write_named(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {
            let target = std::fs::canonicalize(path)?;
            kvsweep_results::write_atomic(&target, bytes)?;
            Ok(std::fs::set_permissions(&target, found.permissions())?)
        }
        Ok(found) if found.is_dir() => anyhow::bail!("it is a folder; give the name of a file"),
        Ok(_) => match std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes) {
            // Whoever reads a pipe may have seen enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(kvsweep_results::write_atomic(&end_of_links(path)?, bytes)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The file that a link to nothing yet stands for; the path itself where it is no link.
fn end_of_links(path: &Path) -> anyhow::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = std::fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    anyhow::bail!("its links lead in a circle")
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_stay_links_and_what_they_name_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/target"), "old").unwrap();
        std::fs::set_permissions(at("sub/target"), std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink("sub/target", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        symlink("sub/missing", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        write(&at("second"), b"new").unwrap();
        write(&at("dangling"), b"made").unwrap();
        for link in ["link", "second", "dangling"] {
            assert!(std::fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
        }
        assert_eq!(std::fs::read(at("sub/target")).unwrap(), b"new");
        assert_eq!(std::fs::metadata(at("sub/target")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(at("sub/missing")).unwrap(), b"made");
        for (name, reason) in [("circle", "circle"), ("sub", "folder")] {
            let message = format!("{:#}", write(&at(name), b"").unwrap_err());
            assert!(message.contains(reason) && message.contains(name), "{message}");
        }
    }
}
