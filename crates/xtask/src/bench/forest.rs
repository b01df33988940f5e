//! A tree with many files, and changes of it that are the same each time.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// How many files a directory of the tree has.
const IN_ONE: usize = 16;

/// A tree of files with up to 6 kB, of which sixteen are in each directory.
#[derive(Debug, Clone, Copy)]
pub struct Forest {
    pub files: usize,
}

impl Forest {
    /// Makes it below a directory of the root.
    pub fn grow(self, root: &Path) -> Result<()> {
        for index in 0..self.files {
            let path = root.join(Self::file(index));
            if index % IN_ONE == 0
                && let Some(parent) = path.parent()
            {
                fs::create_dir_all(parent)?;
            }
            let length = index * 37 % 61 * 100;
            fs::write(path, vec![b'a' + u8::try_from(index % 23)?; length])?;
        }
        Ok(())
    }

    /// The path of a file below the root.
    pub fn file(index: usize) -> PathBuf {
        let directory = index / IN_ONE;
        let name = format!("f{index}");
        PathBuf::from(format!("srv/forest/d{:03}/e{directory:05}", directory / 100)).join(name)
    }

    /// Changes so many of its files, as far apart from each other as can be.
    pub fn scatter(self, root: &Path, changes: usize) -> Result<()> {
        let stride = self.files / changes;
        (0..changes).try_for_each(|change| {
            let index = change * stride;
            alter(&root.join(Self::file(index)), change)
        })
    }

    /// Makes so many changes, all of them in so many of its directories: all files that these have, and then
    /// new ones.
    pub fn cluster(self, root: &Path, changes: usize, directories: usize) -> Result<()> {
        let stride = self.files / directories / IN_ONE * IN_ONE;
        for directory in 0..directories {
            for change in 0..changes / directories {
                let index = directory * stride + change.min(IN_ONE - 1);
                let path = root.join(Self::file(index));
                if change < IN_ONE {
                    alter(&path, change)?;
                } else {
                    fs::write(path.with_file_name(format!("new{change}")), "a new file\n")?;
                }
            }
        }
        Ok(())
    }
}

/// Of ten changes four are more content, two are new files, two are files that are gone, one is another mode,
/// and one another content of the same length.
fn alter(path: &Path, change: usize) -> Result<()> {
    match change % 10 {
        0..4 => OpenOptions::new().append(true).open(path)?.write_all(b"one line more\n")?,
        4 | 5 => fs::write(path.with_extension("new"), "a new file\n")?,
        6 | 7 => fs::remove_file(path)?,
        8 => fs::set_permissions(path, fs::Permissions::from_mode(0o600))?,
        _ => {
            let length = usize::try_from(fs::metadata(path)?.len())?;
            fs::write(path, vec![b'z'; length.max(1)])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(directory: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                files(&path, found)?;
            } else {
                let mode = fs::metadata(&path)?.permissions().mode();
                found.insert(path.clone(), (mode, fs::read(path)?));
            }
        }
        Ok(())
    }

    /// How many paths differ after changes.
    fn differences(change: impl FnOnce(Forest, &Path) -> Result<()>) -> Result<usize> {
        let directory = tempfile::tempdir()?;
        let forest = Forest { files: 640 };
        forest.grow(directory.path())?;
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        files(directory.path(), &mut before)?;
        assert_eq!(before.len(), 640);
        change(forest, directory.path())?;
        files(directory.path(), &mut after)?;
        let gone = before.keys().filter(|path| !after.contains_key(*path)).count();
        Ok(gone + after.iter().filter(|(path, it)| before.get(*path) != Some(it)).count())
    }

    #[test]
    fn there_are_as_many_changes_as_asked_for() -> Result<()> {
        assert_eq!(differences(|forest, root| forest.scatter(root, 40))?, 40);
        assert_eq!(differences(|forest, root| forest.cluster(root, 200, 5))?, 200);
        Ok(())
    }
}
