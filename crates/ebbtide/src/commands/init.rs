//! `ebbtide init`: makes a container, base 1 and stores on a volume.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args as ClapArgs, ValueEnum};
use ebbtide_core::compiled::{Backend, ContainerRef, DeviceSpec};
use ebbtide_core::declaration::{self, Declaration, SourceFile};
use ebbtide_core::failure::Level;
use ebbtide_core::setup::{self, BaseSource, HOMES, Observation, Request, Updaters};
use ebbtide_core::volume;
use toml_edit::{Array, DocumentMut, Item, Table, Value, value};
use uuid::Uuid;

use super::machine;
use super::question::{ask, confirmed};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use ebbtide_sys::escape;

/// Sets a volume up: container, base 1, stores, and a first root
#[derive(Debug, ClapArgs)]
#[command(
    group(ArgGroup::new("base").required(true).args(["base_directory", "base_subvolume", "base_blank"])),
    after_help = "\
What is on the volume stays as it is: everything new goes into the container and into the stores,
which are made unless they exist. The first boot with the new initramfs runs on a new root.

Examples:
  A Debian in /target (or from mmdebstrap), onto an empty btrfs, ext4 or xfs:
    ebbtide init --device LABEL=system --base-directory /target \\
      --home keep --root-home ephemeral --srv keep --updaters disable

  The system that is installed in subvolume @rootfs of the same volume:
    ebbtide init --device LABEL=system --base-subvolume @rootfs --config ebbtide.toml --dry-run

Exit status: 0 done; 1 failed; 2 wrong command line or declaration."
)]
pub struct Args {
    /// The volume, with btrfs, ext4 or xfs: UUID=, LABEL=, PARTUUID=, PARTLABEL= or a path
    #[arg(long, value_name = "DEVICE", required_unless_present = "volume")]
    device: Option<String>,
    /// The same, by a directory where it is mounted
    #[arg(long, value_name = "MOUNTPOINT", conflicts_with = "device")]
    volume: Option<PathBuf>,
    /// How roots are made: `btrfs` where the volume is one, else `overlay`; or `tmpfs`, in RAM
    #[arg(long, value_name = "BACKEND")]
    backend: Option<BackendChoice>,
    /// Make base 1 as a copy of this directory
    #[arg(long, value_name = "DIR")]
    base_directory: Option<PathBuf>,
    /// Make base 1 as a snapshot of this subvolume, by its path below the top level
    #[arg(long, value_name = "SUBVOLUME")]
    base_subvolume: Option<PathBuf>,
    /// Make base 1 empty, for systems whose own store rebuilds the rest
    #[arg(long)]
    base_blank: bool,
    /// Use this declaration; without one, a first one is written
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the container goes, below the volume's top level
    #[arg(long, value_name = "PATH", default_value = declaration::DEFAULT_CONTAINER)]
    container: PathBuf,
    /// Is /home kept whole?
    #[arg(long, value_name = "DECISION")]
    home: Option<Decision>,
    /// Is /root kept whole?
    #[arg(long, value_name = "DECISION")]
    root_home: Option<Decision>,
    /// Is /srv kept whole?
    #[arg(long, value_name = "DECISION")]
    srv: Option<Decision>,
    /// What happens to programs that update the system by themselves
    #[arg(long, value_name = "DECISION")]
    updaters: Option<UpdatersDecision>,
    /// Install GRUB on this disk, with its files in base 1, which no boot can change
    #[arg(long, value_name = "DISK")]
    grub: Option<PathBuf>,
    /// Show what would be done, step by step, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before starting
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendChoice {
    /// Snapshots of a base subvolume
    Btrfs,
    /// A directory for what is written, over the base: on ext4, xfs or btrfs
    Overlay,
    /// The same in RAM
    Tmpfs,
}

impl From<BackendChoice> for Backend {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Btrfs => Self::Btrfs,
            BackendChoice::Overlay => Self::Overlay,
            BackendChoice::Tmpfs => Self::Tmpfs,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Decision {
    /// All of it survives
    Keep,
    /// It is as in the base at every boot, but for entries below it
    Ephemeral,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum UpdatersDecision {
    /// Mask their units in the base
    Disable,
    /// Leave them: what they do is gone at the next boot
    Keep,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    machine::require_root()?;
    let device = device(args)?;
    let container = ContainerRef { path: args.container.clone(), uuid: setup::new_uuid() };
    let base = base(args);
    let text = declaration_text(args, &device, &container, &base, context)?;
    let (declaration, container) = checked(&text, &device, container, context)?;
    let mut request = Request {
        device,
        container,
        base,
        declaration,
        text,
        updaters: args.updaters.map(|decision| match decision {
            UpdatersDecision::Disable => Updaters::Disable,
            UpdatersDecision::Keep => Updaters::Keep,
        }),
        grub: args.grub.clone(),
    };
    let plan = {
        let volume = setup::open_volume(&request)?;
        let seen = setup::observe(&request, volume.as_fd())?;
        if request.updaters.is_none() {
            request.updaters = ask_updaters(&seen)?;
        }
        setup::plan(&request, &seen)?
    };
    let mut text = format!("on {}:\n", request.device);
    for step in &plan.steps {
        text.push_str("  ");
        text.push_str(&escape(step.to_string().as_bytes()));
        text.push('\n');
    }
    for notice in &plan.notices {
        text.push_str("note: ");
        text.push_str(notice);
        text.push('\n');
    }
    if args.dry_run || !args.yes {
        context.print(&text)?;
    } else {
        for notice in &plan.notices {
            context.tell(&format!("note: {notice}"));
        }
    }
    if args.dry_run {
        return Ok(Status::DONE);
    }
    if !args.yes && confirmed("go on?")? != Some(true) {
        context.print("nothing was done; `--yes` goes on where nobody can be asked\n")?;
        return Ok(Status::FAILED);
    }
    let mut log = |level: Level, message: &str| {
        if level <= Level::Info {
            context.tell(&escape(message.as_bytes()));
        }
    };
    setup::apply(&request, &plan, &mut log)?;
    let next = if plan.steps.iter().any(|step| matches!(step, setup::Step::BuildInitramfs(..))) {
        "boot this volume with the kernel and the initramfs of base 1; then `ebbtide status`"
    } else {
        "boot this volume with an initramfs that has Ebbtide in it: nothing resets the root before"
    };
    context.print(&format!(
        "the container {} is ready, with UUID {}\n\
         next: {next}\n",
        request.container.path.display(),
        request.container.uuid
    ))?;
    Ok(Status::DONE)
}

/// The device as it is written into the declaration: by UUID where it was given by a mount point.
fn device(args: &Args) -> Result<DeviceSpec, CommandError> {
    if let Some(device) = &args.device {
        return Ok(DeviceSpec(device.clone()));
    }
    let path = args.volume.clone().unwrap_or_default();
    let opened = std::fs::File::open(&path).map_err(|error| {
        CommandError::new(
            Kind::Failed,
            format!("cannot open {}", escape(path.as_os_str().as_encoded_bytes())),
        )
        .cause(error.to_string())
    })?;
    if let Ok(uuid) = ebbtide_sys::btrfs::filesystem_uuid(opened.as_fd()) {
        return Ok(DeviceSpec(format!("UUID={uuid}")));
    }
    let shown = escape(path.as_os_str().as_encoded_bytes());
    let cannot = |cause: String| {
        CommandError::new(Kind::Failed, format!("cannot find out what is mounted at {shown}"))
            .cause(cause)
            .hint("name the device with --device")
    };
    let mount = ebbtide_sys::metadata::metadata(opened.as_fd())
        .and_then(|found| Ok((found.mount_id, ebbtide_sys::mountinfo::read_self()?)))
        .map_err(|error| cannot(error.to_string()))?;
    let (id, mounts) = mount;
    let source = mounts.into_iter().find(|mount| u64::from(mount.id) == id).map(|it| it.source);
    let probed = source.and_then(|it| ebbtide_sys::device::probe(Path::new(&it)).ok().flatten());
    match probed {
        Some(superblock) => Ok(DeviceSpec(format!("UUID={}", superblock.uuid))),
        None => Err(cannot("it has neither btrfs nor ext4 nor xfs".to_owned())),
    }
}

/// How roots are made: as asked for, else as the volume allows.
fn backend(args: &Args, device: &DeviceSpec) -> Result<Backend, CommandError> {
    if let Some(choice) = args.backend {
        return Ok(choice.into());
    }
    Ok(match volume::filesystem(device)? {
        Some("btrfs") => Backend::Btrfs,
        _ => Backend::Overlay,
    })
}

fn base(args: &Args) -> BaseSource {
    match (&args.base_directory, &args.base_subvolume) {
        (Some(path), _) => BaseSource::Directory(path.clone()),
        (_, Some(path)) => BaseSource::Subvolume(path.clone()),
        (None, None) => BaseSource::Blank,
    }
}

/// The declaration that is going to be the machine's: the given one, or a first one, with the
/// container pinned and the decisions written down.
fn declaration_text(
    args: &Args,
    device: &DeviceSpec,
    container: &ContainerRef,
    base: &BaseSource,
    context: &Context,
) -> Result<String, CommandError> {
    let text = match &args.config {
        Some(path) => {
            let source = declaration::read_file(path)
                .map_err(|error| CommandError::from_error(Kind::Usage, &error))?;
            // What is wrong with the given file is shown as it stands there.
            crate::declaration::accept(context, std::slice::from_ref(&source))?;
            source.text
        }
        None => first_declaration(base),
    };
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        CommandError::new(Kind::Usage, "cannot read the declaration").cause(error.to_string())
    })?;
    let root = document.entry("root").or_insert_with(|| Item::Table(Table::new()));
    if let (Some(choice), Some(declared)) = (args.backend, root.get("backend")) {
        let choice = Backend::from(choice).to_string();
        if declared.as_str() != Some(choice.as_str()) {
            return Err(CommandError::new(
                Kind::Usage,
                format!("--backend says {choice}, and the declaration something else"),
            )
            .hint("leave one of the two out"));
        }
    }
    for (key, wanted) in [
        ("backend", backend(args, device)?.to_string()),
        ("device", device.0.clone()),
        ("container", container.path.display().to_string()),
        ("uuid", container.uuid.to_string()),
    ] {
        let is_default = key == "container" && wanted == declaration::DEFAULT_CONTAINER;
        if root.get(key).is_none() && !is_default {
            root[key] = value(wanted);
        }
    }
    if !document.contains_key("store") {
        let mut state = Table::new();
        let on_btrfs = volume::filesystem(device)? == Some("btrfs");
        state.insert(if on_btrfs { "subvolume" } else { "directory" }, value("state"));
        let mut stores = Table::new();
        stores.set_implicit(true);
        stores.insert("state", Item::Table(state));
        document.insert("store", Item::Table(stores));
    }
    decide(args, &mut document)?;
    Ok(document.to_string())
}

/// Writes the decisions on /home, /root and /srv down, asking for those that are missing.
fn decide(args: &Args, document: &mut DocumentMut) -> Result<(), CommandError> {
    let given = [args.home, args.root_home, args.srv];
    for (path, given) in HOMES.into_iter().zip(given) {
        let decided = mentions(document, "keep", "directories", path)
            || mentions(document, "root", "ephemeral", path);
        let decision = match (given, decided) {
            (None, true) => continue,
            (Some(_), true) => {
                return Err(CommandError::new(
                    Kind::Usage,
                    format!("{path} is decided on the command line and in the declaration"),
                )
                .hint("leave one of the two out"));
            }
            (Some(decision), false) => decision,
            (None, false) => ask_home(path)?,
        };
        let (name, key) = match decision {
            Decision::Keep => ("keep", "directories"),
            Decision::Ephemeral => ("root", "ephemeral"),
        };
        let table = document.entry(name).or_insert_with(|| Item::Table(Table::new()));
        if table.get(key).is_none() {
            table[key] = value(Array::new());
        }
        if let Some(array) = table[key].as_array_mut() {
            push(array, path);
        }
    }
    Ok(())
}

/// Adds an item, on a line of its own if the one before it is.
fn push(array: &mut Array, item: &str) {
    let start = array.iter().last().and_then(|last| last.decor().prefix()?.as_str());
    match start.filter(|start| start.contains('\n')).map(str::to_owned) {
        Some(start) => {
            let mut item = Value::from(item);
            item.decor_mut().set_prefix(start);
            array.push_formatted(item);
        }
        None => array.push(item),
    }
}

fn mentions(document: &DocumentMut, table: &str, key: &str, path: &str) -> bool {
    let array = document.get(table).and_then(|table| table.get(key)).and_then(Item::as_array);
    array.is_some_and(|array| {
        array.iter().any(|item| {
            let long = item.as_inline_table().and_then(|table| table.get("path"));
            item.as_str().or_else(|| long.and_then(|path| path.as_str())) == Some(path)
        })
    })
}

/// A first declaration: what every machine wants, and the keys that the source has.
fn first_declaration(base: &BaseSource) -> String {
    let mut text = String::from(
        "# What this machine keeps. Everything else is as in the base at every boot.\n\
         # `ebbtide check` checks this file, `ebbtide apply` puts it in force.\n\
         version = 1\n\n[root]\n\n[keep]\ndirectories = [\n    \"/var/log\",\n    \
         \"/var/lib/systemd/timers\",\n]\n",
    );
    let keys = match base {
        BaseSource::Directory(path) => host_keys(&path.join("etc/ssh")),
        BaseSource::Subvolume(_) => {
            ["ecdsa", "ed25519", "rsa"].map(|kind| format!("ssh_host_{kind}_key")).to_vec()
        }
        BaseSource::Blank => Vec::new(),
    };
    if !keys.is_empty() {
        text.push_str("files = [\n");
        for key in keys {
            let _ = writeln!(
                text,
                "    {{ path = \"/etc/ssh/{key}\", mode = \"0600\", optional = true }},"
            );
            let _ = writeln!(text, "    {{ path = \"/etc/ssh/{key}.pub\", optional = true }},");
        }
        text.push_str("]\n");
    }
    text
}

fn host_keys(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix("ssh_host_")
                .and_then(|name| name.strip_suffix("_key"))
                .is_some_and(|kind| kind.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        })
        .collect();
    names.sort();
    names
}

/// Checks the final text; a UUID that the declaration pins already is the container's.
fn checked(
    text: &str,
    device: &DeviceSpec,
    mut container: ContainerRef,
    context: &Context,
) -> Result<(Declaration, ContainerRef), CommandError> {
    let source = SourceFile { name: "/etc/ebbtide/ebbtide.toml".to_owned(), text: text.to_owned() };
    let declaration = crate::declaration::accept(context, std::slice::from_ref(&source))?;
    let root = declaration.root.as_ref().ok_or_else(|| {
        CommandError::new(Kind::Usage, "cannot set up: the declaration has no [root]")
    })?;
    if root.device != *device {
        return Err(CommandError::new(
            Kind::Usage,
            format!("the declaration is for {}, and {device} is to be set up", root.device),
        )
        .hint("give both the same spelling of the device"));
    }
    container.path.clone_from(&root.container);
    let pinned: Option<Uuid> = root.uuid;
    container.uuid = pinned.unwrap_or(container.uuid);
    Ok((declaration, container))
}

fn ask_home(path: &str) -> Result<Decision, CommandError> {
    let flag = match path {
        "/home" => "--home",
        "/root" => "--root-home",
        _ => "--srv",
    };
    let question = format!("is {path} kept whole (k), or ephemeral (e)?");
    match ask(&question)?.as_deref() {
        Some("k" | "keep") => Ok(Decision::Keep),
        Some("e" | "ephemeral") => Ok(Decision::Ephemeral),
        _ => {
            Err(CommandError::new(Kind::Usage, format!("it is not decided what happens to {path}"))
                .hint(format!("decide with {flag} keep or {flag} ephemeral")))
        }
    }
}

fn ask_updaters(seen: &Observation) -> Result<Option<Updaters>, CommandError> {
    if seen.updaters.is_empty() {
        return Ok(None);
    }
    let question = format!(
        "{} would update the root, which is gone at the next boot: disable them (d), or keep (k)?",
        seen.updaters.join(", ")
    );
    Ok(match ask(&question)?.as_deref() {
        Some("d" | "disable") => Some(Updaters::Disable),
        Some("k" | "keep") => Some(Updaters::Keep),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_added_as_the_one_before_it_is_written() {
        for (before, after) in [
            ("a = [\n    \"/x\",\n]\n", "a = [\n    \"/x\",\n    \"/y\",\n]\n"),
            ("a = [\"/x\"]\n", "a = [\"/x\", \"/y\"]\n"),
            ("a = []\n", "a = [\"/y\"]\n"),
        ] {
            let mut document: DocumentMut = before.parse().unwrap();
            push(document["a"].as_array_mut().unwrap(), "/y");
            assert_eq!(document.to_string(), after);
        }
    }
}
