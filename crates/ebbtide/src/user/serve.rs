//! The service: `ebbtide internal serve-user`, which systemd starts for each connection.
//!
//! Nothing that comes over the socket is used before the kernel has said who is there. What needs root is
//! done first, one process at a time, with what the user cannot make last: opening for reading, and the walk
//! that finds changes. Then the process becomes the user, and what it sends is what the kernel lets that user
//! read, as long as it is theirs.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ebbtide_core::boot::Boot;
use ebbtide_core::diff::Which;
use ebbtide_core::diff::owned::Owned;
use ebbtide_core::failure::{Context as _, Failure};
use ebbtide_core::past::history;
use ebbtide_core::past::restore::{self, Request as Wish, Wanted};
use ebbtide_core::past::sources::{Place, Sources};
use ebbtide_core::past::theirs::Person;
use ebbtide_core::past::version::Contents;
use ebbtide_core::past::{self};
use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::metadata::metadata_beneath;
use ebbtide_sys::peer::{self, Peer};

use super::send::Sender;
use super::wire::{self, Answer, Ask, Bytes, Found, Frame, Request, WireChange};
use crate::boot_name::{BootOrBase, BootOrRange};
use crate::commands::machine;
use crate::context::Context;
use crate::error::{CommandError, Kind};

/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the other end may take to read on.
const SLOW: Duration = Duration::from_secs(30);
/// The user that stands for those that have no number here. See `user_namespaces(7)`.
const OVERFLOW: u32 = 65_534;
/// What those that need root take turns by, in the run directory.
const TURN: &str = "user.lock";

/// Answers the one request of the connection that is standard input.
///
/// # Errors
///
/// If there is no connection, or nobody to tell the failure to. What users ask in vain is no failure.
pub fn serve(context: &Context) -> Result<(), CommandError> {
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::new(Kind::Failed, "cannot answer on standard input").cause(error.to_string())
    };
    let peer = peer::peer(io::stdin().as_fd()).map_err(|error| {
        failed(&error).hint("this is for ebbtide-user.socket: systemd passes a connection to it")
    })?;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
    let mut socket = UnixStream::from(socket);
    socket.set_write_timeout(Some(SLOW)).map_err(|error| failed(&error))?;
    if let Err(error) = answer(&mut socket, &peer, context) {
        let (message, causes, hints) = error.into_parts();
        // Nobody may be there any more.
        let _ = wire::write_json(&mut socket, &Answer::Failed { message, causes, hints });
    }
    Ok(())
}

fn answer(socket: &mut UnixStream, peer: &Peer, context: &Context) -> Result<(), CommandError> {
    let request = receive(socket)?;
    let person = person(peer, context)?;
    match &request.ask {
        Ask::Boots {} => boots(socket, peer, context),
        Ask::Log { path } => log(socket, peer, &person, path, context),
        Ask::Diff { boot } => diff(socket, peer, &person, boot.as_deref(), context),
        Ask::Restore { path, boot, elsewhere, dry_run } => {
            let wish = (path, boot.as_deref(), *elsewhere);
            restore(socket, peer, &person, wish, *dry_run, context)
        }
    }
}

/// Reads the request: all of it within [`PATIENCE`].
fn receive(socket: &UnixStream) -> Result<Request, CommandError> {
    let cannot =
        |why: String| CommandError::new(Kind::Usage, "cannot understand the request").cause(why);
    let mut patient = Patient { socket, until: Instant::now() + PATIENCE };
    let frame =
        wire::read(&mut patient, wire::REQUEST).map_err(|error| cannot(error.to_string()))?;
    let Frame::Json(text) = frame else {
        return Err(cannot("a piece of a file came instead".to_owned()));
    };
    let request: Request = serde_json::from_slice(&text).map_err(|it| cannot(it.to_string()))?;
    if request.version != wire::VERSION {
        let (asked, known) = (request.version, wire::VERSION);
        return Err(cannot(format!("it has version {asked}, and {known} is known here")).hint(
            "the command and its service are one program: try again when the update is done",
        ));
    }
    Ok(request)
}

/// A socket that is read until a moment, however little comes at a time.
struct Patient<'a> {
    socket: &'a UnixStream,
    until: Instant,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not come in time"));
        }
        self.socket.set_read_timeout(Some(left))?;
        io::Read::read(&mut &*self.socket, buffer)
    }
}

/// The account of the user that is there.
fn person(peer: &Peer, context: &Context) -> Result<Person, CommandError> {
    let cannot =
        |why: String| CommandError::new(Kind::Failed, "cannot tell what is yours").cause(why);
    if peer.uid == 0 || peer.uid == OVERFLOW {
        return Err(cannot(format!("user {} is not served here", peer.uid)));
    }
    let root = File::open(&context.sysroot).map_err(|error| cannot(error.to_string()))?;
    let accounts = Accounts::read(root.as_fd()).map_err(|error| cannot(error.to_string()))?;
    match accounts.user_name(peer.uid) {
        Some(name) => Ok(Person { uid: peer.uid, name: name.to_owned() }),
        None => Err(cannot(format!("there is no account with number {} in /etc/passwd", peer.uid))),
    }
}

/// Waits until no other process of this service does what needs root.
fn turn(boot: &Boot) -> Result<File, CommandError> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = boot.run.join(TURN);
    let what = || format!("cannot lock {}", path.display());
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.context(what)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).context(what)?;
    Ok(file)
}

/// From here on, this process is the user's.
fn become_user(peer: &Peer) -> Result<(), CommandError> {
    Ok(peer::become_peer(peer).context(|| "cannot become the user who asks")?)
}

fn send(socket: &mut UnixStream, answer: &Answer) -> Result<(), CommandError> {
    Ok(wire::write_json(socket, answer).context(|| "cannot send the answer")?)
}

fn path(path: &Bytes) -> Result<&Path, CommandError> {
    path.absolute().ok_or_else(|| {
        CommandError::new(Kind::Usage, "cannot understand the request")
            .cause("a path in it is not absolute and plain")
    })
}

/// A boot as it is named on the command line.
fn named<T: std::str::FromStr<Err = String>>(
    text: Option<&str>,
) -> Result<Option<T>, CommandError> {
    let parse = |text: &str| match text.len() {
        0..64 => text.parse(),
        _ => Err("a name that is too long".to_owned()),
    };
    text.map(parse)
        .transpose()
        .map_err(|why| CommandError::new(Kind::Usage, "cannot find the boot").cause(why))
}

fn boots(socket: &mut UnixStream, peer: &Peer, context: &Context) -> Result<(), CommandError> {
    let boot = machine::running(None, context)?;
    let turn = turn(&boot)?;
    let container = boot.open_container_for_reading()?;
    let id = ebbtide_sys::kernel::boot_id().context(|| "cannot read the kernel's boot id")?;
    let boots = past::boots_without_sizes(&container, &boot.locator.container.path, &id)?;
    drop((container, turn));
    become_user(peer)?;
    send(socket, &Answer::Boots { boots })
}

/// Opens all trees that may have something of the user, for reading.
fn sources(boot: &Boot, person: &Person, context: &Context) -> Result<Sources, CommandError> {
    let container = boot.open_container_for_reading()?;
    let mut sources = Sources::open(boot, &container, &context.sysroot)?;
    sources.only_for(person);
    Ok(sources)
}

fn log(
    socket: &mut UnixStream,
    peer: &Peer,
    person: &Person,
    wanted: &Bytes,
    context: &Context,
) -> Result<(), CommandError> {
    let path = path(wanted)?;
    let boot = machine::running(None, context)?;
    let turn = turn(&boot)?;
    let sources = sources(&boot, person, context)?;
    drop(turn);
    become_user(peer)?;
    let mut history = history::history(&sources, path, &mut Contents::of(person.uid));
    if !history.is_known() {
        // What is said besides would be about what others have.
        history.kept = None;
        history.runs.clear();
    }
    let has_past = sources.all.iter().any(|source| matches!(source.place, Place::Boot(_)));
    send(socket, &Answer::Log { history, problems: sources.problems, has_past })
}

fn diff(
    socket: &mut UnixStream,
    peer: &Peer,
    person: &Person,
    name: Option<&str>,
    context: &Context,
) -> Result<(), CommandError> {
    let name: Option<BootOrRange> = named(name)?;
    let boot = machine::running(None, context)?;
    let turn = turn(&boot)?;
    let container = boot.open_container_for_reading()?;
    let which = match name {
        None => Which::Running,
        Some(name) => name.find(&container)?,
    };
    let owned = Owned::open(&boot, &container, &context.sysroot, which, person)?;
    let changes = owned.changes().map_err(|failure| {
        // It may have names in it that are not the user's.
        context.tell(&format!("<4>ebbtide: for user {}: {}", person.uid, failure.chain()));
        CommandError::new(Kind::Failed, "cannot find out what changed")
            .hint("the journal of this machine has the reason; `sudo ebbtide diff` tells it")
    })?;
    drop((container, turn));
    become_user(peer)?;
    send(socket, &Answer::Diff { about: Box::new(owned.about()) })?;
    for change in changes {
        // Once more, as the user: what the kernel keeps from them is not told.
        if let Some(change) = owned.told(change) {
            send(socket, &Answer::Change(WireChange::from(&change)))?;
        }
    }
    send(socket, &Answer::End { left_out: 0 })
}

fn restore(
    socket: &mut UnixStream,
    peer: &Peer,
    person: &Person,
    (wanted, name, elsewhere): (&Bytes, Option<&str>, bool),
    dry_run: bool,
    context: &Context,
) -> Result<(), CommandError> {
    let path = path(wanted)?;
    let name: Option<BootOrBase> = named(name)?;
    let boot = machine::running(None, context)?;
    let turn = turn(&boot)?;
    let wanted = match name {
        None => Wanted::Newest,
        Some(BootOrBase::Base) => Wanted::Base,
        Some(BootOrBase::Boot(name)) => {
            Wanted::Boot(name.find(&boot.open_container_for_reading()?)?)
        }
    };
    let sources = sources(&boot, person, context)?;
    drop(turn);
    become_user(peer)?;
    let to = elsewhere.then(|| Path::new("/").to_owned());
    let wish = Wish { path: path.to_owned(), wanted, to, force: false };
    let (source, version) = restore::find(&sources, &wish, &mut Contents::of(person.uid))?;
    let tree = source.tree().map_err(Failure::new)?;
    let above = path.ancestors().skip(1);
    let mode = |above: &Path| {
        let below = above.strip_prefix("/").unwrap_or(above);
        let found = metadata_beneath(tree, below).ok().flatten()?;
        (found.uid == person.uid).then_some(found.mode)
    };
    let mounted = source.mounted_below(path).into_iter().map(|(path, store)| {
        (ebbtide_sys::escape(path.as_os_str().as_encoded_bytes()), store.clone())
    });
    let found = Found {
        place: source.place.clone(),
        version,
        fate: restore::fate(&sources, path),
        parents: above.map(mode).collect(),
        mounted: mounted.collect(),
        problems: sources.problems.clone(),
    };
    send(socket, &Answer::Found(Box::new(found)))?;
    if dry_run {
        return Ok(());
    }
    Ok(Sender { uid: person.uid, out: socket, left_out: 0 }.send(tree, path)?)
}
