//! Answers each line with 100 MB and a final line that marks the end: `download ADDRESS`. Requests may be pipelined. An answer is produced
//! while its bytes leave, so memory is constant at any number of requests. Try it: `printf 'a\nb\n' | nc -N 127.0.0.1 8800 | wc -c`.

use reactor::{Application, Context, Error, Handler, Input, Service, Written};

const ANSWER: usize = 100_000_000;
static PIECE: [u8; 50_000] = [b'.'; 50_000];

struct Download;

#[derive(Default)]
struct Answers {
    /// Number of bytes of the current answer still to be written.
    left: usize,
    /// Number of requests read at the end of the input and not begun.
    requests: usize,
    /// The peer has ended its half.
    ended: bool,
}

impl Handler for Download {
    type Connection = Answers;

    fn on_open(&mut self, _: &mut Context<'_, Answers>) -> Answers {
        Answers::default()
    }

    fn on_data(&mut self, answers: &mut Answers, input: &mut Input<'_>, cx: &mut Context<'_, Answers>) {
        // A request stays in the input until the previous answer is written. While the output is above its high-water mark, the
        // loop does not read. The loop offers the unread input again once the output has drained.
        while answers.go_on(cx) && input.until_eol().is_some() {
            answers.left = ANSWER;
        }
    }

    fn on_drained(&mut self, answers: &mut Answers, cx: &mut Context<'_, Answers>) {
        if answers.go_on(cx) && answers.ended {
            cx.close();
        }
    }

    fn on_end_of_input(&mut self, answers: &mut Answers, input: &mut Input<'_>, cx: &mut Context<'_, Answers>) {
        while input.until_eol().is_some() {
            answers.requests += 1;
        }
        answers.ended = true;
        if answers.go_on(cx) {
            cx.close();
        }
    }
}

impl Answers {
    /// Writes until the output is above its high-water mark. Returns whether the begun answers are complete.
    fn go_on(&mut self, cx: &mut Context<'_, Answers>) -> bool {
        loop {
            if self.left == 0 {
                let Some(requests) = self.requests.checked_sub(1) else { return true };
                (self.requests, self.left) = (requests, ANSWER);
            }
            let piece = &PIECE[..PIECE.len().min(self.left)];
            self.left -= piece.len();
            let mut written = cx.write(piece);
            if self.left == 0 {
                written = cx.write(b"\n100 MB\n");
            }
            if written != Written::Queued {
                return self.left == 0 && self.requests == 0;
            }
        }
    }
}

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8800".to_owned());
    let mut app = Application::new()?;
    let download = app.add_service(Service::tcp(&address, || Download))?;
    app.handle_signals()?;
    println!("listening {}", download.address().expect("it listens"));
    app.run()
}
