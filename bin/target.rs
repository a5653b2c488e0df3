//! Where lines end up: standard error, standard output, a regular file, or a device or FIFO in its place.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file to append lines. Never waits for a peer: a FIFO must have a reader.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().append(true).create(true).custom_flags(flags.bits() as i32).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        // The error for a FIFO without a reader, for a socket, and for a device without a driver.
        Some(code) if code == Errno::NXIO.raw_os_error() => {
            match std::fs::metadata(path).map(|found| found.file_type()) {
                Ok(kind) if kind.is_fifo() => io::Error::new(ErrorKind::NotFound, "it is a FIFO that nobody reads"),
                Ok(kind) if kind.is_socket() => io::Error::new(ErrorKind::InvalidInput, "it is a socket"),
                _ => error,
            }
        }
        _ => error,
    })
}

/// The written part of a text, and the error that stopped the write.
#[derive(Debug)]
pub struct Written {
    pub bytes: usize,
    pub error: Option<io::Error>,
}

/// Writes as much as the output takes without waiting.
pub fn write(to: &mut (impl Write + ?Sized), text: &[u8]) -> Written {
    let mut bytes = 0;
    while bytes < text.len() {
        match to.write(&text[bytes..]) {
            Ok(0) => return Written { bytes, error: Some(ErrorKind::WriteZero.into()) },
            Ok(count) => bytes += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Written { bytes, error: Some(error) },
        }
    }
    Written { bytes, error: None }
}

/// Whether the output has room for a line, or gets room within `time`. A broken output counts as having room, and the
/// write reports the error. A pipe with room takes `PIPE_BUF` bytes in one piece.
pub fn has_room(to: impl AsFd, time: Timespec) -> bool {
    let mut one = [PollFd::new(&to, PollFlags::OUT)];
    poll(&mut one, Some(&time)).is_ok_and(|count| count == 1)
}

/// Duplicates the descriptor as a file.
pub fn file_of(descriptor: impl AsFd) -> io::Result<File> {
    descriptor.as_fd().try_clone_to_owned().map(File::from)
}
