//! How much of the past is kept: past roots in the container, and what left the stores.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::compiled::parse_bytes;

/// Which past roots stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepBoots {
    /// So many of the newest stay whatever else holds.
    pub min: u32,
    /// No more than so many.
    pub count: u32,
    /// None that was put away longer ago, in days.
    pub days: u32,
    /// As long as less than this is free, the oldest go.
    pub free: Share,
}

impl Default for KeepBoots {
    fn default() -> Self {
        Self { min: 2, count: 10, days: 30, free: Share::Percent(15) }
    }
}

/// How much of a store's trash stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepTrash {
    /// Nothing that left the store in a boot that ended longer ago, in days.
    pub days: u32,
    /// As long as it takes more bytes than this, what left in the oldest boot goes.
    pub size: u64,
}

impl Default for KeepTrash {
    fn default() -> Self {
        Self { days: 30, size: 1 << 30 }
    }
}

/// How much of a cache stays, and for how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepCache {
    /// As long as its files take more bytes than this, those that were used least recently go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Files that were not used for so many seconds go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
}

impl KeepCache {
    /// Whether there is nothing that ever goes.
    pub fn is_all(&self) -> bool {
        self.limit.is_none() && self.max_age.is_none()
    }
}

/// Reads a number of hours, days or weeks (`12h`, `30d`, `4w`) as seconds.
pub fn parse_age(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 7 * 24,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) || number.len() > 6 {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(hours * 3600)
}

/// Seconds as [`parse_age`] reads them, in the largest unit that they are a number of.
pub fn age(seconds: u64) -> String {
    let hours = seconds / 3600;
    let (count, unit) = match hours {
        _ if hours > 0 && hours.is_multiple_of(7 * 24) => (hours / (7 * 24), "week"),
        _ if hours > 0 && hours.is_multiple_of(24) => (hours / 24, "day"),
        _ => (hours, "hour"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// A part of a volume: a share, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// At most 90 percent.
    Percent(u8),
    /// That many bytes.
    Bytes(u64),
}

impl Share {
    /// How much that is of so many bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => total / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    /// Reads `15%`, or bytes with one of the suffixes `K`, `M`, `G`, `T` (powers of 1024).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse() {
                Ok(percent @ 0..=90) => Ok(Self::Percent(percent)),
                _ => Err("a share of the volume is 0% to 90%"),
            };
        }
        parse_bytes(text)
            .map(Self::Bytes)
            .ok_or("a share of the volume as in \"15%\", or a size as in \"20G\"")
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (text, expected, shown) in [
            ("12h", Some(12 * 3600), "12 hours"),
            ("24h", Some(86_400), "1 day"),
            ("30d", Some(30 * 86_400), "30 days"),
            ("14d", Some(14 * 86_400), "2 weeks"),
            ("1w", Some(7 * 86_400), "1 week"),
            ("999999w", Some(999_999 * 7 * 86_400), "999999 weeks"),
            ("1000000w", None, ""),
            ("30", None, ""),
            ("30 d", None, ""),
            ("-1d", None, ""),
            ("+1d", None, ""),
            ("1D", None, ""),
            ("", None, ""),
            ("é", None, ""),
        ] {
            assert_eq!(parse_age(text), expected, "{text}");
            if let Some(seconds) = expected {
                assert_eq!(age(seconds), shown);
            }
        }
        assert_eq!(parse_age("d"), None);
    }

    #[test]
    fn shares() {
        for (text, expected) in [
            ("0%", Some(0)),
            ("15%", Some(150)),
            ("90%", Some(900)),
            ("91%", None),
            ("-1%", None),
            ("20", Some(20)),
            ("2K", Some(2048)),
            ("", None),
            ("much", None),
        ] {
            let parsed = text.parse::<Share>().ok();
            assert_eq!(parsed.map(|share| share.of(1000)), expected, "{text}");
            if let Some(share) = parsed {
                let written = serde_json::to_string(&share).unwrap_or_default();
                assert_eq!(serde_json::from_str::<Share>(&written).ok(), Some(share));
            }
        }
        assert!(Share::Percent(90).of(u64::MAX) < u64::MAX, "no overflow");
    }
}
