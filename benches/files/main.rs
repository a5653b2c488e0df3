//! Files beside nginx: the same files, the same load, in turns, and what a request costs each server in CPU time.
//!
//! `cargo bench --bench files -- --help`; how to read what it prints is in benches/README.md.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const USAGE: &str = "\
Measures glowplug's files beside nginx on loopback. Takes about five minutes; --quick, some seconds.

usage: cargo bench --bench files -- [OPTIONS]

--quick               few and short slices: shows that everything works, proves nothing
--only CASE           the cases whose name has this in it
--rounds N            slices of each server in each case: 30
--seconds S           one slice: 0.3
--cpu N               the core that servers and load share; the first one by default
--glowplug PATH       measure this binary instead of the one that cargo has built";

/// For a child to say its next line, beyond a slice.
const PATIENCE: Duration = Duration::from_secs(60);
/// A difference below this is none.
const SAME: f64 = 0.03;

/// One row: what is asked for, and how.
struct Case {
    name: &'static str,
    path: &'static str,
    connections: usize,
    depth: usize,
    fresh: bool,
}

const fn kept(name: &'static str, path: &'static str, connections: usize, depth: usize) -> Case {
    Case { name, path, connections, depth, fresh: false }
}

const CASES: [Case; 8] = [
    kept("fixed answer", "/fixed", 64, 1),
    kept("fixed answer", "/fixed", 64, 16),
    kept("1 KiB", "/1k.txt", 64, 1),
    kept("1 KiB", "/1k.txt", 64, 16),
    Case { name: "1 KiB, a connection each", path: "/1k.txt", connections: 64, depth: 1, fresh: true },
    kept("16 KiB", "/16k.txt", 64, 1),
    kept("64 KiB", "/64k.txt", 64, 1),
    kept("1 MiB", "/1m.txt", 16, 1),
];

/// The files, and their sizes.
const FILES: [(&str, usize); 4] =
    [("1k.txt", 1 << 10), ("16k.txt", 16 << 10), ("64k.txt", 64 << 10), ("1m.txt", 1 << 20)];

struct Options {
    only: String,
    rounds: usize,
    seconds: f64,
    cpu: usize,
    glowplug: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // `cargo bench` says --bench; `cargo test --all-targets` runs this file too, and does not want minutes of load.
    if !arguments.iter().any(|a| a == "--bench") {
        println!("not measured: this is run by `cargo bench --bench files`");
        return ExitCode::SUCCESS;
    }
    match Options::parse(&arguments).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let built = option_env!("CARGO_BIN_EXE_glowplug").map(PathBuf::from).unwrap_or_default();
        let mut options = Options { only: String::new(), rounds: 30, seconds: 0.3, cpu: 0, glowplug: built };
        if arguments.iter().any(|a| a == "--quick") {
            (options.rounds, options.seconds) = (3, 0.1);
        }
        let mut words = arguments.iter().filter(|a| *a != "--quick" && *a != "--bench");
        while let Some(option) = words.next() {
            let value = words.next().ok_or_else(|| format!("{option} needs a value\n\n{USAGE}"))?;
            let bad = || format!("{option} does not take {value}");
            match option.as_str() {
                "--only" => options.only.clone_from(value),
                "--rounds" => options.rounds = value.parse().ok().filter(|&n| n > 0).ok_or_else(bad)?,
                "--seconds" => options.seconds = value.parse().ok().filter(|s| *s > 0.0).ok_or_else(bad)?,
                "--cpu" => options.cpu = value.parse().map_err(|_| bad())?,
                "--glowplug" => options.glowplug = PathBuf::from(value),
                _ => return Err(format!("unknown option {option}\n\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Result<(), String> {
    let scratch = Scratch::new()?;
    for (name, size) in FILES {
        let content: Vec<u8> = (0..size).map(|at| b'a' + (at % 23) as u8).collect();
        scratch.write(&format!("root/{name}"), &content)?;
    }
    scratch.write("root/fixed", b"Hello from Epoll Server!")?;
    let peers = build_peers()?;
    let pin = ["chrt", "-b", "0", "taskset", "-c", &options.cpu.to_string()].map(str::to_owned).to_vec();
    let pin = if works(&pin, &["true"]) { pin } else { Vec::new() };
    let with_nginx = works(&[], &["nginx", "-v"]);
    println!("{} rounds of {} s each, CPU time of the server per request.", options.rounds, options.seconds);
    match pin.is_empty() {
        true => println!("Without chrt and taskset: neither pinned nor batched, so the times below are rough."),
        false => println!("Servers and load share core {} under SCHED_BATCH.", options.cpu),
    }
    if !with_nginx {
        println!("nginx is not installed: glowplug alone.");
    }
    println!("\n| what | connections × depth | glowplug | nginx | ratio | p20–p80 | verdict |");
    println!("| --- | ---: | ---: | ---: | ---: | --- | --- |");
    for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
        measure(case, options, &scratch, &peers, &pin, with_nginx)?;
    }
    Ok(())
}

fn measure(
    case: &Case,
    options: &Options,
    scratch: &Scratch,
    peers: &Path,
    pin: &[String],
    with_nginx: bool,
) -> Result<(), String> {
    let mut servers = vec![Server::glowplug(case, options, scratch, pin)?];
    if with_nginx {
        servers.push(Server::nginx(scratch, pin)?);
    }
    let mut loads = servers.iter().map(|server| server.load(case, peers, pin)).collect::<Result<Vec<_>, _>>()?;
    let mut nanos = vec![Vec::new(); servers.len()];
    for round in 0..options.rounds {
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            // Read between slices, when all is answered and the server sleeps.
            let before = servers[index].cpu_nanos()?;
            let requests = loads[index].slice(options.seconds)?;
            nanos[index].push((servers[index].cpu_nanos()? - before) as f64 / requests);
        }
    }
    let glowplug = quantile(&nanos[0], 0.5) / 1e3;
    let label = format!("{} × {}", case.connections, case.depth);
    let Some(nginx) = nanos.get(1) else {
        println!("| {} | {label} | {glowplug:.2} µs | | | | |", case.name);
        return Ok(());
    };
    let ratios: Vec<f64> = nanos[0].iter().zip(nginx).map(|(ours, theirs)| ours / theirs).collect();
    let [low, middle, high] = [0.2, 0.5, 0.8].map(|share| quantile(&ratios, share));
    let verdict = match middle {
        _ if middle > 1.0 + SAME && low > 1.0 + SAME => "slower",
        _ if middle < 1.0 - SAME && high < 1.0 - SAME => "faster",
        _ if (1.0 - SAME..=1.0 + SAME).contains(&middle) => "same",
        _ => "unclear",
    };
    let theirs = quantile(nginx, 0.5) / 1e3;
    println!(
        "| {} | {label} | {glowplug:.2} µs | {theirs:.2} µs | {middle:.2} | {low:.2}–{high:.2} | {verdict} |",
        case.name
    );
    Ok(())
}

/// A child that speaks in lines, and does not outlive its value.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn start(pin: &[String], words: &[&str]) -> Result<Process, String> {
        let mut all = pin.iter().map(String::as_str).chain(words.iter().copied());
        let program = all.next().unwrap_or_default();
        let mut child = Command::new(program)
            .args(all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|why| format!("{program}: {why}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process { child, stdin, lines })
    }

    fn line(&mut self) -> Result<String, String> {
        self.lines.recv_timeout(PATIENCE).map_err(|_| "nothing said".to_owned())
    }

    fn slice(&mut self, seconds: f64) -> Result<f64, String> {
        let said = self.stdin.as_mut().map(|stdin| stdin.write_all(format!("{seconds}\n").as_bytes()));
        said.unwrap_or(Ok(())).map_err(|why| format!("load: {why}"))?;
        let line = self.line().map_err(|why| format!("load: {why}"))?;
        let requests = line.strip_prefix("requests=").and_then(|n| n.parse().ok()).filter(|&n: &f64| n > 0.0);
        requests.ok_or_else(|| format!("load: {line}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // In good order, so that nginx ends its worker; by force if that takes long.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Server {
    process: Process,
    address: String,
}

impl Server {
    /// For the fixed answer one without files, and one with files for the others.
    fn glowplug(case: &Case, options: &Options, scratch: &Scratch, pin: &[String]) -> Result<Server, String> {
        let (binary, root) = (options.glowplug.to_string_lossy(), scratch.path("root"));
        let mut words = vec![&*binary, "http", "--port", "0", "--log-level", "warn", "--idle-timeout", "0"];
        if case.path != "/fixed" {
            words.extend(["--root", &root]);
        }
        let mut process = Process::start(pin, &words)?;
        let line = process.line().map_err(|why| format!("glowplug: {why}"))?;
        let address = line.strip_prefix("listening http tcp://").ok_or_else(|| format!("glowplug: {line}"))?.to_owned();
        Ok(Server { process, address })
    }

    fn nginx(scratch: &Scratch, pin: &[String]) -> Result<Server, String> {
        // Free a moment ago; nginx has no way to choose one by itself.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(|why| why.to_string())?.to_string();
        let (root, directory) = (scratch.path("root"), scratch.path(""));
        let configuration = format!(
            "daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log crit; user root;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 3600;
              open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s; open_file_cache_min_uses 1;
              types {{ text/plain txt; }} default_type text/plain;
              server {{
                listen {address} backlog=4096; root {root};
                location = /fixed {{ return 200 \"Hello from Epoll Server!\"; }}
              }}
            }}"
        );
        scratch.write("nginx.conf", configuration.as_bytes())?;
        let file = scratch.path("nginx.conf");
        let process = Process::start(pin, &["nginx", "-c", &file, "-p", &directory, "-e", "/dev/null"])?;
        let server = Server { process, address };
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&server.address).is_err() || server.workers().is_empty() {
            if Instant::now() > end {
                return Err("nginx does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn load(&self, case: &Case, peers: &Path, pin: &[String]) -> Result<Process, String> {
        let (peers, connections, depth) =
            (peers.to_string_lossy(), case.connections.to_string(), case.depth.to_string());
        let mut words = vec![&*peers, "fetch", &self.address, case.path];
        words.extend(["--connections", &connections, "--depth", &depth]);
        words.extend(case.fresh.then_some("--fresh"));
        let mut load = Process::start(pin, &words)?;
        let line = load.line().map_err(|why| format!("load: {why}"))?;
        if line.starts_with("ready ") { Ok(load) } else { Err(format!("load: {line}")) }
    }

    /// The processes that a master has started.
    fn workers(&self) -> Vec<u32> {
        let pid = self.process.child.id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// CPU time of all its threads, and of its workers', exact from the scheduler.
    fn cpu_nanos(&self) -> Result<u64, String> {
        let mut sum = 0;
        for pid in self.workers().into_iter().chain([self.process.child.id()]) {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|why| why.to_string())?;
            for task in tasks.flatten() {
                let text = std::fs::read_to_string(task.path().join("schedstat")).map_err(|why| why.to_string())?;
                sum += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(sum)
    }
}

/// A directory in the build's own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let path = target_directory()?.join(format!("files-{}", std::process::id()));
        std::fs::create_dir_all(path.join("root")).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Scratch(path))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string().trim_end_matches('/').to_owned()
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), String> {
        std::fs::write(self.0.join(name), content).map_err(|why| format!("{name}: {why}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The value that `share` of them are not above.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// This program is `<target>/release/deps/files-…`.
fn target_directory() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|why| format!("this program's path: {why}"))?;
    this.ancestors().nth(3).map(Path::to_owned).ok_or_else(|| format!("no target directory above {}", this.display()))
}

/// By cargo, every time: it does nothing when nothing has changed.
fn build_peers() -> Result<PathBuf, String> {
    let target = target_directory()?.join("peers");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(&cargo)
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .args([manifest.as_os_str(), "--target-dir".as_ref(), target.as_os_str()])
        .status()
        .map_err(|why| format!("{}: {why}", Path::new(&cargo).display()))?;
    if build.success() { Ok(target.join("release/peers")) } else { Err("the peers do not build".to_owned()) }
}

/// Whether this can be run here, after these words.
fn works(prefix: &[String], words: &[&str]) -> bool {
    let mut all = prefix.iter().map(String::as_str).chain(words.iter().copied());
    let Some(first) = all.next() else { return false };
    let quiet = Command::new(first).args(all).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}
