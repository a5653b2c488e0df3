//! Echo without any loop: a thread, or a forked process, for each connection, in blocking `recv` and `send`. The least
//! cost of these two models, beside the additions of a framework. For Linux; a failed connection counts as closed.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

/// The kernel's usual limit (`net.core.somaxconn`), and the backlog of all servers of the benchmark.
const BACKLOG: i32 = 4096;
/// Bytes on the stack of the thread that serves a connection. One page: only pages that are written to take memory.
const BUFFER: usize = 4096;

pub fn threads(address: SocketAddr) -> Result<()> {
    let listener = listen(address)?;
    loop {
        let stream = accept(&listener)?;
        // A stack of 2 MiB, the default, of which a few pages will ever be in memory.
        if let Err(why) = std::thread::Builder::new().spawn(move || echo(stream)) {
            eprintln!("error: a thread: {why}");
        }
    }
}

pub fn fork(address: SocketAddr) -> Result<()> {
    let listener = listen(address)?;
    loop {
        let stream = accept(&listener)?;
        // SAFETY: this process has a single thread, so the child has everything to which its memory refers: no lock is
        // held by a missing thread.
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
        // Reaps ended children with each new connection: a few zombies wait meanwhile, a row in a table each. Children
        // are reaped rather than ignored, so that the kernel adds their CPU time to this process's.
        // SAFETY: a null status is allowed, and means that the caller does not want it.
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
