//! What Ebbtide writes itself, in JSON.

use ebbtide_core::backend::overlay;
use ebbtide_core::compiled::{Compiled, DeclarationHash, is_normalised};
use ebbtide_core::container::Pins;
use ebbtide_core::format;
use ebbtide_core::harvest::Manifest;
use ebbtide_core::locator::Locator;
use ebbtide_core::record::{CleanMark, Record};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of all of them.
const VERSION: u32 = 1;

/// What is read and written again is the same. An error says what it is that can't be read.
fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = match format::parse("the file", VERSION, bytes) {
        Ok(value) => value,
        Err(failure) => {
            assert!(failure.chain().contains("the file"));
            return None;
        }
    };
    let written = format::bytes("the file", &value).expect("what was read can be written");
    let read: T = format::parse("the file", VERSION, &written).expect("what was written is read");
    let twice = format::bytes("the file", &read).expect("it can be written again");
    assert!(written == twice, "another file comes of it when it is read again");
    Some(value)
}

pub(crate) fn manifest(bytes: &[u8]) {
    again::<Manifest>(bytes);
}

pub(crate) fn records(bytes: &[u8]) {
    if let Some(record) = again::<Record>(bytes) {
        assert!(record.gravest().is_none() || !record.problems.is_empty());
    }
    again::<CleanMark>(bytes);
    again::<Pins>(bytes);
    again::<Locator>(bytes);
    again::<overlay::Id>(bytes);
    again::<overlay::Base>(bytes);
}

pub(crate) fn compiled(bytes: &[u8]) {
    let read = |bytes: &[u8]| Compiled::from_bytes(bytes, &DeclarationHash::of(bytes));
    let Ok(compiled) = read(bytes) else { return };
    assert!(compiled.entries.iter().all(|entry| is_normalised(&entry.path)));
    let written = compiled.to_bytes();
    assert_eq!(read(&written).expect("what was written is read"), compiled);
}
