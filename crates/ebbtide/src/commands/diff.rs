//! `ebbtide diff`: what the next reset takes away, or an earlier one took.

mod content;
pub mod kept;
mod report;

use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};
use ebbtide_core::applications::{Application, Applications, Grouped, has_packages};
use ebbtide_core::changes::{Change, Changes, Order, Tally, Visit, What};
use ebbtide_core::declaration::{Surroundings, built_in_presets};
use ebbtide_core::diff::{About, Diff, Sides, Which};

pub use self::report::Json;
use self::report::Report;
use super::declare::absolute;
use super::machine;
use crate::boot_name::BootOrRange;
use crate::changes::hidden::Hidden;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::user::wire::{Answer, Ask};
use crate::user::{self, ask};

/// Lists what the next reset takes away
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Compares the root with the base that it was made from. What is declared is kept, and so is no
change; nor is what is mounted on the root. A line tells a path, or a directory by all that
changed in it: + is new, - deleted, ~ changed or mixed. Sizes are those of new and changed files.
What is made again by itself, such as caches and locks, and what the declaration ignores, is only
counted, unless it is asked for. What `ebbtide keep --once` carries over is told as such.
What a preset names, or what an installed package has, stands below it.

Examples:
  sudo ebbtide diff
  sudo ebbtide diff /etc /var/lib

  What takes most room, as a tree:
    sudo ebbtide diff --sort biggest --tree

  What the last reset took away, to bring some of it back:
    sudo ebbtide diff --boot last

  What is different in a file, and what changed since an earlier boot:
    sudo ebbtide diff --content /etc/hosts
    sudo ebbtide diff --boot 3..7 /etc

  What the next reset keeps, and how much that is:
    sudo ebbtide diff --kept

  Save what is there still, for a look at it later:
    sudo ebbtide diff -0 | sudo tar --null --no-recursion -cf lost.tar -T -

Of a past root, a path counts as kept if it was mounted there, or if it is copied or linked into
roots as it is declared now. Two roots are compared without what was kept in either of the boots. In
what `--content` shows, what a terminal would interpret is escaped. `--kept` adds up what the stores have;
of more than 500,000 files in one entry, those are all that is looked at. Without root, users are told the
changes that are theirs; `--content` and `--kept` are for root.

Exit status: 0 nothing is taken away or different, or `--kept`; 3 something is; 1 it could not be found
out; 2 wrong command line or declaration.")]
#[expect(clippy::struct_excessive_bools, reason = "the options of a command")]
pub struct Args {
    /// Only what is at these paths or below them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The root of this boot, and what the reset after it took away; `last`: the newest past root;
    /// `N..M`: what is different in boot M's root since boot N, `N..`: in the running one
    #[arg(long, value_name = "BOOT")]
    boot: Option<BootOrRange>,
    /// Show what is different in these files, line by line
    #[arg(
        long,
        requires = "paths",
        conflicts_with_all = ["all", "sort", "lines", "tree", "json", "null"]
    )]
    content: bool,
    /// List what the next reset keeps instead, and how much that is
    #[arg(
        long,
        conflicts_with_all = ["boot", "content", "all", "sort", "lines", "tree", "null"]
    )]
    kept: bool,
    /// List caches, locks and the like too, and what is ignored
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    told: Told,
    /// Print a tree of directories, with each path that changed
    #[arg(long, conflicts_with = "lines")]
    tree: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["tree", "null"])]
    json: bool,
    /// Print each path that is there, and a NUL after it; what was deleted is left out
    #[arg(short = '0', long = "null", conflicts_with = "tree")]
    null: bool,
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How changes are told.
#[derive(Debug, ClapArgs)]
pub(super) struct Told {
    /// What comes first: newest or biggest
    #[arg(
        long,
        value_name = "ORDER",
        value_enum,
        default_value_t = Sort::Newest,
        hide_possible_values = true
    )]
    sort: Sort,
    /// Tell it in this many lines at most
    #[arg(long, value_name = "NUMBER", default_value_t = 30)]
    pub(super) lines: usize,
}

impl Told {
    /// What comes first.
    pub(super) fn order(&self) -> Order {
        match self.sort {
            Sort::Newest => Order::Newest,
            Sort::Biggest => Order::Biggest,
        }
    }
}

/// What comes first.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    Newest,
    Biggest,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let paths = args.paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    if ask::is_possible(args.config.as_deref()) {
        return run_for_user(args, &paths, context);
    }
    let boot = machine::running(args.config.as_deref(), context).map_err(ask::or_turn_it_on)?;
    if args.kept {
        return kept::run(&boot, &paths, args.json, context);
    }
    let which = match args.boot {
        None => Which::Running,
        Some(name) => name.find(&boot.open_container()?)?,
    };
    if args.content {
        return content::run(&Sides::open(&boot, &context.sysroot, which)?, &paths, context);
    }
    let diff = Diff::open(&boot, &context.sysroot, which)?;
    tell(args, &paths, (&diff.about, Some(&diff)), &mut |visit| Ok(diff.each(visit)?), context)
}

/// Without root: the changes that are the user's.
fn run_for_user(args: &Args, paths: &[PathBuf], context: &Context) -> Result<Status, CommandError> {
    if args.kept || args.content {
        let what = if args.kept { "tell what is kept" } else { "compare the content of files" };
        return Err(user::needs_root(what));
    }
    let boot = args.boot.map(|boot| boot.to_string());
    let mut answers = ask::ask(Ask::Diff { boot })?;
    let Answer::Diff { about } = answers.next()? else { return Err(ask::unexpected()) };
    let mut each = |visit: &mut Visit<'_>| {
        loop {
            match answers.next()? {
                Answer::Change(change) => visit(change.change().ok_or_else(ask::unexpected)?),
                Answer::End { .. } => return Ok(()),
                _ => return Err(ask::unexpected()),
            }
        }
    };
    tell(args, paths, (&about, None), &mut each, context)
}

/// Tells the changes that `each` visits: of a root that was opened here, or by the service for users.
fn tell(
    args: &Args,
    paths: &[PathBuf],
    (about, diff): (&About, Option<&Diff>),
    each: &mut Each<'_>,
    context: &Context,
) -> Result<Status, CommandError> {
    let prepare = || {
        let surroundings = Surroundings::read(&context.sysroot);
        let hidden = if args.all || !paths.is_empty() {
            Hidden::nothing()
        } else {
            Hidden::declared_among(args.config.as_deref(), &surroundings, context)
        };
        let applications = applications(diff, surroundings.ok(), context);
        (hidden, Changes::default(), Found::new(args, applications))
    };
    // What decides which changes are told is read at the first one: threads look for more of them meanwhile.
    let mut by = None;
    each(&mut |change| {
        if !is_asked_for(&change, paths) {
            return;
        }
        let (hidden, carried, found) = by.get_or_insert_with(prepare);
        if about.is_carried(&change) {
            carried.add(&change);
        } else {
            hidden.sift(change, &mut |change| found.add(change));
        }
    })?;
    let (mut hidden, carried, mut found) = by.unwrap_or_else(prepare);
    hidden.finish(&mut |change| found.add(change));
    let found = found.finish()?;
    let report = Report {
        about,
        total: found.total(),
        changes: &found.changes,
        grouped: &found.grouped,
        hidden: &hidden,
        carried: carried.total(),
        list: &found.list,
        order: args.told.order(),
    };
    if args.json {
        context.print_json(&report.json())?;
    } else if !args.null {
        let text =
            if args.tree { report.tree(context) } else { report.text(args.told.lines, context) };
        context.print(&text)?;
    }
    let status = if found.count > 0 { Status::FOUND } else { Status::DONE };
    // The program ends here: taking large trees apart node by node would be for nothing.
    std::mem::forget((found, hidden, carried));
    Ok(status)
}

/// Where changes come from.
type Each<'a> = dyn FnMut(&mut Visit<'_>) -> Result<(), CommandError> + 'a;

/// What is told, added up in the ways that it is told in.
struct Found<'a> {
    args: &'a Args,
    applications: Applications,
    /// How many changes.
    count: u64,
    /// As a tree, and for a machine.
    changes: Changes,
    /// For a person, and for a machine.
    grouped: Grouped,
    /// One by one, for a machine.
    list: Vec<(Change, Option<Application>)>,
    out: io::BufWriter<io::Stdout>,
    written: io::Result<()>,
}

impl<'a> Found<'a> {
    fn new(args: &'a Args, applications: Applications) -> Self {
        Self {
            args,
            applications,
            count: 0,
            changes: Changes::default(),
            grouped: Grouped::default(),
            list: Vec::new(),
            out: io::BufWriter::new(io::stdout()),
            written: Ok(()),
        }
    }

    fn add(&mut self, change: Change) {
        let Args { tree, json, null, .. } = *self.args;
        self.count += 1;
        if null {
            if self.written.is_ok() && change.what != What::Deleted {
                let path = change.path.as_os_str().as_bytes();
                self.written = self.out.write_all(path).and_then(|()| self.out.write_all(b"\0"));
            }
            return;
        }
        if tree || json {
            self.changes.add(&change);
        }
        if !tree {
            let application = self.applications.of(&change.path);
            self.grouped.add(application.as_ref(), &change);
            if json {
                self.list.push((change, application));
            }
        }
    }

    /// Nothing more comes.
    fn finish(mut self) -> Result<Self, CommandError> {
        self.grouped.finish();
        let written = std::mem::replace(&mut self.written, Ok(()));
        done(written.and_then(|()| self.out.flush()))?;
        Ok(self)
    }

    fn total(&self) -> Tally {
        if self.args.tree { self.changes.total() } else { self.grouped.total() }
    }
}

/// The applications of this system; packages are those of the past root that is looked at, if it has a
/// database of its own.
fn applications(
    diff: Option<&Diff>,
    surroundings: Option<Surroundings>,
    context: &Context,
) -> Applications {
    // What is wrong with what this system has of presets is for `check` to tell.
    let presets = surroundings.map_or_else(built_in_presets, |around| around.presets);
    // By a name that a program has it by, too, that is asked for packages.
    let past = diff
        .and_then(Diff::past_root)
        .filter(|root| has_packages(*root))
        .map(|root| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), root.as_raw_fd())));
    Applications::new(&presets, past.as_deref().unwrap_or(&context.sysroot))
}

/// A reader that has seen enough is no failure.
fn done(result: io::Result<()>) -> Result<(), CommandError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::new(Kind::Failed, "cannot write to standard output")
                .cause(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// Whether a change is at one of these paths, below it, or takes what is there with it.
pub(super) fn is_asked_for(change: &Change, paths: &[PathBuf]) -> bool {
    let takes_it = |path: &Path| {
        matches!(change.what, What::Deleted | What::Renamed { .. })
            && path.starts_with(&change.path)
    };
    paths.is_empty() || paths.iter().any(|path| change.path.starts_with(path) || takes_it(path))
}

#[cfg(test)]
mod tests {
    use ebbtide_sys::metadata::FileKind;

    use super::*;

    #[test]
    fn a_path_is_asked_for_with_what_takes_it_away() {
        let change = |path: &str, what: What| Change {
            path: path.into(),
            what,
            kind: FileKind::Directory,
            bytes: 0,
            when: None,
        };
        let asked = |change: &Change, path: &str| is_asked_for(change, &[path.into()]);
        let new = change("/srv/app", What::Added);
        assert!(is_asked_for(&new, &[]));
        assert!(asked(&new, "/srv") && asked(&new, "/srv/app") && asked(&new, "/"));
        assert!(!asked(&new, "/srv/app/deep") && !asked(&new, "/srv/ap"));
        assert!(asked(&change("/srv/app", What::Deleted), "/srv/app/deep"));
    }
}
