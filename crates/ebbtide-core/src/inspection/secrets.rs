//! Secrets that others can read: what lies there is looked at, and every directory above it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::file::{open_quietly, read_directory};
use ebbtide_sys::metadata::{FileKind, Metadata, metadata, metadata_beneath, metadata_of_entry};
use ebbtide_sys::resolve;
use ebbtide_sys::tree::stack::DirectoryStack;
use rustix::fs::OFlags;

use super::{Finding, Machine, shown, word};
use crate::compiled::{Class, Entry, Method, Mode};
use crate::declaration::{Severity, Surroundings, read_preset};

/// How many files and directories are looked at in one tree.
const OF_ONE: usize = 5000;
/// How many in all.
const OF_ALL: usize = 50_000;

/// What is public among secrets, by the end of its name.
const PUBLIC: [&str; 3] = [".pub", "known_hosts", "known_hosts.old"];
/// What is secret among what is public, by the end of its name.
const PRIVATE: [&str; 10] = [
    ".key",
    ".nmconnection",
    ".ovpn",
    ".p12",
    ".pfx",
    ".psk",
    "passdb.tdb",
    "private_key.json",
    "secrets.tdb",
    "_key",
];

/// A place that holds secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Secret<'e> {
    /// The entry that keeps it.
    entry: &'e Entry,
    /// What its application gives it, if a preset knows it.
    usual: Option<Mode>,
}

/// Returns what was too much to be looked at.
pub(super) fn look(
    machine: &Machine<'_>,
    entries: &[&Entry],
    surroundings: &Surroundings,
    add: &mut dyn FnMut(&Entry, Finding),
) -> Vec<PathBuf> {
    let accounts = Accounts::read(machine.root()).unwrap_or_default();
    let mut stopped = Vec::new();
    let mut left = OF_ALL;
    for (path, secret) in places(machine, entries, surroundings) {
        let tree = match secret.entry.method {
            // A link leads into the store, which its own mount does not close.
            Method::Symlink => machine.store_of(secret.entry),
            _ => Some(machine.root()),
        };
        let reach = reach(machine.root(), &path);
        let Some(tree) = tree.filter(|_| reach != 0) else { continue };
        let look = Look { accounts: &accounts, secret, reach };
        let mut open = Open { left: left.min(OF_ONE), ..Open::default() };
        let before = open.left;
        // What vanishes or can't be opened is passed over.
        let _ = look.at(tree, &path, &mut open);
        left = left.saturating_sub(before - open.left);
        if open.stopped {
            stopped.push(path.clone());
        }
        if let Some(finding) = told(&path, &open, &accounts) {
            add(secret.entry, finding);
        }
    }
    stopped
}

/// All that is in stores for secrets, and all that a preset says is secret and that an entry keeps.
fn places<'e>(
    machine: &Machine<'_>,
    entries: &[&'e Entry],
    surroundings: &Surroundings,
) -> BTreeMap<PathBuf, Secret<'e>> {
    let mut marked: BTreeMap<PathBuf, Option<Mode>> = BTreeMap::new();
    let homes: Vec<_> =
        surroundings.homes.values().filter(|home| home.as_path() != Path::new("/")).collect();
    for file in &surroundings.presets {
        let Some(preset) = read_preset(0, &file.source, &mut Vec::new()) else { continue };
        for it in preset.entries.iter().filter(|it| it.class == Class::Secret) {
            marked.insert(it.path().to_owned(), it.attributes().2);
        }
        for it in preset.user_entries.iter().filter(|it| it.class == Class::Secret) {
            let in_homes = homes.iter().map(|home| (home.join(it.path()), it.attributes().2));
            marked.extend(in_homes);
        }
    }
    let in_store = |entry: &&&Entry| {
        let store = machine.compiled.stores.get(&entry.store);
        store.is_some_and(|store| store.class == Class::Secret)
    };
    let mut places: BTreeMap<PathBuf, Secret<'e>> = BTreeMap::new();
    for entry in entries.iter().filter(in_store) {
        let usual = marked.get(&entry.path).copied().flatten();
        places.insert(entry.path.clone(), Secret { entry, usual });
    }
    for (path, usual) in marked {
        let keeps = |entry: &&&Entry| path.starts_with(&entry.path);
        let entry = entries.iter().filter(keeps).max_by_key(|it| it.path.as_os_str().len());
        let known = path.ancestors().any(|above| places.contains_key(above));
        if let Some(entry) = entry.filter(|_| !known) {
            places.insert(path, Secret { entry, usual });
        }
    }
    places
}

/// Who gets through to what lies in a directory: 0o040 for its group, 0o004 for all others.
fn passes(directory: &Metadata) -> u32 {
    (directory.mode & 0o011) << 2
}

/// Who gets to a path, by the directories above it. That a directory's group is another one's is not
/// looked at: a group passes if each of them lets some group pass, or all.
fn reach(root: BorrowedFd<'_>, path: &Path) -> u32 {
    let mut reach = 0o044;
    for above in path.ancestors().skip(1) {
        let relative = above.strip_prefix("/").unwrap_or(above);
        match metadata_beneath(root, relative) {
            Ok(Some(found)) => reach &= passes(&found),
            // Where nobody can look, nobody reads.
            _ => return 0,
        }
    }
    reach
}

/// What was found in one tree.
#[derive(Debug, Default)]
struct Open {
    /// The first file that others can read, its metadata, and who they are.
    first: Option<(PathBuf, Metadata, u32)>,
    count: usize,
    left: usize,
    stopped: bool,
}

struct Look<'a> {
    accounts: &'a Accounts,
    secret: Secret<'a>,
    reach: u32,
}

impl Look<'_> {
    fn at(&self, tree: BorrowedFd<'_>, path: &Path, open: &mut Open) -> ebbtide_sys::Result<()> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let opened = resolve::open_path(tree, relative)?;
        let found = metadata(opened.as_fd())?;
        if found.kind == FileKind::Directory {
            let top = resolve::open_directory(tree, relative)?;
            return self.below(top, path, self.reach & passes(&found), open);
        }
        self.file(path, &found, self.reach, false, open);
        Ok(())
    }

    fn below(
        &self,
        top: std::os::fd::OwnedFd,
        path: &Path,
        reach: u32,
        open: &mut Open,
    ) -> ebbtide_sys::Result<()> {
        let within = self.secret.usual.is_some_and(|usual| usual.0 & 0o005 == 0o005);
        let mut stack = DirectoryStack::default();
        let mut levels = vec![(path.to_owned(), reach, read_directory(top.as_fd())?)];
        stack.push(top)?;
        while let Some((directory, reach, names)) = levels.last_mut() {
            let Some(entry) = names.pop() else {
                levels.pop();
                stack.pop()?;
                continue;
            };
            let (path, reach) = (directory.join(&entry.name), *reach);
            let parent = stack.top()?;
            let Some(found) = metadata_of_entry(parent, &entry.name)? else { continue };
            if open.left == 0 {
                open.stopped = true;
                return Ok(());
            }
            open.left -= 1;
            if found.kind != FileKind::Directory {
                self.file(&path, &found, reach, within, open);
                continue;
            }
            let reach = reach & passes(&found);
            if reach == 0 {
                continue;
            }
            if let Ok(child) = open_quietly(parent, &entry.name, OFlags::DIRECTORY) {
                levels.push((path, reach, read_directory(child.as_fd())?));
                stack.push(child)?;
            }
        }
        Ok(())
    }

    /// `within`: in a directory that its application opens to all, so that only some of it is secret.
    fn file(&self, path: &Path, found: &Metadata, reach: u32, within: bool, open: &mut Open) {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let ends = |endings: &[&str]| endings.iter().any(|it| name.ends_with(it));
        let private = ends(&PRIVATE) || name.starts_with("privkey");
        if found.kind != FileKind::Regular || ends(&PUBLIC) || (within && !private) {
            return;
        }
        let mut who = found.mode & 0o044 & reach;
        let is_declared = |mode: Option<Mode>| mode.is_some_and(|mode| mode.0 & 0o040 != 0);
        // A group that its application gives it to, or that nobody else is in.
        if is_declared(self.secret.entry.mode)
            || is_declared(self.secret.usual)
            || found.gid == 0
            || self.accounts.primary_gid(found.uid) == Some(found.gid)
        {
            who &= 0o004;
        }
        if self.secret.entry.path == path {
            who &= !self.secret.usual.map_or(0, |mode| mode.0);
        }
        if who == 0 {
            return;
        }
        open.count += 1;
        let is_first = open.first.as_ref().is_none_or(|(first, ..)| path < first.as_path());
        if is_first {
            open.first = Some((path.to_owned(), found.clone(), who));
        }
    }
}

fn told(path: &Path, open: &Open, accounts: &Accounts) -> Option<Finding> {
    let (first, found, who) = open.first.as_ref()?;
    let whom = if who & 0o004 != 0 {
        "everyone".to_owned()
    } else {
        let name = accounts.group_name(found.gid).map(|name| name.escape_default().to_string());
        format!("the group {}", name.unwrap_or_else(|| found.gid.to_string()))
    };
    let mode = Mode(found.mode);
    let message = match open.count - 1 {
        0 => format!("{} is secret, and {whom} can read it: {mode}", shown(first)),
        others => format!(
            "{} is secret, and {whom} can read it, {mode}, and {others} more files below {}",
            shown(first),
            shown(path)
        ),
    };
    let hint = if first == path {
        format!("`chmod go= {}`, and `mode = \"0600\"` so that it stays so", word(path))
    } else {
        format!(
            "`chmod go= {}`; or close {} to others, with `mode = \"0700\"`",
            word(first),
            shown(path)
        )
    };
    Some(Finding::new(Severity::Warning, message, hint))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::compiled::{Kind, Origin, StoreName};

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.into(),
            kind: Kind::Directory,
            store: StoreName(StoreName::STATE.to_owned()),
            method: Method::Bind,
            user: None,
            group: None,
            mode: None,
            parent: None,
            options: Vec::new(),
            optional: false,
            lazy: false,
            home: None,
            units: Vec::new(),
            origin: Origin { file: "f".to_owned(), line: 1 },
        }
    }

    /// The files that are found to be open, in a tree of files and directories with these modes.
    fn open(
        usual: Option<u32>,
        limit: usize,
        tree: &[(&str, u32)],
    ) -> (usize, Option<String>, bool) {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (path, _) in tree {
            let at = root.path().join(path.trim_end_matches('/'));
            if path.ends_with('/') {
                fs::create_dir_all(at).unwrap();
            } else {
                fs::write(at, "x").unwrap();
            }
        }
        for (path, mode) in tree {
            let at = root.path().join(path.trim_end_matches('/'));
            fs::set_permissions(at, fs::Permissions::from_mode(*mode)).unwrap();
        }
        let entry = entry("/keys");
        let opened = fs::File::open(root.path()).unwrap();
        let path = Path::new("/keys");
        let accounts = Accounts::parse(b"me:x:0:7::/:\n", b"others:x:9:\n");
        let secret = Secret { entry: &entry, usual: usual.map(Mode) };
        let look = Look { accounts: &accounts, secret, reach: reach(opened.as_fd(), path) };
        let mut open = Open { left: limit, ..Open::default() };
        look.at(opened.as_fd(), path, &mut open).unwrap();
        let first = open.first.map(|(path, ..)| path.display().to_string());
        (open.count, first, open.stopped)
    }

    #[test]
    fn what_others_can_read_is_what_no_directory_hides() {
        let first = |path: &str| Some(format!("/keys/{path}"));
        let all = |tree: &[(&str, u32)]| open(None, 100, tree);
        assert_eq!(all(&[("keys/", 0o755), ("keys/a", 0o644)]), (1, first("a"), false));
        assert_eq!(all(&[("keys/", 0o700), ("keys/a", 0o644)]), (0, None, false));
        assert_eq!(all(&[("keys/", 0o755), ("keys/a", 0o600)]), (0, None, false));
        assert_eq!(all(&[("keys/", 0o755), ("keys/a.pub", 0o644)]), (0, None, false));
        // The group has nobody else in it.
        assert_eq!(all(&[("keys/", 0o750), ("keys/a", 0o640)]), (0, None, false));
        let deep = [("keys/", 0o755), ("keys/in/", 0o711), ("keys/in/a", 0o604)];
        assert_eq!(all(&deep), (1, first("in/a"), false));
        let hidden = [("keys/", 0o755), ("keys/in/", 0o700), ("keys/in/a", 0o604)];
        assert_eq!(all(&hidden), (0, None, false));
    }

    #[test]
    fn where_an_application_opens_its_directory_only_keys_are_secret() {
        let tree = [("keys/", 0o755), ("keys/README", 0o644), ("keys/privkey1.pem", 0o644)];
        assert_eq!(open(Some(0o755), 100, &tree), (1, Some("/keys/privkey1.pem".into()), false));
        assert_eq!(open(Some(0o700), 100, &tree).0, 2);
    }

    #[test]
    fn it_stops_at_a_limit() {
        let tree = [("keys/", 0o755), ("keys/a", 0o644), ("keys/b", 0o644), ("keys/c", 0o644)];
        let (count, _, stopped) = open(None, 2, &tree);
        assert_eq!((count, stopped), (2, true));
        assert!(!open(None, 3, &tree).2);
    }
}
