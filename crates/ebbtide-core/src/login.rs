//! Who can log in: a reset must not lock out all who could log in to the last root.
//!
//! All that is not sure speaks for the reset. An account that others than the account files know of, a home
//! that is somewhere else, a file that cannot be read: a new root may have a way in that is not seen here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::{self, Login};
use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::{file, resolve};

use crate::compiled::{Compiled, Entry, StoreName};
use crate::failure::{Failure, Level, Problem};
use crate::store;

/// No file that is read here is larger, in bytes.
const LIMIT: u64 = 1 << 20;

/// Who could log in to the last root with a password, and can't to a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    names: Vec<String>,
    /// Whether nobody else can either.
    pub nobody: bool,
    base: u64,
}

const HINT: &str = "keep the account files: add \"accounts\" to `presets` below [keep]";

impl Lost {
    fn names(&self) -> String {
        let escaped = |name: &String| ebbtide_sys::escape(name.as_bytes());
        let mut names = self.names.iter().take(3).map(escaped).collect::<Vec<_>>().join(", ");
        if self.names.len() > 3 {
            names = format!("{names} and {} more", self.names.len() - 3);
        }
        names
    }

    fn lockout(&self, last: &str) -> String {
        let (names, base) = (self.names(), self.base);
        format!(
            "{last} has a password for {names}, and base {base} no password and no key for anybody"
        )
    }

    /// Why the root is not reset.
    pub fn refusal(&self) -> Failure {
        let why = format!("nobody could log in to a new one: {}", self.lockout("the last one"));
        Failure::new(why).hint(format!(
            "{HINT}, or say `require-login = false` below [root]; then run `ebbtide apply`"
        ))
    }

    /// What is said where the root is reset all the same.
    pub fn warning(&self, required: bool) -> Problem {
        let (level, message) = if self.nobody {
            let why = self.lockout("the last root");
            (Level::Warning, format!("nobody may be able to log in: {why}"))
        } else {
            let (names, base) = (self.names(), self.base);
            let message =
                format!("the last root had a password for {names}, and base {base} has none");
            // Where accounts come and go, somebody has said so.
            (if required { Level::Warning } else { Level::Notice }, message)
        };
        Problem { hint: Some(HINT.to_owned()), ..Problem::new(level, message) }
    }

    /// What is said before the reset, while the root runs.
    pub fn ahead(&self, required: bool) -> Problem {
        let hint = Some(format!("{HINT}, then run `ebbtide apply`"));
        let (level, message) = match (self.nobody, required) {
            (true, true) => {
                let why = self.lockout("this root");
                (Level::Warning, format!("the next boot will not reset the root: {why}"))
            }
            (true, false) => {
                let why = self.lockout("this root");
                (Level::Warning, format!("nobody may be able to log in after a reset: {why}"))
            }
            (false, _) => {
                let (names, base) = (self.names(), self.base);
                let message = format!("this root has a password for {names}, and base {base} none");
                (Level::Notice, message)
            }
        };
        Problem { hint, ..Problem::new(level, message) }
    }
}

/// Who loses their way in when a root is exchanged for a new one of this base. `None`: nobody, as far as
/// can be told.
pub(crate) fn lost(
    root: BorrowedFd<'_>,
    (number, base): (u64, BorrowedFd<'_>),
    compiled: &Compiled,
) -> Option<Lost> {
    let mut new = NewRoot { base, compiled, stores: BTreeMap::new() };
    if ["/etc/passwd", "/etc/shadow"].iter().any(|path| new.entry(Path::new(path)).is_some()) {
        return None;
    }
    let read = |tree| {
        let read = |path| file::read_limited(tree, Path::new(path), LIMIT).ok();
        Some(accounts::logins(&read("etc/passwd")?, &read("etc/shadow")?))
    };
    let (had, has) = (read(root)?, read(base)?);
    let (names, nobody) = compare(&had, &has, |account| new.may_have_key(account))?;
    // What costs most is looked at last, and rarely.
    if new.has_other_accounts() || has_credentials(Path::new("/")) {
        return None;
    }
    Some(Lost { names, nobody, base: number })
}

/// The names of those who lose their way in, and whether nobody has one then. `has`: sorted by name.
fn compare(
    had: &[Login],
    has: &[Login],
    mut may_have_key: impl FnMut(&Login) -> bool,
) -> Option<(Vec<String>, bool)> {
    let mut can = |it: &Login| it.has_password || (is_person(it) && may_have_key(it));
    let could = had.iter().filter(|it| is_person(it) && it.has_password && !it.expires);
    let lost = could.filter(|old| {
        let now = has.binary_search_by(|new| new.name.cmp(&old.name));
        !now.ok().and_then(|index| has.get(index)).is_some_and(&mut can)
    });
    let names: Vec<_> = lost.map(|it| it.name.clone()).collect();
    (!names.is_empty()).then(|| (names, !has.iter().any(can)))
}

/// Root, or a user as useradd(8) numbers them. What others have is for services.
fn is_person(account: &Login) -> bool {
    account.uid == 0 || (1000..=60_000).contains(&account.uid)
}

/// What a new root would have.
struct NewRoot<'a> {
    base: BorrowedFd<'a>,
    compiled: &'a Compiled,
    stores: BTreeMap<StoreName, Option<OwnedFd>>,
}

impl NewRoot<'_> {
    /// The innermost entry that a path lies in.
    fn entry(&self, path: &Path) -> Option<&Entry> {
        self.compiled.entries.iter().rev().find(|entry| path.starts_with(&entry.path))
    }

    /// The tree that a path comes from. `None`: that is not known yet, or not known here.
    fn tree(&mut self, path: &Path) -> Option<BorrowedFd<'_>> {
        let Some(entry) = self.entry(path) else {
            let is_elsewhere =
                self.compiled.root.mounts.iter().any(|mount| path.starts_with(&mount.path));
            return (!is_elsewhere).then_some(self.base);
        };
        let (name, within) = (entry.store.clone(), entry.path.clone());
        let wanted = self.compiled.stores.get(&name)?;
        let opened = self
            .stores
            .entry(name)
            .or_insert_with(|| store::open(wanted.place(), wanted.uuid).ok());
        let store = opened.as_ref()?.as_fd();
        // Its first content comes from the last root, or from elsewhere.
        metadata::metadata_beneath(store, &within).ok()??;
        Some(store)
    }

    /// Whether there is nothing at a path, or an empty file. What is not known is not that.
    fn lacks(&mut self, path: &Path) -> bool {
        let Some(tree) = self.tree(path) else { return false };
        match metadata::metadata_beneath(tree, path) {
            Ok(found) => found.is_none_or(|it| it.kind == FileKind::Regular && it.size == 0),
            Err(_) => false,
        }
    }

    /// Whether sshd(8) may let an account in. A home that is not there may be on another filesystem.
    fn may_have_key(&mut self, account: &Login) -> bool {
        let home = Path::new(&account.home);
        let named = ["/etc/ssh/authorized_keys.d", "/etc/ssh/authorized_keys"];
        let own = [".ssh/authorized_keys", ".ssh/authorized_keys2"];
        let named = named.map(|directory| Path::new(directory).join(&account.name));
        let all = own.iter().map(|file| home.join(file)).chain(named);
        home.is_absolute() && (self.lacks(home) || !all.into_iter().all(|file| self.lacks(&file)))
    }

    /// The content of a configuration file, empty if there is none. authselect(8) makes them links.
    fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        let mut path = PathBuf::from(path);
        for _ in 0..4 {
            let tree = self.tree(&path)?;
            match file::read_limited(tree, &path, LIMIT) {
                Ok(content) => return Some(content),
                Err(error) if error.is_not_found() => return Some(Vec::new()),
                Err(_) => path = path.parent()?.join(file::read_link(tree, &path).ok()?),
            }
        }
        None
    }

    /// Whether a directory may have something whose name begins so.
    fn may_list(&mut self, path: &str, prefix: &[u8]) -> bool {
        let path = Path::new(path);
        let Some(tree) = self.tree(path) else { return true };
        match resolve::open_directory(tree, path).and_then(|it| file::read_directory(it.as_fd())) {
            Ok(all) => all.iter().any(|it| it.name.as_encoded_bytes().starts_with(prefix)),
            Err(error) => !error.is_not_found(),
        }
    }

    /// Whether others than the account files may know of accounts, or make them when the system starts.
    fn has_other_accounts(&mut self) -> bool {
        let made_at_boot = ["/etc/cloud/cloud.cfg", "/etc/waagent.conf", "/etc/NIXOS"];
        let off = !self.lacks(Path::new("/etc/cloud/cloud-init.disabled"));
        made_at_boot
            .iter()
            .any(|path| !(self.lacks(Path::new(path)) || (off && path.starts_with("/etc/cloud"))))
            || self.may_list("/var/lib/systemd/home", b"")
            || self.may_list("/etc/userdb", b"")
            || CREDENTIALS_OF_SYSTEM.iter().any(|path| self.may_list(path, b"passwd."))
            || self.read("/etc/nsswitch.conf").is_none_or(|text| asks_others(&text))
            || PAM.iter().any(|path| self.read(path).is_none_or(|text| believes_others(&text)))
    }
}

/// Files of pam(8) that say who lets somebody in at a console or by ssh.
const PAM: [&str; 7] = [
    "/etc/pam.d/common-auth",
    "/etc/pam.d/system-auth",
    "/etc/pam.d/system-login",
    "/etc/pam.d/password-auth",
    "/etc/pam.d/login",
    "/etc/pam.d/sshd",
    "/etc/pam.d/gdm-password",
];

/// Where systemd-creds(1) has those of a system.
const CREDENTIALS_OF_SYSTEM: [&str; 3] =
    ["/etc/credstore", "/etc/credstore.encrypted", "/usr/lib/credstore"];

/// Whether nsswitch.conf(5) names a service that has accounts of its own. Those of systemd-homed are in
/// a directory.
fn asks_others(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter_map(|line| {
        let (database, services) = line.split('#').next()?.split_once(':')?;
        ["passwd", "shadow"].contains(&database.trim()).then_some(services)
    });
    let mut services = lines.flat_map(str::split_ascii_whitespace);
    services.any(|it| {
        // `[NOTFOUND=return]` is none.
        !it.contains(['[', '=', ']'])
            && !["files", "systemd", "altfiles", "mymachines"].contains(&it)
    })
}

/// Whether pam.conf(5) has passwords of local accounts checked elsewhere.
fn believes_others(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let others = ["sss", "ldap", "krb5", "winbind", "radius", "tacplus", "kanidm", "himmelblau"];
    lines
        .flat_map(|line| line.split("pam_").skip(1))
        .any(|module| others.iter().any(|other| module.starts_with(other)))
}

/// Whether the kernel, the firmware or the hypervisor has passwords for systemd-sysusers(8). `top`: `/`.
fn has_credentials(top: &Path) -> bool {
    let is_password = |it: std::io::Result<std::fs::DirEntry>| {
        it.is_ok_and(|it| it.file_name().as_encoded_bytes().starts_with(b"passwd."))
    };
    let places = [
        "run/credentials/@system",
        "run/credentials/@encrypted",
        "sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials",
    ];
    let texts = ["proc/cmdline", "sys/firmware/dmi/entries/11-0/raw"];
    let has = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|part| part == word);
    places
        .iter()
        .any(|place| std::fs::read_dir(top.join(place)).is_ok_and(|mut all| all.any(is_password)))
        || texts.iter().any(|file| {
            let text = std::fs::read(top.join(file)).unwrap_or_default();
            has(&text, b"credential") && has(&text, b"passwd.")
        })
}

#[cfg(test)]
mod tests;
