//! The last throw-away root of a state directory, for those who want to know what is at a path in it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::backend::overlay::{self, Base, others};
use crate::compiled::ContainerRef;
use crate::container::{self, Container, name};
use crate::declaration::DEFAULT_CONTAINER;
use crate::declaration::keep::{self, Seen};
use crate::enclosure::mounts::open_directory;
use crate::failure::{Context, Failure, Result};

use super::container::device;

/// The last root: what was written to it, over what it was made from.
#[derive(Debug)]
pub struct LastRoot {
    base: PathBuf,
    /// By mount point, the root's own first; without what was written where that was in RAM.
    layers: Vec<(PathBuf, Option<File>)>,
}

impl LastRoot {
    /// Opens what there is in a state directory. Until there has been a throw-away root, that is the
    /// running system at `sysroot`.
    pub fn open(state: &Path, sysroot: &Path) -> Result<Self> {
        let directory = state.join(DEFAULT_CONTAINER);
        let marker = match File::open(&directory) {
            Ok(opened) => Container::marker(opened.as_fd())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).context(|| format!("cannot open {}", directory.display()));
            }
        };
        let base = match marker {
            Some((backend, uuid)) => {
                let at = ContainerRef { path: PathBuf::from(DEFAULT_CONTAINER), uuid };
                let volume = container::open_volume(backend, &device(state)?, &[])?;
                let container = Container::open(volume, backend, &at)?;
                let base = Base::read(&container, container.base()?)?.outside();
                base.ok_or_else(|| Failure::new("the base is no directory any more"))?
            }
            None => sysroot.to_owned(),
        };
        let names = std::fs::read_dir(directory.join(name::PAST)).into_iter().flatten().flatten();
        let numbers = names.filter_map(|it| it.file_name().to_str()?.parse::<u64>().ok());
        let past = numbers.max();
        let past = past.map(|number| directory.join(name::PAST).join(number.to_string()));
        let own = [Some(directory.join(name::ROOT)), past]
            .into_iter()
            .flatten()
            .find(|own| own.join(overlay::UPPER).is_dir());
        let mut layers = Vec::new();
        let upper = |path: &Path| File::open(path).ok();
        match own {
            Some(own) => {
                layers.push(("/".into(), upper(&own.join(overlay::UPPER))));
                for other in others::read(open_directory(&own)?.as_fd())? {
                    layers.push((other.path.clone(), upper(&own.join(other.upper()))));
                }
            }
            None => layers.push(("/".into(), None)),
        }
        Ok(Self { base, layers })
    }

    /// The directory that it was made from.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Looks at a path in it.
    pub fn observe(&self, path: &Path, slash: bool) -> Result<Seen> {
        let over = self.layers.iter().filter(|(at, _)| path.starts_with(at) && path != at);
        let Some((at, upper)) = over.max_by_key(|(at, _)| at.as_os_str().len()) else {
            return Err(Failure::new("there is no root"));
        };
        let below = path.strip_prefix(at).unwrap_or(path);
        let lower = self.base.join(at.strip_prefix("/").unwrap_or(at));
        let lower = open_directory(&lower)?;
        let trees: Vec<BorrowedFd<'_>> =
            upper.iter().map(AsFd::as_fd).chain([lower.as_fd()]).collect();
        let mut seen = keep::observe(&trees, &Path::new("/").join(below), slash)?;
        path.clone_into(&mut seen.path);
        Ok(seen)
    }
}
