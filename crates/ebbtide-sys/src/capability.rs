//! Giving up capabilities(7), for good.

use rustix::io::Errno;
pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

use crate::error::{Error, Result};

/// Gives up capabilities in every set of the calling thread: neither it nor what it starts can
/// have them again. The ambient set is emptied.
pub fn drop(given_up: CapabilitySet) -> Result<()> {
    for one in given_up.iter() {
        match remove_capability_from_bounding_set(one) {
            // A kernel that does not know a capability grants it to nobody.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => {
                let name = format!("{one:?}");
                return Err(Error::new("prctl", errno).arg("PR_CAPBSET_DROP").arg(name));
            }
        }
    }
    clear_ambient_capability_set()
        .map_err(|e| Error::new("prctl", e).arg("PR_CAP_AMBIENT_CLEAR_ALL"))?;
    let mut sets = capabilities(None).map_err(|e| Error::new("capget", e))?;
    sets.effective.remove(given_up);
    sets.permitted.remove(given_up);
    sets.inheritable.remove(given_up);
    set_capabilities(None, sets).map_err(|e| Error::new("capset", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::needs_root;

    #[test]
    fn what_is_given_up_is_gone_from_every_set() {
        needs_root!();
        // Capabilities are those of a thread.
        let (before, after, status) = std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            drop(CapabilitySet::SYS_TIME | CapabilitySet::CHOWN).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            (before, capabilities(None).unwrap(), status)
        })
        .join()
        .unwrap();
        let gone = CapabilitySet::SYS_TIME | CapabilitySet::CHOWN;
        assert!(before.effective.contains(gone));
        assert_eq!(after.effective, before.effective - gone);
        assert_eq!(after.permitted, before.permitted - gone);
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
        assert_eq!(bounding & gone.bits(), 0);
    }
}
