//! What is inside: devices, the resolver, the environment, the declaration, the report.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Scratch, Try, needs_root, small_system};

#[test]
fn only_devices_that_lead_nowhere() {
    needs_root!();
    let scratch = Scratch::new();
    let out = scratch
        .over_machine()
        .sh("ls /dev; cat /dev/null; echo x > /dev/full || echo full; \
             head -c 2 /dev/zero | od -An -tx1; ls /dev/pts; find /dev -type b | wc -l; \
             echo x > /dev/shm/file; cat /dev/fd/0 < /dev/shm/file")
        .out();
    insta::assert_snapshot!(out);
}

#[test]
fn names_are_resolved_as_outside() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    symlink("../run/systemd/resolve/stub-resolv.conf", base.join("etc/resolv.conf")).unwrap();
    let it = Try::new(&scratch.path("state")).base(&base);
    assert_eq!(it.sh("cat /etc/resolv.conf").ok(), fs::read_to_string("/etc/resolv.conf").unwrap());
    let run = it.sh("ls /run /run/systemd").ok();
    assert_eq!(run, "/run:\nebbtide\nhost\nlock\nsystemd\n\n/run/systemd:\nresolve\n");
}

#[test]
fn the_environment_names_nothing_that_is_outside() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let mut command = it.command(&["env"]);
    command.env("NOTIFY_SOCKET", "/run/x").env("SSH_AUTH_SOCK", "/tmp/y").env("KEPT", "yes");
    let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(out.contains("KEPT=yes"));
    assert!(!out.contains("SOCK"));
    assert!(out.contains("debian_chroot=try"));
}

#[test]
fn the_first_run_writes_a_declaration_and_another_one_can_be_named() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
    fs::write(base.join("etc/passwd"), passwd).unwrap();
    fs::create_dir(base.join("home/alice")).unwrap();
    let it = Try::new(&scratch.path("state")).base(&base);
    it.sh("true").ok();
    let text = fs::read_to_string(it.state.join("ebbtide.toml")).unwrap();
    assert!(text.contains("[keep]") && text.contains("# [users.alice]"), "{text}");
    let config = scratch.path("mine.toml");
    // Its root and stores are those of a machine: none of them is touched.
    let text = "version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=nowhere\"\n\
                ephemeral = [\"/home\", \"/root\", \"/srv\"]\n\
                [store.state]\nsubvolume = \"state\"\n[store.big]\ndevice = \"LABEL=other\"\n\
                class = \"cache\"\n\
                [keep]\ndirectories = [{ path = \"/var/lib/kept\", store = \"big\" }]\n\
                [users.alice]\ndirectories = [\"work\"]\n";
    fs::write(&config, text).unwrap();
    let named = Try::new(&it.state).base(&base).with(&["--config", config.to_str().unwrap()]);
    named
        .sh("echo a > /var/lib/kept/a; stat -c %u /home/alice/work; touch /home/alice/work/b")
        .ok();
    let kept = named.sh("ls /var/lib/kept /home/alice/work").ok();
    assert!(kept.contains("a\n") && kept.contains("b\n"), "{kept}");
    assert!(it.state.join("store-big/var/lib/kept/a").exists());
    assert!(it.state.join("state/home/alice/work/b").exists());
    fs::write(&config, "version = 1\n[keep]\nfiels = []\n").unwrap();
    let wrong = named.sh("true");
    assert_eq!(wrong.status(), 125);
    assert!(wrong.err().contains("fiels"), "{}", wrong.err());
}

#[test]
fn the_report_is_short_for_people_and_whole_for_machines() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let json = scratch.path("report.json");
    let it = Try::new(&scratch.path("state")).base(&base);
    it.keep(r#"directories = ["/var/lib/kept"]"#);
    let script = "printf x > \"/etc/$(printf 'a\\033[2J\\nb')\"; rm /etc/issue; \
                  mkdir /var/many; for i in 1 22 333; do echo 1234567$i > /var/many/$i; done; exit 3";
    let ran = it.sh(script);
    assert_eq!(ran.status(), 3);
    let state = it.state.display().to_string();
    insta::assert_snapshot!("report_text", ran.err().replace(&state, "STATE"));
    let named = Try::new(&it.state).base(&base).with(&[&format!("--json={}", json.display())]);
    let ran = named.sh(script);
    assert_eq!((ran.status(), ran.err()), (3, String::new()));
    let mut text = fs::read_to_string(&json).unwrap().replace(&state, "STATE");
    // Times are those of the run.
    let newest = text.lines().filter(|line| !line.contains("\"newest\"")).collect::<Vec<_>>();
    text = newest.join("\n");
    insta::assert_snapshot!("report_json", text);
    let printed = Try::new(&it.state).base(&base).with(&["--json"]).sh("true").out();
    assert!(printed.starts_with("{\n  \"version\": 1,"), "{printed}");
}

#[test]
fn noise_and_what_is_ignored_is_only_counted() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let it = Try::new(&scratch.path("state")).base(&base);
    it.keep("directories = []\n[ignore]\npaths = [\"/srv/build\", \"*.o\"]\n");
    let script = "mkdir -p /srv/build /srv/app; echo x >/srv/build/x; echo y >/srv/app/y; \
                  echo z >/srv/app/z.o; mkdir -p /root/.cache; echo c >/root/.cache/c";
    let told = it.sh(script).err();
    assert!(told.contains("/srv/app/y") && !told.contains("/srv/build"), "{told}");
    assert!(
        told.contains("\nbesides, 3 that are noise or ignored, of 6 B: --all lists them\n"),
        "{told}"
    );
    let all = it.with(&["--all"]);
    let told = all.sh(script).err();
    assert!(told.contains("/srv/build/") && told.contains("/root/"), "{told}");
    assert!(!told.contains("besides"), "{told}");
}
