//! Plans of `init`: what they do, and what they refuse.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ebbtide_core::compiled::{ContainerRef, DeviceSpec, StoreName};
use ebbtide_core::declaration::{self, SourceFile};
use ebbtide_core::setup::{
    BaseSource, Builder, Observation, Occupant, Request, StoreState, Updaters, plan,
};

const TEXT: &str = "version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=system\"\n\
    uuid = \"11111111-1111-4111-8111-111111111111\"\nephemeral = [\"/root\", \"/srv\"]\n\
    [store.state]\nsubvolume = \"state\"\n[keep]\ndirectories = [\"/home\", \"/var/log\"]\n";

fn request() -> Request {
    let source = SourceFile { name: "test".to_owned(), text: TEXT.to_owned() };
    Request {
        device: DeviceSpec("LABEL=system".to_owned()),
        container: ContainerRef {
            path: PathBuf::from("ebbtide"),
            uuid: "11111111-1111-4111-8111-111111111111".parse().unwrap(),
        },
        base: BaseSource::Subvolume(PathBuf::from("@rootfs")),
        declaration: declaration::check(&[source]).declaration.unwrap(),
        text: TEXT.to_owned(),
        updaters: None,
        grub: None,
    }
}

fn observation() -> Observation {
    Observation {
        container: Occupant::Nothing,
        default_subvolume: 5,
        stores: BTreeMap::from([(StoreName("state".to_owned()), StoreState::Absent)]),
        nested: Vec::new(),
        swap_files: Vec::new(),
        findings: Vec::new(),
        updaters: Vec::new(),
        fstab: String::new(),
        mounted: Vec::new(),
        builder: Some(Builder::InitramfsTools),
        kernels: vec!["6.1.0-1-amd64".to_owned()],
        grub_lacks: None,
    }
}

fn refusal(request: &Request, seen: &Observation) -> String {
    let failure = plan(request, seen).unwrap_err();
    format!("{failure}\nhint: {}", failure.advice().unwrap_or("-"))
}

#[test]
fn everything_is_made_before_the_marker() {
    let mut seen = observation();
    seen.nested = vec![PathBuf::from("var/lib/machines")];
    seen.updaters = vec!["apt-daily-upgrade.timer"];
    let mut request = request();
    request.updaters = Some(Updaters::Disable);
    request.grub = Some(PathBuf::from("/dev/null"));
    insta::assert_snapshot!(plan(&request, &seen).unwrap(), @r"
    make the container ebbtide
    make state for store state
    write the marker of store state
    make base 1 as a snapshot of @rootfs
    copy the nested subvolume var/lib/machines into the base
    write the base's /etc/ebbtide/ebbtide.toml
    copy what is declared from the base into its stores
    empty /home in the base, now that a store keeps it
    write the base's /etc/fstab
    mask apt-daily-upgrade.timer in the base
    build the base's initramfs again
    install GRUB on /dev/null with its home in the base
    seal base 1
    make the first root from the base
    compile the declaration
    write the container's marker
    ");
}

#[test]
fn a_base_that_cannot_install_grub_is_refused_before_anything_is_made() {
    let seen = Observation { grub_lacks: Some("update-grub"), ..observation() };
    let mut request = request();
    plan(&request, &seen).unwrap();
    request.grub = Some(PathBuf::from("/dev/null"));
    insta::assert_snapshot!(refusal(&request, &seen), @r"
    the base has no update-grub, so --grub can't install GRUB from it
    hint: install it there first (on Debian and Ubuntu: grub-pc or grub-efi); where there is no such program, leave --grub out and set the loader up as docs/how-to/install-arch.md says
    ");
}

#[test]
fn a_default_subvolume_is_refused() {
    let seen = Observation { default_subvolume: 257, ..observation() };
    insta::assert_snapshot!(refusal(&request(), &seen), @r"
    the volume's default subvolume is 257, which follows a root that is renamed
    hint: set it to the top level: btrfs subvolume set-default 5 MOUNTPOINT
    ");
}

#[test]
fn an_active_swap_file_is_refused() {
    let seen = Observation { swap_files: vec![PathBuf::from("/target/swapfile")], ..observation() };
    insta::assert_snapshot!(refusal(&request(), &seen), @r"
    the swap file /target/swapfile is active, and a subvolume with one can't be snapshotted
    hint: swapoff it, and use a partition or a subvolume of its own for swap
    ");
}

#[test]
fn updaters_want_a_decision() {
    let seen = Observation { updaters: vec!["apt-daily-upgrade.timer"], ..observation() };
    insta::assert_snapshot!(refusal(&request(), &seen), @r"
    apt-daily-upgrade.timer would update the root, and such updates are gone at the next boot
    hint: decide with --updaters disable (they are masked in the base) or --updaters keep
    ");
}

#[test]
fn a_mount_over_an_entry_is_refused() {
    let seen =
        Observation { fstab: "LABEL=home /home ext4 defaults 0 2\n".to_owned(), ..observation() };
    insta::assert_snapshot!(refusal(&request(), &seen), @r"
    line 1 of /etc/fstab mounts something on /home, which is declared to be kept
    hint: remove that line: what is on that filesystem can be a store of its own
    ");
}

#[test]
fn a_base_that_cannot_reset_is_said() {
    let seen = Observation { builder: None, ..observation() };
    let notices = plan(&request(), &seen).unwrap().notices;
    assert!(notices[0].contains("builds no initramfs with Ebbtide in it"), "{notices:?}");
}

const SEPARATE: &str = "LABEL=usr /usr ext4 defaults 0 2\nLABEL=boot /boot ext4 defaults 0 2\n\
    LABEL=ESP /boot/efi vfat umask=0077 0 1\n";

fn from_directory() -> Request {
    Request { base: BaseSource::Directory(PathBuf::from("/target")), ..request() }
}

#[test]
fn what_is_on_other_filesystems_is_said() {
    let mounted = ["/boot", "/boot/efi", "/mnt\n", "/usr"].map(PathBuf::from).to_vec();
    let seen = Observation { fstab: SEPARATE.to_owned(), mounted, ..observation() };
    let notices = plan(&from_directory(), &seen).unwrap().notices;
    insta::assert_snapshot!(notices.join("\n"), @r"
    /boot is a filesystem of its own: no reset touches it, and what lies there is what boots. The initramfs in it is built again
    /boot/efi is a filesystem of its own: no reset touches it
    /etc/fstab does not name what is mounted on /mnt\n: the base is without it
    /usr is a filesystem of its own: no reset touches it. Programs that are written there stay, and packages that are installed while the system runs stay by half: their files do, and what /etc and /var know of them goes. To have it reset, move it into the filesystem of / first
    ");
}

#[test]
fn a_part_that_is_not_mounted_is_refused() {
    let mounted = vec![PathBuf::from("/boot")];
    let seen = Observation { fstab: SEPARATE.to_owned(), mounted, ..observation() };
    insta::assert_snapshot!(refusal(&from_directory(), &seen), @r"
    /usr of the system is a filesystem of its own, and it is not there: the base's initramfs is built with it
    hint: mount it at /target/usr first
    ");
    let seen =
        Observation { mounted: Vec::new(), fstab: "LABEL=b /boot ext4\n".to_owned(), ..seen };
    insta::assert_snapshot!(refusal(&request(), &seen), @r"
    /boot of the system is a filesystem of its own, and it is not there: the base's initramfs is built with it
    hint: mount the system with all its filesystems, and name that directory with --base-directory: a snapshot has only one of them
    ");
    // Of what else is elsewhere, nothing is needed to build an initramfs.
    let fstab = "LABEL=opt /opt ext4 defaults 0 2\n".to_owned();
    assert!(plan(&request(), &Observation { fstab, ..seen }).is_ok());
}
