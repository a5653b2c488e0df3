//! The callbacks of a service: one for each event of a connection.

use bytes::Bytes;

use crate::address::Peer;
use crate::buffer::Input;
use crate::context::Context;
use crate::reason::CloseReason;
use crate::token::ConnectionId;
use crate::topics::Topic;

/// The callbacks of a service.
///
/// Each loop has its own handler for each service, and calls the handler only from the loop's thread. So connections share
/// state by plain `&mut self`, and neither the handler nor its connections need to be [`Send`]. The state of a peer is a
/// [`Handler::Connection`], which the loop keeps and lends to each callback. The [`Context`] reaches other connections by
/// their [`ConnectionId`].
///
/// No method of the context calls back into a handler: a callback requests an action, and the loop carries it out
/// later. Callbacks must not block, because all connections of the loop would wait. A panicking callback ends its
/// connection alone.
///
/// `M` is the type of the messages that other threads [`post`](crate::ServiceHandle::post) to the handler; a service
/// without messages leaves `M` out. The context of each callback knows both types: [`Context<'_, Self::Connection,
/// M>`](Context).
///
/// ```
/// use reactor::{CloseReason, Context, Handler, Input};
/// use std::io::Write;
///
/// /// Numbers the lines of each connection, and counts who is here.
/// #[derive(Default)]
/// struct Numbers {
///     here: usize,
/// }
///
/// impl Handler for Numbers {
///     type Connection = u32;
///
///     fn on_open(&mut self, _: &mut Context<'_, u32>) -> u32 {
///         self.here += 1;
///         0
///     }
///
///     fn on_data(&mut self, lines: &mut u32, input: &mut Input<'_>, cx: &mut Context<'_, u32>) {
///         while let Some(line) = input.until_eol() {
///             *lines += 1;
///             if let Some(mut output) = cx.output() {
///                 let _ = write!(output, "{lines}: "); // never fails, and allocates nothing
///                 output.put(line);
///             }
///         }
///     }
///
///     fn on_close(&mut self, _lines: u32, _: CloseReason, _: &mut Context<'_, u32>) {
///         self.here -= 1;
///     }
/// }
/// ```
pub trait Handler<M = ()>: 'static {
    /// The service's state of a peer.
    type Connection: 'static;

    /// The loop starts, without connections yet. Connect to other servers and watch descriptors here.
    fn on_start(&mut self, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = cx;
    }

    /// A peer has connected. The returned state is lent to every later callback, and given back in
    /// [`on_close`](Handler::on_close).
    fn on_open(&mut self, cx: &mut Context<'_, Self::Connection, M>) -> Self::Connection;

    /// A connection that the handler requested with [`Context::connect`] is established. A failed connection goes to
    /// [`on_close`](Handler::on_close), with the reason.
    fn on_connected(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, cx);
    }

    /// Bytes have arrived, or unread bytes are offered again: after a pause, and after the output has drained.
    ///
    /// `input` has all unread bytes. Take all complete items; the loop keeps the rest, and lends the rest first the
    /// next time. Stop early when a write returns [`Written::AboveHighWater`](crate::Written::AboveHighWater).
    fn on_data(
        &mut self,
        connection: &mut Self::Connection,
        input: &mut Input<'_>,
        cx: &mut Context<'_, Self::Connection, M>,
    );

    /// The peer has ended its half (FIN), after `input`, the unread rest. The peer may still wait for answers. By
    /// default all queued bytes are sent, and then the connection is closed. An implementation that goes on must close
    /// the connection later, as a handler does whose [answers come later](crate::guide#answers-that-come-later).
    fn on_end_of_input(
        &mut self,
        connection: &mut Self::Connection,
        input: &mut Input<'_>,
        cx: &mut Context<'_, Self::Connection, M>,
    ) {
        let _ = (connection, input);
        cx.close();
    }

    /// The output was above the high-water mark, and is now below the low-water mark: time to write more. Called at
    /// most once a turn.
    fn on_drained(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, cx);
    }

    /// The connection is a slow member of a topic, and `count` messages to the member were dropped
    /// ([`SlowPolicy`](crate::SlowPolicy)). Bytes written in this callback take the place of the messages, before all bytes that
    /// are still queued. The count is taken when the output reaches the place of the messages, so a notice covers all messages
    /// dropped there. Does nothing by default. Also called while the connection is closing, as long as bytes are queued.
    fn on_missed(&mut self, connection: &mut Self::Connection, count: u64, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, count, cx);
    }

    /// The connection is a member of a topic with more than [`Limits::member_queue`](crate::Limits::member_queue) bytes queued, and
    /// is closed after this callback. A message that has begun to leave is finished; the member's answers and the bytes written
    /// here follow. Waiting publications were dropped. Does nothing by default.
    fn on_too_slow(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, cx);
    }

    /// A message was published to a topic to which the handler [listens](Context::listen). Called in the turn after the publication.
    /// Does nothing by default.
    fn on_publication(&mut self, topic: &Topic, message: &Bytes, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (topic, message, cx);
    }

    /// `count` messages of a topic to which the handler [listens](Context::listen) were dropped at this place, because more than
    /// [`Limits::member_queue`](crate::Limits::member_queue) bytes waited for the handler. Does nothing by default.
    fn on_publications_missed(&mut self, topic: &Topic, count: u64, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (topic, count, cx);
    }

    /// The turn after [`Context::request_turn`], and after the [publications](Self::on_publication) that were heard in a turn: for
    /// remaining work that belongs to no connection.
    fn on_turn(&mut self, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = cx;
    }

    /// The deadline set with [`Context::set_deadline`] has passed, and is cleared. Closes by default.
    fn on_deadline(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = connection;
        cx.close();
    }

    /// The handler's timer `key`, set by [`cx.timers()`](Context::timers), went off. The callback belongs to no connection.
    /// Does nothing by default.
    fn on_timer(&mut self, key: u64, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (key, cx);
    }

    /// The connection's timer `key`, set by [`cx.at(id).timers()`](crate::ConnectionRef::timers), went off. Does nothing by
    /// default.
    fn on_connection_timer(
        &mut self,
        connection: &mut Self::Connection,
        key: u64,
        cx: &mut Context<'_, Self::Connection, M>,
    ) {
        let _ = (connection, key, cx);
    }

    /// The application is stopping, and all input of the peer has been delivered. By default the connection is closed
    /// when all queued bytes are sent. Connections that are open at the end of the drain time are aborted. A handler whose
    /// [answers come later](crate::guide#answers-that-come-later) closes the connection after the last answer.
    fn on_stopping(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = connection;
        cx.close();
    }

    /// A message was posted. `to` is the addressed connection, and `connection` is the connection's state;
    /// `None` if the connection has ended, or if the message was addressed to no connection. The callback belongs to no
    /// connection ([`Context::id`] is none), so [`cx.at(to)`](Context::at) reaches the addressee. A panic ends the
    /// addressee.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context, Handler, Input};
    ///
    /// /// Counts the messages that each connection was sent by other threads.
    /// struct Inbox;
    ///
    /// impl Handler<String> for Inbox {
    ///     type Connection = u32;
    ///     fn on_open(&mut self, _: &mut Context<'_, u32, String>) -> u32 {
    ///         0
    ///     }
    ///     fn on_data(&mut self, _: &mut u32, input: &mut Input<'_>, _: &mut Context<'_, u32, String>) {
    ///         input.take_all();
    ///     }
    ///     fn on_message(
    ///         &mut self,
    ///         to: ConnectionId,
    ///         connection: Option<&mut u32>,
    ///         message: String,
    ///         cx: &mut Context<'_, u32, String>,
    ///     ) {
    ///         let Some(count) = connection else { return }; // it has ended
    ///         *count += 1;
    ///         cx.at(to).write(format!("{count}: {message}\n"));
    ///     }
    /// }
    /// ```
    fn on_message(
        &mut self,
        to: ConnectionId,
        connection: Option<&mut Self::Connection>,
        message: M,
        cx: &mut Context<'_, Self::Connection, M>,
    ) {
        let _ = (to, connection, message, cx);
    }

    /// A connection was refused at [`Limits::connections`](crate::Limits::connections) or
    /// [`Application::max_connections`](crate::Application::max_connections), and gets
    /// [`Service::refusal`](crate::Service::refusal), or is refused by its first bytes
    /// ([`Service::refusal_by`](crate::Service::refusal_by)). For logs: the connection has no state, and [`Context::id`] is
    /// none. Called on the loop that accepts.
    fn on_refused(&mut self, peer: Peer, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (peer, cx);
    }

    /// Names the connections that the service refuses at present by a limit of its own, for the report that SIGUSR1
    /// requests: `none from …`, in a few words on a single line. `None`, the default, means no such limit. The report names the
    /// loop's own limits by itself. Called only for the report, on the loop that accepts.
    ///
    /// ```
    /// use reactor::{Context, Handler, Input};
    ///
    /// struct Ticket { left: usize }
    ///
    /// impl Handler for Ticket {
    ///     type Connection = ();
    ///     fn on_open(&mut self, cx: &mut Context<'_>) {
    ///         match self.left.checked_sub(1) {
    ///             Some(left) => self.left = left,
    ///             None => cx.close(),
    ///         }
    ///     }
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         input.take_all();
    ///     }
    ///     fn turns_away(&self) -> Option<String> {
    ///         // The report says `accepting connections, but none without a ticket: all are sold`.
    ///         (self.left == 0).then(|| "none without a ticket: all are sold".to_owned())
    ///     }
    /// }
    /// # assert!(Ticket { left: 0 }.turns_away().is_some() && Ticket { left: 1 }.turns_away().is_none());
    /// ```
    fn turns_away(&self) -> Option<String> {
        None
    }

    /// The connection has ended, for `reason`. Called exactly once for every [`Handler::Connection`], also after a
    /// panic, and for a connection that was never established. [`Context::queued`] returns the number of unsent bytes.
    /// A client reconnects here, or, after a pause, from a [timer](Context::timers).
    fn on_close(
        &mut self,
        connection: Self::Connection,
        reason: CloseReason,
        cx: &mut Context<'_, Self::Connection, M>,
    ) {
        let _ = (connection, reason, cx);
    }
}
