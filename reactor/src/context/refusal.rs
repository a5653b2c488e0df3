//! The refusal of a service: the bytes for a connection over a limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// Chooses the refusal by the first bytes of a connection. `None`: more bytes are needed.
pub(crate) type Choose = Arc<dyn Fn(&[u8]) -> Option<Bytes> + Send + Sync>;

/// The bytes that a connection over a limit is sent before its end.
#[derive(Clone)]
pub(crate) enum Refusal {
    /// Sent at once. Empty: the connection is closed without a word.
    Always(Bytes),
    /// Chosen by the connection's first bytes, which are awaited for `patience`.
    ByFirstBytes { patience: Duration, choose: Choose },
}

impl Default for Refusal {
    fn default() -> Self {
        Refusal::Always(Bytes::new())
    }
}

impl Refusal {
    /// Whether a connection over a limit is closed without a word.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Refusal::Always(bytes) if bytes.is_empty())
    }

    /// The function that chooses, if the refusal depends on the first bytes.
    pub(crate) fn choice(&self) -> Option<Choose> {
        match self {
            Refusal::Always(_) => None,
            Refusal::ByFirstBytes { choose, .. } => Some(choose.clone()),
        }
    }
}
