//! What was durable at a moment, as the workload said it, and whether a root has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use testkit::process::run;
use testkit::write_log::{Write, WriteLog};

use crate::ebbtide::Kind;

/// The last sector before the first filesystem, in bytes from the start of the disk.
const PLACE: u64 = 4095 * 512;

/// What the workload says. Each is a count.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    lines: u64,
    rows: u64,
    hosts: u64,
    /// Of each boot, by its number: what it wrote to its root.
    strays: BTreeMap<u64, u64>,
}

impl Promises {
    /// Takes up what a write says, if it is to the place where the workload says it.
    ///
    /// Fails when it says something else.
    pub fn hear(&mut self, log: &WriteLog, write: &Write) -> Result<()> {
        if write.offset != PLACE || write.length != 512 || write.discard {
            return Ok(());
        }
        let text = String::from_utf8(log.data(write)?)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["durable", boot, lines, rows, hosts, strays] = *words.as_slice() else {
            bail!("the workload said {text:?}");
        };
        self.lines = lines.parse()?;
        self.rows = rows.parse()?;
        self.hosts = hosts.parse()?;
        self.strays.insert(boot.parse()?, strays.parse()?);
        Ok(())
    }

    /// Fails unless the workload was heard in both of its boots: of what it did not say, no loss is seen.
    pub fn ensure_heard(&self) -> Result<()> {
        let spoke = self.strays.values().filter(|count| **count > 0).count();
        ensure!(
            spoke > 1 && self.lines > 50 && self.rows > 50 && self.hosts > 10,
            "heard {self:?}"
        );
        Ok(())
    }

    /// The newest boot that said something.
    pub fn boot(&self) -> u64 {
        self.strays.keys().next_back().copied().unwrap_or_default()
    }

    /// Fails unless this root, of a machine with this top level, has all of it, and nothing torn.
    pub fn ensure_kept(&self, root: &Path, top: &Path, kind: Kind) -> Result<()> {
        self.log(root)?;
        self.database(root)?;
        self.hosts(root)?;
        for (&boot, &count) in &self.strays {
            let past = kind.written(u32::try_from(boot)?);
            let stray = fs::read_to_string(top.join(&past).join("stray")).unwrap_or_default();
            let found = stray.lines().count() as u64;
            ensure!(found >= count, "{}/stray: {found} lines of {count}", past.display());
        }
        let other = fs::read_to_string(top.join("not-ours"))?;
        ensure!(other == "stays", "what is not Ebbtide's was changed to {other:?}");
        Ok(())
    }

    fn log(&self, root: &Path) -> Result<()> {
        let text = fs::read(root.join("var/lib/app/log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut whole = 0;
        for (number, line) in (1_u64..).zip(text.split_inclusive('\n')) {
            let is_whole = line == format!("{number} {} whole\n", number * 7919);
            // What was being written may be there in part.
            ensure!(is_whole || number > self.lines, "line {number} of the log is {line:?}");
            whole += u64::from(is_whole);
        }
        ensure!(whole >= self.lines, "{whole} lines of {}", self.lines);
        Ok(())
    }

    fn database(&self, root: &Path) -> Result<()> {
        let database = root.join("var/lib/app/db");
        if self.rows == 0 {
            return Ok(());
        }
        let said = run(Command::new("sqlite3")
            .arg(&database)
            .arg("PRAGMA integrity_check; SELECT count(*), max(n) FROM t;"))
        .context("the database does not open")?;
        let said = String::from_utf8(said)?;
        let (integrity, counts) = said.trim().split_once('\n').context("no answer")?;
        let (count, most) = counts.split_once('|').context("no counts")?;
        ensure!(integrity == "ok", "the database says {integrity}");
        let (count, most): (u64, u64) = (count.parse()?, most.parse()?);
        ensure!(count == most && count >= self.rows, "{count} rows to {most} of {}", self.rows);
        Ok(())
    }

    fn hosts(&self, root: &Path) -> Result<()> {
        let text = fs::read_to_string(root.join("etc/hosts")).unwrap_or_default();
        if self.hosts == 0 {
            return Ok(());
        }
        let generation = text.lines().find_map(|line| line.strip_prefix("# generation "));
        let generation: u64 = generation.context("/etc/hosts is the base's")?.parse()?;
        let whole =
            text.lines().count() == 103 && text.ends_with(&format!("end of {generation}\n"));
        ensure!(whole, "/etc/hosts is torn: {text:?}");
        ensure!(generation >= self.hosts, "/etc/hosts is {generation}, not {}", self.hosts);
        Ok(())
    }
}
