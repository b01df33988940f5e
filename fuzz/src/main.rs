//! Makes inputs up for the target that `EBBTIDE_FUZZ` names. The rest of the command line is libFuzzer's.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fuzz::Target> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("EBBTIDE_FUZZ").unwrap_or_default();
        let Some(target) = fuzz::target(&name) else {
            eprintln!("EBBTIDE_FUZZ names no target: {name:?}");
            std::process::exit(2);
        };
        target
    });
    (target.run)(bytes);
});
