//! `ebbtide forget --move-back`: the data come back to the root, and the store's own go to its trash.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ebbtide_core::boot::{Boot, LOCATOR, RUN};
use ebbtide_core::declaration::{Declaration, Target};
use ebbtide_core::live::{Back, How as HowBack, Live};
use ebbtide_core::status;
use ebbtide_sys::escape;

use super::super::apply::{Done, How, Prepared};
use super::super::declare::{bring, write};
use super::super::machine;
use super::super::status::render_problem;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::size;

/// The running system, from whose stores something is moved.
pub struct Mover {
    boot: Boot,
    live: Live,
    paths: Vec<PathBuf>,
    /// What is going to be done.
    pub plan: Vec<Back>,
}

impl Mover {
    /// Looks whether that can be done; changes nothing.
    pub fn new(paths: Vec<PathBuf>, context: &Context) -> Result<Self, CommandError> {
        let cannot = |why: String| {
            CommandError::new(Kind::Failed, "cannot move anything back to the root")
                .cause(why)
                .hint("without `--move-back` the data stay in the store")
        };
        if !std::path::Path::new(RUN).join(LOCATOR).exists() {
            return Err(cannot("this root was not made by Ebbtide".to_owned()));
        }
        let boot = machine::running(None, context)?;
        let container = boot.open_container()?;
        let (_, compiled) = status::declaration(&boot, &container)?;
        let live = Live::open(&boot, &context.sysroot, &compiled, None)?.map_err(cannot)?;
        let plan = live.plan_back(&paths)?;
        Ok(Self { boot, live, paths, plan })
    }

    /// How the declaration comes into force beside that.
    pub fn how(&self, dry_run: bool) -> How {
        let moved_back = self.plan.iter().filter(|it| it.how != HowBack::Nothing);
        How {
            dry_run,
            moved_back: moved_back.map(|it| it.path.clone()).collect(),
            ..How::default()
        }
    }

    /// Moves, brings the declaration without the entries into force, and only then touches the stores.
    pub fn apply(
        self,
        declaration: &Declaration,
        files: &[(Target, String)],
        context: &Context,
    ) -> Result<(Done, Vec<Back>), CommandError> {
        let prepared = Prepared::new(declaration, self.how(false), context)?;
        let moved = self.live.move_back(&self.paths, &mut |_| Ok(()))?;
        let published = match write(prepared, files) {
            Ok(published) => published,
            Err(error) => {
                let problems = moved.undo(&self.live);
                let told = |error: CommandError, problem: &ebbtide_core::failure::Problem| {
                    error.hint(problem.to_string())
                };
                return Err(problems.iter().fold(error, told));
            }
        };
        let mut done = bring(published).map_err(|error| {
            error.hint(
                "the data are on the root, and in the store as well, which no entry keeps there",
            )
        })?;
        let (backs, problems) = moved.finish(&self.live, &self.boot, &mut |_| Ok(()))?;
        for problem in &problems {
            let _ = writeln!(done.text, "{}", render_problem(problem, context));
        }
        if !problems.is_empty() {
            done.status = Status::FAILED;
        }
        Ok((done, backs))
    }
}

/// For people: what was done, or with `dry_run` would be.
pub fn render(backs: &[Back], dry_run: bool, context: &Context) -> String {
    let mut text = String::new();
    let sign = context.dim("~");
    for back in backs {
        let path = escape(back.path.as_os_str().as_bytes());
        let (store, bytes) = (&back.store, size(back.bytes));
        let _ = match back.how {
            HowBack::Nothing => writeln!(text, "{sign} {path} has no data yet"),
            HowBack::Copied if dry_run => {
                writeln!(text, "{sign} {path} comes back to the root from store {store}, {bytes}")
            }
            HowBack::Copied => {
                writeln!(text, "{sign} {path} is back on the root as plain files, {bytes}")
            }
            HowBack::InPlace => writeln!(text, "{sign} {path} stays on the root, {bytes}"),
        };
        if !back.unprivileged.is_empty() {
            let without = back.unprivileged.join(", ");
            let _ = writeln!(
                text,
                "  without privileges that had no effect there, or left out: {without}"
            );
        }
        if let Some(trash) = &back.trash {
            let trash = escape(trash.as_os_str().as_bytes());
            let _ = writeln!(text, "  what store {store} had is in its {trash}");
        } else if dry_run && back.how != HowBack::Nothing {
            let _ = writeln!(text, "  what store {store} has goes to its trash");
        }
    }
    if backs.iter().any(|back| back.how != HowBack::Nothing) {
        text += "the next reset takes away what is on the root\n";
    }
    text
}
