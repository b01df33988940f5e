//! No guessed modes: the packages are installed in a Debian, and what they make is compared with the
//! presets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ebbtide_core::compiled::{Kind, Mode, Principal};
use ebbtide_core::declaration::{Preset, built_in_presets, read_preset};
use testkit::guest::Guest;
use testkit::privileged::{chroot, require_root};
use testkit::process::{run, target_directory};

/// Packages that conflict with others among the first ones.
const APART: [&str; 2] = ["exim4-daemon-light", "systemd-timesyncd"];

/// Installs, without starting anything, and makes what systemd makes at the first boot.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
apt-get -q install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io "$@"
systemd-sysusers
systemd-tmpfiles --create || true
"#;

/// A Debian with packages, deleted when it is dropped.
struct Installed(PathBuf);

impl Installed {
    fn new(name: &str, packages: &BTreeSet<&str>) -> Result<Self> {
        let tree = target_directory().join("presets").join(name);
        let installed = Self(tree);
        installed.clear()?;
        fs::create_dir_all(&installed.0)?;
        Guest::debian_12()?.copy_to(&installed.0)?;
        run(chroot(&installed.0, "sh").args(["-euc", INSTALL, "install"]).args(packages))
            .context("cannot install the packages of the presets")?;
        Ok(installed)
    }

    fn clear(&self) -> Result<()> {
        run(Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(&self.0)).map(drop)
    }

    /// Type, owner, group and mode of a path; `None` if it is not there.
    fn stat(&self, path: &Path) -> Option<[String; 4]> {
        // Only a real file or directory counts, and nothing of it is followed outside.
        let output = run(chroot(&self.0, "stat").args(["-c", "%F|%U|%G|%a"]).arg(path)).ok()?;
        let text = String::from_utf8(output).ok()?;
        let mut fields = text.trim().split('|').map(str::to_owned);
        Some([fields.next()?, fields.next()?, fields.next()?, fields.next()?])
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

fn name(principal: Option<&Principal>) -> Option<String> {
    principal.map(ToString::to_string)
}

/// What is wrong with a preset, compared with what a package made; and how many paths were compared.
fn compare(name_of: &str, preset: &Preset, debian: &Installed) -> (Vec<String>, usize) {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for entry in &preset.entries {
        let path = entry.path();
        let shown = format!("{name_of}: {}", path.display());
        let Some([kind, user, group, mode]) = debian.stat(path) else {
            if entry.exists {
                wrong.push(format!(
                    "{shown} was never made: say `exists = false`, and by what it is"
                ));
            }
            continue;
        };
        if !entry.exists {
            wrong.push(format!("{shown} exists ({user}:{group} {mode}), and is said not to"));
            continue;
        }
        compared += 1;
        let is_directory = kind == "directory";
        if is_directory != (entry.kind() == Kind::Directory) {
            wrong.push(format!("{shown} is a {kind}"));
        }
        let (wanted_user, wanted_group, wanted_mode) = entry.attributes();
        if name(wanted_user).is_some_and(|wanted| wanted != user)
            || name(wanted_group).is_some_and(|wanted| wanted != group)
            || wanted_mode.is_some_and(|wanted| Ok(wanted) != format!("{mode:0>4}").parse::<Mode>())
        {
            wrong.push(format!("{shown} is {user}:{group} {mode:0>4}"));
        }
    }
    (wrong, compared)
}

#[test]
fn presets_are_what_debians_packages_make() {
    if !require_root() {
        return;
    }
    let presets: Vec<(String, Preset)> = built_in_presets()
        .into_iter()
        .map(|file| (file.name, read_preset(0, &file.source, &mut Vec::new()).unwrap()))
        .filter(|(_, preset)| !preset.entries.is_empty())
        .collect();
    let first = |preset: &Preset| preset.packages.first().cloned().unwrap();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (folder, apart) in [("most", false), ("apart", true)] {
        let some: Vec<_> = presets
            .iter()
            .filter(|(_, preset)| APART.contains(&first(preset).as_str()) == apart)
            .collect();
        let packages: BTreeSet<&str> =
            some.iter().filter_map(|(_, preset)| Some(preset.packages.first()?.as_str())).collect();
        let debian = Installed::new(folder, &packages).unwrap_or_else(|error| panic!("{error:#}"));
        for (name, preset) in some {
            let (problems, count) = compare(name, preset, &debian);
            wrong.extend(problems);
            compared += count;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!(
        "{} presets, {compared} paths compared with what Debian's packages make",
        presets.len()
    );
    assert!(compared >= 60, "only {compared} paths were compared");
}
