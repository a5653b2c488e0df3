//! Outbound connections that a task opens.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::{Deref, DerefMut};
use std::task::Poll;

use reactor::{Address, AddressError, CloseReason, ConnectionId};

use crate::fork::in_thread;
use crate::peer::Peer;
use crate::slot::{CONNECTED, GONE, Slot};
use crate::station::{Command, Station};

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
    /// The name has no address.
    Name(AddressError),
    /// The system could not start a thread for the look-up.
    Thread(io::Error),
    /// The connection was not established.
    Connection(CloseReason),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Name(error) => error.fmt(f),
            ConnectError::Thread(error) => error.fmt(f),
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
        let (to, station) = (to.into(), Station::current("Client::connect"));
        let address = match &to {
            Address::Tcp(address) => Some(reactor::Peer::tcp(*address)),
            Address::Unix(_) => Some(reactor::Peer::Unix),
        };
        let slot = Slot::new(station.clone(), ConnectionId::NONE);
        let client = Client(Peer { slot: slot.clone(), address, is_outbound: true });
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
        match client.reason() {
            Some(reason) => Err(ConnectError::Connection(reason)),
            None => Ok(client),
        }
    }

    /// Looks up `host:port` (or `unix:PATH`) on a thread, and connects to the first address that accepts.
    ///
    /// # Errors
    /// When the name has no address, when the system could not start a thread for the look-up, or the reason for which the
    /// connection to the last address was not established.
    ///
    /// # Panics
    /// Outside a task.
    pub async fn connect_name(name: &str) -> Result<Client, ConnectError> {
        let name = name.to_owned();
        let found = in_thread(move || Address::resolve(&name)).await.map_err(ConnectError::Thread)?;
        let mut outcome = Err(ConnectError::Connection(CloseReason::Closed));
        for address in found.map_err(ConnectError::Name)? {
            outcome = Client::connect(address).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
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
