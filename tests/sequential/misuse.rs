//! What a task may not do is an error that names it. Two reads at once, and a peer kept beyond its task, do not compile: see `Peer`.

use super::support::on_every_backend;
use super::{client, tasks};
use sequential::Peer;

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
}
