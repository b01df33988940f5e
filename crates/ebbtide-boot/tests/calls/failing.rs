//! A call of it fails, and it goes on: it ends with a root that is new or as it was, says what failed,
//! and the boot after that has all that there was.

use std::fs;
use std::path::Path;
use std::process::Output;

use ebbtide_core::record::{Outcome, Record, RootIdentity};

use crate::cut::{self, Attached, Fault, clone, said};
use crate::machine::{self, Kind, is_root, read};
use crate::story::Story;

impl Story {
    /// Lets one call of a boot fail, and looks at what this boot and the next one make of it.
    fn endures(&self, fault: &Fault) {
        let image = self.farm.path().join("image");
        clone(&self.machine.image(), &image);
        let attached = Attached::new(&image);
        let told = self.machine.in_namespace(|work| {
            let output = self.boot(work, Some(cut::failing(fault)));
            if !cut::is_loader(&output) {
                self.is_honest(work, &output, &fault.to_string());
            }
            said(&output)
        });
        drop(attached);
        self.recovers(&image, Some(&told), &fault.to_string());
    }

    /// A boot claims no more than there is, and says what failed.
    fn is_honest(&self, work: &Path, output: &Output, point: &str) {
        let point = &format!("{point}: {}", said(output));
        assert!(output.status.code().is_some_and(|code| code < 2), "{point}");
        let root = work.join("root");
        let record = fs::read(work.join("run/boot.json")).ok();
        let record: Option<Record> = record.map(|it| serde_json::from_slice(&it).unwrap());
        let attached = record.as_ref().and_then(|it| it.attached.as_ref());
        let is_reset = record.as_ref().is_some_and(|it| it.outcome == Outcome::Reset);
        if is_reset && attached.is_some_and(|it| it.missing.is_empty()) {
            if !attached.is_some_and(|it| it.partial) {
                self.is_complete(&root, point);
                return;
            }
            // It could not read what is declared now, and says so: what was declared before is there.
            self.has_kept(&root, point);
        }
        assert!(!output.status.success(), "{point}: {record:?}");
        assert!(cut::names_error(output), "{point}");
        // The root that there is, is one or the other, whole, and the record knows which, or says that it
        // does not.
        if let Some(record) = &record
            && root.join("usr").exists()
            && !said(output).contains("it is not known whether the root is reset")
        {
            let is_old = read(&root, "stray-2").is_some();
            let in_ram = record.root.as_ref().is_some_and(RootIdentity::is_in_ram);
            let is_new = record.outcome == Outcome::Reset || in_ram;
            assert_eq!(is_old, !is_new, "{point}: {record:?}");
        }
    }
}

fn each_call(kind: Kind, clean: bool) {
    if !is_root() {
        return;
    }
    let story = Story::new(kind, clean);
    let trace = story.farm.path().join("trace");
    let faults = cut::faults(&story.traced(&trace, cut::traced_widely(&trace)));
    for fault in &faults {
        story.endures(fault);
    }
    eprintln!("{} on {}: {} faults", kind.backend, kind.filesystem, faults.len());
    assert!(faults.len() > 10, "only {} faults", faults.len());
}

#[test]
fn a_call_on_btrfs() {
    each_call(machine::BTRFS, true);
}

#[test]
fn a_call_on_an_overlay() {
    each_call(machine::KINDS[1], false);
}
