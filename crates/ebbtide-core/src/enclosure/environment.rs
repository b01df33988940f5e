//! What a program in a root in namespaces is told by its environment.

use std::ffi::{OsStr, OsString};

/// Names of services outside, which can't be reached, and of files of theirs, which are not there.
const OUTSIDE: [&str; 16] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DISPLAY",
    "GPG_AGENT_INFO",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "SSH_AUTH_SOCK",
    "SSH_TTY",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
];

/// The environment inside, made from the one outside. `name`: what a prompt calls the place.
pub fn environment(
    name: &str,
    outside: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let outside = outside.into_iter();
    let mut inside: Vec<_> =
        outside.filter(|(name, _)| !OUTSIDE.iter().any(|it| name == OsStr::new(it))).collect();
    // The shells of Debian and its kin show it in their prompt; others ignore it.
    if !inside.iter().any(|(name, _)| name == OsStr::new("debian_chroot")) {
        inside.push(("debian_chroot".into(), name.into()));
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_outside_are_not_named() {
        let outside = [("HOME", "/root"), ("SSH_AUTH_SOCK", "/tmp/x"), ("TERM", "vt100")];
        let inside = environment("try", outside.map(|(name, value)| (name.into(), value.into())));
        let inside: Vec<_> =
            inside.iter().map(|(name, value)| (name.to_str(), value.to_str())).collect();
        let expected = [("HOME", "/root"), ("TERM", "vt100"), ("debian_chroot", "try")];
        assert_eq!(inside, expected.map(|(name, value)| (Some(name), Some(value))));
    }
}
