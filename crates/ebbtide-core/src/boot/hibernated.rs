//! A system that was hibernated and not resumed: it may have files of the last root in its memory.

use std::fmt;
use std::path::PathBuf;

use ebbtide_sys::device::{self, hibernation};
use ebbtide_sys::text::escape;
use serde::Deserialize;

use super::{Boot, report};
use crate::container::Container;
use crate::failure::{Failure, Level, Log, Problem, Result};
use crate::record::Record;
use crate::switches::Switches;

/// Where an image is.
struct Image {
    device: PathBuf,
    /// In pages. Anything but 0 is a swap file on the device.
    offset: u64,
}

/// What systemd notes when it hibernates a system: `HibernateLocation` in systemd-hibernate-resume-generator(8).
#[derive(Deserialize)]
struct Noted {
    /// Of the swap space, or of the filesystem that a swap file is on; with or without hyphens.
    uuid: String,
    /// In pages.
    offset: u64,
}

/// Fails if a system is hibernated. What was to resume it has had its turn.
pub(super) fn nobody_is(
    boot: &Boot,
    container: &Container,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    if container.volume().is_directory() {
        // What is only tried out has resumed already.
        return Ok(());
    }
    let Some(image) = find(&boot.switches) else { return Ok(()) };
    let way_out = image.way_out();
    if boot.switches.gives_up {
        let message = format!("the hibernated system {image} is given up: noresume says so");
        let mut problem = Problem::new(Level::Warning, message);
        problem.hint = Some(format!("{way_out}: to resume it now would ruin data"));
        report(record, log, problem);
        return Ok(());
    }
    Err(Failure::new(format!("a hibernated system is {image}, and was not resumed")).hint(format!(
        "this boot writes to its filesystems: {way_out}, so that it is never resumed, or boot with noresume"
    )))
}

/// The image that the kernel command line names; if it names none, the one that systemd noted, or any.
fn find(switches: &Switches) -> Option<Image> {
    let is_there = |it: &Image| hibernation::has_image(&it.device, it.offset).unwrap_or(false);
    let named = switches.resume.as_deref().and_then(|it| std::str::from_utf8(it).ok());
    if let Some(device) = named.and_then(|spec| device::find(spec).ok()) {
        return Some(Image { device, offset: switches.resume_offset }).filter(is_there);
    }
    let noted = hibernation::noted().and_then(|text| noted(&text)).filter(is_there);
    noted.or_else(|| Some(Image { device: hibernation::find_image().ok()??, offset: 0 }))
}

fn noted(text: &str) -> Option<Image> {
    let Noted { uuid, offset } = serde_json::from_str(text).ok()?;
    let device = device::find(&format!("UUID={}", hyphenated(&uuid)?)).ok()?;
    Some(Image { device, offset })
}

/// A UUID as filesystems are named by it.
fn hyphenated(uuid: &str) -> Option<String> {
    let digits: String = uuid.chars().filter(|it| *it != '-').collect::<String>().to_lowercase();
    let is_whole = digits.len() == 32 && digits.bytes().all(|it| it.is_ascii_hexdigit());
    let part = |from: usize, to: usize| digits.get(from..to);
    let parts = [part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?];
    is_whole.then(|| parts.join("-"))
}

impl Image {
    /// How it is given up without harm to what else is on the device.
    fn way_out(&self) -> String {
        let device = escape(self.device.as_os_str().as_encoded_bytes());
        if self.offset == 0 {
            format!("run `swapon` or `mkswap` on {device}")
        } else {
            format!("run `swapon` on the swap file on {device}")
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.offset == 0 { "" } else { "in a swap file " };
        write!(f, "{file}on {}", escape(self.device.as_os_str().as_encoded_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_gets_its_hyphens() {
        let whole = "a81bc81b-dead-4e5d-abff-90865d1e13b1";
        assert_eq!(hyphenated("A81BC81BDEAD4E5DABFF90865D1E13B1").as_deref(), Some(whole));
        assert_eq!(hyphenated(whole).as_deref(), Some(whole));
        for other in ["", "a81bc81b", "ü81bc81bdead4e5dabff90865d1e13b", &format!("{whole}0")] {
            assert_eq!(hyphenated(other), None, "{other}");
        }
    }
}
