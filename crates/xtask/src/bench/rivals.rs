//! What else finds out how a btrfs root differs from its base.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbtide_sys::btrfs;
use testkit::process::run;

use super::machine::timed;

/// The base, the root and a snapshot of it for reading, below the mounted top level of a volume.
#[derive(Debug)]
pub struct Rivals {
    base: PathBuf,
    root: PathBuf,
    frozen: PathBuf,
    generation: u64,
    snapper: Option<Snapper>,
}

/// What snapper(8) has to have.
#[derive(Debug)]
struct Snapper {
    /// What it keeps of the last comparison.
    list: PathBuf,
}

impl Rivals {
    /// Makes what they need; nothing of that counts.
    pub fn new(top: &Path) -> Result<Self> {
        let [base, root, frozen] =
            ["ebbtide/bases/1", "ebbtide/root", "frozen"].map(|it| top.join(it));
        run(Command::new("sync").arg("--file-system").arg(top))?;
        snapshot(&root, &frozen)?;
        let generation = btrfs::subvolume_info(File::open(&root)?.as_fd())?.otransid;
        let snapper =
            if is_installed("snapper") { Some(Snapper::new(top, &base, &root)?) } else { None };
        run(Command::new("sync").arg("--file-system").arg(top))?;
        Ok(Self { base, root, frozen, generation, snapper })
    }

    /// Takes it away again.
    pub fn end(self, top: &Path) -> Result<()> {
        let mut delete = Command::new("btrfs");
        delete.args(["subvolume", "delete"]).arg(&self.frozen);
        if self.snapper.is_some() {
            let place = top.join(SNAPPER);
            delete.args(["1/snapshot", "2/snapshot"].map(|it| place.join(".snapshots").join(it)));
            delete.arg(place.join(".snapshots")).arg(place);
        }
        run(&mut delete).map(drop)
    }

    /// `rsync -an --delete`, which looks at size and time of all files.
    pub fn rsync(&self) -> Result<Duration> {
        let slash = |path: &Path| path.join("");
        timed(
            Command::new("rsync")
                .args(["-an", "--delete"])
                .args([slash(&self.root), slash(&self.base)]),
        )
    }

    /// `btrfs send` without data, into `btrfs receive --dump`.
    pub fn send(&self) -> Result<Duration> {
        let started = Instant::now();
        let mut send = Command::new("btrfs")
            .args(["send", "--no-data", "-p"])
            .args([&self.base, &self.frozen])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stream = send.stdout.take().context("no stream")?;
        let mut receive = Command::new("btrfs");
        receive.args(["receive", "--dump"]).stdin(stream).stdout(Stdio::null());
        let dumped = receive.output()?;
        let ended = send.wait_with_output()?;
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            ended.status.success() && dumped.status.success(),
            "btrfs send: {}\n{}btrfs receive: {}\n{}",
            ended.status,
            said(&ended),
            dumped.status,
            said(&dumped)
        );
        Ok(started.elapsed())
    }

    /// `btrfs subvolume find-new`, which knows nothing of deletions, renames and metadata.
    pub fn find_new(&self) -> Result<Duration> {
        timed(
            Command::new("btrfs")
                .args(["subvolume", "find-new"])
                .arg(&self.root)
                .arg(self.generation.to_string()),
        )
    }

    /// `diff -rq`, which reads all files.
    pub fn diff(&self) -> Result<Duration> {
        let started = Instant::now();
        let mut diff = Command::new("diff");
        diff.args(["-rq", "--no-dereference"]).args([&self.base, &self.root]);
        let ended = diff.stdout(Stdio::null()).status()?;
        ensure!(ended.code() == Some(1), "diff -rq found nothing");
        Ok(started.elapsed())
    }

    /// The kernel's own search for items of the root since the base's generation, in a loop that only counts
    /// bytes, in a program that runs already.
    pub fn scan(&self) -> Result<Duration> {
        let root = File::open(&self.root)?;
        let started = Instant::now();
        btrfs::written_since(root.as_fd(), self.generation)?;
        Ok(started.elapsed())
    }

    /// Whether snapper can be asked.
    pub fn has_snapper(&self) -> bool {
        self.snapper.is_some()
    }

    /// `snapper status 1..2`.
    pub fn snapper(&self) -> Result<Duration> {
        let snapper = self.snapper.as_ref().context("snapper is not installed")?;
        if snapper.list.exists() {
            fs::remove_file(&snapper.list)?;
        }
        let mut status = Command::new("snapper");
        let time = timed(status.args(["--no-dbus", "--config", "bench", "status", "1..2"]))?;
        ensure!(snapper.list.exists(), "snapper status compared nothing");
        Ok(time)
    }
}

/// Its subvolume below the top level.
const SNAPPER: &str = "snapper";

impl Snapper {
    /// Lays out two snapshots as snapper makes them, and a configuration that only this mount namespace sees.
    fn new(top: &Path, base: &Path, root: &Path) -> Result<Self> {
        let subvolume = top.join(SNAPPER);
        let snapshots = subvolume.join(".snapshots");
        for place in [&subvolume, &snapshots] {
            run(Command::new("btrfs").args(["subvolume", "create"]).arg(place))?;
        }
        for (number, source) in [(1, base), (2, root)] {
            let place = snapshots.join(number.to_string());
            fs::create_dir(&place)?;
            snapshot(source, &place.join("snapshot"))?;
            let about = format!(
                "<?xml version=\"1.0\"?>\n<snapshot><type>single</type><num>{number}</num>\
                 <date>2026-01-01 00:00:0{number}</date></snapshot>\n"
            );
            fs::write(place.join("info.xml"), about)?;
        }
        let configs = Path::new("/etc/snapper");
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(configs))?;
        fs::create_dir(configs.join("configs"))?;
        let config = format!("SUBVOLUME=\"{}\"\nFSTYPE=\"btrfs\"\n", subvolume.display());
        fs::write(configs.join("configs/bench"), config)?;
        let list = configs.join("list");
        fs::write(&list, "SNAPPER_CONFIGS=\"bench\"\n")?;
        let debian = Path::new("/etc/default/snapper");
        let place = if debian.exists() { debian } else { Path::new("/etc/sysconfig/snapper") };
        run(Command::new("mount").arg("--bind").arg(list).arg(place))?;
        Ok(Self { list: snapshots.join("2/filelist-1.txt.gz") })
    }
}

/// Whether a program can be started.
pub fn is_installed(program: &str) -> bool {
    let quiet = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    quiet.is_ok_and(|ended| ended.success())
}

fn snapshot(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("btrfs").args(["subvolume", "snapshot", "-r"]).args([from, to])).map(drop)
}
