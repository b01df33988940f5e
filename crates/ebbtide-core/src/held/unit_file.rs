//! What a unit file says about the paths that it needs (systemd.unit(5), systemd.exec(5),
//! systemd.syntax(7)).

use std::path::{Path, PathBuf};

/// The directives that name directories below a fixed place, and that place.
const DIRECTORIES: [(&str, &str); 4] = [
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
    ("ConfigurationDirectory", "/etc"),
];

/// The longest list of paths that is taken from one unit.
const LIMIT: usize = 256;

/// The paths that a unit needs, as its files say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    directories: [Vec<String>; DIRECTORIES.len()],
    mounts_for: Vec<String>,
    dynamic_user: bool,
}

impl Needs {
    /// Adds what a unit file or a drop-in says; drop-ins come after the file itself, in their order.
    pub(super) fn read(&mut self, text: &str) {
        let mut section = String::new();
        for line in lines(text) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            match (section.as_str(), key) {
                ("Unit", "RequiresMountsFor") => add(&mut self.mounts_for, value),
                ("Service" | "Socket" | "Mount" | "Swap", "DynamicUser") => {
                    self.dynamic_user = matches!(value, "1" | "yes" | "y" | "true" | "t" | "on");
                }
                ("Service" | "Socket" | "Mount" | "Swap", key) => {
                    let place = DIRECTORIES.iter().position(|(name, _)| *name == key);
                    if let Some(list) = place.and_then(|place| self.directories.get_mut(place)) {
                        add(list, value);
                    }
                }
                _ => {}
            }
        }
    }

    /// The paths. `unit`: the unit's name, for the specifiers `%n`, `%N`, `%p` and `%i`; what has
    /// others in it is left out.
    pub(super) fn paths(&self, unit: &str) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for (names, (_, place)) in self.directories.iter().zip(DIRECTORIES) {
            for name in names {
                // `StateDirectory=name:link` makes a link as well.
                let name = name.split(':').next().unwrap_or(name);
                let Some(name) = expand(name, unit) else { continue };
                let relative = Path::new(&name);
                if relative.components().any(|it| !matches!(it, std::path::Component::Normal(_))) {
                    continue;
                }
                paths.push(Path::new(place).join(relative));
                if self.dynamic_user && place != "/etc" {
                    paths.push(Path::new(place).join("private").join(relative));
                }
            }
        }
        let mounts = self.mounts_for.iter().filter_map(|path| expand(path, unit));
        paths.extend(mounts.map(PathBuf::from).filter(|path| path.is_absolute()));
        paths
    }
}

/// Logical lines: comments are left out, and a backslash at the end goes on in the next line.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        // A comment inside a continued line is left out, and the line goes on.
        if line.starts_with(['#', ';']) || (line.is_empty() && open.is_none()) {
            continue;
        }
        let mut whole = open.take().unwrap_or_default();
        if let Some(part) = line.strip_suffix('\\') {
            whole.push_str(part);
            whole.push(' ');
            open = Some(whole);
        } else {
            whole.push_str(line);
            lines.push(whole);
        }
    }
    lines.extend(open);
    lines
}

/// Adds words; an empty assignment takes back all before it.
fn add(list: &mut Vec<String>, value: &str) {
    if value.is_empty() {
        list.clear();
    }
    for word in value.split_whitespace().take(LIMIT.saturating_sub(list.len())) {
        list.push(word.trim_matches('"').trim_matches('\'').to_owned());
    }
}

/// Replaces the specifiers that depend on the unit's name alone; `None` for others.
fn expand(text: &str, unit: &str) -> Option<String> {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match rest.next()? {
            '%' => out.push('%'),
            'n' => out.push_str(unit),
            'N' => out.push_str(stem),
            'p' => out.push_str(prefix),
            'i' if !instance.is_empty() => out.push_str(instance),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths(unit: &str, texts: &[&str]) -> Vec<String> {
        let mut needs = Needs::default();
        for text in texts {
            needs.read(text);
        }
        needs.paths(unit).into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn directories_and_mounts_are_found() {
        let text = "# StateDirectory=no\n[Unit]\nRequiresMountsFor=/srv/data \\\n# no\n  /var/x\n\
                    [Service]\nStateDirectory=app app/sub\nCacheDirectory = %N\n[Install]\nStateDirectory=no\n";
        let expected =
            ["/var/lib/app", "/var/lib/app/sub", "/var/cache/app", "/srv/data", "/var/x"];
        assert_eq!(paths("app.service", &[text]), expected);
    }

    #[test]
    fn drop_ins_add_and_reset() {
        let first = "[Service]\nStateDirectory=one\nLogsDirectory=log\n";
        assert_eq!(
            paths("a.service", &[first, "[Service]\nStateDirectory=\nStateDirectory=two:link\n"]),
            ["/var/lib/two", "/var/log/log"]
        );
    }

    #[test]
    fn dynamic_users_keep_theirs_in_private() {
        let text = "[Service]\nDynamicUser=yes\nStateDirectory=app\nConfigurationDirectory=app\n";
        let expected = ["/var/lib/app", "/var/lib/private/app", "/etc/app"];
        assert_eq!(paths("a.service", &[text]), expected);
    }

    #[test]
    fn specifiers_of_the_name_are_known_and_others_pass() {
        let text = "[Service]\nStateDirectory=%p-%i %H ../up /abs a/../b %\n";
        assert_eq!(paths("pg@15.service", &[text]), ["/var/lib/pg-15"]);
        assert!(paths("pg@.service", &[text]).is_empty(), "a template has no instance");
    }

    proptest! {
        #[test]
        fn any_text_gives_paths_that_stay_in_place(text in "(\\[Service\\]\n)?([A-Za-z]*Directory=[ -~]{0,20}\\\\?\n|.*\n){0,6}") {
            for path in paths("a@b.service", &[&text]) {
                prop_assert!(path.starts_with('/') );
            }
        }
    }
}
