//! Outbound connections that a task opens.

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::task::Poll;

use reactor::{Address, AddressError, CloseReason, ConnectionId};

use crate::peer::Peer;
use crate::slot::{CONNECTED, GONE, Slot};
use crate::station::{Command, Destination, Station};

/// An outbound connection that a task has opened, with the reads and sends of [`Peer`]. Dropping the client closes the connection
/// as by [`Context::close`](reactor::Context::close).
///
/// ```
/// use sequential::{Client, Peer};
///
/// /// Asks another server for each answer.
/// async fn ask(peer: &mut Peer) {
///     let Ok(mut other) = Client::connect_name("localhost:8800").await else {
///         return peer.send("ERROR: nobody is there\n");
///     };
///     while let Some(line) = peer.until_eol().await {
///         other.send(&line);
///         match other.until_eol().await {
///             Some(answer) => peer.send(&answer),
///             None => return,
///         }
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(ask));
/// ```
#[derive(Debug)]
pub struct Client(Peer);

/// The reason for which a [`Client`] could not connect.
///
/// ```
/// use reactor::CloseReason;
/// let error = sequential::ConnectError::Connection(CloseReason::Stopped);
/// assert_eq!(error.to_string(), "stopped");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The look-up has failed: the name is malformed or has no address, or the system could not start a thread.
    Name(AddressError),
    /// The connection was not established.
    Connection(CloseReason),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Name(error) => error.fmt(f),
            ConnectError::Connection(reason) => reason.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {}

impl Client {
    /// Connects to an address, within the service's [`Deadlines::connect`](reactor::Deadlines::connect).
    ///
    /// # Errors
    /// The reason for which the connection was not established.
    ///
    /// # Panics
    /// Outside a task.
    pub async fn connect(to: impl Into<Address>) -> Result<Client, ConnectError> {
        Client::open(Destination::Address(to.into()), "Client::connect").await
    }

    /// Looks up `host:port` on a helper thread, and connects to the first address that accepts, as
    /// [`Context::connect_to`](reactor::Context::connect_to) does. [`Deadlines::connect`](reactor::Deadlines::connect) counts for the
    /// look-up and all addresses together. A numeric address and `unix:PATH` need no look-up.
    ///
    /// # Errors
    /// The failure of the look-up, or the reason for which the connection to the last address was not established.
    ///
    /// # Panics
    /// Outside a task.
    pub async fn connect_name(name: &str) -> Result<Client, ConnectError> {
        Client::open(Destination::Name(name.to_owned()), "Client::connect_name").await
    }

    /// Opens a connection for the running task. `what` names the caller in the panic's text.
    async fn open(to: Destination, what: &str) -> Result<Client, ConnectError> {
        let station = Station::current(what);
        let slot = Slot::new(station.clone(), ConnectionId::NONE);
        let mut client = Client(Peer { slot: slot.clone(), address: None, is_outbound: true });
        station.ask(Command::Connect(to, slot.clone()));
        drop(station);
        poll_fn(|cx| {
            if slot.is(CONNECTED | GONE) {
                return Poll::Ready(());
            }
            slot.with_rest(|rest| rest.waiting.push(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        let (address, error) = slot.with_rest(|rest| (rest.address, rest.connect_error.take()));
        client.0.address = address;
        match client.reason() {
            // A connection that was established, and has ended since, may have input.
            Some(reason) if !slot.is(CONNECTED) => Err(match (reason, error) {
                (CloseReason::LookUpFailed, Some(error)) => ConnectError::Name(error),
                _ => ConnectError::Connection(reason),
            }),
            _ => Ok(client),
        }
    }
}

impl Deref for Client {
    type Target = Peer;
    fn deref(&self) -> &Peer {
        &self.0
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let slot = &self.0.slot;
        if !slot.is(GONE) {
            slot.station.ask(Command::Hangup(slot.clone()));
        }
    }
}
