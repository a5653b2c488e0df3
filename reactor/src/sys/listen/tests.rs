//! The tests of `listen`: binding, stale sockets, inherited listeners.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use super::super::fork::FORKS;
use super::*;

fn usual() -> ListenOptions {
    let tuning = Tuning { unsent: 32 * 1024, ..Tuning::default() };
    ListenOptions { backlog: 16, defer_accept: None, tuning, urgent_in_line: false }
}

fn tcp(text: &str) -> Result<Listening, Error> {
    Listening::bind(&text.parse().unwrap(), &usual())
}

/// A directory of its own, removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("reactor-listen-{}-{test}", process::pid()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn address(&self, name: &str) -> Address {
        Address::Unix(self.0.join(name))
    }

    fn bind(&self, name: &str) -> Result<Listening, Error> {
        Listening::bind(&self.address(name), &usual())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kind(outcome: Result<Listening, Error>) -> io::ErrorKind {
    match outcome.unwrap_err() {
        Error::Bind { cause, .. } => cause.kind(),
        other => panic!("{other}"),
    }
}

#[test]
fn port_zero_becomes_the_one_that_was_found() {
    let listening = tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = *listening.address() else { panic!("not TCP") };
    assert_ne!(address.port(), 0);
    TcpStream::connect(address).unwrap();
}

#[test]
fn a_taken_port_is_an_error_and_a_freed_one_is_free_at_once() {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    // A separate loopback address, so that no other test gets the port in between.
    let first = tcp("127.0.0.77:0").unwrap();
    let Address::Tcp(address) = *first.address() else { panic!("not TCP") };
    assert_eq!(kind(tcp(&address.to_string())), io::ErrorKind::AddrInUse);
    // A connection that this side closes first stays in TIME_WAIT, and must not prevent the bind.
    let client = TcpStream::connect(address).unwrap();
    let (accepted, _) = loop {
        match socket::accept(first.fd()) {
            Err(Errno(libc::EAGAIN)) => {}
            outcome => break outcome.unwrap(),
        }
    };
    socket::close(accepted);
    drop((client, first));
    tcp(&address.to_string()).unwrap();
}

#[test]
fn the_unspecified_ipv6_address_takes_ipv4_too_and_no_other_does() {
    let Ok(any) = tcp("[::]:0") else { return };
    TcpStream::connect(("127.0.0.1", any.address().port().unwrap())).unwrap();
    let Ok(one) = tcp("[::1]:0") else { return };
    let only = |listening: &Listening| socket::get(listening.fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    assert_eq!((only(&any), only(&one)), (Ok(0), Ok(1)));
}

#[test]
fn accepted_connections_have_the_listeners_options_and_are_non_blocking_and_close_on_exec() {
    let listening = tcp("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(("127.0.0.1", listening.address().port().unwrap())).unwrap();
    let accepted = loop {
        match socket::accept(listening.fd()) {
            Err(Errno(libc::EAGAIN)) => {}
            outcome => break outcome.unwrap().0,
        }
    };
    for (level, option, value) in [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        #[cfg(not(target_vendor = "apple"))]
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 6),
        #[cfg(target_os = "linux")]
        (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 32 * 1024),
    ] {
        assert_eq!(socket::get(accepted, level, option), Ok(value), "option {option}");
    }
    for fd in [listening.fd(), accepted] {
        // SAFETY: both commands take no pointer and change nothing.
        let (status, flags) = unsafe { (libc::fcntl(fd.0, libc::F_GETFL), libc::fcntl(fd.0, libc::F_GETFD)) };
        assert!(status & libc::O_NONBLOCK != 0 && flags & libc::FD_CLOEXEC != 0);
    }
    socket::close(accepted);
}

#[test]
#[cfg(target_os = "linux")]
fn deferred_accept_is_set_only_when_asked_for() {
    let asked = |listening: &Listening| socket::get(listening.fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    let plain = tcp("127.0.0.1:0").unwrap();
    assert_eq!(asked(&plain), Ok(0));
    plain.defer_accept(Duration::from_millis(1)).unwrap();
    assert!(asked(&plain).unwrap() > 0);
    let options = ListenOptions { defer_accept: Some(Duration::from_secs(5)), ..usual() };
    assert!(asked(&Listening::bind(&"127.0.0.1:0".parse().unwrap(), &options).unwrap()).unwrap() > 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_tcp_listener_tells_how_many_wait_and_a_unix_one_does_not() {
    let listening = tcp("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = *listening.address() else { panic!("not TCP") };
    assert_eq!(listening.waiting(), Some(0));
    let clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(listening.waiting(), Some(3));
    socket::close(socket::accept(listening.fd()).unwrap().0);
    assert_eq!(listening.waiting(), Some(2));
    drop(clients);
    assert_eq!(Scratch::new("waiting").bind("x").unwrap().waiting(), None);
}

#[test]
fn a_path_that_is_no_socket_is_an_error_and_stays() {
    let scratch = Scratch::new("file");
    fs::write(scratch.0.join("x"), "precious").unwrap();
    let error = scratch.bind("x").unwrap_err();
    assert!(error.to_string().ends_with("/x: exists and is not a socket"), "{error}");
    assert_eq!(kind(Err(error)), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(scratch.0.join("x")).unwrap(), b"precious");
}

#[test]
fn a_live_socket_is_an_error_and_a_stale_one_is_replaced() {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let scratch = Scratch::new("stale");
    let live = UnixListener::bind(scratch.0.join("x")).unwrap();
    assert_eq!(kind(scratch.bind("x")), io::ErrorKind::AddrInUse);
    drop(live);
    let listening = scratch.bind("x").unwrap();
    assert_eq!(*listening.address(), scratch.address("x"));
    UnixStream::connect(scratch.0.join("x")).unwrap();
}

#[test]
fn a_live_socket_with_a_full_queue_is_alive() {
    let scratch = Scratch::new("full");
    let _live = Listening::bind(&scratch.address("x"), &ListenOptions { backlog: 0, ..usual() }).unwrap();
    let raw = RawAddress::of(&scratch.address("x")).unwrap();
    let mut clients = Vec::new();
    loop {
        let client = socket::open(&scratch.address("x")).unwrap();
        match socket::connect(socket::fd(&client), &raw) {
            Ok(()) => clients.push(client),
            full => break assert_eq!(full, Err(Errno(libc::EAGAIN))),
        }
    }
    assert_eq!(kind(scratch.bind("x")), io::ErrorKind::AddrInUse);
}

#[test]
fn the_file_goes_with_the_listener_unless_it_is_another_by_now() {
    let scratch = Scratch::new("drop");
    let path = scratch.0.join("x");
    drop(scratch.bind("x").unwrap());
    assert!(!path.exists());
    let ours = scratch.bind("x").unwrap();
    fs::rename(&path, scratch.0.join("y")).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(ours);
    assert!(path.exists());
}

#[test]
fn a_forked_child_leaves_the_file_alone() {
    let scratch = Scratch::new("fork");
    let mut listening = scratch.bind("x").unwrap();
    listening.file.as_mut().unwrap().process += 1;
    drop(listening);
    assert!(scratch.0.join("x").exists());
}

#[test]
fn too_long_a_path_is_told_with_the_limit() {
    let error = Listening::bind(&Address::Unix("x".repeat(200).into()), &usual()).unwrap_err();
    assert!(error.to_string().ends_with(&format!("has at most {UNIX_PATH_MAX} bytes here")), "{error}");
}

#[test]
fn a_listener_that_is_handed_in_works_and_its_file_is_left() {
    let scratch = Scratch::new("handed");
    let path = scratch.0.join("x");
    let listening = Listening::from_fd(UnixListener::bind(&path).unwrap().into()).unwrap();
    assert_eq!(*listening.address(), scratch.address("x"));
    drop(listening);
    assert!(path.exists());

    let std = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(std.local_addr().unwrap());
    let listening = Listening::from_fd(std.into()).unwrap();
    assert_eq!(*listening.address(), address);
    assert_eq!(socket::get(listening.fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
}

#[test]
fn what_is_no_listener_is_refused_with_what_it_is_not() {
    let why = |socket: OwnedFd| Listening::from_fd(socket).unwrap_err().to_string();
    assert!(why(fs::File::open("/dev/null").unwrap().into()).ends_with("it is not a socket"));
    assert!(why(UdpSocket::bind("127.0.0.1:0").unwrap().into()).ends_with("it is not a stream socket"));
    assert!(why(UnixStream::pair().unwrap().0.into()).ends_with("it does not listen"));
    assert!(check_listens(Fd(RawFd::MAX)).unwrap_err().to_string().ends_with("it is not open"));
}

#[test]
fn the_variables_are_for_one_process_and_give_names_in_order() {
    let name = |text: &str| Some(text.to_owned());
    let of = |descriptors, names: &[Option<String>]| Passed { descriptors, names: names.to_vec() };
    let all = passed(Some("7"), Some("3"), Some("echo::chat"), 7).unwrap();
    assert_eq!(all, of(3..6, &[name("echo"), None, name("chat")]));
    assert_eq!(passed(Some("7"), Some("2"), None, 7).unwrap(), of(3..5, &[]));
    assert_eq!(passed(Some("7"), Some("2"), Some("a"), 7).unwrap(), of(3..5, &[name("a")]));
    assert_eq!(passed(Some("7"), Some("2147483644"), None, 7).unwrap(), of(3..RawFd::MAX, &[]));
    for (pid, count) in [(Some("7"), Some("2")), (None, Some("2")), (Some("8"), None)] {
        assert_eq!(passed(pid, count, Some(""), 8).unwrap(), of(3..3, &[]));
    }
}

#[test]
fn absurd_variables_are_an_error_that_names_them() {
    let table = [
        ("x", "1", "a", "LISTEN_PID: \"x\" is not the number of a process"),
        ("-7", "1", "a", "LISTEN_PID: "),
        ("", "1", "a", "LISTEN_PID: "),
        ("7", "-1", "", "LISTEN_FDS: \"-1\" is not a number of descriptors"),
        ("7", "many", "", "LISTEN_FDS: "),
        ("7", "", "", "LISTEN_FDS: "),
        ("7", "2147483645", "", "LISTEN_FDS: "),
        ("7", "99999999999999999999", "", "LISTEN_FDS: "),
        ("7", "1", "a:b", "LISTEN_FDNAMES: 2 names, and LISTEN_FDS says 1"),
    ];
    for (pid, count, names, why) in table {
        let error = passed(Some(pid), Some(count), Some(names), 7).unwrap_err().to_string();
        assert!(error.starts_with(why), "{error}");
    }
}

const CHILD: &str = "REACTOR_TEST_INHERITS";

#[test]
fn listeners_are_inherited_by_the_protocol_of_sd_listen_fds() {
    let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let output = Command::new("/bin/sh")
        .args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0"#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "sys::listen::tests::what_the_child_inherits"])
        .envs([(CHILD, address.to_string().as_str()), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "echo")])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// Runs in the child of the test above; in another process the test does nothing.
#[test]
fn what_the_child_inherits() {
    let Ok(address) = std::env::var(CHILD) else { return };
    let all = inherited().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].name.as_deref(), Some("echo"));
    assert_eq!(all[0].listening.address().to_string(), format!("tcp://{address}"));
    assert_eq!(all[0].listening.socket.as_raw_fd(), 3);
    assert!(inherited().unwrap().is_empty(), "taken once");
}
