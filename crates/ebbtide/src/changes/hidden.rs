//! Changes that are only counted: noise, and what the declaration ignores.

use std::error::Error as _;
use std::path::Path;

use ebbtide_core::changes::{Change, Changes, Tally, is_noise};
use ebbtide_core::declaration::ignore::Rules;
use ebbtide_core::declaration::{self, Surroundings};

use crate::context::Context;
use crate::text::size;

/// What is only counted, added up.
#[derive(Debug)]
pub struct Hidden {
    /// Without rules, not even noise is hidden.
    rules: Option<Rules>,
    noise: Changes,
    ignored: Changes,
}

impl Hidden {
    /// Hides nothing.
    pub fn nothing() -> Self {
        Self { rules: None, noise: Changes::default(), ignored: Changes::default() }
    }

    /// Hides noise, and what these rules ignore.
    pub fn by(rules: Rules) -> Self {
        Self { rules: Some(rules), ..Self::nothing() }
    }

    /// Hides noise, and what is ignored by all layers of the declaration, or by one file. Whatever is wrong
    /// with them, more is told rather than nothing.
    pub fn as_declared(config: Option<&Path>, context: &Context) -> Self {
        let sources = match config {
            Some(path) => declaration::read_file(path).map(|source| vec![source]),
            None => declaration::read_layers(&context.sysroot),
        };
        let read = sources
            .and_then(|sources| Ok(Rules::read(&sources, &Surroundings::read(&context.sysroot)?)));
        match read {
            Ok(rules) => {
                for file in &rules.unread {
                    context.tell(&format!(
                        "{file} can't be understood, so what it ignores is told: see `ebbtide check`"
                    ));
                }
                Self::by(rules)
            }
            Err(error) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                context.tell(&format!("{error}{cause}, so what is ignored is told"));
                Self::by(Rules::default())
            }
        }
    }

    /// Counts a change, if it is one of those.
    pub fn takes(&mut self, change: &Change) -> bool {
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
    use ebbtide_core::changes::What;
    use ebbtide_core::declaration::ignore::Rule;
    use ebbtide_sys::metadata::FileKind;

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
