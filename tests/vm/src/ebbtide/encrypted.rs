//! The machine whose root and store are encrypted, each with LUKS: on btrfs alone, on overlays with LVM
//! inside. At every boot somebody types the passphrase of the root; the key of the store is a file in the
//! initramfs.
//!
//! It is set up in plain text and encrypted afterwards, in place, so that this needs no device mapper: not
//! every kernel that this runs on has one.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::disk::{Disk, LoopDevice};
use testkit::guest::BootFiles;
use testkit::mount::Filesystem;
use testkit::privileged::chroot;
use testkit::process::run;
use testkit::vm::Vm;

use super::{Ebbtide, Kind, init, install};

const PASSPHRASE: &str = "what opens the root";
/// Where its key is, in the system.
const KEY: &str = "etc/keys/big.key";
const SYSTEM_UUID: &str = "6f0d1c5e-93a4-4a0b-8c0e-0d3a2f6b7c11";
const BIG_UUID: &str = "b1b7a1c4-2c55-4c0f-9a44-7c9f1e0a5d22";

/// What the header of LUKS takes, twice: encrypting in place moves it all by half of that.
const HEADER: u64 = 32 << 20;
/// Where the first logical volume begins, in bytes.
const FIRST_EXTENT: u64 = 1 << 20;
/// What LVM takes at most, besides.
const EXTENT: u64 = 4 << 20;

/// Makes a volume group `$2` on the device `$1`, and one logical volume of all of it.
const GROUP: &str = r#"
lvm() {
    command=$1; shift
    /sbin/lvm "$command" --driverloaded n --devices "$device" "$@"
}
device=$1
lvm pvcreate --dataalignment 1m "$device"
lvm vgcreate --autobackup n "$2" "$device"
lvm lvcreate --autobackup n --name volume --extents 100%FREE --activate n --zero n --wipesignatures n "$2"
"#;

impl Ebbtide {
    /// The machine as `ebbtide init` left it, encrypted.
    pub fn encrypted(directory: &Path, kind: Kind) -> Result<Self> {
        let tree = directory.join("tree");
        fs::create_dir_all(&tree)?;
        install(kind, &tree)?;
        configure(kind, &tree)?;
        let system =
            Disk::new_plain(&directory.join("system"), 2 << 30, kind.filesystem, "system")?;
        let big = Disk::new_plain(&directory.join("big"), 256 << 20, Filesystem::Ext4, "big")?;
        let declaration = directory.join("ebbtide.toml");
        fs::write(&declaration, kind.declaration())?;
        let store = big.mount()?;
        let boot = system.with_top_level(|top| {
            init(&tree, &declaration, None)?;
            BootFiles::copy(&top.join("ebbtide/bases/1"), directory)
        })?;
        store.close()?;
        fs::write(tree.join("etc/keys/system.key"), PASSPHRASE)?;
        for (disk, name, uuid) in [(&system, "system", SYSTEM_UUID), (&big, "big", BIG_UUID)] {
            if !kind.is_btrfs() {
                put_into_group(&tree, disk.path(), name)?;
            }
            encrypt(&tree, disk.path(), &format!("/etc/keys/{name}.key"), uuid)?;
        }
        run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&tree))?;
        Ok(Self { kind, system, big, boot, directory: directory.to_owned() })
    }

    /// Types the passphrase when the boot asks for it.
    pub fn unlock(&self, vm: &mut Vm) -> Result<()> {
        let prompt = if self.kind.guest.has_dracut() {
            "Please enter passphrase for disk"
        } else {
            "Please unlock disk system"
        };
        vm.wait_for_console(prompt, Duration::from_secs(300))?;
        vm.type_line(PASSPHRASE)
    }
}

/// Says in a system what is encrypted, and what of that the initramfs has to open.
fn configure(kind: Kind, tree: &Path) -> Result<()> {
    let key = tree.join(KEY);
    let keys = key.parent().context("the key is in no directory")?;
    fs::create_dir(keys)?;
    fs::set_permissions(keys, fs::Permissions::from_mode(0o700))?;
    run(Command::new("dd").args(["if=/dev/urandom", "bs=64", "count=1", "status=none"]).arg({
        let mut output = std::ffi::OsString::from("of=");
        output.push(&key);
        output
    }))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
    let option = if kind.guest.has_dracut() { "x-initrd.attach" } else { "initramfs" };
    let table = format!(
        "system UUID={SYSTEM_UUID} none luks,{option}\n\
         big UUID={BIG_UUID} /{KEY} luks,nofail,{option}\n"
    );
    fs::write(tree.join("etc/crypttab"), table)?;
    if kind.guest.has_dracut() {
        let items = format!("install_items+=\" /etc/crypttab /{KEY} \"\n");
        fs::write(tree.join("etc/dracut.conf.d/encryption.conf"), items)?;
        return Ok(());
    }
    let pattern = "KEYFILE_PATTERN=\"/etc/keys/*.key\"\n";
    fs::write(tree.join("etc/cryptsetup-initramfs/conf-hook"), pattern)?;
    fs::write(tree.join("etc/initramfs-tools/conf.d/keys"), "UMASK=0077\n")?;
    Ok(())
}

/// Turns an image with a filesystem into one with a logical volume that has the filesystem.
fn put_into_group(tree: &Path, image: &Path, group: &str) -> Result<()> {
    let plain = image.with_extension("plain");
    fs::rename(image, &plain)?;
    let size = fs::metadata(&plain)?.len();
    File::create_new(image)?.set_len(FIRST_EXTENT + size + EXTENT)?;
    let device = LoopDevice::attach(image, &[])?;
    run(chroot(tree, "sh").args(["-euc", GROUP, "group"]).arg(device.path()).arg(group))?;
    device.detach()?;
    // Where the first extent is, as its numbers begin there.
    let offset = FIRST_EXTENT >> 20;
    run(Command::new("dd")
        .args(["bs=1M", "conv=sparse,notrunc", "status=none", &format!("seek={offset}")])
        .arg(format!("if={}", plain.display()))
        .arg(format!("of={}", image.display())))?;
    fs::remove_file(&plain).context("cannot delete the image in plain text")
}

/// Encrypts an image in place, with a key that derives fast: guests are emulated.
fn encrypt(tree: &Path, image: &Path, key: &str, uuid: &str) -> Result<()> {
    let file = File::options().write(true).open(image)?;
    file.set_len(file.metadata()?.len() + HEADER)?;
    let device = LoopDevice::attach(image, &[])?;
    run(chroot(tree, "cryptsetup")
        .args(["reencrypt", "--encrypt", "--type", "luks2", "--batch-mode", "--disable-locks"])
        .args(["--reduce-device-size", &format!("{}M", HEADER >> 20), "--resilience", "none"])
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .args(["--uuid", uuid, "--key-file", key])
        .arg(device.path()))?;
    device.detach()
}
