//! Making what something is going to be mounted on, with as few calls as that takes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode};

use super::{create_directory, create_file, remove_file};
use crate::descriptor::check_name;
use crate::error::{Error, Result};
use crate::metadata::{FileKind, Metadata, set_mode, set_owner, statx};

/// Makes an empty directory or file with exactly this owner and these permission bits.
///
/// What belongs to root is made as it should be, and looked at: another caller, the umask, an ACL that is
/// inherited or a set-group-id directory can make it something else. Only then, and for other owners, it
/// is opened and changed by its descriptor, so that nothing that was put in its place is given away.
///
/// # Errors
///
/// `EEXIST` if anything has that name, and those of mkdir(2), mknod(2) and chown(2).
pub fn create_mount_point(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileKind,
    (uid, gid): (u32, u32),
    mode: u32,
) -> Result<()> {
    let is_own = (uid, gid) == (0, 0) && mode <= 0o777;
    if is_own {
        let found = make(dir, name, kind, mode)?;
        if (found.kind, found.uid, found.gid, found.mode) == (kind, uid, gid, mode) {
            return Ok(());
        }
        match kind {
            FileKind::Directory => {
                use rustix::fs::{AtFlags, unlinkat};
                unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(|e| {
                    Error::new("unlinkat", e).fd(dir).path(name).arg("AT_REMOVEDIR")
                })?;
            }
            _ => drop(remove_file(dir, name)?),
        }
    }
    let opened = match kind {
        FileKind::Directory => create_directory(dir, name, 0o700)?,
        _ => create_file(dir, name, 0o600)?,
    };
    // Changing the owner clears set-user-id and set-group-id bits (chown(2)).
    set_owner(opened.as_fd(), uid, gid)?;
    set_mode(opened.as_fd(), mode)
}

/// Makes it without opening it, and returns what there is then.
fn make(dir: BorrowedFd<'_>, name: &OsStr, kind: FileKind, mode: u32) -> Result<Metadata> {
    check_name("mknodat", dir, name)?;
    let bits = Mode::from_raw_mode(mode);
    let failed = |call: &'static str| {
        move |e| Error::new(call, e).fd(dir).path(name).arg(format_args!("{mode:#o}"))
    };
    match kind {
        FileKind::Directory => rustix::fs::mkdirat(dir, name, bits).map_err(failed("mkdirat"))?,
        _ => rustix::fs::mknodat(dir, name, FileType::RegularFile, bits, 0)
            .map_err(failed("mknodat"))?,
    }
    statx(dir, name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::metadata::metadata_of_entry;
    use crate::testing::{Scratch, name, needs_root};

    fn made(scratch: &Scratch, kind: FileKind, owner: (u32, u32), mode: u32) -> Metadata {
        create_mount_point(scratch.fd(), name("it"), kind, owner, mode).unwrap();
        let found = metadata_of_entry(scratch.fd(), name("it")).unwrap().unwrap();
        let again = create_mount_point(scratch.fd(), name("it"), kind, owner, mode).unwrap_err();
        assert_eq!(again.errno(), rustix::io::Errno::EXIST);
        match kind {
            FileKind::Directory => std::fs::remove_dir(scratch.path("it")).unwrap(),
            _ => std::fs::remove_file(scratch.path("it")).unwrap(),
        }
        found
    }

    #[test]
    fn is_as_it_should_be_wherever_it_is_made() {
        needs_root!();
        let scratch = Scratch::new();
        let path: &Path = &scratch.path("");
        // An ordinary directory, and one that gives its group to what is made in it.
        for (parent_mode, parent_group) in [(0o755, 0), (0o2775, 7)] {
            std::os::unix::fs::chown(path, None, Some(parent_group)).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(parent_mode)).unwrap();
            for kind in [FileKind::Directory, FileKind::Regular] {
                for owner in [(0, 0), (1000, 100)] {
                    for mode in [0o700, 0o755, 0o777, 0o2755, 0o1777] {
                        let found = made(&scratch, kind, owner, mode);
                        assert_eq!(
                            (found.kind, found.uid, found.gid, found.mode),
                            (kind, owner.0, owner.1, mode),
                            "below {parent_mode:o}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn follows_no_link_and_takes_one_name() {
        let scratch = Scratch::new();
        std::os::unix::fs::symlink("elsewhere", scratch.path("link")).unwrap();
        for wrong in ["link", "a/b", "..", ""] {
            create_mount_point(scratch.fd(), name(wrong), FileKind::Regular, (0, 0), 0o600)
                .unwrap_err();
        }
        assert!(!scratch.path("elsewhere").exists());
    }
}
