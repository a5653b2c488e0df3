//! Where lines end up: standard error, standard output, a file, or a stranger thing that somebody has put in its place.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens what lines are appended to, and never waits for somebody: a FIFO has to have a reader.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().append(true).create(true).custom_flags(flags.bits() as i32).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        // Told for a FIFO without a reader, for a socket, and for a device without a driver.
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

/// How much of a text was written, and why not all of it.
#[derive(Debug)]
pub struct Written {
    pub bytes: usize,
    pub error: Option<io::Error>,
}

/// Writes as much as is taken without waiting.
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

/// Whether there is room for a line, or comes to be within `time`; an error shows at the write. Of a pipe: room for what
/// it keeps in one piece.
pub fn has_room(to: impl AsFd, time: Timespec) -> bool {
    let mut one = [PollFd::new(&to, PollFlags::OUT)];
    poll(&mut one, Some(&time)).is_ok_and(|count| count == 1)
}

/// Another descriptor for the same file.
pub fn file_of(descriptor: impl AsFd) -> io::Result<File> {
    descriptor.as_fd().try_clone_to_owned().map(File::from)
}
