//! A cluster of three `nats-server` processes, of which the test kills the leader.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::*;
use crate::engine::Cluster;
use crate::support::on_every_backend;

/// Says numbers, a line each, until the flag is set. Returns the count of numbers.
fn talk(mut to: Socket, is_enough: &AtomicBool) -> usize {
    let mut count = 0;
    while !is_enough.load(SeqCst) {
        writeln!(to, "{count}").expect("the member stays");
        count += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    count
}

/// Two servers of the room, each with a server of the cluster of its own.
fn servers_of(cluster: &Cluster, backend: Backend) -> [Glowplug; 2] {
    [0, 1].map(|place| serve(backend, &format!("--nats {}", cluster.engines[place].url(""))))
}

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn a_server_whose_nats_is_killed_goes_on_with_another_and_nothing_is_doubled_or_forgotten(backend: Backend) {
        let scratch = Scratch::new();
        let mut cluster = Cluster::start(scratch.path()).with_leader(backend);
        let urls: Vec<String> = cluster.engines.iter().map(|engine| format!("--nats {}", engine.url(""))).collect();
        // The first server of the room makes the bucket.
        let first = serve(backend, &urls.join(" "));
        Member::join(&first, "eve");
        let (leader, replicas) = cluster.leader_of("lobby");
        assert_eq!(replicas, 3, "the bucket survives the end of a server");
        first.stop();
        // `here` knows the leader alone, and learns the addresses of the other servers from the leader.
        let here = serve(backend, &urls[leader]);
        let there = serve(backend, &format!("{} {}", urls[(leader + 1) % 3], urls[(leader + 2) % 3]));
        let (mut ann, mut ben) = (Member::join(&here, "ann"), Member::join(&there, "ben"));
        ann.finds(&["ann", "ben"]);
        let is_enough = AtomicBool::new(false);
        let (lines, count) = std::thread::scope(|scope| {
            let (to, is_enough) = (ann.client.writer(), &is_enough);
            let talker = scope.spawn(move || talk(to, is_enough));
            let mut lines = ben.reads_up_to("#ann@127.0.0.1>>100");
            cluster.engines[leader].kill();
            ann.reads_up_to(ALONE);
            ann.reads_up_to(TOGETHER);
            is_enough.store(true, SeqCst);
            let count = talker.join().unwrap();
            ann.say("done");
            lines.push("#ann@127.0.0.1>>100".to_owned());
            lines.extend(ben.reads_up_to("#ann@127.0.0.1>>done"));
            (lines, count)
        });
        are_heard_or_missed(&lines, "ann", count);
        ann.finds(&["ann", "ben"]);
        ben.finds(&["ann", "ben"]);
        Member::is_refused(&there, "Ann");
        Member::is_refused(&here, "Ben");
        // Two of three servers choose new leaders, and names are theirs again.
        let mut cat = Member::join(&here, "cat");
        ben.reads_of_the_arrival_of("cat");
        Member::is_refused(&there, "Cat");
        cluster.engines[leader].restart();
        cat.say("hi");
        ben.reads_up_to("#cat@127.0.0.1>>hi");
    }

    #[ignore = "needs nats-server"]
    fn a_server_whose_nats_freezes_goes_on_with_another_and_what_is_lost_is_told(backend: Backend) {
        let scratch = Scratch::new();
        let cluster = Cluster::start(scratch.path()).with_leader(backend);
        let [here, there] = servers_of(&cluster, backend);
        let (mut ann, mut ben) = ann_and_ben(&here, &there);
        cluster.engines[0].signal(Signal::STOP);
        for number in 0..20 {
            ann.say(&number.to_string());
            ben.say(&number.to_string());
        }
        let mut of_ben = ann.reads_up_to(ALONE);
        of_ben.extend(ann.reads_up_to(TOGETHER));
        all_is_heard_or_missed(&mut ann, &mut ben, [20, 20], of_ben);
        cluster.engines[0].signal(Signal::CONT);
        ann.finds(&["ann", "ben"]);
        ben.finds(&["ann", "ben"]);
        Member::is_refused(&there, "Ann");
        Member::is_refused(&here, "Ben");
    }

    #[ignore = "needs nats-server"]
    fn a_cluster_is_restarted_server_by_server_and_every_member_and_name_stays(backend: Backend) {
        let scratch = Scratch::new();
        let mut cluster = Cluster::start(scratch.path()).with_leader(backend);
        let [here, there] = servers_of(&cluster, backend);
        let (mut ann, mut ben) = (Member::join(&here, "ann"), Member::join(&there, "ben"));
        let (mut names, mut guests) = (vec!["ann", "ben"], Vec::new());
        for (engine, guest) in cluster.engines.iter_mut().zip(["cat", "dora", "eve"]) {
            engine.end_by(Signal::TERM);
            engine.restart();
            guests.push(Member::join(&here, guest));
            names.push(guest);
            for member in [&mut ann, &mut ben] {
                let lines = member.finds(&names);
                assert!(!lines.contains(&TAKEN.to_owned()), "{lines:?}");
            }
        }
        for name in ["ANN", "Cat", "Dora", "Eve"] {
            Member::is_refused(&there, name);
        }
        for guest in &mut guests {
            guest.say("here");
        }
        // Of several speakers any may be heard first.
        for member in [&mut ann, &mut ben] {
            for _ in 0..guests.len() {
                member.reads_up_to_any(|line| line.ends_with("@127.0.0.1>>here"));
            }
        }
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_starts_before_the_cluster_has_a_leader_waits_for_it(backend: Backend) {
        let scratch = Scratch::new();
        let cluster = Cluster::start(scratch.path());
        let [here, there] = servers_of(&cluster, backend);
        let _members = ann_and_ben(&here, &there);
        let cluster = cluster.with_leader(backend);
        assert_eq!(cluster.leader_of("lobby").1, 3);
    }
}
