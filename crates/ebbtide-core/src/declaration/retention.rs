//! How much of the past is kept, as a file says it.

use super::file::{KeepBoots, KeepTrash};
use super::problem::quote;
use super::value::{Reader, Value};
use crate::retention;

pub(super) const KEEP_BOOTS_KEYS: [&str; 4] = ["min", "count", "days", "free"];
pub(super) const KEEP_TRASH_KEYS: [&str; 2] = ["days", "size"];

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
            // The one that is written is to blame.
            let key = if keep.count.is_some() { "count" } else { "min" };
            let span = table.get(key).map_or_else(|| value.span(), toml::Spanned::span);
            let message = format!("at least {} past roots, and at most {}", whole.min, whole.count);
            let hint = "`min` cannot be more than `count`".to_owned();
            self.error(span, message, "", Some(hint));
        }
        Some(keep)
    }

    pub(super) fn keep_trash(&mut self, value: &Value<'_>) -> Option<KeepTrash> {
        let table = self.table(value, "trash", &KEEP_TRASH_KEYS)?;
        let days = table.get("days").and_then(|value| self.number(value, "days", 1..=MOST));
        let size = table.get("size").and_then(|value| self.bytes(value, "size"));
        Some(KeepTrash { days, size })
    }
}

impl KeepBoots {
    /// What it does not say is as without it.
    pub(super) fn with_defaults(&self) -> retention::KeepBoots {
        let default = retention::KeepBoots::default();
        retention::KeepBoots {
            min: self.min.unwrap_or(default.min),
            count: self.count.unwrap_or(default.count),
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
