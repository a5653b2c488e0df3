//! The origin of a service's listeners: addresses to bind, or open listeners to take over.

use super::Listener;
use crate::address::Address;
use crate::error::{Errno, Error};
use crate::sys::listen::{ListenOptions, Listens};

/// The origin of a service's listeners.
#[derive(Debug)]
pub(super) enum Source {
    Text(String),
    Addresses(Vec<Address>),
    Listeners(Vec<Listener>),
}

impl Source {
    /// Binds each address with `listen`, or takes over the open listeners with these options.
    pub(super) fn bind<L: Listens + 'static>(
        self,
        options: &ListenOptions,
        listen: impl Fn(&Address, &ListenOptions) -> Result<L, Error>,
    ) -> Result<Vec<Box<dyn Listens>>, Error> {
        match self {
            Source::Listeners(listeners) => {
                for Listener(listening) in &listeners {
                    let failed =
                        |errno: Errno| Error::Bind { address: listening.address().clone(), cause: errno.into() };
                    listening.tune(&options.tuning).map_err(failed)?;
                    if let Some(patience) = options.defer_accept {
                        listening.defer_accept(patience).map_err(failed)?;
                    }
                    if options.urgent_in_line {
                        listening.urgent_in_line().map_err(failed)?;
                    }
                }
                Ok(listeners.into_iter().map(|Listener(listening)| Box::new(listening) as _).collect())
            }
            Source::Text(text) => bind_all(&Address::resolve(&text)?, options, listen),
            Source::Addresses(addresses) => bind_all(&addresses, options, listen),
        }
    }
}

/// Binds each address of one name. An address that this host does not have (IPv6 switched off, say) is left out, unless all
/// addresses are missing.
fn bind_all<L: Listens + 'static>(
    addresses: &[Address],
    options: &ListenOptions,
    listen: impl Fn(&Address, &ListenOptions) -> Result<L, Error>,
) -> Result<Vec<Box<dyn Listens>>, Error> {
    let mut listeners: Vec<Box<dyn Listens>> = Vec::new();
    let mut absent = None;
    for address in addresses {
        match listen(address, options) {
            Ok(listener) => listeners.push(Box::new(listener)),
            Err(Error::Bind { address, cause }) if cause.kind() == std::io::ErrorKind::AddrNotAvailable => {
                absent = Some(Error::Bind { address, cause });
            }
            Err(error) => return Err(error),
        }
    }
    match absent {
        Some(error) if listeners.is_empty() => Err(error),
        Some(error) => {
            log::warn!("an address of the name is left out: {error}");
            Ok(listeners)
        }
        None => Ok(listeners),
    }
}
