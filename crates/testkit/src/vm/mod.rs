//! A virtual machine: booted, talked to as root, rebooted, switched off or cut off from power.
//!
//! QEMU runs with emulated processors only, so that it works everywhere, and so that a boot takes
//! about half a minute. All waiting is generous: a loaded machine is three times slower.
//!
//! An error from a machine ends with the last lines of its console; all of it is in `console.log`.

mod channel;
mod console;
mod machine;
mod monitor;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

pub use channel::Output;
pub use machine::{Fault, Machine};

use crate::process::tail;
use channel::{Announced, Channel, Reply};
use console::{Console, Waited};
use machine::{LATE, Qemu};
use monitor::Monitor;

const BOOT: Duration = Duration::from_secs(420);
const COMMAND: Duration = Duration::from_secs(240);
const SHUTDOWN: Duration = Duration::from_secs(240);

/// What a healthy boot or shutdown never writes to the console.
const TROUBLE: &[&str] = &[
    "FAILED]",
    "DEPEND]",
    "TIME ]",
    "Failed unmounting",
    "Failed to unmount",
    "Failed to mount",
    "emergency mode",
    "BTRFS error",
    "BTRFS critical",
    "EXT4-fs error",
    "kernel BUG",
    "Kernel panic",
    "Oops:",
];

/// The last words of a kernel before the machine is off.
const POWERED_OFF: &str = "reboot: Power down";

/// Run after a resume: see systemd-sleep(8).
const AFTER_SLEEP: &str = "/usr/lib/systemd/system-sleep/testkit";
const AFTER_SLEEP_SCRIPT: &str = "#!/bin/sh\n\
    [ \"$1\" = pre ] || systemctl --no-block restart testkit-agent.service\n";

/// What a boot ends with that needs somebody at the keyboard.
const DEAD_END: &[&str] = &["Kernel panic", "(initramfs)", "grub rescue>", "grub>"];

/// A running machine. Dropping it is cutting its power.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    qemu: Qemu,
    console: Console,
    channel: Channel,
    monitor: Monitor,
    /// The id of the boot that was waited for last.
    boot_id: String,
    /// Where on the console the last shutdown or, failing that, the first boot began.
    mark: usize,
}

impl Vm {
    /// Waits until the guest answers and has settled: running, degraded, or in emergency mode,
    /// which only [`Vm::assert_healthy`] tells apart.
    ///
    /// # Errors
    ///
    /// Fails when there is no further boot, or it does not settle in time.
    pub fn wait_for_boot(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        let booted = self.wait_until_ready(deadline);
        self.boot_id = self.explain(booted)?;
        let rest = deadline.saturating_duration_since(Instant::now());
        self.run_within("systemctl is-system-running --wait", &[], rest)?;
        Ok(())
    }

    fn wait_until_ready(&mut self, deadline: Instant) -> Result<String> {
        loop {
            match self.channel.wait_until_ready(&self.boot_id, Duration::from_secs(1)) {
                Announced::Ready(boot_id) => return Ok(boot_id),
                Announced::Ended => self.revive()?,
                Announced::TimedOut => {}
            }
            let text = self.console_since_shutdown();
            if let Some(dead_end) = DEAD_END.iter().find(|dead_end| text.contains(**dead_end)) {
                bail!("the boot went no further than {dead_end:?}");
            }
            ensure!(Instant::now() < deadline, "no boot within {BOOT:?}");
        }
    }

    /// Starts QEMU anew after the guest has reset the machine, on which QEMU ends.
    ///
    /// It could reset the machine itself, but then has to find out for every page of memory that
    /// the code it translated there before is gone: the boot takes twice as long.
    fn revive(&mut self) -> Result<()> {
        let status = self.qemu.0.wait().context("cannot wait for QEMU")?;
        self.console.wait_for_end();
        ensure!(status.success(), "QEMU ended by itself: {status}");
        ensure!(!self.console_since_shutdown().contains(POWERED_OFF), "the guest powered off");
        (self.qemu, self.channel, self.monitor) = self.machine.run_qemu(&self.console)?;
        Ok(())
    }

    /// Types a line at the console, as to answer what [`Vm::wait_for_console`] has seen.
    ///
    /// # Errors
    ///
    /// Fails when QEMU has ended.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let keyboard = self.qemu.0.stdin.as_mut().context("QEMU has no standard input")?;
        writeln!(keyboard, "{line}").context("cannot type at the console")
    }

    /// Plugs the disk of [`Machine::disk_to_plug_in`] in.
    ///
    /// # Errors
    ///
    /// Fails when there is none, or when it is plugged in already.
    pub fn plug_in(&mut self) -> Result<()> {
        let plugged = self.monitor.execute(&format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"virtio-blk-pci","id":"{LATE}-disk","drive":"{LATE}","bus":"{LATE}-port"}}}}"#
        ));
        self.explain(plugged)
    }

    /// Returns the process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.qemu.0.id()
    }

    /// Returns the kernel's id of this boot, `/proc/sys/kernel/random/boot_id`.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Runs `command` with bash, as root in `/root`, and waits for its end.
    ///
    /// # Errors
    ///
    /// Fails when there is no result in time, not when the command's status is not 0.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_within(command, &[], COMMAND)
    }

    /// Like [`Vm::run`], with standard input and a limit of its own.
    ///
    /// # Errors
    ///
    /// Fails when there is no result in time, not when the command's status is not 0.
    pub fn run_within(&mut self, command: &str, input: &[u8], limit: Duration) -> Result<Output> {
        let reply = self.channel.run(command, input, limit).and_then(|reply| match reply {
            Reply::Result(output) => Ok(output),
            Reply::Restarted => bail!("the guest or its agent restarted during `{command}`"),
            Reply::TimedOut => bail!("`{command}` did not end within {limit:?}"),
            Reply::Ended => bail!("QEMU ended during `{command}`"),
        });
        self.explain(reply)
    }

    /// Runs `command`, which has to succeed, and returns its standard output as text, without space
    /// at its ends.
    ///
    /// # Errors
    ///
    /// Fails when the command does, with what it wrote.
    pub fn check(&mut self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        if !output.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "in the guest: `{command}`: exit status {}\n{}\n{}",
                output.status,
                tail(&output.text(), 40),
                tail(&stderr, 40),
            );
        }
        Ok(output.text())
    }

    /// Writes a file in the guest; its directory has to exist.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn write_file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let command = format!("cat >'{}'", path.replace('\'', r"'\''"));
        let output = self.run_within(&command, content, COMMAND)?;
        ensure!(output.success(), "cannot write {path} in the guest");
        Ok(())
    }

    /// Reboots with `systemctl reboot` and waits for the next boot.
    ///
    /// # Errors
    ///
    /// Fails when the shutdown or the boot does.
    pub fn reboot(&mut self) -> Result<()> {
        self.request_reboot()?;
        self.wait_for_boot()
    }

    /// Begins a reboot and returns at once: to cut the power in the midst of it, for example.
    ///
    /// # Errors
    ///
    /// Fails when the guest does not take the request.
    pub fn request_reboot(&mut self) -> Result<()> {
        self.request("systemctl --no-block reboot")
    }

    /// Has the guest power off, in good order, and fails if it had trouble doing so. Returns what
    /// it wrote to the console from the request on.
    ///
    /// # Errors
    ///
    /// Fails when it does not end in time, or with trouble on the console.
    pub fn power_off_cleanly(mut self) -> Result<String> {
        self.request("systemctl --no-block poweroff")?;
        // Emulated hardware can take its time after the kernel is done: the kernel's word counts.
        let waited = self.console.wait_for(POWERED_OFF, self.mark, SHUTDOWN);
        if waited == Waited::TimedOut {
            return self.explain(Err(anyhow!("no power off within {SHUTDOWN:?}")));
        }
        let ended = trouble(&self.console_since_shutdown(), &self.machine.tolerated);
        self.explain(ended)?;
        let text = self.console_since_shutdown();
        self.qemu.kill()?;
        Ok(text)
    }

    /// Has the guest hibernate, into swap space that it uses, and waits until the machine is off. A machine
    /// that is started on the same disks then resumes, if its command line has `resume=`.
    ///
    /// # Errors
    ///
    /// Fails when it does not take the request, or is not off in time.
    pub fn hibernate(mut self) -> Result<()> {
        // The agent that was there before would wait for an answer from this QEMU.
        self.write_file(AFTER_SLEEP, AFTER_SLEEP_SCRIPT.as_bytes())?;
        self.check(&format!("chmod +x {AFTER_SLEEP}"))?;
        self.request("systemctl --no-block hibernate")?;
        self.wait_for_exit(SHUTDOWN)
    }

    /// Kills QEMU. What the guest had not submitted to its disks is lost.
    ///
    /// # Errors
    ///
    /// Fails when QEMU had ended by itself before, or cannot be killed.
    pub fn cut_power(mut self) -> Result<()> {
        let ended = match self.qemu.0.try_wait()? {
            Some(status) => Err(anyhow!("QEMU had ended before the power was cut: {status}")),
            None => Ok(()),
        };
        self.explain(ended)?;
        self.qemu.kill()
    }

    /// Waits until `pattern` is on the console, after the last requested shutdown or, if there was
    /// none, since the start; through a reboot if need be.
    ///
    /// # Errors
    ///
    /// Fails when it has not come within `timeout` or never will.
    pub fn wait_for_console(&mut self, pattern: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let seen = loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            match self.console.wait_for(pattern, self.mark, rest) {
                Waited::Seen => break Ok(()),
                Waited::TimedOut => {
                    break Err(anyhow!("{pattern:?} was not on the console in {timeout:?}"));
                }
                Waited::Ended => {
                    if let Err(error) = self.revive() {
                        break Err(error.context(format!("{pattern:?} was not on the console")));
                    }
                }
            }
        };
        self.explain(seen)
    }

    /// Waits until the machine is off, or has been reset by a reboot that was requested, and leaves
    /// it there.
    ///
    /// # Errors
    ///
    /// Fails when it has not ended within `timeout`.
    pub fn wait_for_exit(mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.qemu.0.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                return self.explain(Err(anyhow!("QEMU did not end within {timeout:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Returns all that was written to the console so far, without escape sequences.
    pub fn console(&self) -> String {
        self.console.since(0)
    }

    /// Returns what was written to the console since the last requested shutdown began, this boot
    /// included; without one, since the start.
    pub fn console_since_shutdown(&self) -> String {
        self.console.since(self.mark)
    }

    /// Fails unless this boot is up with no failed unit, and neither it nor the shutdown before it
    /// wrote of trouble to the console.
    ///
    /// # Errors
    ///
    /// Says what is not healthy.
    pub fn assert_healthy(&mut self) -> Result<()> {
        let state = self.run("systemctl is-system-running")?.text();
        if state != "running" {
            let details = self.run(
                "systemctl list-jobs --no-pager; \
                 for unit in $(systemctl --failed --plain --no-legend | cut -d' ' -f1); do \
                 systemctl status --no-pager --full --lines=20 \"$unit\"; done",
            )?;
            return self.explain(Err(anyhow!("the guest is {state}:\n{}", details.text())));
        }
        let boot_id = self.check("cat /proc/sys/kernel/random/boot_id")?;
        ensure!(boot_id == self.boot_id, "the guest has rebooted without being asked to");
        let result = trouble(&self.console_since_shutdown(), &self.machine.tolerated);
        self.explain(result)
    }

    /// Gives `command` to the guest and does not mind when the answer is lost in the shutdown.
    fn request(&mut self, command: &str) -> Result<()> {
        self.mark = self.console.len();
        let reply = self.channel.run(command, &[], COMMAND).and_then(|reply| match reply {
            Reply::Result(output) if !output.success() => {
                bail!("`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim())
            }
            Reply::Result(_) | Reply::Restarted | Reply::Ended => Ok(()),
            Reply::TimedOut => bail!("the guest did not take `{command}`"),
        });
        self.explain(reply)
    }

    /// Adds the last lines of the console to an error.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let console = self.console();
            anyhow!("{error:#}\n--- the console's last lines ---\n{}", tail(&console, 60))
        })
    }
}

/// Fails if `console` has a line that a healthy guest does not write, other than those with words that
/// are `tolerated`.
fn trouble(console: &str, tolerated: &[&str]) -> Result<()> {
    let lines: Vec<&str> = console
        .lines()
        .filter(|line| TROUBLE.iter().any(|trouble| line.contains(trouble)))
        .filter(|line| !tolerated.iter().any(|words| line.contains(words)))
        .collect();
    ensure!(lines.is_empty(), "trouble on the console:\n{}", lines.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_recognised() {
        for line in [
            "[FAILED] Failed to start a.service.",
            "[FAILED] Failed unmounting var-log.mount - /var/log.",
            "[DEPEND] Dependency failed for local-fs.target.",
            "[    8.4] BTRFS error (device vda2): open_ctree failed: -22",
        ] {
            let console = format!("fine\n{line}\nfine");
            assert!(trouble(&console, &["Failed to unmount /usr"]).is_err(), "{line}");
            assert!(trouble(&console, &[line]).is_ok(), "{line}");
        }
        assert!(
            trouble("[  OK  ] Started cron.service.\n[   31.5] reboot: Restarting system", &[])
                .is_ok()
        );
    }
}
