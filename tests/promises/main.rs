//! The promises of the loop, each over real sockets and on every backend. Each promise stands for a bug that event
//! loops have had again and again, stated as the right behaviour; a test's name is such a sentence.
//!
//! | | promise | tests |
//! | --- | --- | --- |
//! | 1 | an event reaches only the connection that it belongs to | `identity`: who_is_closed_by_another…, a_process_that_was_stopped…, a_stale_id… |
//! | 2 | a duplicate wakes nobody | `identity`: a_duplicate_that_outlives…, a_watched_pipe… |
//! | 3 | one close for each connection, never nested | `identity`: whatever_callbacks_do…, closing_all_from_within… |
//! | 4 | a panic ends one connection | `identity`: a_panic_ends…, a_panic_in_any_callback…, a_panic_in_on_open… |
//! | 5 | input before a hang-up or an error | `reading`: what_came_before_… |
//! | 6 | half-close | `reading`: who_half_closes…, the_end_of_input…, who_finishes… |
//! | 7 | lines and a close in one segment | `reading`: two_lines_and_a_close…, what_has_no_ending… |
//! | 8 | a pause is a pause | `reading`: a_pause…, a_paused_peer…, a_reset_ends_a_pause…, …never_spins…, bytes_that_were_kept… |
//! | 9 | framing is linear and bounded | `reading`: a_byte_at_a_time…, an_item_that_never_ends…, a_framer_tells…; `needs` |
//! | 10 | interest changes only when it must | `writing`: a_thousand_small_echoes…, a_big_answer…; `syscalls` of the reactor |
//! | 11 | backpressure by default | `writing`: a_peer_that_never_reads…, above_the_mark…, between_the_marks…, drained_is_called… |
//! | 12 | slow consumers are bounded | `members`: a_member_that_does_not_read…, where_messages_were_dropped…, what_is_missed…, what_another_thread_publishes… |
//! | 13 | close flushes, lingers, and is bounded; abort resets | `closing`: an_early_answer…, …while_closing…, a_closing_peer…, who_does_not_take…, an_abort…, closing_after…, what_was_owed… |
//! | 14 | a broken pipe ends one connection; no write after close | `closing`: a_peer_that_goes_away…, a_write_after_close…, past_the_maximum… |
//! | 15 | `on_drained` once a turn | `writing`: drained_that_writes… |
//! | 16 | budgets per turn | `fairness`: between_a_ping…, what_is_left_for_the_next_turn…, work_that_is_left_over…, a_storm_of_connects…, a_flood_of_messages… |
//! | 17 | no descriptors: quiet, and back again | `fairness`: without_descriptors… |
//! | 18 | caps refuse or make wait | `fairness`: one_over_…, few_of_those_refused…, refused_new_connections…, at_the_cap…, the_soft_descriptor_limit… |
//! | 19 | never early, few waits | `time`: a_deadline_is_never_early…, a_deadline_set_late…, a_slow_callback…, a_timer_of_thirty_days… |
//! | 20 | periodic work, cancelling | `time`: periodic_work…, a_deadline_that_is_called_off…, a_timer_that_is_due_in_the_same_turn… |
//! | 21 | deadlines | `time`: who_never_completes…, who_is_silent…, who_takes_a_byte…, who_reads_steadily…, a_connection_that_does_not_come_about…, a_pulled_cable…; `members`: a_member_that_is_kept… |
//! | 22 | EINTR | `process`: a_storm_of_signals… |
//! | 23 | wake-ups and mailboxes | `mailbox`: a_million_messages…, a_full_mailbox…, who_posts_after_the_end… |
//! | 24 | stopping | `stopping`: those_in_the_accept_queue…, a_stop_without_descriptors…, everything_asked…, who_owes_nothing…, a_service_may_say_goodbye…, what_is_left_at_the_drain_deadline…, a_thread_that_is_stuck…, a_streamer…, a_stopping_service…, a_signal_ends_it…, a_second_signal… |
//! | 25 | `select` past 1024 | `process`: descriptors_beyond_1024… |
//! | 26 | nothing is inherited; forked children | `process`: no_descriptor_goes_to_a_program…; `models` of the reactor: a_process_…, when_the_parent_is_gone…; `models` of the command: a_second_signal_ends_all…, a_process_that_is_killed… |
//! | 27 | one outcome for a connect | `connecting`: a_connection_… |
//! | 28 | one listener, bound again at once | `process`: a_port_is_bound_again…, a_silent_client… |
//! | 29 | all is accounted for | `process`: nothing_is_left_of_applications…, every_connection_and_every_byte…, several_applications… |
//! | 30, 31 | accepted bytes are sent; relays do not deadlock | `writing`: an_answer_larger…, answers_from_before…, a_handler_that_waits…, who_reads_on… |
//! | 33 | the kernel keeps little for a peer that does not read | `memory`: the_kernel_keeps_little…; the chat: `memory.rs` beside this directory |
//! | 34 | all connections together have a budget | `memory`: above_the_budget…, members_that_end…, what_many_members…, near_the_budget…, a_stop_reads… |
//! | 10, 11, 13, 14, 16 | the same for files | `files` |
//! | 28 | several loops | `loops`: all of it |
//! | 19, 20 | timers with keys, periodic work with its handler | `timers`: all of it |
//! | 35 | inherited signals are harmless | `stopping`: a_signal_that_was_blocked…; `inherited.rs` beside this directory |
//! | | limits and deadlines of one connection alone | `own_limits`: all of it |
//! | | open streams that are adopted, socket options | `sockets`: all of it |
//! | | a connection as a value, the integer form of its id | `connections`: all of it |
//! | 1 to 37 | rules of connections with a layer | `layers` |
//! | | what an operator sees | `operator`; the command's logs and reports: the directory `command` beside this one |
//!
//! A test of a [`Transport`](transport::Transport) runs on every backend without a layer below its connections, and again with one.
//! Left out with a layer, among the tests of rules 1 to 34:
//!
//! | left out | reason |
//! | --- | --- |
//! | pipes, files and devices that are watched; Unix sockets | only accepted TCP connections have the layer here; `layers` adopts a layered Unix socket |
//! | refusals over a cap | over a cap a connection is closed without a handshake, so there is nothing to refuse with: `layers` |
//! | connecting (27), adopted streams | they have a layer of their own choice: `layers` |
//! | a client that speaks first (28) | a client with a layer always does |
//! | mailboxes, periodic work, timers of a handler, fork and exec, the port of a listener | they carry no bytes of a connection |
//! | the history of a connection in a log line | it tells of system calls, whose number is the layer's |
//! | several loops, a thread or process for each connection | `layers` has one test for every model, and the directory `tls` beside this one runs the command in every model |
//!
//! Not here: promises that a socket cannot show. The simulator checks that no descriptor is closed before its batch
//! ends (1), that the next free descriptor goes to a waiting listener, and how each errno of accept(2) is handled (17).
//! A test of `sys::poller` checks that a wait goes on with the remaining time after a signal (22). Tests of
//! `sys::select` check the rotating scan and the search for the cause of EBADF (25), and a test of `application` checks
//! the refusal to run in a fork (26).

#[path = "../support/mod.rs"]
mod support;

mod child;
mod clients;
mod closing;
mod connecting;
mod connections;
mod factories;
mod fairness;
mod files;
mod identity;
mod layers;
mod listening;
mod loops;
mod mailbox;
mod members;
mod memory;
mod messages;
mod needs;
mod operator;
mod own_limits;
mod process;
mod reading;
mod records;
mod sockets;
mod stage;
mod stopping;
mod time;
mod timers;
mod transport;
mod writing;
