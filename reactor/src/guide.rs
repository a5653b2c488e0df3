//! How to write a service: the questions of the first week, with code that compiles.
//!
//! - [State for each connection](#state-for-each-connection)
//! - [Bytes to items, items to bytes](#bytes-to-items-items-to-bytes)
//! - [Backpressure](#backpressure)
//! - [Answers that come later](#answers-that-come-later)
//! - [Deadlines and timers](#deadlines-and-timers)
//! - [Signals](#signals)
//! - [Logging](#logging)
//! - [Several loops, and state that they share](#several-loops-and-state-that-they-share)
//! - [Socket options](#socket-options)
//! - [Limits of one connection](#limits-of-one-connection)
//! - [TLS](#tls)
//! - [Testing](#testing)
//! - [From tokio, mio, libuv: how do I …](#from-tokio-mio-libuv-how-do-i-)
//!
//! # State for each connection
//!
//! [`Handler::Connection`](crate::Handler::Connection) is the type of a connection's state. [`on_open`](crate::Handler::on_open)
//! returns the value, every callback about the connection lends the value, and [`on_close`](crate::Handler::on_close) gives the
//! value back, once, at any kind of end. State that all connections of a loop share is a field of the handler, in plain
//! `&mut self`: a handler runs on a single thread. The state's type is a parameter of the context, too: `Context<'_, State>`, or
//! `Context<'_, State, Message>` for a handler that takes messages.
//!
//! ```
//! use reactor::{CloseReason, Context, Handler, Input};
//!
//! #[derive(Default)]
//! struct Player {
//!     name: Option<String>,
//! }
//!
//! #[derive(Default)]
//! struct Lobby {
//!     here: usize,
//! }
//!
//! impl Handler for Lobby {
//!     type Connection = Player;
//!
//!     fn on_open(&mut self, _: &mut Context<'_, Player>) -> Player {
//!         self.here += 1;
//!         Player::default()
//!     }
//!
//!     fn on_data(&mut self, player: &mut Player, input: &mut Input<'_>, cx: &mut Context<'_, Player>) {
//!         while let Some(line) = input.until_eol() {
//!             let name = String::from_utf8_lossy(line.trim_ascii()).into_owned();
//!             cx.write(format!("hello {name}, {} here\n", self.here));
//!             player.name = Some(name);
//!         }
//!     }
//!
//!     fn on_close(&mut self, _: Player, _: CloseReason, _: &mut Context<'_, Player>) {
//!         self.here -= 1;
//!     }
//! }
//! ```
//!
//! A callback reaches any connection of its service by the [`ConnectionId`](crate::ConnectionId): [`cx.at(id)`](crate::Context::at)
//! has all verbs. The id of an ended connection finds nothing, and never names a later connection. The example `clients` lists and
//! ends the connections of a loop.
//!
//! The *state* of a connection is lent to the callbacks of that connection alone. A handler keeps what callbacks of other
//! connections need in a field, in a map with the `ConnectionId` as the key, and removes the entry in `on_close`: the unanswered
//! requests of each server in a pool of clients, the position of each player. On another loop a
//! [posted message](crate::ServiceHandle::post) reaches the connection's state.
//!
//! # Bytes to items, items to bytes
//!
//! [`Input`](crate::Input) lends all unread bytes. A handler takes the complete items, and returns; the loop keeps the rest, and
//! lends the rest first the next time. The ready [decoders](crate::Decoder) know lines, delimiters, fixed lengths and length
//! prefixes. The packets of MQTT and the commands of Redis take a constant each:
//!
//! ```
//! use reactor::{Counted, Decimal, Input, LengthPrefix};
//!
//! const PACKETS: LengthPrefix = LengthPrefix::varint(268_435_455).offset(1);
//!
//! const STRINGS: LengthPrefix = LengthPrefix::decimal(512 << 20).after(b"$").trailer(2);
//! const COMMANDS: Counted = Counted::of(Decimal::within(1 << 20).after(b"*"), STRINGS);
//!
//! let mut input = Input::of(b"\xc0\x00\x30\x05topic");
//! while let Ok(Some(packet)) = PACKETS.decode(&mut input) {
//!     println!("kind {}, {} bytes", packet.head[0] >> 4, packet.body.len());
//! }
//! assert!(input.is_empty());
//!
//! let mut input = Input::of(b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n");
//! assert_eq!(COMMANDS.decode(&mut input), Ok(Some(vec![&b"ECHO"[..], b"hi"])));
//! ```
//!
//! A handler that can do nothing with fewer than `n` bytes calls [`Input::need`](crate::Input::need); the next call comes with `n`
//! bytes. [`Input::take_bytes`](crate::Input::take_bytes) takes a large item without a copy.
//!
//! [`Context::write`](crate::Context::write) appends to the output; [`Context::encode`](crate::Context::encode) lends a
//! [`Writer`](crate::Writer) for answers of several parts. A callback's own answer leaves in one `send` after the callback.
//!
//! # Backpressure
//!
//! A service that answers requests needs no code for backpressure: above [`Limits::output_high`](crate::Limits::output_high) the
//! loop does not read from the peer until less than [`Limits::output_low`](crate::Limits::output_low) is queued. So a peer that
//! does not read its answers cannot make memory grow.
//!
//! A handler that *produces* data checks [`Written`](crate::Written), stops at
//! [`AboveHighWater`](crate::Written::AboveHighWater), and goes on in [`on_drained`](crate::Handler::on_drained):
//!
//! ```
//! use reactor::{Context, Handler, Input, Written};
//!
//! /// Sends each peer a million numbers, 256 KiB of them at a time in memory.
//! struct Numbers;
//!
//! fn go_on(next: &mut u32, cx: &mut Context<'_, u32>) {
//!     while *next < 1_000_000 {
//!         *next += 1;
//!         let number = *next;
//!         let written = cx.encode(|writer| {
//!             writer.put_decimal(number);
//!             writer.put(b"\n");
//!         });
//!         if written != Written::Queued {
//!             return;
//!         }
//!     }
//!     cx.close();
//! }
//!
//! impl Handler for Numbers {
//!     type Connection = u32;
//!
//!     fn on_open(&mut self, cx: &mut Context<'_, u32>) -> u32 {
//!         let mut next = 0;
//!         go_on(&mut next, cx);
//!         next
//!     }
//!
//!     fn on_data(&mut self, _: &mut u32, input: &mut Input<'_>, _: &mut Context<'_, u32>) {
//!         input.take_all();
//!     }
//!
//!     fn on_drained(&mut self, next: &mut u32, cx: &mut Context<'_, u32>) {
//!         go_on(next, cx);
//!     }
//! }
//! ```
//!
//! A relay passes bytes between two connections. The relay pauses the sending side while the *receiving* side is full, and reads
//! from a side even while many bytes are queued for that side ([`Context::read_on`](crate::Context::read_on)): the example `proxy`.
//! A large answer in the middle of a pipeline is the example `download`: 100 MB for each request in constant memory. Members of a
//! [`Topic`](crate::Topic) that do not read are bounded by [`Limits::member_queue`](crate::Limits::member_queue) and
//! [`SlowPolicy`](crate::SlowPolicy).
//!
#![doc = include_str!("guide/later.md")]
//!
//! # Deadlines and timers
//!
//! [`Deadlines`](crate::Deadlines) are the loop's own: for the first request, for silence, for a peer that does not take its
//! answers. In addition, each connection has a deadline of its handler, set with
//! [`Context::set_deadline`](crate::Context::set_deadline), which calls [`on_deadline`](crate::Handler::on_deadline). The default
//! implementation closes the connection. Setting and clearing the deadline cost no system call:
//!
//! ```
//! use reactor::{Context, Handler, Input};
//! use std::time::Duration;
//!
//! /// Pings a peer that has been silent for half a minute.
//! struct Pinging;
//!
//! const PATIENCE: Duration = Duration::from_secs(30);
//!
//! impl Handler for Pinging {
//!     type Connection = ();
//!
//!     fn on_open(&mut self, cx: &mut Context<'_>) {
//!         cx.set_deadline(PATIENCE);
//!     }
//!
//!     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
//!         cx.write(input.take_all());
//!         cx.set_deadline(PATIENCE);
//!     }
//!
//!     fn on_deadline(&mut self, _: &mut (), cx: &mut Context<'_>) {
//!         cx.write(b"ping\n");
//!         cx.set_deadline(PATIENCE);
//!     }
//! }
//! ```
//!
//! For more than one deadline, and for work that belongs to no connection, there are [timers](crate::Timers) with keys:
//! [`cx.timers()`](crate::Context::timers) of the handler, [`cx.at(id).timers()`](crate::ConnectionRef::timers) of one connection.
//! Any number can be set. A timer that is set again is replaced, setting and cancelling are O(1), and no timer counts as a
//! connection. [`Service::every`](crate::Service::every) calls periodic work with the handler:
//!
//! ```
//! use reactor::{Application, Context, Handler, Input, Service};
//! use std::time::Duration;
//!
//! /// Ends a round after 10 ms. Within a round each player has two chances to move.
//! #[derive(Default)]
//! struct Game {
//!     round: u64,
//!     seconds: u32,
//! }
//!
//! /// The keys of a player's timers. The handler's own timers have the number of the round as their key.
//! const REMIND: u64 = 0;
//! const SKIP: u64 = 1;
//!
//! impl Handler for Game {
//!     type Connection = ();
//!
//!     fn on_start(&mut self, cx: &mut Context<'_>) {
//!         cx.timers().set(self.round, Duration::from_millis(10));
//!     }
//!
//!     fn on_open(&mut self, cx: &mut Context<'_>) {
//!         cx.at(cx.id()).timers().set(REMIND, Duration::from_millis(2));
//!         cx.at(cx.id()).timers().set(SKIP, Duration::from_millis(5));
//!     }
//!
//!     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
//!         input.take_all();
//!         cx.at(cx.id()).timers().cancel_all();
//!     }
//!
//!     fn on_connection_timer(&mut self, _: &mut (), key: u64, cx: &mut Context<'_>) {
//!         cx.write(if key == REMIND { "it is your turn\n" } else { "you are skipped\n" });
//!     }
//!
//!     fn on_timer(&mut self, round: u64, cx: &mut Context<'_>) {
//!         println!("round {round} with {} players", cx.connections().len());
//!         self.round += 1;
//!         cx.timers().set(self.round, Duration::from_millis(10));
//!         if self.round == 3 {
//!             cx.halt();
//!         }
//!     }
//! }
//!
//! let mut app = Application::new()?;
//! let game = Service::tcp("127.0.0.1:0", Game::default);
//! app.add_service(game.every(Duration::from_secs(1), |game, _| game.seconds += 1))?;
//! app.run()?;
//! # Ok::<(), reactor::Error>(())
//! ```
//!
//! Timers do not hold up the end of a stopping application. A handler that has to finish work without a connection calls
//! [`Context::hold_end`](crate::Context::hold_end).
//!
//! [`Context::now`](crate::Context::now) is the monotonic clock of the system, read once a turn. Times of several loops, and of
//! several processes on one machine, can be compared.
//!
//! # Signals
//!
//! Signals are handled after a call of [`Application::handle_signals`](crate::Application::handle_signals). SIGTERM and SIGINT then
//! stop the application: the loops accept no more connections, answer the received input, let each connection finish within
//! [`drain_timeout`](crate::Application::drain_timeout), and `run` returns. A second signal ends the process at once with the
//! status 128 + n. SIGUSR1 brings the [report](crate::Application::on_report) of all counters and connections. SIGHUP calls
//! [`on_reopen`](crate::Application::on_reopen), for log files, or [`on_hang_up`](crate::Application::on_hang_up), for a program
//! that belongs to its terminal. A program that was started with signals blocked or ignored calls
//! [`reset_inherited_signals`](crate::reset_inherited_signals) at the beginning of `main`.
//!
//! # Logging
//!
//! The crate logs through the facade [`log`](https://docs.rs/log). **Without a logger nothing is seen**, not even the warning that
//! a callback holds the loop: add a logger such as `env_logger` or `simplelog`, and set the logger up before the application is
//! made. The targets are the module paths, which all begin with `reactor`, so `RUST_LOG=reactor=debug` shows everything of the
//! loop. The levels:
//!
//! | level | what |
//! | --- | --- |
//! | `error` | a callback panicked; something the system refuses for good |
//! | `warn` | a callback held the loop for long; connections are not accepted, and why; the last events of a connection that ended badly |
//! | `info` | the backend, addresses, the beginning and the end of a stop |
//! | `debug` | one line for each end of a connection, with its reason and its bytes |
//!
//! A logger that blocks (a pipe that nobody reads, a full disk) blocks the loop.
//!
//! # Several loops, and state that they share
//!
//! [`Runner`](crate::Runner) decides the loop that serves a connection: several loops, a thread for each connection, or a process
//! for each connection. The handler is made by the factory once for each loop, so each loop has its own fields, and state that all
//! share is behind an [`Arc`](std::sync::Arc). Topics and messages reach connections on every loop by themselves. Use atomics for
//! counters. Hold a lock for a few instructions, and never while waiting.
//!
//! A panic in a callback ends its connection alone. **But a `Mutex` locked at the panic is poisoned**, and `lock().unwrap()` would
//! panic in each later callback. Where the value is in order after every single change, take the lock so:
//!
//! ```
//! use reactor::{Application, Backend, Context, Handler, Input, Runner, Service};
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex, PoisonError};
//!
//! #[derive(Clone, Default)]
//! struct Scores(Arc<Mutex<HashMap<String, u32>>>);
//!
//! impl Handler for Scores {
//!     type Connection = ();
//!     fn on_open(&mut self, _: &mut Context<'_>) {}
//!     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
//!         while let Some(line) = input.until_eol() {
//!             let name = String::from_utf8_lossy(line.trim_ascii()).into_owned();
//!             let mut scores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!             let score = scores.entry(name).or_default();
//!             *score += 1;
//!             let score = *score;
//!             drop(scores);
//!             cx.write(format!("{score}\n"));
//!         }
//!     }
//! }
//!
//! let mut app = Application::with(Backend::Auto, Runner::loops(2)?)?;
//! let scores = Scores::default();
//! app.add_service(Service::tcp("127.0.0.1:0", move || scores.clone()))?;
//! # app.handle().halt();
//! app.run()?;
//! # Ok::<(), reactor::Error>(())
//! ```
//!
//! Processes share no memory: [`Service::shares_memory`](crate::Service::shares_memory) marks a service that needs shared memory,
//! so that the application refuses the model with the reason.
//!
//! # Socket options
//!
//! Options belong to the service ([`Service::socket_options`](crate::Service::socket_options)), and hold for its accepted,
//! outbound and adopted sockets. [`SocketOptions`](crate::SocketOptions) gives the reason of each default in full.
//!
//! | option | by default | set by | reason |
//! | --- | --- | --- | --- |
//! | `TCP_NODELAY` | on | [`no_delay`](crate::SocketOptions::no_delay) | answers are gathered and leave in one `send`, so Nagle's algorithm could only delay them |
//! | `SO_KEEPALIVE` | on: after 60 s, every 10 s, 6 times | [`keepalive`](crate::SocketOptions::keepalive) | finds a pulled cable in two minutes |
//! | `SO_RCVBUF` | the kernel's own size, which grows with the path | [`receive_buffer`](crate::SocketOptions::receive_buffer) | a fixed size turns growth off |
//! | `SO_SNDBUF` | likewise | [`send_buffer`](crate::SocketOptions::send_buffer) | likewise |
//! | `TCP_NOTSENT_LOWAT`, on Unix sockets `SO_SNDBUF` | 128 KiB | [`Limits::unsent`](crate::Limits::unsent) | a peer that does not read would hold megabytes in the kernel |
//! | `SO_REUSEADDR` | on | | a restart finds the port free |
//! | `SO_REUSEPORT` | off | | a port in use would go unnoticed |
//! | `TCP_DEFER_ACCEPT` | off | [`Service::client_speaks_first`](crate::Service::client_speaks_first) | a connection costs nothing before its first request |
//! | `SO_OOBINLINE` | off | [`Service::urgent_in_line`](crate::Service::urgent_in_line) | only telnet and its kin use urgent data |
//!
//! ```
//! use reactor::{Application, Context, Handler, Input, Keepalive, Service, SocketOptions};
//! use std::time::Duration;
//! # struct Uploads;
//! # impl Handler for Uploads {
//! #     type Connection = ();
//! #     fn on_open(&mut self, _: &mut Context<'_>) {}
//! #     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) { input.take_all(); }
//! # }
//!
//! let options = SocketOptions {
//!     // Many clients that send much, on a machine with little memory.
//!     receive_buffer: Some(64 * 1024),
//!     // Behind a balancer that forgets silent connections after a minute.
//!     keepalive: Some(Keepalive { idle: Duration::from_secs(45), ..Keepalive::default() }),
//!     ..SocketOptions::default()
//! };
//! let mut app = Application::new()?;
//! app.add_service(Service::tcp("127.0.0.1:0", || Uploads).socket_options(options))?;
//! # Ok::<(), reactor::Error>(())
//! ```
//!
//! All other options of one socket, and its questions (`SO_PEERCRED`, `TCP_INFO`), are within reach by its descriptor:
//! [`ConnectionRef::descriptor`](crate::ConnectionRef::descriptor) with a crate such as `rustix` or `socket2`.
//!
//! A client reaches a server by its name with [`Context::connect_to`](crate::Context::connect_to): a helper thread looks the name
//! up, and each address is tried in order (the example `by_name`).
//!
//! A stream that is open already becomes a connection by [`Context::adopt`](crate::Context::adopt): one end of a socket pair, a
//! descriptor that another process has sent, the socket of inetd. The examples `helpers` and `inetd` do so.
//!
//! # Limits of one connection
//!
//! [`Limits`](crate::Limits) and [`Deadlines`](crate::Deadlines) belong to the service, too.
//! [`change_limits`](crate::ConnectionRef::change_limits) and [`change_deadlines`](crate::ConnectionRef::change_deadlines) change
//! them for one connection: a client that has proved who it is may send longer messages, a subscriber may be silent.
//!
//! ```
//! use reactor::Context;
//! /// The connection has become a subscriber's.
//! fn subscribes(cx: &mut Context<'_>) {
//!     let id = cx.id();
//!     let mut subscriber = cx.at(id);
//!     subscriber.change_deadlines(|deadlines| deadlines.idle = None);
//!     subscriber.change_limits(|limits| limits.member_queue = 64 * 1024);
//! }
//! ```
#![doc = include_str!("guide/tls.md")]
//! # Testing
//!
//! ```toml
//! [dependencies]
//! reactor = { package = "glowplug-reactor", version = "0.2" }
//!
//! [dev-dependencies]
//! reactor = { package = "glowplug-reactor", version = "0.2", features = ["sim", "chaos"] }
//! ```
//!
//! - **A codec** without anything: [`Input::of`](crate::Input::of) makes an input of bytes, [`Output::to_vec`](crate::Output::to_vec) returns the written bytes.
//! - **A handler** without a loop: [`testing::Recorded`](crate::testing::Recorded) is a context made by hand that records the handler's requests.
//! - **A service** without a socket: `reactor::sim` (feature `sim`) runs the real loop over a simulated network and clock, both made from a seed, with peers that
//!   follow a script or react to received bytes. A thousand seeds take seconds; a failure names its seed and tells the last calls.
//! - **A program** on real sockets: with the feature `chaos` your integration tests run unchanged while system calls fail as often as `REACTOR_CHAOS` says. The
//!   [first page](crate#features-for-tests) has the faults.
#![doc = include_str!("guide/from_other_loops.md")]
