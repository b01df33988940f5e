//! Every link in the documentation that leads into this repository leads somewhere.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Pages outside `docs/`.
const PAGES: &[&str] = &["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for (page, text) in &pages {
        for (line, link) in links(text) {
            if let Err(reason) = follow(page, &link, &pages) {
                wrong.push(format!("{}:{line}: {link}: {reason}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_of_contents_names_every_page() {
    let pages = pages();
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from("docs/README.md")];
    while let Some(page) = next.pop() {
        if !page.starts_with("docs") || !reached.insert(page.clone()) {
            continue;
        }
        // What one of its own tables of contents names is named as well.
        if page.file_name().is_some_and(|name| name == "README.md") {
            let targets = links(&pages[&page]).into_iter().filter_map(|(_, link)| {
                let path = link.split('#').next().unwrap_or_default();
                (!path.is_empty() && !is_elsewhere(path)).then(|| resolve(&page, path))
            });
            next.extend(targets.flatten());
        }
    }
    let missing: Vec<_> =
        pages.keys().filter(|page| page.starts_with("docs") && !reached.contains(*page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not lead to {missing:?}");
}

/// Returns the text of every page, by its path in the repository.
fn pages() -> BTreeMap<PathBuf, String> {
    let workspace = workspace();
    let mut found: Vec<PathBuf> = PAGES.iter().map(PathBuf::from).collect();
    let mut directories = vec![PathBuf::from("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(workspace.join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(workspace.join(&path)).unwrap();
            (path, text)
        })
        .collect()
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

/// Says why a link of a page leads nowhere.
fn follow(page: &Path, link: &str, pages: &BTreeMap<PathBuf, String>) -> Result<(), String> {
    if is_elsewhere(link) {
        return Ok(());
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    let target = match path {
        "" => page.to_owned(),
        path => resolve(page, path).ok_or("it leads out of the repository")?,
    };
    if !workspace().join(&target).exists() {
        return Err(format!("there is no {}", target.display()));
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let text = pages.get(&target).ok_or("only pages have anchors")?;
    if anchors(text).contains(anchor) {
        return Ok(());
    }
    Err(format!("{} has no heading with this anchor", target.display()))
}

/// Returns the path in the repository that `link` means on `page`.
fn resolve(page: &Path, link: &str) -> Option<PathBuf> {
    let mut target = page.parent()?.to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::Normal(name) => target.push(name),
            Component::ParentDir if target.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(target)
}

/// Returns the lines of a page that are no code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced && !line.starts_with("    ")
    })
}

/// Returns what `[text](link)` leads to, with the number of its line.
///
/// The text of a link can begin on the line before; only its end is looked for.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for (start, _) in line.match_indices("](") {
            // An even number of marks before it: it is not in `code`.
            if line[..start].matches('`').count() % 2 == 0 {
                let rest = &line[start + 2..];
                let end = rest.find(')').unwrap_or_else(|| panic!("line {number}: no end: {line}"));
                found.push((number, rest[..end].to_owned()));
            }
        }
    }
    found
}

/// Returns the anchors that a forge gives the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|letter| match letter {
                ' ' => Some('-'),
                '-' | '_' => Some(letter),
                letter => letter.is_alphanumeric().then_some(letter),
            })
            .collect();
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|one| !found.contains(one));
        found.extend(free);
    }
    found
}

#[test]
fn links_and_anchors_are_found_as_a_forge_finds_them() {
    let text = "# A `b`: c, d!\n[x](y.md#z) `[no](no)` and [a\nb](c)\n```\n[no](no)\n# no\n```\n# A b c d\n";
    assert_eq!(links(text), [(2, "y.md#z".to_owned()), (3, "c".to_owned())]);
    let found: Vec<_> = anchors(text).into_iter().collect();
    assert_eq!(found, ["a-b-c-d", "a-b-c-d-1"]);
    assert_eq!(resolve(Path::new("docs/a/b.md"), "../c.md"), Some("docs/c.md".into()));
    assert_eq!(resolve(Path::new("README.md"), "../c.md"), None);
}
