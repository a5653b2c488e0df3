//! Servers and their loads: builds the peers, starts a server and a load pinned together, and reads the server's CPU
//! time and memory.

use std::ffi::OsString;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::load::Load;
use super::options::Shared;
use super::process::{END, Process, works};
use super::tree;

/// Limit for a server to listen, under valgrind too.
const START: Duration = Duration::from_secs(30);

/// A server to start, on any free port.
pub struct Served<'a> {
    /// The name in tables and errors.
    pub name: String,
    pub program: &'a Path,
    pub words: Vec<&'a str>,
}

impl<'a> Served<'a> {
    /// The program and its arguments, before the arguments for the address.
    fn command(&self) -> impl Iterator<Item = OsString> + use<'a> {
        let words = self.words.clone();
        std::iter::once(self.program.into()).chain(words.into_iter().map(OsString::from))
    }
}

/// The load of a server: `depth` requests at once on each connection.
pub struct Asked {
    /// The load's name for the protocol.
    pub work: &'static str,
    pub connections: usize,
    pub depth: usize,
    /// Further connections that ask once and are silent from then on.
    pub idle: usize,
    /// Bytes of one echo message.
    pub size: usize,
}

/// The tools of this machine. All are optional, and the output names missing tools.
pub struct Tools {
    pub pinned: bool,
    pub strace: bool,
    pub valgrind: bool,
}

pub struct Rig {
    pub peers: PathBuf,
    glowplug: Option<PathBuf>,
    /// Words before each server and load that put both on one core, in full batches.
    pin: Vec<String>,
    pub cpu: usize,
    pub tools: Tools,
    /// Directory for the counters' files; removed with the rig.
    pub scratch: PathBuf,
}

/// Raises the soft descriptor limit to the hard one: a load has a connection for each of its server's.
const ALL_DESCRIPTORS: [&str; 3] = ["sh", "-c", "ulimit -S -n \"$(ulimit -H -n)\" && exec \"$0\" \"$@\""];

impl Rig {
    pub fn prepare(options: &Shared) -> Result<Rig, String> {
        let target = target_directory()?;
        let peers = build_peers(&target, options.hyper)?;
        let built = || option_env!("CARGO_BIN_EXE_glowplug").map(PathBuf::from);
        let glowplug = options.glowplug.clone().or_else(built);
        let cpu = options.cpu.unwrap_or_else(first_allowed_cpu);
        let pin = ["chrt", "-b", "0", "taskset", "-c", &cpu.to_string()].map(str::to_owned).to_vec();
        let tools = Tools {
            pinned: works(&pin, &["true"]),
            strace: works(&[], &["strace", "-D", "-f", "-c", "-o", "/dev/null", "true"]),
            valgrind: works(&[], &["valgrind", "--version"]),
        };
        if options.cpu.is_some() && !tools.pinned {
            return Err(format!("`{} true` fails, so there is no pinning to core {cpu}", pin.join(" ")));
        }
        let scratch = target.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(|why| format!("{}: {why}", scratch.display()))?;
        let pin = if tools.pinned { pin } else { Vec::new() };
        Ok(Rig { peers, glowplug, pin, cpu, tools, scratch })
    }

    /// Lets servers and loads use every core from here on.
    pub fn unpin(&mut self) {
        self.pin.clear();
    }

    /// The binary to measure.
    pub fn glowplug(&self) -> Result<&Path, String> {
        let path = self.glowplug.as_deref().ok_or("cargo has built no glowplug here: --glowplug PATH")?;
        path.metadata().map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(path)
    }

    pub fn is_pinned(&self) -> bool {
        !self.pin.is_empty()
    }

    /// Starts a program: pinned like all programs, and with the highest descriptor limit.
    fn start(&self, words: impl IntoIterator<Item = OsString>, errors: Stdio) -> Result<Process, String> {
        let all: Vec<OsString> = self.pin.iter().map(OsString::from).chain(words).collect();
        Process::start(&all, errors)
    }

    /// Prints the machine, and how busy it was before.
    pub fn tell_machine_and_load(&self) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("{}; load before: {}", self.machine(), load.split_whitespace().next().unwrap_or("?"));
    }

    /// The machine and the date, in a line, for readers of a chart who see nothing else.
    pub fn machine(&self) -> String {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("?", |(_, model)| model);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let kernel: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
        let shared = if self.is_pinned() { "one" } else { "all" };
        let today =
            Command::new("date").arg("+%F").output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
        let today = today.unwrap_or_default();
        format!("Server and load on {shared} of {cores} cores ({model}), Linux {}, {}", kernel.join("."), today.trim())
    }

    /// Prints how times are taken here, and the consequences for them.
    pub fn conditions(&self) {
        if self.is_pinned() {
            println!("Server and load share core {} under SCHED_BATCH.", self.cpu);
        } else if self.tools.pinned {
            println!("Servers and load may use every core.");
        } else {
            println!("Without chrt and taskset: neither pinned nor batched, so the times below are rough.");
        }
        if !Path::new("/proc/self/schedstat").exists() {
            println!("Without /proc/PID/schedstat: CPU time in ticks of 10 ms, so take --seconds 3 or more.");
        }
    }

    /// Starts a server and waits until it listens. `watcher` is put before its command: strace, valgrind.
    pub fn serve(&self, served: &Served, watcher: &[OsString]) -> Result<Server, String> {
        self.serve_telling(served, watcher, Stdio::inherit())
    }

    /// Starts a server whose standard error goes to a file.
    pub fn serve_quietly(&self, served: &Served, errors: &Path) -> Result<Server, String> {
        let file = File::create(errors).map_err(|why| format!("{}: {why}", errors.display()))?;
        self.serve_telling(served, &[], file.into())
    }

    fn serve_telling(&self, served: &Served, watcher: &[OsString], errors: Stdio) -> Result<Server, String> {
        let named = |why| format!("{}: {why}", served.name);
        let words = ALL_DESCRIPTORS.map(OsString::from).into_iter().chain(watcher.iter().cloned());
        let words = words.chain(served.command()).chain(["--port", "0"].map(OsString::from));
        let mut process = self.start(words, errors).map_err(named)?;
        let line = process.line(START).map_err(named)?;
        let words = line.strip_prefix("listening ").and_then(|line| line.split_once(' '));
        let address = words.and_then(|(_, url)| url.strip_prefix("tcp://").or(url.strip_prefix("tls://")));
        let address = address.ok_or_else(|| named(format!("not a `listening` line: {line}")))?;
        Ok(Server { process, address: address.to_owned(), name: served.name.clone() })
    }

    /// Starts a server that prints nothing when it listens, at a given address.
    pub fn serve_at(&self, served: &Served, address: String) -> Result<Server, String> {
        let named = |why| format!("{}: {why}", served.name);
        let words = ALL_DESCRIPTORS.map(OsString::from).into_iter().chain(served.command());
        let mut process = self.start(words, Stdio::inherit()).map_err(named)?;
        let begin = Instant::now();
        while TcpStream::connect(&address).is_err() {
            if let Ok(Some(status)) = process.wait(Duration::ZERO) {
                return Err(named(format!("it has ended: {status}")));
            }
            if begin.elapsed() > START {
                return Err(named(format!("it does not listen at {address}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Server { process, address, name: served.name.clone() })
    }

    /// Starts a load: connected, with a right answer on each connection, waiting for the length of a slice.
    /// `before` and `after` are its words around the address.
    pub fn ask(&self, server: &Server, before: &[&str], after: &[String]) -> Result<Load, String> {
        let words = ALL_DESCRIPTORS.map(OsString::from).into_iter().chain([self.peers.clone().into()]);
        let words = words.chain(before.iter().map(OsString::from)).chain([server.address.clone().into()]);
        let process = self.start(words.chain(after.iter().map(OsString::from)), Stdio::inherit());
        Load::ready(process.map_err(|why| format!("load for {}: {why}", server.name))?, &server.name)
    }

    /// Starts a load of requests and answers over connections that stay.
    pub fn load(&self, server: &Server, asked: &Asked) -> Result<Load, String> {
        let numbers =
            [("connections", asked.connections), ("depth", asked.depth), ("size", asked.size), ("idle", asked.idle)];
        let words = numbers.iter().flat_map(|(option, number)| [format!("--{option}"), number.to_string()]);
        let words: Vec<String> = std::iter::once("--slices".to_owned()).chain(words).collect();
        self.ask(server, &["load", asked.work], &words)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Counts of a run that is over. A failure here has no remedy and no consequence.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

pub struct Server {
    process: Process,
    address: String,
    pub name: String,
}

impl Server {
    /// CPU time of the process tree so far, in nanoseconds.
    pub fn cpu_nanos(&self) -> Result<u64, String> {
        tree::cpu_nanos(self.process.id()).map_err(|why| format!("{}: its CPU time: {why}", self.name))
    }

    /// Resident bytes of the process tree.
    pub fn resident(&self) -> Result<u64, String> {
        tree::rollup(self.process.id(), "Rss:").map_err(|why| format!("{}: its resident memory: {why}", self.name))
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The address at which it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.process.wait(Duration::ZERO), Ok(Some(_)))
    }

    pub fn signal(&self, signal: Signal) {
        send(self.process.id(), signal);
    }

    /// Asks the server to end and waits. A watcher writes its counts at the end of the server.
    pub fn end(mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let ended = self.process.wait(END).map_err(|why| why.to_string())?;
        ended.map(drop).ok_or_else(|| format!("{} does not end on SIGTERM", self.name))
    }
}

impl Drop for Server {
    /// Kills the server and all its descendants. The server is stopped first: so no process is added to the list, and
    /// no parent reaps a process on the list, whose number therefore stays valid.
    fn drop(&mut self) {
        if matches!(self.process.wait(Duration::ZERO), Ok(None)) {
            self.signal(Signal::STOP);
            for pid in &tree::processes(self.process.id())[1..] {
                send(*pid, Signal::KILL);
            }
        }
    }
}

/// Fails only for a process that has ended.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// A port that was free a moment ago. On loopback no program takes the port that soon.
pub fn free_port() -> Result<u16, String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map(|address| address.port()).map_err(|why| format!("a free port: {why}"))
}

/// The descriptor limit of each server and load.
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

/// This program is `<target>/release/deps/BENCHMARK-…`, also with a target directory from the environment.
fn target_directory() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|why| format!("this program's path: {why}"))?;
    this.ancestors().nth(3).map(Path::to_owned).ok_or_else(|| format!("no target directory above {}", this.display()))
}

/// Calls cargo every time: cargo does nothing when nothing has changed.
fn build_peers(target: &Path, hyper: bool) -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/Cargo.toml");
    let target = target.join("peers");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(&cargo)
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(hyper.then_some("--features=hyper"))
        .status()
        .map_err(|why| format!("{}: {why}", Path::new(&cargo).display()))?;
    if status.success() { Ok(target.join("release/peers")) } else { Err("the peers do not build".to_owned()) }
}
