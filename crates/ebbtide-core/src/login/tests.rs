use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::compiled::{
    Backend, ContainerRef, DeviceSpec, Kind, Method, Origin, Root, VERSION, VolumeMount,
};

const BASE: u64 = 3;

/// A line of each account file for `name:uid:hash`.
fn files(accounts: &str) -> (String, String) {
    let (mut passwd, mut shadow) = (String::new(), String::new());
    for account in accounts.split_whitespace() {
        let mut fields = account.split(':');
        let mut next = || fields.next().unwrap();
        let (name, uid, hash) = (next(), next(), next());
        let shell = if hash == "nologin" { "/usr/sbin/nologin" } else { "/bin/bash" };
        let home = if uid == "0" { "/root".to_owned() } else { format!("/home/{name}") };
        writeln!(passwd, "{name}:x:{uid}:{uid}::{home}:{shell}").unwrap();
        writeln!(shadow, "{name}:{hash}:19000:0:99999:7:::").unwrap();
    }
    (passwd, shadow)
}

fn logins(accounts: &str) -> Vec<Login> {
    let (passwd, shadow) = files(accounts);
    accounts::logins(passwd.as_bytes(), shadow.as_bytes())
}

/// Who loses their way in, with a `!` if nobody has one then; `keys` are for these accounts.
fn compared(had: &str, has: &str, keys: &[&str]) -> String {
    let mut has_key = |it: &Login| keys.contains(&it.name.as_str());
    match compare(&logins(had), &logins(has), &mut has_key) {
        None => String::new(),
        Some((names, nobody)) => names + if nobody { "!" } else { "" },
    }
}

#[test]
fn a_reset_is_refused_if_somebody_could_log_in_and_nobody_can() {
    for (had, has, keys, expected) in [
        // A password was set on the root, and the base has none for anybody.
        ("root:0:* alice:1000:$6$a", "root:0:* alice:1000:!", &[][..], "alice!"),
        ("root:0:$6$a alice:1000:!", "root:0:* alice:1000:!", &[], "root!"),
        ("root:0: alice:1000:!", "root:0:! alice:1000:!", &[], "root!"),
        ("root:0:$y$a alice:1000:$y$b", "root:0:*", &[], "root, alice!"),
        ("alice:1000:$6$a", "alice:1000:nologin", &[], "alice!"),
        ("alice:1000:$6$a", "", &[], "alice!"),
        // A service is nobody.
        ("alice:1000:$6$a", "alice:1000:! git:998:!", &["git"], "alice!"),
        ("a:1001: b:1002: c:1003: d:1004: e:1005:", "root:0:*", &[], "a, b, c and others!"),
        ("\u{1b}[31m:1000:$6$a", "", &[], "\\x1b[31m!"),
        // Somebody else can.
        ("root:0:$6$a bob:1001:$6$b", "root:0:$6$a", &[], "bob"),
        ("root:0:* bob:1001:$6$b", "root:0:* alice:1000:$6$a", &[], "bob"),
        ("root:0:$6$a alice:1000:!", "root:0:* alice:1000:!", &["alice"], "root"),
        ("bob:1001:$6$b", "bob:1001:! admin:500:$6$a", &[], "bob"),
        // All can who could.
        ("root:0:$6$a alice:1000:$6$b", "root:0:$6$a alice:1000:$6$b", &[], ""),
        ("alice:1000:$6$new", "alice:1000:$6$old", &[], ""),
        ("root:0:$6$a", "root:0:", &[], ""),
        ("alice:1000:$6$a", "alice:1000:!", &["alice"], ""),
        // Nobody could with a password: by keys, by a directory, or by nothing at all.
        ("root:0:* alice:1000:!", "root:0:*", &[], ""),
        ("root:0:! alice:1000:!", "root:0:! alice:1000:!", &["alice"], ""),
        ("root:0:*", "root:0:*", &[], ""),
        ("", "", &[], ""),
        // What only services lose is not asked for.
        ("postgres:113:$6$a root:0:!", "postgres:113:! root:0:!", &[], ""),
        ("nobody:65534:$6$a", "nobody:65534:*", &[], ""),
    ] {
        assert_eq!(compared(had, has, keys), expected, "{had} -> {has}, keys {keys:?}");
    }
    let mut expired = logins("alice:1000:$6$a");
    expired[0].expires = true;
    assert_eq!(compare(&expired, &[], &mut |_| false), None);
}

/// An old and a new root in directories.
struct Roots {
    directory: tempfile::TempDir,
    compiled: Compiled,
}

impl Roots {
    /// Nobody can log in to the new one, and alice has a password in the old one.
    fn locked_out() -> Self {
        let roots = Self { directory: tempfile::tempdir().unwrap(), compiled: compiled() };
        roots.accounts("old", "root:0:* alice:1000:$6$a");
        roots.accounts("base", "root:0:* alice:1000:!");
        for directory in ["base/root", "base/home/alice", "base/etc/pam.d"] {
            fs::create_dir_all(roots.directory.path().join(directory)).unwrap();
        }
        roots.write("base/etc/nsswitch.conf", "# sss\npasswd: files systemd\ngroup: files sss\n");
        roots.write("base/etc/pam.d/common-auth", "# pam_sss.so\nauth required pam_unix.so\n");
        roots
    }

    fn accounts(&self, tree: &str, accounts: &str) {
        let (passwd, shadow) = files(accounts);
        self.write(&format!("{tree}/etc/passwd"), &passwd);
        self.write(&format!("{tree}/etc/shadow"), &shadow);
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// An entry in a store that cannot be opened here.
    fn keep(&mut self, path: &str, kind: Kind) {
        self.compiled.entries.push(Entry {
            path: path.into(),
            kind,
            store: StoreName("state".to_owned()),
            method: Method::default(),
            user: None,
            group: None,
            mode: None,
            parent: None,
            options: Vec::new(),
            optional: false,
            lazy: false,
            home: None,
            units: Vec::new(),
            origin: Origin { file: String::new(), line: 0 },
        });
    }

    fn lost(&self) -> Option<Lost> {
        let open = |name| fs::File::open(self.directory.path().join(name)).unwrap();
        lost(open("old").as_fd(), (BASE, open("base").as_fd()), &self.compiled)
    }
}

fn compiled() -> Compiled {
    Compiled {
        version: VERSION,
        root: Root {
            backend: Backend::Btrfs,
            device: DeviceSpec("LABEL=system".to_owned()),
            container: ContainerRef { path: "ebbtide".into(), uuid: uuid::Uuid::nil() },
            options: Vec::new(),
            size: None,
            archive: None,
            writable: true,
            tmpfs: Vec::new(),
            mounts: Vec::new(),
            audit: false,
            require_login: true,
            keep_boots: None,
        },
        stores: BTreeMap::new(),
        entries: Vec::new(),
    }
}

#[test]
fn a_lockout_is_seen() {
    let roots = Roots::locked_out();
    let lost = Lost { names: "alice".to_owned(), nobody: true, base: BASE };
    assert_eq!(roots.lost(), Some(lost.clone()));
    // An empty list of keys lets nobody in.
    roots.write("base/home/alice/.ssh/authorized_keys", "");
    roots.write("base/etc/cloud/cloud-init.disabled", "x");
    roots.write("base/etc/cloud/cloud.cfg", "users: [default]\n");
    assert_eq!(roots.lost(), Some(lost));
}

#[test]
fn whatever_may_be_a_way_in_is_taken_for_one() {
    type Change = fn(&mut Roots);
    let ways: &[(&str, Change)] = &[
        ("key", |it| it.write("base/home/alice/.ssh/authorized_keys", "ssh-ed25519 A\n")),
        ("key of root", |it| it.write("base/root/.ssh/authorized_keys2", "ssh-ed25519 A\n")),
        ("keys by name", |it| it.write("base/etc/ssh/authorized_keys.d/alice", "ssh-ed25519 A\n")),
        ("home elsewhere", |it| {
            fs::remove_dir(it.directory.path().join("base/home/alice")).unwrap();
        }),
        ("home behind a link", |it| {
            let home = it.directory.path().join("base/home");
            fs::remove_dir_all(&home).unwrap();
            symlink("var/home", home).unwrap();
        }),
        ("home that is kept and not to be seen", |it| it.keep("/home", Kind::Directory)),
        ("home on a volume", |it| {
            it.compiled.root.mounts.push(VolumeMount {
                path: "/home".into(),
                device: DeviceSpec("LABEL=home".to_owned()),
                subvolume: None,
                directory: None,
                options: Vec::new(),
            });
        }),
        ("SSSD", |it| it.write("base/etc/nsswitch.conf", "passwd:\tfiles sss\n")),
        ("LDAP", |it| {
            it.write("base/etc/nsswitch.conf", "passwd: files [NOTFOUND=continue] ldap\n");
        }),
        ("NIS", |it| it.write("base/etc/nsswitch.conf", "passwd: compat\n")),
        ("a link of authselect", |it| {
            let conf = it.directory.path().join("base/etc/nsswitch.conf");
            fs::remove_file(&conf).unwrap();
            symlink("/etc/authselect/nsswitch.conf", conf).unwrap();
            it.write("base/etc/authselect/nsswitch.conf", "passwd: sss files\n");
        }),
        ("a link that leads nowhere", |it| {
            let conf = it.directory.path().join("base/etc/nsswitch.conf");
            fs::remove_file(&conf).unwrap();
            symlink("../../etc/nsswitch.conf", conf).unwrap();
        }),
        ("Kerberos", |it| {
            it.write("base/etc/pam.d/common-auth", "auth [success=2 default=ignore] pam_krb5.so\n");
        }),
        ("systemd-homed", |it| it.write("base/var/lib/systemd/home/bob.identity", "{}")),
        ("userdb", |it| it.write("base/etc/userdb/bob.user", "{}")),
        ("cloud-init", |it| it.write("base/etc/cloud/cloud.cfg", "users: [default]\n")),
        ("NixOS", |it| it.write("base/etc/NIXOS", "x")),
        ("a credential", |it| it.write("base/etc/credstore/passwd.hashed-password.root", "x")),
        ("account files that are kept", |it| it.keep("/etc/passwd", Kind::File)),
        ("only one of them", |it| it.keep("/etc/shadow", Kind::File)),
        ("all of /etc", |it| it.keep("/etc", Kind::Directory)),
        ("no shadow in the base", |it| {
            fs::remove_file(it.directory.path().join("base/etc/shadow")).unwrap();
        }),
        ("no accounts in the base", |it| {
            fs::remove_dir_all(it.directory.path().join("base/etc")).unwrap();
        }),
        ("no accounts in the old root", |it| {
            fs::remove_file(it.directory.path().join("old/etc/passwd")).unwrap();
        }),
        ("a planted link", |it| {
            let shadow = it.directory.path().join("old/etc/shadow");
            fs::rename(&shadow, it.directory.path().join("old/shadow")).unwrap();
            symlink("../shadow", shadow).unwrap();
        }),
        ("more than is read", |it| {
            let line = "alice:$6$a:1::::::\n";
            it.write("old/etc/shadow", &line.repeat(1 << 16));
        }),
        ("a file that a power cut emptied", |it| it.write("old/etc/shadow", "")),
    ];
    for (name, change) in ways {
        let mut roots = Roots::locked_out();
        change(&mut roots);
        // Of a way in for somebody else, those hear who lose theirs.
        let nobody = roots.lost().is_some_and(|lost| lost.nobody);
        assert!(!nobody, "{name}");
        assert!(roots.lost().is_none() || *name == "key of root", "{name}");
    }
}

#[test]
fn a_configuration_that_links_to_plain_files_is_one_of_plain_files() {
    let roots = Roots::locked_out();
    let conf = roots.directory.path().join("base/etc/nsswitch.conf");
    fs::remove_file(&conf).unwrap();
    symlink("/etc/authselect/nsswitch.conf", conf).unwrap();
    roots.write(
        "base/etc/authselect/nsswitch.conf",
        "passwd: files [!UNAVAIL=return] systemd # sss\nshadow: files\n",
    );
    assert!(roots.lost().unwrap().nobody);
}

#[test]
fn an_entry_whose_first_content_is_to_come_may_have_a_key() {
    let mut roots = Roots::locked_out();
    roots.keep("/srv", Kind::Directory);
    assert!(roots.lost().unwrap().nobody, "it is no home");
    roots.keep("/home/alice/.ssh/authorized_keys", Kind::File);
    assert_eq!(roots.lost(), None);
}

#[test]
fn passwords_from_outside_are_heard_of() {
    let has = |path: &str, content: &[u8]| {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        has_credentials(top.path())
    };
    assert!(has("run/credentials/@system/passwd.hashed-password.root", b"$6$"));
    assert!(!has("run/credentials/@system/ssh.authorized_keys.root", b"key"));
    let qemu = "sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";
    assert!(has(&format!("{qemu}/passwd.plaintext-password.alice/raw"), b"x"));
    let line = b"quiet systemd.set_credential=passwd.hashed-password.root:$6$";
    assert!(has("proc/cmdline", line));
    assert!(!has("proc/cmdline", b"root=LABEL=passwd.img quiet"));
    let table = b"\x0b\x05\0\0\x01io.systemd.credential:passwd.shell.root=x\0\0";
    assert!(has("sys/firmware/dmi/entries/11-0/raw", table));
}

#[test]
fn what_is_said() {
    let lost = |nobody| Lost { names: "alice, bob".to_owned(), nobody, base: BASE };
    let (nobody, some) = (lost(true), lost(false));
    let said = |problem: Problem| format!("{:?}: {problem}", problem.level);
    insta::assert_snapshot!(said(nobody.refusal().into()), @r#"Error: nobody could log in to a new one: the last one has a password for alice, bob, and base 3 no password and no key for anybody (keep the account files: add "accounts" to `presets` below [keep], or say `require-login = false` below [root]; then run `ebbtide apply`)"#);
    insta::assert_snapshot!(said(nobody.warning(false)), @r#"Warning: nobody may be able to log in: the last root has a password for alice, bob, and base 3 no password and no key for anybody (keep the account files: add "accounts" to `presets` below [keep])"#);
    insta::assert_snapshot!(said(some.warning(true)), @r#"Warning: the last root has a password for alice, bob, and base 3 none (keep the account files: add "accounts" to `presets` below [keep])"#);
    insta::assert_snapshot!(said(nobody.ahead(true)), @r#"Warning: the next boot will not reset the root: this root has a password for alice, bob, and base 3 no password and no key for anybody (keep the account files: add "accounts" to `presets` below [keep], then run `ebbtide apply`)"#);
    insta::assert_snapshot!(said(nobody.ahead(false)), @r#"Warning: nobody may be able to log in after a reset: this root has a password for alice, bob, and base 3 no password and no key for anybody (keep the account files: add "accounts" to `presets` below [keep], then run `ebbtide apply`)"#);
    insta::assert_snapshot!(said(some.ahead(true)), @r#"Notice: this root has a password for alice, bob, and base 3 none (keep the account files: add "accounts" to `presets` below [keep], then run `ebbtide apply`)"#);
    assert_eq!(some.warning(false).level, Level::Notice);
    assert_eq!(nobody.warning(true), nobody.warning(false));
}
