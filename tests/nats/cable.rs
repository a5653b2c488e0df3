//! A link that a test can cut: a program between a chat server and its `nats-server` that stops forwarding without a word.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Clone, Copy, PartialEq)]
enum State {
    Whole,
    /// No byte passes, and no end. Bytes of the connections so far wait, and pass later.
    Cut,
    /// The cable is not needed any longer.
    Gone,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Cut>,
    changed: Condvar,
}

struct Cut {
    state: State,
    /// Connections with a smaller number never pass a byte again, as after a cut that has outlasted the retransmissions.
    dead_below: usize,
    count: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Cut { state: State::Whole, dead_below: 0, count: 0 }
    }
}

/// A link to a server. Dropped, the link ends all its connections.
pub struct Cable {
    port: u16,
    shared: Arc<Shared>,
}

impl Cable {
    /// Lays a link to the server at this port of the loopback device.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { continue };
                let number = of_thread.enter();
                let Some(number) = number else { return };
                // As long as the link is cut, a connection is accepted by the system alone.
                of_thread.may_pass(number);
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
                    let shared = of_thread.clone();
                    std::thread::spawn(move || shared.carry(number, from, to));
                }
            }
        });
        Cable { port, shared }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Cuts the link: neither a byte nor an end passes.
    pub fn cut(&self) {
        self.set(State::Cut, false);
    }

    /// Joins the link. All that has waited passes, late.
    pub fn join(&self) {
        self.set(State::Whole, false);
    }

    /// Joins the link for new connections. What has waited is lost.
    pub fn join_for_new_connections(&self) {
        self.set(State::Whole, true);
    }

    fn set(&self, state: State, loses: bool) {
        let mut cut = self.shared.state.lock().unwrap();
        cut.state = state;
        if loses {
            cut.dead_below = cut.count;
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// The number of the next connection; none at the end.
    fn enter(&self) -> Option<usize> {
        let mut cut = self.state.lock().unwrap();
        cut.count += 1;
        (cut.state != State::Gone).then_some(cut.count)
    }

    /// Waits until a byte may pass. Returns whether it may at all.
    fn may_pass(&self, number: usize) -> bool {
        let cut = self.state.lock().unwrap();
        let waits = |cut: &mut Cut| cut.state == State::Cut;
        let cut = self.changed.wait_while(cut, waits).unwrap();
        cut.state == State::Whole && number > cut.dead_below
    }

    fn carry(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if !self.may_pass(number) {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            if count == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.set(State::Gone, false);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
