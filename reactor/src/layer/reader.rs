//! A thread that reads parts of files which are not in memory, for the connections of one loop: a loop never waits for a disk.
//! The thread begins with the loop's first such part, and ends with the loop.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::Errno;
use crate::sys::errno;
use crate::sys::wake::Waker;
use crate::token::ConnectionId;

/// A part of a file for a connection, read or to be read.
pub(super) struct Part {
    pub(super) id: ConnectionId,
    pub(super) at: u64,
    pub(super) bytes: Result<Vec<u8>, Errno>,
}

struct Job {
    id: ConnectionId,
    file: Arc<File>,
    at: u64,
    length: usize,
}

/// The way to the thread and back.
#[derive(Default)]
pub(super) struct Reader {
    jobs: Option<Sender<Job>>,
    read: Arc<Mutex<Vec<Part>>>,
}

impl Reader {
    /// Has the thread read `length` bytes at `at`, and then end the loop's wait. Without a thread, reads at once.
    pub(super) fn ask(&mut self, waker: Waker, id: ConnectionId, file: &Arc<File>, at: u64, length: usize) {
        let job = Job { id, file: file.clone(), at, length };
        let jobs = self.jobs.take().or_else(|| start(waker.clone(), self.read.clone()).ok());
        let refused = match &jobs {
            Some(jobs) => jobs.send(job).err().map(|refused| refused.0),
            None => Some(job),
        };
        self.jobs = jobs;
        if let Some(job) = refused {
            put(&self.read, job);
            waker.wake();
        }
    }

    /// The parts that have been read since the last call.
    pub(super) fn take(&mut self) -> Vec<Part> {
        if self.jobs.is_none() {
            return Vec::new();
        }
        std::mem::take(&mut *self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn start(waker: Waker, read: Arc<Mutex<Vec<Part>>>) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    thread::Builder::new().name("file reader".to_owned()).spawn(move || {
        for job in jobs {
            put(&read, job);
            waker.wake();
        }
    })?;
    Ok(sender)
}

fn put(read: &Mutex<Vec<Part>>, job: Job) {
    let Job { id, file, at, length } = job;
    let mut bytes = vec![0; length];
    let outcome = loop {
        match file.read_at(&mut bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => break outcome,
        }
    };
    let bytes = outcome.map_err(|error| Errno(error.raw_os_error().unwrap_or(errno::IO))).map(|count| {
        bytes.truncate(count);
        bytes
    });
    read.lock().unwrap_or_else(PoisonError::into_inner).push(Part { id, at, bytes });
}
