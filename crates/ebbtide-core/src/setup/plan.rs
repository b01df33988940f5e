//! What setting up will do, or why it will not.

use std::fmt;
use std::path::{Path, PathBuf};

use super::observe::{Builder, Observation, Occupant, StoreState, TOP_LEVEL};
use super::sanitise::{Finding, How};
use super::{BaseSource, HOMES, Request, Updaters, separate};
use crate::compiled::{Backend, Kind, StoreName};
use crate::failure::{Failure, Result};
use crate::fstab;

/// The number of the base that is made.
pub const BASE: u64 = 1;

/// One step of setting up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the container's directory and those inside.
    MakeContainer(PathBuf),
    /// Make a subvolume or a directory for a store.
    MakeStore(StoreName, PathBuf),
    /// Give a store its marker.
    Establish(StoreName),
    /// Make base 1.
    MakeBase(BaseSource),
    /// Copy a subvolume inside the source into its place: a snapshot has an empty directory there.
    CopyNested(PathBuf),
    /// Write the declaration to `/etc/ebbtide/ebbtide.toml` of the base.
    WriteDeclaration,
    /// Copy what is declared from the base into its stores.
    FillStores,
    /// Take something out of the base.
    Sanitise(Finding),
    /// Empty a directory of the base that is kept whole in a store.
    EmptyHome(PathBuf),
    /// Write the base's `/etc/fstab`.
    WriteFstab(String),
    /// Mask a unit in the base.
    Mask(&'static str),
    /// Build the base's initramfs again, for each of these kernels.
    BuildInitramfs(Builder, Vec<String>),
    /// Install GRUB with its home in the base.
    InstallGrub(PathBuf),
    /// Make the base one that nothing writes to.
    SealBase,
    /// Make the first root from the base.
    MakeRoot,
    /// Compile the declaration.
    Compile,
    /// Write the container's marker: from here on it is Ebbtide's.
    Mark,
}

/// The steps, and what a person should know about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What will be done, in order.
    pub steps: Vec<Step>,
    /// What should be known before.
    pub notices: Vec<String>,
}

/// Plans setting up, or refuses with what to do.
pub fn plan(request: &Request, seen: &Observation) -> Result<Plan> {
    refuse(request, seen)?;
    let mut notices = separate::notices(&seen.fstab, &seen.mounted);
    let mut steps = vec![Step::MakeContainer(request.container.path.clone())];
    for (name, state) in &seen.stores {
        if *state == StoreState::Absent
            && let Some(place) = request
                .declaration
                .stores
                .get(name)
                .and_then(|store| store.subvolume.clone().or(store.directory.clone()))
        {
            steps.push(Step::MakeStore(name.clone(), place));
        }
        if *state != StoreState::Absent {
            notices.push(format!("store {name} exists already; what it keeps stays as it is"));
        }
        if !matches!(state, StoreState::Present(Some(_))) {
            steps.push(Step::Establish(name.clone()));
        }
    }
    steps.push(Step::MakeBase(request.base.clone()));
    steps.extend(seen.nested.iter().cloned().map(Step::CopyNested));
    steps.extend([Step::WriteDeclaration, Step::FillStores]);
    for finding in &seen.findings {
        let kept = request.declaration.entries.iter().any(|it| finding.path.starts_with(&it.path));
        if !kept && finding.what == "ssh host key" && finding.path.extension().is_none() {
            notices.push(format!(
                "{} leaves the base and no entry keeps it: declare it under [keep] files, or sshd \
                 has no key",
                finding.path.display()
            ));
        }
        steps.push(Step::Sanitise(finding.clone()));
    }
    if request.base != BaseSource::Blank {
        let whole = |home: &&&str| {
            request
                .declaration
                .entries
                .iter()
                .any(|entry| entry.path == Path::new(home) && entry.kind == Kind::Directory)
        };
        steps.extend(HOMES.iter().filter(whole).map(|home| Step::EmptyHome(PathBuf::from(home))));
        let root = request.container.path.join(crate::container::name::ROOT);
        let options = request.declaration.root.as_ref().map(|root| root.options.clone());
        let entries: Vec<_> = request
            .declaration
            .entries
            .iter()
            .map(|entry| entry.path.display().to_string())
            .collect();
        let line = fstab::root_line(
            &request.device.0,
            &root.display().to_string(),
            &options.unwrap_or_default(),
        );
        let line = Some(line.as_str()).filter(|_| request.backend() == Backend::Btrfs);
        let text = fstab::rewrite(&seen.fstab, line, &entries).map_err(|error| {
            Failure::new(error.to_string())
                .hint("remove that line: what is on that filesystem can be a store of its own")
        })?;
        steps.push(Step::WriteFstab(text));
        if request.updaters == Some(Updaters::Disable) {
            steps.extend(seen.updaters.iter().map(|unit| Step::Mask(unit)));
        }
        if let Some(builder) = seen.builder.filter(|_| !seen.kernels.is_empty()) {
            steps.push(Step::BuildInitramfs(builder, seen.kernels.clone()));
        } else {
            notices.push(
                "the base builds no initramfs with Ebbtide in it: install Ebbtide's package and a \
                 kernel there first, with mkinitcpio also name its hook in HOOKS, or nothing resets \
                 the root"
                    .to_owned(),
            );
        }
        steps.extend(request.grub.clone().map(Step::InstallGrub));
    }
    steps.push(Step::SealBase);
    if request.backend() != Backend::Tmpfs {
        steps.push(Step::MakeRoot);
    }
    steps.extend([Step::Compile, Step::Mark]);
    Ok(Plan { steps, notices })
}

fn refuse(request: &Request, seen: &Observation) -> Result<()> {
    let place = request.container.path.display();
    match &seen.container {
        Occupant::Nothing => {}
        Occupant::Container(uuid) => {
            return Err(Failure::new(format!("{place} is a container already, with UUID {uuid}"))
                .hint("`ebbtide apply` changes its declaration"));
        }
        Occupant::Other => {
            return Err(Failure::new(format!("{place} exists already and is no container")).hint(
                "if an `ebbtide init` was cut off there, delete its subvolumes, those of the \
                 stores that it made, and the directory; else choose another place with --container",
            ));
        }
    }
    let in_use = seen.stores.iter().find(|(_, state)| matches!(state, StoreState::InUse(_)));
    if let Some((name, _)) = in_use {
        return Err(Failure::new(format!("store {name} is the state store of another container"))
            .hint("declare another subvolume for it: two containers can't share one"));
    }
    separate::refuse(request, &seen.fstab, &seen.mounted)?;
    if request.grub.is_some() && request.base == BaseSource::Blank {
        return Err(Failure::new("an empty base has no GRUB to install")
            .hint("leave --grub out; the loader's files are not in a blank base"));
    }
    if let Some(lacking) = seen.grub_lacks.filter(|_| request.grub.is_some()) {
        return Err(Failure::new(format!(
            "the base has no {lacking}, so --grub can't install GRUB from it"
        ))
        .hint(
            "install it there first (on Debian and Ubuntu: grub-pc or grub-efi); where there is no \
             such program, leave --grub out and set the loader up as docs/how-to/install-arch.md says",
        ));
    }
    if let Some(disk) = request.grub.as_ref().filter(|disk| !disk.exists()) {
        return Err(Failure::new(format!("there is no disk {}", disk.display())));
    }
    if let (BaseSource::Subvolume(_), Backend::Overlay | Backend::Tmpfs) =
        (&request.base, request.backend())
    {
        return Err(Failure::new(format!(
            "a snapshot can't be the base of a root of the backend {}",
            request.backend()
        ))
        .hint("name the directory where it is mounted with --base-directory: it is copied"));
    }
    if seen.default_subvolume != TOP_LEVEL {
        return Err(Failure::new(format!(
            "the volume's default subvolume is {}, which follows a root that is renamed",
            seen.default_subvolume
        ))
        .hint("set it to the top level: btrfs subvolume set-default 5 MOUNTPOINT"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"=/-_.:,+".contains(&byte);
    if request.grub.is_some() && !request.device.0.bytes().all(plain) {
        return Err(Failure::new(format!(
            "{} can't be written as root= into GRUB's configuration",
            request.device
        ))
        .hint("name the device by UUID="));
    }
    if let Some(swap) = seen.swap_files.first() {
        return Err(Failure::new(format!(
            "the swap file {} is active, and a subvolume with one can't be snapshotted",
            swap.display()
        ))
        .hint("swapoff it, and use a partition or a subvolume of its own for swap"));
    }
    if !seen.updaters.is_empty() && request.updaters.is_none() {
        return Err(Failure::new(format!(
            "{} would update the root, and such updates are gone at the next boot",
            seen.updaters.join(", ")
        ))
        .hint("decide with --updaters disable (they are masked in the base) or --updaters keep"));
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeContainer(path) => write!(f, "make the container {}", path.display()),
            Self::MakeStore(name, path) => {
                write!(f, "make {} for store {name}", path.display())
            }
            Self::Establish(name) => write!(f, "write the marker of store {name}"),
            Self::MakeBase(BaseSource::Blank) => write!(f, "make base {BASE}, empty"),
            Self::MakeBase(BaseSource::Directory(path)) => {
                write!(f, "make base {BASE} as a copy of {}", path.display())
            }
            Self::MakeBase(BaseSource::Subvolume(path)) => {
                write!(f, "make base {BASE} as a snapshot of {}", path.display())
            }
            Self::CopyNested(path) => {
                write!(f, "copy the nested subvolume {} into the base", path.display())
            }
            Self::WriteDeclaration => f.write_str("write the base's /etc/ebbtide/ebbtide.toml"),
            Self::FillStores => f.write_str("copy what is declared from the base into its stores"),
            Self::Sanitise(Finding { path, what, how: How::Remove }) => {
                write!(f, "take {} ({what}) out of the base", path.display())
            }
            Self::Sanitise(Finding { path, what, how: How::Empty }) => {
                write!(f, "empty {} ({what}) in the base", path.display())
            }
            Self::EmptyHome(path) => {
                write!(f, "empty {} in the base, now that a store keeps it", path.display())
            }
            Self::WriteFstab(_) => f.write_str("write the base's /etc/fstab"),
            Self::Mask(unit) => write!(f, "mask {unit} in the base"),
            Self::BuildInitramfs(..) => f.write_str("build the base's initramfs again"),
            Self::InstallGrub(disk) => {
                write!(f, "install GRUB on {} with its home in the base", disk.display())
            }
            Self::SealBase => write!(f, "seal base {BASE}"),
            Self::MakeRoot => f.write_str("make the first root from the base"),
            Self::Mark => f.write_str("write the container's marker"),
            Self::Compile => f.write_str("compile the declaration"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
