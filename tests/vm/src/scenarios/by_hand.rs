//! What the page on recovery says to do by hand, done from its text: a file is taken out of a past root, a
//! live system goes back to one, and another leaves Ebbtide.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::guest::{BootFiles, kernel_arguments};
use testkit::process::run as call;
use testkit::vm::Vm;

use crate::ebbtide::{Ebbtide, Kind, checks};
use crate::manual::indented;

const TEXT: &str = include_str!("../../../../docs/how-to/recover.md");
/// Where the page mounts the volume.
const VOLUME: &str = "/mnt";
/// What it takes for the list of entries, and what that is here.
const EXAMPLE: &str = "for path in /home /var/log /etc/ebbtide";
const KEPT: &str = "/home /var/log /var/lib/witness /var/lib/app /etc/ebbtide /etc/motd \
    /etc/made-later.conf /etc/ssh/ssh_host_ecdsa_key /etc/ssh/ssh_host_ecdsa_key.pub \
    /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/ssh_host_rsa_key \
    /etc/ssh/ssh_host_rsa_key.pub";

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    checks::new_and_complete(&mut vm)?;
    take_a_file_out(&mut vm, kind)?;
    vm.power_off_cleanly()?;
    let again = machine.copy(&directory.join("again"))?;
    go_back(&again).context("going back to a past root")?;
    leave(&machine, directory).context("leaving Ebbtide")
}

/// The block of a section in which a text is.
fn block(section: &str, with: &str) -> Result<String> {
    let mut blocks = indented(TEXT, section).into_iter();
    blocks.find(|block| block.contains(with)).with_context(|| format!("no {with:?} in {section}"))
}

fn take_a_file_out(vm: &mut Vm, kind: Kind) -> Result<()> {
    let with = if kind.is_btrfs() { "ebbtide boots show" } else { "mount -t overlay" };
    let commands = block("By hand", with)?
        .replace("past/7", "past/1")
        .replace("show 7", "show 1")
        .replace("etc/hosts", "etc/cron.d/evil");
    vm.check(&format!("set -e\n{commands}")).with_context(|| commands.clone())?;
    vm.check("grep -q evil/sh /etc/cron.d/evil && ! mountpoint -q /mnt && ! mountpoint -q /media")?;
    Ok(())
}

/// Types commands on this machine, which is the live system, with a volume where the page has it.
fn type_here(commands: &str, volume: &Path) -> Result<()> {
    let overlay = tempfile::tempdir()?;
    let commands = commands
        .lines()
        .filter(|line| !line.starts_with("mount ") || !line.contains("LABEL=system"))
        .map(|line| line.replace(VOLUME, &volume.display().to_string()))
        .map(|line| line.replace("/media", &overlay.path().display().to_string()))
        .collect::<Vec<_>>()
        .join("\n");
    call(Command::new("bash").args(["-euo", "pipefail", "-c", &commands])).context(commands)?;
    Ok(())
}

fn go_back(machine: &Ebbtide) -> Result<()> {
    let both = block("The machine does not boot as it should", "root-of-today")?;
    let other = if machine.kind.is_btrfs() { "# overlay" } else { "# btrfs" };
    let commands: Vec<_> = both.lines().filter(|line| !line.ends_with(other)).collect();
    let commands = commands.join("\n").replace("past/7", "past/1");
    machine.system.with_top_level(|top| type_here(&commands, top))?;
    let mut vm = machine.start("ebbtide=off")?;
    vm.check("test -e /stray && grep -q evil/sh /etc/cron.d/evil")?;
    vm.check("grep -q thesis /home/alice/thesis.tex")?;
    vm.power_off_cleanly().map(drop)
}

fn leave(machine: &Ebbtide, directory: &Path) -> Result<()> {
    let section = "Leave Ebbtide";
    let copied = block(section, "for path in")?;
    let copied = copied.replace(EXAMPLE, "for path in $KEPT");
    let (root, kept) = copied.split_once("for path in $KEPT").context("no such loop")?;
    let root =
        if machine.kind.is_btrfs() { root.to_owned() } else { block(section, "mkdir -m 755")? };
    let cleaned = block(section, "dpkg --purge")?;
    let files = machine.system.with_top_level(|top| {
        type_here(&format!("KEPT='{KEPT}'\n{root}\nfor path in $KEPT{kept}\n{cleaned}"), top)?;
        let plain = top.join("plain");
        let filesystem = machine.kind.filesystem.name();
        let options = if machine.kind.is_btrfs() { "subvol=plain" } else { "defaults" };
        let line = format!("LABEL=system / {filesystem} {options} 0 1\n");
        fs::write(plain.join("etc/fstab"), line)?;
        let files = BootFiles::copy(&plain, directory)?;
        if !machine.kind.is_btrfs() {
            type_here("mv /mnt/plain/* /mnt/", top)?;
        }
        Ok(files)
    })?;
    let place = if machine.kind.is_btrfs() { "rootflags=subvol=plain" } else { "" };
    // The first service writes before anything is remounted.
    let arguments = kernel_arguments(&format!("root=LABEL=system rw {place}"));
    let mut vm = machine.without_loader(&files, &arguments).start()?;
    vm.wait_for_boot()?;
    vm.assert_healthy()?;
    vm.check("! command -v ebbtide && ! test -e /run/ebbtide && touch /stays")?;
    vm.check("grep -q thesis /home/alice/thesis.tex && grep -q back /etc/motd")?;
    vm.reboot()?;
    vm.assert_healthy()?;
    let left = vm.check("systemctl list-unit-files 'ebbtide*' --no-legend; ls /stays")?;
    ensure!(left.trim() == "/stays", "{left}");
    vm.power_off_cleanly().map(drop)
}
