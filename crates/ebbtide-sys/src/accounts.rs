//! The accounts of a root that is not the running one: its `/etc/passwd` and `/etc/group`.
//!
//! Read by our own parser. The C library would answer for the running system, and its name services
//! load plugins, which a static binary does not survive.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::Result;
use crate::file::read_limited;

/// No account file is larger than this, in bytes.
const LIMIT: u64 = 16 * 1024 * 1024;

/// Users and groups by name and number. See passwd(5) and group(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
}

impl Accounts {
    /// Reads `etc/passwd` and `etc/group` below `root`; an absent file has no entries.
    ///
    /// # Errors
    ///
    /// Links are not followed (`EINVAL`), and a file of more than 16 MiB is refused (`EFBIG`).
    pub fn read(root: BorrowedFd<'_>) -> Result<Self> {
        let read = |path| match read_limited(root, Path::new(path), LIMIT) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            result => result,
        };
        Ok(Self::parse(&read("etc/passwd")?, &read("etc/group")?))
    }

    /// Parses the content of the two files; lines that are not entries are skipped.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: lines(passwd).filter_map(parse_user).collect(),
            groups: lines(group).filter_map(parse_group).collect(),
        }
    }

    /// Returns the number of a user; the first entry counts, as in the C library.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.iter().find(|user| user.name == name).map(|user| user.uid)
    }

    /// Returns the number of a group.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|group| group.name == name).map(|group| group.gid)
    }

    /// Returns the primary group of a user.
    pub fn primary_gid(&self, uid: u32) -> Option<u32> {
        self.users.iter().find(|user| user.uid == uid).map(|user| user.gid)
    }

    /// Returns the users that have a home, each with its path.
    pub fn homes(&self) -> impl Iterator<Item = (&str, &str)> {
        let has_home = self.users.iter().filter(|user| !user.home.is_empty());
        has_home.map(|user| (user.name.as_str(), user.home.as_str()))
    }

    /// Returns the name of a user.
    pub fn user_name(&self, uid: u32) -> Option<&str> {
        self.users.iter().find(|user| user.uid == uid).map(|user| user.name.as_str())
    }

    /// Returns the name of a group.
    pub fn group_name(&self, gid: u32) -> Option<&str> {
        self.groups.iter().find(|group| group.gid == gid).map(|group| group.name.as_str())
    }
}

/// An account that has a shell: it may log in, with a password or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its home, as it is written.
    pub home: String,
    /// Whether some password is right; an empty one is, without being asked for.
    pub has_password: bool,
    /// Whether it ends on some day, which may have come.
    pub expires: bool,
}

/// Returns the accounts that have a shell, from the content of `/etc/passwd` and `/etc/shadow`. Of two
/// lines of the same name the first one counts, as in the C library. See shadow(5).
///
/// Takes a time that grows with the square of what it is given.
pub fn logins(passwd: &[u8], shadow: &[u8]) -> Vec<Login> {
    let mut found: Vec<(Login, bool)> = Vec::new();
    for line in lines(passwd) {
        let Some(User { name, uid, home, .. }) = parse_user(line) else { continue };
        if found.iter().any(|(it, _)| it.name == name) {
            continue;
        }
        let secret = lines(shadow).find(|it| field(it, 0) == name.as_bytes()).unwrap_or(b":*");
        let hash = match field(line, 1) {
            b"x" => field(secret, 1),
            // Only for `x` the other file is asked.
            own => own,
        };
        let has_password = is_password(hash);
        let expires = !field(secret, 7).is_empty();
        found.push((Login { name, uid, home, has_password, expires }, is_shell(field(line, 6))));
    }
    found.retain(|(_, has_shell)| *has_shell);
    found.into_iter().map(|(login, _)| login).collect()
}

/// A field of a line; empty if there is none.
fn field(line: &[u8], index: usize) -> &[u8] {
    line.split(|byte| *byte == b':').nth(index).unwrap_or_default()
}

/// Whether a password can be right: `!` and `*` begin what no hash is. See crypt(5).
fn is_password(hash: &[u8]) -> bool {
    let traditional = hash.len() == 13
        && hash.iter().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(byte));
    traditional || matches!(hash.first(), None | Some(b'$' | b'_'))
}

/// Whether a shell lets somebody in; without one, `/bin/sh` does.
fn is_shell(shell: &[u8]) -> bool {
    let name = shell.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    !matches!(name, b"nologin" | b"false" | b"true" | b"sync" | b"shutdown" | b"halt")
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|byte| *byte == b'\n')
}

/// `name:password:uid:gid:…`
fn parse_user(line: &[u8]) -> Option<User> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = parse_name(fields.next()?)?;
    let uid = parse_id(fields.nth(1)?)?;
    let gid = parse_id(fields.next()?)?;
    // A home that is no text is none.
    let home = fields.nth(1).and_then(|home| std::str::from_utf8(home).ok()).unwrap_or_default();
    Some(User { name, uid, gid, home: home.to_owned() })
}

/// `name:password:gid:…`
fn parse_group(line: &[u8]) -> Option<Group> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = parse_name(fields.next()?)?;
    let gid = parse_id(fields.nth(1)?)?;
    Some(Group { name, gid })
}

/// Refuses comments and the `+` and `-` lines of NIS.
fn parse_name(field: &[u8]) -> Option<String> {
    if matches!(field.first()?, b'#' | b'+' | b'-') {
        return None;
    }
    std::str::from_utf8(field).ok().map(str::to_owned)
}

/// Refuses signs, spaces, and 4294967295, which is no id: chown(2) takes it for "leave it".
fn parse_id(field: &[u8]) -> Option<u32> {
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        # comment:x:1:1::/:\n\
        +nis:x:2:2::/:\n\
        \n\
        short:x:3\n\
        minus:x:-1:5::/:\n\
        nobody-at-all:x:4294967295:5::/:\n\
        large:x:4294967296:5::/:\n\
        alice:x:1000:100:Alice,,,:/home/alice:/bin/sh\n\
        alice:x:1001:101::/:\n\
        bytes\xff:x:7:7::/:\n\
        bob:x:1002:1002";

    #[test]
    fn passwd_and_group() {
        let accounts = Accounts::parse(PASSWD, b"root:x:0:\nusers:x:100:alice,bob\nbad:x:\n");
        let uids = ["root", "alice", "bob", "comment", "+nis", "short", "minus", "large", ""];
        let found: Vec<_> = uids.iter().map(|name| accounts.uid(name)).collect();
        let none = None;
        assert_eq!(found, [Some(0), Some(1000), Some(1002), none, none, none, none, none, none]);
        assert_eq!(accounts.uid("nobody-at-all"), None);
        assert_eq!(accounts.gid("users"), Some(100));
        assert_eq!(accounts.gid("bad"), None);
        assert_eq!(accounts.primary_gid(1000), Some(100));
        assert_eq!(accounts.primary_gid(4), None);
        assert_eq!(accounts.user_name(1001), Some("alice"));
        assert_eq!(accounts.group_name(100), Some("users"));
    }

    #[test]
    fn absent_files_have_no_entries_and_links_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(root.path()).unwrap();
        assert_eq!(Accounts::read(fd.as_fd()).unwrap(), Accounts::default());

        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), PASSWD).unwrap();
        assert_eq!(Accounts::read(fd.as_fd()).unwrap().uid("bob"), Some(1002));

        std::os::unix::fs::symlink("/etc/group", root.path().join("etc/group")).unwrap();
        let error = Accounts::read(fd.as_fd()).unwrap_err();
        assert_eq!(error.errno(), rustix::io::Errno::INVAL);
    }

    /// Those who have a password, of accounts that are called as what shadow(5) has of them.
    fn with_password(lines: &[(&str, &str)]) -> Vec<String> {
        let passwd: Vec<_> = lines.iter().map(|(name, _)| line(name, "x", "/bin/sh")).collect();
        let shadow: Vec<_> =
            lines.iter().map(|(name, hash)| format!("{name}:{hash}:19000:0:99999:7:::")).collect();
        let found = logins(passwd.join("\n").as_bytes(), shadow.join("\n").as_bytes());
        assert_eq!(found.len(), lines.len(), "all have a shell");
        found.into_iter().filter(|it| it.has_password).map(|it| it.name).collect()
    }

    fn line(name: &str, password: &str, shell: &str) -> String {
        format!("{name}:{password}:1000:1000::/home/{name}:{shell}")
    }

    #[test]
    fn a_password_is_a_hash_or_an_empty_one() {
        let usable = [
            ("empty", ""),
            ("glibc", "$6$salt$abcdefghijklmnop"),
            ("yescrypt", "$y$j9T$abc$def"),
            ("des", "abJnggxhB/yWI"),
            ("bsdi", "_J9..rasmBYk8r9AiWNc"),
        ];
        let not = [
            ("locked", "!"),
            ("locked-hash", "!$6$salt$abcdefghijklmnop"),
            ("never", "!!"),
            ("no-login", "*"),
            ("both", "!*"),
            ("first-boot", "!unprovisioned"),
            ("elsewhere", "x"),
            ("solaris", "NP"),
        ];
        let expected: Vec<_> = usable.iter().map(|(name, _)| *name).collect();
        assert_eq!(with_password(&[usable.as_slice(), &not].concat()), expected);
    }

    #[test]
    fn a_password_counts_where_the_c_library_looks_for_it() {
        let has = |passwd: &str, shadow: &str| {
            let found = logins(passwd.as_bytes(), shadow.as_bytes());
            found.first().map(|it| (it.has_password, it.expires))
        };
        let shadow = "alice:$6$a$b:1:0:9:7:::";
        assert_eq!(has(&line("alice", "x", "/bin/sh"), shadow), Some((true, false)));
        assert_eq!(has(&line("alice", "x", ""), shadow), Some((true, false)));
        assert_eq!(has(&line("alice", "x", "/bin/sh"), ""), Some((false, false)));
        assert_eq!(has(&line("alice", "*", "/bin/sh"), shadow), Some((false, false)));
        assert_eq!(has(&line("alice", "", "/bin/sh"), "alice:!:"), Some((true, false)));
        assert_eq!(has(&line("alice", "$6$a$b", "/bin/sh"), ""), Some((true, false)));
        assert_eq!(
            has(&line("alice", "x", "/bin/sh"), "alice:$6$a$b:1::::: 0:"),
            Some((true, true))
        );
        for shell in ["/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/bin/sync"] {
            assert_eq!(has(&line("alice", "x", shell), shadow), None, "{shell}");
        }
        let twice = [line("alice", "x", "/bin/false"), line("alice", "x", "/bin/sh")].join("\n");
        assert_eq!(has(&twice, shadow), None, "the first line counts");
        assert_eq!(
            has(&line("alice", "x", "/bin/sh"), "alice:!:\nalice:$6$a$b:"),
            Some((false, false))
        );
        for line in
            ["# alice:x:1000:1000::/:/bin/sh", "+alice:x:1000:1000::/:/bin/sh", "alice", ":::"]
        {
            assert_eq!(has(line, shadow), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(passwd: Vec<u8>, group: Vec<u8>) {
            Accounts::parse(&passwd, &group);
            logins(&passwd, &group);
        }

        #[test]
        fn an_entry_is_found(name in "[a-z_][a-z0-9_-]{0,30}", uid in 0..u32::MAX, gid in 0..u32::MAX) {
            let passwd = format!("{name}:x:{uid}:{gid}:,:/:/bin/sh\n");
            let accounts = Accounts::parse(passwd.as_bytes(), format!("{name}:x:{gid}:\n").as_bytes());
            prop_assert_eq!(accounts.uid(&name), Some(uid));
            prop_assert_eq!(accounts.primary_gid(uid), Some(gid));
            prop_assert_eq!(accounts.gid(&name), Some(gid));
        }
    }
}
