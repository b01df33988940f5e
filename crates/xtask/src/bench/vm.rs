//! `ebbtide-boot` in the initramfs of a virtual machine, by what it says of its own time.

use anyhow::{Context, Result};
use testkit::process::run;

use super::machine::Programs;
use super::measure::Row;
use crate::{cargo, deb};

/// One boot, the second of a Debian: what `tests/vm/src/times.rs` prints.
pub fn vm(_: &Programs, _: usize) -> Result<Vec<Row>> {
    let package = deb::build().context("cannot build the package")?;
    let mut times = cargo();
    times.args(["run", "--quiet", "--package", "vm-scenarios", "--", "times"]);
    let said = run(times.env("EBBTIDE_DEB", package))?;
    rows(&String::from_utf8_lossy(&said))
}

fn rows(said: &str) -> Result<Vec<Row>> {
    let entries = said.lines().find_map(|line| line.strip_prefix("\"entries\": "));
    let entries = entries.with_context(|| format!("it said {said}"))?;
    let mut rows = Vec::new();
    for line in said.lines() {
        if let Some((verb, time)) = line.split_once(" took ") {
            let of =
                if verb == "attach" { format!(" of {entries} entries") } else { String::new() };
            rows.push(Row {
                what: format!("`ebbtide-boot {verb}`{of} in an emulated virtual machine, one boot"),
                ebbtide: time.to_owned(),
                ..Row::default()
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_call_is_a_row() {
        let said = "reset took 12.3 ms\nattach took 45.6 ms\n\"entries\": 17\n";
        let rows = super::rows(said).unwrap();
        let shown: Vec<_> = rows.iter().map(|row| (&*row.what, &*row.ebbtide)).collect();
        assert_eq!(
            shown,
            [
                ("`ebbtide-boot reset` in an emulated virtual machine, one boot", "12.3 ms"),
                (
                    "`ebbtide-boot attach` of 17 entries in an emulated virtual machine, one boot",
                    "45.6 ms"
                ),
            ]
        );
        super::rows("reset took 12.3 ms\n").unwrap_err();
    }
}
