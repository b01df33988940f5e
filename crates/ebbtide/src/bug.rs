//! What happens when the program itself is wrong.

use std::any::Any;
use std::panic::{self, PanicHookInfo, UnwindSafe};

use crate::error::{CommandError, Kind};
use crate::status::Status;

/// Runs the program; a panic is reported as a bug, with a status of its own.
pub fn caught(program: impl FnOnce() -> Status + UnwindSafe) -> Status {
    panic::set_hook(Box::new(report));
    panic::catch_unwind(program).unwrap_or(Status::BUG)
}

fn report(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
    let error = CommandError::new(Kind::Bug, format!("this is a bug in Ebbtide{place}"))
        .cause(message(info.payload()))
        .hint(concat!(
            "please report it, with `ebbtide --version` and what you did, at ",
            env!("CARGO_PKG_REPOSITORY"),
            "/issues"
        ));
    error.print(false);
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_has_a_status_of_its_own() {
        assert_eq!(caught(|| panic!("told to")), Status::BUG);
        assert_eq!(caught(|| Status::DONE), Status::DONE);
    }
}
