//! The client of the chapter's first two programs: connects, says one line, prints the answer. `chapter_client ADDRESS TEXT`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8811".to_owned());
    let text = arguments.next().unwrap_or("Hello echo server!".to_owned());
    let mut server = TcpStream::connect(address)?;
    println!("sends: {text}");
    writeln!(server, "{text}")?;
    let mut answer = String::new();
    BufReader::new(server).read_line(&mut answer)?;
    print!("received: {answer}");
    Ok(())
}
