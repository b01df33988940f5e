//! The disk as a power cut leaves it, and the boot after it: made here, by `ebbtide-boot up`, as no
//! emulated machine could boot hundreds of times.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::disk::LoopDevice;
use testkit::mount::{Filesystem, Mount, Volume};
use testkit::process::run;
use testkit::write_log::{Write, WriteLog};

use super::promises::Promises;
use crate::ebbtide::{Ebbtide, Kind};
use crate::forgetful::{HiddenRun, RUN, unpack, up};

/// What a disk keeps or loses as one: that many bytes, at multiples of it.
const BLOCK: usize = 4096;

/// Room for the disk and its copies, which share what is the same.
const ROOM: u64 = 12 << 30;

pub struct Cuts {
    kind: Kind,
    directory: PathBuf,
    locator: PathBuf,
    big: PathBuf,
    /// Where copies are made in no time.
    volume: Volume,
    /// Where the filesystem begins on the disk, in bytes.
    start: u64,
    _run: HiddenRun,
}

/// What becomes of writes that the disk had not been told to keep.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// Each is kept, lost or torn by chance.
    Chance,
    /// As before, but most are kept.
    MostKept,
}

impl Cuts {
    /// Takes the machine's disks as they are: nothing but the machine may write to them from here on.
    pub fn prepare(directory: &Path, machine: &Ebbtide) -> Result<Self> {
        unpack(&directory.join("ebbtide"))?;
        let volume = Volume::in_memory(Filesystem::Xfs, ROOM)?;
        let big = volume.path().join("big");
        fs::copy(machine.big.path(), &big)?;
        let locator = directory.join("locator.json");
        let ebbtide = directory.join("ebbtide/usr/bin/ebbtide");
        let big_is_there = LoopDevice::attach(&big, &[])?;
        machine.system.with_top_level(|top| {
            let declaration = top.join("state/etc/ebbtide/ebbtide.toml");
            let text = run(Command::new(ebbtide).args(["locator", "--config"]).arg(declaration))?;
            Ok(fs::write(&locator, text)?)
        })?;
        big_is_there.detach()?;
        let start = machine.system.copy_system_to(&volume.path().join("disk"))?;
        let (kind, directory) = (machine.kind, directory.to_owned());
        Ok(Self { kind, directory, locator, big, volume, start, _run: HiddenRun::new()? })
    }

    /// Cuts the power `count` times, at moments that are spread over all writes, and boots each time.
    /// Returns an image of the filesystem as one of these left it.
    pub fn survive(&self, log: &WriteLog, count: usize) -> Result<PathBuf> {
        let disk = File::options().write(true).open(self.volume.path().join("disk"))?;
        let writes = log.writes();
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        let mut promises = Promises::default();
        // Those before are on the disk; from here on they are at the mercy of the cut.
        let (mut durable, mut heard) = (0, 0);
        let kept = self.volume.path().join("kept");
        for number in 0..count {
            // More cuts than writes come at the same moments again, and other blocks are lost.
            let span = (writes.len() / count).max(1);
            let moment = (number * writes.len() / count + chance.below(span)).min(writes.len());
            let before = writes.get(..moment).unwrap_or_default();
            for write in before.get(heard..).unwrap_or_default() {
                promises.hear(log, write)?;
            }
            heard = moment;
            if let Some(flush) = before.iter().rposition(|write| write.flush)
                && flush >= durable
            {
                for write in before.get(durable..=flush).unwrap_or_default() {
                    self.write(&disk, write, &log.data(write)?)?;
                }
                durable = flush + 1;
            }
            let fate = [Fate::Lost, Fate::Chance, Fate::Kept, Fate::MostKept][number % 4];
            let image = self.volume.path().join("cut");
            run(Command::new("cp")
                .arg("--reflink=always")
                .arg(self.volume.path().join("disk"))
                .arg(&image))?;
            let cut = File::options().write(true).open(&image)?;
            for write in before.get(durable..).unwrap_or_default() {
                self.suffer(&cut, write, fate, log, &mut chance)?;
            }
            drop(cut);
            if number == count / 2 {
                run(Command::new("cp").arg("--reflink=always").arg(&image).arg(&kept))?;
            }
            self.boots(&image, &promises, number % 10 == 0).with_context(|| {
                let saved = self.directory.join("cut");
                let copied =
                    Command::new("cp").arg("--sparse=always").args([&image, &saved]).status();
                let saved = match copied {
                    Ok(_) => format!("the disk is {}", saved.display()),
                    Err(error) => format!("the disk could not be saved: {error}"),
                };
                format!(
                    "cut {number}, after write {moment} of {}, {fate:?}, when {promises:?} was \
                     durable; {saved}",
                    writes.len()
                )
            })?;
            fs::remove_file(&image)?;
        }
        for write in writes.get(heard..).unwrap_or_default() {
            promises.hear(log, write)?;
        }
        promises.ensure_heard()?;
        eprintln!("{count} power cuts among {} writes; at last {promises:?}", writes.len());
        Ok(kept)
    }

    fn suffer(
        &self,
        disk: &File,
        write: &Write,
        fate: Fate,
        log: &WriteLog,
        chance: &mut Chance,
    ) -> Result<()> {
        let mut data = log.data(write)?;
        let kept = match fate {
            _ if write.durable => data.len(),
            Fate::Lost => 0,
            Fate::Kept => data.len(),
            Fate::Chance | Fate::MostKept => {
                let rare = if matches!(fate, Fate::Chance) { 3 } else { 20 };
                match chance.below(rare) {
                    0 => 0,
                    1 => chance.below(data.len() / BLOCK + 1) * BLOCK,
                    _ => data.len(),
                }
            }
        };
        data.truncate(kept);
        self.write(disk, write, &data)
    }

    fn write(&self, disk: &File, write: &Write, data: &[u8]) -> Result<()> {
        // What lies before is not of the filesystem; nor is what comes after.
        let Some(offset) = write.offset.checked_sub(self.start) else { return Ok(()) };
        let size = disk.metadata()?.len();
        if offset + data.len() as u64 <= size {
            disk.write_all_at(data, offset)?;
        }
        Ok(())
    }

    /// Boots from a disk, twice if asked to, and fails unless the roots are new and have what was durable.
    fn boots(&self, image: &Path, promises: &Promises, twice: bool) -> Result<()> {
        let system = LoopDevice::attach(image, &[])?;
        let big = LoopDevice::attach(&self.big, &[])?;
        let mut last = promises.boot();
        for _ in 0..if twice { 2 } else { 1 } {
            last = self.boots_once(system.path(), promises, last)?;
        }
        system.detach()?;
        big.detach()
    }

    fn boots_once(&self, system: &Path, promises: &Promises, last: u64) -> Result<u64> {
        let root = self.directory.join("root");
        fs::create_dir_all(&root)?;
        fs::create_dir_all(RUN)?;
        let _run = Cover::with_tmpfs(Path::new(RUN))?;
        let boot = self.directory.join("ebbtide/usr/lib/ebbtide/ebbtide-boot");
        let boot = up(&boot, &root, &self.locator, "")?;
        let _root = Cover(root.clone());
        let said = String::from_utf8_lossy(&boot.stderr);
        let record = fs::read(Path::new(RUN).join("boot.json")).context("no record")?;
        let record: Value = serde_json::from_slice(&record)?;
        let number = record["number"].as_u64().unwrap_or_default();
        ensure!(boot.status.success(), "the boot ended with {}:\n{said}{record:#}", boot.status);
        ensure!(record["outcome"] == "reset", "no reset:\n{said}{record:#}");
        ensure!(number > last, "the boot is {number}, after {last}:\n{said}");
        ensure!(!root.join("stray").exists(), "the root is not new");
        let top = if self.kind.is_btrfs() { "subvolid=5" } else { "rw" };
        let top = Mount::new(system, self.kind.filesystem, top)?;
        promises.ensure_kept(&root, top.path(), self.kind).context(said.into_owned())?;
        top.close()?;
        Ok(number)
    }
}

/// What is mounted at a directory, unmounted with the value.
struct Cover(PathBuf);

impl Cover {
    fn with_tmpfs(at: &Path) -> Result<Self> {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs"]).arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        let umount = |how: &[&str]| run(Command::new("umount").args(how).arg(&self.0)).is_ok();
        let _ = umount(&["--recursive"]) || umount(&["--recursive", "--lazy"]);
    }
}

/// Numbers by chance, the same in every run: xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap_or_default()
    }
}
