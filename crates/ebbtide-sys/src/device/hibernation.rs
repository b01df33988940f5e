//! Images of hibernated systems, in the space that they swap to.

use std::path::{Path, PathBuf};

use rustix::fs::{Advice, CWD, Mode, OFlags};

use super::{find, read_at};
use crate::error::{Error, Result};
use crate::kernel::read_pseudo_file;

/// What the first page of swap space ends with while an image is in it: put there by the kernel
/// (`HIBERNATE_SIG` in `kernel/power/swap.c`), or by programs that write the image themselves.
const SIGNATURES: [&[u8]; 4] = [b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"];

/// Returns whether an image is in the swap space that begins so many pages into a device, as
/// `resume_offset=` counts them.
///
/// The kernel takes its signature away as soon as it tries to load the image.
///
/// # Errors
///
/// Those of open(2) and read(2).
pub fn has_image(device: &Path, offset: u64) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(device, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(CWD).path(device).arg("O_RDONLY|O_NONBLOCK"))?;
    let page = rustix::param::page_size();
    let Some(start) = offset.checked_mul(page as u64) else { return Ok(false) };
    // The kernel writes past the cache, and who looked for filesystems has filled that.
    let _ = rustix::fs::fadvise(&opened, start, None, Advice::DontNeed);
    let length = SIGNATURES[0].len();
    let end = read_at(&opened, start + (page - length) as u64, length)?;
    Ok(SIGNATURES.contains(&end.as_slice()))
}

/// What systemd notes about where it put an image, in a variable of the firmware: JSON. `None` if there is no
/// such firmware, no such variable, or if that is no text.
pub fn noted() -> Option<String> {
    const VARIABLE: &str =
        "/sys/firmware/efi/efivars/HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67";
    text(&read_pseudo_file(Path::new(VARIABLE)).ok()?)
}

/// The text in a variable of the firmware: UTF-16 after four bytes of attributes, as the kernel's
/// Documentation/filesystems/efivarfs.rst has it.
fn text(content: &[u8]) -> Option<String> {
    let units =
        content.get(4..)?.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let text: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16(&text).ok()
}

/// Returns a device that is swap space with an image in it. What cannot be read is passed over, and so is
/// what only a running system sets up.
///
/// # Errors
///
/// `/proc/partitions` cannot be read.
pub fn find_image() -> Result<Option<PathBuf>> {
    let partitions = read_pseudo_file(Path::new("/proc/partitions"))?;
    let mut devices = find::device_names(&partitions, &find::SET_UP).into_iter();
    let image = devices.find(|name| has_image(&find::node(name), 0).unwrap_or(false));
    Ok(image.map(|name| find::node(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_of_the_firmware_is_text_after_its_attributes() {
        assert_eq!(text(b"\x07\0\0\0{\0\xfc\0}\0\0\0").as_deref(), Some("{ü}"));
        assert_eq!(text(b"\x07\0\0\0").as_deref(), Some(""));
        assert_eq!(text(b"\x07\0"), None);
        assert_eq!(text(b"\x07\0\0\0\0\xd8"), None);
    }

    #[test]
    fn an_image_is_told_by_how_its_page_ends() {
        let page = rustix::param::page_size();
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("device");
        let mut content = vec![0; 3 * page];
        let mut put = |at: usize, signature: &[u8]| {
            content[at..at + signature.len()].copy_from_slice(signature);
            std::fs::write(&device, &content).unwrap();
        };
        put(page - 10, b"SWAPSPACE2");
        assert!(!has_image(&device, 0).unwrap());
        put(2 * page - 10, b"S1SUSPEND\0");
        assert!(!has_image(&device, 0).unwrap());
        assert!(has_image(&device, 1).unwrap());
        put(page - 10, b"LINHIB0001");
        assert!(has_image(&device, 0).unwrap());
        assert!(!has_image(&device, 100).unwrap() && !has_image(&device, u64::MAX).unwrap());
        has_image(&directory.path().join("none"), 0).unwrap_err();
    }
}
