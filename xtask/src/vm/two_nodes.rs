//! Two machines as the two nodes of a cluster: a kernel and a clock each, a real wire between them, and a follow on this
//! machine that joins what `tracer observe` writes in each.
//!
//! ```text
//! machine of node 1: tracer-lab node ─ tracer observe ─► virtio-serial ─► FIFO ─►┐
//!        │ wire: datagrams on 127.0.0.1                                          ├─► tracer follow --from --from
//! machine of node 2: tracer-lab node ─ tracer observe ─► virtio-serial ─► FIFO ─►┘
//! ```
//!
//! The second machine's clock is [`OFFSET`] ahead when it is switched on, and gains 1 % from then on.

mod check;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;

use super::{
    debian::{create_dir, write},
    guest::{Guest, Machine},
    job::Outcome,
    kernel::Kernel,
};

/// What the second clock is ahead by.
const OFFSET: Duration = Duration::from_secs(37);
/// The clock's ticks: 10000 us each are right.
const TICKS: [u32; 2] = [10_000, 10_100];
/// A machine, or the follow, that says nothing for so long hangs. Both machines boot meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nodes of the lab.
const NODES: [&str; 2] = ["telekom-xwkb3", "telekom-xwkb8"];
const TOPOLOGIES: [&str; 2] = ["routed-vxlan", "calico-ipip"];

/// One machine's parts.
pub(crate) struct Half<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
}

/// Which kernels are paired: the oldest with the newest, and so on inwards; one alone with itself.
pub(crate) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count.div_ceil(2)).map(move |first| (first, count - 1 - first))
}

/// Runs all topologies on one pair. `programs` holds the static `tracer` and `tracer-lab`.
///
/// # Errors
/// When a machine or the follow breaks or hangs; a topology that fails is a failed outcome.
pub(crate) fn run(dir: &Path, halves: [Half<'_>; 2], programs: &Path) -> Result<Vec<Outcome>> {
    let series = halves.each_ref().map(|half| half.kernel.series());
    let name = format!("Linux {} and {}", series[0], series[1]);
    let job = dir.join(format!("job-nodes-{}-{}", series[0], series[1]));
    if job.exists() {
        fs::remove_dir_all(&job).context("cannot empty the job's directory")?;
    }
    let ports = free_ports().context("cannot find ports for the wire")?;
    let mut nodes = Vec::new();
    for (number, half) in halves.iter().enumerate() {
        nodes.push(Node::start(&job, number, half, programs, ports)?);
    }
    let mut outcomes = Vec::new();
    for topology in TOPOLOGIES {
        let started = Instant::now();
        let result = follow(&job, &mut nodes, programs);
        if let Err(error) = &result {
            eprintln!("[{name}] {topology}: {error:#}");
        } else {
            eprintln!("[{name}] {topology}: ok, {:.0} s", started.elapsed().as_secs_f64());
        }
        let passed = result.is_ok();
        outcomes.push(Outcome {
            group: format!("two nodes: {topology}"),
            passed,
            took: started.elapsed(),
            tests: vec![(
                topology.to_owned(),
                if passed { "ok" } else { "FAILED" }.to_owned(),
                started.elapsed(),
            )],
        });
        if !passed {
            for node in &nodes {
                eprintln!("{}", node.guest.shown_console());
            }
            return Ok(outcomes);
        }
    }
    for node in &mut nodes {
        node.until("@@ done")?;
    }
    Ok(outcomes)
}

/// Follows while the first node sends, and judges what was told.
fn follow(job: &Path, nodes: &mut [Node], programs: &Path) -> Result<()> {
    for node in &mut *nodes {
        node.until("@@ ready")?;
    }
    let mut follow = Follow::start(job, nodes, programs)?;
    follow.until("following ")?;
    nodes[0].tell("traffic")?;
    nodes[0].until("@@ sent")?;
    for (order, done) in [("end", "@@ ended"), ("leave", "@@ left")] {
        for node in &mut *nodes {
            node.tell(order)?;
        }
        for node in &mut *nodes {
            node.until(done)?;
        }
    }
    let (told, said) = follow.until_its_end()?;
    check::check(&told, &said, NODES)
        .with_context(|| format!("the follow told (all in {}):", follow.log.display()))
}

/// A machine that is a node.
struct Node {
    guest: Guest,
    directory: PathBuf,
    control: File,
}

impl Node {
    fn start(job: &Path, number: usize, half: &Half<'_>, programs: &Path, ports: [u16; 2]) -> Result<Self> {
        let directory = job.join(NODES[number]);
        create_dir(&directory)?;
        let mut more = wire(number, ports);
        more.extend(["-rtc".to_owned(), format!("base={}", clock(number)?)]);
        more.extend(["-device".to_owned(), "virtio-serial-pci".to_owned()]);
        for channel in ["stream", "control"] {
            let path = directory.join(channel);
            for end in ["in", "out"] {
                process::run(Command::new("mkfifo").arg(path.with_extension(end)))?;
            }
            more.extend(["-chardev".to_owned(), format!("pipe,id={channel},path={}", path.display())]);
            more.extend(["-device".to_owned(), format!("virtserialport,chardev={channel},name={channel}")]);
        }
        write(&directory.join("run"), script(number))?;
        // For reading too: it is there before qemu and stays open when that goes.
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(directory.join("control.in"))
            .context("cannot open the way to the machine")?;
        let name = format!("Linux {} as {}", half.kernel.series(), NODES[number]);
        let guest = Machine {
            name: &name,
            vmlinux: &half.kernel.vmlinux,
            initramfs: half.initramfs,
            programs,
            job: &directory,
            log: "console.log",
            more,
            patience: PATIENCE,
        }
        .start()?;
        Ok(Self { guest, directory, control })
    }

    /// Reads its console up to a line.
    fn until(&mut self, mark: &str) -> Result<()> {
        while let Some(line) = self.guest.next_line()? {
            if line == mark {
                return Ok(());
            }
            if let Some(error) = line.strip_prefix("error: ") {
                bail!("{error}\n{}", self.guest.shown_console());
            }
        }
        bail!("the machine ended before it said {mark:?}. {}", self.guest.shown_console())
    }

    fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.control, "{order}").context("cannot tell the machine what to do")
    }

    fn stream(&self) -> PathBuf {
        self.directory.join("stream.out")
    }
}

/// Ports that nobody has at this moment.
fn free_ports() -> std::io::Result<[u16; 2]> {
    let sockets = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    Ok([sockets[0].local_addr()?.port(), sockets[1].local_addr()?.port()])
}

/// A network card whose wire is datagrams to the other machine's.
fn wire(number: usize, ports: [u16; 2]) -> Vec<String> {
    let (local, remote) = (ports[number], ports[1 - number]);
    let netdev = format!(
        "dgram,id=wire,local.type=inet,local.host=127.0.0.1,local.port={local},remote.type=inet,\
         remote.host=127.0.0.1,remote.port={remote}"
    );
    ["-netdev", &netdev, "-device", "virtio-net-pci,netdev=wire"].map(str::to_owned).to_vec()
}

/// What a machine's clock shows when it is switched on, as qemu wants it.
fn clock(number: usize) -> Result<String> {
    let now = SystemTime::now() + OFFSET * u32::from(number == 1);
    let seconds = now.duration_since(UNIX_EPOCH).context("this machine's clock is before 1970")?.as_secs();
    let mut date = Command::new("date");
    date.args(["--utc", &format!("--date=@{seconds}"), "+%Y-%m-%dT%H:%M:%S"]);
    process::output(&mut date).map(|text| text.trim().to_owned()).context("cannot run date")
}

/// What a machine does: the lab's half, one topology after the other.
fn script(number: usize) -> String {
    let mut script = "\
port() {
    for port in /sys/class/virtio-ports/*; do
        [ \"$(cat \"$port/name\")\" = \"$1\" ] && echo \"/dev/${port##*/}\"
    done
}
for nic in /sys/class/net/*; do
    [ -e \"$nic/device\" ] && nic=${nic##*/} && break
done
# An emulated processor's counter is measured at boot, and wrongly when this machine is busy; the board's timer and clock
# are right.
source=/sys/devices/system/clocksource/clocksource0
for timer in hpet acpi_pm; do
    case \" $(cat $source/available_clocksource) \" in
        *\" $timer \"*) echo $timer > $source/current_clocksource && break ;;
    esac
done
date --utc --set=\"@$(cat /sys/class/rtc/rtc0/since_epoch)\"
export TRACER_BIN=/programs/tracer
cd /programs
"
    .to_owned();
    for topology in TOPOLOGIES {
        script += &format!(
            "./tracer-lab node --topology {topology} --node {} --nic \"$nic\" --stream \"$(port stream)\" \
             --control \"$(port control)\" --directory /job --tick {} 2>&1\n",
            NODES[number], TICKS[number]
        );
    }
    script
}

/// `tracer follow --from --from`.
struct Follow {
    child: Child,
    /// Standard error.
    said: Receiver<String>,
    told: Receiver<String>,
    log: PathBuf,
}

impl Follow {
    fn start(job: &Path, nodes: &[Node], programs: &Path) -> Result<Self> {
        let mut command = Command::new(programs.join("tracer"));
        command.args(["follow", "--pod", "curl", "--to", "httpbin", "--output", "json", "--inventory"]);
        command.arg(nodes[0].directory.join("inventory.yaml"));
        for node in nodes {
            command.arg("--from").arg(node.stream());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start tracer follow")?;
        let said = lines(child.stderr.take().context("tracer follow has no standard error")?);
        let told = lines(child.stdout.take().context("tracer follow has no standard output")?);
        Ok(Self { child, said, told, log: job.join("follow.json") })
    }

    fn until(&mut self, beginning: &str) -> Result<()> {
        let mut said = Vec::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(beginning) => return Ok(()),
                Ok(line) => said.push(line),
                Err(_) => bail!("tracer follow did not say {beginning:?}; it said:\n{}", said.join("\n")),
            }
        }
    }

    /// Both streams end, and with them the follow. Returns what it told, and what it said since it followed.
    fn until_its_end(&mut self) -> Result<(Vec<String>, Vec<String>)> {
        let end = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        loop {
            match self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => told.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("tracer follow does not end with its streams"),
            }
        }
        write(&self.log, told.join("\n"))?;
        let status = self.child.wait().context("cannot wait for tracer follow")?;
        let said: Vec<_> = self.said.iter().collect();
        ensure!(status.success(), "tracer follow ended with {status}: {}", said.join("\n"));
        Ok((told, said))
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // By its handle; if it ended just before, there is nothing left to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The lines of a child's output, read by a thread that ends with it.
fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_kernel_is_paired_with_the_newest() {
        assert_eq!(pairs(4).collect::<Vec<_>>(), [(0, 3), (1, 2)]);
        assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 2), (1, 1)]);
        assert_eq!(pairs(1).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(pairs(0).count(), 0);
    }
}
