//! Look-ups of host names, on threads: the resolver of the system blocks, and a loop never waits.
//!
//! The threads belong to the application. A thread begins with a request for which no thread is free, up to a limit, and ends when
//! no request waits. A request whose connection has ended meanwhile is skipped.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;

use crate::address::{Address, AddressError};
use crate::sys::affinity::Cores;
use crate::sys::wake::Waker;
use crate::token::ConnectionId;

/// Look-ups of an application at one time; further look-ups wait in order. Enough that a few slow name servers hold up nobody
/// else, and few enough for a loop that begins a thousand connections.
pub(crate) const LOOK_UPS_AT_ONCE: usize = 8;

/// The outcome of a look-up, for a connection.
pub(crate) struct Found {
    pub(crate) id: ConnectionId,
    pub(crate) addresses: Result<Vec<Address>, AddressError>,
}

/// Where the outcomes for one loop wait.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<Vec<Found>>>);

impl Answers {
    /// Takes all outcomes.
    pub(crate) fn take(&self) -> Vec<Found> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, found: Found) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    }
}

/// A connection that waits for addresses.
pub(crate) struct Request {
    pub(crate) id: ConnectionId,
    pub(crate) name: String,
    /// Dropped with the connection.
    pub(crate) wanted: Weak<()>,
    pub(crate) answers: Answers,
    /// Wakes the connection's loop.
    pub(crate) waker: Waker,
}

impl Request {
    fn answer(&self, addresses: Result<Vec<Address>, AddressError>) {
        self.answers.put(Found { id: self.id, addresses });
        self.waker.wake();
    }

    fn fail(&self, cause: io::Error) {
        let address = self.name.clone();
        self.answer(Err(AddressError { address, cause }));
    }
}

/// Returns addresses without a thread, for the simulator and for tests. `None`: no answer ever comes.
pub(crate) type Table = Box<dyn Fn(&str) -> Option<Result<Vec<Address>, AddressError>> + Send + Sync>;

/// The look-ups of an application.
#[derive(Default)]
pub(crate) struct LookUps {
    queue: Mutex<Queue>,
    table: OnceLock<Table>,
}

#[derive(Default)]
struct Queue {
    /// Number of threads.
    threads: usize,
    waiting: VecDeque<Request>,
    /// This process forks, and so must not start a thread.
    is_single: bool,
}

impl LookUps {
    /// Answers the request some time later, on another thread.
    pub(crate) fn ask(self: &Arc<Self>, request: Request, cores: Option<&Cores>) {
        if let Some(table) = self.table.get() {
            let addresses = table(&request.name);
            return addresses.into_iter().for_each(|addresses| request.answer(addresses));
        }
        let mut queue = self.queue();
        if queue.is_single {
            return request.fail(io::Error::new(
                io::ErrorKind::Unsupported,
                "the process that accepts looks no name up, since a process with a second thread cannot fork",
            ));
        }
        queue.waiting.push_back(request);
        if queue.threads == LOOK_UPS_AT_ONCE {
            return;
        }
        let (look_ups, cores) = (self.clone(), cores.cloned());
        match thread::Builder::new().name("look-up".to_owned()).spawn(move || look_ups.work(cores)) {
            Ok(_) => queue.threads += 1,
            // Another thread takes the request, if there is one.
            Err(_) if queue.threads > 0 => {}
            Err(cause) => {
                let request = queue.waiting.pop_back();
                drop(queue);
                request.into_iter().for_each(|request| request.fail(io::Error::from(cause.kind())));
            }
        }
    }

    /// Looks names up until no request waits.
    fn work(&self, cores: Option<Cores>) {
        // The thread began on the core of a pinned loop, and looks names up as well on that core.
        let _ = cores.map(|cores| cores.keep_to());
        while let Some(request) = self.next() {
            if request.wanted.strong_count() > 0 {
                let addresses = Address::resolve(&request.name);
                request.answer(addresses);
            }
        }
    }

    /// The next request; `None` counts the calling thread out.
    fn next(&self) -> Option<Request> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        queue.threads -= usize::from(next.is_none());
        next
    }

    /// Sets whether this process must have a single thread.
    pub(crate) fn set_single(&self, is: bool) {
        self.queue().is_single = is;
    }

    /// From now on addresses come from `table`.
    #[cfg(any(feature = "sim", test))]
    pub(crate) fn answer_by(&self, table: Table) {
        let _ = self.table.set(table);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn ask(look_ups: &Arc<LookUps>, slot: usize, name: &str, wanted: Weak<()>, answers: &Answers) {
        let request = Request {
            id: ConnectionId::new(0, slot, 1),
            name: name.to_owned(),
            wanted,
            answers: answers.clone(),
            waker: Waker::new().unwrap(),
        };
        look_ups.ask(request, None);
    }

    fn threads(look_ups: &LookUps) -> usize {
        look_ups.queue().threads
    }

    #[test]
    fn a_burst_of_look_ups_is_answered_by_few_threads_which_end_by_themselves() {
        let (look_ups, answers, wanted) = (Arc::<LookUps>::default(), Answers::default(), Arc::new(()));
        let mut most = 0;
        for slot in 0..100 {
            ask(&look_ups, slot, "localhost:7", Arc::downgrade(&wanted), &answers);
            most = most.max(threads(&look_ups));
        }
        let (mut found, start) = (Vec::new(), Instant::now());
        while found.len() < 100 || threads(&look_ups) > 0 {
            found.extend(answers.take());
            assert!(start.elapsed() < Duration::from_secs(60), "{} answers", found.len());
            thread::yield_now();
        }
        assert!((1..=LOOK_UPS_AT_ONCE).contains(&most), "{most} threads");
        for found in found {
            assert!(found.addresses.unwrap().iter().all(|address| address.port() == Some(7)));
        }
    }

    #[test]
    fn a_look_up_whose_connection_has_ended_is_skipped() {
        let (look_ups, answers) = (Arc::<LookUps>::default(), Answers::default());
        ask(&look_ups, 0, "localhost:7", Weak::new(), &answers);
        let wanted = Arc::new(());
        ask(&look_ups, 1, "localhost:7", Arc::downgrade(&wanted), &answers);
        let start = Instant::now();
        while threads(&look_ups) > 0 {
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::yield_now();
        }
        assert_eq!(answers.take().iter().map(|found| found.id.slot()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_process_that_forks_starts_no_thread_and_says_why() {
        let (look_ups, answers, wanted) = (Arc::<LookUps>::default(), Answers::default(), Arc::new(()));
        look_ups.set_single(true);
        ask(&look_ups, 0, "localhost:7", Arc::downgrade(&wanted), &answers);
        let said = answers.take().remove(0).addresses.unwrap_err().to_string();
        assert!(said.starts_with("localhost:7: the process that accepts looks no name up"), "{said}");
        assert_eq!(threads(&look_ups), 0);
        // A child may start threads.
        look_ups.set_single(false);
        ask(&look_ups, 0, "localhost:7", Arc::downgrade(&wanted), &answers);
        while answers.take().is_empty() {
            thread::yield_now();
        }
    }
}
