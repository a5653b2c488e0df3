//! An application of this process, on a thread of its own.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use reactor::{Address, Application, Backend, Error, Handle, Handler, Runner, Service, ServiceHandle};

/// A running application. Dropping the value halts the application and waits for its end, so no test leaves a loop
/// behind.
pub struct Running<M = ()> {
    pub service: ServiceHandle<M>,
    pub handle: Handle,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

/// Runs one service at any free port of loopback.
pub fn serve<H, M>(backend: Backend, factory: impl Fn() -> H + Send + Sync + 'static) -> Running<M>
where
    H: Handler<M>,
    M: Send + 'static,
{
    serve_with(backend, move || Service::tcp("127.0.0.1:0", factory), |_| {})
}

/// Runs the service that `make` returns, after `configure` has changed the application. Both run on the loop's thread,
/// since an application stays on the thread that made it.
pub fn serve_with<H, M>(
    backend: Backend,
    make: impl FnOnce() -> Service<H, M> + Send + 'static,
    configure: impl FnOnce(&mut Application) + Send + 'static,
) -> Running<M>
where
    H: Handler<M>,
    M: Send + 'static,
{
    serve_by(backend, Runner::default(), make, configure)
}

/// Runs the service under the model of `runner`.
pub fn serve_by<H, M>(
    backend: Backend,
    runner: Runner,
    make: impl FnOnce() -> Service<H, M> + Send + 'static,
    configure: impl FnOnce(&mut Application) + Send + 'static,
) -> Running<M>
where
    H: Handler<M>,
    M: Send + 'static,
{
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut application = Application::with(backend, runner)?;
        let service = application.add_service(make())?;
        configure(&mut application);
        ready.send(service).expect("the test is waiting");
        application.run()
    });
    match is_ready.recv() {
        Ok(service) => Running { handle: service.handle().clone(), service, thread: Some(thread) },
        Err(_) => panic!("{}", thread.join().expect("no panic").expect_err("it did not start")),
    }
}

impl<M> Running<M> {
    /// The address of the service.
    pub fn address(&self) -> SocketAddr
    where
        M: Send + 'static,
    {
        match self.service.address() {
            Some(Address::Tcp(address)) => *address,
            other => panic!("not a TCP address: {other:?}"),
        }
    }

    /// Waits for the application to end by itself.
    pub fn join(mut self) -> Result<(), Error> {
        self.thread.take().expect("it is joined once").join().expect("the loop does not panic")
    }
}

impl<M> Drop for Running<M> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.halt();
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.expect("the loop does not panic").expect("the loop ends well");
            }
        }
    }
}
