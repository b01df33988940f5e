//! What only the running machine shows of its declaration.

use std::path::{Path, PathBuf};

use ebbtide_core::boot::{Boot, LOCATOR, RUN};
use ebbtide_core::declaration::{Outcome, Surroundings};
use ebbtide_core::inspection::{Inspection, inspect};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::text::printable;

/// Whether the running machine was looked at.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Looked {
    /// Whether that could be done.
    done: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Directories of which only the beginning was looked at, escaped.
    stopped: Vec<String>,
}

/// Looks at the machine, and adds what is wrong to the other problems. `None` where there is none.
pub fn look(
    outcome: &mut Outcome,
    surroundings: &Surroundings,
    context: &Context,
) -> Option<Looked> {
    let run = PathBuf::from(RUN);
    let locator = run.join(LOCATOR);
    if !locator.exists() {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        return Some(Looked::not("only root may look at the stores".to_owned()));
    }
    let found = Boot::read(&locator, run, None)
        .and_then(|boot| inspect(&boot, &context.sysroot, outcome, surroundings));
    match found {
        Ok(found) => {
            let Inspection { problems, stopped } = found?;
            outcome.problems.extend(problems);
            outcome.problems.sort_by_key(|problem| (problem.mark.file, problem.mark.span.start));
            let shown = |path: &PathBuf| shown(path);
            Some(Looked { done: true, why: None, stopped: stopped.iter().map(shown).collect() })
        }
        Err(failure) => Some(Looked::not(failure.chain())),
    }
}

impl Looked {
    fn not(why: String) -> Self {
        Self { done: false, why: Some(why), stopped: Vec::new() }
    }

    /// Tells a person what was not looked at.
    pub fn tell(&self, context: &Context) {
        if let Some(why) = &self.why {
            context.tell(&format!(
                "what only the running system shows was not looked at: {}",
                printable(why)
            ));
        }
        for path in &self.stopped {
            context.tell(&format!("{path} is large: only its beginning was looked at for secrets"));
        }
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
