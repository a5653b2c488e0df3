//! Reading the files of certificates and keys. A pipe is waited for at the start alone, and never for long.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::Error;

/// Bytes of the largest file. A file with all root certificates of a system has less than 1 MiB.
const LARGEST: u64 = 16 * 1024 * 1024;
/// Time that a pipe or a terminal has to bring all of its bytes.
const WAIT: Duration = Duration::from_secs(5);

/// Why a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The server or client is made. `--tls-key <(command)` makes the key a pipe, which is read here.
    First,
    /// The file is read again while connections are served. A pipe has been read to its end already, and a wait for another end
    /// would have none.
    Again,
}

/// Reads a file that is not empty. **Blocks** until the disk has answered; a pipe has 5 s.
pub(crate) fn read(kind: &'static str, path: &Path, reading: Reading) -> Result<Vec<u8>, Error> {
    let failed = |cause: String| Error::File { kind, path: path.to_owned(), cause };
    let is_special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    let bytes = match reading {
        _ if !is_special => contents(path),
        Reading::First => contents_within(path.to_owned(), WAIT),
        Reading::Again => Err(io::Error::other("only a regular file can be read again")),
    };
    let bytes = bytes.map_err(|error| failed(error.to_string()))?;
    match bytes.len() as u64 {
        0 => Err(failed("the file is empty".to_owned())),
        length if length > LARGEST => Err(failed("the file is larger than 16 MiB".to_owned())),
        _ => Ok(bytes),
    }
}

/// At most one byte more than the largest file has.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads on a thread: even the opening of a pipe waits for the other end. After a timeout the thread goes on waiting.
fn contents_within(path: PathBuf, wait: Duration) -> io::Result<Vec<u8>> {
    let (sender, read) = channel();
    let reader = thread::Builder::new().name("certificates".to_owned()).spawn(move || {
        let _ = sender.send(contents(&path));
    })?;
    match read.recv_timeout(wait) {
        Ok(outcome) => {
            // A process that will fork has no other thread from here on.
            let _ = reader.join();
            outcome
        }
        Err(RecvTimeoutError::Timeout) => Err(io::Error::other(format!(
            "no end of the file in {} s; is a program writing to this pipe?",
            wait.as_secs()
        ))),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the reading thread has failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_special_file_is_read_once_and_up_to_a_length() {
        let path = Path::new("/dev/zero");
        let error = read("certificate", path, Reading::Again).unwrap_err().to_string();
        assert_eq!(error, "certificate /dev/zero: only a regular file can be read again");
        let error = read("certificate", path, Reading::First).unwrap_err().to_string();
        assert_eq!(error, "certificate /dev/zero: the file is larger than 16 MiB");
        let error = read("certificate", Path::new("/dev/null"), Reading::First).unwrap_err().to_string();
        assert_eq!(error, "certificate /dev/null: the file is empty");
    }
}
