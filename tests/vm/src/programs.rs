//! Real programs that write to kept files, in the ways in which programs do: most of them replace a
//! file by renaming another one over it.

/// Uses them, in a system with a user alice, whose home is ephemeral.
pub const USE: &str = include_str!("programs.sh");

/// What holds after a boot, each by itself.
pub const KEPT: &[&str] = &[
    "grep -q replaced /etc/hosts",
    "getent passwd bob && getent shadow bob && getent group bob",
    "getent shadow alice | cut -d: -f2 | grep -q '^[$]'",
    "grep -q 'of alice' /home/alice/Documents/letter",
    "grep -q 'of bob' /home/bob/Documents/letter",
    "runuser -u alice -- git config --global user.name | grep -qx 'Alice again'",
    "grep -q two /home/alice/.ssh/known_hosts && ! grep -q one /home/alice/.ssh/known_hosts",
    "grep -q 'and renamed' /home/alice/.bash_history",
    "test \"$(stat -c %U:%G:%a /home/alice /home/bob | tr '\\n' ' ')\" = 'alice:alice:700 bob:bob:700 '",
    "test \"$(stat -c %U:%G:%a /home/bob/Documents)\" = bob:bob:755",
    "! test -e /home/alice/stray",
    "test -L /etc/linked.conf && grep -q linked /etc/linked.conf",
    "findmnt --mountpoint /etc/mounted.conf && grep -q mounted /etc/mounted.conf",
];
