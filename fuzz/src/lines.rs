//! What the kernel and other programs write, in lines.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_core::compiled::Backend;
use ebbtide_core::switches::Switches;
use ebbtide_core::{declaration, fstab, pattern as patterns};
use ebbtide_sys::accounts::{Accounts, logins};
use ebbtide_sys::mountinfo;

use crate::assert_printable;

/// passwd, a NUL, and group.
pub(crate) fn accounts(bytes: &[u8]) {
    let (passwd, group) = halves(bytes);
    let accounts = Accounts::parse(passwd, group);
    for login in logins(passwd, group) {
        // Of two lines of a name, the first one counts everywhere.
        assert_eq!(accounts.uid(&login.name), Some(login.uid), "{login:?}");
    }
    for (name, home) in accounts.homes() {
        let uid = accounts.uid(name).expect("a user has a number");
        assert!(!name.is_empty() && !home.is_empty());
        assert!(accounts.user_name(uid).is_some() && accounts.primary_gid(uid).is_some());
    }
}

/// What comes before the first NUL, and what comes after it.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut halves = bytes.splitn(2, |byte| *byte == 0);
    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
}

pub(crate) fn command_line(bytes: &[u8]) {
    let switches = Switches::parse(bytes);
    for word in &switches.unknown {
        assert_printable(word);
        assert!(!word.contains('\n'), "{word:?}");
    }
    let mut twice = bytes.to_vec();
    // As many pieces as quotes, and one: then every quote is closed.
    if bytes.split(|byte| *byte == b'"').count() % 2 == 1 {
        // The same words once more change nothing but what is listed.
        twice.push(b' ');
        twice.extend_from_slice(bytes);
        let again = Switches::parse(&twice);
        assert_eq!((again.root, again.debug), (switches.root, switches.debug));
        assert_eq!((again.subvolume, again.device), (switches.subvolume, switches.device));
    }
}

pub(crate) fn fstab(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for place in fstab::mount_points(text) {
        assert!(place.is_absolute());
    }
    for (backend, writable) in
        [(Backend::Btrfs, false), (Backend::Overlay, true), (Backend::Tmpfs, false)]
    {
        if let Some(fitting) = fstab::fitting(text, backend, writable) {
            assert_eq!(
                fstab::fitting(&fitting, backend, writable),
                None,
                "it fits, and is changed again"
            );
        }
    }
    let root = fstab::root_line("LABEL=system", "ebbtide/root", &[]);
    if let Ok(rewritten) = fstab::rewrite(text, Some(&root), &[]) {
        let roots =
            fstab::mount_points(&rewritten).iter().filter(|it| *it == Path::new("/")).count();
        assert_eq!(roots, 1, "{rewritten:?}");
    }
}

pub(crate) fn mountinfo(bytes: &[u8]) {
    match mountinfo::parse(bytes) {
        Ok(mounts) => {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
            assert_eq!(mounts.len(), lines);
            for mount in mounts.iter().take(64) {
                let _ = (mount.is_read_only(), mount.super_option("subvol"));
            }
        }
        Err(error) => {
            let lines = bytes.split(|byte| *byte == b'\n').count();
            assert!(error.line > 0 && error.line <= lines, "{error}");
        }
    }
}

/// A pattern, a NUL, and a path.
pub(crate) fn pattern(bytes: &[u8]) {
    let (pattern, name) = halves(bytes);
    let as_path = |bytes| Path::new(OsStr::from_bytes(bytes));
    let _ = patterns::covers(as_path(pattern), as_path(name));
    let matches = patterns::matches_name(pattern, name);
    if !patterns::is_special(pattern) {
        assert_eq!(matches, pattern == name);
    }
    let Ok(text) = std::str::from_utf8(pattern) else { return };
    assert!(patterns::matches_name(patterns::literal(text).as_bytes(), pattern));
    assert_eq!(
        patterns::matches_name(patterns::literal(text).as_bytes(), name),
        pattern == name,
        "a literal pattern is that name and no other"
    );
    if let Err(refusal) = declaration::ignore::pattern(text) {
        assert!(!refusal.message.is_empty());
        assert_printable(&refusal.message);
    }
}
