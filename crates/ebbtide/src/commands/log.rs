//! `ebbtide log`: every version of a path, over the running system, past roots and bases.

mod places;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::compiled::Backend;
use ebbtide_core::failure::{Level, Problem};
use ebbtide_core::past::glob::Glob;
use ebbtide_core::past::grep::{Grep, Matches};
use ebbtide_core::past::history::{self, History, Run};
use ebbtide_core::past::sources::{Place, Sources};
use ebbtide_core::past::version::{Contents, Kind, State, Version};
use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

pub(super) use places::places;

use super::declare::absolute;
use super::machine;
use crate::context::Context;
use crate::error::{CommandError, Kind as Failed};

use crate::status::Status;
use crate::table::table;
use crate::text::{count, date, size};
use crate::user::wire::{Answer, Ask, Bytes};
use crate::user::{self, ask};

/// How many paths a pattern stands for.
const PATHS: usize = 1000;
/// In how many files is looked for text.
const FILES: usize = 100_000;
/// After how many of them somebody who waits is told.
const STEP: usize = 5000;

/// Lists all versions of a path: now, in past roots, in the base
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The newest version comes first. Neighbours with the same content, owner, mode and attributes are one
line. `deleted`: it was there before. `kept`: it was mounted from a store in that boot, and is there. Of
a directory the total is told; two are the same if names, owners, modes, sizes and times in them are. No
symbolic link is followed: name a path by what it leads to. In a pattern, `*`, `?` and `[a-z]` stand for
part of a name, `**` for directories in any depth; what is mounted below is not looked at. What left a
store is told as long as its trash has it.

With --grep only versions are told that have a text in them, with how often, and its first line: bytes as
they are typed, no pattern. Files of more than 256 MiB are not read. In a directory, all files below it
are looked into. --search finds files and directories by their name, in any root.

Examples:
  sudo ebbtide log /etc/hosts
  sudo ebbtide log /var/lib/app
  sudo ebbtide log '/etc/**/*.conf'
  sudo ebbtide log --grep 'PermitRootLogin yes' /etc/ssh
  sudo ebbtide log --search 'thesis*.tex' /home
  sudo ebbtide log --json /etc/hosts | jq '.histories[].runs[].places'

Without root, users are told the versions of one path that is theirs.

Exit status: 0 done; 1 failed, or no root ever had it; 2 wrong command line or declaration.")]
pub struct Args {
    /// The path to look for: a file, a directory or anything else; or a pattern of paths
    #[arg(value_name = "PATH", required_unless_present = "search")]
    path: Option<PathBuf>,
    /// Tell only versions that have this text in them
    #[arg(long, value_name = "TEXT")]
    grep: Option<OsString>,
    /// Look for this name below the path, or anywhere; it may be a pattern
    #[arg(long, value_name = "NAME")]
    search: Option<OsString>,
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `ebbtide log --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// What was found out, for each path that was asked for.
    histories: &'a [History],
    /// What could not be looked at.
    problems: &'a [Problem],
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let path = absolute(args.path.as_deref().unwrap_or(Path::new("/")))?;
    let mut grep = args.grep.as_ref().map(|text| text_to_find(text)).transpose()?;
    let glob = pattern(args, &path)?;
    if ask::is_possible(args.config.as_deref()) {
        if grep.is_some() || glob.is_some() {
            return Err(user::needs_root("look for patterns and texts")
                .hint("`ebbtide log PATH` tells the versions of one path that is yours"));
        }
        return run_for_user(args, &path, context);
    }
    let boot = machine::running(args.config.as_deref(), context).map_err(ask::or_turn_it_on)?;
    let container = boot.open_container()?;
    let mut sources = Sources::open(&boot, &container, &context.sysroot)?.with_trash();
    let limit = if grep.is_some() { FILES } else { PATHS };
    let paths = match glob {
        Some(glob) => matching(&glob, args, &path, limit, &mut sources, context),
        None => BTreeSet::from([path.clone()]),
    };
    let mut contents = Contents::default();
    let mut histories: Vec<_> = match &mut grep {
        Some(grep) => {
            let mut found = Vec::new();
            for (index, path) in paths.iter().enumerate() {
                if index % STEP == STEP - 1 && io::stderr().is_terminal() {
                    context.tell(&format!("looked into {} of {}", index + 1, paths.len()));
                }
                found.extend(history::matching(&sources, path, grep, &mut contents));
            }
            found
        }
        None => paths.iter().map(|it| history::history(&sources, it, &mut contents)).collect(),
    };
    sources.problems.extend(grep.iter().flat_map(passed_over));
    if paths.len() > 1 {
        histories.retain(History::is_known);
    }
    print(args, &histories, &sources.problems, context)?;
    if histories.iter().any(History::is_known) {
        return Ok(Status::DONE);
    }
    let has_past = sources.all.iter().any(|source| matches!(source.place, Place::Boot(_)));
    let in_ram = container.backend() == Backend::Tmpfs;
    Err(unknown(args, &path, &histories, has_past, in_ram))
}

/// Without root: the versions of one path that are the user's.
fn run_for_user(args: &Args, path: &Path, context: &Context) -> Result<Status, CommandError> {
    let answer = ask::ask(Ask::Log { path: Bytes::of(path.as_os_str()) })?.next()?;
    let Answer::Log { history, problems, has_past } = answer else { return Err(ask::unexpected()) };
    let histories = [history];
    print(args, &histories, &problems, context)?;
    if histories.iter().any(History::is_known) {
        return Ok(Status::DONE);
    }
    Err(unknown(args, path, &[], has_past, false)
        .hint("without root, only what is yours is told: `sudo ebbtide log` looks at all of it"))
}

fn print(
    args: &Args,
    histories: &[History],
    problems: &[Problem],
    context: &Context,
) -> Result<(), CommandError> {
    if args.json {
        context.print_json(&Json { version: 1, histories, problems })?;
    } else {
        user::tell_problems(problems, context);
        let accounts = std::fs::File::open(&context.sysroot)
            .ok()
            .and_then(|root| Accounts::read(std::os::fd::AsFd::as_fd(&root)).ok())
            .unwrap_or_else(|| Accounts::parse(b"", b""));
        for history in histories.iter().filter(|history| history.is_known()) {
            context.print(&render(history, &accounts, context))?;
        }
    }
    Ok(())
}

/// Why nothing can be told.
fn unknown(
    args: &Args,
    path: &Path,
    histories: &[History],
    has_past: bool,
    in_ram: bool,
) -> CommandError {
    let what = match (&args.grep, &args.search) {
        (Some(text), _) => format!("the text \"{}\" in ", escape(text.as_bytes())),
        (None, Some(name)) => format!("{} below ", escape(name.as_bytes())),
        (None, None) => String::new(),
    };
    let path = escape(path.as_os_str().as_encoded_bytes());
    let mut error =
        CommandError::new(Failed::Failed, format!("cannot find {what}{path} in any root"));
    for run in histories.iter().flat_map(|history| &history.runs) {
        match &run.state {
            State::Unknown(why) => error = error.cause(format!("{}: {why}", places(&run.places))),
            State::Kept(store) => {
                let places = places(&run.places);
                error = error.cause(format!("{places}: it was mounted from store {store}"));
            }
            State::Present(_) | State::Absent | State::Deleted => {}
        }
    }
    if !has_past {
        error = error.hint(if in_ram {
            "there are no past roots: a root in RAM is one if `archive` is declared"
        } else {
            "there are no past roots yet"
        });
    }
    error
}

fn text_to_find(text: &OsStr) -> Result<Grep, CommandError> {
    Grep::new(text.as_bytes()).ok_or_else(|| {
        CommandError::new(Failed::Usage, "cannot look for an empty text")
            .hint("every version has that: leave `--grep` out")
    })
}

/// The pattern of paths that is asked for, if it is one.
fn pattern(args: &Args, path: &Path) -> Result<Option<Glob>, CommandError> {
    if let Some(name) = &args.search {
        if name.is_empty() || name.as_bytes().contains(&b'/') {
            let name = escape(name.as_bytes());
            return Err(CommandError::new(Failed::Usage, format!("cannot look for {name:?}"))
                .cause("it is not a name")
                .hint("`ebbtide log PATH` takes paths, and patterns of them"));
        }
        return Ok(Glob::new(&path.join("**").join(name)));
    }
    let glob = Glob::new(path);
    Ok(match (&args.grep, glob) {
        // What is in a directory; of a file there is nothing below it.
        (Some(_), None) => Glob::new(&path.join("**")),
        (_, glob) => glob,
    })
}

/// What was not looked into.
fn passed_over(grep: &Grep) -> impl Iterator<Item = Problem> + use<> {
    let told = [
        (grep.skipped, "of more than 256 MiB, and not looked into"),
        (grep.failed, "could not be read"),
    ];
    told.into_iter().filter(|(number, _)| *number > 0).map(|(number, why)| {
        let files = count(usize::try_from(number).unwrap_or(usize::MAX), "version");
        Problem::new(Level::Warning, format!("{files} {why}"))
    })
}

/// The paths that any tree has of a pattern, and what is called like the pattern itself.
fn matching(
    glob: &Glob,
    args: &Args,
    path: &Path,
    limit: usize,
    sources: &mut Sources,
    context: &Context,
) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    if args.search.is_none() {
        paths.insert(path.to_owned());
    }
    let (mut unseen, mut failed) = (BTreeSet::new(), Vec::new());
    // What is mounted in the running system is not entered there.
    let deep = args.search.is_some() || args.grep.is_some();
    let stores = if deep { sources.stores_below(path) } else { Vec::new() };
    for source in sources.all.iter().chain(&stores).chain(&sources.trash) {
        if deep && io::stderr().is_terminal() {
            let place = places(std::slice::from_ref(&source.place));
            context.tell(&format!("looking for names: {place}"));
        }
        let found = source.tree().map(|tree| glob.find(tree, limit, &mut paths));
        match found {
            Ok(Ok(more)) => unseen.extend(more),
            Ok(Err(error)) => {
                failed.push(format!("{}: {error}", places(std::slice::from_ref(&source.place))));
            }
            // It says so in the history of each path.
            Err(_) => {}
        }
    }
    failed.extend(unseen.iter().map(ToString::to_string));
    sources.problems.extend(failed.into_iter().map(|it| Problem::new(Level::Warning, it)));
    paths
}

fn render(history: &History, accounts: &Accounts, context: &Context) -> String {
    let mut text = format!("{}\n", history.path);
    let found = history.runs.iter().any(|run| run.matches.is_some());
    let last = if found { "FOUND" } else { "CONTENT" };
    let header = ["WHERE", "SIZE", "MODIFIED (UTC)", "OWNER", "MODE", last];
    let rows: Vec<_> = history.runs.iter().map(|run| row(run, accounts)).collect();
    text += &table(&header, &rows, &[1]);
    let now = history.runs.iter().find(|run| run.places.contains(&Place::Now));
    match (&history.kept, now.map(|run| &run.state)) {
        (Some(kept), _) => {
            let entry = &kept.entry;
            let _ = writeln!(
                text,
                "{} kept by the entry {entry} ({}, store {})",
                context.dim("--"),
                kept.method,
                kept.store
            );
        }
        (None, Some(State::Present(_))) => {
            let _ = writeln!(
                text,
                "{} no entry keeps it: `ebbtide keep {}` does from now on",
                context.dim("--"),
                history.path
            );
        }
        (None, _) => {}
    }
    text
}

fn row(run: &Run, accounts: &Accounts) -> Vec<String> {
    let place = places(&run.places);
    match &run.state {
        State::Present(version) => {
            let more = if version.complete { "" } else { ">" };
            let user = accounts.user_name(version.uid).map(str::to_owned);
            let group = accounts.group_name(version.gid).map(str::to_owned);
            let user = user.unwrap_or_else(|| version.uid.to_string());
            let group = group.unwrap_or_else(|| version.gid.to_string());
            vec![
                place,
                format!("{more}{}", size(version.bytes)),
                date(version.modified),
                escape(format!("{user}:{group}").as_bytes()),
                format!("{:04o}", version.mode),
                run.matches.as_ref().map_or_else(|| described(version), found),
            ]
        }
        State::Deleted => vec![place, "deleted".to_owned()],
        State::Absent => vec![place, "not there".to_owned()],
        State::Kept(store) => vec![place, format!("kept in store {store}")],
        State::Unknown(why) => vec![place, format!("unknown: {why}")],
    }
}

/// Where the text is that was looked for.
fn found(matches: &Matches) -> String {
    let Matches { count, line, text } = matches;
    let text = text.as_deref().unwrap_or("(not text)");
    let more = if *count > 1 { format!("{count}x, ") } else { String::new() };
    format!("{more}line {line}: {text}")
}

fn described(version: &Version) -> String {
    match (version.kind, &version.content, &version.target, version.entries) {
        (Kind::File, Some(hash), _, _) => hash.get(..12).unwrap_or(hash).to_owned(),
        (Kind::File, None, _, _) => "not read: it is long".to_owned(),
        (Kind::Link, _, Some(target), _) => format!("-> {target}"),
        (Kind::Directory, _, _, Some(entries)) => {
            let more = if version.complete { "" } else { "more than " };
            let entries = count(usize::try_from(entries).unwrap_or(usize::MAX), "entry");
            format!("directory with {more}{entries}")
        }
        (Kind::Special, ..) => "pipe, socket or device".to_owned(),
        (Kind::Link | Kind::Directory, ..) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use ebbtide_core::compiled::StoreName;
    use ebbtide_core::past::history::KeptBy;
    use ebbtide_core::past::version::Identity;
    use ebbtide_core::record::BootNumber;

    use super::*;
    use crate::context::Color;

    #[test]
    fn places_are_short() {
        let boots = |numbers: &[u64]| -> Vec<Place> {
            numbers.iter().map(|number| Place::Boot(BootNumber(*number))).collect()
        };
        assert_eq!(places(&boots(&[7])), "boot 7");
        assert_eq!(places(&boots(&[7, 6])), "boots 6, 7");
        assert_eq!(places(&boots(&[9, 7, 6, 5, 2])), "boots 2, 5–7, 9");
        let all = [
            vec![Place::Now, Place::Store(StoreName("state".to_owned()))],
            boots(&[3, 2, 1]),
            vec![Place::Base(2), Place::Base(1)],
        ];
        assert_eq!(places(&all.concat()), "now, store state, boots 1–3, bases 1, 2");
    }

    fn version(kind: Kind) -> Version {
        Version {
            kind,
            bytes: 220,
            modified: 1_764_052_325,
            uid: 0,
            gid: 1000,
            mode: 0o644,
            content: None,
            target: None,
            entries: None,
            complete: true,
            identity: Identity::default(),
        }
    }

    #[test]
    fn a_history_is_a_line_for_each_version() {
        let run = Run::new;
        let boot = |number| Place::Boot(BootNumber(number));
        let file = Version { content: Some("0123456789abcdef".into()), ..version(Kind::File) };
        let link = Version { target: Some("a\\x1b".to_owned()), ..version(Kind::Link) };
        let directory =
            Version { entries: Some(50_000), complete: false, ..version(Kind::Directory) };
        let mut history = History {
            path: "/etc/odd\\n".to_owned(),
            kept: None,
            runs: vec![
                run(vec![Place::Now], State::Present(file)),
                run(vec![boot(9), boot(8), boot(7)], State::Deleted),
                run(vec![boot(5)], State::Present(link)),
                run(vec![boot(4)], State::Kept(StoreName("state".to_owned()))),
                run(vec![boot(3)], State::Present(directory)),
                run(vec![boot(2)], State::Unknown("cannot be read".to_owned())),
                run(vec![Place::Base(1)], State::Absent),
            ],
        };
        let accounts = Accounts::parse(b"root:x:0:0::/root:\n", b"");
        let context = Context::new(PathBuf::from("/"), Color::Never);
        insta::assert_snapshot!(render(&history, &accounts, &context));
        history.runs.truncate(0);
        history.kept = Some(KeptBy {
            entry: "/etc".to_owned(),
            store: StoreName("state".to_owned()),
            method: "bind".to_owned(),
        });
        let text = render(&history, &accounts, &context);
        assert!(text.ends_with("-- kept by the entry /etc (bind, store state)\n"), "{text}");
    }
}
