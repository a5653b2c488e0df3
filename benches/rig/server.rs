//! Servers and loads: builds the peers, starts both pinned together, and reads what a server has cost and holds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{END, Process, works};

/// For a server to listen, under valgrind too.
const START: Duration = Duration::from_secs(30);
/// For a load to say its next line, beyond the slice itself. It gives up on a silent server after ten seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// What to start as a server, on any free port.
pub struct Served<'a> {
    /// In tables and complaints.
    pub name: String,
    pub program: &'a Path,
    pub words: Vec<&'a str>,
}

/// What to ask of it: `depth` requests at once on each of its connections.
pub struct Asked {
    /// As the load calls it.
    pub work: &'static str,
    pub connections: usize,
    pub depth: usize,
    /// Connections besides, that ask once and are silent from then on.
    pub idle: usize,
    /// Bytes of one echo message.
    pub size: usize,
}

/// What this machine has of the tools that are asked for. None is needed; what is missing is said in the output.
pub struct Tools {
    pub pinned: bool,
    pub strace: bool,
    pub valgrind: bool,
}

pub struct Rig {
    pub peers: PathBuf,
    glowplug: Option<PathBuf>,
    /// Words before each server and load that put them on one core, in full batches, with all the descriptors that
    /// they may have.
    prefix: Vec<String>,
    pub cpu: usize,
    pub tools: Tools,
    /// Where the counters write; removed with the rig.
    pub scratch: PathBuf,
}

/// Raises the soft descriptor limit to the hard one: a load has a connection for each of its server's.
const ALL_DESCRIPTORS: &str = "ulimit -S -n \"$(ulimit -H -n)\" && exec \"$0\" \"$@\"";

impl Rig {
    pub fn prepare(cpu: Option<usize>, glowplug: Option<PathBuf>) -> Result<Rig, String> {
        let target = target_directory()?;
        let peers = build_peers(&target)?;
        let glowplug = glowplug.or_else(|| option_env!("CARGO_BIN_EXE_glowplug").map(PathBuf::from));
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
        let scratch = target.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(|why| format!("{}: {why}", scratch.display()))?;
        let mut prefix = if tools.pinned { pin } else { Vec::new() };
        prefix.extend(["sh", "-c", ALL_DESCRIPTORS].map(str::to_owned));
        Ok(Rig { peers, glowplug, prefix, cpu, tools, scratch })
    }

    /// The binary to measure.
    pub fn glowplug(&self) -> Result<&Path, String> {
        let path = self.glowplug.as_deref().ok_or("cargo has built no glowplug here: --glowplug PATH")?;
        path.metadata().map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(path)
    }

    /// A program and its arguments, as they are started here: pinned with everything else.
    pub fn words(&self, program: &Path, arguments: &[String]) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.prefix.iter().map(OsString::from).collect();
        all.push(program.into());
        all.extend(arguments.iter().map(OsString::from));
        all
    }

    /// How times are taken here, and what that means for them.
    pub fn conditions(&self) {
        if self.tools.pinned {
            println!("Server and load share core {} under SCHED_BATCH.", self.cpu);
        } else {
            println!("Without chrt and taskset: neither pinned nor batched, so the times below are rough.");
        }
        if !Path::new("/proc/self/schedstat").exists() {
            println!("Without /proc/PID/schedstat: CPU time in ticks of 10 ms, so take --seconds 3 or more.");
        }
    }

    /// A server that listens. `watcher` is put before its command: strace, valgrind.
    pub fn serve(&self, served: &Served, watcher: &[OsString]) -> Result<Server, String> {
        let mut all: Vec<OsString> = self.prefix.iter().map(OsString::from).collect();
        all.extend_from_slice(watcher);
        all.push(served.program.into());
        all.extend(served.words.iter().map(OsString::from));
        all.extend(["--port", "0"].map(OsString::from));
        let told = |why| format!("{}: {why}", served.name);
        let mut process = Process::start(&all).map_err(told)?;
        let line = process.line(START).map_err(told)?;
        let address = line.strip_prefix("listening ").and_then(|line| line.split_once(" tcp://"));
        let (_, address) = address.ok_or_else(|| told(format!("not a `listening` line: {line}")))?;
        Ok(Server { process, address: address.to_owned(), name: served.name.clone() })
    }

    /// A load that is connected, has had a right answer on each connection, and waits to be told how long to ask.
    pub fn load(&self, server: &Server, asked: &Asked) -> Result<Load, String> {
        let mut all: Vec<OsString> = self.prefix.iter().map(OsString::from).collect();
        all.push(self.peers.clone().into());
        all.extend(["load", asked.work, &server.address, "--slices"].map(OsString::from));
        let numbers = [("connections", asked.connections), ("depth", asked.depth), ("size", asked.size)];
        for (option, number) in numbers.into_iter().chain([("idle", asked.idle)]) {
            all.extend([format!("--{option}").into(), number.to_string().into()]);
        }
        let name = server.name.clone();
        let told = |why| format!("load for {name}: {why}");
        let mut process = Process::start(&all).map_err(told)?;
        let ready = process.line(ANSWER).map_err(told)?;
        let answer_bytes = field(&ready, "answer_bytes").ok_or_else(|| told(ready.clone()))?;
        Ok(Load { process, name, answer_bytes: answer_bytes as usize })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Counts of a run that is over; nobody misses them, nor can anything be done about a failure here.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

pub struct Server {
    process: Process,
    address: String,
    pub name: String,
}

impl Server {
    /// CPU time of all its threads so far, in nanoseconds: exact from the scheduler where the kernel keeps it, else in
    /// clock ticks of 10 ms.
    pub fn cpu_nanos(&self) -> Result<u64, String> {
        cpu_nanos(self.process.id()).map_err(|why| format!("{}: its CPU time: {why}", self.name))
    }

    /// Bytes of its memory that are resident, counted page by page: the sums in `status` lag behind.
    pub fn resident(&self) -> Result<u64, String> {
        let told = |why: &str| format!("{}: its resident memory: {why}", self.name);
        let path = format!("/proc/{}/smaps_rollup", self.process.id());
        let text = std::fs::read_to_string(path).map_err(|why| told(&why.to_string()))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix("kB"));
        let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| told("no Rss"))
    }

    /// Asks it to end and waits; a watcher writes its counts when this happens.
    pub fn end(mut self) -> Result<(), String> {
        // `kill` of the shell: the standard library can only send SIGKILL, which leaves valgrind no time to write.
        let pid = self.process.id().to_string();
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status();
        asked.map_err(|why| format!("sh: {why}"))?;
        let ended = self.process.wait(END).map_err(|why| why.to_string())?;
        ended.map(drop).ok_or_else(|| format!("{} does not end on SIGTERM", self.name))
    }
}

/// CPU time of all threads of a process so far, in nanoseconds.
pub fn cpu_nanos(pid: u32) -> std::io::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        sum += exact_nanos(&path).map_or_else(|| tick_nanos(&path), Ok)?;
    }
    Ok(sum)
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

pub struct Load {
    process: Process,
    name: String,
    pub answer_bytes: usize,
}

/// What the load says of one slice.
pub struct Slice {
    pub requests: f64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Load {
    /// Runs one slice; all that was asked has been answered, and rightly, when this returns.
    pub fn slice(&mut self, unit: &str, value: f64) -> Result<Slice, String> {
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

    /// One request on each connection, on the idle ones too: they have been there all the time.
    pub fn greet(&mut self) -> Result<(), String> {
        let told = |why| format!("load for {}: {why}", self.name);
        self.process.say("greet\n").map_err(|why| told(why.to_string()))?;
        let line = self.process.line(ANSWER).map_err(told)?;
        if line == "greeted" { Ok(()) } else { Err(told(line)) }
    }
}

/// `name=number` in a line of such words.
fn field(line: &str, name: &str) -> Option<f64> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Descriptors that servers and loads may have, each.
pub fn descriptor_limit() -> Result<usize, String> {
    let limits = std::fs::read_to_string("/proc/self/limits").map_err(|why| format!("the limits: {why}"))?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = files.and_then(|rest| rest.split_whitespace().nth(1)).ok_or("no limit of open files")?;
    Ok(hard.parse().unwrap_or(usize::MAX))
}

fn first_allowed_cpu() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    list.trim().split([',', '-']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// This program is `<target>/release/deps/BENCHMARK-…`; a target directory set from outside is met this way too.
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
