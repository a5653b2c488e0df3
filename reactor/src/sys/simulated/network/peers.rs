//! The other end: peers that follow their scripts, and the path between them and our kernel.

use std::net::SocketAddr;

use super::super::line::{Act, Line, Stage};
use super::{FIRST_FD, File, Happening, Network};
use crate::address::{Address, Peer};
use crate::sys::Fd;

/// Dropped SYNs of one peer before it gives up.
const KNOCKS: u32 = 6;

impl Network {
    pub(crate) fn new_line(&mut self, stage: Stage, address: Address, script: Vec<Act>) -> usize {
        let (least, most) = self.faults.buffers;
        let mut size = || least + self.random.below((most - least + 1) as u64) as usize;
        let mut line = Line::new(stage, size(), size(), size());
        line.script = script.into();
        self.lines.push(line);
        self.addresses.push(address);
        self.lines.len() - 1
    }

    pub(crate) fn address_of(&self, line: usize) -> Peer {
        match self.addresses[line] {
            Address::Tcp(_) => Peer::Tcp(SocketAddr::from(([10, 0, (line >> 8) as u8, line as u8], 50_000))),
            Address::Unix(_) => Peer::Unix,
        }
    }

    /// The local address: the listener's, or an address of the simulated host.
    pub(crate) fn local_address(&self, fd: Fd) -> Option<Address> {
        let Some(Some(File::Line(line))) = self.files.get(usize::try_from(fd.0 - FIRST_FD).ok()?) else { return None };
        let known = &self.addresses[*line];
        match known {
            Address::Tcp(_) if self.remotes.contains_key(known) => {
                Some(Address::Tcp(([10, 255, 0, 1], 32_768 + (*line as u16) % 28_000).into()))
            }
            Address::Unix(_) if self.remotes.contains_key(known) => None,
            listener => Some(listener.clone()),
        }
    }

    /// A peer connects.
    pub(super) fn come(&mut self, index: usize) {
        let wanted = &self.addresses[index];
        let found = self.files.iter_mut().flatten().find_map(|file| match file {
            File::Listener { address, backlog, queue, .. } if address == wanted => Some((*backlog, queue)),
            _ => None,
        });
        match found {
            None => {
                self.lines[index].stage = Stage::Refused;
                self.act(index);
            }
            // The SYN is dropped and sent again, several times.
            Some((backlog, queue)) if queue.len() > backlog && self.lines[index].knocks < KNOCKS => {
                self.lines[index].knocks += 1;
                self.after(1_000_000_000 << self.lines[index].knocks, Happening::Connect(index));
            }
            Some((backlog, queue)) if queue.len() > backlog => {
                self.lines[index].stage = Stage::Refused;
                self.act(index);
            }
            Some((_, queue)) => {
                queue.push_back(index);
                self.lines[index].stage = Stage::Queued;
                self.act(index);
            }
        }
    }

    /// Runs the peer's program until it has to wait.
    pub(super) fn act(&mut self, index: usize) {
        loop {
            let line = &mut self.lines[index];
            let Some(next) = line.script.front_mut() else { return };
            let gone = line.cut || line.dead || line.stage == Stage::Refused || line.left;
            match next {
                Act::Send(bytes) => {
                    let bytes = std::mem::take(bytes);
                    if !gone && !line.said_end {
                        line.said.extend_from_slice(&bytes);
                    }
                    self.start_arriving(index);
                }
                Act::Wait(span) => {
                    let span = *span;
                    self.lines[index].script.pop_front();
                    if !gone {
                        return self.after(span, Happening::Act(index));
                    }
                    continue;
                }
                Act::Await(count) => {
                    let count = *count;
                    if line.delivered - line.expected < count && !line.is_mute() && !line.left {
                        line.awaiting = true;
                        return;
                    }
                    line.expected = line.delivered.min(line.expected + count);
                }
                Act::Expect(bytes) => {
                    let bytes = std::mem::take(bytes);
                    if !self.expect(index, &bytes) {
                        self.lines[index].script[0] = Act::Expect(bytes);
                        return;
                    }
                }
                Act::ExpectEnd => {
                    if !line.heard_end {
                        if !line.is_mute() {
                            line.awaiting = true;
                            return;
                        }
                        self.violation(&format!("peer {index} expected the end and got a reset"));
                    }
                    let (delivered, expected) = (line.delivered, line.expected);
                    if delivered > expected {
                        let more = String::from_utf8_lossy(&line.taken[expected..delivered]).into_owned();
                        self.violation(&format!("peer {index} expected the end and got {more:?}"));
                    }
                }
                Act::Shutdown => {
                    line.said_end = true;
                    self.start_arriving(index);
                }
                Act::Reset => {
                    if !gone {
                        (line.cut, line.left) = (true, true);
                        self.soon(Happening::Reset(index));
                    }
                }
                Act::Close => {
                    if !gone {
                        line.left = true;
                        if line.taken.len() > line.delivered {
                            self.soon(Happening::Reset(index));
                        } else {
                            line.said_end = true;
                            self.start_arriving(index);
                        }
                    }
                }
                Act::React(reaction) => {
                    let reaction = reaction.clone();
                    let got = &line.taken[line.expected..line.delivered];
                    match reaction.0(got) {
                        Some((count, acts)) => {
                            if count > got.len() {
                                let got = got.len();
                                self.violation(&format!("peer {index} takes {count} bytes, and {got} have come"));
                            }
                            line.expected += count;
                            line.script.pop_front();
                            acts.into_iter().rev().for_each(|act| line.script.push_front(act));
                            line.awaiting = false;
                            continue;
                        }
                        None if line.is_mute() || line.left => {}
                        None => {
                            line.awaiting = true;
                            return;
                        }
                    }
                }
                Act::Pace(bytes, span) => {
                    line.pace = (*bytes, *span);
                    self.start_delivering(index);
                }
            }
            let line = &mut self.lines[index];
            line.awaiting = false;
            line.script.pop_front();
        }
    }

    /// Whether these bytes have arrived. Other bytes are a violation.
    pub(super) fn expect(&mut self, index: usize, bytes: &[u8]) -> bool {
        let line = &mut self.lines[index];
        let got = &line.taken[line.expected..line.delivered];
        let count = got.len().min(bytes.len());
        if got[..count] != bytes[..count] || (count < bytes.len() && line.is_mute()) {
            let (wanted, got) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(&got[..count]).into_owned());
            let how = match line {
                Line { stage: Stage::Refused, .. } => " and was refused",
                Line { cut: true, .. } => " and was reset",
                Line { heard_end: true, .. } => " and the end",
                _ => "",
            };
            self.violation(&format!("peer {index} expected {wanted:?} and got {got:?}{how}"));
        }
        if count < bytes.len() {
            line.awaiting = true;
            return false;
        }
        line.expected += count;
        true
    }

    pub(crate) fn start_arriving(&mut self, index: usize) {
        let line = &mut self.lines[index];
        let more = line.said.len() > line.arrived || (line.said_end && !line.end_arrived);
        if more && !line.arriving && !line.dead {
            line.arriving = true;
            self.soon(Happening::Arrive(index));
        }
    }

    /// Moves the peer's bytes to our kernel, in pieces, as far as there is room.
    pub(super) fn arrive(&mut self, index: usize) {
        let line = &mut self.lines[index];
        line.arriving = false;
        if line.dead {
            return;
        }
        let left = line.said.len() - line.arrived;
        if line.closed {
            if left > 0 {
                // The program has closed its end: the answer is a reset.
                line.cut = true;
                self.act(index);
            }
            line_end(&mut self.lines[index]);
            return;
        }
        let free = line.window.saturating_sub(line.arrived - line.read);
        if left > 0 && free == 0 {
            return; // A receive starts it again.
        }
        if left > 0 {
            let most = left.min(free);
            let count = if self.random.chance(0.5) { most } else { self.random.size(most) };
            self.lines[index].arrived += count;
        }
        line_end(&mut self.lines[index]);
        self.rouse(index);
        self.start_arriving(index);
    }

    pub(crate) fn start_delivering(&mut self, index: usize) {
        let line = &mut self.lines[index];
        let more = line.taken.len() > line.delivered || (line.finished && !line.heard_end);
        if more && !line.delivering && !line.cut && (line.pace.0 > 0 || line.left) {
            line.delivering = true;
            let span = self.latency().max(self.lines[index].pace.1);
            self.after(span, Happening::Deliver(index));
        }
    }

    /// The peer's program reads.
    pub(super) fn deliver(&mut self, index: usize) {
        let line = &mut self.lines[index];
        line.delivering = false;
        if line.cut || line.dead {
            return;
        }
        let left = line.taken.len() - line.delivered;
        if line.left && left > 0 {
            line.cut = true;
            return self.soon(Happening::Reset(index));
        }
        if line.pace.0 == 0 && !line.left {
            return;
        }
        line.delivered += left.min(line.pace.0);
        if line.finished && line.delivered == line.taken.len() {
            line.heard_end = true;
        }
        if line.awaiting {
            self.act(index);
        }
        self.start_delivering(index);
    }
}

/// The end arrives when all bytes have arrived.
fn line_end(line: &mut Line) {
    if line.said_end && line.arrived == line.said.len() {
        line.end_arrived = true;
    }
}
