//! The tests of `sink`: a queue, a thread and a slow output.

use super::*;

/// A guard: the writer is done long before, even on a slow machine.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// Writes into memory while the gate is open.
#[derive(Clone, Default)]
struct Gated {
    gate: Arc<Mutex<()>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _open = self.gate.lock().unwrap();
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Gated {
    fn sink(&self) -> Sink {
        self.sink_with(false, Vec::new())
    }

    fn sink_with(&self, strict: bool, tell: Vec<Lines>) -> Sink {
        let about = About { name: "the log".to_owned(), path: None, strict, tell };
        Sink::new(Target::Memory(Box::new(self.clone())), about)
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn everything_queued_is_written_in_order_by_the_end() {
    let output = Gated::default();
    let mut sink = output.sink();
    sink.lines().put("held\n");
    sink.start(false);
    (0..1000).for_each(|number| sink.lines().put(&format!("{number}\n")));
    sink.finish(soon());
    let expected: String = std::iter::once("held\n".to_owned()).chain((0..1000).map(|n| format!("{n}\n"))).collect();
    assert_eq!(output.text(), expected);
}

#[test]
fn the_line_of_an_error_is_written_without_a_thread_where_nothing_has_been_written() {
    let output = Gated::default();
    let mut sink = output.sink();
    sink.lines().put("queued\n");
    sink.end_with("error: it cannot run\n", Duration::ZERO);
    assert_eq!(output.text(), "error: it cannot run\n");
    assert!(!matches!(sink.state, State::Writing(_)));
    // The thread that writes already gets the line, after the lines before it.
    let output = Gated::default();
    let mut sink = output.sink();
    sink.lines().put("queued\n");
    sink.start(false);
    sink.end_with("error: it cannot go on\n", Duration::ZERO);
    sink.finish(soon());
    assert_eq!(output.text(), "queued\nerror: it cannot go on\n");
}

#[test]
fn a_file_is_opened_anew_even_when_the_request_comes_right_after_a_line() {
    let path = std::env::temp_dir().join(format!("glowplug-sink-{}", std::process::id()));
    let about = About { name: "the log".to_owned(), path: Some(path.clone()), strict: true, tell: Vec::new() };
    let mut sink = Sink::new(Target::Memory(Box::new(Gated::default())), about);
    sink.start(false);
    // The writer takes the line from the queue while the request arrives, at a different step in each round.
    for round in 0..3000 {
        sink.lines().put("line\n");
        (0..round % 300).for_each(|_| std::hint::spin_loop());
        sink.lines().reopen(&[]);
        let begin = Instant::now();
        while !path.exists() {
            assert!(begin.elapsed() < Duration::from_secs(120), "the request in round {round} was lost");
            thread::yield_now();
        }
        std::fs::remove_file(&path).unwrap();
    }
    sink.finish(soon());
}

#[test]
fn nobody_waits_for_a_stuck_output_and_it_is_told_how_many_lines_it_missed_and_where() {
    let output = Gated::default();
    let mut sink = output.sink();
    let lines = sink.lines().clone();
    (0..QUEUE_LINES + 12).for_each(|_| lines.put("early\n"));
    sink.start(false);
    // A written line means room in the queue.
    while output.text().is_empty() {
        thread::yield_now();
    }
    lines.put("late\n");
    sink.finish(soon());
    let text = output.text();
    let ends: Vec<_> = text.lines().skip(QUEUE_LINES).collect();
    assert!(ends[0].ends_with(" [WARN] the log: 12 lines lost: they came faster than they were written"), "{ends:?}");
    assert_eq!(ends[1..], ["late"]);
}

#[test]
fn nothing_but_its_lines_stands_in_a_strict_one_and_somebody_else_hears_of_losses() {
    let (output, complaints) = (Gated::default(), Gated::default());
    let mut told = complaints.sink();
    told.start(false);
    let mut sink = output.sink_with(true, vec![told.lines().clone()]);
    (0..QUEUE_LINES + 12).for_each(|_| sink.lines().put("line\n"));
    sink.start(false);
    sink.finish(soon());
    told.finish(soon());
    assert_eq!(output.text(), "line\n".repeat(QUEUE_LINES));
    assert!(complaints.text().contains(" [WARN] the log: 12 lines lost: "), "{}", complaints.text());
}

/// Accepts a limited number of bytes.
#[derive(Clone, Default)]
struct Small(Arc<Mutex<(usize, Vec<u8>)>>);

impl Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (room, written) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        *room -= count;
        written.extend_from_slice(&bytes[..count]);
        if count == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_line_that_is_not_written_to_its_end_is_lost_once_and_the_next_begins_a_line_of_its_own() {
    let to = Small::default();
    to.0.lock().unwrap().0 = 13;
    let about = About { name: "the log".to_owned(), path: None, strict: true, tell: Vec::new() };
    let mut sink = Sink::new(Target::Memory(Box::new(to.clone())), about);
    let state = std::mem::replace(&mut sink.state, State::Finished);
    let (State::Held(_, mut output), Way::Queue(shared)) = (state, &sink.lines.0) else { panic!("it is held") };
    output.write("one 5\ntwo 6\nthree\n", shared);
    (0..3).for_each(|_| output.write("none\n", shared));
    to.0.lock().unwrap().0 = 100;
    output.write("late\n", shared);
    assert!(output.tally.line("x", true).unwrap().contains(" x: 4 lines lost: "));
    assert_eq!(String::from_utf8(to.0.lock().unwrap().1.clone()).unwrap(), "one 5\ntwo 6\nt\nlate\n");
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let output = Gated::default();
    let stuck = output.gate.lock().unwrap();
    let mut sink = output.sink();
    sink.start(false);
    sink.lines().put("x\n");
    sink.finish(Instant::now() + Duration::from_millis(100));
    drop(stuck);
}

#[test]
fn what_is_discarded_or_never_started_is_not_written() {
    let output = Gated::default();
    let mut sink = output.sink();
    sink.lines().put("noise\n");
    sink.discard();
    sink.lines().put("error: why\n");
    sink.start(false);
    sink.finish(soon());
    let mut silent = output.sink();
    silent.lines().put("noise\n");
    silent.finish(soon());
    assert_eq!(output.text(), "error: why\n");
}
