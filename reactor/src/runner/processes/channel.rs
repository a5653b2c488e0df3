//! The protocol between a process and its children, on a pair of connected sockets: frames of kind, length and body.
//! Both ends are one program, so a malformed frame is a fault of the program.

use bytes::Bytes;

use crate::address::Peer;
use crate::buffer::{Input, Output};
use crate::context::Terms;
use crate::limits::{Deadlines, Limits};
use crate::service::Bound;
use crate::topics::Topic;

/// Longest frame, in bytes: as much as may wait for another loop. A longer publication is not carried to other
/// processes, and the log says so.
pub(super) const FRAME_MAX: usize = 16 * 1024 * 1024;
/// Bytes for kind and length.
const HEAD: usize = 5;
/// Unsent bytes on one channel at which the mailbox behind it pauses.
const LINE_HIGH: usize = 1024 * 1024;

/// A message from one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// From both ends: deliver to the members of the topic at the receiver. The parent also passes the message to all
    /// other children.
    Publish(Topic, Bytes),
    /// From a child: halt the application.
    Halt,
    /// From a child, as its last frame: all its counters.
    Counted(Vec<u64>),
    /// The parent: stop.
    Stop,
    /// From the parent: reopen the log files.
    Reopen,
    /// From the parent: report to the operator.
    Report,
}

/// The frame is longer than [`FRAME_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) usize);

/// The frame is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nonsense;

impl Frame {
    /// Writes the frame, all of it or nothing.
    pub(super) fn write(&self, output: &mut Output) -> Result<(), TooLong> {
        let length = match self {
            Frame::Publish(topic, bytes) => 4 + topic.name().len() + bytes.len(),
            Frame::Counted(numbers) => 8 * numbers.len(),
            _ => 0,
        };
        if length > FRAME_MAX {
            return Err(TooLong(length));
        }
        output.put(&[self.kind()]);
        output.put(&(length as u32).to_le_bytes());
        match self {
            Frame::Publish(topic, bytes) => {
                output.put(&(topic.name().len() as u32).to_le_bytes());
                output.put(topic.name().as_bytes());
                output.put_shared(bytes.clone());
            }
            Frame::Counted(numbers) => numbers.iter().for_each(|number| output.put(&number.to_le_bytes())),
            _ => {}
        }
        Ok(())
    }

    /// Reads the next frame, if it is complete.
    pub(super) fn read(input: &mut Input<'_>) -> Result<Option<Frame>, Nonsense> {
        let Some((&[kind, a, b, c, d], rest)) = input.as_slice().split_first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > FRAME_MAX {
            return Err(Nonsense);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let frame = Self::of(kind, body).ok_or(Nonsense)?;
        input.consume(HEAD + length);
        Ok(Some(frame))
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Publish(..) => b'P',
            Frame::Halt => b'H',
            Frame::Counted(_) => b'C',
            Frame::Stop => b'S',
            Frame::Reopen => b'O',
            Frame::Report => b'R',
        }
    }

    fn of(kind: u8, body: &[u8]) -> Option<Frame> {
        Some(match kind {
            b'P' => {
                let (length, rest) = body.split_first_chunk::<4>()?;
                let (topic, bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                Frame::Publish(Topic::from(str::from_utf8(topic).ok()?), Bytes::copy_from_slice(bytes))
            }
            b'C' => {
                let (numbers, rest) = body.as_chunks::<8>();
                rest.is_empty().then_some(())?;
                Frame::Counted(numbers.iter().map(|number| u64::from_le_bytes(*number)).collect())
            }
            _ if !body.is_empty() => return None,
            b'H' => Frame::Halt,
            b'S' => Frame::Stop,
            b'O' => Frame::Reopen,
            b'R' => Frame::Report,
            _ => return None,
        })
    }
}

/// The channels as a service. They have no deadlines, since the process at the other end ends with its channel; and
/// keep at most one frame of input.
pub(super) fn lines() -> Bound {
    let limits = Limits {
        input: HEAD + FRAME_MAX,
        output_high: LINE_HIGH,
        output_low: LINE_HIGH / 2,
        output_max: usize::MAX,
        ..Limits::default()
    };
    let deadlines = Deadlines { first_request: None, idle: None, write_progress: None, ..Deadlines::default() };
    Bound::internal(Terms::internal("process", limits, deadlines))
}

/// The peer of a channel to the parent.
pub(super) const PARENT: Peer = Peer::Unix;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut output = Output::default();
        frame.write(&mut output).unwrap();
        let mut pieces = [std::io::IoSlice::new(&[]); 64];
        let filled = output.gather(&mut pieces);
        pieces[..filled].iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn a_frame_is_read_once_all_of_it_is_there_and_nothing_of_the_next() {
        let frames = [
            Frame::Publish(Topic::from("a topic"), Bytes::from_static(b"news")),
            Frame::Publish(Topic::from(""), Bytes::from(vec![7; 10_000])),
            Frame::Halt,
            Frame::Counted(vec![0, u64::MAX, 3]),
            Frame::Stop,
            Frame::Reopen,
            Frame::Report,
        ];
        let all: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
        let mut input = Input::of(&all);
        for frame in &frames {
            assert_eq!(Frame::read(&mut input), Ok(Some(frame.clone())));
        }
        assert!(input.is_empty());
        let whole = bytes_of(&frames[0]);
        for length in 0..whole.len() {
            assert_eq!(Frame::read(&mut Input::of(&whole[..length])), Ok(None));
        }
    }

    #[test]
    fn nonsense_is_known_for_what_it_is() {
        let too_long = [&b"P"[..], &(FRAME_MAX as u32 + 1).to_le_bytes()].concat();
        let topic_past_the_end = [&b"P"[..], &5u32.to_le_bytes(), &9u32.to_le_bytes(), b"x"].concat();
        for nonsense in [&b"?\0\0\0\0"[..], b"H\x01\0\0\0x", b"C\x01\0\0\0x", &too_long, &topic_past_the_end] {
            assert_eq!(Frame::read(&mut Input::of(nonsense)), Err(Nonsense), "{nonsense:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_not_begun() {
        let mut output = Output::default();
        let frame = Frame::Publish(Topic::from("t"), Bytes::from(vec![0; FRAME_MAX]));
        assert_eq!(frame.write(&mut output), Err(TooLong(FRAME_MAX + 5)));
        assert_eq!(output.queued(), 0);
    }
}
