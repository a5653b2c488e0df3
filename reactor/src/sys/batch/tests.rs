use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::super::backend::Backend;
use super::super::fork::FORKS;
use super::*;

/// A system that sends in batches, where this machine allows that: otherwise the test has nothing to test.
fn each(test: impl Fn(&mut Kernel)) {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for backend in [Backend::Epoll, Backend::Select] {
        let mut kernel = Kernel::new(backend).unwrap();
        match kernel.start_batches(BatchSends::Always) {
            Ok(()) => test(&mut kernel),
            Err((call, errno)) => eprintln!("left out: {call}: {}", errno.to_io()),
        }
    }
}

/// A connected pair whose first end does not block.
fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn fd(descriptor: &impl AsRawFd) -> Fd {
    Fd(descriptor.as_raw_fd())
}

fn sent(kernel: &mut Kernel, sends: &[(Fd, &[u8])]) -> Vec<Moved> {
    let mut outcomes = Vec::new();
    kernel.send_together(sends.iter().copied(), &mut outcomes);
    outcomes
}

#[test]
fn more_sends_than_the_ring_has_room_for_leave_in_order_each_with_its_outcome() {
    each(|kernel| {
        let pairs: Vec<_> = (0..100).map(|_| pair()).collect();
        let texts: Vec<String> = (0..1000).map(|n| format!("{n}\n")).collect();
        let sends: Vec<(Fd, &[u8])> =
            texts.iter().enumerate().map(|(n, text)| (fd(&pairs[n % 100].0), text.as_bytes())).collect();
        let outcomes = sent(kernel, &sends);
        assert!(outcomes.iter().zip(&texts).all(|(moved, text)| *moved == Moved::Bytes(text.len())), "{outcomes:?}");
        for (n, (ours, mut theirs)) in pairs.into_iter().enumerate() {
            drop(ours);
            let mut heard = String::new();
            theirs.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, (0..10).map(|round| format!("{}\n", round * 100 + n)).collect::<String>());
        }
    });
}

#[test]
fn a_full_socket_blocks_a_short_send_says_how_much_has_left_and_neither_holds_up_the_others() {
    each(|kernel| {
        let (ours, theirs) = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| Ok((TcpStream::connect(listener.local_addr()?)?, listener.accept()?.0)))
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        let (other, mut hears) = pair();
        let much = vec![7; 64 << 20];
        let outcomes = sent(kernel, &[(fd(&ours), &much), (fd(&other), b"1"), (fd(&ours), &much), (fd(&other), b"2")]);
        let [Moved::Bytes(count), Moved::Bytes(1), second, Moved::Bytes(1)] = outcomes[..] else {
            panic!("{outcomes:?}")
        };
        assert!(count < much.len(), "the kernel took {count}");
        // The peer's kernel may have made room meanwhile.
        assert!(matches!(second, Moved::Blocked | Moved::Bytes(_)), "{second:?}");
        let mut two = [0; 2];
        hears.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"12");
        drop(theirs);
    });
}

#[test]
fn a_broken_connection_fails_alone_and_without_a_signal() {
    each(|kernel| {
        let ((broken, gone), (sound, mut hears)) = (pair(), pair());
        drop(gone);
        let outcomes = sent(kernel, &[(fd(&broken), b"x"), (Fd(-1), b"x"), (fd(&sound), b"y")]);
        let failed = |errno| Moved::Failed(Errno(errno));
        assert_eq!(outcomes, [failed(libc::EPIPE), failed(libc::EBADF), Moved::Bytes(1)]);
        let mut one = [0];
        hears.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"y");
    });
}

#[test]
fn a_ring_on_another_thread_is_refused_and_every_send_is_made_all_the_same() {
    each(|kernel| {
        let (ours, mut theirs) = pair();
        let ours = fd(&ours);
        let outcomes = std::thread::scope(|scope| {
            scope.spawn(|| sent(kernel, &[(ours, b"a"), (ours, b"b"), (ours, b"c")])).join().unwrap()
        });
        assert_eq!(outcomes, [Moved::Bytes(1); 3]);
        assert_eq!(kernel.least_batch(), NEVER, "the ring is given up");
        let mut three = [0; 3];
        theirs.read_exact(&mut three).unwrap();
        assert_eq!(&three, b"abc");
    });
}

#[test]
fn the_rings_descriptor_is_closed_on_exec_and_named_among_the_descriptors_of_the_loop() {
    each(|kernel| {
        let held = kernel.batches.held().unwrap();
        assert!(super::super::Poller::held(kernel).contains(&held));
        // SAFETY: takes no pointer.
        let flags = unsafe { libc::fcntl(held.0, libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
    });
}

#[test]
fn a_system_without_a_ring_sends_one_by_one() {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut kernel = Kernel::new(Backend::Auto.choose().unwrap().0).unwrap();
    kernel.start_batches(BatchSends::Off).unwrap();
    assert_eq!((kernel.least_batch(), kernel.batches.held()), (NEVER, None));
    let (ours, _theirs) = pair();
    assert_eq!(sent(&mut kernel, &[(fd(&ours), b"abc"), (fd(&ours), b"d")]), [Moved::Bytes(3), Moved::Bytes(1)]);
}

#[test]
fn a_name_that_is_none_is_quoted_in_the_error_and_code_wins_over_the_environment() {
    let error = "sometimes".parse::<BatchSends>().unwrap_err().to_string();
    assert!(error.contains("\"sometimes\""), "{error}");
    for (choice, name) in NAMES {
        assert_eq!((name.parse::<BatchSends>().unwrap(), choice.to_string()), (choice, name.to_owned()));
    }
    assert_eq!(BatchSends::Off.choose().unwrap(), BatchSends::Off);
}
