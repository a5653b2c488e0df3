//! Open listeners, from the standard library or from a service manager.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::Service;
use super::source::Source;
use crate::address::Address;
use crate::error::Error;
use crate::handler::Handler;
use crate::sys::listen::{self, Listening, Listens};

/// A listening socket that is open already, for [`Service::on`](crate::Service::on).
///
/// ```
/// use reactor::Listener;
/// let listener = Listener::try_from(std::net::TcpListener::bind("127.0.0.1:0")?)?;
/// assert!(listener.address().port().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener(pub(super) Listening);

impl Listener {
    /// The address that the socket is bound to.
    pub fn address(&self) -> &Address {
        self.0.address()
    }
}

impl TryFrom<OwnedFd> for Listener {
    type Error = Error;

    /// Takes a listening stream socket, TCP or Unix, and makes it non-blocking and close-on-exec.
    fn try_from(descriptor: OwnedFd) -> Result<Self, Error> {
        Listening::from_fd(descriptor).map(Listener)
    }
}

impl TryFrom<std::net::TcpListener> for Listener {
    type Error = Error;

    fn try_from(listener: std::net::TcpListener) -> Result<Self, Error> {
        OwnedFd::from(listener).try_into()
    }
}

impl TryFrom<std::os::unix::net::UnixListener> for Listener {
    type Error = Error;

    fn try_from(listener: std::os::unix::net::UnixListener) -> Result<Self, Error> {
        OwnedFd::from(listener).try_into()
    }
}

/// Takes over the listeners that a service manager has handed to this process, each with the name given by the manager, by the
/// protocol of `sd_listen_fds(3)`: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`. Empty without such listeners, and from the
/// second call on.
///
/// ```
/// use reactor::{Context, Handler, Input, Service, inherited_listeners};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Connection = ();
/// #     fn on_open(&mut self, _: &mut Context<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) { cx.write(input.take_all()); }
/// # }
///
/// /// Listens at the sockets of the service manager, or at an address of its own where none were handed over.
/// fn echo() -> Result<Service<Echo>, reactor::Error> {
///     let listeners: Vec<_> = inherited_listeners()?.into_iter().map(|(_name, listener)| listener).collect();
///     Ok(if listeners.is_empty() {
///         Service::tcp("127.0.0.1:8800", || Echo)
///     } else {
///         Service::on_all(listeners, || Echo)
///     })
/// }
/// # echo().unwrap();
/// ```
///
/// # Errors
/// [`Error::Inherited`] when a descriptor is not a listening stream socket; [`Error::Environment`] when a variable makes no
/// sense.
pub fn inherited_listeners() -> Result<Vec<(Option<String>, Listener)>, Error> {
    let inherited = listen::inherited()?;
    Ok(inherited.into_iter().map(|one| (one.name, Listener(one.listening))).collect())
}

impl<H: Handler<M>, M: Send + 'static> Service<H, M> {
    /// Listens at `host:port` in addition to the other addresses of the service: see [`Service::tcp`].
    ///
    /// ```
    /// # use reactor::{Application, Context, Handler, Input, Service};
    /// # struct Quiet;
    /// # impl Handler for Quiet {
    /// #     type Connection = ();
    /// #     fn on_open(&mut self, _: &mut Context<'_>) {}
    /// #     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) { input.take_all(); }
    /// # }
    /// let mut app = Application::new()?;
    /// let handle = app.add_service(Service::tcp("127.0.0.1:0", || Quiet).and_tcp("127.0.0.2:0"))?;
    /// assert_eq!(handle.addresses().len(), 2);
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn and_tcp(self, address: &str) -> Self {
        self.and_from(Source::Text(address.to_owned()))
    }

    /// Listens on a Unix stream socket, too: see [`Service::unix`].
    pub fn and_unix(self, path: impl Into<PathBuf>) -> Self {
        self.and_from(Source::Addresses(vec![Address::Unix(path.into())]))
    }

    /// Takes over open listeners in addition to the other addresses of the service: see [`Service::on_all`].
    pub fn and_on(self, listeners: Vec<Listener>) -> Self {
        self.and_from(Source::Listeners(listeners))
    }

    pub(super) fn and_from(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }
}
