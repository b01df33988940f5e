//! A path that is there and is spelled much like one at which nothing is.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// How many spellings of one name are followed.
const CANDIDATES: usize = 4;

/// The path nearest to a wrong one, by what has to be changed in its names. `names` lists a directory,
/// and `is_wanted` tells whether a path could be the one that was meant.
pub(super) fn near(
    path: &Path,
    names: &dyn Fn(&Path) -> Vec<std::ffi::OsString>,
    is_wanted: &dyn Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let wrong: Vec<&str> = path
        .components()
        .filter(|it| *it != Component::RootDir)
        .map(|it| it.as_os_str().to_str())
        .collect::<Option<_>>()?;
    let mut found = Vec::new();
    follow(&wrong, PathBuf::from("/"), 0, names, is_wanted, &mut found);
    found.sort();
    found.into_iter().find(|(changes, _)| *changes > 0).map(|(_, path)| path)
}

fn follow(
    wrong: &[&str],
    so_far: PathBuf,
    changes: usize,
    names: &dyn Fn(&Path) -> Vec<std::ffi::OsString>,
    is_wanted: &dyn Fn(&Path) -> bool,
    found: &mut Vec<(usize, PathBuf)>,
) {
    let Some((name, rest)) = wrong.split_first() else {
        if is_wanted(&so_far) {
            found.push((changes, so_far));
        }
        return;
    };
    let mut candidates: Vec<(usize, String)> =
        names(&so_far).iter().filter_map(|candidate| distance(name, candidate)).collect();
    candidates.sort();
    for (more, candidate) in candidates.into_iter().take(CANDIDATES) {
        follow(rest, so_far.join(candidate), changes + more, names, is_wanted, found);
    }
}

/// How many letters differ, if few enough do for one to be meant as the other.
fn distance(name: &str, candidate: &OsStr) -> Option<(usize, String)> {
    let candidate = candidate.to_str()?;
    // More than that has to be inserted or taken out anyway.
    let most = candidate.chars().count() / 3;
    if candidate.len().abs_diff(name.len()) > 4 * (most + 1) {
        return None;
    }
    let distance = strsim::damerau_levenshtein(name, candidate);
    (distance <= most).then(|| (distance, candidate.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_mistyped_leads_to_one_that_is_there() {
        let there = [
            "/etc/nginx/nginx.conf",
            "/etc/nginx/sites",
            "/etc/ngnix/only-made-for-it",
            "/etc/hosts",
            "/var/lib/postgresql/15",
            "/var/lib/mysql/a",
            "/home/a/x",
            "/srv/日本語/x",
        ];
        let names = |directory: &Path| {
            let inside = there.iter().filter_map(|it| Path::new(it).strip_prefix(directory).ok());
            let mut names: Vec<_> =
                inside.filter_map(|it| it.iter().next()).map(OsStr::to_owned).collect();
            names.dedup();
            names
        };
        let is_wanted = |path: &Path| {
            there.iter().any(|it| Path::new(it).starts_with(path))
                && !path.starts_with("/etc/ngnix")
        };
        for (wrong, right) in [
            ("/etc/ngnix", Some("/etc/nginx")),
            ("/etc/ngnix/nginx.cnf", Some("/etc/nginx/nginx.conf")),
            ("/etc/nginx/site", Some("/etc/nginx/sites")),
            ("/var/lib/postgres", Some("/var/lib/postgresql")),
            ("/var/lib/mariadb", None),
            // One name in another place is another thing.
            ("/etc/mysql", None),
            // What is there is not what is looked for.
            ("/etc/hosts", None),
            ("/home/b", None),
            ("/srv/日本", Some("/srv/日本語")),
            ("/", None),
        ] {
            assert_eq!(
                near(Path::new(wrong), &names, &is_wanted),
                right.map(PathBuf::from),
                "{wrong}"
            );
        }
    }
}
