//! Waiting until something changes in directories (inotify(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Directories that are watched, each for some names or for all.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    names: BTreeMap<i32, Names>,
}

#[derive(Debug)]
enum Names {
    All,
    Some(BTreeSet<OsString>),
}

impl Watch {
    /// Watches nothing yet. See `inotify_init1(2)`.
    ///
    /// # Errors
    ///
    /// `EMFILE` if the user has `fs.inotify.max_user_instances` of them.
    pub fn new() -> Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| Error::new("inotify_init1", errno).arg("IN_CLOEXEC|IN_NONBLOCK"))?;
        Ok(Self { inotify, names: BTreeMap::new() })
    }

    /// Watches a directory for what happens to one name in it, or to any: it appears, goes, is
    /// written to, or gets other metadata. `dir` may be `O_PATH`, and can be closed afterwards.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the user has `fs.inotify.max_user_watches` of them, `ENOTDIR`.
    pub fn add(&mut self, dir: BorrowedFd<'_>, name: Option<&OsStr>) -> Result<()> {
        let mask = WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // By its descriptor: no name is resolved a second time.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, path, mask)
            .map_err(|errno| Error::new("inotify_add_watch", errno).fd(dir))?;
        let names = self.names.entry(watch).or_insert_with(|| Names::Some(BTreeSet::new()));
        match (names, name) {
            (Names::Some(names), Some(name)) => {
                names.insert(name.to_owned());
            }
            (names, None) => *names = Names::All,
            (Names::All, Some(_)) => {}
        }
        Ok(())
    }

    /// Waits for something that is watched for, at most for that long. Returns whether it came.
    pub fn wait(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if self.drain()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
            let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new("poll", errno).fd(self.inotify.as_fd())),
            }
        }
    }

    /// Waits until nothing came for a while, at most for that long: a burst of changes is over, or
    /// goes on and on.
    pub fn settle(&self, quiet: Duration, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.wait(quiet.min(left))? || left.is_zero() {
                return Ok(());
            }
        }
    }

    /// Reads all that has come. Returns whether any of it is watched for.
    fn drain(&self) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut found = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    found |= self.is_watched_for(event.wd(), event.events(), name);
                }
                Err(Errno::AGAIN) => return Ok(found),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new("read", errno).fd(self.inotify.as_fd())),
            }
        }
    }

    fn is_watched_for(&self, watch: i32, events: ReadFlags, name: Option<&OsStr>) -> bool {
        // Some events are lost, or the directory itself is another one now.
        let whole = ReadFlags::QUEUE_OVERFLOW
            | ReadFlags::DELETE_SELF
            | ReadFlags::MOVE_SELF
            | ReadFlags::UNMOUNT;
        if events.intersects(whole) {
            return true;
        }
        match (self.names.get(&watch), name) {
            (Some(Names::All), _) => true,
            (Some(Names::Some(names)), Some(name)) => names.contains(name),
            // Metadata of the directory itself, or a watch that was removed.
            (Some(Names::Some(_)) | None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn only_what_is_watched_for_wakes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let opened = fs::File::open(directory.path()).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.add(opened.as_fd(), Some(OsStr::new("wanted"))).unwrap();
        drop(opened);
        fs::write(at("other"), "x").unwrap();
        assert!(!watch.wait(SOON).unwrap());
        fs::write(at("wanted"), "x").unwrap();
        assert!(watch.wait(SOON).unwrap());
        assert!(!watch.wait(SOON).unwrap(), "it was read");
        fs::rename(at("other"), at("wanted")).unwrap();
        assert!(watch.wait(SOON).unwrap(), "replaced by renaming");
        fs::remove_file(at("wanted")).unwrap();
        assert!(watch.wait(SOON).unwrap());

        let opened = fs::File::open(directory.path()).unwrap();
        watch.add(opened.as_fd(), None).unwrap();
        fs::write(at("any"), "x").unwrap();
        assert!(watch.wait(SOON).unwrap());
        fs::remove_dir_all(directory.path()).unwrap();
        assert!(watch.wait(SOON).unwrap(), "the directory is gone");
    }

    #[test]
    fn a_burst_ends_and_an_endless_one_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = Watch::new().unwrap();
        watch.add(fs::File::open(directory.path()).unwrap().as_fd(), None).unwrap();
        let began = Instant::now();
        watch.settle(SOON, Duration::from_secs(60)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(30));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::write(directory.path().join("x"), "x").unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let began = Instant::now();
            watch.settle(Duration::from_secs(20), Duration::from_millis(300)).unwrap();
            let took = began.elapsed();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(
                took >= Duration::from_millis(300) && took < Duration::from_secs(10),
                "{took:?}"
            );
        });
    }
}
