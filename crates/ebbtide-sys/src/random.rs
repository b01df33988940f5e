//! Random identifiers.

use std::hash::{BuildHasher, RandomState};

use rustix::io::Errno;
use rustix::rand::GetRandomFlags;
use uuid::Uuid;

/// Makes a random UUID (version 4, RFC 9562) from getrandom(2).
pub fn uuid_v4() -> Uuid {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn fill(bytes: &mut [u8; 16]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Only a system call filter does this; the standard library has its own ways to seed.
            Err(_) => {
                let (low, high) = bytes.split_at_mut(8);
                low.copy_from_slice(&RandomState::new().hash_one(0).to_ne_bytes());
                high.copy_from_slice(&RandomState::new().hash_one(1).to_ne_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_random_and_of_version_4() {
        let (a, b) = (uuid_v4(), uuid_v4());
        assert_ne!(a, b);
        assert_eq!(a.get_version_num(), 4);
    }
}
