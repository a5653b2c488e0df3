//! Echo without any loop: a thread, or a forked process, for each connection, in blocking `recv` and `send`. The least
//! that these two models can cost, beside what a framework adds to them. For Linux; a failed connection is an ended one.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

/// What the kernel allows as a rule (`net.core.somaxconn`), as all of the servers of the benchmark ask for.
const BACKLOG: i32 = 4096;
/// On the stack of whoever serves a connection. One page: of a stack, only what is written to takes memory.
const BUFFER: usize = 4096;

pub fn threads(address: SocketAddr) -> Result<()> {
    let listener = listen(address)?;
    loop {
        let stream = accept(&listener)?;
        // A stack of 2 MiB, which is the default, of which some pages will ever be there.
        if let Err(why) = std::thread::Builder::new().spawn(move || echo(stream)) {
            eprintln!("error: a thread: {why}");
        }
    }
}

pub fn fork(address: SocketAddr) -> Result<()> {
    let listener = listen(address)?;
    loop {
        let stream = accept(&listener)?;
        // SAFETY: this process has one thread, so the child has all that its memory speaks of: no lock is held by a
        // thread that is not there.
        match unsafe { libc::fork() } {
            -1 => eprintln!("error: a process: {}", std::io::Error::last_os_error()),
            0 => {
                drop(listener);
                echo(stream);
                // SAFETY: ends the child at once; nothing of the parent's is to be flushed or freed a second time.
                unsafe { libc::_exit(0) }
            }
            _ => drop(stream),
        }
        // Those who have ended, whenever there is somebody new: a few wait for that, and take a row in a table. Waited
        // for rather than ignored, so that the kernel adds what they have used to what this process has.
        // SAFETY: a null status is allowed, and says that it is of no interest.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Inherited by each connection.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    crate::listening("echo", listener.local_addr()?)?;
    Ok(listener)
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(why) if why.kind() == ErrorKind::ConnectionAborted => {}
            Err(why) => return Err(why),
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; BUFFER];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(received) if stream.write_all(&buffer[..received]).is_ok() => {}
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}
