//! How much of the past is kept, as a file says it.

use super::file::{At, KeepBoots, KeepTrash};
use super::problem::quote;
use super::value::{Reader, Value};
use crate::retention;

pub(super) const KEEP_BOOTS_KEYS: [&str; 4] = ["min", "count", "days", "free"];
pub(super) const KEEP_TRASH_KEYS: [&str; 2] = ["days", "size"];

/// A smaller cache is none: somebody forgot the unit.
const SMALLEST: u64 = 1 << 20;

/// More boots or days than anybody counts.
pub(super) const MOST: u32 = 100_000;

impl Reader<'_> {
    pub(super) fn keep_boots(&mut self, value: &Value<'_>) -> Option<KeepBoots> {
        let table = self.table(value, "keep-boots", &KEEP_BOOTS_KEYS)?;
        let mut number = |key, range| {
            let value = table.get(key)?;
            self.number(value, key, range)
        };
        let keep = KeepBoots {
            min: number("min", 0..=MOST),
            count: number("count", 0..=MOST),
            days: number("days", 1..=MOST),
            free: None,
        };
        let free = table.get("free").and_then(|value| {
            let text = self.text(value, "free")?;
            match text.parse::<retention::Share>() {
                Ok(share) => Some(share),
                Err(why) => {
                    let message = format!("{} is no part of a volume", quote(text));
                    self.error(value.span(), message, "", Some(why.to_owned()));
                    None
                }
            }
        });
        let keep = KeepBoots { free, ..keep };
        let whole = keep.with_defaults();
        if whole.min > whole.count {
            let span = table.get("count").map_or_else(|| value.span(), toml::Spanned::span);
            let message = format!("at least {} past roots, and at most {}", whole.min, whole.count);
            self.error(span, message, "", Some("`min` cannot be more than `count`".to_owned()));
        }
        Some(keep)
    }

    pub(super) fn keep_trash(&mut self, value: &Value<'_>) -> Option<KeepTrash> {
        let table = self.table(value, "trash", &KEEP_TRASH_KEYS)?;
        let days = table.get("days").and_then(|value| self.number(value, "days", 1..=MOST));
        let size = table.get("size").and_then(|value| self.bytes(value, "size"));
        Some(KeepTrash { days, size })
    }

    /// What a cache may take, in bytes.
    pub(super) fn limit(&mut self, value: &Value<'_>) -> Option<At<u64>> {
        let bytes = self.bytes(value, "limit")?;
        if bytes < SMALLEST {
            let hint = "at least \"1M\"; with K, M, G or T behind the number".to_owned();
            self.error(value.span(), "such a cache holds nothing".to_owned(), "", Some(hint));
            return None;
        }
        Some(At { value: bytes, place: self.place(value.span()) })
    }

    /// For how long a file stays that nobody uses, in seconds.
    pub(super) fn max_age(&mut self, value: &Value<'_>) -> Option<At<u64>> {
        let text = self.text(value, "max-age")?;
        if let Some(seconds @ 1..) = retention::parse_age(text) {
            return Some(At { value: seconds, place: self.place(value.span()) });
        }
        let hint = "a number of hours, days or weeks, as in \"12h\", \"30d\" or \"4w\"";
        let message = format!("{} is no age", quote(text));
        self.error(value.span(), message, "", Some(hint.to_owned()));
        None
    }
}

impl KeepBoots {
    /// What it does not say is as without it, or as what it says has it.
    pub(super) fn with_defaults(&self) -> retention::KeepBoots {
        let default = retention::KeepBoots::default();
        let min = self.min.unwrap_or_else(|| self.count.unwrap_or(default.min).min(default.min));
        retention::KeepBoots {
            min,
            count: self.count.unwrap_or(default.count.max(min)),
            days: self.days.unwrap_or(default.days),
            free: self.free.unwrap_or(default.free),
        }
    }
}

impl KeepTrash {
    /// What it does not say is as without it.
    pub(super) fn with_defaults(&self) -> retention::KeepTrash {
        let default = retention::KeepTrash::default();
        retention::KeepTrash {
            days: self.days.unwrap_or(default.days),
            size: self.size.unwrap_or(default.size),
        }
    }
}
