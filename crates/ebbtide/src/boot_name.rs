//! A boot as a command line names it.

use std::fmt;
use std::str::FromStr;

use ebbtide_core::container::Container;
use ebbtide_core::diff::Which;
use ebbtide_core::failure::Result;
use ebbtide_core::past;
use ebbtide_core::record::BootNumber;

/// A boot: its number, or `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootName {
    /// The one whose root was put away last.
    Last,
    /// The one with this number.
    Number(BootNumber),
}

impl FromStr for BootName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, number(text)) {
            ("last", _) => Ok(Self::Last),
            (_, Some(number)) => Ok(Self::Number(number)),
            _ => Err("the number of a boot, or `last`".to_owned()),
        }
    }
}

impl fmt::Display for BootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl BootName {
    /// Its number. That there is a boot with a number that was named is not looked at.
    pub fn find(self, container: &Container) -> Result<BootNumber> {
        match self {
            Self::Last => past::newest_root(container),
            Self::Number(number) => Ok(number),
        }
    }
}

/// A boot, or what came between two: `3..7`, or `3..` for all since boot 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOrRange {
    /// One boot.
    Boot(BootName),
    /// Between two; without a second one, until now.
    Range(BootName, Option<BootName>),
}

impl FromStr for BootOrRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = |_| "the number of a boot, `last`, or two as in 3..7 or 3..".to_owned();
        let Some((first, second)) = text.split_once("..") else {
            return text.parse().map(Self::Boot).map_err(wrong);
        };
        let second = match second {
            "" => None,
            second => Some(second.parse().map_err(wrong)?),
        };
        Ok(Self::Range(first.parse().map_err(wrong)?, second))
    }
}

impl fmt::Display for BootOrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(name) => name.fmt(f),
            Self::Range(first, None) => write!(f, "{first}.."),
            Self::Range(first, Some(second)) => write!(f, "{first}..{second}"),
        }
    }
}

impl BootOrRange {
    /// What is to be compared.
    pub fn find(self, container: &Container) -> Result<Which> {
        Ok(match self {
            Self::Boot(name) => Which::Past(name.find(container)?),
            Self::Range(first, second) => {
                let second = second.map(|name| name.find(container)).transpose()?;
                Which::Between(first.find(container)?, second)
            }
        })
    }
}

/// A boot, or the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOrBase {
    /// What the base has.
    Base,
    /// What the root of a boot has.
    Boot(BootName),
}

impl FromStr for BootOrBase {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "base" => Ok(Self::Base),
            boot => boot
                .parse()
                .map(Self::Boot)
                .map_err(|_| "the number of a boot, `last` or `base`".to_owned()),
        }
    }
}

impl fmt::Display for BootOrBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Boot(name) => name.fmt(f),
        }
    }
}

/// Digits and nothing else: no sign.
fn number(text: &str) -> Option<BootNumber> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map(BootNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_a_number_or_the_last_one() {
        let seven = BootName::Number(BootNumber(7));
        assert_eq!("7".parse(), Ok(seven));
        assert_eq!("last".parse(), Ok(BootName::Last));
        assert_eq!("last".parse(), Ok(BootOrBase::Boot(BootName::Last)));
        assert_eq!("7".parse(), Ok(BootOrBase::Boot(seven)));
        assert_eq!("base".parse(), Ok(BootOrBase::Base));
        "base".parse::<BootName>().unwrap_err();
        let range = |first, second| Ok(BootOrRange::Range(first, second));
        assert_eq!("7".parse(), Ok(BootOrRange::Boot(seven)));
        assert_eq!("7..last".parse(), range(seven, Some(BootName::Last)));
        assert_eq!("last..".parse(), range(BootName::Last, None));
        for text in ["7", "last", "7..last", "last..", "3..7"] {
            assert_eq!(text.parse::<BootOrRange>().unwrap().to_string(), text);
        }
        assert_eq!("base".parse::<BootOrBase>().unwrap().to_string(), "base");
        for odd in ["..", "..7", "7...8", "7..base", "7-8", ""] {
            odd.parse::<BootOrRange>().unwrap_err();
        }
        for odd in ["", "-1", "+1", "seven", "7 ", "Last", "99999999999999999999"] {
            odd.parse::<BootName>().unwrap_err();
            odd.parse::<BootOrBase>().unwrap_err();
        }
    }
}
