//! Bringing things back from past roots, on real roots.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ebbtide_core::archive;
use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::failure::{Failure, Result};
use ebbtide_core::past::restore::{After, Done, Plan, Replaced, Request, Restore, Step, Wanted};
use ebbtide_core::past::sources::Place;
use ebbtide_core::record::BootNumber;
use ebbtide_sys::tree;
use machine::{Kind, Machine, is_root, read, run, write};

on_each_disk!(
    it_comes_back_as_it_was,
    what_is_there_stays_or_goes_to_the_trash,
    what_an_entry_keeps_is_restored_into_its_store,
    a_cut_after_any_step_loses_nothing,
    what_is_put_there_meanwhile_stays,
    no_planted_link_is_followed,
    elsewhere_nothing_has_privileges,
);

fn request(path: &str) -> Request {
    Request { path: path.into(), wanted: Wanted::Newest, to: None, force: false }
}

fn forced(path: &str) -> Request {
    Request { force: true, ..request(path) }
}

fn open(boot: &Boot, root: &Path) -> Restore {
    Restore::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()))
}

fn restored(boot: &Boot, root: &Path, request: &Request) -> (Plan, Done) {
    let mut restore = open(boot, root);
    let _lock = restore.lock().unwrap();
    let planned = restore.plan(request).unwrap_or_else(|it| panic!("{}", it.chain()));
    let (plan, done) = restore.apply(request).unwrap_or_else(|it| panic!("{}", it.chain()));
    assert_eq!(plan, planned, "what is shown is what is done");
    (plan, done)
}

fn refused(boot: &Boot, root: &Path, request: &Request) -> String {
    let before = names(root);
    let failure = open(boot, root).apply(request).unwrap_err();
    assert_eq!(names(root), before, "a refusal changes nothing");
    failure.chain()
}

/// All paths below a directory, links not followed.
fn names(top: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut pending = vec![top.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

fn working(root: &Path) -> Vec<PathBuf> {
    let is_working = |path: &PathBuf| {
        path.file_name().unwrap().to_string_lossy().starts_with(".ebbtide-restore.")
    };
    let all = names(root).into_iter().filter(|path| !path.starts_with(root.join(".ebbtide")));
    all.filter(is_working).collect()
}

fn set(root: &Path, path: &str, owner: (u32, u32), mode: u32) {
    let path = root.join(path);
    chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Something with all sorts of metadata.
fn make_app(root: &Path) {
    write(root, "opt/vendor/app/bin/su", "#!\n");
    write(root, "opt/vendor/app/data/file", "content\n");
    let app = root.join("opt/vendor/app");
    fs::hard_link(app.join("data/file"), app.join("data/second")).unwrap();
    symlink("/etc/shadow", app.join("link")).unwrap();
    lchown(app.join("link"), Some(7), Some(8)).unwrap();
    run("mkfifo", &[app.join("pipe").to_str().unwrap()]);
    run("setfattr", &["-n", "user.note", "-v", "kept", app.join("data/file").to_str().unwrap()]);
    run("setfacl", &["-m", "u:1000:r", app.join("data/file").to_str().unwrap()]);
    set(root, "opt/vendor/app/bin/su", (0, 1000), 0o4751);
    run("setcap", &["cap_net_raw+ep", app.join("data/file").to_str().unwrap()]);
    set(root, "opt/vendor/app/data", (1000, 1000), 0o2775);
    set(root, "opt/vendor", (1000, 4), 0o1770);
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789);
    fs::File::open(app.join("data")).unwrap().set_modified(time).unwrap();
}

fn it_comes_back_as_it_was(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", make_app);
    machine.boot("", |_| ());
    machine.boot("", |root| {
        assert!(!root.join("opt").exists());
    });
    machine.live("", |root, boot| {
        let planned = open(boot, root).plan(&request("/opt/vendor/app")).unwrap();
        assert!(!root.join("opt").exists(), "a plan changes nothing");
        assert_eq!(planned.from, Place::Boot(BootNumber(1)));
        let parents = ["/opt", "/opt/vendor"].map(PathBuf::from);
        assert_eq!(planned.parents, parents);
        let (plan, done) = restored(boot, root, &request("/opt/vendor/app"));
        assert_eq!((plan.after, plan.replaced), (After::Forgotten, Replaced::Nothing));
        assert_eq!(done, Done::default());
        machine.past(BootNumber(1), |past| {
            let (past, root) = (fs::File::open(past).unwrap(), fs::File::open(root).unwrap());
            let app = Path::new("opt/vendor/app");
            let different = tree::first_difference(past.as_fd(), app, root.as_fd(), app, true);
            assert_eq!(different.unwrap(), None);
        });
        let app = root.join("opt/vendor/app");
        let vendor = fs::metadata(root.join("opt/vendor")).unwrap();
        assert_eq!((vendor.uid(), vendor.gid(), vendor.mode() & 0o7777), (1000, 4, 0o1770));
        let su = fs::metadata(app.join("bin/su")).unwrap();
        assert_eq!((su.uid(), su.gid(), su.mode() & 0o7777), (0, 1000, 0o4751));
        let inode = |name: &str| fs::metadata(app.join(name)).unwrap().ino();
        assert_eq!(inode("data/file"), inode("data/second"));
        let file = app.join("data/file");
        let file = file.to_str().unwrap();
        assert!(run("getcap", &[file]).contains("cap_net_raw"));
        assert!(run("getfattr", &["-n", "user.note", file]).contains("kept"));
        assert!(run("getfacl", &["-n", file]).contains("user:1000:r--"));
        assert_eq!(working(root), Vec::<PathBuf>::new());
        assert!(!root.join(".ebbtide").exists(), "nothing was replaced");
        // A directory of the base, renamed and changed.
        let said = refused(boot, root, &request("/etc/nothing"));
        assert_eq!(said, "cannot restore /etc/nothing: no past root and no base has it");
        let of = |wanted| Request { wanted, ..request("/opt/vendor/app") };
        let said = refused(boot, root, &of(Wanted::Boot(BootNumber(2))));
        assert!(said.ends_with("boot 2 does not have it"), "{said}");
        let said = refused(boot, root, &request("/"));
        assert!(said.contains("the whole root cannot be restored"), "{said}");
    });
    machine.boot("", |root| assert!(!root.join("opt").exists(), "nothing keeps it"));
}

fn what_is_there_stays_or_goes_to_the_trash(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        write(root, "etc/issue", "one\n");
        write(root, "srv/site/page", "one\n");
    });
    machine.live("", |root, boot| {
        let said = refused(boot, root, &request("/etc/issue"));
        assert_eq!(said, "cannot restore /etc/issue: /etc/issue is there already");
        let (plan, done) = restored(boot, root, &forced("/etc/issue"));
        assert_eq!(plan.replaced, Replaced::Trash);
        assert_eq!(read(root, "etc/issue").as_deref(), Some("one\n"));
        assert_eq!(done.trash.as_deref(), Some(Path::new("/.ebbtide/trash/2/etc/issue")));
        let trash = |name: &str| read(root, &format!(".ebbtide/trash/2/{name}"));
        assert_eq!(trash("etc/issue").as_deref(), Some("from the base\n"));
        let own = fs::metadata(root.join(".ebbtide")).unwrap();
        assert_eq!((own.uid(), own.mode() & 0o7777), (0, 0o700));
        let said = refused(
            boot,
            root,
            &Request { wanted: Wanted::Boot(BootNumber(9)), ..forced("/etc/issue") },
        );
        assert!(said.ends_with("there is no past root of boot 9"), "{said}");
        write(root, "etc/issue", "two\n");
        let (_, done) = restored(boot, root, &forced("/etc/issue"));
        assert_eq!(done.trash.as_deref(), Some(Path::new("/.ebbtide/trash/2/etc/issue.1")));
        assert_eq!(trash("etc/issue.1").as_deref(), Some("two\n"));
        // The base's own, which is the same as what went to the trash first.
        restored(boot, root, &Request { wanted: Wanted::Base, ..forced("/etc/issue") });
        assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
        // A directory of the base is exchanged with its old self, as a whole.
        write(root, "srv/site/other", "two\n");
        let said = refused(boot, root, &request("/srv"));
        assert!(said.ends_with("/srv is there already"), "{said}");
        restored(boot, root, &forced("/srv"));
        assert_eq!(read(root, "srv/site/page").as_deref(), Some("one\n"));
        assert!(!root.join("srv/site/other").exists());
        assert_eq!(trash("srv/site/other").as_deref(), Some("two\n"));
        fs::remove_dir_all(root.join("srv/site")).unwrap();
        fs::create_dir(root.join("srv/site")).unwrap();
        let (plan, _) = restored(boot, root, &request("/srv/site"));
        assert_eq!(plan.replaced, Replaced::EmptyDirectory);
        assert_eq!(read(root, "srv/site/page").as_deref(), Some("one\n"));
        // Deleted, and a directory in the place of a file.
        fs::remove_file(root.join("etc/issue")).unwrap();
        fs::create_dir(root.join("etc/issue")).unwrap();
        write(root, "etc/issue/inside", "three\n");
        restored(boot, root, &forced("/etc/issue"));
        assert_eq!(read(root, "etc/issue").as_deref(), Some("one\n"));
        assert_eq!(working(root), Vec::<PathBuf>::new());
        // Mounts would go along.
        let tmpfs = root.join("srv/site/mnt");
        fs::create_dir(&tmpfs).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", tmpfs.to_str().unwrap()]);
        let said = refused(boot, root, &forced("/srv"));
        assert!(said.ends_with("a directory below it is a mount point (/srv/site/mnt)"), "{said}");
        write(root, "srv/site/mnt/page", "on another filesystem\n");
        run("umount", &[tmpfs.to_str().unwrap()]);
        run("mount", &["-t", "tmpfs", "tmpfs", root.join("srv/site").to_str().unwrap()]);
        let said = refused(boot, root, &forced("/srv/site"));
        assert!(said.ends_with("it is a mount point (/srv/site)"), "{said}");
        restored(boot, root, &request("/srv/site/page"));
        write(root, "srv/site/page", "two\n");
        let said = refused(boot, root, &forced("/srv/site/page"));
        assert!(said.contains("is on another filesystem than the root"), "{said}");
        assert_eq!(read(root, "srv/site/page").as_deref(), Some("two\n"));
    });
}

const KEEP: &str = "[keep]\ndirectories = [\"/var/log\", \"/var/lib/later\", \
{ path = \"/var/lib/strict\", mode = \"0700\" }]\n\
files = [\"/etc/late.conf\", { path = \"/etc/hosts\", method = \"sync\" }, \
{ path = \"/etc/linked\", method = \"symlink\" }]\n";

fn what_an_entry_keeps_is_restored_into_its_store(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        write(root, "var/log/app/today", "one\n");
        write(root, "etc/hosts", "one\n");
        write(root, "var/lib/later/db", "one\n");
        write(root, "etc/linked", "one\n");
        write(root, "etc/late.conf", "one\n");
        write(root, "var/lib/strict/db", "one\n");
        set(root, "var/lib/later", (1000, 1000), 0o750);
        set(root, "var/lib/strict", (1000, 1000), 0o755);
    });
    // What a first content would come from.
    machine.boot("", |_| ());
    machine.apply(KEEP);
    machine.live("", |root, boot| {
        let state = |path: &str| machine.look(|top| read(top, &format!("state/{path}")));
        let (plan, done) = restored(boot, root, &request("/var/log/app/today"));
        let After::Kept(kept) = &plan.after else { panic!("{:?}", plan.after) };
        assert_eq!((kept.entry.as_str(), kept.store.0.as_str()), ("/var/log", "state"));
        assert_eq!((plan.parents, done), (vec![PathBuf::from("/var/log/app")], Done::default()));
        assert_eq!(read(root, "var/log/app/today").as_deref(), Some("one\n"));
        assert_eq!(state("var/log/app/today").as_deref(), Some("one\n"));
        write(root, "var/log/app/today", "two\n");
        let (_, done) = restored(boot, root, &forced("/var/log/app/today"));
        let trash = Path::new(".ebbtide/trash/3/var/log/app/today");
        assert_eq!(done.trash.as_deref(), Some(trash));
        assert_eq!(read(root, "var/log/app/today").as_deref(), Some("one\n"));
        assert_eq!(state(trash.to_str().unwrap()).as_deref(), Some("two\n"));
        assert!(!root.join(".ebbtide").exists(), "the store has its own");
        let said = refused(boot, root, &forced("/var/log"));
        assert!(said.ends_with("it is a mount point (/var/log)"), "{said}");

        let (plan, _) = restored(boot, root, &request("/etc/hosts"));
        assert!(matches!(plan.after, After::Synced(_)), "{:?}", plan.after);
        let (plan, _) = restored(boot, root, &request("/etc/late.conf"));
        assert!(matches!(plan.after, After::First(_)), "{:?}", plan.after);
        // Kept since this boot, and empty.
        for path in ["/var/lib/later", "/var/lib/strict"] {
            let (plan, done) = restored(boot, root, &request(path));
            assert!(matches!(plan.after, After::Kept(_)), "{:?}", plan.after);
            assert_eq!((plan.replaced, done), (Replaced::EmptyEntry, Done::default()));
        }
        let like = |path: &str| {
            let found = fs::metadata(root.join(path)).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(like("var/lib/later"), (1000, 1000, 0o750));
        assert_eq!(like("var/lib/strict"), (0, 0, 0o700), "as it is declared");
        assert_eq!(state("var/lib/later/db").as_deref(), Some("one\n"));
        assert_eq!(working(root), Vec::<PathBuf>::new());
        assert_eq!(read(root, "var/lib/later/db").as_deref(), Some("one\n"));
        let said = refused(boot, root, &request("/etc/linked"));
        assert!(said.contains("is kept as a symbolic link into store state"), "{said}");
        // Something hides what the entry keeps: it would be written where nobody looks.
        let hidden = root.join("var/log/app");
        run("mount", &["-t", "tmpfs", "tmpfs", hidden.to_str().unwrap()]);
        let said = refused(boot, root, &request("/var/log/app/today"));
        assert!(said.contains("/var/log/app/today is not what store state has there"), "{said}");
        run("umount", &[hidden.to_str().unwrap()]);
        ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
    });
    let booted = machine.boot("", |root| {
        for path in ["var/log/app/today", "etc/hosts", "etc/late.conf", "var/lib/later/db"] {
            assert_eq!(read(root, path).as_deref(), Some("one\n"), "{path}");
        }
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
}

fn a_cut_after_any_step_loses_nothing(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    let places = ["/etc/deep/er/file", "/var/log/deep/file"];
    // What is kept is from a boot before it was.
    machine.apply("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        for place in places {
            write(root, place, "the past\n");
        }
    });
    machine.apply("[keep]\ndirectories = [\"/var/log\"]\n");
    let steps = [Step::Parents, Step::Prepared, Step::Copied, Step::Placed, Step::Trashed];
    machine.live("", |root, boot| {
        for (place, there) in [(0, false), (0, true), (1, false), (1, true)] {
            for step in steps {
                let place = places[place];
                let parent = root.join(place.trim_start_matches('/'));
                let parent = parent.parent().unwrap();
                let _ = fs::remove_dir_all(parent);
                // What no other attempt has put into the trash.
                let today = format!("of today, {place} {step:?}\n");
                if there {
                    write(root, place, &today);
                }
                let asked = if there { forced(place) } else { request(place) };
                let mut seen = Vec::new();
                let cut = open(boot, root).apply_until(&asked, &mut |done| -> Result<()> {
                    seen.push(done);
                    if done == step { Err(Failure::new("cut")) } else { Ok(()) }
                });
                assert_eq!(cut.unwrap_err().chain(), "cut", "{place} {step:?}");
                let now = read(root, place);
                let whole = [Some("the past\n"), there.then_some(today.as_str())];
                assert!(whole.contains(&now.as_deref()), "{place} {step:?}: {now:?}");
                let all = |text: &str| {
                    let in_root = names(root).into_iter();
                    let files =
                        in_root.filter(|it| fs::read_to_string(it).is_ok_and(|it| it == text));
                    let store = machine.look(|top| {
                        let all = names(&top.join("state")).into_iter();
                        all.filter(|it| fs::read_to_string(it).is_ok_and(|it| it == text)).count()
                    });
                    files.count() + store
                };
                if there {
                    assert!(all(&today) > 0, "{place} {step:?} lost what was there");
                }
                let left = working(root).len();
                assert_eq!(left == 0, step == Step::Parents, "{place} {step:?}");
                // The same again, and nothing of the first attempt is in the way.
                if now.as_deref() == Some("the past\n") {
                    let said = open(boot, root).apply(&forced(place)).unwrap_err().chain();
                    assert!(said.contains("is what is there now"), "{said}");
                    write(root, place, "other\n");
                    let (_, done) = restored(boot, root, &forced(place));
                    let full = step == Step::Placed && there;
                    assert_eq!(done.leftover.is_some(), full, "{place} {step:?}");
                } else {
                    let (plan, done) = restored(boot, root, &asked);
                    assert_eq!(plan.leftover.is_some(), left > 0, "{place} {step:?}");
                    assert_eq!(done.leftover.is_some(), step == Step::Copied, "{place} {step:?}");
                }
                assert_eq!(read(root, place).as_deref(), Some("the past\n"), "{place} {step:?}");
                assert_eq!(working(root), Vec::<PathBuf>::new(), "{place} {step:?}");
                if there {
                    assert!(all(&today) > 0, "{place} {step:?} lost what was there");
                }
            }
        }
        // A name that something else has is not taken for a leftover.
        write(root, "etc/.ebbtide-restore.issue", "of somebody\n");
        fs::write(root.join("etc/issue"), "other").unwrap();
        let said = refused(boot, root, &forced("/etc/issue"));
        assert!(said.contains("has the name that a copy on its way has"), "{said}");
    });
}

fn what_is_put_there_meanwhile_stays(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        write(root, "srv/file", "the past\n");
        write(root, "srv/directory/file", "the past\n");
    });
    machine.live("", |root, boot| {
        fs::create_dir(root.join("srv/directory")).unwrap();
        for path in ["/srv/file", "/srv/directory"] {
            let inner = if path == "/srv/file" { path } else { "/srv/directory/inner" };
            let failed = open(boot, root).apply_until(&request(path), &mut |step| {
                if step == Step::Copied {
                    write(root, inner, "of a program\n");
                }
                Ok(())
            });
            let said = failed.unwrap_err().chain();
            assert!(said.ends_with("something was put there meanwhile"), "{said}");
            assert_eq!(read(root, inner).as_deref(), Some("of a program\n"));
            assert_eq!(working(root), Vec::<PathBuf>::new(), "nothing of the copy stays");
        }
        // The container is locked while it goes on, and not longer.
        let restore = open(boot, root);
        let lock = restore.lock().unwrap();
        let own = boot.open_container().unwrap().open_directory(Path::new("")).unwrap();
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&own, operation).unwrap_err();
        drop(lock);
        rustix::fs::flock(&own, operation).unwrap();
    });
}

fn no_planted_link_is_followed(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        write(root, "home/alice/notes/file", "mine\n");
        write(root, "secret/key", "of root\n");
        fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("/secret", root.join("home/alice/pictures")).unwrap();
        symlink("../../secret/key", root.join("home/alice/key")).unwrap();
    });
    machine.live("", |root, boot| {
        // In the past root.
        let said = refused(boot, root, &request("/home/alice/pictures/key"));
        assert!(said.ends_with("no past root and no base has it"), "{said}");
        let (_, _) = restored(boot, root, &request("/home/alice/key"));
        let link = fs::read_link(root.join("home/alice/key")).unwrap();
        assert_eq!(link, Path::new("../../secret/key"), "a link comes back as a link");
        // In the running one.
        let outside = root.join("outside");
        fs::create_dir(&outside).unwrap();
        let notes = root.join("home/alice/notes");
        symlink(&outside, &notes).unwrap();
        let said = refused(boot, root, &request("/home/alice/notes/file"));
        assert!(said.contains("ELOOP") || said.contains("symbolic link"), "{said}");
        assert!(fs::read_dir(&outside).unwrap().next().is_none());
        let (_, done) = restored(boot, root, &forced("/home/alice/notes"));
        assert!(done.trash.unwrap().starts_with("/.ebbtide/trash"));
        assert!(notes.is_dir() && !notes.is_symlink());
        assert!(fs::read_dir(&outside).unwrap().next().is_none());

        // While it goes on, somebody exchanges the directory for a link and back.
        let stop = AtomicBool::new(false);
        let held = root.join("home/alice/held");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if fs::rename(&notes, &held).is_ok() {
                        let _ = symlink(&outside, &notes);
                        let _ = fs::remove_file(&notes);
                        let _ = fs::rename(&held, &notes);
                    }
                }
            });
            let mut done = 0;
            for _ in 0..50 {
                let _ = fs::remove_file(notes.join("file"));
                let _ = fs::remove_file(held.join("file"));
                done +=
                    usize::from(open(boot, root).apply(&request("/home/alice/notes/file")).is_ok());
            }
            stop.store(true, Ordering::Relaxed);
            assert!(done > 0, "some get through");
        });
        assert!(fs::read_dir(&outside).unwrap().next().is_none(), "nothing is written elsewhere");
    });
}

fn elsewhere_nothing_has_privileges(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        make_app(root);
        run("mknod", &[root.join("opt/null").to_str().unwrap(), "c", "1", "3"]);
    });
    machine.live("", |root, boot| {
        let directory = tempfile::tempdir_in(root.join("tmp")).unwrap();
        let to = |path: &str| Request { to: Some(directory.path().to_owned()), ..request(path) };
        let (plan, done) = restored(boot, root, &to("/opt/vendor/app"));
        assert_eq!((plan.after, plan.to), (After::Elsewhere, directory.path().join("app")));
        let mut unprivileged = done.unprivileged;
        unprivileged.sort();
        assert_eq!(unprivileged[0], Path::new("bin/su"));
        assert!(unprivileged[1].starts_with("data") && unprivileged.len() == 2, "one of two names");
        let app = directory.path().join("app");
        let su = fs::metadata(app.join("bin/su")).unwrap();
        assert_eq!((su.uid(), su.gid(), su.mode() & 0o7777), (0, 1000, 0o751));
        assert_eq!(run("getcap", &[app.join("data/file").to_str().unwrap()]), "");
        assert_eq!(read(&app, "data/file").as_deref(), Some("content\n"));
        assert!(!root.join("opt").exists(), "only there");
        let said = refused(boot, root, &to("/opt/vendor/app"));
        assert!(said.ends_with("/app is there already"), "{said}");
        let said = refused(boot, root, &to("/opt/null"));
        assert!(said.ends_with("a device is restored to its own place only"), "{said}");
        let nowhere = Request { to: Some("/does/not/exist".into()), ..request("/opt/vendor/app") };
        let said = refused(boot, root, &nowhere);
        assert!(said.starts_with("cannot restore to /does/not/exist"), "{said}");
    });
}

#[test]
fn from_an_archive_of_a_root_in_ram() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(Kind { backend: Backend::Tmpfs, filesystem: "ext4" });
    machine.set_up_with("archive = \"10M\"\n", "[keep]\ndirectories = []\n");
    machine.live("", |root, boot| {
        make_app(root);
        archive::archive(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
    });
    machine.live("", |root, boot| {
        let (plan, _) = restored(boot, root, &request("/opt/vendor/app/data/file"));
        assert_eq!(plan.from, Place::Boot(BootNumber(1)));
        assert_eq!(read(root, "opt/vendor/app/data/file").as_deref(), Some("content\n"));
        write(root, "opt/vendor/app/data/file", "other\n");
        let (_, done) = restored(boot, root, &forced("/opt/vendor/app/data/file"));
        let trash = done.trash.unwrap();
        assert_eq!(read(root, trash.to_str().unwrap()).as_deref(), Some("other\n"));
    });
}

#[test]
fn only_the_root_that_runs_is_restored_to() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| write(root, "srv/file", "x"));
    machine.live("", |_, boot| {
        let other = tempfile::tempdir().unwrap();
        let said = refused(boot, other.path(), &request("/srv/file"));
        assert!(said.contains("does not run on a root of that container"), "{said}");
        let to = Request { to: Some(other.path().to_owned()), ..request("/srv/file") };
        restored(boot, other.path(), &to);
        assert_eq!(read(other.path(), "file").as_deref(), Some("x"));
    });
}
