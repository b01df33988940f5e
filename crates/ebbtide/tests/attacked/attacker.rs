//! A user who exchanges things, as fast as the kernel does it, while root's programs run.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, RenameFlags, mknodat, openat, renameat_with, symlinkat};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

pub const ALICE: u32 = 1000;

/// What a user does again and again, below a directory that is open.
#[derive(Debug, Clone)]
pub enum Step {
    /// Two names change places, and back.
    Exchange(PathBuf, PathBuf),
    /// A new file comes under this name.
    File(PathBuf),
    /// A symbolic link does.
    Link(PathBuf, PathBuf),
    /// A pipe does.
    Pipe(PathBuf),
}

/// Makes the calling thread one of alice's. It has no way back.
pub fn become_alice() {
    let (user, group) =
        (rustix::process::Uid::from_raw(ALICE), rustix::process::Gid::from_raw(ALICE));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(group, group, group).unwrap();
    set_thread_res_uid(user, user, user).unwrap();
}

/// Does something as alice, in a directory that may be out of her reach by its path.
pub fn as_alice(directory: BorrowedFd<'_>, act: impl FnOnce(&Path) + Send) {
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    let acted = std::thread::scope(|scope| {
        let act = || {
            become_alice();
            act(&path);
        };
        scope.spawn(act).join()
    });
    acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs a program while alice goes through her steps. Returns how many of them worked in that time.
///
/// `pause`: she waits for at most so many microseconds after each, so that some of what the program begins
/// comes to its end.
pub fn attacked<T>(
    steps: &[(BorrowedFd<'_>, Step)],
    pause: u64,
    program: impl FnOnce() -> T,
) -> (T, u64) {
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            become_alice();
            let mut waits = Waits { most: pause, seed: 1 };
            while !ended.load(Ordering::Relaxed) {
                for (top, step) in steps {
                    take(*top, step, &done, &mut waits);
                }
            }
        });
        // What is mounted there may make her step impossible until the program is about it.
        let begin = Instant::now();
        while done.load(Ordering::Relaxed) == 0 && begin.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        let before = done.load(Ordering::Relaxed);
        let result = program();
        let during = done.load(Ordering::Relaxed) - before;
        ended.store(true, Ordering::Relaxed);
        (result, during)
    })
}

/// Takes a step. What does not work, because the program is in the way, is no failure.
fn take(top: BorrowedFd<'_>, step: &Step, done: &AtomicU64, waits: &mut Waits) {
    let count = |worked: rustix::io::Result<()>| {
        done.fetch_add(u64::from(worked.is_ok()), Ordering::Relaxed);
    };
    match step {
        Step::Exchange(one, other) => {
            let exchange = || renameat_with(top, one, top, other, RenameFlags::EXCHANGE);
            let there = exchange();
            count(there);
            waits.wait();
            if there.is_ok() {
                // There and back: else it stays wrong for as long as a mount is in the way.
                let mut back = exchange();
                let begin = Instant::now();
                while back.is_err() && begin.elapsed() < Duration::from_millis(1) {
                    back = exchange();
                }
                count(back);
            }
        }
        Step::File(path) => {
            let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
            count(replace(top, path, |beside| {
                let file = openat(top, beside, flags, Mode::from_raw_mode(0o600))?;
                rustix::io::write(&file, b"alice's\n").map(drop)
            }));
        }
        Step::Link(path, to) => count(replace(top, path, |beside| symlinkat(to, top, beside))),
        Step::Pipe(path) => {
            let mode = Mode::from_raw_mode(0o600);
            count(replace(top, path, |beside| mknodat(top, beside, FileType::Fifo, mode, 0)));
        }
    }
    waits.wait();
}

fn replace(
    top: BorrowedFd<'_>,
    path: &Path,
    make: impl FnOnce(&Path) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let beside = path.with_extension("new");
    make(&beside)?;
    rustix::fs::renameat(top, &beside, top, path)
}

/// How long somebody waits, who does not wait for the same time twice.
struct Waits {
    most: u64,
    seed: u64,
}

impl Waits {
    fn wait(&mut self) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let wait = Duration::from_micros((self.seed >> 33) % (self.most + 1));
        let begin = Instant::now();
        while begin.elapsed() < wait {
            std::hint::spin_loop();
        }
    }
}
