//! The handler of the model: the lent input, the requests, and the accepted part of each write.

use super::*;

impl World<'_, '_> {
    pub(super) fn data(&mut self, input: &mut Input<'_>) {
        assert!(!self.handler.paused, "on_data in a pause");
        let high = self.limits.output_high;
        assert!(self.handler.relayed || self.link().queued() <= high, "on_data above the high-water mark");
        assert!(!self.handler.waiting || self.link().queued() == 0, "on_data while the handler waits for its output");
        self.handler.waiting = false;
        self.compare_input(input);
        (self.handler.offer_owed, self.handler.offer_due, self.handler.streams) = (false, false, false);
        self.callback(Some(input));
    }

    /// Checks that the lent input is all unconsumed bytes, in order.
    pub(super) fn compare_input(&self, input: &Input<'_>) {
        let expected: Vec<u8> = (self.handler.consumed..self.kernel.reported).map(byte).collect();
        assert!(input.as_slice() == expected, "what is lent is what has arrived");
    }

    /// Runs any callback but the last.
    pub(super) fn callback(&mut self, mut input: Option<&mut Input<'_>>) {
        assert!(!self.handler.closing && !self.handler.aborted, "a callback after the end");
        self.in_callback = true;
        while let Some((letter, number)) = self.operations.next_of(REQUESTS) {
            if letter == b'j' {
                break;
            }
            self.open(letter, number, input.as_deref_mut());
        }
        if self.settling {
            if let Some(input) = input {
                self.open(b'k', u64::MAX, Some(input));
            }
            if self.handler.end_called || self.handler.stopping_called {
                self.open(b'z', 0, None);
            }
        }
        self.end_callback();
    }

    pub(super) fn end_callback(&mut self) {
        self.in_callback = false;
        if let Some(span) = self.handler.fresh {
            // The latest time is known after the link's steps.
            self.handler.deadline = Some((self.now + span, Time::NEVER));
        }
    }

    pub(super) fn open(&mut self, letter: u8, number: u64, input: Option<&mut Input<'_>>) {
        let (now, turn) = (self.now, self.turn);
        match letter {
            b'w' => self.write(number.clamp(1, 1000)),
            b'k' => {
                if let Some(input) = input {
                    let count = number.min(input.len() as u64);
                    input.consume(count as usize);
                    self.handler.consumed += count;
                    self.handler.useful |= count > 0;
                }
            }
            b'z' => {
                self.begin_to_close();
                self.link().close(now);
            }
            b'n' => {
                self.handler.relayed = true;
                self.link().read_on();
            }
            b'q' if !self.handler.closing => {
                // With an empty output, unread input is offered in the next turn.
                self.handler.waiting = self.link().queued() > 0;
                self.handler.offer_owed = true;
                self.handler.offer_due |= !self.handler.waiting;
                self.link().wait_for_output(turn);
            }
            b'f' => {
                self.handler.finishing |= !self.handler.closing;
                self.link().finish();
            }
            b'x' => {
                self.handler.aborted = true;
                self.link().abort(CloseReason::Aborted);
            }
            b'p' => {
                self.handler.paused = true;
                self.link().pause();
            }
            b'r' => {
                let was_paused = std::mem::take(&mut self.handler.paused);
                self.handler.offer_owed |= was_paused;
                self.handler.offer_due |= was_paused;
                self.link().resume();
            }
            b'g' if self.in_callback => {
                (self.handler.offer_owed, self.handler.offer_due) = (true, true);
                self.link().offer_next_turn(turn);
            }
            b'd' | b'e' if !self.handler.closing => {
                let span = (letter == b'd').then(|| Duration::from_secs(number % 100));
                self.link().set_deadline(span);
                (self.handler.deadline, self.handler.fresh) = (None, span);
            }
            b't' => self.now = now + TENTH * (number % 100) as u32,
            _ => {}
        }
    }

    /// The handler closes the link, or a limit closes it.
    pub(super) fn begin_to_close(&mut self) {
        self.handler.closing = true;
        (self.handler.deadline, self.handler.fresh) = (None, None);
        self.kernel.heard = self.now;
    }

    pub(super) fn write(&mut self, count: u64) {
        let (max, high) = (self.limits.output_max, self.limits.output_high);
        let owed = self.link().queued();
        let refused = self.handler.closing
            || self.handler.finishing
            || self.handler.aborted
            || self.kernel.broken_at.is_some()
            || self.link().origin == Origin::Watched;
        let Some(output) = self.link.as_mut().and_then(|link| link.writable_output(&mut self.pool, &self.limits))
        else {
            // A reset that was reported before all input was delivered refuses writes, too.
            return assert!(refused || self.kernel.failure_reported || self.link().is_over(), "a write is refused");
        };
        assert!(!refused, "a write is taken after the end");
        let bytes: Vec<u8> = (self.handler.written..self.handler.written + count).map(byte).collect();
        output.put(&bytes);
        self.handler.useful = true;
        self.handler.overflowed |= owed > high && owed + bytes.len() > max;
        assert_eq!(output.overflowed(), self.handler.overflowed);
        if !self.handler.overflowed {
            self.handler.written += count;
        }
        self.handler.owes_drained |= output.queued() > high;
    }
}
