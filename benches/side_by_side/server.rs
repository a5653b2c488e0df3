//! Servers and loads: builds the peers, starts both pinned together, and reads what a server has cost.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Work;
use crate::process::{END, Process, works};

/// For a server to listen, under valgrind too.
const START: Duration = Duration::from_secs(30);
/// For a load to say its next line, beyond the slice itself. It gives up on a silent server after ten seconds.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Contender {
    Mio,
    Glowplug,
    Tokio,
    /// The control: mio in a second process.
    MioAgain,
}

impl Contender {
    pub(crate) fn named(name: &str) -> Option<Contender> {
        [Contender::Mio, Contender::Glowplug, Contender::Tokio].into_iter().find(|c| c.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Mio => "mio",
            Contender::Glowplug => "glowplug",
            Contender::Tokio => "tokio",
            Contender::MioAgain => "mio again",
        }
    }
}

/// What this machine has of the tools that are asked for. None is needed; what is missing is said in the output.
pub(crate) struct Tools {
    pub(crate) pinned: bool,
    pub(crate) strace: bool,
    pub(crate) valgrind: bool,
}

pub(crate) struct Bench {
    peers: PathBuf,
    glowplug: PathBuf,
    /// Words before each server and load that put them on one core, in full batches.
    prefix: Vec<String>,
    pub(crate) cpu: usize,
    pub(crate) tools: Tools,
    /// Where the counters write; removed with the bench.
    pub(crate) scratch: PathBuf,
}

impl Bench {
    pub(crate) fn prepare(
        cpu: Option<usize>,
        glowplug: Option<PathBuf>,
        contenders: &[Contender],
    ) -> Result<Bench, String> {
        let target = target_directory()?;
        let peers = build_peers(&target)?;
        let glowplug = glowplug.or_else(|| option_env!("CARGO_BIN_EXE_glowplug").map(PathBuf::from));
        if contenders.contains(&Contender::Glowplug) {
            let path = glowplug.as_ref().ok_or("cargo has built no glowplug here: --glowplug PATH")?;
            path.metadata().map_err(|why| format!("{}: {why}", path.display()))?;
        }
        let wanted = cpu;
        let cpu = wanted.unwrap_or_else(first_allowed_cpu);
        let pin = ["chrt", "-b", "0", "taskset", "-c", &cpu.to_string()].map(str::to_owned).to_vec();
        let tools = Tools {
            pinned: works(&pin, &["true"]),
            strace: works(&[], &["strace", "-D", "-f", "-c", "-o", "/dev/null", "true"]),
            valgrind: works(&[], &["valgrind", "--version"]),
        };
        if wanted.is_some() && !tools.pinned {
            return Err(format!("`{} true` fails, so there is no pinning to core {cpu}", pin.join(" ")));
        }
        let scratch = target.join(format!("side-by-side-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(|why| format!("{}: {why}", scratch.display()))?;
        let prefix = if tools.pinned { pin } else { Vec::new() };
        Ok(Bench { peers, glowplug: glowplug.unwrap_or_default(), prefix, cpu, tools, scratch })
    }

    /// A server that listens. `watcher` is put before its command: strace, valgrind.
    pub(crate) fn serve(&self, contender: Contender, work: Work, watcher: &[OsString]) -> Result<Server, String> {
        let words: &[&str] = match (contender, work) {
            (Contender::Mio | Contender::MioAgain, _) => &["mio", work.name()],
            (Contender::Tokio, _) => &["tokio", work.name()],
            (Contender::Glowplug, Work::Http) => &["http", "--log-level", "warn"],
            (Contender::Glowplug, Work::Echo) => &["echo", "--raw", "--log-level", "warn"],
        };
        let program = if contender == Contender::Glowplug { &self.glowplug } else { &self.peers };
        let mut all: Vec<OsString> = self.prefix.iter().map(OsString::from).collect();
        all.extend_from_slice(watcher);
        all.push(program.into());
        all.extend(words.iter().map(OsString::from));
        all.extend(["--port", "0"].map(OsString::from));
        let told = |why| format!("{} {}: {why}", contender.name(), work.name());
        let mut process = Process::start(&all).map_err(told)?;
        let line = process.line(START).map_err(told)?;
        let address = line.strip_prefix(&format!("listening {} tcp://", work.name()));
        let address = address.ok_or_else(|| told(format!("not a `listening` line: {line}")))?.to_owned();
        Ok(Server { process, address, name: contender.name() })
    }

    /// A load that is connected, has had a right answer on each connection, and waits to be told how long to ask.
    pub(crate) fn load(
        &self,
        server: &Server,
        work: Work,
        connections: usize,
        depth: usize,
        size: usize,
    ) -> Result<Load, String> {
        let mut all: Vec<OsString> = self.prefix.iter().map(OsString::from).collect();
        all.push(self.peers.clone().into());
        let (connections, depth, size) = (connections.to_string(), depth.to_string(), size.to_string());
        let words = ["load", work.name(), &server.address, "--slices", "--connections", &connections];
        all.extend(words.iter().map(OsString::from));
        all.extend(["--depth", &depth, "--size", &size].map(OsString::from));
        let name = server.name;
        let mut process = Process::start(&all).map_err(|why| format!("load for {name}: {why}"))?;
        let ready = process.line(ANSWER).map_err(|why| format!("load for {name}: {why}"))?;
        let answer_bytes = field(&ready, "answer_bytes").ok_or_else(|| format!("load for {name}: {ready}"))?;
        Ok(Load { process, name, answer_bytes: answer_bytes as usize })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Counts of a run that is over; nobody misses them, nor can anything be done about a failure here.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

pub(crate) struct Server {
    process: Process,
    address: String,
    pub(crate) name: &'static str,
}

impl Server {
    /// CPU time of all its threads so far, in nanoseconds: exact from the scheduler where the kernel keeps it, else in
    /// clock ticks of 10 ms.
    pub(crate) fn cpu_nanos(&self) -> Result<u64, String> {
        let pid = self.process.id();
        let told = |why: std::io::Error| format!("{}: its CPU time: {why}", self.name);
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(told)? {
            let path = task.map_err(told)?.path();
            sum += exact_nanos(&path).map_or_else(|| tick_nanos(&path), Ok).map_err(told)?;
        }
        Ok(sum)
    }

    /// Asks it to end and waits; a watcher writes its counts when this happens.
    pub(crate) fn end(mut self) -> Result<(), String> {
        // `kill` of the shell: the standard library can only send SIGKILL, which leaves valgrind no time to write.
        let pid = self.process.id().to_string();
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status();
        asked.map_err(|why| format!("sh: {why}"))?;
        let ended = self.process.wait(END).map_err(|why| why.to_string())?;
        ended.map(drop).ok_or_else(|| format!("{} does not end on SIGTERM", self.name))
    }
}

fn exact_nanos(task: &Path) -> Option<u64> {
    std::fs::read_to_string(task.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
}

fn tick_nanos(task: &Path) -> std::io::Result<u64> {
    const TICK_NANOS: u64 = 10_000_000;
    let stat = std::fs::read_to_string(task.join("stat"))?;
    // The name comes first and may hold spaces; utime and stime are the 12th and 13th word after it.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    Ok(words.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * TICK_NANOS)
}

pub(crate) struct Load {
    process: Process,
    name: &'static str,
    pub(crate) answer_bytes: usize,
}

/// What the load says of one slice.
pub(crate) struct Slice {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Load {
    /// Runs one slice; all that was asked has been answered, and rightly, when this returns.
    pub(crate) fn slice(&mut self, unit: &str, value: f64) -> Result<Slice, String> {
        let told = |why| format!("load for {}: {why}", self.name);
        self.process.say(&format!("{unit} {value}\n")).map_err(|why| told(why.to_string()))?;
        let limit = if unit == "seconds" { ANSWER + Duration::from_secs_f64(value) } else { ANSWER * 10 };
        let line = self.process.line(limit).map_err(told)?;
        let get = |name| field(&line, name).ok_or_else(|| told(format!("no {name} in: {line}")));
        let slice = Slice {
            requests: get("requests")?,
            seconds: get("seconds")?,
            p50_us: get("p50_us")?,
            p99_us: get("p99_us")?,
        };
        if slice.requests > 0.0 { Ok(slice) } else { Err(told("nothing was answered".to_owned())) }
    }
}

/// `name=number` in a line of such words.
fn field(line: &str, name: &str) -> Option<f64> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn first_allowed_cpu() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    list.trim().split([',', '-']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// This program is `<target>/release/deps/side_by_side-…`; a target directory set from outside is met this way too.
fn target_directory() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|why| format!("this program's path: {why}"))?;
    this.ancestors().nth(3).map(Path::to_owned).ok_or_else(|| format!("no target directory above {}", this.display()))
}

/// By cargo, every time: it does nothing when nothing has changed.
fn build_peers(target: &Path) -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/Cargo.toml");
    let target = target.join("peers");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(&cargo)
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()
        .map_err(|why| format!("{}: {why}", Path::new(&cargo).display()))?;
    if status.success() { Ok(target.join("release/peers")) } else { Err("the peers do not build".to_owned()) }
}
