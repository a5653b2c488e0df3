//! The script of a peer: its actions in order.

use std::sync::Arc;
use std::time::Duration;

use crate::sys::simulated::{Act, Reaction};

/// The actions of a peer after it has connected, in order. A peer at the end of its script stays connected, and goes on
/// reading.
///
/// ```
/// use reactor::sim::Script;
/// use std::time::Duration;
/// let impatient = Script::new().send("GET / HTTP/1.1\r\n").wait(Duration::from_millis(50)).reset();
/// let slow = Script::new().reads(10, Duration::from_millis(1)).send("big\n").shutdown().expect_end();
/// # let _ = (impatient, slow);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(super) acts: Vec<Act>,
}

impl Script {
    /// A peer that connects, sends nothing, and reads everything at once. The other methods add acts and habits.
    pub fn new() -> Self {
        Self::default()
    }

    fn then(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }

    /// Sends `bytes`. The seed decides the pieces in which they arrive.
    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Act::Send(bytes.as_ref().to_vec()))
    }

    /// Waits for `time` of simulated time before the next act.
    pub fn wait(self, time: Duration) -> Self {
        self.then(Act::Wait(time.as_nanos() as u64))
    }

    /// Waits until `count` further bytes have come, or until none can come any more.
    pub fn receive(self, count: usize) -> Self {
        self.then(Act::Await(count))
    }

    /// Waits for these bytes, which must come next. Other bytes, or an end, are an error.
    pub fn expect(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Act::Expect(bytes.as_ref().to_vec()))
    }

    /// Waits for the end; bytes before it, or a reset, are an error.
    pub fn expect_end(self) -> Self {
        self.then(Act::ExpectEnd)
    }

    /// Waits until `react` returns what the peer does next. `react` is called with the bytes that have come and that no earlier act
    /// has taken, once at the beginning and whenever more have come. It returns how many of them are taken, and the acts; or `None`
    /// to wait for more. The peer goes on with the rest of this script after those acts, or when no more bytes can come.
    ///
    /// A function that ends its acts with itself reacts to every item of a stream.
    ///
    /// ```
    /// use reactor::sim::Script;
    ///
    /// /// A server that answers each line with the line in capital letters.
    /// fn upper(bytes: &[u8]) -> Option<(usize, Script)> {
    ///     let length = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    ///     Some((length, Script::new().send(bytes[..length].to_ascii_uppercase()).react(upper)))
    /// }
    /// let server = Script::new().send("ready\n").react(upper);
    /// # let _ = server;
    /// ```
    ///
    /// # Panics
    /// The simulation ends with its seed when `react` takes more bytes than have come.
    pub fn react(self, react: impl Fn(&[u8]) -> Option<(usize, Script)> + Send + Sync + 'static) -> Self {
        let react = move |bytes: &[u8]| react(bytes).map(|(count, script)| (count, script.acts));
        self.then(Act::React(Reaction(Arc::new(react))))
    }

    /// Ends the peer's half, and goes on reading.
    pub fn shutdown(self) -> Self {
        self.then(Act::Shutdown)
    }

    /// Resets the connection (RST): bytes that are on the way to the loop may be lost.
    pub fn reset(self) -> Self {
        self.then(Act::Reset)
    }

    /// Closes the connection: later bytes are answered by a reset.
    pub fn close(self) -> Self {
        self.then(Act::Close)
    }

    /// From now on, reads at most `bytes` bytes in each period `every`; with 0 bytes, does not read.
    pub fn reads(self, bytes: usize, every: Duration) -> Self {
        self.then(Act::Pace(bytes, every.as_nanos() as u64))
    }
}
