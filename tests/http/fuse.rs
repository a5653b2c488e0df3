//! A file system that answers when the test allows: FUSE, spoken by hand (linux/fuse.h, version 7.31). It has one
//! directory with a few files, and allows no caching: the kernel must ask for every look.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::super::support::GUARD;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;
const ENOENT: i32 = -2;
const ENOSYS: i32 = -38;

/// Length of the headers of a request and of a reply, in bytes.
const REQUEST: usize = 40;
const REPLY: usize = 16;

/// The mounted file system. A drop unmounts it.
pub struct Slow {
    directory: PathBuf,
    gate: Arc<Gate>,
}

/// Whether requests are answered, and whether one is waiting.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    is_held: bool,
    /// Number of opened files.
    opened: usize,
}

impl Slow {
    /// Mounts the files at `directory`. `None` if the system has no FUSE or denies the mount.
    pub fn mount(directory: &Path, files: &[(&str, Vec<u8>)]) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        // The kernel takes the descriptor of the mounting process: here its standard input.
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "slow"])
            .arg(directory)
            .args(["-o", "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other"])
            .stdin(Stdio::from(device.try_clone().expect("a descriptor")))
            .status();
        mounted.ok().filter(std::process::ExitStatus::success)?;
        let gate = Arc::new(Gate::default());
        let server = Server {
            device,
            gate: gate.clone(),
            files: files.iter().map(|(name, content)| ((*name).to_owned(), content.clone())).collect(),
        };
        thread::spawn(move || server.run());
        Some(Slow { directory: directory.to_owned(), gate })
    }

    /// Returns a value whose drop opens the gate, so that a server that waits for an answer can end.
    pub fn opener(&self) -> Opener<'_> {
        Opener(self)
    }

    /// Closes the gate: no request is answered.
    pub fn close(&self) {
        let mut state = self.gate.state.lock().unwrap();
        (state.is_closed, state.is_held) = (true, false);
    }

    /// Waits until a request is held at the gate.
    pub fn is_asked(&self, what: &str) {
        let state = self.gate.state.lock().unwrap();
        let (state, _) = self.gate.changed.wait_timeout_while(state, GUARD, |state| !state.is_held).unwrap();
        assert!(state.is_held, "nobody asked the file system for {what}");
    }

    /// Returns the number of files opened since the last call.
    pub fn opened(&self) -> usize {
        std::mem::take(&mut self.gate.state.lock().unwrap().opened)
    }

    /// Opens the gate: requests are answered again.
    pub fn open(&self) {
        self.gate.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = false;
        self.gate.changed.notify_all();
    }
}

pub struct Opener<'s>(&'s Slow);

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.open();
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
    }
}

struct Server {
    device: File,
    gate: Arc<Gate>,
    /// The first file has the number after the root's.
    files: BTreeMap<String, Vec<u8>>,
}

impl Server {
    fn run(self) {
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            let length = match (&self.device).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::NotFound) => continue,
                // The file system has been unmounted.
                Err(_) => return,
            };
            let request = &buffer[..length];
            let (operation, node) = (word(request, 4), long(request, 16));
            if matches!(operation, FORGET | BATCH_FORGET | INTERRUPT) {
                continue;
            }
            let mut state = self.gate.state.lock().unwrap();
            while state.is_closed {
                state.is_held = true;
                self.gate.changed.notify_all();
                state = self.gate.changed.wait(state).unwrap();
            }
            state.opened += usize::from(operation == OPEN);
            drop(state);
            let answer = self.answer(operation, node, &request[REQUEST..]);
            let (error, body) = answer.map_or_else(|error| (error, Vec::new()), |body| (0, body));
            let mut reply = ((REPLY + body.len()) as u32).to_ne_bytes().to_vec();
            reply.extend_from_slice(&error.to_ne_bytes());
            reply.extend_from_slice(&request[8..16]);
            reply.extend_from_slice(&body);
            // The asking process may have gone.
            let _ = (&self.device).write(&reply);
        }
    }

    fn answer(&self, operation: u32, node: u64, rest: &[u8]) -> Result<Vec<u8>, i32> {
        match operation {
            INIT => {
                // Version 7.31, no readahead, no flags, and writes of at most a page.
                let mut body = [7u32, 31, 0, 0].map(u32::to_ne_bytes).concat();
                body.extend_from_slice(&[0; 4]);
                body.extend_from_slice(&4096u32.to_ne_bytes());
                body.extend_from_slice(&1u32.to_ne_bytes());
                body.resize(64, 0);
                Ok(body)
            }
            LOOKUP => {
                let name = std::str::from_utf8(rest.strip_suffix(b"\0").unwrap_or(rest)).map_err(|_| ENOENT)?;
                let at = self.files.keys().position(|known| known == name).ok_or(ENOENT)?;
                let node = ROOT + 1 + at as u64;
                // The node's number, a generation, and zero seconds of validity.
                let mut body = [node, 0, 0, 0].map(u64::to_ne_bytes).concat();
                body.extend_from_slice(&[0; 8]);
                body.extend(self.attributes(node)?);
                Ok(body)
            }
            GETATTR => {
                let mut body = vec![0; 16];
                body.extend(self.attributes(node)?);
                Ok(body)
            }
            OPEN | OPENDIR => Ok(vec![0; 16]),
            READ => {
                let (from, size) = (long(rest, 8) as usize, word(rest, 16) as usize);
                let content = self.content(node)?;
                let from = from.min(content.len());
                Ok(content[from..(from + size).min(content.len())].to_vec())
            }
            READDIR => {
                let mut body = Vec::new();
                for (at, name) in self.files.keys().enumerate().skip(long(rest, 8) as usize) {
                    body.extend_from_slice(&(ROOT + 1 + at as u64).to_ne_bytes());
                    body.extend_from_slice(&(at as u64 + 1).to_ne_bytes());
                    body.extend_from_slice(&(name.len() as u32).to_ne_bytes());
                    // Type 0: unknown, so the kernel has to ask.
                    body.extend_from_slice(&0u32.to_ne_bytes());
                    body.extend_from_slice(name.as_bytes());
                    body.resize(body.len().next_multiple_of(8), 0);
                }
                Ok(body)
            }
            STATFS => Ok(vec![0; 80]),
            RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
            _ => Err(ENOSYS),
        }
    }

    fn content(&self, node: u64) -> Result<&Vec<u8>, i32> {
        self.files.values().nth((node - ROOT - 1) as usize).ok_or(ENOENT)
    }

    fn attributes(&self, node: u64) -> Result<Vec<u8>, i32> {
        let (mode, size) = if node == ROOT { (0o40_755u32, 0) } else { (0o100_644, self.content(node)?.len() as u64) };
        // All times are equal, and long ago.
        let mut body = [node, size, 1, 784_111_777, 784_111_777, 784_111_777].map(u64::to_ne_bytes).concat();
        body.extend(([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]).map(u32::to_ne_bytes).concat());
        Ok(body)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}
