//! Writing what the service sends, with the rights of whoever called.
//!
//! As where root restores, it is made in a directory of its own beside its place, made durable, and put
//! there by one rename that replaces nothing. All is done by descriptor: whoever may exchange a directory
//! for a link on the way gets an error out of it, and nothing else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ebbtide_core::failure::{Context, Failure, Result};
use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::{file, resolve, xattr};
use rustix::io::Errno;

use super::ask::{self, Answers};
use super::wire::{Answer, Frame, Node, NodeKind};
use crate::error::CommandError;

/// What is on its way is in a directory of this name and that of its place, beside it.
const PREFIX: &str = ".ebbtide-restore.";
const NAME_MAX: usize = 255;
/// The copy in that directory.
const IT: &str = "it";

/// A place that something is restored to.
#[derive(Debug)]
pub struct Target {
    /// Where that is: absolute, or below the directory that was asked for.
    pub path: PathBuf,
    /// The innermost directory above it that is there.
    parent: OwnedFd,
    /// The names of those below that one that are not, the outermost first.
    pub missing: Vec<OsString>,
    name: OsString,
    /// Whether an empty directory is there.
    pub is_empty_directory: bool,
    /// Whether it lies on the root itself.
    pub on_root: bool,
}

/// What was restored.
#[derive(Debug, Default)]
pub struct Received {
    /// Below it: what has not all the bits, attributes and groups that it had.
    pub lessened: Vec<PathBuf>,
    /// How much was left out that was not the user's, or has no content.
    pub left_out: u64,
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_bytes())
}

impl Target {
    /// Looks at a path's own place below `sysroot`, or at the one in the directory `to`, and changes nothing.
    ///
    /// # Errors
    ///
    /// Among others if something is there already.
    pub fn look(sysroot: &Path, path: &Path, to: Option<&Path>) -> Result<Self> {
        let what = || format!("cannot restore {}", shown(path));
        let name =
            path.file_name().ok_or_else(|| Failure::new("the whole root cannot be restored"))?;
        let (top, relative, place) = match to {
            Some(to) => (to, Path::new(name).to_owned(), to.join(name)),
            None => (sysroot, path.strip_prefix("/").unwrap_or(path).to_owned(), path.to_owned()),
        };
        let top: OwnedFd =
            File::open(top).map(OwnedFd::from).context(|| format!("cannot open {}", shown(top)))?;
        let root = metadata::metadata(top.as_fd()).context(what)?.mount_id;
        let mut above = relative.parent().unwrap_or(Path::new(""));
        let mut missing = Vec::new();
        let parent = loop {
            match resolve::open_directory_path(top.as_fd(), above) {
                Ok(opened) => break opened,
                Err(error) if error.is_not_found() => {
                    missing.extend(above.file_name().map(OsStr::to_owned));
                    above = above.parent().unwrap_or(Path::new(""));
                }
                Err(error) => return Err(error).context(what),
            }
        };
        missing.reverse();
        let on_root = metadata::metadata(parent.as_fd()).context(what)?.mount_id == root;
        let mut target = Self {
            path: place,
            parent,
            missing,
            name: name.to_owned(),
            is_empty_directory: false,
            on_root,
        };
        if target.missing.is_empty() {
            target.is_empty_directory = target.is_empty_directory(name).context(what)?;
        }
        Ok(target)
    }

    /// Whether an empty directory has the name; an error if anything else has.
    fn is_empty_directory(&self, name: &OsStr) -> Result<bool> {
        let what = || "cannot look at what is there";
        let Some(found) = metadata::metadata_of_entry(self.parent.as_fd(), name).context(what)?
        else {
            return Ok(false);
        };
        if found.kind == FileKind::Directory && !found.mount_root {
            let opened = resolve::open_directory(self.parent.as_fd(), Path::new(name));
            // One that can't be read is somebody's.
            if opened
                .is_ok_and(|it| file::read_directory(it.as_fd()).is_ok_and(|all| all.is_empty()))
            {
                return Ok(true);
            }
        }
        Err(Failure::new(format!("{} is there already", shown(&self.path)))
            .hint("move it away first; or `--to DIR` restores elsewhere"))
    }

    /// Writes what comes, with the permission bits of the directories above it, the innermost first.
    ///
    /// # Errors
    ///
    /// After which nothing of it is left, but for directories above it.
    pub fn write(
        &self,
        answers: &mut Answers,
        parents: &[Option<u32>],
    ) -> std::result::Result<Received, CommandError> {
        let parent = self.make_parents(parents)?;
        let parent = parent.as_ref().unwrap_or(&self.parent).as_fd();
        let mut name = PREFIX.as_bytes().to_vec();
        name.extend_from_slice(self.name.as_bytes());
        name.truncate(NAME_MAX);
        let name = OsString::from_vec(name);
        let work = self.make_work(parent, &name)?;
        let mut received = Received::default();
        let done = self
            .fill(answers, work.as_fd(), &mut received)
            .and_then(|()| Ok(self.put(work.as_fd(), parent)?));
        if done.is_err() {
            // By descriptor: under the name there may be something else by now.
            let _ = file::remove_tree(work.as_fd(), OsStr::new(IT));
        }
        let _ = rustix::fs::unlinkat(parent, &name, rustix::fs::AtFlags::REMOVEDIR);
        done.map(|()| received)
    }

    fn make_parents(&self, modes: &[Option<u32>]) -> Result<Option<OwnedFd>> {
        let mut last: Option<OwnedFd> = None;
        for (index, name) in self.missing.iter().enumerate() {
            let what =
                || format!("cannot make the directory {}", ebbtide_sys::escape(name.as_bytes()));
            let mode = modes.get(self.missing.len() - 1 - index).copied().flatten();
            let mode = mode.ok_or_else(|| {
                Failure::new(what())
                    .caused_by("it was not yours in that root")
                    .hint("`--to DIR` restores elsewhere")
            })?;
            let parent = last.as_ref().unwrap_or(&self.parent).as_fd();
            last = Some(file::create_directory(parent, name, mode & 0o777).context(what)?);
        }
        Ok(last)
    }

    /// Makes the directory that the copy is made in, which nobody else can enter.
    fn make_work(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
        let what = || format!("cannot make a directory beside {}", shown(&self.path));
        let work = file::create_directory(parent, name, 0o700).map_err(|error| {
            let is_there = error.errno() == Errno::EXIST;
            let failure = Failure::new(what()).caused_by(error);
            if is_there {
                let left = shown(&self.path.with_file_name(name));
                return failure.hint(format!(
                    "{left} may be what a restore that was cut off left: remove it"
                ));
            }
            failure
        })?;
        // Who may write there could have put another one in its place.
        let found = metadata::metadata(work.as_fd()).context(what)?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid != own || found.mode & 0o7777 != 0o700 {
            return Err(Failure::new(what()).caused_by("somebody exchanged it"));
        }
        Ok(work)
    }

    /// Puts the copy in its place, over nothing but an empty directory.
    fn put(&self, work: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> Result<()> {
        let it = OsStr::new(IT);
        let what = || format!("cannot put it in place as {}", shown(&self.path));
        file::sync_filesystem(work).context(|| "cannot sync the filesystem")?;
        let renamed = if self.is_empty_directory {
            file::rename_replace(work, it, parent, &self.name)
        } else {
            file::rename_noreplace(work, it, parent, &self.name)
        };
        renamed.map_err(|error| match error.errno() {
            Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR => {
                Failure::new(what()).caused_by("something was put there meanwhile")
            }
            _ => Failure::new(what()).caused_by(error),
        })?;
        file::sync_filesystem(work).context(|| "cannot sync the filesystem")
    }

    /// Makes the copy.
    fn fill(
        &self,
        answers: &mut Answers,
        work: BorrowedFd<'_>,
        received: &mut Received,
    ) -> std::result::Result<(), CommandError> {
        let mut open: Vec<(OwnedFd, Node)> = Vec::new();
        let mut file: Option<(File, Node)> = None;
        let mut way = PathBuf::new();
        loop {
            let part = match answers.frame()? {
                Frame::Data { offset, bytes } => {
                    let (file, _) = file.as_mut().ok_or_else(ask::unexpected)?;
                    let written =
                        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(&bytes));
                    written.context(|| format!("cannot write {}", shown(&self.path.join(&way))))?;
                    continue;
                }
                Frame::Json(text) => ask::parse(&text)?,
            };
            if let Some((file, node)) = file.take() {
                if let NodeKind::File { size } = node.what {
                    file.set_len(size).context(|| "cannot write its holes")?;
                }
                self.finish(file.as_fd(), &node, &way, received)?;
                way.pop();
            }
            match part {
                Answer::Node(node) => {
                    let parent = open.last().map_or(work, |(opened, _)| opened.as_fd());
                    let name = if open.is_empty() { OsString::from(IT) } else { node.name.os() };
                    let is_plain = !matches!(name.as_bytes(), b"" | b"." | b"..");
                    if !is_plain || name.as_bytes().contains(&b'/') {
                        return Err(ask::unexpected());
                    }
                    if !open.is_empty() {
                        way.push(&name);
                    }
                    let what = || format!("cannot make {}", shown(&self.path.join(&way)));
                    match &node.what {
                        NodeKind::Directory {} => {
                            let made =
                                file::create_directory(parent, &name, 0o700).context(what)?;
                            open.push((made, node));
                        }
                        NodeKind::File { .. } => {
                            let made = file::create_file(parent, &name, 0o600).context(what)?;
                            file = Some((made.into(), node));
                        }
                        NodeKind::Link { target } => {
                            let target = target.os();
                            file::create_symlink(parent, &name, Path::new(&target))
                                .context(what)?;
                            way.pop();
                        }
                    }
                }
                Answer::Up {} => {
                    let (opened, node) = open.pop().ok_or_else(ask::unexpected)?;
                    self.finish(opened.as_fd(), &node, &way, received)?;
                    way.pop();
                }
                Answer::End { left_out } if open.is_empty() => {
                    received.left_out = left_out;
                    let it = metadata::metadata_of_entry(work, OsStr::new(IT));
                    return match it.context(|| "cannot look at the copy")? {
                        Some(_) => Ok(()),
                        None => Err(Failure::new(format!("cannot restore {}", shown(&self.path)))
                            .caused_by(
                                "only files, directories and links are restored without root",
                            )
                            .into()),
                    };
                }
                _ => return Err(ask::unexpected()),
            }
        }
    }

    /// Gives something the group, attributes, bits and times that it had, as far as its owner may. It never
    /// runs as its owner or group: an old program may have been replaced because it was not safe.
    fn finish(
        &self,
        it: BorrowedFd<'_>,
        node: &Node,
        way: &Path,
        received: &mut Received,
    ) -> Result<()> {
        let what = || format!("cannot finish {}", shown(&self.path.join(way)));
        let own = metadata::metadata(it).context(what)?;
        let mut is_whole =
            own.gid == node.gid || metadata::set_owner(it, own.uid, node.gid).is_ok();
        let is_directory = own.kind == FileKind::Directory;
        let inherits = if is_directory && is_whole { 0o2000 } else { 0 };
        let mode = node.mode & if is_directory { 0o1777 | inherits } else { 0o777 };
        is_whole &= mode == node.mode;
        metadata::set_mode(it, mode).context(what)?;
        for (name, value) in &node.attributes {
            is_whole &= xattr::set(it, &name.os(), &value.0).is_ok();
        }
        metadata::set_times(it, node.accessed, node.modified).context(what)?;
        if !is_whole {
            received.lessened.push(way.to_owned());
        }
        Ok(())
    }
}
