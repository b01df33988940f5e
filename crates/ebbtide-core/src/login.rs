//! Who can log in: a reset must not lock out all who could log in to the last root.
//!
//! All that is not sure speaks for the reset. An account that others than the account files know of, a home
//! that is somewhere else, a file that cannot be read: a new root may have a way in that is not seen here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::{self, Login};
use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::{file, resolve};

use crate::compiled::{Compiled, Entry, StoreName};
use crate::failure::{Failure, Level, Problem};
use crate::store;

/// No file that is read here is larger, in bytes: accounts are compared each with each.
const LIMIT: u64 = 1 << 17;

/// Who could log in to the last root with a password, and can't to a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Their names, escaped.
    names: String,
    /// Whether nobody else can either.
    pub nobody: bool,
    base: u64,
}

const HINT: &str = "keep the account files: add \"accounts\" to `presets` below [keep]";

impl Lost {
    /// `root`: whose password it is.
    fn problem(&self, level: Level, consequence: &str, root: &str) -> Problem {
        let nobody = if self.nobody { "no password and no key for anybody" } else { "none" };
        let Self { names, base, .. } = self;
        let message =
            format!("{consequence}{root} has a password for {names}, and base {base} {nobody}");
        Problem { hint: Some(HINT.to_owned()), ..Problem::new(level, message) }
    }

    /// Why the root is not reset.
    pub fn refusal(&self) -> Failure {
        let problem =
            self.problem(Level::Error, "nobody could log in to a new one: ", "the last one");
        Failure::new(problem.message).hint(format!(
            "{HINT}, or say `require-login = false` below [root]; then run `ebbtide apply`"
        ))
    }

    /// What is said where the root is reset all the same.
    pub fn warning(&self, required: bool) -> Problem {
        match (self.nobody, required) {
            (true, _) => {
                self.problem(Level::Warning, "nobody may be able to log in: ", "the last root")
            }
            (false, true) => self.problem(Level::Warning, "", "the last root"),
            // Where accounts come and go, somebody has said so.
            (false, false) => self.problem(Level::Notice, "", "the last root"),
        }
    }

    /// What is said before the reset, while the root runs.
    pub fn ahead(&self, required: bool) -> Problem {
        let (level, consequence) = match (self.nobody, required) {
            (true, true) => (Level::Warning, "the next boot will not reset the root: "),
            (true, false) => (Level::Warning, "nobody may be able to log in after a reset: "),
            (false, _) => (Level::Notice, ""),
        };
        let hint = Some(format!("{HINT}, then run `ebbtide apply`"));
        Problem { hint, ..self.problem(level, consequence, "this root") }
    }
}

/// Who loses their way in when a root is exchanged for a new one of this base. `None`: nobody, as far as
/// can be told.
pub(crate) fn lost(
    root: BorrowedFd<'_>,
    (number, base): (u64, BorrowedFd<'_>),
    compiled: &Compiled,
) -> Option<Lost> {
    let mut new = NewRoot { base, compiled, stores: Vec::new() };
    if ["/etc/passwd", "/etc/shadow"].iter().any(|path| new.entry(Path::new(path)).is_some()) {
        return None;
    }
    let (had, has) = (read(root)?, read(base)?);
    let (names, nobody) = compare(&had, &has, &mut |account| new.may_have_key(account))?;
    // What costs most is looked at last, and rarely.
    if new.has_other_accounts() || has_credentials(Path::new("/")) {
        return None;
    }
    Some(Lost { names, nobody, base: number })
}

fn read(tree: BorrowedFd<'_>) -> Option<Vec<Login>> {
    let [passwd, shadow] = ["etc/passwd", "etc/shadow"]
        .map(|path| file::read_limited(tree, Path::new(path), LIMIT).ok());
    Some(accounts::logins(&passwd?, &shadow?))
}

/// Who loses their way in, and whether nobody has one then.
fn compare(
    had: &[Login],
    has: &[Login],
    may_have_key: &mut dyn FnMut(&Login) -> bool,
) -> Option<(String, bool)> {
    let mut can = |it: &Login| it.has_password || (is_person(it) && may_have_key(it));
    let (mut names, mut count) = (String::new(), 0);
    for old in had {
        let could = is_person(old) && old.has_password && !old.expires;
        if !could || has.iter().find(|new| new.name == old.name).is_some_and(&mut can) {
            continue;
        }
        count += 1;
        match count {
            1 => {}
            2 | 3 => names.push_str(", "),
            4 => names.push_str(" and others"),
            _ => continue,
        }
        if count < 4 {
            names.push_str(&ebbtide_sys::escape(old.name.as_bytes()));
        }
    }
    (count > 0).then(|| (names, !has.iter().any(can)))
}

/// Root, or a user as useradd(8) numbers them. What others have is for services.
fn is_person(account: &Login) -> bool {
    account.uid == 0 || (1000..=60_000).contains(&account.uid)
}

/// What a new root would have.
struct NewRoot<'a> {
    base: BorrowedFd<'a>,
    compiled: &'a Compiled,
    stores: Vec<(&'a StoreName, Option<OwnedFd>)>,
}

impl<'a> NewRoot<'a> {
    /// The innermost entry that a path lies in.
    fn entry(&self, path: &Path) -> Option<&'a Entry> {
        self.compiled.entries.iter().rev().find(|entry| path.starts_with(&entry.path))
    }

    /// The tree that a path comes from. `None`: that is not known yet, or not known here.
    fn tree(&mut self, path: &Path) -> Option<BorrowedFd<'_>> {
        let Some(entry) = self.entry(path) else {
            let is_elsewhere =
                self.compiled.root.mounts.iter().any(|mount| path.starts_with(&mount.path));
            return (!is_elsewhere).then_some(self.base);
        };
        if !self.stores.iter().any(|(name, _)| **name == entry.store) {
            let wanted = self.compiled.stores.get(&entry.store)?;
            self.stores.push((&entry.store, store::open(wanted.place(), wanted.uuid).ok()));
        }
        let (_, store) = self.stores.iter().find(|(name, _)| **name == entry.store)?;
        let store = store.as_ref()?.as_fd();
        // Its first content comes from the last root, or from elsewhere.
        metadata::metadata_beneath(store, &entry.path).ok()??;
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
        self.tree(path).is_none_or(|tree| may_list(tree, path, prefix))
    }

    /// Whether others than the account files may know of accounts, or make them when the system starts.
    fn has_other_accounts(&mut self) -> bool {
        let mut has = |path: &str| !self.lacks(Path::new(path));
        let makes_accounts = has("/etc/NIXOS")
            || has("/etc/waagent.conf")
            || (has("/etc/cloud/cloud.cfg") && !has("/etc/cloud/cloud-init.disabled"));
        makes_accounts
            || self.may_list("/var/lib/systemd/home", b"")
            || self.may_list("/etc/userdb", b"")
            || CREDENTIALS_OF_SYSTEM.iter().any(|path| self.may_list(path, b"passwd."))
            || self.read("/etc/nsswitch.conf").is_none_or(|text| asks_others(&text))
            || PAM.iter().any(|path| self.read(path).is_none_or(|text| believes_others(&text)))
    }
}

fn may_list(tree: BorrowedFd<'_>, path: &Path, prefix: &[u8]) -> bool {
    match resolve::open_directory(tree, path).and_then(|it| file::read_directory(it.as_fd())) {
        Ok(all) => all.iter().any(|it| it.name.as_encoded_bytes().starts_with(prefix)),
        Err(error) => !error.is_not_found(),
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

/// The lines of a configuration file without their comments.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line = |line: &'_ [u8]| line.iter().position(|byte| *byte == b'#').unwrap_or(line.len());
    text.split(|byte| *byte == b'\n').map(move |it| it.get(..line(it)).unwrap_or_default())
}

/// Whether nsswitch.conf(5) names a service that has accounts of its own. Those of systemd-homed are in
/// a directory.
fn asks_others(text: &[u8]) -> bool {
    const OWN: [&[u8]; 6] = [b"", b"passwd:", b"shadow:", b"files", b"systemd", b"altfiles"];
    let is_about_accounts = |line: &&[u8]| {
        let line = line.trim_ascii_start();
        line.starts_with(b"passwd:") || line.starts_with(b"shadow:")
    };
    let mut words = lines(text)
        .filter(is_about_accounts)
        .flat_map(|line| line.split(|byte| byte.is_ascii_whitespace() || *byte == b']'));
    // `[NOTFOUND=return]` is no service.
    words.any(|word| !word.contains(&b'=') && !OWN.contains(&word))
}

/// Whether pam.conf(5) has passwords of local accounts checked elsewhere.
fn believes_others(text: &[u8]) -> bool {
    const OTHERS: [&[u8]; 8] = [
        b"pam_sss",
        b"pam_ldap",
        b"pam_krb5",
        b"pam_winbind",
        b"pam_radius",
        b"pam_tacplus",
        b"pam_kanidm",
        b"pam_himmelblau",
    ];
    lines(text).any(|line| OTHERS.iter().any(|other| contains(line, other)))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether the kernel, the firmware or the hypervisor has passwords for systemd-sysusers(8). `top`: `/`.
fn has_credentials(top: &Path) -> bool {
    let Ok(top) = std::fs::File::open(top) else { return false };
    let places = [
        "run/credentials/@system",
        "run/credentials/@encrypted",
        "sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials",
    ];
    let texts = ["proc/cmdline", "sys/firmware/dmi/entries/11-0/raw"];
    places.iter().any(|place| may_list(top.as_fd(), Path::new(place), b"passwd."))
        || texts.iter().any(|path| {
            let text = file::read_limited(top.as_fd(), Path::new(path), LIMIT).unwrap_or_default();
            contains(&text, b"credential") && contains(&text, b"passwd.")
        })
}

#[cfg(test)]
mod tests;
