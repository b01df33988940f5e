//! Comparing what was copied beside the copying: each directory as soon as it is whole.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::compare::{directory_difference, first_difference, is_same_directory};
use super::{CopyOptions, CopyReport, copy, copy_tree};
use crate::descriptor::{check_name, reopen_directory};
use crate::error::Result;
use crate::file::create_directory;
use crate::metadata::{FileKind, metadata};
use crate::resolve::{open_directory, open_path};

/// How many directories wait to be compared, at most.
const WAITING: usize = 1024;

/// A directory below the top that was copied, and whether content was shared before.
type Whole = (PathBuf, bool);

/// Copies as [`copy_tree`] does, and returns besides what [`first_difference`] finds.
///
/// With `beside`, each directory is compared in another thread, as soon as its copy has all of its content and
/// metadata: what is written to it later is for the caller to notice. Else all of it is compared afterwards, in
/// this one.
pub fn copy_tree_compared(
    from_dir: BorrowedFd<'_>,
    from: &Path,
    to_dir: BorrowedFd<'_>,
    to_name: &OsStr,
    options: CopyOptions<'_>,
    beside: bool,
) -> Result<(CopyReport, Result<Option<PathBuf>>)> {
    let compared = |report: CopyReport| {
        // Content can only be shared within one filesystem.
        let shared = report.reflinked > 0;
        let difference = first_difference(from_dir, from, to_dir, Path::new(to_name), shared);
        (report, difference)
    };
    if !beside || metadata(open_path(from_dir, from)?.as_fd())?.kind != FileKind::Directory {
        return copy_tree(from_dir, from, to_dir, to_name, options).map(compared);
    }
    check_name("mkdirat", to_dir, to_name)?;
    let source = open_directory(from_dir, from)?;
    let target = create_directory(to_dir, to_name, 0o700)?;
    let (original, copy) = (reopen_directory(source.as_fd())?, reopen_directory(target.as_fd())?);
    let (sender, whole) = sync_channel::<Whole>(WAITING);
    thread::scope(|scope| {
        let compare = || each(original.as_fd(), copy.as_fd(), whole);
        let comparing = thread::Builder::new().spawn_scoped(scope, compare);
        let mut tell = |path: &Path, reflinked: u64| {
            // Nobody takes it where a difference was found already.
            let _ = sender.send((path.to_owned(), reflinked > 0));
        };
        let copied = copy::directory(source, target, options, &mut tell);
        drop(sender);
        let Ok(comparing) = comparing else { return copied.map(compared) };
        let difference = comparing.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((copied?, difference))
    })
}

/// Compares each directory that is whole, and at the end the metadata of the top.
fn each(
    original: BorrowedFd<'_>,
    copy: BorrowedFd<'_>,
    whole: Receiver<Whole>,
) -> Result<Option<PathBuf>> {
    let mount = metadata(original)?.mount_id;
    for (path, shared) in whole {
        let difference = directory_difference(original, copy, &path, mount, shared)?;
        if difference.is_some() {
            return Ok(difference);
        }
    }
    Ok((!is_same_directory(original, copy)?).then(PathBuf::new))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::Scratch;

    fn tree() -> Scratch {
        let scratch = Scratch::new();
        for directory in ["a/deep/er", "a/empty", "a/many"] {
            fs::create_dir_all(scratch.path(directory)).unwrap();
        }
        for file in ["a/one", "a/deep/two", "a/deep/er/three"] {
            fs::write(scratch.path(file), file).unwrap();
        }
        for number in 0..300 {
            fs::create_dir(scratch.path("a/many").join(number.to_string())).unwrap();
        }
        symlink("one", scratch.path("a/link")).unwrap();
        scratch
    }

    #[test]
    fn a_copy_is_compared_whole() {
        let scratch = tree();
        let fd = scratch.fd();
        for beside in [true, false] {
            let copy = |from: &str, name: &str, skip: &dyn Fn(&Path) -> bool| {
                let options = CopyOptions { skip, ..CopyOptions::default() };
                let name = format!("{name}-{beside}");
                copy_tree_compared(fd, Path::new(from), fd, OsStr::new(&name), options, beside)
            };
            let (report, difference) = copy("a", "b", &|_| false).unwrap();
            assert_eq!((report.files, difference.unwrap()), (4, None));
            let left_out = ["one", "link", "deep", "deep/er/three", "many/7"];
            for (number, path) in left_out.into_iter().map(Path::new).enumerate() {
                let (_, difference) = copy("a", &format!("b{number}"), &|it| it == path).unwrap();
                assert_eq!(difference.unwrap().as_deref(), Some(path));
            }
            let (report, difference) = copy("a/one", "c", &|_| false).unwrap();
            assert_eq!((report.files, difference.unwrap()), (1, None));
            let again = copy("a", "c", &|_| false).unwrap_err();
            assert_eq!(again.errno(), rustix::io::Errno::EXIST);
        }
    }

    #[test]
    fn a_difference_anywhere_is_found() {
        type Spoil = fn(&Scratch);
        let cases: [(&str, Spoil); 5] = [
            ("deep/two", |it| fs::write(it.path("b/deep/two"), "as long is").unwrap()),
            ("deep/er/more", |it| fs::write(it.path("b/deep/er/more"), "").unwrap()),
            ("many/5", |it| fs::remove_dir(it.path("b/many/5")).unwrap()),
            ("many/9/new", |it| fs::write(it.path("a/many/9/new"), "").unwrap()),
            ("one", |it| fs::remove_file(it.path("a/one")).unwrap()),
        ];
        for (expected, spoil) in cases {
            let scratch = tree();
            let fd = scratch.fd();
            let mut told = Vec::new();
            let source = open_directory(fd, Path::new("a")).unwrap();
            let target = create_directory(fd, OsStr::new("b"), 0o700).unwrap();
            let mut tell = |path: &Path, _| told.push(path.to_owned());
            copy::directory(source, target, CopyOptions::default(), &mut tell).unwrap();
            assert_eq!(told.len(), 305);
            assert_eq!(told.last().unwrap(), Path::new(""));
            spoil(&scratch);
            let (sender, whole) = sync_channel(told.len());
            for path in told {
                sender.send((path, false)).unwrap();
            }
            drop(sender);
            let open = |name: &str| open_directory(fd, Path::new(name)).unwrap();
            let found = each(open("a").as_fd(), open("b").as_fd(), whole).unwrap();
            assert_eq!(found.as_deref(), Some(Path::new(expected)));
        }
    }
}
