//! Bringing a running system to another declaration, on loop images.

#![allow(clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ebbtide_core::boot::Boot;
use ebbtide_core::failure::Level;
use ebbtide_core::flush::Flush;
use ebbtide_core::live::{Applied, Live, Plan, When, Work};
use ebbtide_core::shutdown;
use ebbtide_core::status;
use ebbtide_sys::mountinfo;
use machine::{Kind, Machine, read, write};

on_each_disk!(
    a_new_entry_is_attached_with_what_is_there,
    what_a_process_uses_waits_and_comes_with_the_next_boot,
    nested_entries_of_two_stores_appear_together,
    what_is_not_declared_any_more_is_unmounted_unless_it_is_in_use,
    two_versions_are_not_mixed,
    a_new_sync_file_is_in_its_store_at_once_and_taken_back_later,
    mount_options_change_without_a_new_mount,
    a_boot_on_the_last_root_as_it_was_changes_nothing,
    a_failure_in_the_middle_leaves_what_was,
    a_line_written_meanwhile_is_not_lost_in_silence,
    what_only_its_user_uses_comes_with_their_next_login,
    a_file_that_was_seen_to_be_replaced_is_synced_from_then_on,
    a_file_on_another_mount_is_not_taken_for_a_part_of_the_root,
);

const KEPT: &str = "[keep]\ndirectories = [\"/var/log\"]\n";

/// Publishes a declaration and brings the running root to it, as `ebbtide apply` does.
fn apply(machine: &Machine, root: &Path, boot: &Boot, rest: &str) -> Applied {
    machine.publish(rest);
    let (hash, compiled) = status::declaration(boot, &machine.open()).unwrap();
    let live = Live::open(boot, root, &compiled, None).unwrap().unwrap();
    let mut log = |_: Level, _: &str| ();
    live.apply(&hash, &mut log).unwrap_or_else(|it| panic!("{}", it.chain()))
}

fn when(plan: &Plan, path: &str) -> Option<(Work, When)> {
    let change = plan.changes.iter().find(|change| change.path == Path::new(path))?;
    Some((change.work.clone(), change.when.clone()))
}

fn why(plan: &Plan, path: &str) -> String {
    let change = plan.changes.iter().find(|change| change.path == Path::new(path)).unwrap();
    change.why.clone().unwrap()
}

fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let mounts = mountinfo::read_self().unwrap();
    mounts
        .into_iter()
        .filter_map(|it| it.mount_point.strip_prefix(root).map(Path::to_owned).ok())
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

fn no_staging(boot: &Boot) {
    let staging = boot.run.join("staging");
    assert!(!staging.exists(), "the staging place is gone");
}

/// A process that is somewhere, until it is dropped.
struct Process(Child);

impl Process {
    fn at(directory: &Path) -> Self {
        let child = Command::new("cat")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn a_new_entry_is_attached_with_what_is_there(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        write(root, "/srv/site/index", "hello");
        let applied = apply(
            &machine,
            root,
            boot,
            "[keep]\ndirectories = [\"/var/log\", \"/srv\", { path = \"/opt/new\", mode = \"0750\" }]\n",
        );
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Attach, When::Now)));
        assert!(mounts_below(root).contains(&PathBuf::from("srv")));
        assert_eq!(read(root, "/srv/site/index").as_deref(), Some("hello"));
        let mode = fs::metadata(root.join("opt/new")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o750);
        no_staging(boot);
        write(root, "/srv/site/index", "hello again");
        let status = Machine::status(boot, root);
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        shutdown::detach(&boot.run, &mut |_, _| ()).unwrap();
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "/srv/site/index").as_deref(), Some("hello again"));
    });
}

fn what_a_process_uses_waits_and_comes_with_the_next_boot(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        write(root, "/srv/data", "one");
        let process = Process::at(&root.join("srv"));
        let rest = "[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n";
        let applied = apply(&machine, root, boot, rest);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Attach, When::NextBoot)));
        assert!(why(&applied.plan, "/srv").starts_with("cat ("), "{:?}", applied.plan.changes);
        assert!(!mounts_below(root).contains(&PathBuf::from("srv")));
        write(root, "/srv/data", "two");
        // What waits is no fault.
        let status = Machine::status(boot, root);
        assert!(status.ok, "{:?}", status.problems);
        drop(process);
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| assert_eq!(read(root, "/srv/data").as_deref(), Some("two")));
}

fn nested_entries_of_two_stores_appear_together(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk("second", "ext4");
    machine.set_up(KEPT);
    let rest = format!(
        "[store.cache]\ndevice = \"{disk}\"\nclass = \"cache\"\n[keep]\ndirectories = [\"/var/log\", \
         \"/home\", {{ path = \"/home/alice/.cache\", store = \"cache\" }}]\n"
    );
    machine.live("", |root, boot| {
        write(root, "/home/alice/.cache/big", "much");
        let applied = apply(&machine, root, boot, &rest);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        let mounts = mounts_below(root);
        assert!(mounts.contains(&PathBuf::from("home")), "{mounts:?}");
        assert!(mounts.contains(&PathBuf::from("home/alice/.cache")), "{mounts:?}");
        assert_eq!(read(root, "/home/alice/.cache/big").as_deref(), Some("much"));
        assert_eq!(read(root, "/home/alice/letter").as_deref(), Some("dear\n"));
        no_staging(boot);
        // Again: nothing to do.
        let again = apply(&machine, root, boot, &rest);
        assert!(again.plan.changes.is_empty(), "{:?}", again.plan.changes);
        shutdown::detach(&boot.run, &mut |_, _| ()).unwrap();
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "/home/alice/.cache/big").as_deref(), Some("much"));
    });
}

fn what_is_not_declared_any_more_is_unmounted_unless_it_is_in_use(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n");
    machine.live("", |root, boot| {
        write(root, "/srv/data", "kept");
        let process = Process::at(&root.join("srv"));
        let applied = apply(&machine, root, boot, KEPT);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Detach, When::NextBoot)));
        assert_eq!(read(root, "/srv/data").as_deref(), Some("kept"));
        drop(process);
        let applied = apply(&machine, root, boot, KEPT);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Detach, When::Now)));
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        assert_eq!(read(root, "/srv/data"), None);
        // And back: the store has it, the root has nothing.
        let rest = "[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n";
        let applied = apply(&machine, root, boot, rest);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Attach, When::Now)));
        assert_eq!(read(root, "/srv/data").as_deref(), Some("kept"));
        shutdown::mark_clean(boot, root).unwrap();
    });
}

fn two_versions_are_not_mixed(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n");
    machine.live("", |root, boot| {
        write(root, "/srv/data", "of the store");
        apply(&machine, root, boot, KEPT);
        write(root, "/srv/data", "of the root");
        let rest = "[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n";
        let applied = apply(&machine, root, boot, rest);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Attach, When::NextBoot)));
        assert_eq!(read(root, "/srv/data").as_deref(), Some("of the root"));
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| assert_eq!(read(root, "/srv/data").as_deref(), Some("of the store")));
}

fn a_new_sync_file_is_in_its_store_at_once_and_taken_back_later(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    let rest = "[keep]\ndirectories = [\"/var/log\"]\nfiles = [\n\
                { path = \"/etc/issue\", method = \"sync\" }, { path = \"/etc/none\", method = \"sync\" }]\n";
    machine.live("", |root, boot| {
        write(root, "/etc/issue", "first\n");
        let applied = apply(&machine, root, boot, rest);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        assert_eq!(when(&applied.plan, "/etc/issue"), Some((Work::Sync, When::Now)));
        let kept = boot.run.join("stores/state");
        assert_eq!(read(&kept, "/etc/issue").as_deref(), Some("first\n"));
        // Replaced by rename, and made anew.
        write(root, "/etc/issue.new", "second\n");
        fs::rename(root.join("etc/issue.new"), root.join("etc/issue")).unwrap();
        write(root, "/etc/none", "some\n");
        let again = apply(&machine, root, boot, rest);
        assert!(again.plan.changes.is_empty(), "{:?}", again.plan.changes);
        Flush::open(boot, root).unwrap().apply(&mut |_, _| ()).unwrap();
        assert_eq!(read(&kept, "/etc/issue").as_deref(), Some("second\n"));
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "/etc/issue").as_deref(), Some("second\n"));
        assert_eq!(read(root, "/etc/none").as_deref(), Some("some\n"));
    });
}

fn mount_options_change_without_a_new_mount(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n");
    machine.live("", |root, boot| {
        let options = |path: &str| {
            let target = root.join(path);
            let mounts = mountinfo::read_self().unwrap();
            let mount = mounts.into_iter().find(|it| it.mount_point == target).unwrap();
            (mount.id, String::from_utf8(mount.options).unwrap())
        };
        let (id, before) = options("srv");
        assert!(!before.contains("noexec"));
        let with =
            "[keep]\ndirectories = [\"/var/log\", { path = \"/srv\", options = [\"noexec\"] }]\n";
        let applied = apply(&machine, root, boot, with);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Options, When::Now)));
        let (same, after) = options("srv");
        assert_eq!(id, same);
        assert!(after.contains("noexec") && after.contains("nosuid"), "{after}");
        shutdown::mark_clean(boot, root).unwrap();
    });
}

fn a_boot_on_the_last_root_as_it_was_changes_nothing(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    machine.boot("", |_| ());
    machine.live("ebbtide=off", |root, boot| {
        machine.publish("[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n");
        let (_, compiled) = status::declaration(boot, &machine.open()).unwrap();
        let refused = Live::open(boot, root, &compiled, None).unwrap();
        assert!(refused.is_err());
    });
}

fn a_failure_in_the_middle_leaves_what_was(kind: Kind) {
    let mut machine = Machine::of(kind);
    let small = machine.disk_of("small", "ext4", 16);
    machine.set_up(KEPT);
    let rest = format!(
        "[store.small]\ndevice = \"{small}\"\n[keep]\ndirectories = [\"/var/log\", \"/opt\", \
         {{ path = \"/srv\", store = \"small\" }}]\n"
    );
    machine.live("", |root, boot| {
        fs::create_dir_all(root.join("srv")).unwrap();
        fs::create_dir_all(root.join("opt")).unwrap();
        fs::write(root.join("srv/large"), vec![7; 64 << 20]).unwrap();
        let applied = apply(&machine, root, boot, &rest);
        assert_eq!(applied.problems.len(), 1, "{:?}", applied.problems);
        assert_eq!(when(&applied.plan, "/srv"), Some((Work::Attach, When::NextBoot)));
        assert_eq!(when(&applied.plan, "/opt"), Some((Work::Attach, When::Now)));
        assert_eq!(fs::metadata(root.join("srv/large")).unwrap().len(), 64 << 20);
        assert!(!boot.run.join("stores/small/srv").exists(), "no half of a copy");
        no_staging(boot);
    });
}

/// Numbers in a row, each written by a program that opens the file, appends and closes it.
fn is_contiguous(text: &str) -> bool {
    text.lines().enumerate().all(|(index, line)| line == index.to_string())
}

fn a_line_written_meanwhile_is_not_lost_in_silence(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    let rest = "[keep]\ndirectories = [\"/var/log\", \"/srv\"]\n";
    let mut attached = 0;
    for round in 0..8 {
        machine.live("", |root, boot| {
            fs::create_dir_all(root.join("srv")).unwrap();
            for index in 0..200 {
                fs::write(root.join(format!("srv/filler-{index}")), "x").unwrap();
            }
            let log = root.join("srv/log");
            // The pauses get longer, so that some rounds fall between two lines.
            let pause = format!("0.{:03}", round * 25);
            let script = format!(
                "i=0; while read -t {pause} _ || [ $i -lt 400 ]; do echo $i >> {}; i=$((i+1)); done",
                log.display()
            );
            let script = if round == 0 { script.replace("read -t 0.000 _ ||", "") } else { script };
            let mut writer = Command::new("bash")
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            while !log.exists() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let applied = apply(&machine, root, boot, rest);
            writer.kill().unwrap();
            writer.wait().unwrap();
            let text = fs::read_to_string(&log).unwrap();
            let now = when(&applied.plan, "/srv") == Some((Work::Attach, When::Now));
            attached += usize::from(now);
            let told = !applied.problems.is_empty();
            assert!(is_contiguous(&text) || (now && told), "round {round}: {:?}", applied.problems);
            if !now {
                assert!(!mounts_below(root).contains(&PathBuf::from("srv")));
                assert!(!boot.run.join("stores/state/srv").exists(), "the copy is taken back");
            }
            apply(&machine, root, boot, KEPT);
            shutdown::mark_clean(boot, root).unwrap();
        });
        machine.on_disk(&machine.device.0.clone(), |top| {
            let _ = fs::remove_dir_all(top.join("state/srv"));
            let _ = fs::remove_dir_all(top.join("state/.ebbtide/seeds"));
        });
    }
    eprintln!("attached in {attached} of 8 rounds, put off in the others");
}

fn what_only_its_user_uses_comes_with_their_next_login(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        fs::create_dir_all(root.join("home/alice/Documents")).unwrap();
        write(root, "/home/alice/Documents/draft", "text");
        for path in ["home/alice", "home/alice/Documents", "home/alice/Documents/draft"] {
            std::os::unix::fs::chown(root.join(path), Some(1000), Some(1000)).unwrap();
        }
        machine.publish("[keep]\ndirectories = [\"/var/log\", \"/home/alice/Documents\"]\n");
        let (hash, mut compiled) = status::declaration(boot, &machine.open()).unwrap();
        for entry in compiled.entries.iter_mut().filter(|it| it.path.starts_with("/home")) {
            entry.home = Some(PathBuf::from("/home/alice"));
            entry.user = Some(ebbtide_core::compiled::Principal::Name("alice".to_owned()));
        }
        let live = |only| Live::open(boot, root, &compiled, only).unwrap().unwrap();
        let theirs = Command::new("setpriv")
            .args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "cat"])
            .current_dir(root.join("home/alice/Documents"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process(theirs);
        let plan = loop {
            // Until it has become that user.
            let plan = live(None).plan().unwrap();
            if when(&plan, "/home/alice/Documents").is_some_and(|it| it.1 == When::NextLogin) {
                break plan;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert!(plan.problems.is_empty());
        let applied = live(None).apply(&hash, &mut |_, _| ()).unwrap();
        assert!(applied.problems.is_empty());
        assert!(boot.run.join("login/1000").exists());
        drop(process);
        let other = live(Some(2000)).apply(&hash, &mut |_, _| ()).unwrap();
        assert!(other.plan.changes.is_empty());
        assert!(boot.run.join("login/1000").exists(), "another user's login is not theirs");
        let login = live(Some(1000)).apply(&hash, &mut |_, _| ()).unwrap();
        assert_eq!(login.plan.changes.len(), 1, "{:?}", login.plan.changes);
        assert!(mounts_below(root).contains(&PathBuf::from("home/alice/Documents")));
        assert!(!boot.run.join("login/1000").exists());
        assert_eq!(read(root, "/home/alice/Documents/draft").as_deref(), Some("text"));
        let record = boot.read_record().unwrap();
        assert!(record.attached.unwrap().pending.is_empty());
        shutdown::mark_clean(boot, root).unwrap();
    });
}

fn a_file_that_was_seen_to_be_replaced_is_synced_from_then_on(kind: Kind) {
    let machine = Machine::of(kind);
    let source = machine.source();
    write(&source, "etc/still.conf", "still\n");
    machine.set_up_from(ebbtide_core::setup::BaseSource::Directory(source), KEPT);
    let rest =
        "[keep]\ndirectories = [\"/var/log\"]\nfiles = [\"/etc/issue\", \"/etc/still.conf\"]\n";
    let methods = |boot: &Boot| {
        let (_, compiled) = status::declaration(boot, &machine.open()).unwrap();
        let files = compiled.entries.into_iter().filter(|it| it.path.starts_with("/etc"));
        let files = files.filter(|it| it.origin.line > 0);
        files.map(|it| it.method.to_string()).collect::<Vec<_>>()
    };
    machine.live("", |root, boot| {
        write(root, "/etc/issue.new", "second\n");
        fs::rename(root.join("etc/issue.new"), root.join("etc/issue")).unwrap();
        let mut file =
            fs::OpenOptions::new().append(true).open(root.join("etc/still.conf")).unwrap();
        std::io::Write::write_all(&mut file, b"more\n").unwrap();
        drop(file);
        apply(&machine, root, boot, rest);
        assert_eq!(methods(boot), ["sync", "bind"]);
        shutdown::detach(&boot.run, &mut |_, _| ()).unwrap();
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.live("", |root, boot| {
        assert_eq!(read(root, "/etc/issue").as_deref(), Some("second\n"));
        assert_eq!(read(root, "/etc/still.conf").as_deref(), Some("still\nmore\n"));
        // On this root nothing was replaced, and it stays decided.
        apply(&machine, root, boot, &format!("{rest}# again\n"));
        assert_eq!(methods(boot), ["sync", "bind"]);
        shutdown::mark_clean(boot, root).unwrap();
    });
}

fn a_file_on_another_mount_is_not_taken_for_a_part_of_the_root(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        fs::create_dir_all(root.join("mnt/disk")).unwrap();
        machine::run("mount", &["-t", "tmpfs", "none", root.join("mnt/disk").to_str().unwrap()]);
        write(root, "/mnt/disk/app.conf", "x");
        let rest = "[keep]\ndirectories = [\"/var/log\"]\nfiles = [{ path = \"/mnt/disk/app.conf\", method = \"sync\" }]\n";
        let applied = apply(&machine, root, boot, rest);
        assert_eq!(when(&applied.plan, "/mnt/disk/app.conf"), Some((Work::Sync, When::NextBoot)));
        shutdown::mark_clean(boot, root).unwrap();
    });
}
