//! Reading typed values out of a TOML document, with every problem noted and reading going on.

use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use uuid::Uuid;

use super::file::{At, Place};
use super::path::{self, Fault};
use super::problem::{Problem, Severity, join, quote};
use crate::compiled::{DeviceSpec, Mode, Principal, StoreName};

pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A table whose keys are known to be known.
#[derive(Clone, Copy)]
pub(super) struct Table<'t, 'i>(&'t DeTable<'i>);

impl<'t, 'i> Table<'t, 'i> {
    pub(super) fn get(self, key: &str) -> Option<&'t Value<'i>> {
        self.0.get(key)
    }

    /// Keys with their spans, and values.
    pub(super) fn iter(
        self,
    ) -> impl Iterator<Item = (&'t Spanned<std::borrow::Cow<'i, str>>, &'t Value<'i>)> {
        self.0.iter()
    }

    /// The span of a key, which for a `[header]` is the name in it.
    pub(super) fn key_span(self, key: &str) -> Option<std::ops::Range<usize>> {
        self.0.get_key_value(key).map(|(key, _)| key.span())
    }
}

/// Reads one file and collects its problems.
pub(super) struct Reader<'p> {
    pub file: usize,
    pub problems: &'p mut Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place { file: self.file, span }
    }

    pub(super) fn at<T>(&self, value: &Value<'_>, inner: T) -> At<T> {
        At { value: inner, place: self.place(value.span()) }
    }

    pub(super) fn error(
        &mut self,
        span: std::ops::Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: Option<String>,
    ) {
        self.problems.push(Problem {
            severity: Severity::Error,
            message: message.into(),
            mark: self.place(span).mark(label),
            other: None,
            hint,
        });
    }

    /// Notes that a value has another type than it should.
    fn mismatch(&mut self, value: &Value<'_>, key: &str, expected: &str, hint: Option<String>) {
        let message = format!("{} must be {expected}, not {}", quote(key), type_of(value));
        self.error(value.span(), message, format!("expected {expected}"), hint);
    }

    /// Takes a value as a table, and notes keys that it does not have.
    pub(super) fn table<'t, 'i>(
        &mut self,
        value: &'t Value<'i>,
        name: &str,
        known: &[&str],
    ) -> Option<Table<'t, 'i>> {
        let table = self.open_table(value, name)?;
        self.known_keys(table, &format!("in {}", quote(name)), known, |_| None);
        Some(table)
    }

    /// Takes a value as a table with keys of the user's choice.
    pub(super) fn open_table<'t, 'i>(
        &mut self,
        value: &'t Value<'i>,
        name: &str,
    ) -> Option<Table<'t, 'i>> {
        let table = value.get_ref().as_table().map(Table);
        if table.is_none() {
            self.mismatch(value, name, "a table", None);
        }
        table
    }

    /// The table of a whole document.
    pub(super) fn document<'t, 'i>(
        &mut self,
        document: &'t DeTable<'i>,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<&'static str>,
    ) -> Table<'t, 'i> {
        self.known_keys(Table(document), "at the top of the file", known, elsewhere);
        Table(document)
    }

    fn known_keys(
        &mut self,
        table: Table<'_, '_>,
        context: &str,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<&'static str>,
    ) {
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = elsewhere(name)
                .map(|table| format!("{} belongs in `[{table}]`", quote(name)))
                .or_else(|| did_you_mean(name, known.iter().copied()))
                .unwrap_or_else(|| {
                    format!("known here: {}", alternatives(known.iter().copied(), "and"))
                });
            let message = format!("unknown key {} {context}", quote(name));
            self.error(key.span(), message, "not known", Some(hint));
        }
    }

    pub(super) fn text<'t>(&mut self, value: &'t Value<'_>, key: &str) -> Option<&'t str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.mismatch(value, key, "a string", None);
        }
        text
    }

    pub(super) fn boolean(&mut self, value: &Value<'_>, key: &str) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.mismatch(value, key, "`true` or `false`", None);
        }
        boolean
    }

    /// A whole number in a range.
    pub(super) fn number(
        &mut self,
        value: &Value<'_>,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.mismatch(value, key, "an integer", None);
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix());
        let number = number.ok().filter(|number| range.contains(number));
        if number.is_none() {
            let hint = format!("a whole number from {} to {}", range.start(), range.end());
            self.error(value.span(), format!("{} cannot be {integer}", quote(key)), "", Some(hint));
        }
        number
    }

    /// Takes a value as an array; what stands alone gets the hint to put it in brackets.
    pub(super) fn list<'t, 'i>(&mut self, value: &'t Value<'i>, key: &str) -> &'t [Value<'i>] {
        if let Some(array) = value.get_ref().as_array() {
            return array;
        }
        let alone = value.get_ref().is_str().then(|| format!("in brackets: `{key} = [\"…\"]`"));
        self.mismatch(value, key, "an array", alone);
        &[]
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        value: &Value<'_>,
        key: &str,
        choices: &[(&str, T)],
        remark: impl Fn(&str) -> Option<&'static str>,
    ) -> Option<At<T>> {
        let text = self.text(value, key)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(self.at(value, *choice));
        }
        let names = choices.iter().map(|(name, _)| *name);
        let hint = remark(text)
            .map(str::to_owned)
            .or_else(|| did_you_mean(text, names.clone()))
            .unwrap_or_else(|| match choices {
                [(only, _)] => format!("the only one is `{only}`"),
                _ => format!("one of {}", alternatives(names, "or")),
            });
        self.error(value.span(), format!("unknown {key} {}", quote(text)), "", Some(hint));
        None
    }

    /// A path, by one of the checks of [`path`].
    pub(super) fn path(
        &mut self,
        value: &Value<'_>,
        key: &str,
        check: fn(&str) -> Result<PathBuf, Fault>,
    ) -> Option<At<PathBuf>> {
        let text = self.text(value, key)?;
        match check(text) {
            Ok(path) => Some(self.at(value, path)),
            Err(fault) => {
                self.error(value.span(), fault.message, "", fault.hint);
                None
            }
        }
    }

    pub(super) fn mode(&mut self, value: &Value<'_>) -> Option<Mode> {
        if let Some(integer) = value.get_ref().as_integer() {
            let hint = format!("in quotes: `mode = \"{:0>4}\"`", integer.as_str());
            self.mismatch(value, "mode", "a string of octal digits", Some(hint));
            return None;
        }
        let text = self.text(value, "mode")?;
        if let Ok(mode) = text.parse() {
            return Some(mode);
        }
        let hint = "three or four octal digits, as in \"0750\"".to_owned();
        self.error(value.span(), format!("{} is not a mode", quote(text)), "", Some(hint));
        None
    }

    /// A user or a group: a name or a number.
    pub(super) fn principal(&mut self, value: &Value<'_>, key: &str) -> Option<Principal> {
        if let Some(integer) = value.get_ref().as_integer() {
            // The kernel takes the highest number as "do not change".
            let id = u32::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .filter(|&id| id != u32::MAX);
            if id.is_none() {
                let hint = "a whole number from 0 to 4294967294".to_owned();
                self.error(value.span(), format!("`{integer}` is not a {key} id"), "", Some(hint));
            }
            return id.map(Principal::Id);
        }
        let Some(name) = value.get_ref().as_str() else {
            self.mismatch(value, key, "a name or a number", None);
            return None;
        };
        if is_account_name(name) {
            return Some(Principal::Name(name.to_owned()));
        }
        let number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        let hint = if number {
            format!("a number is written without quotes: `{key} = {name}`")
        } else {
            "at most 32 letters, digits, `_`, `.` and `-`, not starting with a digit, `.` or `-`"
                .to_owned()
        };
        self.error(value.span(), format!("{} is not a {key} name", quote(name)), "", Some(hint));
        None
    }

    pub(super) fn uuid(&mut self, value: &Value<'_>) -> Option<At<Uuid>> {
        let text = self.text(value, "uuid")?;
        let uuid = Uuid::try_parse(text).ok().filter(|uuid| text.len() == 36 && !uuid.is_nil());
        if uuid.is_none() {
            let hint = "it is in the container's `marker.json`; `ebbtide init` writes it here";
            let message = format!("{} is not a UUID", quote(text));
            self.error(value.span(), message, "", Some(hint.to_owned()));
        }
        uuid.map(|uuid| self.at(value, uuid))
    }

    pub(super) fn store_name(
        &mut self,
        span: std::ops::Range<usize>,
        name: &str,
    ) -> Option<StoreName> {
        let fits = (1..=32).contains(&name.len())
            && !name.starts_with('-')
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits {
            return Some(StoreName(name.to_owned()));
        }
        let hint = "at most 32 lower-case letters, digits and `-`, not starting with `-`";
        let message = format!("{} is not a store name", quote(name));
        self.error(span, message, "", Some(hint.to_owned()));
        None
    }

    pub(super) fn device(&mut self, value: &Value<'_>) -> Option<At<DeviceSpec>> {
        let text = self.text(value, "device")?;
        match device_fault(text) {
            None => Some(self.at(value, DeviceSpec(text.to_owned()))),
            Some(hint) => {
                let message = format!("{} does not name a device", quote(text));
                self.error(value.span(), message, "", Some(hint));
                None
            }
        }
    }
}

/// What is wrong with a device, as a hint.
fn device_fault(text: &str) -> Option<String> {
    const TAGS: [&str; 4] = ["UUID", "LABEL", "PARTUUID", "PARTLABEL"];
    let forms =
        || "`UUID=…`, `LABEL=…`, `PARTUUID=…`, `PARTLABEL=…` or a path below /dev".to_owned();
    if text.chars().any(char::is_control) {
        return Some("without control characters".to_owned());
    }
    if let Some(rest) = text.strip_prefix('/') {
        let path = match path::absolute(text) {
            Ok(path) => path,
            Err(fault) => return Some(fault.hint.unwrap_or_else(|| fault.message.to_owned())),
        };
        let below_dev = path.starts_with("/dev") && rest != "dev";
        return (!below_dev).then(forms);
    }
    let Some((tag, value)) = text.split_once('=') else { return Some(forms()) };
    if !TAGS.contains(&tag) {
        let upper = tag.to_ascii_uppercase();
        return Some(if TAGS.contains(&upper.as_str()) {
            format!("in capitals: `{upper}=`")
        } else {
            forms()
        });
    }
    if value.is_empty() {
        return Some(format!("something has to follow `{tag}=`"));
    }
    if value.starts_with(['"', '\'']) {
        return Some(format!("without quotes after `{tag}=`"));
    }
    let hexadecimal = value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (tag.ends_with("UUID") && !hexadecimal)
        .then(|| format!("only hexadecimal digits and `-` follow `{tag}=`"))
}

pub(super) fn is_account_name(name: &str) -> bool {
    // As shadow-utils takes them, with the capitals and dots that directory services use, and the
    // `$` at the end of a machine account.
    let stem = name.strip_suffix('$').unwrap_or(name);
    (1..=32).contains(&name.len())
        && stem.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && stem.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn type_of(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A hint at the known word that a wrong one is close to.
pub(super) fn did_you_mean<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<String> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    known
        .filter(|candidate| !word.is_empty() && distance(candidate) <= candidate.len() / 3)
        .min_by_key(|candidate| distance(candidate))
        .map(|candidate| format!("did you mean `{candidate}`?"))
}

fn alternatives<'w>(words: impl Iterator<Item = &'w str>, last: &str) -> String {
    join(&words.map(|word| format!("`{word}`")).collect::<Vec<_>>(), last)
}
