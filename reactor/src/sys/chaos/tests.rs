use std::io::{Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::super::fork::FORKS;
use super::*;

const READ: Interest = Interest { read: true, write: false, edges: false };
const NOW: Option<Duration> = Some(Duration::ZERO);
/// Number of calls of each kind: a probability of 0.3 then shows within 0.05, ten times the deviation.
const CALLS: usize = 10_000;

fn chaos(backend: Backend, odds: Odds, seed: u64) -> Chaos<Kernel> {
    Chaos::with(Kernel::new(backend).unwrap(), Orders { odds, seed, seed_was_drawn: false })
}

fn each(test: impl Fn(Backend)) {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for backend in [Backend::Epoll, Backend::Select] {
        test(backend);
    }
}

fn fd(descriptor: &impl AsRawFd) -> Fd {
    Fd(descriptor.as_raw_fd())
}

fn token() -> ConnectionId {
    ConnectionId::new(0, 1, 1)
}

fn now(sys: &mut impl Sys) -> Vec<Event> {
    let (mut events, now) = (Vec::new(), sys.now());
    sys.wait(&mut events, NOW, now).unwrap();
    events
}

fn close_to(count: u64, of: usize, probability: f64) {
    let share = count as f64 / of as f64;
    assert!((share - probability).abs() < 0.05, "{count} of {of}, with a probability of {probability}");
}

/// The outcome of one round: number of events, a receive, a send, and a send of pieces.
type Round = (usize, Moved, Moved, Moved);

/// Many rounds of calls on a pair of sockets, and the number of strikes.
fn calls(backend: Backend, odds: Odds, seed: u64) -> (Vec<Round>, Struck) {
    let mut sys = chaos(backend, odds, seed);
    let (near, mut far) = UnixStream::pair().unwrap();
    sys.register(fd(&near), token(), READ).unwrap();
    let (mut sent, mut space) = (0, [0; 100]);
    let all = (0..CALLS)
        .map(|_| {
            far.write_all(&[7; 100]).unwrap();
            let told = now(&mut sys).len();
            let received = sys.recv(fd(&near), &mut space);
            // The rest is read past the faults, so each round begins alike.
            let left = 100 - if let Moved::Bytes(count) = received { count } else { 0 };
            if left > 0 {
                (&near).read_exact(&mut space[..left]).unwrap();
            }
            let one = sys.send(fd(&near), &[7; 100], false);
            let pieces = [IoSlice::new(&[1; 30]), IoSlice::new(&[2; 70])];
            let all = sys.send_vectored(fd(&near), &pieces, false);
            for moved in [one, all] {
                sent += if let Moved::Bytes(count) = moved { count } else { 0 };
            }
            far.read_exact(&mut vec![0; std::mem::take(&mut sent)]).unwrap();
            (told, received, one, all)
        })
        .collect();
    (all, sys.struck)
}

#[test]
fn each_fault_strikes_as_often_as_it_is_meant_to_and_no_other() {
    each(|backend| {
        let none = Odds::default();
        let (all, struck) = calls(backend, none, 7);
        let whole = Moved::Bytes(100);
        assert!(all.iter().all(|&call| call == (1, whole, whole, whole)));
        assert_eq!(struck, Struck::default());

        let (all, struck) = calls(backend, Odds { short_io: 0.3, ..none }, 7);
        let is_short = |moved: Moved| matches!(moved, Moved::Bytes(1..=99));
        let columns: [fn(&Round) -> Moved; 3] = [|it| it.1, |it| it.2, |it| it.3];
        for column in columns {
            close_to(all.iter().filter(|call| is_short(column(call))).count() as u64, CALLS, 0.3);
            assert!(all.iter().all(|call| is_short(column(call)) || column(call) == whole));
        }
        close_to(struck.short_io, 3 * CALLS, 0.3);
        assert_eq!(Struck { short_io: 0, ..struck }, Struck::default());

        let (all, struck) = calls(backend, Odds { eagain: 0.3, ..none }, 7);
        for column in columns {
            close_to(all.iter().filter(|call| column(call) == Moved::Blocked).count() as u64, CALLS, 0.3);
        }
        close_to(struck.eagain, 3 * CALLS, 0.3);
        assert_eq!(Struck { eagain: 0, ..struck }, Struck::default());

        let (all, struck) = calls(backend, Odds { eintr: 0.3, ..none }, 7);
        assert!(all.iter().all(|&call| call == (1, whole, whole, whole)), "nobody above sees it");
        // Repeated strikes on one call: 0.3 + 0.09 + 0.027 and so on.
        close_to(struck.eintr, 4 * CALLS, 0.3 / 0.7);
        assert_eq!(Struck { eintr: 0, ..struck }, Struck::default());

        let (all, struck) = calls(backend, Odds { spurious: 0.3, ..none }, 7);
        close_to(all.iter().filter(|call| call.0 == 0).count() as u64, CALLS, 0.3);
        assert!(all.iter().all(|call| (call.1, call.2, call.3) == (whole, whole, whole)));
        assert_eq!(struck, Struck { spurious: struck.spurious, ..Struck::default() });

        let (all, struck) = calls(backend, Odds { emfile: 1.0, ..none }, 7);
        assert!(all.iter().all(|&call| call == (1, whole, whole, whole)) && struck == Struck::default());
    });
}

#[test]
fn the_same_seed_gives_the_same_faults_and_another_seed_others() {
    each(|backend| {
        let odds = Odds { short_io: 0.3, eagain: 0.3, eintr: 0.3, emfile: 0.3, spurious: 0.3 };
        let one = calls(backend, odds, 7);
        assert!(one == calls(backend, odds, 7) && one != calls(backend, odds, 8));
    });
}

#[test]
fn want_of_descriptors_strikes_accepting_and_the_connection_waits() {
    each(|backend| {
        let mut sys = chaos(backend, Odds { emfile: 0.3, ..Odds::default() }, 7);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut refused = 0;
        for _ in 0..200 {
            let client = TcpStream::connect(address).unwrap();
            let (accepted, peer) = loop {
                match sys.accept(fd(&listener), &Tuning::default()) {
                    Ok(latest) => break latest.expect("a connect has come back"),
                    Err(errno) => assert_eq!(errno, Errno(libc::EMFILE)),
                }
                refused += 1;
            };
            assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
            sys.close(accepted);
        }
        assert_eq!(sys.struck, Struck { emfile: refused, ..Struck::default() });
        assert!((20..200).contains(&refused), "{refused}");
    });
}

#[test]
fn one_announcement_is_belied_once_at_most_and_a_look_without_one_never() {
    each(|backend| {
        let mut sys = chaos(backend, Odds { eagain: 1.0, ..Odds::default() }, 7);
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"abc").unwrap();
        let mut space = [0; 1];
        assert_eq!(sys.recv(fd(&near), &mut space), Moved::Bytes(1));
        sys.register(fd(&near), token(), READ).unwrap();
        assert_eq!(now(&mut sys).len(), 1);
        assert_eq!(sys.recv(fd(&near), &mut space), Moved::Blocked);
        assert_eq!(sys.recv(fd(&near), &mut space), Moved::Bytes(1));
        assert_eq!(now(&mut sys).len(), 1, "level-triggered: it is told again");
        sys.forget(fd(&near));
        assert_eq!(sys.recv(fd(&near), &mut space), Moved::Bytes(1));
    });
}

#[test]
fn what_is_no_socket_gets_its_share() {
    each(|backend| {
        let mut sys = chaos(backend, Odds { short_io: 1.0, eagain: 1.0, ..Odds::default() }, 7);
        let (read, mut write) = pipe().unwrap();
        sys.register(fd(&read), token(), READ).unwrap();
        write.write_all(b"abc").unwrap();
        assert_eq!(now(&mut sys).len(), 1);
        let mut space = [0; 3];
        assert_eq!(sys.read(fd(&read), &mut space), Moved::Blocked);
        assert!(matches!(sys.read(fd(&read), &mut space), Moved::Bytes(1..=2)));
        assert_eq!((sys.struck.short_io, sys.struck.eagain), (1, 1));
    });
}

#[test]
fn a_wait_that_is_cut_short_sixteen_times_lasts_as_long_as_it_should() {
    each(|backend| {
        let mut sys = chaos(backend, Odds { eintr: 1.0, ..Odds::default() }, 7);
        let (began, mut events) = (sys.now(), Vec::new());
        let span = Duration::from_millis(20);
        sys.wait(&mut events, Some(span), began).unwrap();
        let waited = sys.now().since(began);
        assert!(events.is_empty() && waited >= span && sys.struck.eintr == u64::from(INTERRUPTIONS_MAX));
    });
}

#[test]
fn bytes_that_a_fault_leaves_in_a_socket_with_edges_are_reported_again() {
    each(|backend| {
        for odds in [Odds { eagain: 1.0, ..Odds::default() }, Odds { short_io: 1.0, ..Odds::default() }] {
            let mut sys = chaos(backend, odds, 7);
            let (near, mut far) = UnixStream::pair().unwrap();
            sys.register(fd(&near), token(), Interest { edges: true, ..READ }).unwrap();
            far.write_all(&[7; 10_000]).unwrap();
            let mut space = [0; 100];
            for _ in 0..5 {
                assert_eq!(now(&mut sys).len(), 1);
                assert_ne!(sys.recv(fd(&near), &mut space), Moved::Bytes(100));
            }
        }
    });
}
