//! A range of a file in an output. The kernel moves the bytes, so a range of any length costs no memory here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The rest of a range.
#[derive(Clone, Debug)]
pub(crate) struct FilePart {
    file: Arc<File>,
    at: u64,
    left: usize,
}

impl FilePart {
    /// `None` for an empty range. A range that no address space could hold is cut to the longest that one can.
    pub(crate) fn new(file: Arc<File>, range: Range<u64>) -> Option<Self> {
        let left = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX / 2);
        (left > 0).then_some(FilePart { file, at: range.start, left })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The file, for a later read.
    pub(crate) fn shared_file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where in the file the next byte stands.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn length(&self) -> usize {
        self.left
    }

    /// Appends the bytes of this part to `bytes`.
    pub(super) fn read_into(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let start = bytes.len();
        bytes.resize(start + self.left, 0);
        self.file.read_exact_at(&mut bytes[start..], self.at)
    }

    /// The first `count` bytes have left.
    pub(crate) fn advance(&mut self, count: usize) {
        self.at += count as u64;
        self.left -= count;
    }
}

/// A file to write to and to read, which goes when it is closed.
#[cfg(test)]
pub(crate) fn nameless_file() -> File {
    use std::sync::atomic::{AtomicU64, Ordering};
    static MADE: AtomicU64 = AtomicU64::new(0);
    let (path, file) = loop {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("reactor-{}-{number}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            // An earlier process of this number was killed between the next two lines.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            file => break (path, file.expect("there is room for it")),
        }
    };
    std::fs::remove_file(path).expect("it is ours");
    file
}
