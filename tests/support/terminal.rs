//! A terminal of the tests: a pseudo-terminal, and a screen that shows the output as a person would see it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use vt100::Parser;

use super::GUARD;

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;
/// Number of lines that are kept after they have left the screen at its top.
const SCROLLBACK: usize = 10_000;

pub struct Terminal {
    /// The keyboard's end.
    keyboard: File,
    /// The program's end. Held open, so that printed bytes can still be read after the program's exit.
    line: File,
    printed: Receiver<Vec<u8>>,
    screen: Parser,
    /// Every byte so far.
    raw: Vec<u8>,
}

impl Terminal {
    pub fn new() -> Self {
        let mut terminal = Terminal::unread();
        let (sender, printed) = channel();
        let mut reader = terminal.keyboard.try_clone().expect("a descriptor");
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        terminal.printed = printed;
        terminal
    }

    /// A terminal without a reader, which fills up.
    pub fn unread() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("it is ours");
        let name = ptsname(&keyboard, Vec::new()).expect("it has a name");
        let line = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("it is there");
        tcsetwinsize(&line, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let size = |cells| NonZero::new(cells).expect("some");
        let screen = Parser::new(size(ROWS), size(COLUMNS), SCROLLBACK);
        let (keyboard, line) = (File::from(keyboard), File::from(line));
        Terminal { keyboard, line, printed: channel().1, screen, raw: Vec::new() }
    }

    /// Makes the terminal all three standard descriptors of this command.
    pub fn dress(&self, mut command: Command) -> Command {
        let end = || Stdio::from(self.line.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        command
    }

    /// The program's end.
    pub fn line(&self) -> &File {
        &self.line
    }

    pub fn attributes(&self) -> Termios {
        tcgetattr(&self.line).expect("it is a terminal")
    }

    /// Types the text at once.
    pub fn types(&mut self, text: impl AsRef<[u8]>) {
        self.keyboard.write_all(text.as_ref()).expect("it is a terminal");
    }

    /// The rows of the screen that are not empty.
    pub fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> =
            self.screen.screen().rows(0, COLUMNS).map(|row| row.trim_end().to_owned()).collect();
        while rows.last().is_some_and(|row| row.is_empty()) {
            rows.pop();
        }
        rows
    }

    /// All rows so far, first the rows that have left the screen.
    pub fn all_rows(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        self.screen.screen_mut().set_scrollback(usize::MAX);
        let mut left = self.screen.screen().scrollback();
        while left > 0 {
            self.screen.screen_mut().set_scrollback(left);
            let rows = self.screen.screen().rows(0, COLUMNS).take(left);
            all.extend(rows.map(|row| row.trim_end().to_owned()));
            left = left.saturating_sub(ROWS.into());
        }
        self.screen.screen_mut().set_scrollback(0);
        all.extend(self.rows());
        all
    }

    /// The last row, as a person sees it.
    pub fn last_row(&self) -> String {
        self.rows().pop().unwrap_or_default()
    }

    /// Row and column.
    pub fn cursor(&self) -> (u16, u16) {
        self.screen.screen().cursor_position()
    }

    /// Every byte printed so far.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Waits until the screen passes the check.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Terminal) -> bool) {
        while !is_so(self) {
            match self.printed.recv_timeout(GUARD) {
                Ok(piece) => {
                    self.screen.process(&piece);
                    self.raw.extend_from_slice(&piece);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("waited in vain for {what}; the screen: {:#?}", self.rows())
                }
            }
        }
    }

    /// Waits until a row equals the text.
    pub fn shows(&mut self, row: &str) {
        self.until(row, |terminal| terminal.rows().iter().any(|shown| shown == row));
    }

    /// Waits until the last row equals the text.
    pub fn ends_with(&mut self, row: &str) {
        self.until(row, |terminal| terminal.last_row() == row.trim_end());
    }

    /// Waits until some row contains the text.
    pub fn has(&mut self, text: &str) {
        self.until(text, |terminal| terminal.rows().iter().any(|row| row.contains(text)));
    }
}
