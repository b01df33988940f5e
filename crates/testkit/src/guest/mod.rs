//! An installed Debian as a directory tree.
//!
//! It is what a machine looks like that somebody installed and booted before: it has a machine id
//! and ssh host keys, keeps its journal, and has a user, alice; root has no password, to look around. What only tests need is below
//! `/usr/lib`, never in `/etc` or `/var`: [the agent](crate::vm) that runs commands for them.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::privileged::chroot;
use crate::process::{Lock, run, target_directory};

/// Which Debian, and what builds its initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// Debian 12, with initramfs-tools.
    Debian12,
    /// Debian 12, with dracut.
    Debian12Dracut,
    /// Debian 12, with initramfs-tools, and what opens encrypted disks and LVM.
    Debian12Encrypted,
    /// The same, with dracut.
    Debian12DracutEncrypted,
    /// Debian 12, with initramfs-tools, and SELinux enforcing its policy.
    Debian12Selinux,
    /// Debian 13, with initramfs-tools.
    Debian13,
    /// Debian 13, with dracut.
    Debian13Dracut,
}

impl Distribution {
    /// Returns its name in names of tests and directories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-12",
            Self::Debian12Dracut => "debian-12-dracut",
            Self::Debian12Encrypted => "debian-12-encrypted",
            Self::Debian12DracutEncrypted => "debian-12-dracut-encrypted",
            Self::Debian12Selinux => "debian-12-selinux",
            Self::Debian13 => "debian-13",
            Self::Debian13Dracut => "debian-13-dracut",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::Debian12
            | Self::Debian12Dracut
            | Self::Debian12Encrypted
            | Self::Debian12DracutEncrypted
            | Self::Debian12Selinux => "bookworm",
            Self::Debian13 | Self::Debian13Dracut => "trixie",
        }
    }

    /// The kernel's package is content with either: what is wanted must be named.
    fn initramfs(self) -> &'static str {
        if self.has_dracut() { "dracut" } else { "initramfs-tools" }
    }

    /// Whether dracut builds its initramfs, and not initramfs-tools.
    pub fn has_dracut(self) -> bool {
        matches!(self, Self::Debian12Dracut | Self::Debian12DracutEncrypted | Self::Debian13Dracut)
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Self::Debian12Encrypted | Self::Debian12DracutEncrypted)
    }

    /// Whether SELinux enforces its policy, once the system [is labelled](label).
    pub fn has_selinux(self) -> bool {
        self == Self::Debian12Selinux
    }

    /// All packages that it is made of.
    fn packages(self) -> String {
        let mut packages = PACKAGES.to_vec();
        packages.push(self.initramfs());
        if self.is_encrypted() {
            packages.extend(ENCRYPTION_PACKAGES);
            packages.extend((!self.has_dracut()).then_some("cryptsetup-initramfs"));
        }
        if self.has_selinux() {
            packages.extend(SELINUX_PACKAGES);
        }
        packages.join(",")
    }

    /// The modules of its initramfs.
    fn modules(self) -> String {
        let mut modules = INITRAMFS_MODULES.to_vec();
        if self.is_encrypted() {
            modules.extend(ENCRYPTION_MODULES);
        }
        modules.join(" ")
    }
}

/// What an installed Debian server has that a minimal one has not.
const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "btrfs-progs",
    "cron",
    "dbus",
    "e2fsprogs",
    "git",
    "grub-pc-bin",
    "grub2-common",
    "iproute2",
    "kmod",
    "libcap2-bin",
    "linux-image-cloud-amd64",
    "openssh-server",
    "sqlite3",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// The modules of the initramfs: all that the virtual machine needs, a third of what `most` takes.
const INITRAMFS_MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_console", "btrfs", "ext4", "overlay"];

/// Those that encrypted disks and LVM need in addition, with the ciphers of LUKS's defaults.
const ENCRYPTION_MODULES: &[&str] = &["dm_mod", "dm_crypt", "aes_generic", "xts", "sha256_generic"];

/// What a guest with encrypted disks has in addition.
const ENCRYPTION_PACKAGES: &[&str] = &["cryptsetup", "lvm2"];

/// What a guest with SELinux has in addition.
const SELINUX_PACKAGES: &[&str] = &["policycoreutils", "selinux-policy-default", "selinux-utils"];

/// Says that the policy is enforced, which its package does not, and lets the agent do what root does who
/// has logged in.
const SELINUX_FILES: &[(&str, &str)] = &[
    ("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=default\n"),
    (
        "etc/selinux/default/contexts/files/file_contexts.local",
        "/usr/lib/testkit/agent -- system_u:object_r:bin_t:s0\n",
    ),
    (
        "usr/lib/systemd/system/testkit-agent.service.d/selinux.conf",
        "[Service]\nSELinuxContext=unconfined_u:unconfined_r:unconfined_t:s0\n",
    ),
];

/// Configuration for dracut, which takes back what [`FINISH`] leaves out. The name comes after that one's.
const ENCRYPTION_DRACUT: (&str, &str) = (
    "etc/dracut.conf.d/zz-encryption.conf",
    "omit_dracutmodules=\"${omit_dracutmodules/ crypt lvm / }\"\n",
);

const AGENT: &str = include_str!("agent.pl");
const AGENT_UNIT: &str = include_str!("testkit-agent.service");

/// What makes the system below `$1` an installed one; `$2` are the modules of its initramfs.
const FINISH: &str = r#"
cd "$1"
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
echo debian >etc/hostname
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n' >etc/hosts
: >etc/fstab
mkdir -p var/log/journal
if [ -d etc/initramfs-tools ]; then
    echo MODULES=list >etc/initramfs-tools/conf.d/testkit
    printf '%s\n' $2 >>etc/initramfs-tools/modules
fi
if [ -e usr/bin/dracut ]; then
    cat >etc/dracut.conf.d/testkit.conf <<END
hostonly="no"
early_microcode="no"
compress="zstd"
omit_dracutmodules+=" plymouth nfs iscsi multipath crypt lvm mdraid dmraid network network-legacy network-manager i18n "
omit_drivers+=" nouveau amdgpu i915 radeon "
add_drivers+=" $2 "
END
fi
ln -s ../testkit-agent.service usr/lib/systemd/system/sysinit.target.wants/testkit-agent.service
cat >etc/default/grub <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=
GRUB_CMDLINE_LINUX="$3"
GRUB_DISABLE_OS_PROBER=true
GRUB_DISABLE_RECOVERY=true
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END
chroot . useradd --create-home --shell /bin/bash --uid 1000 alice
chroot . passwd --delete root
if [ -e usr/bin/dracut ]; then
    # It looks at devices and processes.
    mount -t proc proc proc
    mount --bind /dev dev
    for kernel in $(ls boot/vmlinuz-* | sed s/.*vmlinuz-//); do
        chroot . dracut --quiet --force /boot/initrd.img-$kernel $kernel
    done
    umount dev proc
else
    chroot . update-initramfs -u
fi
"#;

/// Units that cost time under emulation and that nothing here depends on. What touches the
/// filesystems, the journal, the machine id, the random seed and utmp stays as Debian has it.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "kmod-static-nodes.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "serial-getty@ttyS0.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];

/// Returns a kernel command line: the console, what makes an emulated boot bearable, failures of
/// units shown on the console, and then `root`, such as `root=LABEL=system rootflags=subvol=@root`.
pub fn kernel_arguments(root: &str) -> String {
    let mut line = String::from(
        "console=ttyS0 quiet systemd.show_status=error mitigations=off apparmor=0 audit=0 \
         raid=noautodetect",
    );
    for unit in MASKED {
        line.push_str(" systemd.mask=");
        line.push_str(unit);
    }
    line.push(' ');
    line.push_str(root);
    line
}

/// A Debian in a directory that all tests share. Never change it: [`Guest::copy_to`] gives a tree
/// to work on.
#[derive(Debug, Clone)]
pub struct Guest {
    tree: PathBuf,
}

impl Guest {
    /// Returns Debian 12 with initramfs-tools.
    ///
    /// # Errors
    ///
    /// See [`Guest::of`].
    pub fn debian_12() -> Result<Self> {
        Self::of(Distribution::Debian12)
    }

    /// Returns a Debian, built on first use (about a minute, from the network) and kept below the
    /// target directory until this recipe changes. `rm -r target/guest` gets its updates.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be built.
    pub fn of(distribution: Distribution) -> Result<Self> {
        let cache = target_directory().join("guest");
        let _lock = Lock::wait_for(&cache)?;
        let name = distribution.name();
        let tree = cache.join(format!("{name}-{:016x}", recipe(distribution)));
        if !tree.exists() {
            let unfinished = cache.join("unfinished");
            remove_tree(&unfinished)?;
            build(distribution, &unfinished).context("cannot build the guest")?;
            fs::rename(&unfinished, &tree).context("cannot put the guest in place")?;
        }
        Ok(Self { tree })
    }

    /// Returns the tree, to read.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Copies it into the directory or subvolume `destination`, with everything a file can have.
    ///
    /// # Errors
    ///
    /// Fails when the copy does.
    pub fn copy_to(&self, destination: &Path) -> Result<()> {
        let mut content = self.tree.clone().into_os_string();
        content.push("/.");
        run(Command::new("cp")
            .args(["--archive", "--reflink=auto", "--"])
            .arg(content)
            .arg(destination))
        .map(drop)
    }
}

/// Labels the system below `$1`. Nothing of this machine's is mounted there that would be labelled too; -m,
/// because a kernel without SELinux marks no filesystem as one that can be labelled.
const LABEL: &str = r#"
mount -t proc proc "$1/proc"
exec chroot "$1" setfiles -F -m /etc/selinux/default/contexts/files/file_contexts /
"#;

/// Gives everything in the system below `root` the label that SELinux's policy has for it.
///
/// # Errors
///
/// Fails when the system has no policy, or one that does not fit it.
pub fn label(root: &Path) -> Result<()> {
    run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-euc", LABEL, "label"])
        .arg(root))
    .map(drop)
}

/// Installs the package `deb` with apt in the system below `root`; the network is asked only for
/// what it depends on and the system has not.
///
/// # Errors
///
/// Fails when apt does.
pub fn install_package(root: &Path, deb: &Path) -> Result<()> {
    let name = deb.file_name().with_context(|| format!("{} is no file", deb.display()))?;
    let inside = Path::new("/var/cache/apt/archives").join(name);
    let copy = root.join(inside.strip_prefix("/")?);
    fs::copy(deb, &copy)
        .with_context(|| format!("cannot copy {} to {}", deb.display(), copy.display()))?;
    let install = || {
        run(chroot(root, "apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .arg(&inside))
    };
    let installed = install().or_else(|first| {
        run(chroot(root, "apt-get").arg("update"))
            .and_then(|_| install())
            .map_err(|second| anyhow!("{second:#}\nbefore apt-get update: {first:#}"))
    });
    run(chroot(root, "apt-get").arg("clean"))?;
    // 84 MB that an image need not carry.
    run(chroot(root, "find").args(["/var/lib/apt/lists", "-type", "f", "-delete"]))?;
    installed.map(drop).with_context(|| format!("cannot install {}", deb.display()))
}

/// Puts the [agent](crate::vm) into a system below `root` that was not made here, and has every boot
/// start it.
///
/// # Errors
///
/// Fails when its files cannot be written, or when it is enabled already.
pub fn install_agent(root: &Path) -> Result<()> {
    write_agent(root)?;
    let wants = root.join("usr/lib/systemd/system/sysinit.target.wants");
    std::os::unix::fs::symlink("../testkit-agent.service", wants.join("testkit-agent.service"))
        .with_context(|| format!("cannot enable the agent in {}", wants.display()))
}

fn write_agent(root: &Path) -> Result<()> {
    let directory = root.join("usr/lib/testkit");
    let agent = directory.join("agent");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let unit = root.join("usr/lib/systemd/system/testkit-agent.service");
    for (path, content) in [(&agent, AGENT), (&unit, AGENT_UNIT)] {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", agent.display()))
}

/// A kernel and an initramfs outside the disk they came from, to boot without a loader.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

impl BootFiles {
    /// Copies those of the system below `root` into `directory`; of several kernels, the one whose
    /// name sorts last.
    ///
    /// # Errors
    ///
    /// Fails when there is no kernel with an initramfs.
    pub fn copy(root: &Path, directory: &Path) -> Result<Self> {
        let boot = root.join("boot");
        let newest = fs::read_dir(&boot)
            .with_context(|| format!("cannot read {}", boot.display()))?
            .filter_map(|entry| {
                Some(entry.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned())
            })
            .max()
            .with_context(|| format!("no kernel in {}", boot.display()))?;
        let copy = |kind: &str| {
            let (from, to) = (boot.join(format!("{kind}-{newest}")), directory.join(kind));
            fs::copy(&from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
            anyhow::Ok(to)
        };
        Ok(Self { kernel: copy("vmlinuz")?, initrd: copy("initrd.img")? })
    }
}

fn build(distribution: Distribution, tree: &Path) -> Result<()> {
    if let Some(reason) = crate::privileged::missing() {
        bail!("{reason}");
    }
    // No mirror is named: mmdebstrap knows Debian's.
    run(Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--components=main"])
        .arg(format!("--include={}", distribution.packages()))
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=force-unsafe-io"])
        .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
        .arg(distribution.suite())
        .arg(tree))?;

    write_agent(tree)?;
    if distribution.is_encrypted() && distribution.has_dracut() {
        let (path, content) = ENCRYPTION_DRACUT;
        fs::write(tree.join(path), content).with_context(|| format!("cannot write {path}"))?;
    }
    if distribution.has_selinux() {
        for (path, content) in SELINUX_FILES {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().context("a file without a directory")?)?;
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    run(Command::new("sh")
        .args(["-euc", FINISH, "finish"])
        .arg(tree)
        .arg(distribution.modules())
        .arg(kernel_arguments("").trim_end()))?;
    Ok(())
}

/// Deletes a tree that a build left, never what might be mounted in it.
fn remove_tree(tree: &Path) -> Result<()> {
    run(Command::new("rm").args(["--recursive", "--force", "--one-file-system", "--"]).arg(tree))
        .map(drop)
}

/// Returns a number that changes with everything that the tree is made from, save Debian itself.
fn recipe(distribution: Distribution) -> u64 {
    let mut hasher = DefaultHasher::new();
    // The build's own steps are code: a change there that matters changes this number.
    let version = 1;
    (distribution.suite(), distribution.initramfs()).hash(&mut hasher);
    (version, PACKAGES, INITRAMFS_MODULES, MASKED, AGENT, AGENT_UNIT, FINISH).hash(&mut hasher);
    kernel_arguments("").hash(&mut hasher);
    if distribution.is_encrypted() {
        (ENCRYPTION_PACKAGES, ENCRYPTION_MODULES, ENCRYPTION_DRACUT).hash(&mut hasher);
    }
    if distribution.has_selinux() {
        (SELINUX_PACKAGES, SELINUX_FILES).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_comes_last_on_the_command_line() {
        let line = kernel_arguments("root=LABEL=system");
        assert!(line.starts_with("console=ttyS0 "));
        assert!(line.ends_with(" root=LABEL=system"));
        // What the kernel takes, `COMMAND_LINE_SIZE`.
        assert!(line.len() < 1800, "{} bytes", line.len());
    }
}
