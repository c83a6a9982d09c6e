//! One virtual machine: qemu, its console, and what goes wrong with it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Kernel command line: no delays of real hardware, and a fault of the kernel's ends the machine at once. Programs are
/// always at the same addresses: qemu then translates each once and not at each start, which saves a third of all time.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off nokaslr no_timer_check \
                            tsc=reliable rcupdate.rcu_expedited=1 net.ifnames=0 norandmaps rdinit=/init";
/// What every processor since 2009 has; the same instructions on every host.
const CPU: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand";
/// What the kernel says when it is broken, beside a panic, which ends the machine.
const FAULTS: [&str; 3] = ["Kernel panic - not syncing", "BUG: ", "general protection fault"];

/// What a machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Machine<'a> {
    /// For people: `Linux 5.10`.
    pub(crate) name: &'a str,
    pub(crate) vmlinux: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Shared read-only, at /programs.
    pub(crate) programs: &'a Path,
    /// Shared for writing, at /job; `run` in it is what the machine does.
    pub(crate) job: &'a Path,
    /// The file there for the console.
    pub(crate) log: &'a str,
    /// Further arguments of qemu.
    pub(crate) more: Vec<String>,
    /// A machine that says nothing for so long hangs.
    pub(crate) patience: Duration,
}

/// A running machine. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Guest {
    name: String,
    child: Child,
    lines: Receiver<String>,
    console: Vec<String>,
    log: PathBuf,
    file: File,
    patience: Duration,
}

impl Machine<'_> {
    /// Switches it on.
    ///
    /// # Errors
    /// When qemu cannot be started.
    pub(crate) fn start(&self) -> Result<Guest> {
        // Goes with us, however we end.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // Emulated even where there is a /dev/kvm: inside of other machines that is often broken, and then hangs.
        qemu.args(["-accel", "tcg,thread=multi"]);
        qemu.args(["-machine", "q35", "-cpu", CPU, "-smp", "1", "-m", "1024M"]);
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.args(["-append", COMMAND_LINE]);
        qemu.arg("-kernel").arg(self.vmlinux).arg("-initrd").arg(self.initramfs);
        for (tag, path, access) in [("programs", self.programs, ",readonly=on"), ("job", self.job, "")] {
            let path = path.display();
            qemu.args([
                "-fsdev",
                &format!("local,id={tag},path={path},security_model=none,multidevs=remap{access}"),
            ]);
            qemu.args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
        }
        qemu.args(["-device", "virtio-rng-pci"]);
        qemu.args(&self.more);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = qemu.spawn().with_context(|| format!("cannot start {}", process::shown(&qemu)))?;
        let stdout = child.stdout.take().context("qemu has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut console = BufReader::new(stdout);
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let log = self.job.join(self.log);
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let name = self.name.to_owned();
        Ok(Guest { name, child, lines, console: Vec::new(), log, file, patience: self.patience })
    }
}

impl Guest {
    /// The next line of the console; `None` when the machine has switched itself off.
    ///
    /// # Errors
    /// When the machine has been silent for too long, or its kernel is broken; with its console.
    pub(crate) fn next_line(&mut self) -> Result<Option<String>> {
        let line = match self.lines.recv_timeout(self.patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return self.has_ended().map(|()| None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{}: silent for {} s.\n{}", self.name, self.patience.as_secs(), self.shown_console());
            }
        };
        self.note(line.clone());
        if FAULTS.iter().any(|fault| line.contains(fault)) {
            // What the kernel says about it comes right behind.
            let end = Instant::now() + Duration::from_secs(5);
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let Ok(line) = self.lines.recv_timeout(left) else { break };
                self.note(line);
            }
            bail!("{}: the kernel is broken.\n{}", self.name, self.shown_console());
        }
        Ok(Some(line))
    }

    fn note(&mut self, line: String) {
        // Who reads the file while the machine runs is helped by it; what counts is the console in memory.
        let _ = writeln!(self.file, "{line}");
        self.console.push(line);
    }

    fn has_ended(&mut self) -> Result<()> {
        let status = self.child.wait().context("cannot wait for qemu")?;
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        if !status.success() {
            bail!("{}: qemu ended with {status}: {said}\n{}", self.name, self.shown_console());
        }
        Ok(())
    }

    /// The last lines of the console, and where all of it is.
    pub(crate) fn shown_console(&self) -> String {
        const SHOWN: usize = 120;
        let from = self.console.len().saturating_sub(SHOWN);
        let lines = self.console[from..].join("\n  | ");
        format!("Its console (all of it is in {}) ends with:\n  | {lines}", self.log.display())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // By its handle; if it ended just before, there is nothing left to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
