//! Signs that a program tried to replace a file: what programs write beside one before they rename.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What is put after a name.
const AFTER: [&str; 6] = [".tmp", ".temp", ".new", "+", ".part", "~tmp"];

/// Whether a name is one under which a program writes a new version of `file`, before it renames it:
/// `file.tmp`, `file.AbC123` of mkstemp(3), `.file.AbC123`, `.#fileefb19c2a4e5d3d7a` of systemd.
///
/// Backups, locks and files of editors are none.
pub(super) fn is_new_version(name: &OsStr, file: &OsStr) -> bool {
    let (name, file) = (name.as_bytes(), file.as_bytes());
    if name == file || file.is_empty() {
        return false;
    }
    if let Some(rest) = name.strip_prefix(b".#").and_then(|it| it.strip_prefix(file)) {
        return rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit);
    }
    let visible = name.strip_prefix(b".").unwrap_or(name);
    let Some(rest) = name.strip_prefix(file).or_else(|| visible.strip_prefix(file)) else {
        return false;
    };
    let known = AFTER.iter().any(|after| {
        let number = rest.strip_prefix(after.as_bytes());
        number.is_some_and(|it| it.iter().all(u8::is_ascii_digit))
    });
    known || rest.strip_prefix(b".").or(rest.strip_prefix(b"-")).is_some_and(is_random)
}

/// Letters of both cases, as mkstemp(3) and the like make them up: no date, and no word, of which at most
/// the first letter is a capital.
fn is_random(text: &[u8]) -> bool {
    let mixed = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    (6..=10).contains(&text.len())
        && text.iter().all(u8::is_ascii_alphanumeric)
        && text.iter().any(u8::is_ascii_uppercase)
        && text.iter().any(u8::is_ascii_lowercase)
        && text.iter().skip(1).any(mixed)
}

/// Whether a message says that a path is busy: the path whole, and the error.
pub(super) fn says_busy(message: &str, path: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    let busy = ["device or resource busy", "ebusy", "errno 16", "os error 16"];
    busy.iter().any(|it| lower.contains(it)) && has_whole(message, path)
}

/// Whether a path is in a text, and neither a part of a longer one nor a directory of one.
fn has_whole(text: &str, path: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "/._-+~".contains(c);
    text.match_indices(path).any(|(at, _)| {
        let before = text.get(..at).and_then(|it| it.chars().next_back());
        let mut after = text.get(at + path.len()..).unwrap_or_default().chars();
        // A full stop may end the sentence.
        let ends = match after.next() {
            Some('.') => !after.next().is_some_and(part),
            other => !other.is_some_and(part),
        };
        ends && !before.is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_versions_are_told_from_backups() {
        let is = |name: &str| is_new_version(OsStr::new(name), OsStr::new("app.conf"));
        for name in [
            "app.conf.tmp",
            "app.conf.tmp123",
            "app.conf.new",
            "app.conf+",
            ".app.conf.tmp",
            "app.conf.aB3dEf",
            ".app.conf.x1Y2z3",
            "app.conf-kQ9rTz",
            ".#app.conf0123456789abcdef",
        ] {
            assert!(is(name), "{name}");
        }
        for name in [
            "app.conf",
            "app.conf~",
            "app.conf.bak",
            "app.conf-",
            "app.conf.1",
            "app.conf.20240101",
            "app.conf.sample",
            "app.conf.README",
            "app.conf.Debian",
            "app.conf.dpkg-new",
            ".app.conf.swp",
            ".#app.conf",
            "other.conf.tmp",
            "app.config.tmp",
            "my-app.conf.tmp",
        ] {
            assert!(!is(name), "{name}");
        }
    }

    #[test]
    fn a_message_has_to_name_the_file_itself() {
        let says = |message: &str| says_busy(message, "/etc/app.conf");
        for message in [
            "mv: cannot move '/etc/app.tmp' to '/etc/app.conf': Device or resource busy",
            "rename /etc/x /etc/app.conf: device or resource busy",
            "OSError: [Errno 16] Device or resource busy: '/etc/x' -> '/etc/app.conf'",
            "cannot write /etc/app.conf. EBUSY",
        ] {
            assert!(says(message), "{message}");
        }
        for message in [
            "mv: cannot move '/etc/app.tmp' to '/etc/app.conf': No space left on device",
            "umount: /etc/app.conf.d: Device or resource busy",
            "umount: /srv/etc/app.conf: Device or resource busy",
            "rename /etc/app.conf/x: EBUSY",
            "EBUSY",
        ] {
            assert!(!says(message), "{message}");
        }
    }
}
