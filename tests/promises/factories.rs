//! Factories of handlers: a factory may fail, gets the handle of its service, and may be called once.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use reactor::{Application, ConnectionId, Context, Error, Handler, Input, Runner, Service, ServiceHandle};

use crate::stage::{client_of, read_all, round_trip};
use crate::support::application::serve_by;
use crate::support::{GUARD, on_every_backend};

/// Answers each line with the line itself.
struct Echo;

impl Handler for Echo {
    type Connection = ();
    fn on_open(&mut self, _: &mut Context<'_>) {}
    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        cx.write(input.take_all());
    }
}

/// A factory whose call number `at` fails.
fn fails_at(at: usize) -> impl Fn(&ServiceHandle) -> Result<Echo, String> + Send + Sync {
    let calls = AtomicUsize::new(0);
    move |_| if calls.fetch_add(1, Relaxed) == at { Err("the cupboard is bare".to_owned()) } else { Ok(Echo) }
}

/// Takes orders that a thread posts. The thread was started by the factory.
struct Told(Receiver<&'static str>);

impl Handler<ConnectionId> for Told {
    type Connection = ();
    fn on_open(&mut self, _: &mut Context<'_, (), ConnectionId>) {}
    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_, (), ConnectionId>) {}
    fn on_message(
        &mut self,
        to: ConnectionId,
        _: Option<&mut ()>,
        message: ConnectionId,
        cx: &mut Context<'_, (), ConnectionId>,
    ) {
        assert_eq!((to, message), (ConnectionId::NONE, ConnectionId::NONE));
        assert_eq!(self.0.recv_timeout(GUARD), Ok("from the test"));
        cx.halt();
    }
}

on_every_backend! {
    fn an_error_of_a_factory_comes_out_of_run_from_whichever_loop(backend: Backend) {
        for at in 0..3 {
            let mut application = Application::with(backend, Runner::loops(3).unwrap()).unwrap();
            let service = Service::try_new(fails_at(at)).and_tcp("127.0.0.1:0").named("larder");
            let service = application.add_service(service).unwrap();
            let reactor::Address::Tcp(address) = service.address().unwrap().clone() else { panic!("it is TCP") };
            // Some connections wait in the backlog when the loops begin, and are handed over.
            let clients: Vec<TcpStream> = (0..12).map(|_| client_of(address)).collect();
            let error = application.run().unwrap_err();
            assert_eq!(error.to_string(), "larder: the cupboard is bare", "call {at}");
            assert!(matches!(error, Error::Handler { ref service, .. } if service == "larder"));
            for mut client in clients {
                let ended = client.read(&mut [0]);
                assert!(!matches!(ended, Ok(1..)), "{ended:?}");
                assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is left open");
            }
        }
    }

    fn a_factory_that_fails_for_one_connection_costs_that_connection(backend: Backend) {
        let make = || Service::try_new(fails_at(2)).and_tcp("127.0.0.1:0");
        // The first handler is the accepting loop's.
        let running = serve_by(backend, Runner::threads(), make, |_| {});
        let mut first = client_of(running.address());
        round_trip(&mut first, b"hello\n");
        assert_eq!(read_all(&mut client_of(running.address())), b"");
        round_trip(&mut client_of(running.address()), b"hello\n");
        round_trip(&mut first, b"still here\n");
        assert_eq!(running.handle.stats().panics, 0);
    }

    fn a_factory_gets_the_handle_of_its_service(backend: Backend) {
        for count in [1, 3] {
            let mut application = Application::with(backend, Runner::loops(count).unwrap()).unwrap();
            let service = Service::try_new(|handle: &ServiceHandle<ConnectionId>| {
                assert_eq!(handle.addresses().len(), 1);
                let (tell, told) = channel();
                let handle = handle.clone();
                thread::Builder::new().spawn(move || {
                    tell.send("from the test").expect("the handler waits");
                    handle.post_wait(ConnectionId::NONE, ConnectionId::NONE)
                })?;
                Ok::<_, std::io::Error>(Told(told))
            });
            application.add_service(service.and_tcp("127.0.0.1:0")).unwrap();
            application.run().expect("it ends well");
        }
    }

    fn a_factory_that_is_called_once_gives_what_cannot_be_cloned_to_the_handler_of_one_loop(backend: Backend) {
        struct NoClone;
        struct Owner(Arc<AtomicUsize>, NoClone);
        impl Handler for Owner {
            type Connection = ();
            fn on_start(&mut self, cx: &mut Context<'_>) {
                let NoClone = &self.1;
                self.0.fetch_add(1, Relaxed);
                cx.halt();
            }
            fn on_open(&mut self, _: &mut Context<'_>) {}
            fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}
        }
        let started = Arc::<AtomicUsize>::default();
        let service = |started: Arc<AtomicUsize>, owned: NoClone| {
            Service::once(move |_| Ok::<_, String>(Owner(started, owned))).named("owner")
        };
        let mut application = Application::with_backend(backend).unwrap();
        application.add_service(service(started.clone(), NoClone)).unwrap();
        application.run().expect("it ends well");
        assert_eq!(started.load(Relaxed), 1);
        for runner in [Runner::loops(2).unwrap(), Runner::threads(), Runner::processes()] {
            let mut application = Application::with(backend, runner).unwrap();
            let error = application.add_service(service(started.clone(), NoClone)).unwrap_err();
            assert!(error.to_string().starts_with("owner: its handler is made once"), "{error}");
        }
    }

    fn a_service_listens_at_each_of_its_addresses(backend: Backend) {
        let path = std::env::temp_dir().join(format!("reactor-addresses-{backend}-{}", std::process::id()));
        let at = path.clone();
        let make = move || Service::tcp("127.0.0.1:0", || Echo).and_tcp("127.0.0.1:0").and_unix(at);
        let running = serve_by(backend, Runner::default(), make, |_| {});
        let addresses = running.service.addresses();
        assert_eq!(addresses.len(), 3, "{addresses:?}");
        for address in &addresses[..2] {
            let reactor::Address::Tcp(address) = address else { panic!("it is TCP") };
            round_trip(&mut client_of(*address), b"hello\n");
        }
        let mut client = std::os::unix::net::UnixStream::connect(path).expect("it listens");
        std::io::Write::write_all(&mut client, b"hello").expect("it is open");
        let mut answer = [0; 5];
        client.read_exact(&mut answer).expect("an answer comes");
        assert_eq!(&answer, b"hello");
    }
}
