//! A boot refuses what is not as it was pinned, `ebbtide accept` acknowledges it, and the next boot resets.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
#[macro_use]
mod machine;
#[path = "../../ebbtide-core/tests/machine/cut.rs"]
#[allow(dead_code, reason = "others kill on an image")]
mod cut;
mod program;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ebbtide_core::boot::{self, Boot};
use ebbtide_core::locator::Locator;
use ebbtide_core::record::{Outcome, Record};
use ebbtide_core::switches::Switches;
use machine::{BTRFS, Kind, Machine, is_root, read, write};
use program::{Ran, ebbtide_running, unlike_its_schema};

const OTHER: &str = "00000000-0000-4000-8000-00000000beef";

/// A machine with a store on a disk of its own, whose declaration has changed since its base was made.
struct Used {
    machine: Machine,
    disk: String,
    /// What the initramfs has.
    locator: Locator,
}

/// What a boot left.
struct Left<T> {
    record: Record,
    said: String,
    saw: T,
}

impl Used {
    fn new(kind: Kind) -> Self {
        let mut machine = Machine::of(kind);
        let disk = machine.disk("big", "ext4");
        let keep = |more: &str| {
            format!(
                "[store.big]\ndevice = \"{disk}\"\n[keep]\nfiles = []\ndirectories = [\n  \
                 \"/etc/ebbtide\",\n  {{ path = \"/srv\", store = \"big\" }},\n{more}]\n\
                 [root]\nephemeral = [\"/home\", \"/root\"]\n"
            )
        };
        // One table can't be there twice.
        let declared = |more: &str| {
            let keep = keep(more);
            let (rest, ephemeral) = keep.split_once("[root]\n").unwrap();
            (ephemeral.to_owned(), rest.to_owned())
        };
        let (root, rest) = declared("");
        machine.set_up_with(&root, &rest);
        let (root, rest) = declared("  \"/var/lib/app\",\n");
        let text = machine.toml_with(&root, &rest);
        machine.boot("", |it| write(it, "etc/ebbtide/ebbtide.toml", &text));
        machine.apply_with(&root, &rest);
        machine.boot("", |root| {
            write(root, "srv/data", "big\n");
            write(root, "var/lib/app/data", "small\n");
        });
        let locator = machine.boot_with(Path::new("/nowhere"), "").locator;
        Self { machine, disk, locator }
    }

    /// Boots as the initramfs would, and lets somebody use the root.
    fn boot<T: Send>(&self, life: impl FnOnce(&Path, &Boot) -> T + Send) -> Left<T> {
        self.machine.in_namespace(|work| {
            let (run, root) = (work.join("run"), work.join("root"));
            fs::create_dir_all(&root).unwrap();
            let boot = Boot {
                locator: self.locator.clone(),
                run: run.clone(),
                run_later: run,
                switches: Switches::default(),
                import_limit: boot::IMPORT_LIMIT,
            };
            let mut said = String::new();
            let mut log = |_, text: &str| {
                said.push_str(text);
                said.push('\n');
            };
            let record =
                boot::up(&boot, &root, &mut log).unwrap_or_else(|it| panic!("{}", it.chain()));
            let saw = life(&root, &boot);
            Left { record, said, saw }
        })
    }

    /// A boot that refuses and names the way out; what the command says in it, and how that ends.
    fn refuses(&self, why: &str, command: &[&str]) -> Ran {
        let left = self.boot(|root, boot| {
            write(root, "stray", "x");
            ebbtide_running(&boot.run, root, command)
        });
        assert_eq!(left.record.outcome, Outcome::Refused, "{}", left.said);
        assert!(left.said.contains(why), "{}", left.said);
        assert!(left.said.contains("`ebbtide accept"), "{}", left.said);
        left.saw
    }

    /// Refuses what is asked for, and goes on refusing.
    fn declines(&self, why: &str, command: &[&str], because: &str) {
        let ran = self.refuses(why, command);
        let said = said(&ran);
        assert_eq!(ran.status, 1, "{said}");
        assert!(said.contains(because), "{said}");
    }

    /// The next boot is as good as any.
    fn resets(&self) -> (Option<String>, Option<String>) {
        let left = self.boot(|root, boot| {
            assert_eq!(read(root, "stray"), None, "it was not reset");
            let nothing = ebbtide_running(&boot.run, root, &["accept"]);
            assert_eq!(nothing.status, 0, "{}", said(&nothing));
            assert_eq!(said(&nothing), "nothing to accept: everything is what was pinned\n");
            (read(root, "srv/data"), read(root, "var/lib/app/data"))
        });
        assert_eq!(left.record.outcome, Outcome::Reset, "{}", left.said);
        assert!(left.record.attached.unwrap().missing.is_empty(), "{}", left.said);
        left.saw
    }

    /// Builds the initramfs again, in the root that runs.
    fn rebuild(&mut self, accept: &[&str], why: &str) {
        let left = self.boot(|root, boot| {
            let ran = ebbtide_running(&boot.run, root, accept);
            assert_eq!(ran.status, 0, "{}", said(&ran));
            assert!(
                said(&ran).contains("!! warning: the initramfs names another"),
                "{}",
                said(&ran)
            );
            // What is in the state store is in place there, once the boot after this one has put it there.
            self.machine.look(|top| read(top, "state/etc/ebbtide/ebbtide.toml").unwrap())
        });
        assert!(left.said.contains(why), "{}", left.said);
        let system = tempfile::tempdir().unwrap();
        write(system.path(), "etc/ebbtide/ebbtide.toml", &left.saw);
        let locator = program::ebbtide(system.path(), &["locator"]);
        self.locator = Locator::from_bytes(&locator.out).unwrap();
    }
}

fn said(ran: &Ran) -> String {
    String::from_utf8_lossy(&ran.out).into_owned() + &ran.err
}

fn other_uuid(store: &Path) {
    let marker = format!("{{\"version\":1,\"uuid\":\"{OTHER}\"}}");
    fs::write(store.join(".ebbtide/store.json"), marker).unwrap();
}

on_each_disk! {
    an_exchanged_store,
    a_state_store_that_is_gone,
    a_store_that_is_empty_now,
    a_state_store_from_a_backup,
    a_container_with_another_marker,
}

fn an_exchanged_store(kind: Kind) {
    let used = Used::new(kind);
    used.machine.on_disk(&used.disk, other_uuid);
    let why = "store big is not there";
    for command in [
        &["apply"][..],
        &["apply", "--next-boot"],
        &["keep", "/opt/x/"],
        &["internal", "recompile"],
    ] {
        used.declines(why, command, "store.big is not the recorded one");
    }
    used.declines(why, &["accept"], "nothing was accepted");
    let json = used.refuses(why, &["accept", "--dry-run", "--json"]).json();
    assert_eq!(json["differences"][0]["what"], "store.big", "{json:#}");
    assert_eq!(json["differences"][0]["became"], "exchanged", "{json:#}");
    assert_eq!(json["differences"][0]["found"], OTHER, "{json:#}");
    assert_eq!(json["differences"].as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json["accepted"], false);
    assert_eq!(unlike_its_schema("accept", &json), Vec::<String>::new());
    let odd = used.refuses(why, &["accept", "--yes", "store.state"]);
    assert_eq!(odd.status, 2, "{}", said(&odd));
    let done = used.refuses(why, &["accept", "--yes"]);
    assert_eq!(done.status, 0, "{}", said(&done));
    assert!(said(&done).contains("accepted: the next boot goes by"), "{}", said(&done));
    assert_eq!(used.resets(), (Some("big\n".into()), Some("small\n".into())));
}

fn a_store_that_is_empty_now(kind: Kind) {
    let used = Used::new(kind);
    used.machine.on_disk(&used.disk, |top| {
        fs::remove_dir_all(top.join(".ebbtide")).unwrap();
        fs::remove_dir_all(top.join("srv")).unwrap();
    });
    let why = "store big is not there";
    used.declines(why, &["accept", "--yes"], "nothing was accepted: store.big was not named");
    used.declines(why, &["apply"], "store.big is not the recorded one");
    let done = used.refuses(why, &["accept", "--yes", "store.big"]);
    assert_eq!(done.status, 0, "{}", said(&done));
    assert_eq!(used.resets(), (None, Some("small\n".into())));
}

fn a_state_store_from_a_backup(kind: Kind) {
    let mut used = Used::new(kind);
    used.machine.look(|top| {
        other_uuid(&top.join("state"));
        let declarations = top.join("state/.ebbtide/declarations");
        for file in fs::read_dir(declarations).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    });
    let why = "the state store is not there";
    let json = used.refuses(why, &["accept", "--dry-run", "--json"]).json();
    let what: Vec<_> =
        json["differences"].as_array().unwrap().iter().map(|it| &it["what"]).collect();
    assert_eq!(what, ["store.state", "declaration"], "{json:#}");
    assert_eq!(json["rebuild_initramfs"], true);
    used.rebuild(&["accept", "--yes"], why);
    // The base has never declared /var/lib/app: what was compiled is what the store has.
    assert_eq!(used.resets(), (Some("big\n".into()), Some("small\n".into())));
}

fn a_state_store_that_is_gone(kind: Kind) {
    let used = Used::new(kind);
    used.machine.look(|top| fs::rename(top.join("state"), top.join("elsewhere")).unwrap());
    let why = "the state store is not there";
    used.declines(why, &["apply"], "store.state is not the recorded one");
    used.declines(why, &["accept", "--yes"], "nothing was accepted: store.state was not named");
    assert!(!used.machine.look(|top| top.join("state").exists()));
    let done = used.refuses(why, &["accept", "--yes", "store.state"]);
    assert_eq!(done.status, 0, "{}", said(&done));
    // It has the UUID that the initramfs knows, and the base's declaration, which does not have that entry.
    assert_eq!(used.resets(), (Some("big\n".into()), None));
}

fn a_container_with_another_marker(kind: Kind) {
    let mut used = Used::new(kind);
    used.machine.look(|top| {
        let marker = top.join("ebbtide/marker.json");
        let text = fs::read_to_string(&marker).unwrap();
        let uuid = used.machine.container.uuid.to_string();
        assert!(text.contains(&uuid));
        fs::write(&marker, text.replace(&uuid, OTHER)).unwrap();
    });
    let why = "is another container";
    used.declines(why, &["accept", "--yes"], "nothing was accepted: container was not named");
    used.rebuild(&["accept", "--yes", "container"], why);
    assert_eq!(used.locator.container.uuid.to_string(), OTHER);
    assert_eq!(used.resets(), (Some("big\n".into()), Some("small\n".into())));
}

/// Before each call that could change a disk: what was not accepted is refused, and accepting it once more
/// brings the machine to where it should be.
#[test]
fn one_that_is_killed_can_be_repeated() {
    if !is_root() {
        return;
    }
    let used = Used::new(BTRFS);
    // The marker of the store and what was compiled last, from before.
    let exchange = |uuid: &str| {
        used.machine.on_disk(&used.disk, |top| {
            let marker = format!("{{\"version\":1,\"uuid\":\"{uuid}\"}}");
            fs::write(top.join(".ebbtide/store.json"), marker).unwrap();
        });
    };
    let under = |mut tracer: Command| -> (Record, Output) {
        let left = used.boot(|root, boot| {
            ebbtide_running(&boot.run, root, &["schema", "accept"]);
            let command = tracer.arg(env!("CARGO_BIN_EXE_ebbtide")).arg("--sysroot").arg(root);
            let command = command.args(["accept", "--yes"]).env_clear();
            command
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::null())
                .output()
                .unwrap()
        });
        (left.record, left.saw)
    };
    let trace = tempfile::NamedTempFile::new().unwrap();
    exchange(OTHER);
    let (record, ran) = under(cut::traced(trace.path()));
    assert_eq!(record.outcome, Outcome::Refused);
    assert!(ran.status.success(), "{}", cut::said(&ran));
    let points = cut::points(trace.path());
    assert!(points.len() > 5, "{points:?}");
    let (mut killed, mut refused) = (0, 0);
    for (number, point) in points.iter().enumerate() {
        // Each time another one: what was pinned last is not there any more.
        exchange(&format!("00000000-0000-4000-8000-{number:012}"));
        let (record, ran) = under(cut::killed(point));
        assert_eq!(record.outcome, Outcome::Refused, "{point:?}");
        if ran.status.success() {
            continue;
        }
        cut::assert_killed(&ran);
        killed += 1;
        let left =
            used.boot(|root, boot| said(&ebbtide_running(&boot.run, root, &["accept", "--yes"])));
        let (outcome, said) = (left.record.outcome, left.saw);
        if outcome == Outcome::Refused {
            refused += 1;
            assert!(said.contains("accepted: the next boot goes by"), "{point:?}: {said}");
        } else {
            assert_eq!(outcome, Outcome::Reset, "{point:?}");
            assert!(said.contains("nothing to accept"), "{point:?}: {said}");
        }
        assert_eq!(used.resets(), (Some("big\n".into()), Some("small\n".into())), "{point:?}");
    }
    assert!(killed > 5 && refused > 0 && refused <= killed, "{killed} {refused} of {points:?}");
}
