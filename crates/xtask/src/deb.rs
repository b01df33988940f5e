//! The Debian package: builds the binaries, lays out the tree, calls `dpkg-deb`.
//!
//! Needs `dpkg-deb`, binutils (which come with gcc) and `gzip`; no debhelper, so that any machine
//! that can build Ebbtide can package it. The templates are in `packaging/debian`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::generate::completions::INSTALLED;
use crate::{generate, workspace};

/// The version of the packaging, counted anew for each version of Ebbtide.
const REVISION: u32 = 1;

/// The boot binary travels in every initramfs.
const BOOT_SIZE_LIMIT: u64 = 2_000_000;

/// Functions that make a static glibc load shared libraries at run time, which an initramfs lacks.
const NEEDS_SHARED_LIBRARIES: &[&str] = &[
    "getpw",
    "getgrnam",
    "getgrgid",
    "getgrent",
    "getgrouplist",
    "getspnam",
    "getaddrinfo",
    "gethostby",
    "getservby",
    "getprotoby",
    "getnetby",
    "iconv_open",
];

/// Files that are installed as they are: source, destination, mode.
const FILES: &[(&str, &str, u32)] = &[
    (
        "systemd/ebbtide-clean-end.service",
        "usr/lib/systemd/system/ebbtide-clean-end.service",
        0o644,
    ),
    ("systemd/ebbtide-entries.service", "usr/lib/systemd/system/ebbtide-entries.service", 0o644),
    ("systemd/ebbtide-missing@.service", "usr/lib/systemd/system/ebbtide-missing@.service", 0o644),
    ("systemd/ebbtide-declaration.path", "usr/lib/systemd/system/ebbtide-declaration.path", 0o644),
    (
        "systemd/ebbtide-declaration.service",
        "usr/lib/systemd/system/ebbtide-declaration.service",
        0o644,
    ),
    ("systemd/ebbtide-audit.service", "usr/lib/systemd/system/ebbtide-audit.service", 0o644),
    ("systemd/ebbtide-labels.service", "usr/lib/systemd/system/ebbtide-labels.service", 0o644),
    ("packaging/selinux/ebbtide.cil", "usr/share/ebbtide/selinux/ebbtide.cil", 0o644),
    ("systemd/ebbtide-watch.service", "usr/lib/systemd/system/ebbtide-watch.service", 0o644),
    ("systemd/ebbtide-gc.service", "usr/lib/systemd/system/ebbtide-gc.service", 0o644),
    ("systemd/ebbtide-gc.timer", "usr/lib/systemd/system/ebbtide-gc.timer", 0o644),
    (
        "systemd/ebbtide-attention.service",
        "usr/lib/systemd/system/ebbtide-attention.service",
        0o644,
    ),
    ("systemd/ebbtide-attention.path", "usr/lib/systemd/system/ebbtide-attention.path", 0o644),
    ("systemd/ebbtide-up.service", "usr/lib/systemd/system/ebbtide-up.service", 0o644),
    ("systemd/ebbtide-came-up.service", "usr/lib/systemd/system/ebbtide-came-up.service", 0o644),
    ("systemd/ebbtide-taken.service", "usr/lib/systemd/system/ebbtide-taken.service", 0o644),
    (
        "systemd/ebbtide-about-to-go.service",
        "usr/lib/systemd/system/ebbtide-about-to-go.service",
        0o644,
    ),
    ("systemd/ebbtide-user.socket", "usr/lib/systemd/system/ebbtide-user.socket", 0o644),
    ("systemd/ebbtide-user@.service", "usr/lib/systemd/system/ebbtide-user@.service", 0o644),
    ("systemd/ebbtide-login@.service", "usr/lib/systemd/system/ebbtide-login@.service", 0o644),
    (
        "systemd/user@.service.d/ebbtide.conf",
        "usr/lib/systemd/system/user@.service.d/ebbtide.conf",
        0o644,
    ),
    (
        "systemd/systemd-backlight@.service.d/ebbtide.conf",
        "usr/lib/systemd/system/systemd-backlight@.service.d/ebbtide.conf",
        0o644,
    ),
    ("initramfs/initramfs-tools/hook", "usr/share/initramfs-tools/hooks/ebbtide", 0o755),
    (
        "initramfs/initramfs-tools/local-premount",
        "usr/share/initramfs-tools/scripts/local-premount/ebbtide",
        0o755,
    ),
    (
        "initramfs/initramfs-tools/local-bottom",
        "usr/share/initramfs-tools/scripts/local-bottom/ebbtide",
        0o755,
    ),
    (
        "initramfs/dracut/module-setup.sh",
        "usr/lib/dracut/modules.d/90ebbtide/module-setup.sh",
        0o755,
    ),
    (
        "initramfs/dracut/ebbtide-devices.sh",
        "usr/lib/dracut/modules.d/90ebbtide/ebbtide-devices.sh",
        0o755,
    ),
    (
        "initramfs/systemd/ebbtide-reset.service",
        "usr/lib/dracut/modules.d/90ebbtide/ebbtide-reset.service",
        0o644,
    ),
    (
        "initramfs/systemd/ebbtide-attach.service",
        "usr/lib/dracut/modules.d/90ebbtide/ebbtide-attach.service",
        0o644,
    ),
    ("README.md", "usr/share/doc/ebbtide/README.md", 0o644),
    ("docs/how-to/recover.md", "usr/share/doc/ebbtide/recover.md", 0o644),
    ("packaging/debian/lintian-overrides", "usr/share/lintian/overrides/ebbtide", 0o644),
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
];

/// Builds the package, and fails where lintian finds an error or a warning that no override explains.
pub fn checked() -> Result<PathBuf> {
    let package = build()?;
    let mut lintian = Command::new("lintian");
    // As root it asks to be told so.
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]);
    lintian.arg(&package).env("LC_ALL", "C.UTF-8").stdout(std::io::stderr());
    let status = lintian.status().context("cannot run lintian: `cargo xtask setup` installs it")?;
    ensure!(status.success(), "lintian does not accept {}", package.display());
    Ok(package)
}

/// Builds `target/deb/ebbtide_VERSION_ARCHITECTURE.deb` and returns its path.
///
/// # Errors
/// When a build fails, or when the boot binary is not what an initramfs needs: static, small, and
/// free of functions that would load shared libraries.
pub fn build() -> Result<PathBuf> {
    let workspace = workspace();
    generate::check(&workspace)?;
    let (architecture, target) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "x86_64-unknown-linux-gnu"),
        "aarch64" => ("arm64", "aarch64-unknown-linux-gnu"),
        other => bail!("cannot package for {other}: its Debian name is not known here"),
    };
    let version = format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"));
    let command_line = build_command_line(&workspace)?;
    let boot = build_boot(&workspace, target)?;

    let output = workspace.join("target/deb");
    let tree = output.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    for (source, destination, mode) in FILES {
        let content = read(&workspace.join(source))?;
        install(&tree, destination, content.as_bytes(), *mode)?;
    }
    install_binary(&tree, "usr/bin/ebbtide", &command_line)?;
    let generators = tree.join("usr/lib/systemd/system-generators");
    fs::create_dir_all(&generators)?;
    // The same program, which goes by the name that it is called by.
    std::os::unix::fs::symlink("../../../bin/ebbtide", generators.join("ebbtide-generator"))?;
    let messages = tree.join("usr/lib/motd.d");
    fs::create_dir_all(&messages)?;
    // Shown at login by pam_motd(8); most of the time, nothing is there.
    std::os::unix::fs::symlink("/run/ebbtide/attention", messages.join("ebbtide"))?;
    std::os::unix::fs::symlink("/run/ebbtide/taken", messages.join("ebbtide-taken"))?;
    install_binary(&tree, "usr/lib/ebbtide/ebbtide-boot", &boot)?;
    check_boot_size(&tree.join("usr/lib/ebbtide/ebbtide-boot"))?;
    install_documents(&workspace, &tree, &version)?;

    let libraries =
        shared_libraries(&run(readelf(&["--dynamic", "--version-info"], &command_line))?)?;
    let control = read(&workspace.join("packaging/debian/control.in"))?
        .replace("@VERSION@", &version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@INSTALLED_SIZE@", &installed_size(&tree)?.to_string())
        .replace("@SHARED_LIBRARIES@", &libraries);
    install(&tree, "DEBIAN/control", control.as_bytes(), 0o644)?;
    let sums = checksums(&tree)?;
    install(&tree, "DEBIAN/md5sums", sums.as_bytes(), 0o644)?;

    let package = output.join(format!("ebbtide_{version}_{architecture}.deb"));
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "--build"]).arg(&tree).arg(&package);
    if std::env::var_os("SOURCE_DATE_EPOCH").is_none()
        && let Some(seconds) = last_commit(&workspace)
    {
        // The same commit gives the same package.
        dpkg.env("SOURCE_DATE_EPOCH", seconds);
    }
    run(dpkg)?;
    Ok(package)
}

fn cargo(workspace: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Flags that this process inherited would get before those that are set here.
    command.current_dir(workspace).env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn build_command_line(workspace: &Path) -> Result<PathBuf> {
    let mut command = cargo(workspace);
    command.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "ebbtide",
        "--target-dir",
        "target",
    ]);
    run(command)?;
    Ok(workspace.join("target/release/ebbtide"))
}

/// How the boot binary is compiled and linked, for `CARGO_ENCODED_RUSTFLAGS`: static, and with the relocations
/// packed of a program that can be anywhere in memory, which saves 50 kB. It applies them itself; one that
/// cannot (glibc before 2.36) does not start, which is looked at. A program that ends at a panic does not
/// unwind, and needs no tables for that, which saves 190 kB.
pub fn boot_flags(workspace: &Path) -> OsString {
    let mut flags = OsString::from(concat!(
        "-Ctarget-feature=+crt-static\x1f-Clink-arg=-Wl,-z,pack-relative-relocs\x1f",
        "-Clink-arg=-Wl,--no-eh-frame-hdr\x1f-Clink-arg=-T",
    ));
    flags.push(workspace.join("crates/ebbtide-boot/no-unwinding.ld"));
    flags
}

/// Builds the boot binary with its symbols, which tell what is linked, and checks it.
fn build_boot(workspace: &Path, target: &str) -> Result<PathBuf> {
    let mut command = cargo(workspace);
    // A directory of its own, so that the flags do not rebuild everything else; an explicit target,
    // so that build scripts and macros stay dynamic.
    command
        .args(["build", "--profile", "boot", "--locked", "--package", "ebbtide-boot"])
        .args(["--target", target, "--target-dir", "target/static"])
        .env("CARGO_ENCODED_RUSTFLAGS", boot_flags(workspace))
        .env("CARGO_PROFILE_BOOT_STRIP", "none");
    run(command)?;
    let binary = workspace.join("target/static").join(target).join("boot/ebbtide-boot");

    let mut starts = Command::new(&binary);
    starts.arg("--help");
    run(starts)?;
    let headers = run(readelf(&["--program-headers"], &binary))?;
    ensure!(
        !headers.contains("INTERP"),
        "{} is not static: it asks for a dynamic loader",
        binary.display()
    );
    let mut nm = Command::new("nm");
    nm.args(["--format=posix", "--defined-only"]).arg(&binary);
    let symbols = run(nm)?;
    ensure!(
        symbols.lines().any(|line| line.starts_with("main ")),
        "{} has no symbols",
        binary.display()
    );
    let forbidden = forbidden_symbols(&symbols);
    ensure!(
        forbidden.is_empty(),
        "{} links what loads shared libraries at run time: {}",
        binary.display(),
        forbidden.join(", ")
    );
    Ok(binary)
}

/// The symbols in the output of `nm --format=posix` that a static program must not have.
fn forbidden_symbols(nm: &str) -> Vec<&str> {
    nm.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|symbol| {
            // glibc's own names for its functions: `__getpwnam_r`, `__GI_getaddrinfo`.
            let plain =
                symbol.trim_start_matches('_').trim_start_matches("GI_").trim_start_matches('_');
            NEEDS_SHARED_LIBRARIES.iter().any(|prefix| plain.starts_with(prefix))
        })
        .collect()
}

fn check_boot_size(binary: &Path) -> Result<()> {
    let size =
        fs::metadata(binary).with_context(|| format!("cannot stat {}", binary.display()))?.len();
    ensure!(
        size < BOOT_SIZE_LIMIT,
        "{} has {size} bytes, and {BOOT_SIZE_LIMIT} are the limit for an initramfs",
        binary.display()
    );
    Ok(())
}

fn install_documents(workspace: &Path, tree: &Path, version: &str) -> Result<()> {
    let changelog = read(&workspace.join("packaging/debian/changelog"))?;
    ensure!(
        changelog.starts_with(&format!("ebbtide ({version}) ")),
        "the first entry of packaging/debian/changelog is not about {version}"
    );
    let compressed =
        [("changelog.Debian", changelog), ("changelog", read(&workspace.join("CHANGELOG.md"))?)];
    for (name, content) in compressed {
        install_compressed(tree, &format!("usr/share/doc/ebbtide/{name}"), &content)?;
    }
    for (script, destination) in INSTALLED {
        let content = read(&workspace.join("completions").join(script))?;
        install(tree, destination, content.as_bytes(), 0o644)?;
    }
    for page in fs::read_dir(workspace.join(generate::man::FOLDER)).context("no manual pages")? {
        let page = page?.path();
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        let section = name.rsplit('.').next().unwrap_or_default();
        let destination = format!("usr/share/man/man{section}/{name}");
        install_compressed(tree, &destination, &read(&page)?)?;
    }
    let licence = indent(&read(&workspace.join("LICENSE-MIT"))?);
    let copyright =
        read(&workspace.join("packaging/debian/copyright"))?.replace("@LICENSE_MIT@", &licence);
    install(tree, "usr/share/doc/ebbtide/copyright", copyright.as_bytes(), 0o644)
}

fn install_compressed(tree: &Path, destination: &str, content: &str) -> Result<()> {
    install(tree, destination, content.as_bytes(), 0o644)?;
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "--no-name"]).arg(tree.join(destination));
    run(gzip).map(drop)
}

/// A text as the continuation of a control field: indented, blank lines as a dot.
fn indent(text: &str) -> String {
    let lines: Vec<String> = text
        .trim_end()
        .lines()
        .map(|line| if line.is_empty() { " .".to_owned() } else { format!(" {line}") })
        .collect();
    lines.join("\n")
}

/// The dependencies on shared libraries, from the output of `readelf --dynamic --version-info`.
fn shared_libraries(readelf: &str) -> Result<String> {
    let mut glibc: Option<(u32, u32)> = None;
    let mut packages = BTreeSet::new();
    for line in readelf.lines() {
        if let Some((_, library)) = line.split_once("Shared library: [") {
            let library = library.trim_end_matches(']');
            if library == "libgcc_s.so.1" {
                packages.insert("libgcc-s1".to_owned());
            } else if !["libc.so.6", "libm.so.6"].contains(&library)
                && !library.starts_with("ld-linux")
            {
                bail!("cannot tell which package has {library}, which ebbtide needs");
            }
        }
        for word in line.split_whitespace() {
            if let Some(version) = word.strip_prefix("GLIBC_")
                && let Some((major, minor)) = version.split_once('.')
                && let (Ok(major), Ok(minor)) =
                    (major.parse(), minor.split('.').next().unwrap_or(minor).parse())
            {
                glibc = glibc.max(Some((major, minor)));
            }
        }
    }
    let (major, minor) = glibc.context("ebbtide names no version of glibc")?;
    packages.insert(format!("libc6 (>= {major}.{minor})"));
    Ok(packages.into_iter().collect::<Vec<_>>().join(", "))
}

/// The space that an installation takes, in KiB, each file and directory rounded up.
fn installed_size(tree: &Path) -> Result<u64> {
    let mut size = 0;
    for path in walk(tree)? {
        if !path.starts_with("DEBIAN") {
            size += fs::symlink_metadata(tree.join(&path))?.len().div_ceil(1024);
        }
    }
    Ok(size)
}

/// The content of `DEBIAN/md5sums`.
fn checksums(tree: &Path) -> Result<String> {
    let mut command = Command::new("md5sum");
    let files = walk(tree)?;
    // A link has no content of its own.
    let has_sum = |path: &&PathBuf| !path.starts_with("DEBIAN") && !tree.join(path).is_symlink();
    command.current_dir(tree).args(files.iter().filter(has_sum));
    run(command)
}

/// The files below `tree`, relative to it and sorted.
fn walk(tree: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut directories = vec![tree.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for item in fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?
        {
            let path = item?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.insert(path.strip_prefix(tree)?.to_path_buf());
            }
        }
    }
    Ok(files)
}

/// Writes a file below `tree`; the modes do not depend on the umask.
fn install(tree: &Path, destination: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = tree.join(destination);
    let mut directory = tree.to_path_buf();
    fs::create_dir_all(path.parent().unwrap_or(tree))
        .with_context(|| format!("cannot create the directory of {}", path.display()))?;
    set_mode(&directory, 0o755)?;
    for part in Path::new(destination).parent().into_iter().flat_map(Path::components) {
        directory.push(part);
        set_mode(&directory, 0o755)?;
    }
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    set_mode(&path, mode)
}

fn install_binary(tree: &Path, destination: &str, source: &Path) -> Result<()> {
    let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    install(tree, destination, &content, 0o755)?;
    let mut strip = Command::new("strip");
    strip
        .args(["--strip-all", "--remove-section=.comment", "--remove-section=.note"])
        .arg(tree.join(destination));
    run(strip)?;
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn readelf(options: &[&str], binary: &Path) -> Command {
    let mut command = Command::new("readelf");
    command.arg("--wide").args(options).arg(binary);
    command
}

fn last_commit(workspace: &Path) -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace).args(["log", "-1", "--format=%ct"]);
    let seconds = run(git).ok()?.trim().to_owned();
    (!seconds.is_empty()).then_some(seconds)
}

/// Runs a command and returns what it wrote to stdout; its stderr goes to ours.
fn run(mut command: Command) -> Result<String> {
    command.env("LC_ALL", "C.UTF-8").stderr(std::process::Stdio::inherit());
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("cannot run {name}: is it installed?"))?;
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_version_becomes_the_dependency() {
        let readelf = " 0x01 (NEEDED)  Shared library: [libgcc_s.so.1]
 0x01 (NEEDED)  Shared library: [libc.so.6]
 0x01 (NEEDED)  Shared library: [ld-linux-x86-64.so.2]
  0x0010: Name: GLIBC_2.2.5  Flags: none  Version: 5
  0x0020: Name: GLIBC_2.34   Flags: none  Version: 4
  0x0030: Name: GLIBC_2.4    Flags: none  Version: 3";
        assert_eq!(shared_libraries(readelf).unwrap(), "libc6 (>= 2.34), libgcc-s1");
    }

    #[test]
    fn an_unknown_library_is_an_error() {
        let error = shared_libraries("Shared library: [libzstd.so.1]\nGLIBC_2.34").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot tell which package has libzstd.so.1, which ebbtide needs"
        );
    }

    #[test]
    fn name_service_functions_are_found_under_all_their_names() {
        let nm = "main T 10\n__getpwnam_r T 20\ngetgrgid T 30\n__GI_getaddrinfo t 40\ngetpid T 50\ngetgroups T 60";
        assert_eq!(forbidden_symbols(nm), ["__getpwnam_r", "getgrgid", "__GI_getaddrinfo"]);
    }

    #[test]
    fn a_licence_becomes_a_field() {
        assert_eq!(indent("one\n\ntwo\n"), " one\n .\n two");
    }
}
