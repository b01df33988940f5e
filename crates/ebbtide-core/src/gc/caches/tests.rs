use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::failure::Failure;

/// A store in a directory, whose entries keep what they are expected to keep.
struct Store {
    directory: tempfile::TempDir,
    fd: OwnedFd,
    compiled: Compiled,
}

fn name() -> StoreName {
    StoreName("cache".to_owned())
}

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let entry = |path: &str, kind: &str, store: &str, method: &str| {
            serde_json::json!({
                "path": path, "kind": kind, "store": store, "method": method,
                "origin": { "file": "f", "line": 1 },
            })
        };
        let compiled = serde_json::json!({
            "version": 1,
            "root": {
                "backend": "btrfs", "device": "LABEL=x",
                "container": { "path": "ebbtide", "uuid": uuid::Uuid::nil() },
            },
            "stores": {},
            "entries": [
                entry("/var/cache/a", "directory", "cache", "bind"),
                entry("/var/cache/a/inner", "directory", "cache", "bind"),
                entry("/var/cache/a/state", "directory", "state", "bind"),
                entry("/var/cache/file", "file", "cache", "bind"),
                entry("/var/cache/synced", "file", "cache", "sync"),
                entry("/var/lib/state", "directory", "state", "bind"),
            ],
        });
        let compiled = serde_json::from_value(compiled).unwrap();
        let fd = File::open(directory.path()).unwrap().into();
        Self { directory, fd, compiled }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, kib: usize) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![7; kib << 10]).unwrap();
    }

    fn look(&self, open: &HashSet<Identity>) -> Cache {
        look(&name(), self.fd.as_fd(), &self.compiled, open).unwrap()
    }

    fn remove(&self, order: &Order<'_>) -> Removed {
        let removed = remove(self.fd.as_fd(), &self.compiled, order);
        removed.unwrap_or_else(|failure: Failure| panic!("{}", failure.chain()))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Any file that was not used within this moment, below the first entry.
fn all(elsewhere: &HashSet<Identity>, for_room: bool) -> Order<'_> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let last = (i64::try_from(now.as_secs()).unwrap() + 3600, 0);
    Order { path: Path::new("/var/cache/a"), last, files: u64::MAX, for_room, elsewhere }
}

#[test]
fn only_directories_that_a_cache_keeps_are_looked_at() {
    let store = Store::new();
    for path in [
        "var/cache/a/one",
        "var/cache/a/deep/two",
        "var/cache/a/inner/three",
        "var/cache/a/state/four",
        "var/cache/file",
        "var/cache/synced",
        "var/lib/state/five",
        "var/lib/undeclared/six",
        ".ebbtide/trash/1/seven",
    ] {
        store.write(path, 4);
    }
    let cache = store.look(&HashSet::new());
    assert_eq!(cache.entries, [Path::new("/var/cache/a"), Path::new("/var/cache/a/inner")]);
    let mut entries: Vec<_> = cache.files.iter().map(|it| it.entry).collect();
    entries.sort_unstable();
    assert_eq!(entries, [0, 0, 1]);
    assert_eq!(cache.bytes, cache.files.iter().map(|it| it.bytes).sum::<u64>());
    assert!(cache.bytes >= 3 * 4096, "{}", cache.bytes);

    let none = HashSet::new();
    let removed = store.remove(&all(&none, false));
    assert_eq!((removed.files, removed.open), (2, 0));
    assert_eq!(store.names("var/cache/a"), ["deep", "inner", "state"], "directories stay");
    for path in ["inner/three", "state/four", "../file", "../synced"] {
        assert!(store.path("var/cache/a").join(path).exists(), "{path}");
    }
    assert_eq!(store.look(&none).bytes, cache.files[0].bytes);
}

#[test]
fn what_is_open_or_used_meanwhile_stays() {
    let store = Store::new();
    for name in ["open", "locked", "old"] {
        store.write(&format!("var/cache/a/{name}"), 4);
    }
    let held = File::open(store.path("var/cache/a/open")).unwrap();
    let locked = File::options().write(true).open(store.path("var/cache/a/locked")).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockShared).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let now = crate::moment::now();
    std::thread::sleep(Duration::from_millis(50));
    store.write("var/cache/a/new", 4);
    // An old time of its own does not make it an old file here.
    let new = File::options().write(true).open(store.path("var/cache/a/new")).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    new.set_times(fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago)).unwrap();
    drop(new);
    let none = HashSet::new();
    let removed = store.remove(&Order { last: now, ..all(&none, false) });
    assert_eq!((removed.files, removed.open), (1, 2));
    assert!(removed.failed.is_none(), "{:?}", removed.failed);
    assert_eq!(store.names("var/cache/a"), ["locked", "new", "open"]);

    let found = ebbtide_sys::metadata::metadata(held.as_fd()).unwrap();
    let known = HashSet::from([identity(&found)]);
    let cache = store.look(&known);
    assert_eq!((cache.files.len(), cache.bytes > 2 * 4096), (2, true), "it counts and stays");
}

#[test]
fn no_more_go_than_were_to() {
    let store = Store::new();
    for index in 0..10 {
        store.write(&format!("var/cache/a/{index}"), 4);
    }
    let none = HashSet::new();
    let removed = store.remove(&Order { files: 4, ..all(&none, true) });
    assert_eq!(removed.files, 4);
    assert_eq!(store.names("var/cache/a").len(), 6);
}

#[test]
fn names_of_one_file_go_together_and_no_link_is_followed() {
    let store = Store::new();
    store.write("var/cache/a/one", 8);
    fs::hard_link(store.path("var/cache/a/one"), store.path("var/cache/a/two")).unwrap();
    store.write("outside/file", 8);
    fs::hard_link(store.path("outside/file"), store.path("var/cache/a/linked")).unwrap();
    symlink(store.path("outside"), store.path("var/cache/a/link")).unwrap();
    store.write("var/cache/a/empty", 0);
    let cache = store.look(&HashSet::new());
    assert_eq!(cache.elsewhere.len(), 1);
    let of = |names, frees| {
        let bytes = |it: &&Cached| it.names == names && it.frees == frees && it.bytes >= 8192;
        cache.files.iter().filter(bytes).count()
    };
    assert_eq!((of(2, true), of(1, false)), (1, 1), "{cache:?}");

    // That one name goes changes the file's own time: it is no use of the other.
    std::thread::sleep(Duration::from_millis(50));
    let last = crate::moment::now();
    std::thread::sleep(Duration::from_millis(50));
    let for_room = store.remove(&Order { last, ..all(&cache.elsewhere, true) });
    assert_eq!(for_room.files, 2, "what makes no room stays");
    assert_eq!(store.names("var/cache/a"), ["empty", "link", "linked"]);
    assert!(for_room.bytes >= 8192);

    let by_age = store.remove(&all(&cache.elsewhere, false));
    assert_eq!((by_age.files, by_age.bytes), (3, 0));
    assert_eq!(store.names("outside"), ["file"], "the target of a link, and another name, stay");
}

#[test]
fn special_files_stay() {
    let store = Store::new();
    store.write("var/cache/a/file", 4);
    let _socket = std::os::unix::net::UnixListener::bind(store.path("var/cache/a/socket")).unwrap();
    let fifo = store.path("var/cache/a/fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(store.look(&HashSet::new()).files.len(), 1);
    let removed = store.remove(&all(&HashSet::new(), false));
    assert_eq!((removed.files, removed.failed), (1, None));
    assert_eq!(store.names("var/cache/a"), ["fifo", "socket"]);
}

#[test]
fn reads_are_noted_where_no_mount_says_otherwise() {
    let store = Store::new();
    let mounts = |lines: &[(&str, &str)]| -> Vec<MountEntry> {
        let line = |(path, options): &(&str, &str)| {
            format!("1 0 0:1 / {path} {options} - btrfs /dev/x rw\n")
        };
        let text: String = lines.iter().map(line).collect();
        ebbtide_sys::mountinfo::parse(text.as_bytes()).unwrap()
    };
    let noted = |compiled: &Compiled, lines: &[(&str, &str)]| {
        let (stores, root) = (Path::new("/run/stores"), Path::new("/"));
        are_reads_noted(&name(), compiled, &mounts(lines), stores, root)
    };
    let (quiet, noting) = ("rw,nosuid,noatime", "rw,nosuid,relatime");
    let mut compiled = store.compiled;
    assert!(noted(&compiled, &[("/run/stores/cache", noting), ("/var/cache/a", noting)]));
    assert!(!noted(&compiled, &[("/run/stores/cache", quiet), ("/var/cache/a", noting)]));
    assert!(!noted(&compiled, &[("/run/stores/cache", noting), ("/var/cache/a", quiet)]));
    assert!(
        noted(&compiled, &[("/var/cache/a", quiet), ("/var/cache/a", noting)]),
        "the upper one"
    );
    assert!(noted(&compiled, &[("/var/lib/state", quiet), ("/run/stores/state", quiet)]));
    compiled.entries[0].options = vec![MountOption::Noatime];
    assert!(noted(&compiled, &[("/var/cache/a", quiet)]), "somebody wanted it so");
}
