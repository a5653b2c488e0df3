//! The content at one path, as found at the last look: a file and its encoded siblings, their bytes if the files are
//! small, and the fields that answers state.

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reactor::Writer;
use rustix::fs::fstat;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::cache::Cost;
use super::closer::Closing;
use super::digest::digest;
use super::encodings::Encoding;
use super::resolve::{Failure, Place, Reach, Stamp};
use super::respond::Ready;
use super::root::{Anchor, Root, Sight};
use super::types;
use crate::http::answers::INLINE_MAX;
use crate::http::conditional::{Validators, http_date};

/// Files up to this size are kept in memory: such an answer is one system call, and copying costs the kernel no more
/// than `sendfile`. Above this size copying costs up to twice as much (benches/README.md).
pub(super) const HELD_MAX: u64 = 16 * 1024;

/// Files up to this size are read when they are opened, so that the kernel has the content in memory when the loop
/// sends the file. Files up to this size on a remote file system are kept in memory: sending from the kernel's memory
/// would still ask the server whether the file has changed.
const READ_MAX: u64 = 256 * 1024;

/// Memory of a file beside its content, in bytes: its head, its names, its place in the cache.
const OVERHEAD: usize = 1024;

/// Attempts to read a file that changes while it is read. After the last attempt the file is sent directly.
const READS_MAX: usize = 3;

/// Nanoseconds in which two changes of a file may get equal times: some ticks of the slowest kernel.
const TICK: i128 = 50_000_000;

/// Nanoseconds in a second.
const SECOND: i128 = 1_000_000_000;

/// Age of the last change, in nanoseconds, that makes a tag of the file's status strong: some file systems store times
/// in steps of two seconds.
const STRONG_AFTER: i128 = 2 * SECOND;

/// Modification times before this, in nanoseconds, count as absent: package builders write 1970, or a second or two
/// later.
const NO_TIME: i128 = 86_400 * SECOND;

/// A file and its encoded siblings.
#[derive(Debug)]
pub(super) struct Document {
    /// Indexed by [`Encoding`]. The plain rendition always exists.
    renditions: [Option<Arc<Rendition>>; 3],
    /// The most frequent answer of each rendition, made for the first request.
    ready: [OnceLock<Ready>; 3],
    /// Whether the document was requested lately.
    noted: AtomicBool,
    /// Whether every later change will show in the stamps. If not, a file has changed just now and may change again
    /// within the same clock tick. A weak tag does not unsettle a document: the next full look makes the tag anew.
    pub(super) settled: bool,
    /// The number of the anchor that its paths were resolved from.
    pub(super) anchor: u64,
}

/// One file, and the fields of its answers.
#[derive(Debug)]
pub(super) struct Rendition {
    /// The path, for another look.
    pub(super) path: CString,
    pub(super) stamp: Stamp,
    /// How to look at the file again.
    pub(super) sight: Sight,
    pub(super) encoding: Encoding,
    pub(super) content: Content,
    /// Closes the file on another thread, since a close may wait for a server.
    _closing: Option<Closing>,
    pub(super) content_type: String,
    tag: Tag,
    /// Seconds since 1970, never in the future. `None` if the file has no time.
    modified: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Content {
    Held(Bytes),
    Open(Arc<File>),
}

impl Document {
    /// Looks at `path` and its siblings. Unchanged renditions are taken over from `known`. Returns `None` for a
    /// directory.
    pub(super) fn load(
        root: &Root,
        path: &[u8],
        known: Option<&Document>,
        reach: Reach,
    ) -> Result<Option<Self>, Failure> {
        // Without an anchor the root directory does not exist.
        let anchor = root.anchor().ok_or(Failure::Absent)?;
        let (mut settled, now) = (true, SystemTime::now());
        let mut rendition = |encoding: Encoding| {
            let path = [path, encoding.suffix().as_bytes()].concat();
            let known = known.filter(|known| known.settled).and_then(|known| known.rendition(encoding));
            let found = Rendition::load(root, &anchor, path, encoding, known, reach)?;
            settled &= found.as_ref().is_none_or(|found| found.stamp.is_settled(now));
            Ok(found)
        };
        let Some(plain) = rendition(Encoding::Identity)? else { return Ok(None) };
        let mut beside = |encoding| match rendition(encoding) {
            Err(Failure::NotNow) => Err(Failure::NotNow),
            // The plain file replaces a broken sibling, and also a sibling that is older than the plain file.
            other => Ok(other.unwrap_or(None).filter(|found| !found.stamp.is_outdated_by(&plain.stamp))),
        };
        let renditions = [beside(Encoding::Brotli)?, beside(Encoding::Gzip)?, Some(plain)];
        let (noted, anchor) = (AtomicBool::new(false), anchor.number);
        Ok(Some(Document { renditions, ready: Default::default(), noted, settled, anchor }))
    }

    /// Notes a request. Several handlers share the flag, so it is written only when it changes.
    #[inline]
    pub(super) fn note(&self) {
        if !self.noted.load(Relaxed) {
            self.noted.store(true, Relaxed);
        }
    }

    /// Whether [`note`](Self::note) was called since the last call.
    pub(super) fn take_note(&self) -> bool {
        self.noted.swap(false, Relaxed)
    }

    /// The ready answer of a rendition.
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

    /// Whether the choice of rendition depends on the request.
    pub(super) fn varies(&self) -> bool {
        self.renditions().count() > 1
    }

    /// Bytes and descriptors that the document keeps, including its ready answers.
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
        anchor: &Anchor,
        path: Vec<u8>,
        encoding: Encoding,
        known: Option<&Arc<Rendition>>,
        reach: Reach,
    ) -> Result<Option<Arc<Self>>, Failure> {
        let Place::File(file, stamp, sight) = root.find(anchor, &path, reach)? else { return Ok(None) };
        // A weak tag is made anew until it is strong.
        let same = known.filter(|known| known.stamp == stamp && known.sight == sight && !known.tag.is_weak);
        if let Some(known) = same {
            return Ok(Some(known.clone()));
        }
        // Taken before the content is read: a tag that is strong now was strong during the read.
        let now = SystemTime::now();
        let (content, stamp) = Content::of(file, stamp, sight, reach)?;
        let plain = path.strip_suffix(encoding.suffix().as_bytes()).unwrap_or(&path);
        let (essence, charset) = types::content_type(plain);
        let closing = match &content {
            Content::Open(file) if sight == Sight::Disk => Some(Closing::new(file.clone(), root.closer.clone())),
            _ => None,
        };
        let rendition = Rendition {
            _closing: closing,
            stamp,
            sight,
            encoding,
            content_type: format!("{essence}{charset}"),
            tag: Tag::new(&stamp, &content, encoding, now),
            modified: modified(&stamp, now),
            path: CString::new(path).map_err(|_| Failure::Absent)?,
            content,
        };
        Ok(Some(Arc::new(rendition)))
    }

    pub(super) fn size(&self) -> u64 {
        self.stamp.size
    }

    pub(super) fn validators(&self) -> Validators<'_> {
        let second = |nanos: i128| nanos.div_euclid(SECOND);
        let is_one_second = second(self.stamp.modified) == second(self.stamp.changed);
        let settled = self.modified.filter(|&modified| is_one_second && second(self.stamp.modified) == modified.into());
        Validators { etag: &self.tag.opaque, is_weak: self.tag.is_weak, modified: self.modified, settled }
    }

    /// Puts a part of the content into the output.
    pub(super) fn put(&self, range: Range<u64>, output: &mut Writer<'_>) {
        match &self.content {
            Content::Held(bytes) => output.put_shared(bytes.slice(range.start as usize..range.end as usize)),
            Content::Open(file) => output.put_file(file.clone(), range),
        }
    }

    /// Writes the fields that belong to the file, to every part of the file, and to 304.
    pub(super) fn write_validators(&self, into: &mut Vec<u8>) {
        // Writing to memory never fails.
        if let Some(modified) = self.modified {
            let _ = write!(into, "Last-Modified: {}\r\n", http_date(modified));
        }
        into.extend_from_slice(if self.tag.is_weak { b"ETag: W/" } else { b"ETag: " });
        into.extend_from_slice(&self.tag.opaque);
        into.extend_from_slice(b"\r\n");
    }
}

impl Content {
    /// Reads all of a small file, with the matching stamp. A file that changes during each attempt is not kept. All
    /// waits for the disk happen here, if `reach` allows them.
    fn of(file: File, mut stamp: Stamp, sight: Sight, reach: Reach) -> Result<(Self, Stamp), Failure> {
        let held_max = if sight == Sight::Disk { READ_MAX } else { HELD_MAX };
        for _ in 0..READS_MAX {
            if stamp.size > held_max {
                break;
            }
            let bytes = read(&file, stamp.size, reach)?;
            let after = Stamp::of(&fstat(&file)?);
            if after == stamp && bytes.len() as u64 == stamp.size {
                return Ok((Content::Held(bytes.into()), stamp));
            }
            stamp = after;
        }
        if (HELD_MAX + 1..=READ_MAX).contains(&stamp.size) {
            read(&file, stamp.size, reach)?;
        }
        Ok((Content::Open(Arc::new(file)), stamp))
    }
}

/// Reads the first `size` bytes, or fewer if the file is shorter.
fn read(file: &File, size: u64, reach: Reach) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut filled) = (vec![0; size as usize], 0);
    while filled < bytes.len() {
        let (rest, at) = (&mut bytes[filled..], filled as u64);
        let count = match reach {
            Reach::Disk => file.read_at(rest, at).map_err(|error| Failure::Broken(error.kind())),
            // Some file systems cannot report that a read would wait.
            Reach::Memory => match preadv2(file, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT) {
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
    /// Whether a file with this stamp is older than `plain`. Some encoders copy the time of the plain file, and some of
    /// those copy whole seconds only.
    fn is_outdated_by(&self, plain: &Stamp) -> bool {
        let in_seconds = self.modified.rem_euclid(SECOND) == 0;
        let plain = if in_seconds { plain.modified.div_euclid(SECOND) * SECOND } else { plain.modified };
        self.modified < plain
    }

    /// Whether every later change will show in the stamp. A time in whole seconds may come from a file system without
    /// finer times.
    fn is_settled(&self, now: SystemTime) -> bool {
        let is_coarse = self.changed.rem_euclid(SECOND) == 0;
        self.is_older(if is_coarse { STRONG_AFTER } else { TICK }, now)
    }

    /// Whether the last change is more than `than` nanoseconds ago. False for a change in the future.
    fn is_older(&self, than: i128, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        now - self.changed > than
    }
}

/// An entity tag (RFC 9110 section 8.8.3).
#[derive(Debug)]
struct Tag {
    /// The tag with its quotes.
    opaque: Vec<u8>,
    is_weak: bool,
}

impl Tag {
    /// Makes a tag. For content in memory the tag is a hash of the bytes, so all machines with equal bytes send the
    /// same tag, whatever the files' dates. For other content the tag is made of every part of the status that changes
    /// with the content. Such a tag is weak while the last change is so recent that another change may get an equal
    /// time on some file system.
    fn new(stamp: &Stamp, content: &Content, encoding: Encoding, now: SystemTime) -> Self {
        let suffix = encoding.suffix().replace('.', "-");
        match content {
            Content::Held(bytes) => {
                Tag { opaque: format!("\"{:032x}{suffix}\"", digest(bytes)).into_bytes(), is_weak: false }
            }
            Content::Open(_) => {
                let Stamp { size, modified, changed, inode, .. } = stamp;
                let opaque = format!("\"{size:x}-{modified:x}-{changed:x}-{inode:x}{suffix}\"").into_bytes();
                Tag { opaque, is_weak: !stamp.is_older(STRONG_AFTER, now) }
            }
        }
    }
}

/// The modification time in whole seconds, and never in the future (RFC 9110 section 8.8.2.1).
fn modified(stamp: &Stamp, now: SystemTime) -> Option<u64> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = u64::try_from(stamp.modified.div_euclid(SECOND)).ok()?;
    (stamp.modified >= NO_TIME).then_some(seconds.min(now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stamp(size: u64, modified: i128, changed: i128) -> Stamp {
        Stamp { device: 1, inode: 1, size, modified, changed }
    }

    fn at(nanos: i128) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(nanos as u64)
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn a_tag_of_a_large_file_changes_with_everything_in_its_status_and_is_weak_at_first() {
        let open = Content::Open(Arc::new(File::open(std::env::current_exe().unwrap()).unwrap()));
        let (day, now) = (784_111_777 * SECOND, at(784_112_000 * SECOND));
        let tag = |stamp: Stamp, encoding| {
            let Tag { opaque, is_weak } = Tag::new(&stamp, &open, encoding, now);
            (String::from_utf8(opaque).unwrap(), is_weak)
        };
        let plain = stamp(26, day, day);
        assert_eq!(tag(plain, Encoding::Identity), ("\"1a-ae1b981bc490a00-ae1b981bc490a00-1\"".to_owned(), false));
        assert_eq!(tag(plain, Encoding::Gzip).0, "\"1a-ae1b981bc490a00-ae1b981bc490a00-1-gz\"");
        for other in
            [stamp(27, day, day), stamp(26, day + 1, day), stamp(26, day, day + 1), Stamp { inode: 2, ..plain }]
        {
            assert_ne!(tag(other, Encoding::Identity), tag(plain, Encoding::Identity), "{other:?}");
        }
        for (changed, is_weak) in [(0, true), (2 * SECOND, true), (2 * SECOND + 1, false), (-SECOND, true)] {
            let stamp = stamp(26, day, 784_112_000 * SECOND - changed);
            assert_eq!(tag(stamp, Encoding::Identity).1, is_weak, "{changed} ns before now");
        }
    }

    #[test]
    fn a_tag_of_a_small_file_is_that_of_its_bytes_alone() {
        let tag = |bytes: &'static [u8], stamp: Stamp, encoding| {
            let Tag { opaque, is_weak } = Tag::new(&stamp, &Content::Held(Bytes::from_static(bytes)), encoding, at(0));
            assert!(!is_weak);
            String::from_utf8(opaque).unwrap()
        };
        let (one, other) =
            (stamp(5, SECOND, SECOND), Stamp { inode: 9, device: 9, ..stamp(5, 2 * SECOND, 3 * SECOND) });
        assert_eq!(tag(b"bytes", one, Encoding::Identity), tag(b"bytes", other, Encoding::Identity));
        assert_ne!(tag(b"bytes", one, Encoding::Identity), tag(b"Bytes", one, Encoding::Identity));
        assert_ne!(tag(b"bytes", one, Encoding::Identity), tag(b"bytes", one, Encoding::Brotli));
    }

    #[test]
    fn what_was_encoded_before_the_file_was_changed_is_outdated() {
        let half = SECOND / 2;
        for (encoded, plain, expected) in [
            (5 * SECOND + half, 5 * SECOND + half, false),
            (6 * SECOND, 5 * SECOND + half, false),
            (5 * SECOND + half, 5 * SECOND + half + 1, true),
            // Without fractions, as some tools leave them.
            (5 * SECOND, 5 * SECOND + half, false),
            (5 * SECOND, 6 * SECOND, true),
            (-5 * SECOND, -4 * SECOND, true),
            (-5 * SECOND, -5 * SECOND + half, false),
        ] {
            assert_eq!(stamp(1, encoded, 0).is_outdated_by(&stamp(1, plain, 0)), expected, "{encoded} {plain}");
        }
    }

    #[test]
    fn nothing_was_modified_in_the_future_or_before_the_second_day_of_time() {
        let day = 86_400 * SECOND;
        for (written, now, expected) in [
            (2 * day + 1, 3 * day, Some(172_800)),
            (10 * day, 9 * day, Some(777_600)),
            (day, 9 * day, Some(86_400)),
            (day - 1, 9 * day, None),
            (SECOND, 9 * day, None),
            (0, 9 * day, None),
            (-SECOND, 9 * day, None),
            // 1964
            (-189_302_400 * SECOND, 9 * day, None),
        ] {
            assert_eq!(modified(&stamp(0, written, 0), at(now)), expected, "{written}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn a_small_file_is_held_and_of_a_larger_one_there_is_a_descriptor() {
        let path = std::env::temp_dir().join(format!("glowplug-document-{}", std::process::id()));
        for size in [0, 1, HELD_MAX, HELD_MAX + 1, READ_MAX + 1] {
            std::fs::write(&path, vec![b'x'; size as usize]).unwrap();
            let file = File::open(&path).unwrap();
            let stamp = Stamp::of(&fstat(&file).unwrap());
            let (content, after) = Content::of(file, stamp, Sight::Plain, Reach::Disk).unwrap();
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
        let changed = SECOND + 1;
        assert!(!stamp(0, 0, changed).is_settled(at(changed)));
        assert!(!stamp(0, 0, changed).is_settled(at(changed + TICK)));
        assert!(stamp(0, 0, changed).is_settled(at(changed + TICK + 1)));
        // Another change may have the same time for two seconds where times are whole seconds.
        assert!(!stamp(0, 0, SECOND).is_settled(at(3 * SECOND)));
        assert!(stamp(0, 0, SECOND).is_settled(at(3 * SECOND + 1)));
        // A clock that was set back.
        assert!(!stamp(0, 0, 9 * SECOND).is_settled(at(SECOND)));
    }
}
