//! `ebbtide keep --once` as its users run it, on a root that was booted.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;
mod program;

use std::sync::Mutex;

use machine::{KINDS, Kind, Machine, is_root, read, write};
use program::{Ran, ebbtide_running as ebbtide, unlike_its_schema};

#[test]
fn asked_for_shown_and_done() {
    if is_root() {
        insta::allow_duplicates! { [KINDS[0], KINDS[1]].into_iter().for_each(on); }
    }
}

fn said(ran: &Ran) -> String {
    format!("{}{}= {}\n", String::from_utf8_lossy(&ran.out), ran.err, ran.status)
}

fn on(kind: Kind) {
    let machine = Machine::of(kind);
    let keep = "[keep]\ndirectories = [\"/var/log\"]\n";
    // What the commands read is what the machine was set up with.
    write(&machine.source(), "etc/ebbtide/ebbtide.toml", &machine.toml(keep));
    machine.set_up(keep);
    let all = Mutex::new(String::new());
    machine.live("", |root, boot| {
        write(root, "srv/half done/draft", "0123456789");
        write(root, "srv/half done/esc\u{1b}", "x");
        write(root, "opt/more", "x");
        write(root, "stray", "x");
        let run = |arguments: &[&str]| {
            let ran = ebbtide(&boot.run, root, arguments);
            said(&ran).replace(root.to_str().unwrap(), "")
        };
        let json = |shape: &str, arguments: &[&str]| {
            let json = ebbtide(&boot.run, root, arguments).json();
            assert_eq!(unlike_its_schema(shape, &json), Vec::<String>::new(), "{json:#}");
            json
        };
        let step = |arguments: &[&str]| {
            let typed = arguments.join(" ");
            all.lock().unwrap().extend(["$ ", &typed, "\n", &run(arguments)]);
        };
        step(&["keep", "--once", "--dry-run", "/srv/half done", "/var/log/app"]);
        assert_eq!(machine.look(|top| read(top, "state/.ebbtide/once.json")), None);
        let asked = json("keep-once", &["keep", "--once", "--json", "/opt/more", "/var/log"]);
        assert_eq!(asked["carried"][0], "/opt/more");
        assert_eq!(asked["kept"][0]["entry"], "/var/log");
        step(&["keep", "--once", "/srv/half done"]);
        step(&["keep", "--once", "/srv/half done/draft"]);
        step(&["keep", "--once", "/etc/issue"]);
        step(&["keep", "--once", "/nothing"]);
        step(&["keep", "--once", "--store", "state", "/stray"]);
        step(&["forget", "--dry-run", "/opt/more", "/never"]);
        step(&["diff"]);
        step(&["forget", "/opt/more", "/never"]);
        step(&["diff", "/srv"]);
        let lost = json("diff", &["diff", "--json"]);
        assert_eq!(lost["carried"]["asked_for"], serde_json::json!(["/srv/half done"]));
        assert_eq!((&lost["carried"]["added"], &lost["carried"]["bytes"]), (&2.into(), &11.into()));
        let not = json("forget", &["forget", "--dry-run", "--json", "/srv/half done"]);
        assert_eq!(not["not_carried"][0], "/srv/half done");
        let status = json("status", &["status", "--json"]);
        assert_eq!(status["carried"], serde_json::json!(["/srv/half done"]));
        let status = run(&["status"]);
        let line = "-- carried over the next reset, once: /srv/half done\n";
        assert!(status.contains(line), "{status}");
        ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
    });
    let all = all.into_inner().unwrap();
    insta::assert_snapshot!("once", all);
    machine.live("", |root, boot| {
        assert_eq!(read(root, "srv/half done/draft").as_deref(), Some("0123456789"));
        assert!(!root.join("opt/more").exists() && !root.join("stray").exists());
        let shown = ebbtide(&boot.run, root, &["boots", "show", "2"]).text();
        assert!(shown.contains("\ncarried over from boot 1: /srv/half done\n"), "{shown}");
        let shown = ebbtide(&boot.run, root, &["boots", "show", "--json", "2"]).json();
        assert_eq!(unlike_its_schema("boots-show", &shown), Vec::<String>::new());
        assert_eq!(shown["record"]["carried"]["paths"][0], "/srv/half done");
        let status = ebbtide(&boot.run, root, &["status", "--json"]).json();
        assert_eq!(status["carried"], serde_json::json!([]));
        // It is a change like any other from here on.
        let lost = ebbtide(&boot.run, root, &["diff", "-0"]);
        assert!(String::from_utf8_lossy(&lost.out).contains("/srv/half done/draft\0"));
    });
}
