//! What makes a path fit to be declared.

use std::path::{Path, PathBuf};

use super::problem::toml_string;

/// The kernel's limit on a path, with its terminating NUL.
const PATH_MAX: usize = 4096;
/// The limit on one component of nearly every filesystem.
const NAME_MAX: usize = 255;

/// Why a path is no good as it is written: message, then what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub message: &'static str,
    pub hint: Option<String>,
}

impl Fault {
    fn new(message: &'static str) -> Self {
        Self { message, hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Checks the spelling of an absolute path.
pub(super) fn absolute(text: &str) -> Result<PathBuf, Fault> {
    limits(text)?;
    if text.starts_with('~') {
        return Err(Fault::new("a path does not start with `~`")
            .hint("write it whole, as in \"/home/alice/Documents\""));
    }
    let Some(rest) = text.strip_prefix('/') else {
        let normal = normalise(text);
        return Err(Fault::new("the path is not absolute")
            .hint(format!("write {}", toml_string(&format!("/{normal}")))));
    };
    let normal = normalise(rest);
    if normal.is_empty() {
        return Err(Fault::new("the root itself cannot be kept")
            .hint("name the directories below it that are to be kept"));
    }
    if normal != rest {
        return Err(
            Fault::new(untidy(rest)).hint(format!("write {}", toml_string(&format!("/{normal}"))))
        );
    }
    Ok(PathBuf::from(text))
}

/// Checks the spelling of a path below a home.
pub(super) fn in_home(text: &str) -> Result<PathBuf, Fault> {
    limits(text)?;
    if let Some(rest) = text.strip_prefix('~') {
        let normal = normalise(rest.split_once('/').map_or("", |(_, rest)| rest));
        let fault = Fault::new("a path of a user is taken below their home, without `~`");
        return Err(if normal.is_empty() || normal.starts_with('~') {
            fault
        } else {
            fault.hint(format!("write {}", toml_string(&normal)))
        });
    }
    if text.starts_with('/') {
        return Err(Fault::new("a path of a user is taken below their home")
            .hint("write it relative to the home; what lies elsewhere belongs in `[keep]`"));
    }
    let normal = normalise(text);
    if text.split('/').any(|part| part == "..") {
        return Err(Fault::new("the path contains `..`, and could lead out of the home"));
    }
    if normal.is_empty() {
        return Err(Fault::new("the path names the home itself")
            .hint("keep the whole home in `[keep]`, or name what lies in it"));
    }
    if normal != text {
        return Err(Fault::new(untidy(text)).hint(format!("write {}", toml_string(&normal))));
    }
    Ok(PathBuf::from(text))
}

/// Checks the spelling of a pattern, and makes it absolute: what has no slash is a name in any depth.
pub(super) fn pattern(text: &str) -> Result<PathBuf, Fault> {
    limits(text)?;
    everything(text)?;
    let any_depth = |text: &str| toml_string(&format!("**/{}", normalise(text)));
    if !text.contains('/') {
        return match text {
            "." | ".." => Err(Fault::new(untidy(text))),
            text if text.starts_with('~') => absolute(text),
            name => Ok(Path::new("/**").join(name)),
        };
    }
    let whole = if text.starts_with("**/") { format!("/{text}") } else { text.to_owned() };
    if !whole.starts_with(['/', '~']) {
        let normal = toml_string(&format!("/{}", normalise(text)));
        return Err(Fault::new("the path is not absolute")
            .hint(format!("write {normal}, or {} for any depth", any_depth(text))));
    }
    absolute(&whole)
}

/// Checks the spelling of a pattern below a home.
pub(super) fn pattern_in_home(text: &str) -> Result<PathBuf, Fault> {
    limits(text)?;
    if text.starts_with('/') {
        return Err(Fault::new("a path of a user is taken below their home")
            .hint("write it relative to the home; what lies elsewhere belongs in `[ignore]`"));
    }
    everything(text)?;
    in_home(text)
}

/// Refuses a pattern that leaves nothing to be told.
fn everything(text: &str) -> Result<(), Fault> {
    let mut names = text.split('/').filter(|name| !name.is_empty() && *name != ".");
    if names.all(|name| name.bytes().all(|byte| byte == b'*')) {
        return Err(Fault::new("the pattern ignores everything")
            .hint("name what nobody needs to be told about"));
    }
    Ok(())
}

/// Checks the spelling of a path below a volume's top level.
pub(super) fn relative(text: &str) -> Result<PathBuf, Fault> {
    limits(text)?;
    let normal = normalise(text);
    if normal.is_empty() {
        return Err(Fault::new("the path names the top level of the volume itself")
            .hint("name a directory below it"));
    }
    if text.starts_with('/') {
        return Err(Fault::new("the path is taken below the top level of the volume")
            .hint(format!("write {}, without the slash", toml_string(&normal))));
    }
    if normal != text {
        return Err(Fault::new(untidy(text)).hint(format!("write {}", toml_string(&normal))));
    }
    Ok(PathBuf::from(text))
}

fn limits(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(Fault::new("the path is empty"));
    }
    if text.contains('\0') {
        return Err(Fault::new("the path contains a NUL character"));
    }
    if text.len() >= PATH_MAX {
        return Err(Fault::new("the path is longer than the 4095 bytes that the kernel takes"));
    }
    if text.split('/').any(|part| part.len() > NAME_MAX) {
        return Err(Fault::new("a name in the path is longer than 255 bytes"));
    }
    Ok(())
}

/// Says which rule a spelling breaks, given that it breaks one.
fn untidy(text: &str) -> &'static str {
    if text.split('/').any(|part| part == "..") {
        "the path contains `..`"
    } else if text.split('/').any(|part| part == ".") {
        "the path contains `.`"
    } else if text.contains("//") || text.starts_with('/') {
        "the path contains a doubled slash"
    } else {
        "the path ends in a slash"
    }
}

/// The one normal spelling, without slashes at either end; `..` is taken by its text.
fn normalise(text: &str) -> String {
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Why an absolute, normalised path is not for a declaration to keep.
pub(super) fn reserved(path: &Path) -> Option<Fault> {
    let below = |parent: &str| path.starts_with(parent);
    let top = path.components().nth(1)?.as_os_str().to_str()?;
    if below("/run/ebbtide") {
        return Some(Fault::new("Ebbtide mounts its stores below `/run/ebbtide`"));
    }
    if below("/var/run") || below("/var/lock") {
        return Some(
            Fault::new("the path is a link to `/run`, which is emptied at every boot")
                .hint("if a program needs its state back, keep the path below `/var/lib`"),
        );
    }
    match top {
        "proc" | "sys" | "dev" => Some(Fault::new("the kernel makes this tree anew at every boot")),
        "run" => Some(
            Fault::new("`/run` is for what lives as long as a boot")
                .hint("if a program needs its state back, keep the path below `/var/lib`"),
        ),
        "usr" | "bin" | "sbin" | "lib" | "lib32" | "lib64" | "libx32" | "libo32" => Some(
            Fault::new("the base owns this path; keeping it would mix two systems")
                .hint("change the base instead; for local programs, keep `/opt`"),
        ),
        "boot" => Some(Fault::new("`/boot` belongs to the base or has its own filesystem")),
        ".ebbtide" => Some(Fault::new("`.ebbtide` in a store is Ebbtide's own directory")),
        _ => None,
    }
}

/// For paths sorted component-wise: the index of each one's nearest ancestor among them.
///
/// A path is not its own ancestor, but the first of two equal ones is that of the second.
pub(super) fn nearest_ancestors<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
) -> Vec<Option<usize>> {
    let mut open: Vec<(usize, &Path)> = Vec::new();
    paths
        .into_iter()
        .enumerate()
        .map(|(index, path)| {
            while open.last().is_some_and(|(_, ancestor)| !path.starts_with(ancestor)) {
                open.pop();
            }
            let nearest = open.last().map(|&(ancestor, _)| ancestor);
            open.push((index, path));
            nearest
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compiled::is_normalised;

    /// Spellings that are dense in everything that a path must not contain.
    fn spelling() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just(String::new()),
            Just(".".to_owned()),
            Just("..".to_owned()),
            "[a-c]{1,2}",
            "\\PC{1,3}"
        ];
        proptest::collection::vec(part, 0..6).prop_map(|parts| parts.join("/"))
    }

    fn tidy_path() -> impl Strategy<Value = PathBuf> {
        proptest::collection::vec("[ab]", 1..5)
            .prop_map(|parts| PathBuf::from("/".to_owned() + &parts.join("/")))
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_normalised(text in spelling()) {
            if let Ok(path) = absolute(&text) {
                prop_assert!(is_normalised(&path));
                prop_assert_eq!(path.as_os_str().as_encoded_bytes(), text.as_bytes());
            }
        }

        #[test]
        fn what_is_normalised_is_accepted(text in spelling()) {
            if is_normalised(Path::new(&text)) {
                prop_assert!(absolute(&text).is_ok());
            }
        }

        #[test]
        fn a_hinted_spelling_is_accepted(text in spelling()) {
            for (result, check) in [
                (absolute(&text), absolute as fn(&str) -> Result<PathBuf, Fault>),
                (relative(&text), relative),
            ] {
                let hint = result.err().and_then(|fault| fault.hint).unwrap_or_default();
                if let Some(hinted) = hint.strip_prefix("write \"").and_then(|h| h.strip_suffix('"')) {
                    prop_assert!(check(hinted).is_ok() || hinted == "/" || normalise(hinted).starts_with('~'), "{:?}", hinted);
                }
            }
        }

        #[test]
        fn nearest_ancestors_agree_with_the_definition(mut paths in proptest::collection::vec(tidy_path(), 0..12)) {
            paths.sort();
            paths.dedup();
            let found = nearest_ancestors(paths.iter().map(PathBuf::as_path));
            for (index, path) in paths.iter().enumerate() {
                let model = (0..paths.len())
                    .filter(|&other| other != index && path.starts_with(&paths[other]))
                    .max_by_key(|&other| paths[other].components().count());
                prop_assert_eq!(found[index], model);
            }
        }
    }

    #[test]
    fn limits_are_those_of_the_kernel() {
        assert!(absolute(&format!("/{}", "a".repeat(255))).is_ok());
        assert!(absolute(&format!("/{}", "a".repeat(256))).is_err());
        let long = "/abcdefg".repeat(512);
        assert_eq!(long.len(), 4096);
        assert!(absolute(&long).is_err());
        assert!(absolute(&long[..4094]).is_ok());
    }
}
