//! What lies at one path, as it was when it was looked at: a file and its encoded siblings, their content if they are
//! small, and what answers say of each.

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reactor::Output;
use rustix::fs::fstat;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::cache::Cost;
use super::encodings::Encoding;
use super::resolve::{Failure, Patience, Place, Root, Stamp};
use super::respond::Ready;
use super::types;
use crate::http::answers::INLINE_MAX;
use crate::http::conditional::{Validators, http_date};

/// Files up to this size are kept in memory: their answers are one call, and copying them costs the kernel no more than
/// `sendfile` does. Above it, copying costs up to twice as much (benches/README.md).
pub(super) const HELD_MAX: u64 = 16 * 1024;

/// Files up to this size are read when they are opened, so that the kernel has them in memory when the loop sends them.
const READ_MAX: u64 = 256 * 1024;

/// Bytes that a file takes beside its content: its head, its names, its place in the cache.
const OVERHEAD: usize = 1024;

/// Times that a file is read again that changes while it is read. Then it is sent as it comes.
const READS_MAX: usize = 3;

/// Nanoseconds within which two changes of a file may have the same time: some ticks of the slowest kernel.
const TICK: i128 = 50_000_000;

/// Modification times up to this, in nanoseconds, are none: package builders write a second or two after 1970.
const NO_TIME: i128 = 86_400_000_000_000;

/// A file and what lies beside it.
#[derive(Debug)]
pub(super) struct Document {
    /// By [`Encoding`]. The plain one is always there.
    renditions: [Option<Arc<Rendition>>; 3],
    /// The answers that most requests for them get, made when they are first asked for.
    ready: [OnceLock<Ready>; 3],
    /// Whether it was asked for lately.
    noted: AtomicBool,
    /// Whether anything that changes from now on is seen by its stamp. Otherwise it has changed just now, and may do so
    /// again within the same tick.
    pub(super) settled: bool,
}

/// One file, and what there is to say of it.
#[derive(Debug)]
pub(super) struct Rendition {
    /// Where it is, for another look.
    pub(super) path: CString,
    pub(super) stamp: Stamp,
    pub(super) encoding: Encoding,
    pub(super) content: Content,
    pub(super) content_type: String,
    etag: Vec<u8>,
    modified: u64,
}

#[derive(Debug)]
pub(super) enum Content {
    Held(Bytes),
    Open(Arc<File>),
}

impl Document {
    /// Looks at `path`, and at what lies beside it. What has not changed is taken over from `known`. `None` if there is
    /// a directory.
    pub(super) fn load(
        root: &Root,
        path: &[u8],
        known: Option<&Document>,
        patience: Patience,
    ) -> Result<Option<Self>, Failure> {
        let (mut settled, now) = (true, SystemTime::now());
        let mut rendition = |encoding: Encoding| {
            let path = [path, encoding.suffix().as_bytes()].concat();
            let known = known.filter(|known| known.settled).and_then(|known| known.rendition(encoding));
            let found = Rendition::load(root, path, encoding, known, patience)?;
            settled &= found.as_ref().is_none_or(|found| found.stamp.is_settled(now));
            Ok(found)
        };
        let Some(plain) = rendition(Encoding::Identity)? else { return Ok(None) };
        let mut beside = |encoding| match rendition(encoding) {
            Err(Failure::NotNow) => Err(Failure::NotNow),
            // Whatever is wrong with it, there is the plain one.
            other => Ok(other.unwrap_or(None)),
        };
        let renditions = [beside(Encoding::Brotli)?, beside(Encoding::Gzip)?, Some(plain)];
        Ok(Some(Document { renditions, ready: Default::default(), noted: AtomicBool::new(false), settled }))
    }

    /// It was asked for. Several handlers have it, so what need not be written is not.
    #[inline]
    pub(super) fn note(&self) {
        if !self.noted.load(Relaxed) {
            self.noted.store(true, Relaxed);
        }
    }

    /// Whether it was since this was asked last.
    pub(super) fn take_note(&self) -> bool {
        self.noted.swap(false, Relaxed)
    }

    /// The ready answer with this rendition.
    #[inline]
    pub(super) fn ready(&self, encoding: Encoding, make: impl FnOnce() -> Ready) -> &Ready {
        self.ready[encoding as usize].get_or_init(make)
    }

    pub(super) fn rendition(&self, encoding: Encoding) -> Option<&Arc<Rendition>> {
        self.renditions[encoding as usize].as_ref()
    }

    pub(super) fn renditions(&self) -> impl Iterator<Item = &Rendition> {
        self.renditions.iter().flatten().map(Arc::as_ref)
    }

    /// Whether it depends on what the client takes which one it gets.
    pub(super) fn varies(&self) -> bool {
        self.renditions().count() > 1
    }

    /// Bytes and descriptors that it keeps, its ready answers included.
    pub(super) fn cost(&self) -> Cost {
        let mut cost = Cost::default();
        for rendition in self.renditions() {
            cost.bytes += OVERHEAD;
            match &rendition.content {
                Content::Held(bytes) => cost.bytes += bytes.len() * if bytes.len() <= INLINE_MAX { 2 } else { 1 },
                Content::Open(_) => cost.descriptors += 1,
            }
        }
        cost
    }
}

impl Rendition {
    fn load(
        root: &Root,
        path: Vec<u8>,
        encoding: Encoding,
        known: Option<&Arc<Rendition>>,
        patience: Patience,
    ) -> Result<Option<Arc<Self>>, Failure> {
        let Place::File(file, stamp) = root.find(&path, patience)? else { return Ok(None) };
        if let Some(known) = known.filter(|known| known.stamp == stamp) {
            return Ok(Some(known.clone()));
        }
        let (content, stamp) = Content::of(file, stamp, patience)?;
        let plain = path.strip_suffix(encoding.suffix().as_bytes()).unwrap_or(&path);
        let (essence, charset) = types::content_type(plain);
        let rendition = Rendition {
            stamp,
            encoding,
            content,
            content_type: format!("{essence}{charset}"),
            etag: etag(&stamp, encoding),
            modified: modified(&stamp, SystemTime::now()),
            path: CString::new(path).map_err(|_| Failure::Absent)?,
        };
        Ok(Some(Arc::new(rendition)))
    }

    pub(super) fn size(&self) -> u64 {
        self.stamp.size
    }

    pub(super) fn validators(&self) -> Validators<'_> {
        Validators { etag: &self.etag, modified: self.modified }
    }

    /// Puts a part of its content into the output.
    pub(super) fn put(&self, range: Range<u64>, output: &mut Output) {
        match &self.content {
            Content::Held(bytes) => output.put_shared(bytes.slice(range.start as usize..range.end as usize)),
            Content::Open(file) => output.put_file(file.clone(), range),
        }
    }

    /// The fields that hold for it and for every part of it, and that come with 304 as well.
    pub(super) fn write_validators(&self, into: &mut Vec<u8>) {
        // Writing to memory never fails.
        let _ = write!(into, "Last-Modified: {}\r\nETag: ", http_date(self.modified));
        into.extend_from_slice(&self.etag);
        into.extend_from_slice(b"\r\n");
    }
}

impl Content {
    /// All of it if it is small, and the stamp that it has. A file that never holds still is not kept. What waits for
    /// the disk is done with that here, where it may.
    fn of(file: File, mut stamp: Stamp, patience: Patience) -> Result<(Self, Stamp), Failure> {
        for _ in 0..READS_MAX {
            if stamp.size > HELD_MAX {
                break;
            }
            let bytes = read(&file, stamp.size, patience)?;
            let after = Stamp::of(&fstat(&file)?);
            if after == stamp && bytes.len() as u64 == stamp.size {
                return Ok((Content::Held(bytes.into()), stamp));
            }
            stamp = after;
        }
        if (HELD_MAX + 1..=READ_MAX).contains(&stamp.size) {
            read(&file, stamp.size, patience)?;
        }
        Ok((Content::Open(Arc::new(file)), stamp))
    }
}

/// The first `size` bytes, or as many as there are.
fn read(file: &File, size: u64, patience: Patience) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut filled) = (vec![0; size as usize], 0);
    while filled < bytes.len() {
        let (rest, at) = (&mut bytes[filled..], filled as u64);
        let count = match patience {
            Patience::Disk => file.read_at(rest, at).map_err(|error| Failure::Broken(error.kind())),
            // Not every file system can say that it would have to wait.
            Patience::Memory => match preadv2(file, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Err(Failure::NotNow),
                outcome => Ok(outcome?),
            },
        };
        match count? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

impl Stamp {
    /// Whether its last change is so long ago that the next one has another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        now - self.changed > TICK
    }
}

/// Strong (RFC 9110 section 8.8.3): size and modification time, to the nanosecond. The same for the same file on two
/// machines. Where builders have taken the time away, the time of its last change, which nobody can set, stands in.
fn etag(stamp: &Stamp, encoding: Encoding) -> Vec<u8> {
    let time = if stamp.modified > NO_TIME { stamp.modified } else { stamp.changed };
    let suffix = encoding.suffix().replace('.', "-");
    format!("\"{:x}-{:x}{suffix}\"", stamp.size, time).into_bytes()
}

/// In whole seconds, and never in the future (RFC 9110 section 8.8.2.1).
fn modified(stamp: &Stamp, now: SystemTime) -> u64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u64::try_from(stamp.modified / 1_000_000_000).unwrap_or(0).min(now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: i128 = 1_000_000_000;

    fn stamp(size: u64, modified: i128, changed: i128) -> Stamp {
        Stamp { device: 1, inode: 1, size, modified, changed }
    }

    fn at(nanos: i128) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(nanos as u64)
    }

    #[test]
    fn a_tag_tells_sizes_times_and_encodings_apart_and_two_machines_agree_about_it() {
        let tag = |size, modified, changed, encoding| {
            String::from_utf8(etag(&stamp(size, modified, changed), encoding)).unwrap()
        };
        let (day, plain) = (784_111_777 * SECOND, Encoding::Identity);
        assert_eq!(tag(26, day, day, plain), "\"1a-ae1b981bc490a00\"");
        assert_eq!(tag(26, day, day, Encoding::Gzip), "\"1a-ae1b981bc490a00-gz\"");
        assert_eq!(tag(26, day, 2 * day, plain), tag(26, day, day, plain));
        assert_ne!(tag(26, day + 1, day, plain), tag(26, day, day, plain));
        assert_ne!(tag(27, day, day, plain), tag(26, day, day, plain));
        // As package builders have it.
        for nothing in [0, SECOND, -SECOND] {
            assert_ne!(tag(26, nothing, day, plain), tag(26, nothing, day + 1, plain));
        }
    }

    #[test]
    fn nothing_was_modified_in_the_future_or_before_time() {
        assert_eq!(modified(&stamp(0, 5 * SECOND + 1, 0), at(9 * SECOND)), 5);
        assert_eq!(modified(&stamp(0, 10 * SECOND, 0), at(9 * SECOND)), 9);
        assert_eq!(modified(&stamp(0, -SECOND, 0), at(9 * SECOND)), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn a_small_file_is_held_and_of_a_larger_one_there_is_a_descriptor() {
        let path = std::env::temp_dir().join(format!("glowplug-document-{}", std::process::id()));
        for size in [0, 1, HELD_MAX, HELD_MAX + 1, READ_MAX + 1] {
            std::fs::write(&path, vec![b'x'; size as usize]).unwrap();
            let file = File::open(&path).unwrap();
            let stamp = Stamp::of(&fstat(&file).unwrap());
            let (content, after) = Content::of(file, stamp, Patience::Disk).unwrap();
            assert_eq!(after, stamp);
            match content {
                Content::Held(bytes) => assert!(size <= HELD_MAX && bytes.len() as u64 == size, "{size}"),
                Content::Open(_) => assert!(size > HELD_MAX, "{size}"),
            }
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_has_just_changed_may_change_again_unseen() {
        assert!(!stamp(0, 0, SECOND).is_settled(at(SECOND)));
        assert!(!stamp(0, 0, SECOND).is_settled(at(SECOND + TICK)));
        assert!(stamp(0, 0, SECOND).is_settled(at(SECOND + TICK + 1)));
        // A clock that was set back.
        assert!(!stamp(0, 0, 9 * SECOND).is_settled(at(SECOND)));
    }
}
