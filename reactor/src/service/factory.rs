//! The factories that make a service's handlers, one handler for each loop.

use std::sync::{Arc, Mutex, PoisonError};

use super::Service;
use crate::cluster::LoopHandle;
use crate::error::Error;
use crate::handle::ServiceHandle;
use crate::handler::Handler;
use crate::host::{Host, Hosted, Works};
use crate::mailbox::{Addressed, Receiver};

/// The type of errors that a factory of handlers returns.
pub(super) type FactoryError = Box<dyn std::error::Error + Send + Sync>;
/// Makes the handler of each loop.
pub(super) type Factory<H, M> = Box<dyn Fn(&ServiceHandle<M>) -> Result<H, FactoryError> + Send + Sync>;

impl<H: Handler<M>, M: Send + 'static> Service<H, M> {
    /// Makes the handler of each loop with a factory that may fail, and that gets the service's handle: for threads that the handler
    /// starts, and for addresses. Listens nowhere before [`Service::and_tcp`], [`Service::and_unix`] or [`Service::and_on`].
    ///
    /// [`Application::run`](crate::Application::run) returns an error of the factory as [`Error::Handler`], and the application ends.
    /// With [`Runner::threads`](crate::Runner::threads) and [`Runner::processes`](crate::Runner::processes) this holds for the first
    /// call, before a peer is served. A later error, of the factory for one connection, is logged and ends that connection. The
    /// factory runs on the loop's thread, before [`Handler::on_start`].
    ///
    /// ```
    /// use reactor::{Application, Context, Handler, Input, Service};
    /// use std::{fs, io};
    ///
    /// struct Greeter(String);
    ///
    /// impl Handler for Greeter {
    ///     type Connection = ();
    ///     fn on_open(&mut self, cx: &mut Context<'_>) {
    ///         cx.write(&self.0);
    ///     }
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         input.take_all();
    ///     }
    /// }
    ///
    /// let greeter = Service::try_new(|handle| -> io::Result<Greeter> {
    ///     let words = fs::read_to_string("/nowhere/greeting.txt")?;
    ///     Ok(Greeter(format!("{words}, at {}\n", handle.addresses()[0])))
    /// });
    /// let mut app = Application::new()?;
    /// app.add_service(greeter.and_tcp("127.0.0.1:0"))?;
    /// let error = app.run().unwrap_err();
    /// assert_eq!(error.to_string(), "Greeter: No such file or directory (os error 2)");
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn try_new<E: Into<FactoryError>>(
        factory: impl Fn(&ServiceHandle<M>) -> Result<H, E> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Box::new(move |handle| factory(handle).map_err(E::into)))
    }

    /// Makes one handler with a factory that is called once, and so may give the handler what cannot be cloned: the receiver of a
    /// channel, an open file. In all else as [`Service::try_new`].
    ///
    /// One handler serves one loop. So [`Application::add_service`](crate::Application::add_service) returns [`Error::Runner`] where
    /// the [`Runner`](crate::Runner) has several loops, or a thread or a process for each connection.
    ///
    /// ```
    /// use reactor::{Application, Context, Handler, Input, Service};
    /// use std::sync::mpsc::{Receiver, channel};
    /// use std::time::Duration;
    ///
    /// struct Printer(Receiver<String>);
    ///
    /// impl Handler for Printer {
    ///     type Connection = ();
    ///     fn on_start(&mut self, cx: &mut Context<'_>) {
    ///         println!("{}", self.0.recv().expect("a text has been sent"));
    ///         cx.halt();
    ///     }
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}
    /// }
    ///
    /// let (texts, to_print) = channel();
    /// texts.send("hello".to_owned()).expect("the receiver exists");
    /// let mut app = Application::new()?;
    /// app.add_service(Service::once(move |_| Ok::<_, std::io::Error>(Printer(to_print))))?;
    /// app.run()?;
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn once<E: Into<FactoryError>>(
        factory: impl FnOnce(&ServiceHandle<M>) -> Result<H, E> + Send + 'static,
    ) -> Self {
        let factory = Mutex::new(Some(factory));
        let make = move |handle: &ServiceHandle<M>| {
            let factory = factory.lock().unwrap_or_else(PoisonError::into_inner).take();
            factory.ok_or("its handler is made once")?(handle).map_err(E::into)
        };
        Service { makes_one: true, ..Self::new(Box::new(make)) }
    }
}

/// The parts of a service from which each loop builds its own handler.
pub(crate) struct ServiceParts<H, M> {
    pub(super) factory: Factory<H, M>,
    pub(super) works: Works<H>,
    pub(super) name: Arc<str>,
    pub(crate) handle: ServiceHandle<M>,
}

impl<H: Handler<M>, M: Send + 'static> ServiceParts<H, M> {
    /// Builds the host for a fixed loop.
    pub(crate) fn host(&self, service: u16, mailbox: Receiver<Addressed<M>>) -> Result<Box<dyn Host>, Error> {
        Ok(Box::new(Hosted::new(self.handler()?, service, mailbox).working(self.works.clone())))
    }

    /// Builds the host for a per-connection loop, which serves only this service.
    pub(crate) fn per_connection_host(&self, loop_handle: &Arc<LoopHandle>) -> Result<Box<dyn Host>, Error> {
        let mailbox = self.handle.per_connection_receiver(loop_handle);
        Ok(Box::new(Hosted::new(self.handler()?, 0, mailbox).working(self.works.clone())))
    }

    fn handler(&self) -> Result<H, Error> {
        let failed = |cause| Error::Handler { service: self.name.to_string(), cause };
        (self.factory)(&self.handle).map_err(failed)
    }
}
