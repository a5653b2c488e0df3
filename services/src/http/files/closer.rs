//! Closes files of file systems that are not local. `close(2)` tells a network file system, or a program behind FUSE, and
//! may wait for the answer; so a loop must not have the last reference to such a file.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The time after which files that are still being sent are looked at again.
const AGAIN: Duration = Duration::from_secs(1);

const STACK_BYTES: usize = 64 * 1024;

/// A thread that closes files: it starts with the first file, and ends when all are closed. A file system that never
/// answers blocks the thread and all later files.
#[derive(Debug, Default)]
pub(super) struct Closer(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    waiting: Vec<Arc<File>>,
    has_thread: bool,
}

/// A reference to a file on a remote file system. After its drop, the closer thread closes the file when no other
/// reference is left.
#[derive(Debug)]
pub(super) struct Closing {
    file: Arc<File>,
    closer: Arc<Closer>,
}

impl Closing {
    pub(super) fn new(file: Arc<File>, closer: Arc<Closer>) -> Self {
        Closing { file, closer }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.closer.close(self.file.clone());
    }
}

impl Closer {
    fn close(&self, file: Arc<File>) {
        let mut files = lock(&self.0);
        files.waiting.push(file);
        if files.has_thread {
            return;
        }
        let shared = self.0.clone();
        let thread = thread::Builder::new().name("closer".to_owned()).stack_size(STACK_BYTES);
        // Without a thread the file waits for the next try.
        files.has_thread = thread.spawn(move || work(&shared)).is_ok();
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(shared: &Mutex<Files>) {
    loop {
        let mut files = lock(shared);
        if files.waiting.is_empty() {
            files.has_thread = false;
            return;
        }
        // A file with a single reference cannot get another.
        let closed: Vec<_> = files.waiting.extract_if(.., |file| Arc::strong_count(file) == 1).collect();
        drop(files);
        if closed.is_empty() {
            thread::sleep(AGAIN);
        }
        drop(closed);
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_reference_is_dropped_by_another_thread() {
        let closer = Arc::new(Closer::default());
        let file = Arc::new(File::open(std::env::current_exe().unwrap()).unwrap());
        let is_there = Arc::downgrade(&file);
        let closing = Closing::new(file.clone(), closer.clone());
        drop(closing);
        // A second reference stands for a file that is being sent.
        assert_eq!(Arc::strong_count(&file), 2);
        drop(file);
        while is_there.strong_count() > 0 || lock(&closer.0).has_thread {
            thread::yield_now();
        }
        assert!(lock(&closer.0).waiting.is_empty());
    }
}
