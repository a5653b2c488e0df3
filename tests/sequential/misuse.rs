//! Forbidden actions of a task fail with an error that names the action. Two reads at once, a peer kept beyond the task, and a
//! peer in a thread do not compile: see `Peer`.

use std::cell::RefCell;
use std::sync::mpsc::channel;

use reactor::{Address, CloseReason, Service};
use sequential::{Client, Peer, Tasks, fork};

use super::support::application::serve_with;
use super::support::client::Client as Outside;
use super::support::on_every_backend;
use super::{client, patient, tasks};

#[test]
#[should_panic(expected = "fork outside a task")]
fn a_fork_outside_a_task_says_so() {
    sequential::fork(async {});
}

#[test]
#[should_panic(expected = "publish outside a task")]
fn a_publication_outside_a_task_says_so() {
    sequential::publish(&reactor::Topic::new("all"), "news");
}

on_every_backend! {
    fn a_sender_that_is_kept_beyond_the_task_of_its_peer_says_that_nobody_is_there(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let (sender, line) = (peer.sender(), peer.until_eol().await);
            sequential::fork(async move {
                while sender.send("still here\n") {
                    sequential::sleep(std::time::Duration::from_millis(5)).await;
                }
            });
            drop(line);
        });
        let mut client = client(&running);
        client.send("go\n");
        let _ = client.rest_after_half_close();
        drop(client);
        // The forked task ends, and so does the application.
        running.handle.halt();
        running.join().expect("it ends well");
    }

    fn a_served_peer_that_another_task_reads_is_an_error_and_no_hang(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let Some(address) = peer.until_eol().await else { return };
            let address: Address = String::from_utf8_lossy(&address).trim().parse().expect("it is an address");
            let mut client = Client::connect(address).await.expect("it listens");
            // The peer's connection is in `client` now, and goes to another task.
            std::mem::swap(peer, &mut *client);
            let reading = fork(async move { client.until_eol().await.is_some() });
            assert_eq!(reading.await, None, "the other task has panicked");
            // The outbound connection.
            peer.abort();
        });
        let mut client = client(&running);
        client.send(format!("{}\n", running.service.address().expect("it listens")));
        let _ = client.rest_however_it_ends();
        assert_eq!(running.handle.stats().panics, 1);
    }

    fn what_another_task_sends_to_a_served_peer_goes_to_that_peer(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let Some(address) = peer.until_eol().await else { return };
            let address: Address = String::from_utf8_lossy(&address).trim().parse().expect("it is an address");
            let mut client = Client::connect(address).await.expect("it listens");
            // The peer's connection is in `client` now, and goes to another task.
            std::mem::swap(peer, &mut *client);
            fork(async move {
                client.send("from another task\n");
                client.send_all([&b"in "[..], b"pieces\n"]);
            });
            // The outbound connection.
            peer.until_eol().await;
        });
        let mut client = client(&running);
        client.send(format!("{}\n", running.service.address().expect("it listens")));
        assert_eq!((client.line(), client.line()), ("from another task".into(), "in pieces".into()));
    }

    fn a_client_that_a_task_of_another_service_reads_is_an_error_and_no_hang(backend: Backend) {
        thread_local! {
            static PASSED_ON: RefCell<Option<Client>> = const { RefCell::new(None) };
        }
        /// Connects to its own service, and passes the connection on.
        async fn connecting(peer: &mut Peer) {
            let Some(address) = peer.until_eol().await else { return };
            let address: Address = String::from_utf8_lossy(&address).trim().parse().expect("it is an address");
            let client = Client::connect(address).await.expect("it listens");
            PASSED_ON.set(Some(client));
            peer.send("passed on\n");
            peer.until_eol().await;
        }
        async fn reading(_: &mut Peer) {
            let mut client = PASSED_ON.take().expect("it is passed on");
            client.until_eol().await;
        }
        let (tell, told) = channel();
        let make = || Service::tcp("127.0.0.1:0", || Tasks::new(connecting)).deadlines(patient());
        let running = serve_with(backend, make, move |app| {
            let other = app.add_service(Service::tcp("127.0.0.1:0", || Tasks::new(reading))).expect("a port is free");
            tell.send(other.address().expect("it listens").clone()).expect("the test waits");
        });
        let other = told.recv().expect("it starts");
        let mut first = client(&running);
        assert_eq!(first.ask(&running.service.address().expect("it listens").to_string()), "passed on");
        let _ = Outside::connect(&other).rest_however_it_ends();
        assert_eq!(running.handle.stats().closed(CloseReason::Panicked), 1);
    }
}
