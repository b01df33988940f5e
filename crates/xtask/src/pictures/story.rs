//! What the pictures tell: a shop on a small server, which forgets what nobody kept.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testkit::mount::Filesystem;
use testkit::process::run;

use super::Picture;
use crate::bench::machine::{Life, Machine, Programs};

/// What is kept from the beginning.
const KEEP: &str = "[keep]\npresets = [\"ssh-host-keys\"]\ndirectories = [\"/var/log\"]\n";

const NOTES: &str = "home/ada/notes.md";
const SITE: &str = "server {\n    listen 443 ssl;\n    server_name shop.example.org;\n}\n";

/// Sets a machine up, lives through three boots, and records what is shown.
pub(super) fn record(programs: &Programs) -> Result<Vec<Picture>> {
    let machine = Machine::declared(programs, Filesystem::Btrfs, KEEP, installed)?;
    // The first boot has first content to copy, and says so.
    let mut pictures = machine.live(|life| {
        life.up()?;
        begin(life.root.as_path())?;
        let told = Screen::new(life).shows(&["diff"], &[3])?.end("diff");
        let keep = Screen::new(life).shows(&["keep", "/var/lib/shop"], &[0])?;
        let keep = keep.shows(&["status"], &[0])?.end("keep-and-status");
        end(life)?;
        Ok(vec![told, keep])
    })?;
    machine.live(|life| {
        life.up()?;
        notes(&life.root, &"- call the printer, again\n".repeat(120))?;
        end(life)
    })?;
    let last = machine.live(|life| {
        life.up()?;
        let notes = format!("/{NOTES}");
        let screen = Screen::new(life).shows(&["log", &notes], &[0])?;
        let screen = screen.shows(&["restore", "--keep", &notes], &[0])?.end("log-and-restore");
        end(life)?;
        Ok(screen)
    })?;
    pictures.push(last);
    Ok(pictures)
}

/// The system that is installed, and that every root starts from.
fn installed(tree: &Path) -> Result<()> {
    write(tree, "etc/nginx/nginx.conf", "worker_processes 1;\n")?;
    write(tree, "etc/motd", "Welcome.\n")?;
    write(tree, "etc/hosts", "127.0.0.1 localhost\n")?;
    let list = "/.\n/etc\n/etc/nginx\n/etc/nginx/nginx.conf\n/var\n/var/log\n";
    write(tree, "var/lib/dpkg/info/nginx.list", list)?;
    for kind in ["ecdsa", "ed25519", "rsa"] {
        write(tree, &format!("etc/ssh/ssh_host_{kind}_key"), "key\n")?;
        write(tree, &format!("etc/ssh/ssh_host_{kind}_key.pub"), "key\n")?;
    }
    write(tree, "etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n")?;
    write(tree, "etc/group", "root:x:0:\nada:x:1000:\n")?;
    write(tree, "var/log/installer.log", "installed\n")
}

/// What people and programs do in the first boot.
fn begin(root: &Path) -> Result<()> {
    fs::remove_file(root.join("etc/motd"))?;
    notes(root, &"- call the printer\n".repeat(100))?;
    write(root, "etc/hosts", "127.0.0.1 localhost\n192.0.2.7 db.example.org\n")?;
    let office = "etc/NetworkManager/system-connections/office.nmconnection";
    write(root, office, &"[wifi]\n".repeat(50))?;
    write(root, "etc/nginx/nginx.conf", "worker_processes auto;\n")?;
    write(root, "etc/nginx/sites-enabled/shop.conf", SITE)?;
    write(root, "var/cache/man/index.db", &"x".repeat(70_000))?;
    write(root, "tmp/upload.part", &"x".repeat(40_000))?;
    write(root, "var/lib/shop/orders.db", &"order\n".repeat(400_000))?;
    for number in 1..=40 {
        let photo = format!("var/lib/shop/photos/{number:04}.jpg");
        write(root, &photo, &"photo\n".repeat(30_000 + number * 100))?;
    }
    write(root, "var/log/nginx/access.log", "GET /\n")
}

/// What somebody writes at home.
fn notes(root: &Path, content: &str) -> Result<()> {
    write(root, NOTES, content)?;
    run(Command::new("chown").args(["-R", "1000:1000"]).arg(root.join("home/ada"))).map(drop)
}

/// Writes a file with a time that is the same in every picture, some time after the one before.
fn write(root: &Path, path: &str, content: &str) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    let time = if content.contains("again") { "2026-03-02 09:30Z" } else { "2026-03-01 17:12Z" };
    run(Command::new("touch").args(["--date", time]).arg(&path))?;
    // Filesystems tell times by ticks of the clock, and what changed last is told first.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// Shuts down in order.
fn end(life: &Life<'_>) -> Result<()> {
    run(life.ebbtide().args(["internal", "mark-clean"])).map(drop)
}

/// The hash of a declaration has UUIDs in it that are new in each run: it is always the same here.
fn without_hash(said: &str) -> String {
    let line = |line: &str| match line.split_once(" entries as ") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
            format!("{before} entries as 3f9c04a17be2{rest}\n")
        }
        None => format!("{line}\n"),
    };
    said.lines().map(line).collect()
}

/// What a terminal shows.
struct Screen<'l> {
    life: &'l Life<'l>,
    text: String,
}

impl<'l> Screen<'l> {
    fn new(life: &'l Life<'l>) -> Self {
        Self { life, text: String::new() }
    }

    /// Runs a command, which ends with one of these statuses.
    fn shows(mut self, arguments: &[&str], statuses: &[i32]) -> Result<Self> {
        let ran = self
            .life
            .ebbtide()
            .args(["--color", "always"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8(ran.stdout)? + &String::from_utf8(ran.stderr)?;
        if !ran.status.code().is_some_and(|status| statuses.contains(&status)) {
            bail!("{arguments:?}: {}\n{said}", ran.status);
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let root = self.life.root.display().to_string();
        let typed = arguments.join(" ");
        self.text += "\u{1b}[32m$\u{1b}[0m \u{1b}[1msudo ebbtide ";
        self.text += &(typed + "\u{1b}[0m\n");
        self.text += &without_hash(&said.replace(&root, ""));
        Ok(self)
    }

    fn end(self, name: &'static str) -> Picture {
        Picture { name, shown: self.text }
    }
}
