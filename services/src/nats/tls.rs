//! TLS to a NATS server: the server tells INFO in plaintext, and the handshake follows.

use std::cell::RefCell;
use std::rc::Rc;

use reactor::{Follows, Input, Layer, Opened};

use crate::codec::nats::{Decoder, INFO_MAX, Info, Op};

/// The reason for which a layer has failed before its handshake.
pub(super) type Fault = Rc<RefCell<Option<String>>>;

/// A layer that takes INFO from the wire, and then passes all bytes to `inner`. INFO is the layer's
/// [`agreed`](Layer::agreed) result.
pub(super) struct InfoFirst {
    inner: Box<dyn Layer>,
    /// Bytes of INFO that have arrived; at most [`INFO_MAX`].
    begun: Vec<u8>,
    has_info: bool,
    info: Option<Info>,
    fault: Fault,
}

impl InfoFirst {
    pub(super) fn new(inner: Box<dyn Layer>, fault: Fault) -> Self {
        InfoFirst { inner, begun: Vec::new(), has_info: false, info: None, fault }
    }

    /// Takes the bytes up to the end of INFO. Returns the rest, or the fault.
    fn take_info<'w>(&mut self, wire: &'w [u8]) -> Result<&'w [u8], String> {
        let end = wire.iter().position(|&byte| byte == b'\n').map_or(wire.len(), |at| at + 1);
        self.begun.extend_from_slice(&wire[..end]);
        if self.begun.len() > INFO_MAX {
            return Err(format!("the first line of the server is longer than {INFO_MAX} bytes"));
        }
        let info = match Decoder::default().next(&mut Input::of(&self.begun)) {
            Ok(None) => return Ok(&[]),
            Ok(Some(Op::Info(info))) if info.tls_required || info.tls_available => *info,
            Ok(Some(Op::Info(_))) => return Err("the server has no TLS".to_owned()),
            Ok(Some(_)) => return Err("the server does not begin with INFO".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        (self.info, self.has_info, self.begun) = (Some(info), true, Vec::new());
        Ok(&wire[end..])
    }
}

impl Layer for InfoFirst {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened {
        let mut wire = wire;
        if !self.has_info {
            match self.take_info(wire) {
                Ok(rest) => wire = rest,
                Err(fault) => {
                    *self.fault.borrow_mut() = Some(fault);
                    return Opened { plain: 0, follows: Follows::Failure };
                }
            }
            if !self.has_info || wire.is_empty() {
                return Opened::default();
            }
        }
        self.inner.open(wire, plain)
    }

    fn seal(&mut self, plain: &[u8]) {
        self.inner.seal(plain);
    }

    fn owes(&self) -> bool {
        self.has_info && self.inner.owes()
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        if self.has_info {
            self.inner.owed(wire);
        }
    }

    fn is_ready(&self) -> bool {
        self.has_info && self.inner.is_ready()
    }

    fn finish(&mut self) {
        self.inner.finish();
    }

    fn agreed(&mut self) -> Option<Box<dyn std::any::Any>> {
        self.info.take().map(|info| Box::new(info) as Box<dyn std::any::Any>)
    }
}
