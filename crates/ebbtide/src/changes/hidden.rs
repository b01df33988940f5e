//! Changes that are only counted: noise, and what the declaration ignores.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use ebbtide_core::changes::{Change, Changes, Tally, What, is_noise};
use ebbtide_core::declaration::ignore::Rules;
use ebbtide_core::declaration::{self, ReadError, Surroundings};
use ebbtide_sys::metadata::FileKind;

use crate::context::Context;
use crate::text::size;

/// What is only counted, added up.
#[derive(Debug)]
pub struct Hidden {
    /// Without rules, not even noise is hidden.
    rules: Option<Rules>,
    noise: Changes,
    ignored: Changes,
    /// New directories on the way to where the walk is, the outermost first.
    waiting: Vec<Directory>,
}

/// A new directory. It is told if anything in it is, or if nothing is in it at all.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Until it is told.
    change: Option<Change>,
    /// Whether anything in it is hidden.
    hides: bool,
}

impl Hidden {
    /// Hides nothing.
    pub fn nothing() -> Self {
        let (noise, ignored) = (Changes::default(), Changes::default());
        Self { rules: None, noise, ignored, waiting: Vec::new() }
    }

    /// Hides noise, and what these rules ignore.
    pub fn by(rules: Rules) -> Self {
        Self { rules: Some(rules), ..Self::nothing() }
    }

    /// Hides noise, and what is ignored by all layers of the declaration, or by one file. Whatever is wrong
    /// with them, more is told rather than nothing.
    pub fn as_declared(config: Option<&Path>, context: &Context) -> Self {
        Self::declared_among(config, &Surroundings::read(&context.sysroot), context)
    }

    /// The same, with surroundings that were read already.
    pub fn declared_among(
        config: Option<&Path>,
        surroundings: &Result<Surroundings, ReadError>,
        context: &Context,
    ) -> Self {
        let sources = match config {
            Some(path) => declaration::read_file(path).map(|source| vec![source]),
            None => declaration::read_layers(&context.sysroot),
        };
        match (&sources, surroundings) {
            (Ok(sources), Ok(surroundings)) => {
                let rules = Rules::read(sources, surroundings);
                for file in &rules.unread {
                    context.tell(&format!(
                        "{file} can't be understood, so what it ignores is told: see `ebbtide check`"
                    ));
                }
                Self::by(rules)
            }
            (Err(error), _) | (_, Err(error)) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                context.tell(&format!("{error}{cause}, so what is ignored is told"));
                Self::by(Rules::default())
            }
        }
    }

    /// Tells changes that are not hidden, and counts the others. They come in the order of a walk, and the
    /// last ones are told by [`Self::finish`].
    pub fn sift(&mut self, change: Change, tell: &mut dyn FnMut(Change)) {
        while self.waiting.last().is_some_and(|outer| !change.path.starts_with(&outer.path)) {
            self.leave(tell);
        }
        if self.takes(&change) {
            self.has_hidden();
        } else if change.what == What::Added && change.kind == FileKind::Directory {
            let path = change.path.clone();
            self.waiting.push(Directory { path, change: Some(change), hides: false });
        } else {
            self.tell_waiting(tell);
            tell(change);
        }
    }

    /// Tells what is still to be told after the last change.
    pub fn finish(&mut self, tell: &mut dyn FnMut(Change)) {
        while !self.waiting.is_empty() {
            self.leave(tell);
        }
    }

    /// Nothing more comes in the innermost directory.
    fn leave(&mut self, tell: &mut dyn FnMut(Change)) {
        match self.waiting.pop() {
            Some(Directory { change: Some(_), hides: true, .. }) => self.has_hidden(),
            Some(Directory { change: Some(change), .. }) => {
                self.tell_waiting(tell);
                tell(change);
            }
            _ => {}
        }
    }

    fn has_hidden(&mut self) {
        if let Some(directory) = self.waiting.last_mut() {
            directory.hides = true;
        }
    }

    fn tell_waiting(&mut self, tell: &mut dyn FnMut(Change)) {
        for directory in &mut self.waiting {
            directory.change.take().into_iter().for_each(&mut *tell);
        }
    }

    /// Counts a change, if it is one of those that are hidden.
    fn takes(&mut self, change: &Change) -> bool {
        let Some(rules) = &self.rules else { return false };
        if is_noise(&change.path) {
            self.noise.add(change);
        } else if rules.covering(&change.path).is_some() {
            self.ignored.add(change);
        } else {
            return false;
        }
        true
    }

    /// Caches, locks and the like.
    pub fn noise(&self) -> Tally {
        self.noise.total()
    }

    /// What the declaration ignores.
    pub fn ignored(&self) -> Tally {
        self.ignored.total()
    }

    /// A line about it for a person; nothing if there is none.
    pub fn line(&self) -> String {
        let (noise, ignored) = (self.noise(), self.ignored());
        let all = noise.count() + ignored.count();
        let what = match (noise.count(), ignored.count()) {
            (0, 0) => return String::new(),
            (1, 0) => "a cache, lock or the like".to_owned(),
            (all, 0) => format!("{all} caches, locks and the like"),
            (0, 1) => "one that is ignored,".to_owned(),
            (0, all) => format!("{all} that are ignored,"),
            _ => format!("{all} that are noise or ignored,"),
        };
        let size = size(noise.bytes.saturating_add(ignored.bytes));
        let them = if all == 1 { "it" } else { "them" };
        format!("besides, {what} of {size}: --all lists {them}\n")
    }
}

#[cfg(test)]
mod tests {
    use ebbtide_core::declaration::ignore::Rule;

    use super::*;

    fn line(paths: &[&str]) -> String {
        let rule = |pattern: &str| Rule { pattern: pattern.into(), origin: "f:1".into() };
        let rules = Rules { rules: vec![rule("/srv/build"), rule("/**/*.o")], unread: Vec::new() };
        let mut hidden = Hidden::by(rules);
        for path in paths {
            let (path, kind) = ((*path).into(), FileKind::Regular);
            let change = Change { path, what: What::Added, kind, bytes: 700, when: None };
            assert_ne!(hidden.takes(&change), path_is_told(&change.path), "{:?}", change.path);
        }
        hidden.line()
    }

    fn path_is_told(path: &Path) -> bool {
        path.starts_with("/etc")
    }

    #[test]
    fn a_new_directory_with_nothing_but_hidden_content_is_hidden_too() {
        let rule = |pattern: &str| Rule { pattern: pattern.into(), origin: "f:1".into() };
        let rules = Rules { rules: vec![rule("/**/*.o")], unread: Vec::new() };
        let mut hidden = Hidden::by(rules);
        let mut told = Vec::new();
        let mut tell = |change: Change| told.push(change.path.display().to_string());
        for path in [
            "/srv/all/",
            "/srv/all/a.o",
            "/srv/all/in/",
            "/srv/all/in/b.o",
            "/srv/empty/",
            "/srv/mixed/",
            "/srv/mixed/a.o",
            "/srv/mixed/in/",
            "/srv/mixed/in/b.o",
            "/srv/mixed/in/c",
            "/srv/mixed/objects/",
            "/srv/mixed/objects/d.o",
            "/srv/way/",
            "/srv/way/empty/",
            "/srv/way/z.o",
            "/srv/x",
            "/tmp/",
            "/var/",
            "/var/last/",
        ] {
            let is_directory = path.ends_with('/');
            let kind = if is_directory { FileKind::Directory } else { FileKind::Regular };
            let path = path.trim_end_matches('/').into();
            let change = Change { path, what: What::Added, kind, bytes: 1, when: None };
            hidden.sift(change, &mut tell);
        }
        hidden.finish(&mut tell);
        let expected = [
            "/srv/empty",
            "/srv/mixed",
            "/srv/mixed/in",
            "/srv/mixed/in/c",
            "/srv/way",
            "/srv/way/empty",
            "/srv/x",
            "/var",
            "/var/last",
        ];
        assert_eq!(told, expected);
        assert_eq!((hidden.ignored().count(), hidden.noise().count()), (6, 1));
    }

    #[test]
    fn what_is_only_counted_is_one_line() {
        assert_eq!(line(&["/etc/a"]), "");
        assert_eq!(
            line(&["/tmp/a"]),
            "besides, a cache, lock or the like of 700 B: --all lists it\n"
        );
        assert_eq!(
            line(&["/tmp/a", "/tmp/b.o"]),
            "besides, 2 caches, locks and the like of 1.3 KiB: --all lists them\n"
        );
        assert_eq!(
            line(&["/srv/build/a"]),
            "besides, one that is ignored, of 700 B: --all lists it\n"
        );
        assert_eq!(
            line(&["/srv/build/a", "/opt/x.o", "/etc/b"]),
            "besides, 2 that are ignored, of 1.3 KiB: --all lists them\n"
        );
        assert_eq!(
            line(&["/srv/build/a", "/tmp/x"]),
            "besides, 2 that are noise or ignored, of 1.3 KiB: --all lists them\n"
        );
        let mut nothing = Hidden::nothing();
        let path = "/tmp/x".into();
        let change =
            Change { path, what: What::Added, kind: FileKind::Regular, bytes: 1, when: None };
        assert!(!nothing.takes(&change));
    }
}
