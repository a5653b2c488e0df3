//! Equal services on tokio: the current-thread runtime, a task and a buffer for each connection.

use std::io::Result;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::protocol::Protocol;

/// Bytes taken by one receive, owned by each connection for as long as it lives.
const BUFFER: usize = 16 * 1024;
/// A failing `accept` (no descriptors left) is tried again after this pause, not in a tight loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub fn serve<P: Protocol + Default + Send + 'static>(address: SocketAddr, service: &str) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(address).await?;
        crate::listening(service, listener.local_addr()?)?;
        tokio::spawn(async {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                P::tick();
            }
        });
        loop {
            match listener.accept().await {
                // A failed connection has ended: its peer is a load generator, and reports missing answers.
                Ok((stream, _)) => drop(tokio::spawn(connection::<P>(stream))),
                Err(why) => {
                    eprintln!("accept: {why}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

async fn connection<P: Protocol + Default>(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut protocol = P::default();
    let mut buffer = vec![0; BUFFER];
    let mut held = 0;
    loop {
        let received = stream.read(&mut buffer[held..]).await?;
        if received == 0 {
            return Ok(());
        }
        held += received;
        let answer = protocol.answer(&buffer[..held]);
        // The whole answer leaves before the next read, so reading stops from a peer that does not read.
        if !answer.bytes.is_empty() {
            stream.write_all(answer.bytes).await?;
        }
        if answer.close {
            return Ok(());
        }
        let consumed = answer.consumed;
        buffer.copy_within(consumed..held, 0);
        held -= consumed;
    }
}
