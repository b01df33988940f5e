//! `ebbtide accept`: acknowledges that a store, the container or what is compiled is not what was pinned.

mod in_place;
mod report;

use std::path::Path;

use clap::Args as ClapArgs;
use ebbtide_core::boot::{LOCATOR, RUN};
use ebbtide_core::compiled::Entry;
use ebbtide_core::declaration::{Declaration, SourceFile, Target};
use ebbtide_core::failure::Context as _;
use ebbtide_core::locator::Locator;
use ebbtide_core::publish::{
    Became, Difference, Pinned, Publication, container_difference, other_container,
};
use toml_edit::{DocumentMut, value};
use uuid::Uuid;

use super::{declare, machine, question};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;

pub use report::Json;

/// Acknowledges a change that a boot refuses to reset for: a restored backup, an exchanged disk
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A boot resets the root only if everything is as it was pinned: the container and each store by the UUID in
its marker, the compiled declaration by its hash. This shows each of them that is another one now, with
what it means to accept it and what nobody can prove, asks, and pins what is there. No data are touched.

A change is shown by a name: `container`, `store.NAME` or `declaration`. What could be a mistake with
consequences is accepted only if it is named: another container, a store that is gone, and one that is
empty. Either everything is accepted or nothing is: a boot refuses for any one of them.

The UUIDs of the container and of the state store are in the initramfs, too. If one of them is accepted,
build the initramfs again.

Examples:
  See what differs:
    sudo ebbtide accept --dry-run

  After a store was restored from a backup:
    sudo ebbtide accept

  A store is lost, and the machine is to go on with an empty one:
    sudo ebbtide accept store.cache

Exit status: 0 accepted, or nothing to accept; 1 failed, or not accepted; 2 wrong command line or
declaration.")]
pub struct Args {
    /// Accept this; without any, what need not be named
    #[arg(value_name = "WHAT")]
    what: Vec<String>,
    /// Show what differs, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What is there and what was pinned.
struct Found {
    differences: Vec<Difference>,
    publication: Publication,
    /// The file that pins the container, with the UUID that is there.
    repinned: Option<(Target, String)>,
    /// Whether the initramfs that this boot came from names something else already.
    is_outdated: bool,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    machine::require_root()?;
    // What a refused boot has not put in place is put there for this process alone.
    in_place::put(context)?;
    let found = look(context)?;
    let wanted = Wanted::new(args, &found.differences)?;
    let rebuild = found.is_outdated || needs_initramfs(&found.differences);
    let mut shown = Json::new(args.dry_run, &found.differences, rebuild);
    let listed = report::differences(&found, context)?;
    if found.differences.is_empty() {
        let text = "nothing to accept: everything is what was pinned\n".to_owned();
        return print(args, &shown, &(text + report::initramfs(rebuild)), context, Status::DONE);
    }
    if args.dry_run {
        return print(args, &shown, &listed, context, Status::DONE);
    }
    if !args.json {
        context.print(&listed)?;
    }
    if !wanted.unnamed.is_empty() {
        if args.json {
            context.print_json(&shown)?;
        }
        return Err(wanted.refusal());
    }
    if !args.yes && question::confirmed("accept this?")? != Some(true) {
        let text = "nothing was accepted; `--yes` accepts where nobody can be asked\n";
        return print(args, &shown, text, context, Status::FAILED);
    }
    let hash = accept(found.publication, found.repinned)?;
    shown.accepted = true;
    let short = hash.get(..12).unwrap_or_default();
    let text = format!("accepted: the next boot goes by {short}\n");
    print(args, &shown, &(text + report::initramfs(rebuild)), context, Status::DONE)
}

fn print(
    args: &Args,
    json: &Json<'_>,
    text: &str,
    context: &Context,
    status: Status,
) -> Result<Status, CommandError> {
    if args.json { context.print_json(json) } else { context.print(text) }.map(|()| status)
}

/// Looks at the machine; changes nothing.
fn look(context: &Context) -> Result<Found, CommandError> {
    let sources = crate::declaration::read(context, None)?;
    let mut declaration = crate::declaration::accept(context, &sources)?;
    let mut differences = Vec::new();
    let mut repinned = None;
    if let Some(root) = &declaration.root
        && let Some(pinned) = root.uuid
        && let Some(found) = other_container(root)?
    {
        differences.push(container_difference(pinned, found));
        let (target, text, with) = pin(&sources, pinned, found, context)?;
        declaration = crate::declaration::accept(context, &with)?;
        repinned = Some((target, text));
    }
    let mut publication = Publication::open(&declaration)?;
    let is_kept_there = |it: &Entry| it.path == Path::new("/etc/ebbtide") && it.store.0 == "state";
    if declaration.entries.iter().any(is_kept_there) {
        let cannot = || "cannot open the root";
        let system = std::fs::File::open(&context.sysroot).context(cannot)?;
        publication = publication.with_configuration_of(system.into());
    }
    if let Some(name) = publication.moved_stores().first() {
        return Err(CommandError::new(
            Kind::Usage,
            format!("store {name} is declared in another place than before"),
        )
        .hint("that is changed with `ebbtide apply --move-stores`"));
    }
    differences.extend(publication.differences()?);
    let is_outdated = is_outdated(&declaration, &differences);
    Ok(Found { differences, publication, repinned, is_outdated })
}

/// The file that has the container's UUID, and its text with another.
fn pin(
    sources: &[SourceFile],
    pinned: Uuid,
    found: Uuid,
    context: &Context,
) -> Result<(Target, String, Vec<SourceFile>), CommandError> {
    let cannot = |why: String| {
        CommandError::new(Kind::Failed, "cannot pin the container that is there")
            .cause(why)
            .hint(format!("set `uuid = \"{found}\"` under [root] where the declaration is made"))
    };
    // The last one that sets it counts.
    for source in sources.iter().rev() {
        let Ok(mut document) = source.text.parse::<DocumentMut>() else { continue };
        let Some(uuid) = document.get_mut("root").and_then(|root| root.get_mut("uuid")) else {
            continue;
        };
        let is_it = uuid.as_str().and_then(|uuid| uuid.parse::<Uuid>().ok()) == Some(pinned);
        let decor = uuid.as_value().map(|it| it.decor().clone());
        if !is_it {
            continue;
        }
        *uuid = value(found.to_string());
        if let (Some(value), Some(decor)) = (uuid.as_value_mut(), decor) {
            *value.decor_mut() = decor;
        }
        let target = Target::named(&context.sysroot, &source.name)?
            .filter(|target| target.source().text == source.text)
            .ok_or_else(|| cannot(format!("{} is read-only", source.name)))?;
        let text = document.to_string();
        let with = target.with_text(sources, &text);
        return Ok((target, text, with));
    }
    Err(cannot("no file of the declaration has its UUID".to_owned()))
}

/// Whether the initramfs that this boot came from would refuse what is declared and there already.
fn is_outdated(declaration: &Declaration, differences: &[Difference]) -> bool {
    let booted = std::fs::read(Path::new(RUN).join(LOCATOR)).ok();
    let booted = booted.and_then(|bytes| Locator::from_bytes(&bytes).ok());
    let now = ebbtide_core::declaration::locate(declaration).ok();
    let is_other = |(booted, now): (&Locator, &Locator)| {
        booted.container.uuid != now.container.uuid || booted.state.uuid != now.state.uuid
    };
    let stays = |it: &Difference| it.became != Became::Unmarked;
    differences.iter().all(stays) && booted.as_ref().zip(now.as_ref()).is_some_and(is_other)
}

/// Whether a UUID that an initramfs has is going to be another.
fn needs_initramfs(differences: &[Difference]) -> bool {
    differences.iter().any(|it| match &it.what {
        Pinned::Container => true,
        Pinned::Store(name) => {
            let is_other = matches!(it.became, Became::Exchanged | Became::ExchangedForEmpty);
            name.0 == "state" && is_other
        }
        Pinned::Declaration => false,
    })
}

/// What is to be accepted.
struct Wanted {
    /// Differences that were not named and should be.
    unnamed: Vec<String>,
}

impl Wanted {
    fn new(args: &Args, differences: &[Difference]) -> Result<Self, CommandError> {
        for word in &args.what {
            if !differences.iter().any(|it| it.what.to_string() == *word) {
                return Err(CommandError::new(
                    Kind::Usage,
                    format!("there is nothing to accept about {}", crate::text::printable(word)),
                )
                .hint("`ebbtide accept --dry-run` shows what differs"));
            }
        }
        let is_named = |it: &&Difference| {
            let named = args.what.iter().any(|word| *word == it.what.to_string());
            // That what was compiled is not in another store follows from that store.
            let follows = it.what == Pinned::Declaration;
            named || !it.by_name && (args.what.is_empty() || follows)
        };
        let unnamed = differences.iter().filter(|it| !is_named(it));
        Ok(Self { unnamed: unnamed.map(|it| it.what.to_string()).collect() })
    }

    fn refusal(&self) -> CommandError {
        let names = self.unnamed.join(", ");
        CommandError::new(Kind::Failed, format!("nothing was accepted: {names} was not named"))
            .hint("if all that is shown is meant, name each: `ebbtide accept WHAT…`")
    }
}

/// Pins what is there. Returns the hash of what was compiled.
fn accept(
    publication: Publication,
    repinned: Option<(Target, String)>,
) -> Result<String, CommandError> {
    let files: Vec<_> = repinned.into_iter().collect();
    declare::write_files(&files)?;
    match publication.publish() {
        Ok(published) => Ok(published.hash.to_string()),
        Err(failure) => Err(declare::put_back(failure.into(), &files)),
    }
}
