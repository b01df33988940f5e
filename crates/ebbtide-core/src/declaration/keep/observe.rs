//! What a path is that somebody wants to keep.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::file::read_link;
use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::resolve;
use rustix::io::Errno;

use crate::compiled::Kind;
use crate::failure::{Context, Result};

/// A path that somebody wants to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Absolute, in its normal spelling.
    pub path: PathBuf,
    /// Whether it was written as a directory, with a slash at the end.
    pub slash: bool,
    /// What is there.
    pub found: Found,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something that can be kept, and its owner.
    Keepable(Kind, u32),
    /// A symbolic link, and where it leads.
    Link(PathBuf),
    /// A symbolic link above it.
    BelowALink(PathBuf),
    /// Something above it that is no directory.
    BelowAFile,
    /// A device, a pipe or a socket.
    Special,
}

/// Looks at a path in trees of which the first ones lie over the later ones, as the upper directory of
/// an overlay lies over its base.
pub fn observe(trees: &[BorrowedFd<'_>], path: &Path, slash: bool) -> Result<Seen> {
    let mut found = Found::Nothing;
    for tree in trees {
        match look(*tree, path)? {
            Some(Found::Nothing) | None => {}
            Some(there) => {
                found = there;
                break;
            }
        }
        if is_whiteout(*tree, path) {
            break;
        }
    }
    Ok(Seen { path: path.to_owned(), slash, found })
}

fn look(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<Found>> {
    let failed = || format!("cannot look at {}", shown(path));
    let opened = match resolve::open_path(tree, path) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if error.errno() == Errno::LOOP => {
            return Ok(Some(link_above(tree, path).unwrap_or(Found::BelowAFile)));
        }
        // Below a whiteout there is nothing.
        Err(error) if error.errno() == Errno::NOTDIR && is_whiteout(tree, path) => return Ok(None),
        Err(error) if error.errno() == Errno::NOTDIR => {
            return Ok(Some(link_above(tree, path).unwrap_or(Found::BelowAFile)));
        }
        Err(error) => return Err(error).context(failed),
    };
    let seen = metadata::metadata(opened.as_fd()).context(failed)?;
    Ok(Some(match seen.kind {
        FileKind::Directory => Found::Keepable(Kind::Directory, seen.uid),
        FileKind::Regular => Found::Keepable(Kind::File, seen.uid),
        FileKind::Symlink => Found::Link(read_link(tree, path).context(failed)?),
        FileKind::CharDevice if seen.rdev == (0, 0) => Found::Nothing,
        _ => Found::Special,
    }))
}

/// The first symbolic link on the way to a path.
fn link_above(tree: BorrowedFd<'_>, path: &Path) -> Option<Found> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let is_link = |path: &&Path| {
        let found = metadata::metadata_beneath(tree, path).ok().flatten();
        found.is_some_and(|found| found.kind == FileKind::Symlink)
    };
    above.into_iter().find(is_link).map(|path| Found::BelowALink(path.to_owned()))
}

/// Whether an overlay hides the path, or something above it, in the trees below.
fn is_whiteout(tree: BorrowedFd<'_>, path: &Path) -> bool {
    path.ancestors().any(|path| {
        let found = metadata::metadata_beneath(tree, path).ok().flatten();
        found.is_some_and(|found| found.kind == FileKind::CharDevice && found.rdev == (0, 0))
    })
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_a_path_is() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        fs::create_dir_all(at("over/dir")).unwrap();
        fs::create_dir_all(at("under/dir/deep")).unwrap();
        fs::write(at("over/file"), "").unwrap();
        fs::write(at("under/other"), "").unwrap();
        symlink("dir", at("under/link")).unwrap();
        let _socket = UnixListener::bind(at("under/socket")).unwrap();
        let (over, under) =
            (fs::File::open(at("over")).unwrap(), fs::File::open(at("under")).unwrap());
        let trees = [over.as_fd(), under.as_fd()];
        let uid = rustix::process::geteuid().as_raw();
        for (path, expected) in [
            ("/dir", Found::Keepable(Kind::Directory, uid)),
            ("/dir/deep", Found::Keepable(Kind::Directory, uid)),
            ("/file", Found::Keepable(Kind::File, uid)),
            ("/other", Found::Keepable(Kind::File, uid)),
            ("/nothing", Found::Nothing),
            ("/nothing/below", Found::Nothing),
            ("/link", Found::Link("dir".into())),
            ("/link/deep", Found::BelowALink("/link".into())),
            ("/other/x", Found::BelowAFile),
            ("/socket", Found::Special),
        ] {
            let seen = observe(&trees, Path::new(path), false).unwrap();
            assert_eq!(seen.found, expected, "{path}");
        }
    }

    #[test]
    fn what_is_deleted_in_the_upper_tree_is_not_there() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make a whiteout");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let at = |path: &str| scratch.path().join(path);
        fs::create_dir_all(at("over")).unwrap();
        fs::create_dir_all(at("under/gone/below")).unwrap();
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
        rustix::fs::mknodat(rustix::fs::CWD, at("over/gone"), kind, mode, 0).unwrap();
        let (over, under) =
            (fs::File::open(at("over")).unwrap(), fs::File::open(at("under")).unwrap());
        for path in ["/gone", "/gone/below"] {
            let seen = observe(&[over.as_fd(), under.as_fd()], Path::new(path), false).unwrap();
            assert_eq!(seen.found, Found::Nothing, "{path}");
        }
    }
}
