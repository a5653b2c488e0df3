//! What a service is to the loop: one value with a callback for each thing that can happen to a connection.

use crate::address::Peer;
use crate::buffer::Input;
use crate::context::Context;
use crate::reason::CloseReason;
use crate::token::ConnectionId;

/// The callbacks of a service.
///
/// There is one value for each service and loop, called from that loop's thread alone, so what its connections share is
/// plain `&mut self`, and neither the handler nor its connections need to be [`Send`]. What a service remembers of one
/// peer is [`Handler::Connection`]; the loop keeps it and lends it to each callback. Another connection is reached by
/// its [`ConnectionId`], through the [`Context`].
///
/// A callback asks, the loop does: nothing that a callback calls on its context calls back into a handler. Callbacks
/// must not block, for everybody waits. One that panics loses its connection and nothing else.
///
/// `M` is the type of the messages that other threads [`post`](crate::ServiceHandle::post) to the handler; a service
/// that takes none never mentions it. The context of each callback knows both types: [`Context<'_, Self::Connection, M>`](Context).
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
    /// What the service remembers of one peer.
    type Connection: 'static;

    /// The loop begins. The place to connect to others and to watch descriptors; there is no connection yet.
    fn on_start(&mut self, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = cx;
    }

    /// A peer has connected. What is returned is lent to every later callback, and given back in
    /// [`on_close`](Handler::on_close).
    fn on_open(&mut self, cx: &mut Context<'_, Self::Connection, M>) -> Self::Connection;

    /// A connection that this handler asked for with [`Context::connect`] has come about. One that does not goes
    /// to [`on_close`](Handler::on_close) with the reason.
    fn on_connected(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, cx);
    }

    /// Bytes have arrived, or bytes left unread are offered again: after a pause, and after the output has drained.
    ///
    /// `input` has everything unread. Take as many whole items as there are; what is left is kept and comes first the
    /// next time. Stop early when a write tells [`Written::AboveHighWater`](crate::Written::AboveHighWater).
    fn on_data(
        &mut self,
        connection: &mut Self::Connection,
        input: &mut Input<'_>,
        cx: &mut Context<'_, Self::Connection, M>,
    );

    /// The peer has ended its half (FIN), after `input`, which is what was left unread. It may well be waiting for
    /// answers. By default everything owed is sent, and then the connection is closed; whoever overrides this to go on
    /// closes it later.
    fn on_end_of_input(
        &mut self,
        connection: &mut Self::Connection,
        input: &mut Input<'_>,
        cx: &mut Context<'_, Self::Connection, M>,
    ) {
        let _ = (connection, input);
        cx.close();
    }

    /// The output was above the high-water mark and is below the low-water mark now: time to write more. Once a turn at
    /// most.
    fn on_drained(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, cx);
    }

    /// This member of a topic is slow, and so many messages published to it were dropped
    /// ([`SlowPolicy`](crate::SlowPolicy)). What is written to it in this callback takes their place: it comes before
    /// everything that it is still owed, and it is counted when that place is reached, so that there is one notice
    /// for all that were dropped there. Nothing by default. Also called while the connection is closing, as long as
    /// something is owed.
    fn on_missed(&mut self, connection: &mut Self::Connection, count: u64, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, count, cx);
    }

    /// This member of a topic is owed more than [`Limits::member_queue`](crate::Limits::member_queue), and it is closed
    /// after this callback. What has begun to leave is finished, then come its own answers and what is
    /// written to it here; published messages that waited were dropped. Nothing by default.
    fn on_too_slow(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (connection, cx);
    }

    /// A turn after [`Context::request_turn`]: for work that is left over, and belongs to no connection.
    fn on_turn(&mut self, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = cx;
    }

    /// The deadline that was set with [`Context::set_deadline`] has passed. It is cleared. Closes by default.
    fn on_deadline(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = connection;
        cx.close();
    }

    /// The application is stopping, and all that this peer sent until then has been delivered. By default the
    /// connection is closed once everything owed is sent. What is not closed when the drain time is over is aborted.
    fn on_stopping(&mut self, connection: &mut Self::Connection, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = connection;
        cx.close();
    }

    /// A message was posted. `to` is the connection that it was addressed to, and `connection` is the state of that connection;
    /// `None` where it has ended since, or the message was addressed to no connection. The callback belongs to no connection
    /// ([`Context::id`] is none), so the addressee is reached by [`cx.at(to)`](Context::at). A panic ends the addressee.
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

    /// A newcomer was refused at [`Limits::connections`](crate::Limits::connections) or
    /// [`Application::max_connections`](crate::Application::max_connections): it has read [`Service::refusal`](crate::Service::refusal)
    /// or is about to. For logs: it has no connection, and [`Context::id`] is none. Called on the loop that accepts.
    fn on_refused(&mut self, peer: Peer, cx: &mut Context<'_, Self::Connection, M>) {
        let _ = (peer, cx);
    }

    /// Whom this service turns away by a limit of its own at this moment, for the report that SIGUSR1 asks for: `none from …`, in a
    /// few words and one line. `None`, the default: nobody. The report names the limits that the loop itself has. Called for the
    /// report alone, on the loop that accepts.
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

    /// The connection is over, for this reason. Called exactly once for every [`Handler::Connection`] that came into
    /// being, also after a panic and for a connection that never came about. [`Context::queued`] tells how many bytes
    /// it was still owed. A client that connects again does it here, or, after a pause, from a
    /// [`timer`](Context::timer).
    fn on_close(
        &mut self,
        connection: Self::Connection,
        reason: CloseReason,
        cx: &mut Context<'_, Self::Connection, M>,
    ) {
        let _ = (connection, reason, cx);
    }
}
