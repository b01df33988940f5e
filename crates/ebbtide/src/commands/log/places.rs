//! Places of versions, in a few words.

use ebbtide_core::past::sources::Place;

/// `now, boots 2, 4–7, base 1`.
pub fn places(places: &[Place]) -> String {
    let mut parts = Vec::new();
    let (mut boots, mut bases) = (Vec::new(), Vec::new());
    for place in places {
        match place {
            Place::Now => parts.push("now".to_owned()),
            Place::Store(name) => parts.push(format!("store {name}")),
            Place::Boot(number) => boots.push(number.0),
            Place::Base(number) => bases.push(*number),
            Place::Trash { store, boot } => {
                parts.push(format!("trash of {store} {boot}"));
            }
        }
    }
    parts.extend(numbered("boot", boots));
    parts.extend(numbered("base", bases));
    parts.join(", ")
}

/// Numbers that follow each other as `4–7`.
fn numbered(thing: &str, mut numbers: Vec<u64>) -> Option<String> {
    numbers.sort_unstable();
    let plural = if numbers.len() > 1 { "s" } else { "" };
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    };
    let ranges: Vec<_> = ranges.iter().map(range).collect();
    (!ranges.is_empty()).then(|| format!("{thing}{plural} {}", ranges.join(", ")))
}
