//! `ebbtide review`: the changes of `diff` one at a time, with a decision about each.

mod answers;
mod show;
mod walk;

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::changes::Group;
use ebbtide_core::diff::{Diff, Which};
use ebbtide_core::pattern;
use ebbtide_sys::escape;

use self::answers::{Answer, Answers};
use self::walk::{Decision, Walk};
use super::declare::absolute;
use super::diff::{Told, is_asked_for};
use super::{ignore, keep, machine};
use crate::changes;
use crate::changes::hidden::Hidden;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::count;

const KEYS: &str = "\
k  keep it, now and at every boot          i  ignore it: it is not told again
p  keep the directory that it is in        I  ignore what a pattern describes
o  open a directory: decide one by one     v  view it: what is below it, or how it begins
s  skip it: decide nothing                 b  back to the one before
q  end here                                ?  this list
";

/// Decides about changes one at a time: keep, ignore, or neither
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Tells what `ebbtide diff` tells, in the same groups, and asks about each. A key answers:

  k  keep it, now and at every boot
  p  keep the directory that it is in
  i  ignore it: it is not told again
  I  ignore what a pattern describes
  o  open a directory: decide about what is in it one by one
  s  skip it: decide nothing
  v  view it: what is below it, or how it begins
  b  back to the one before
  q  end here

Nothing is written before the end. Then all decisions are shown, and y does what `ebbtide keep` and
`ebbtide ignore` do, in one go; any other key writes nothing. After q it is the same with what was
decided so far. Interrupted, or when answers end before that y, it writes nothing.

Where standard input is no terminal, each line of it is an answer, a key or its word: keep, parent,
open, skip, ignore, pattern, view, back, quit. The pattern of I is on the same line or on the next one.
An answer that makes no sense ends it, with nothing written.

Examples:
  sudo ebbtide review
  sudo ebbtide review --dry-run /etc /var/lib

  printf '%s\\n' keep 'I *.pyc' quit y | sudo ebbtide review

Exit status: 0 done, or nothing is to be done; 1 failed, or the answers ended early; 2 wrong command
line, declaration or answer; 130 interrupted.")]
pub struct Args {
    /// Only what is at these paths or below them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Ask about caches, locks and the like too, and what is ignored
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    told: Told,
    /// Show what would be written and done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// How the questions ended.
enum End {
    /// All are answered, or it was asked to end.
    Asked,
    /// Nothing is to be written.
    Left(Result<Status, CommandError>),
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let paths = args.paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let boot = machine::running(None, context)?;
    let diff = Diff::open(&boot, &context.sysroot, Which::Running)?;
    let mut hidden = if args.all { Hidden::nothing() } else { Hidden::as_declared(None, context) };
    let mut all = Vec::new();
    let mut add = |change| all.push(change);
    diff.each(&mut |change| {
        if is_asked_for(&change, &paths) && !diff.about.is_carried(&change) {
            hidden.sift(change, &mut add);
        }
    })?;
    hidden.finish(&mut add);
    if all.is_empty() {
        let text = "nothing was changed that the next reset takes away\n".to_owned();
        context.print(&(text + &hidden.line()))?;
        return Ok(Status::DONE);
    }
    let walk = Walk::new(all, args.told.lines.max(1), args.told.order());
    let mut review = Review { walk, answers: Answers::of_standard_input(), context };
    if review.answers.are_typed() {
        context.print(&format!("the next reset takes away, unless it is kept:\n{KEYS}"))?;
    }
    match review.ask_all().map_err(|error| error.hint("nothing was written"))? {
        End::Asked => review.end(args),
        End::Left(status) => {
            context.print("\nnothing was written\n")?;
            status
        }
    }
}

struct Review<'c> {
    walk: Walk,
    answers: Answers,
    context: &'c Context,
}

impl Review<'_> {
    /// Asks about one group after the other.
    fn ask_all(&mut self) -> Result<End, CommandError> {
        while let Some(group) = self.walk.current() {
            let (place, all) = self.walk.place();
            let place = format!("{place}/{all}  ");
            let line = changes::line(&group, place.len(), self.context);
            self.context.print(&format!("\n{place}{line}\n"))?;
            self.prompt("k p i I o s v b q ? > ")?;
            let text = match self.answers.key()? {
                Answer::Text(text) => text,
                other => return Ok(End::Left(left(&other))),
            };
            let text = text.trim();
            let (key, more) = text.split_once(' ').unwrap_or((text, ""));
            let done = match key {
                "q" | "quit" => {
                    self.say("quit")?;
                    return Ok(End::Asked);
                }
                "k" | "keep" => self.keep(&group, &group.path),
                "p" | "parent" => self.keep_parent(&group),
                "i" | "ignore" => self.ignore(&group),
                "I" | "pattern" => {
                    let pattern = match self.pattern(more)? {
                        Answer::Text(pattern) => pattern,
                        other => return Ok(End::Left(left(&other))),
                    };
                    self.ignore_pattern(pattern.trim())
                }
                "o" | "open" => self.open(),
                "s" | "skip" => {
                    self.say("skip")?;
                    self.walk.decide(Decision::Skip);
                    Ok(())
                }
                "v" | "view" => {
                    self.say("view")?;
                    let changes = self.walk.changes();
                    self.context.print(&show::show(&group, &changes, self.context))?;
                    Ok(())
                }
                "b" | "back" => {
                    self.say("back")?;
                    if self.walk.back() {
                        Ok(())
                    } else {
                        Err(wrong("cannot go back: nothing was decided before"))
                    }
                }
                "?" | "help" => {
                    self.say("")?;
                    self.context.print(KEYS)?;
                    Ok(())
                }
                other => {
                    self.say("")?;
                    Err(wrong(format!("cannot understand the answer {}", shown(other)))
                        .hint("one of k p i I o s v b q ?"))
                }
            };
            match done {
                // A person can answer again; a script goes on from something else than it thinks.
                Err(error) if self.answers.are_typed() => error.print(self.context.color_err()),
                done => done?,
            }
        }
        Ok(End::Asked)
    }

    fn keep(&mut self, group: &Group, path: &Path) -> Result<(), CommandError> {
        let name = shown_path(path);
        self.say(&format!("keep {name}"))?;
        if path == group.path && !group.below && group.change == Some("deleted") {
            return Err(wrong(format!("cannot keep {name}: it was deleted"))
                .cause("the next boot has it again, from the base")
                .hint("p keeps the directory that it was in, as that is now"));
        }
        let mut paths = self.kept();
        paths.push(path.to_owned());
        keep::verify(paths, self.context)?;
        self.walk.decide(Decision::Keep(path.to_owned()));
        Ok(())
    }

    fn keep_parent(&mut self, group: &Group) -> Result<(), CommandError> {
        match group.path.parent() {
            Some(parent) if parent != Path::new("/") => self.keep(group, parent),
            _ => {
                self.say("parent")?;
                Err(wrong("cannot keep the root itself"))
            }
        }
    }

    fn ignore(&mut self, group: &Group) -> Result<(), CommandError> {
        self.say(&format!("ignore {}", shown_path(&group.path)))?;
        let path = group.path.to_str().ok_or_else(|| {
            wrong("cannot ignore it: it is not UTF-8, as TOML has to be")
                .hint("I takes a pattern: `?` for each such byte")
        })?;
        self.ignore_all_of(&pattern::literal(path))
    }

    fn pattern(&mut self, given: &str) -> Result<Answer, CommandError> {
        if !given.is_empty() {
            return Ok(Answer::Text(given.to_owned()));
        }
        if self.answers.are_typed() {
            self.context.print("pattern: ")?;
        }
        self.answers.line()
    }

    fn ignore_pattern(&mut self, typed: &str) -> Result<(), CommandError> {
        if !self.answers.are_typed() {
            self.say(&format!("ignore {}", shown(typed)))?;
        }
        self.ignore_all_of(typed)
    }

    fn ignore_all_of(&mut self, typed: &str) -> Result<(), CommandError> {
        let pattern = ignore::wanted(Path::new(typed))?;
        let changes = self.walk.changes();
        if !changes.iter().any(|change| pattern::covers(&pattern, &change.path)) {
            return Err(wrong(format!("{} describes nothing of it", shown(typed)))
                .hint("a pattern is a whole path, or a name as in *.pyc or **/NAME"));
        }
        let sources = crate::declaration::read(self.context, None)?;
        let plan = ignore::planned(std::slice::from_ref(&pattern), &sources, self.context)?;
        let already = ignore::already(&plan);
        self.context.print(&already)?;
        self.walk.decide(if already.is_empty() {
            Decision::Ignore(pattern)
        } else {
            Decision::Skip
        });
        Ok(())
    }

    fn open(&mut self) -> Result<(), CommandError> {
        self.say("open")?;
        if self.walk.open() {
            return Ok(());
        }
        Err(wrong("cannot tell it apart: it is one change, or too many")
            .hint("`ebbtide review PATH` looks at what is below a path"))
    }

    /// Shows what was decided, and does it if that is confirmed.
    fn end(&mut self, args: &Args) -> Result<Status, CommandError> {
        let kept = self.kept();
        let ignored: Vec<PathBuf> = self
            .walk
            .decisions()
            .filter_map(|decision| match decision {
                Decision::Ignore(pattern) => Some(pattern.clone()),
                Decision::Keep(_) | Decision::Skip => None,
            })
            .collect();
        let mut text = "\n".to_owned();
        for path in &kept {
            let _ = writeln!(text, "keep    {}", shown_path(path));
        }
        for pattern in &ignored {
            let _ = writeln!(text, "ignore  {}", ignore::shown(pattern));
        }
        let rest = self.walk.undecided();
        if rest > 0 {
            let _ = writeln!(text, "{rest} left as {}", it_is(rest));
        }
        if self.walk.more > 0 {
            let more = usize::try_from(self.walk.more).unwrap_or(usize::MAX);
            let _ =
                writeln!(text, "{} besides: --lines or a PATH tells more", count(more, "group"));
        }
        if kept.is_empty() && ignored.is_empty() {
            text += "nothing is to be done\n";
            self.context.print(&text)?;
            return Ok(Status::DONE);
        }
        self.context.print(&text)?;
        if !args.dry_run {
            self.prompt("do this? [y/N] ")?;
            let mut answer = self.answers.key()?;
            // A script can't know whether all was decided before it ends.
            let ends = matches!(&answer, Answer::Text(text) if matches!(text.trim(), "q" | "quit"));
            if ends && rest == 0 && !self.answers.are_typed() {
                answer = self.answers.key()?;
            }
            match answer {
                Answer::Text(text) if matches!(text.trim(), "y" | "Y" | "yes") => {
                    self.say("yes")?;
                }
                Answer::Text(_) => {
                    self.say("no")?;
                    self.context.print("nothing was written\n")?;
                    return Ok(Status::DONE);
                }
                other => {
                    self.context.print("\nnothing was written\n")?;
                    return left(&other);
                }
            }
        }
        if kept.is_empty() {
            ignore::run(&ignore::Args::of(ignored, args.dry_run), self.context)
        } else {
            keep::run(&keep::Args::reviewed(kept, ignored, args.dry_run), self.context)
        }
    }

    fn kept(&self) -> Vec<PathBuf> {
        let kept = self.walk.decisions().filter_map(|decision| match decision {
            Decision::Keep(path) => Some(path.clone()),
            Decision::Ignore(_) | Decision::Skip => None,
        });
        kept.collect()
    }

    /// Asks a person.
    fn prompt(&self, text: &str) -> Result<(), CommandError> {
        if self.answers.are_typed() { self.context.print(text) } else { Ok(()) }
    }

    /// Repeats what a key was taken for.
    fn say(&self, text: &str) -> Result<(), CommandError> {
        self.context.print(&format!("{text}\n"))
    }
}

/// The status of somebody who left without an answer.
fn left(answer: &Answer) -> Result<Status, CommandError> {
    match answer {
        Answer::Signal(signal) => {
            Ok(Status::of_signal(u8::try_from(signal.as_raw()).unwrap_or(u8::MAX)))
        }
        Answer::End | Answer::Text(_) => {
            Err(CommandError::new(Kind::Failed, "the answers ended before it was confirmed")
                .hint("after the last decision, or after q, y does what was decided"))
        }
    }
}

fn it_is(number: usize) -> &'static str {
    if number == 1 { "it is" } else { "they are" }
}

fn wrong(message: impl Into<String>) -> CommandError {
    CommandError::new(Kind::Usage, message)
}

fn shown_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

fn shown(text: &str) -> String {
    escape(text.as_bytes())
}
