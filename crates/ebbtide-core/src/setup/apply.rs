//! Doing what was planned. A failure leaves a container without a marker, which no boot touches.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::tree::{self, CopyOptions};
use ebbtide_sys::{btrfs, file, metadata, resolve, xattr};
use uuid::Uuid;

use super::chroot::Chroot;
use super::observe::{Builder, GRUB, open_source, open_volume, read_fstab};
use super::plan::{BASE, Plan, Step};
use super::separate::{self, NOT_COPIED};
use super::{BaseSource, Request, sanitise};
use crate::attach::{self, Places, Policy};
use crate::backend::overlay;
use crate::boot::{RUN, STORES};
use crate::compiled::{Backend, StoreName};
use crate::container::{Container, name};
use crate::declaration::StoreDeclaration;
use crate::failure::{Context, Failure, Level, Log, Result};
use crate::fstab;
use crate::record::BootNumber;
use crate::store;
use crate::volume::Volume;

/// So many entries that have no data yet are named.
const NOTICES: usize = 5;

/// Applies a plan.
pub fn apply(request: &Request, plan: &Plan, log: &mut Log<'_>) -> Result<()> {
    let volume = open_volume(request)?;
    let mut work = Work { request, volume, uuids: BTreeMap::new() };
    for step in &plan.steps {
        log(Level::Info, &step.to_string());
        work.step(step, log).context(|| format!("cannot {step}"))?;
    }
    Ok(())
}

struct Work<'a> {
    request: &'a Request,
    volume: Volume,
    uuids: BTreeMap<StoreName, Uuid>,
}

impl Work<'_> {
    fn step(&mut self, step: &Step, log: &mut Log<'_>) -> Result<()> {
        match step {
            Step::MakeContainer(path) => self.make_container(path),
            Step::MakeStore(name, _) => {
                store::make(self.declared(name)?.place(), self.volume.as_fd())
            }
            Step::Establish(name) => {
                store::establish(self.store(name)?.as_fd())?;
                Ok(())
            }
            Step::MakeBase(source) => self.make_base(source, log),
            Step::CopyNested(path) => self.copy_nested(path),
            Step::WriteDeclaration => self.write_declaration(),
            Step::FillStores => self.fill_stores(log),
            Step::Sanitise(finding) => sanitise::remove(self.base()?.as_fd(), finding),
            Step::EmptyHome(path) => self.empty(path),
            Step::WriteFstab(text) => self.write_below("etc", "fstab", text.as_bytes()),
            Step::Mask(unit) => self.mask(unit),
            Step::BuildInitramfs(builder, kernels) => self.build_initramfs(*builder, kernels),
            Step::InstallGrub(disk) => self.install_grub(disk),
            Step::SealBase => self.seal_base(),
            Step::MakeRoot => self.make_root(),
            Step::Mark => {
                let container = self.container()?;
                Container::set_base(container.as_fd(), BASE)?;
                file::sync_filesystem(container.as_fd()).context(|| "sync the volume")?;
                let backend = self.request.backend();
                Container::mark(container.as_fd(), backend, self.request.container.uuid)
            }
            Step::Compile => self.compile(),
        }
    }

    fn container(&self) -> Result<OwnedFd> {
        resolve::open_directory(self.volume.as_fd(), &self.request.container.path)
            .context(|| "open the container")
    }

    fn base(&self) -> Result<OwnedFd> {
        resolve::open_directory(self.container()?.as_fd(), &base_path()).context(|| "open the base")
    }

    fn parent(&self, path: &Path) -> Result<(OwnedFd, std::ffi::OsString)> {
        let (parent, name) = resolve::split_parent(path)
            .ok_or_else(|| Failure::new(format!("{} has no name", path.display())))?;
        let parent = resolve::open_directory(self.volume.as_fd(), parent)
            .context(|| format!("open the directory above {}", path.display()))?;
        Ok((parent, name.to_owned()))
    }

    fn make_container(&self, path: &Path) -> Result<()> {
        let (parent, container) = self.parent(path)?;
        let made = file::create_directory(parent.as_fd(), &container, 0o700)
            .context(|| "make the directory")?;
        for inside in [name::BASES, name::PAST, name::BOOTS] {
            file::create_directory(made.as_fd(), OsStr::new(inside), 0o700)
                .context(|| format!("make {inside}"))?;
        }
        Ok(())
    }

    fn make_base(&self, source: &BaseSource, log: &mut Log<'_>) -> Result<()> {
        let container = self.container()?;
        let bases = resolve::open_directory(container.as_fd(), Path::new(name::BASES))
            .context(|| "open bases")?;
        let number = BASE.to_string();
        let from = open_source(self.request, self.volume.as_fd())?;
        if let (BaseSource::Subvolume(_), Some(from)) = (source, &from) {
            return btrfs::snapshot(from.as_fd(), bases.as_fd(), OsStr::new(&number), false)
                .context(|| "snapshot (ETXTBSY: a swap file in it is active)");
        }
        match self.request.backend() {
            Backend::Btrfs => btrfs::create_subvolume(bases.as_fd(), OsStr::new(&number))
                .context(|| "make the subvolume")?,
            Backend::Overlay | Backend::Tmpfs => {
                file::create_directory(bases.as_fd(), OsStr::new(&number), 0o755)
                    .context(|| "make the directory")?;
            }
        }
        let base = self.base()?;
        let Some(from) = from else {
            return make_blank(base.as_fd());
        };
        let skip = |path: &Path| {
            let mut parts = path.components();
            let first = parts.next().map(std::path::Component::as_os_str);
            parts.next().is_some() && NOT_COPIED.iter().any(|name| first == Some(OsStr::new(name)))
        };
        let options = CopyOptions {
            skip: &skip,
            keep_hard_links: true,
            cross_subvolumes: true,
            ..CopyOptions::default()
        };
        let report = tree::copy_tree_into(from.as_fd(), Path::new(""), base.as_fd(), options)
            .context(|| "copy")?;
        let stays = fstab::mount_points(&read_fstab(base.as_fd())?);
        for mount in &report.mounts_skipped {
            let path = mount.display();
            if stays.contains(&Path::new("/").join(mount)) {
                log(Level::Info, &format!("/{path} stays a filesystem of its own"));
            } else {
                let message = format!("/{path} is another filesystem: not copied into the base");
                log(Level::Warning, &message);
            }
        }
        for subvolume in &report.subvolumes_copied {
            let path = subvolume.display();
            log(Level::Notice, &format!("{path} was a subvolume: a plain directory in the base"));
        }
        Ok(())
    }

    /// A subvolume is made read-only. Of a directory nothing can be forbidden to root; but no mount of
    /// it is ever for writing, and only with its description it is a base.
    fn seal_base(&self) -> Result<()> {
        let base = self.base()?;
        if self.request.backend() == Backend::Btrfs {
            return btrfs::set_read_only(base.as_fd(), true).context(|| "set it read-only");
        }
        file::sync_filesystem(base.as_fd()).context(|| "sync the volume")?;
        overlay::Base::new(BASE, None).write(self.container()?.as_fd())
    }

    fn make_root(&self) -> Result<()> {
        let (base, container) = (self.base()?, self.container()?);
        if self.request.backend() == Backend::Btrfs {
            let name = OsStr::new(name::ROOT);
            return btrfs::snapshot(base.as_fd(), container.as_fd(), name, false)
                .context(|| "snapshot");
        }
        overlay::make_first(container.as_fd(), BASE, base.as_fd())
    }

    fn copy_nested(&self, path: &Path) -> Result<()> {
        let source = open_source(self.request, self.volume.as_fd())?
            .ok_or_else(|| Failure::new("a blank base has no nested subvolumes"))?;
        let base = self.base()?;
        let what = || format!("copy {}", path.display());
        let (parent, name) = resolve::split_parent(path).ok_or_else(|| Failure::new(what()))?;
        let parent = resolve::open_directory(base.as_fd(), parent).context(what)?;
        // What a snapshot has in the place of a subvolume is an empty directory with inode number
        // 2, in which nothing can be made; but it can be removed.
        rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::REMOVEDIR).context(what)?;
        let options =
            CopyOptions { keep_hard_links: true, cross_subvolumes: true, ..CopyOptions::default() };
        tree::copy_tree(source.as_fd(), path, parent.as_fd(), name, options).context(what)?;
        Ok(())
    }

    fn build_initramfs(&self, builder: Builder, kernels: &[String]) -> Result<()> {
        match builder {
            Builder::InitramfsTools => self.in_base(&[("update-initramfs", &["-u", "-k", "all"])]),
            // By itself it would look at the devices of the machine that runs now.
            Builder::Dracut => kernels.iter().try_for_each(|kernel| {
                let image = format!("/boot/initrd.img-{kernel}");
                self.in_base(&[("dracut", &["--force", "--no-hostonly", &image, kernel])])
            }),
            // Which images there are, and of which kernels, is in its presets.
            Builder::Mkinitcpio => self.in_base(&[("mkinitcpio", &["--allpresets"])]),
        }
    }

    fn install_grub(&self, disk: &Path) -> Result<()> {
        // What grub-mkconfig finds out is the device of today, a loop device perhaps. The last
        // root= on the kernel command line counts.
        let line = format!(
            "# Written by `ebbtide init`: the volume, as the declaration names it.\n\
             GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX root={}\"\n",
            self.request.device
        );
        self.make_directories(&["etc", "etc/default", "etc/default/grub.d"])?;
        self.write_below("etc/default/grub.d", "ebbtide.cfg", line.as_bytes())?;
        let disk = disk.display().to_string();
        let [install, update] = GRUB;
        self.in_base(&[(install, &[&disk]), (update, &[])])
    }

    fn make_directories(&self, paths: &[&str]) -> Result<()> {
        let base = self.base()?;
        for path in paths.iter().map(Path::new) {
            let what = || format!("make /{} in the base", path.display());
            let Some((parent, name)) = resolve::split_parent(path) else { continue };
            let parent = resolve::open_directory(base.as_fd(), parent).context(what)?;
            match file::create_directory(parent.as_fd(), name, 0o755) {
                Ok(made) => xattr::label_like(parent.as_fd(), made.as_fd()).context(what)?,
                Err(error) if error.errno() == rustix::io::Errno::EXIST => {}
                Err(error) => return Err(error).context(what),
            }
        }
        Ok(())
    }

    fn write_declaration(&self) -> Result<()> {
        self.make_directories(&["etc", "etc/ebbtide"])?;
        self.write_below("etc/ebbtide", "ebbtide.toml", self.request.text.as_bytes())
    }

    fn write_below(&self, directory: &str, name: &str, content: &[u8]) -> Result<()> {
        let base = self.base()?;
        let directory = resolve::open_directory(base.as_fd(), Path::new(directory))
            .context(|| format!("open /{directory} of the base"))?;
        file::replace_file(directory.as_fd(), OsStr::new(name), content, 0o644)
            .context(|| format!("write {name}"))
    }

    fn mask(&self, unit: &str) -> Result<()> {
        let base = self.base()?;
        let directory = resolve::open_directory(base.as_fd(), Path::new("etc/systemd/system"))
            .context(|| "open /etc/systemd/system of the base")?;
        let what = || "make the link";
        let (directory, unit) = (directory.as_fd(), OsStr::new(unit));
        file::create_symlink(directory, unit, Path::new("/dev/null")).context(what)?;
        let link = resolve::open_path(directory, Path::new(unit)).context(what)?;
        xattr::label_like(directory, link.as_fd()).context(what)
    }

    /// The same plan as at boot, of which only the part that fills stores is done.
    fn fill_stores(&self, log: &mut Log<'_>) -> Result<()> {
        let base = self.base()?;
        let mut stores = BTreeMap::new();
        for name in self.request.declaration.stores.keys() {
            stores.insert(name.clone(), Ok(self.store(name)?));
        }
        let places = Places {
            accounts: Accounts::read(base.as_fd()).context(|| "read the base's accounts")?,
            root: base,
            root_path: PathBuf::from("/"),
            stores,
            stores_path: Path::new(RUN).join(STORES),
            old_roots: Vec::new(),
            in_use: false,
            fresh: true,
            base: Some(BASE),
            import_limit: None,
        };
        let entries = &self.request.declaration.entries;
        let observed = attach::observe(entries, &places, &[])?;
        let mut plan = attach::plan(entries, &observed, Policy::Full);
        plan.steps.retain(|(_, step)| step.fills_store());
        // An entry without data is no problem before the first boot, and there may be hundreds.
        let (notices, problems): (Vec<_>, Vec<_>) = plan
            .problems
            .iter()
            .map(|(_, problem)| problem)
            .partition(|problem| problem.level >= Level::Notice);
        for problem in problems.into_iter().chain(notices.iter().copied().take(NOTICES)) {
            log(problem.level, &problem.to_string());
        }
        if notices.len() > NOTICES {
            let more = notices.len() - NOTICES;
            log(Level::Notice, &format!("and {more} more entries; `ebbtide status` says of each"));
        }
        let failed = attach::apply(&plan, entries, &places, BootNumber(0), log);
        match failed.into_iter().next() {
            Some((_, problem)) => Err(Failure::new(problem.to_string())),
            None => Ok(()),
        }
    }

    fn empty(&self, path: &Path) -> Result<()> {
        let base = self.base()?;
        let Ok(directory) = resolve::open_directory(base.as_fd(), path) else { return Ok(()) };
        let names = file::read_directory(directory.as_fd()).context(|| "list it")?;
        for entry in names {
            file::remove_tree(directory.as_fd(), &entry.name)
                .context(|| format!("remove {} in it", entry.name.display()))?;
        }
        Ok(())
    }

    fn in_base(&self, commands: &[(&str, &[&str])]) -> Result<()> {
        let chroot = Chroot::enter(&self.volume, &self.request.container.path.join(base_path()))?;
        if let BaseSource::Directory(source) = &self.request.base {
            separate::mount_needed(source, chroot.path())?;
        }
        let done =
            commands.iter().try_for_each(|(program, arguments)| chroot.run(program, arguments));
        chroot.leave()?;
        done
    }

    fn declared(&self, name: &StoreName) -> Result<&StoreDeclaration> {
        let stores = &self.request.declaration.stores;
        stores.get(name).ok_or_else(|| Failure::new(format!("store {name} is not declared")))
    }

    fn store(&self, name: &StoreName) -> Result<OwnedFd> {
        store::open_any(self.declared(name)?.place()).context(|| format!("open store {name}"))
    }

    fn compile(&mut self) -> Result<()> {
        for name in self.request.declaration.stores.keys() {
            self.uuids.insert(name.clone(), store::establish(self.store(name)?.as_fd())?);
        }
        let compiled = self
            .request
            .declaration
            .compile(self.request.container.uuid, &self.uuids)
            .context(|| "compile")?;
        let volume = open_volume(self.request)?;
        let backend = self.request.backend();
        let container = Container::open_unfinished(volume, backend, &self.request.container)?;
        let state = self.store(&StoreName(StoreName::STATE.to_owned()))?;
        store::publish(state.as_fd(), &container, &compiled)?;
        Ok(())
    }
}

fn base_path() -> PathBuf {
    Path::new(name::BASES).join(BASE.to_string())
}

/// The directories that a kernel and an init system mount on; their owner and mode as on every
/// distribution (file-hierarchy(7)).
fn make_blank(base: BorrowedFd<'_>) -> Result<()> {
    metadata::set_mode(base, 0o755).context(|| "set the mode of /")?;
    for (name, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        file::create_directory(base, OsStr::new(name), mode).context(|| format!("make {name}"))?;
    }
    Ok(())
}
