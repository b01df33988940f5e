//! Patterns of paths: `*`, `?` and `[…]` within a name, `**` for any depth.
//!
//! Names are bytes, and may have been chosen by somebody who means ill: what a match costs grows with the
//! product of both lengths at most.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a name or a path has characters that are not taken as they are.
pub fn is_special(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[".contains(byte))
}

/// Writes text as a pattern that matches it and nothing else.
pub fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[') {
            pattern.extend(['[', c, ']']);
        } else {
            pattern.push(c);
        }
    }
    pattern
}

/// Whether a name is as a pattern of one name has it.
pub fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, name);
    // Only a bracket before the last one that closes opens a class. Whoever looked for the end of each would
    // read a run of them once for each of its bytes.
    let behind = pattern.rsplit(|byte| *byte == b']').next().map_or(0, <[u8]>::len);
    // Where to go on if what follows the last star does not match here: that takes one byte more.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match rest.split_first() {
            Some((b'*', after)) => {
                again = Some((after, left));
                rest = after;
                continue;
            }
            Some(_) => {
                if let Some((after, remaining)) = one(rest, left, behind) {
                    (rest, left) = (after, remaining);
                    continue;
                }
            }
            None if left.is_empty() => return true,
            None => {}
        }
        let Some((after, from)) = again else { return false };
        let Some((_, from)) = from.split_first() else { return false };
        again = Some((after, from));
        (rest, left) = (after, from);
    }
}

/// Takes one element that is no star, and the byte that it stands for. In the last `behind` bytes of the
/// pattern no bracket closes.
fn one<'p, 'n>(pattern: &'p [u8], name: &'n [u8], behind: usize) -> Option<(&'p [u8], &'n [u8])> {
    let (first, rest) = pattern.split_first()?;
    let (byte, after) = name.split_first()?;
    match first {
        b'?' => Some((rest, after)),
        b'[' => match if rest.len() > behind { class(rest) } else { None } {
            Some((is_in, rest)) => is_in(*byte).then_some((rest, after)),
            // Without an end it is a bracket.
            None => (*byte == b'[').then_some((rest, after)),
        },
        literal => (literal == byte).then_some((rest, after)),
    }
}

/// Reads `a-z]` or `!a]`: what is in it, and what comes after.
fn class(pattern: &[u8]) -> Option<(impl Fn(u8) -> bool, &[u8])> {
    // A bracket that comes first is one of them.
    let negated = pattern.first() == Some(&b'!');
    let start = usize::from(negated);
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|byte| *byte == b']')?;
    let (inside, rest) = (pattern.get(start..end)?, pattern.get(end + 1..)?);
    let is_in = move |byte: u8| {
        let in_range = inside.windows(3).any(|three| match three {
            [low, b'-', high] => (low..=high).contains(&&byte),
            _ => false,
        });
        (in_range || inside.contains(&byte)) != negated
    };
    Some((is_in, rest))
}

/// Whether a path is another one, or lies below it: by its bytes, which costs much less than name by name.
/// Both are absolute, or both are not, with one slash between names and none at the end.
pub(crate) fn lies_at_or_below(path: &Path, above: &str) -> bool {
    match path.as_os_str().as_bytes().strip_prefix(above.as_bytes()) {
        Some(rest) => rest.first().is_none_or(|byte| *byte == b'/'),
        None => false,
    }
}

/// The name that stands for any number of directories.
pub const ANY_DEPTH: &[u8] = b"**";

/// Whether a path is what a pattern describes, or lies below that. Both are taken from the same
/// directory; at the end, `**` stands for what lies below, not for the directory itself.
pub fn covers(pattern: &Path, path: &Path) -> bool {
    let parts: Vec<&[u8]> = pattern.iter().map(OsStr::as_bytes).collect();
    let names: Vec<&[u8]> = path.iter().map(OsStr::as_bytes).collect();
    let (mut part, mut name) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    loop {
        match parts.get(part) {
            // What is left of the path lies below.
            None => return true,
            Some(&ANY_DEPTH) if part + 1 == parts.len() => {
                if name < names.len() {
                    return true;
                }
            }
            Some(&ANY_DEPTH) => {
                part += 1;
                again = Some((part, name));
                continue;
            }
            Some(pattern) => {
                if names.get(name).is_some_and(|name| matches_name(pattern, name)) {
                    (part, name) = (part + 1, name + 1);
                    continue;
                }
            }
        }
        let Some((after, from)) = again else { return false };
        if from >= names.len() {
            return false;
        }
        again = Some((after, from + 1));
        (part, name) = (after, from + 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("*.conf", "a.conf.d", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "xbxax", false),
            ("*ab", "aab", true),
            ("a*", "a", true),
            ("[a-c]1", "b1", true),
            ("[a-c]1", "d1", false),
            ("[!a-c]1", "d1", true),
            ("[]]", "]", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
        ] {
            assert_eq!(
                matches_name(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
        assert!(matches_name(b"*\xff", b"a\xff"));
    }

    #[test]
    fn paths_lie_below_by_whole_names() {
        let lies = |path: &str, above: &str| lies_at_or_below(Path::new(path), above);
        assert!(lies("/tmp", "/tmp") && lies("/tmp/x/y", "/tmp") && lies(".cache/x", ".cache"));
        assert!(!lies("/tmpfiles", "/tmp") && !lies("/", "/tmp") && !lies("/var/tmp", "/tmp"));
    }

    #[test]
    fn a_name_made_to_be_slow_is_not() {
        let (pattern, name) = ("*a".repeat(100) + "b", "a".repeat(255));
        assert!(!matches_name(pattern.as_bytes(), name.as_bytes()));
        let (pattern, name) = ("*".to_owned() + &"[".repeat(5000) + "a", "[".repeat(5000));
        let began = std::time::Instant::now();
        assert!(!matches_name(pattern.as_bytes(), name.as_bytes()));
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
        let (pattern, name) = ("**/a/".repeat(100) + "b", "a/".repeat(2000));
        assert!(!covers(Path::new(&pattern), Path::new(&name)));
    }

    #[test]
    fn paths_are_covered_with_what_lies_below() {
        for (pattern, path, expected) in [
            ("/var/lib/app", "/var/lib/app", true),
            ("/var/lib/app", "/var/lib/app/x/y", true),
            ("/var/lib/app", "/var/lib/apple", false),
            ("/var/lib/app", "/var/lib", false),
            ("/var/*/app", "/var/lib/app/x", true),
            ("/var/*/app", "/var/lib/x/app", false),
            ("/**/*.pyc", "/a.pyc", true),
            ("/**/*.pyc", "/opt/app/a.pyc", true),
            ("/**/*.pyc", "/opt/app.pyc/below", true),
            ("/**/*.pyc", "/opt/app", false),
            ("/srv/**/log/*.gz", "/srv/log/log/a.gz", true),
            ("/srv/**/log/*.gz", "/srv/a/b/log/a.gz", true),
            ("/srv/**/log/*.gz", "/srv/a/log/b/a.gz", false),
            ("/srv/**", "/srv/a", true),
            ("/srv/**", "/srv", false),
            ("/srv/**/**/a", "/srv/a", true),
            ("/srv/**/a/**", "/srv/x/a", false),
            ("/srv/**/a/**", "/srv/x/a/y", true),
        ] {
            assert_eq!(covers(Path::new(pattern), Path::new(path)), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_written_literally_is_taken_so() {
        for name in ["a*b", "what?", "[x]", "plain", "a[!b]*", "]"] {
            let pattern = literal(name);
            assert!(matches_name(pattern.as_bytes(), name.as_bytes()), "{pattern}");
        }
        assert!(!matches_name(literal("a*").as_bytes(), b"ab"));
    }

    /// As plain as it can be, whatever it costs.
    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|skip| plainly(rest, &name[skip..])),
            Some(_) => one(pattern, name, 0).is_some_and(|(rest, name)| plainly(rest, name)),
        }
    }

    fn plainly_covers(parts: &[&str], names: &[&str]) -> bool {
        match parts.split_first() {
            None => true,
            Some((&"**", [])) => !names.is_empty(),
            Some((&"**", rest)) => {
                (0..=names.len()).any(|skip| plainly_covers(rest, &names[skip..]))
            }
            Some((part, rest)) => names.split_first().is_some_and(|(name, below)| {
                plainly(part.as_bytes(), name.as_bytes()) && plainly_covers(rest, below)
            }),
        }
    }

    proptest! {
        #[test]
        fn both_ways_say_the_same(pattern in "[ab*?!\\[\\]]{0,8}", name in "[ab\\[]{0,8}") {
            let expected = plainly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(matches_name(pattern.as_bytes(), name.as_bytes()), expected);
        }

        #[test]
        fn both_ways_cover_the_same(
            parts in proptest::collection::vec(prop_oneof!["[ab*]{1,2}", Just("**".to_owned())], 1..5),
            names in proptest::collection::vec("[ab]{1,2}", 0..6),
        ) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (pattern, path) = (parts.join("/"), names.join("/"));
            let covered = covers(Path::new(&pattern), Path::new(&path));
            prop_assert_eq!(covered, plainly_covers(&parts, &names));
        }

        #[test]
        fn a_literal_is_itself(name in "[a\\[\\]*?!-]{1,8}", other in "[a\\[\\]*?!-]{1,8}") {
            let pattern = literal(&name);
            prop_assert!(matches_name(pattern.as_bytes(), name.as_bytes()));
            prop_assert_eq!(matches_name(pattern.as_bytes(), other.as_bytes()), name == other);
        }
    }
}
