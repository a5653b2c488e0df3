//! Publishing from a task.

use reactor::{Bytes, ConnectionId, Topic};

use crate::station::{Command, Station};

/// Publishes `bytes` to every member of the topic, on every loop: see [`Context::publish`](reactor::Context::publish).
///
/// ```
/// use reactor::{Service, Topic};
/// use sequential::{Peer, Tasks, publish};
///
/// /// Whatever anybody says goes to everybody.
/// async fn party(peer: &mut Peer) {
///     let everybody = Topic::new("everybody");
///     peer.subscribe(&everybody);
///     while let Some(line) = peer.until_eol().await {
///         publish(&everybody, line.to_vec());
///     }
/// }
/// # Service::tcp("127.0.0.1:0", || Tasks::new(party));
/// ```
///
/// # Panics
/// Outside a task.
pub fn publish(topic: &Topic, bytes: impl Into<Bytes>) {
    Station::current("publish").ask(Command::Publish(topic.clone(), bytes.into(), ConnectionId::NONE));
}
