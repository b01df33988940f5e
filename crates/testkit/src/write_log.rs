//! What a machine wrote to a disk, in its order and with its flushes: so that a power cut at any moment
//! can be made of it, with what the disk had not been told to keep lost in part.
//!
//! QEMU's block driver `blklogwrites` records it in the format of dm-log-writes
//! (Linux, `Documentation/admin-guide/device-mapper/log-writes.rst`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// The size of a sector, of the disk and in the log, in bytes.
pub const SECTOR: u64 = 512;

const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// One entry of the log.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Where it goes, in bytes from the start of the disk.
    pub offset: u64,
    /// How much it writes, in bytes; none for a flush alone.
    pub length: u64,
    /// Whether all that was written before is durable from here on.
    pub flush: bool,
    /// Whether it is durable itself.
    pub durable: bool,
    /// Whether the range is not needed any more: it reads as zeros then.
    pub discard: bool,
    /// Where its data is in the log, in bytes.
    data: u64,
}

/// A log of writes.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    writes: Vec<Write>,
}

/// Makes an empty log.
///
/// # Errors
///
/// Fails when the file exists or cannot be written.
pub fn create(path: &Path) -> Result<()> {
    let file =
        File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut start = Vec::new();
    for number in [MAGIC, VERSION, 0, SECTOR] {
        start.extend(number.to_le_bytes());
    }
    start.resize(usize::try_from(SECTOR)?, 0);
    file.write_all_at(&start, 0).with_context(|| format!("cannot write {}", path.display()))
}

impl WriteLog {
    /// Reads the log of a machine that has ended.
    ///
    /// # Errors
    ///
    /// Fails when it can't be read, or is no such log.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut log = Self { file, writes: Vec::new() };
        log.read().with_context(|| format!("cannot read the log {}", path.display()))?;
        Ok(log)
    }

    fn read(&mut self) -> Result<()> {
        let [magic, version, count] = self.numbers(0)?;
        let mut size = [0; 4];
        self.file.read_exact_at(&mut size, 24)?;
        ensure!(magic == MAGIC && version == VERSION, "it is none of that format");
        ensure!(u64::from(u32::from_le_bytes(size)) == SECTOR, "its sectors have another size");
        let mut at = SECTOR;
        for _ in 0..count {
            let [sector, sectors, flags] = self.numbers(at)?;
            let (offset, length) = (sector * SECTOR, sectors * SECTOR);
            let is = |flag: u64| flags & flag != 0;
            ensure!(flags & !(FLUSH | FUA | DISCARD | MARK) == 0, "unknown flags: {flags:#x}");
            if is(MARK) {
                bail!("it has a mark, which nobody makes here");
            }
            at += SECTOR;
            self.writes.push(Write {
                offset,
                length,
                flush: is(FLUSH),
                durable: is(FUA),
                discard: is(DISCARD),
                data: at,
            });
            if !is(DISCARD) {
                at += length;
            }
        }
        Ok(())
    }

    fn numbers(&self, at: u64) -> Result<[u64; 3]> {
        let mut bytes = [0; 24];
        self.file.read_exact_at(&mut bytes, at)?;
        let mut numbers = [0; 3];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into()?);
        }
        Ok(numbers)
    }

    /// Returns its entries, in the order in which the disk was done with them.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Returns what an entry writes; zeros for what it discards.
    ///
    /// # Errors
    ///
    /// Fails when the log can't be read.
    pub fn data(&self, write: &Write) -> Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(write.length)?];
        if !write.discard {
            self.file.read_exact_at(&mut data, write.data).context("cannot read the log")?;
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        create(&path).unwrap();
        assert!(WriteLog::open(&path).unwrap().writes().is_empty());

        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&3_u64.to_le_bytes(), 16).unwrap();
        let entries = [(7_u64, 2_u64, FUA), (0, 0, FLUSH), (1, 1, DISCARD)];
        let mut at = SECTOR;
        for (sector, sectors, flags) in entries {
            let fields = [sector.to_le_bytes(), sectors.to_le_bytes(), flags.to_le_bytes()];
            file.write_all_at(&fields.concat(), at).unwrap();
            at += SECTOR;
            if flags == FUA {
                file.write_all_at(&[9; 1024], at).unwrap();
                at += 1024;
            }
        }
        file.set_len(at).unwrap();

        let log = WriteLog::open(&path).unwrap();
        let [first, flush, discard] = *log.writes() else { panic!("{log:?}") };
        assert!((first.offset, first.length, first.durable) == (3584, 1024, true));
        assert!(flush.flush && flush.length == 0 && discard.discard);
        assert_eq!(log.data(&first).unwrap(), [9; 1024]);
        assert_eq!(log.data(&discard).unwrap(), [0; 512]);
    }
}
