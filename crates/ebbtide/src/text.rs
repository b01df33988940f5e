//! Text that is safe on a terminal.

use std::fmt::Write as _;

pub use ebbtide_sys::text::size;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Escapes what a terminal would interpret, and leaves alone what is escaped already.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match escaped(c) {
            Some(escape) => safe.push_str(&escape),
            None => safe.push(c),
        }
    }
    safe
}

/// Renders a value as JSON that is safe to look at: what a terminal would interpret is escaped, as
/// JSON allows in strings, so that no reader sees a difference.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c == '\n' || escaped(c).is_none() {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe.push('\n');
    Ok(safe)
}

/// How many columns a text takes on a terminal.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Fills a text up with spaces to so many columns of a terminal.
pub fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Cuts a path to so many columns of a terminal, with an ellipsis in its middle: how it begins says where
/// it is, and how it ends what it is.
pub fn shortened(path: &str, width: usize) -> String {
    if columns(path) <= width {
        return path.to_owned();
    }
    let room = width.saturating_sub(1);
    let head: String = take(path.chars(), room / 2).collect();
    let tail: Vec<char> = take(path.chars().rev(), room - columns(&head)).collect();
    let tail: String = tail.into_iter().rev().collect();
    format!("{head}…{tail}")
}

/// As many characters as fit.
fn take(characters: impl Iterator<Item = char>, width: usize) -> impl Iterator<Item = char> {
    characters.scan(0, move |taken, c| {
        *taken += c.width().unwrap_or(0);
        (*taken <= width).then_some(c)
    })
}

/// Counts things: `1 file`, `2 files`.
pub fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 {
        ""
    } else if thing.ends_with('y') {
        "ies"
    } else {
        "s"
    };
    let stem = if plural == "ies" { thing.trim_end_matches('y') } else { thing };
    format!("{number} {stem}{plural}")
}

/// A point in time, in seconds since 1970, as a date and time of UTC.
pub fn date(seconds: i64) -> String {
    const DAY: i64 = 86_400;
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Days since 1 March of year 0: leap days come at the end of years that begin in March, which repeat
    // every 400 years.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second % 60)
}

/// The escape of a character that a terminal would interpret or not show.
fn escaped(c: char) -> Option<String> {
    if c.is_ascii_graphic() || c == ' ' {
        return None;
    }
    let mut buffer = [0; 4];
    let plain = &*c.encode_utf8(&mut buffer);
    let escape = ebbtide_sys::escape(plain.as_bytes());
    (escape != plain).then_some(escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_is_idempotent() {
        let once = printable("tab\t esc\u{1b} c1\u{9b} rtl\u{202e} back\\slash ä 日本");
        assert_eq!(once, r"tab\t esc\x1b c1\u{9b} rtl\u{202e} back\slash ä 日本");
        assert_eq!(printable(&once), once);
    }

    #[test]
    fn a_path_is_cut_in_its_middle() {
        let path = "/srv/www/example.org/index.html";
        assert_eq!(shortened(path, 31), path);
        assert_eq!(shortened(path, 30), "/srv/www/examp….org/index.html");
        assert_eq!(shortened(path, 11), "/srv/….html");
        assert_eq!(shortened(path, 1), "…");
        // A letter of these takes two columns.
        assert_eq!(shortened("/日本語/日本語", 15), "/日本語/日本語");
        assert_eq!(shortened("/日本語/日本語", 12), "/日本…日本語");
        assert_eq!(columns(&shortened("/日本語/日本語", 11)), 10);
        assert_eq!(padded("日", 4), "日  ");
    }

    #[test]
    fn json_is_printable_and_means_the_same() {
        let value = "esc\u{1b} del\u{7f} c1\u{9b} tag\u{e0041} ä\n";
        let text = json(&value).unwrap();
        assert_eq!(text, "\"esc\\u001b del\\u007f c1\\u009b tag\\udb40\\udc41 ä\\n\"\n");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 1536, 10 << 10, (1 << 20) - 1, 3 << 30, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 KiB", "1023 KiB", "3.0 GiB", "16383 PiB"]
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_764_052_325, "2025-11-25 06:32:05"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn counts() {
        assert_eq!(count(1, "entry"), "1 entry");
        assert_eq!(count(0, "entry"), "0 entries");
        assert_eq!(count(2, "file"), "2 files");
    }
}
