//! What tried to write to a root that is not for writing: so that a person knows what to declare.
//!
//! The kernel notes it under a key (`ebbtide internal audit`). The notes are in the journal, or in the
//! log of auditd. They tell of every EROFS: also of a service that its own unit keeps from writing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use serde_json::Value;

use crate::failure::{Context, Result};

/// The key of the notes.
pub const KEY: &str = "ebbtide-erofs";

/// How many are listed.
const LISTED: usize = 20;
/// How many records of the journal are read, newest first.
const RECORDS: u32 = 20_000;
/// How many bytes of auditd's log are read, from its end.
const TAIL: u64 = 8 << 20;
const LOG: &str = "var/log/audit/audit.log";

/// Writes that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Refused {
    /// The program.
    pub program: PathBuf,
    /// Where it tried to write.
    pub path: PathBuf,
    /// How often.
    pub count: usize,
}

/// Asks the kernel to note such writes from now on.
pub fn note() -> Result<()> {
    ebbtide_sys::audit::note_failures(rustix::io::Errno::ROFS, KEY)
        .context(|| "cannot have the kernel note what tries to write to the root")
}

/// Reads what was noted in this boot, the most frequent first. `up`: seconds since 1970 when it began.
pub fn refused(sysroot: &Path, up: u64) -> Vec<Refused> {
    let mut events = Events::default();
    if let Ok(mut log) = std::fs::File::open(sysroot.join(LOG)) {
        let length = log.metadata().map_or(0, |found| found.len());
        let mut text = Vec::new();
        let read = log
            .seek(SeekFrom::Start(length.saturating_sub(TAIL)))
            .and_then(|_| log.take(TAIL).read_to_end(&mut text));
        if read.is_ok() {
            events.add_log(&text, up);
        }
    }
    // With auditd, both may have it: then it counts once, by its number.
    let journal = Command::new("journalctl")
        .args(["--boot", "--output=json", "--no-pager", "--quiet"])
        .arg(format!("--lines={RECORDS}"))
        .arg("_TRANSPORT=audit")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    if let Ok(journal) = journal {
        events.add_journal(&journal.stdout);
    }
    events.list()
}

/// Records by the number of their event.
#[derive(Debug, Default)]
struct Events {
    by_number: BTreeMap<u64, Event>,
}

#[derive(Debug, Default)]
struct Event {
    program: Option<Vec<u8>>,
    directory: Option<Vec<u8>>,
    /// What was to be written; the directory that it lies in, if nothing else is known.
    target: Option<Vec<u8>>,
    parent: Option<Vec<u8>>,
}

impl Events {
    /// Adds lines of `journalctl --output=json`.
    fn add_journal(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            let Ok(Value::Object(record)) = serde_json::from_slice::<Value>(line) else { continue };
            let number = record.get("_AUDIT_ID").and_then(Value::as_str);
            let number = number.and_then(|number| number.parse().ok());
            let (Some(number), Some(message)) = (number, record.get("MESSAGE").and_then(bytes))
            else {
                continue;
            };
            let mut parts = message.splitn(2, |byte| *byte == b' ');
            if let (Some(kind), Some(fields)) = (parts.next(), parts.next()) {
                self.add(number, kind, fields);
            }
        }
    }

    /// Adds lines of auditd, `type=KIND msg=audit(SECONDS.MILLISECONDS:NUMBER): FIELDS`.
    fn add_log(&mut self, lines: &[u8], since: u64) {
        for line in lines.split(|byte| *byte == b'\n') {
            // What auditd adds for people is behind a separator.
            let line = line.split(|byte| *byte == 0x1d).next().unwrap_or(line);
            let Some(rest) = line.strip_prefix(b"type=") else { continue };
            let mut parts = rest.splitn(3, |byte| *byte == b' ');
            let (Some(kind), Some(stamp), Some(fields)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if let Some((seconds, number)) = stamp_of(stamp)
                && seconds >= since
            {
                self.add(number, kind, fields);
            }
        }
    }

    fn add(&mut self, number: u64, kind: &[u8], fields: &[u8]) {
        let fields = fields_of(fields);
        let value = |name: &str| fields.get(name.as_bytes()).map(|value| decode(value));
        let event = self.by_number.entry(number).or_default();
        match kind {
            b"SYSCALL" => {
                let ours = value("key").is_some_and(|key| key == KEY.as_bytes());
                let exit = fields.get(&b"exit"[..]).copied();
                if ours && exit.is_none_or(|exit| exit == b"-30" || exit == b"EROFS") {
                    event.program = value("exe").or_else(|| value("comm"));
                }
            }
            b"CWD" => event.directory = value("cwd"),
            b"PATH" => {
                let name = value("name").filter(|name| name != b"(null)");
                let is_parent = value("nametype").is_some_and(|it| it == b"PARENT");
                let place = if is_parent { &mut event.parent } else { &mut event.target };
                *place = name.or(place.take());
            }
            _ => {}
        }
    }

    fn list(self) -> Vec<Refused> {
        let mut counts: BTreeMap<(PathBuf, PathBuf), usize> = BTreeMap::new();
        for event in self.by_number.into_values() {
            let (Some(program), Some(path)) = (event.program, event.target.or(event.parent)) else {
                continue;
            };
            let directory = PathBuf::from(OsStr::from_bytes(&event.directory.unwrap_or_default()));
            let path = directory.join(OsStr::from_bytes(&path));
            let program = PathBuf::from(std::ffi::OsString::from_vec(program));
            *counts.entry((program, path)).or_default() += 1;
        }
        let listed = counts.into_iter();
        let mut listed: Vec<_> =
            listed.map(|((program, path), count)| Refused { program, path, count }).collect();
        listed.sort_by_key(|it| std::cmp::Reverse(it.count));
        listed.truncate(LISTED);
        listed
    }
}

/// A string, or an array of bytes if it is not UTF-8 (systemd's journal export).
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(all) => {
            all.iter().map(|byte| byte.as_u64().and_then(|it| u8::try_from(it).ok())).collect()
        }
        _ => None,
    }
}

/// The seconds and the number in `msg=audit(1700000000.123:456):`.
fn stamp_of(stamp: &[u8]) -> Option<(u64, u64)> {
    let stamp = std::str::from_utf8(stamp).ok()?.strip_prefix("msg=audit(")?;
    let (time, number) = stamp.strip_suffix("):")?.split_once(':')?;
    Some((time.split('.').next()?.parse().ok()?, number.parse().ok()?))
}

/// No value has a space in it: the kernel writes one that would as hexadecimal digits.
fn fields_of(fields: &[u8]) -> BTreeMap<&[u8], &[u8]> {
    let words = fields.split(|byte| *byte == b' ');
    let split = |word: &'_ [u8]| word.iter().position(|byte| *byte == b'=');
    words.filter_map(|word| split(word).map(|at| (&word[..at], &word[at + 1..]))).collect()
}

/// A text in quotes, or in hexadecimal digits.
fn decode(value: &[u8]) -> Vec<u8> {
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    if let Some(quoted) = quoted {
        return quoted.to_vec();
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let pairs = value.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>().filter(|it| !it.is_empty()).unwrap_or_else(|| value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(events: Events) -> Vec<(String, String, usize)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let all = events.list();
        all.iter().map(|it| (text(&it.program), text(&it.path), it.count)).collect()
    }

    #[test]
    fn the_journal_tells_who_wrote_where() {
        let record = |id: u64, message: &str| {
            serde_json::json!({ "_TRANSPORT": "audit", "_AUDIT_ID": id.to_string(), "MESSAGE": message })
                .to_string()
        };
        let syscall = |id, exe: &str, key: &str| {
            record(
                id,
                &format!(
                    "SYSCALL arch=c000003e syscall=257 success=no exit=-30 a0=ffffff9c a1=7ffd a2=941 a3=1b6 items=2 ppid=1 pid=77 auid=4294967295 uid=0 gid=0 tty=(none) ses=4294967295 comm=\"touch\" exe={exe} subj=unconfined key={key}"
                ),
            )
        };
        let lines = [
            "not JSON".to_owned(),
            syscall(1, "\"/usr/bin/touch\"", "\"ebbtide-erofs\""),
            record(1, "CWD cwd=\"/root\""),
            record(1, "PATH item=0 name=\"/etc/\" inode=2 dev=00:17 mode=040755 nametype=PARENT"),
            // "/etc/my file" in hexadecimal digits, because of the space.
            record(1, "PATH item=1 name=2F6574632F6D792066696C65 nametype=CREATE cap_fp=0"),
            record(1, "PROCTITLE proctitle=746F756368"),
            syscall(2, "\"/usr/bin/touch\"", "\"ebbtide-erofs\""),
            record(2, "CWD cwd=\"/root\""),
            record(2, "PATH item=0 name=\"notes\" nametype=NORMAL"),
            syscall(3, "\"/usr/bin/touch\"", "\"ebbtide-erofs\""),
            record(3, "CWD cwd=\"/root\""),
            record(3, "PATH item=0 name=\"notes\" nametype=NORMAL"),
            // Of another rule.
            syscall(4, "\"/usr/bin/vi\"", "\"mine\""),
            record(4, "PATH item=0 name=\"/etc/passwd\" nametype=NORMAL"),
            // A program with a space in its name, and a path of which only the directory is known.
            syscall(5, "2F6F70742F6120622F63", "\"ebbtide-erofs\""),
            record(5, "PATH item=0 name=\"/var/\" nametype=PARENT"),
            record(5, "PATH item=1 name=(null) nametype=CREATE"),
            // Not UTF-8: an array of bytes.
            syscall(6, "\"/bin/x\"", "\"ebbtide-erofs\""),
            "{\"_AUDIT_ID\":\"6\",\"MESSAGE\":[80,65,84,72,32,110,97,109,101,61,70,70]}".to_owned(),
        ];
        let mut events = Events::default();
        events.add_journal(lines.join("\n").as_bytes());
        let expected = [
            ("/usr/bin/touch", "/root/notes", 2),
            ("/bin/x", "\u{fffd}", 1),
            ("/opt/a b/c", "/var/", 1),
            ("/usr/bin/touch", "/etc/my file", 1),
        ];
        let expected = expected.map(|(program, path, count)| (program.into(), path.into(), count));
        assert_eq!(found(events), expected);
    }

    #[test]
    fn the_log_of_auditd_tells_the_same_of_this_boot() {
        let log = "type=SYSCALL msg=audit(1700000001.123:8): arch=c000003e exit=-30 exe=\"/usr/sbin/cron\" key=\"ebbtide-erofs\"\u{1d}ARCH=x86_64 SYSCALL=openat\n\
            type=PATH msg=audit(1700000001.123:8): item=0 name=\"/var/spool/x\" nametype=CREATE\u{1d}OUID=\"root\"\n\
            type=SYSCALL msg=audit(1600000000.000:3): exit=-30 exe=\"/old\" key=\"ebbtide-erofs\"\n\
            type=PATH msg=audit(1600000000.000:3): item=0 name=\"/old\" nametype=NORMAL\n\
            type=SYSCALL msg=audit(broken): key=\"ebbtide-erofs\"\ngarbage\n";
        let mut events = Events::default();
        events.add_log(log.as_bytes(), 1_700_000_000);
        assert_eq!(found(events), [("/usr/sbin/cron".to_owned(), "/var/spool/x".to_owned(), 1)]);
    }

    #[test]
    fn the_list_is_short() {
        let mut events = Events::default();
        for number in 0..100 {
            let syscall = format!("exit=-30 exe=\"/bin/{number}\" key=\"{KEY}\"");
            events.add(number, b"SYSCALL", syscall.as_bytes());
            events.add(number, b"PATH", b"name=\"/x\" nametype=NORMAL");
        }
        assert_eq!(events.list().len(), LISTED);
    }
}
