//! Connections over a limit. A refused connection has no state, so its events end here and reach no handler.

use super::guarded;
use crate::buffer::Input;
use crate::context::Core;
use crate::link::Origin;
use crate::token::ConnectionId;

/// Bytes of a refused connection that may arrive without a decision of [`Service::refusal_by`](crate::Service::refusal_by).
/// A request line fits; a refused connection must not hold more memory.
const FIRST_BYTES_MAX: usize = 8 * 1024;

/// Chooses the refusal of connection `id` by its first bytes, sends the refusal and closes. Without a decision the bytes stay
/// unread, up to [`FIRST_BYTES_MAX`]. A panic of the choosing function ends the connection without a refusal.
#[cold]
pub(super) fn heard(core: &mut Core, id: ConnectionId, service: u16, input: &mut Input<'_>) {
    let Some(choose) = core.terms[service as usize].refusal.choice() else { return };
    let Some(chosen) = guarded::<(), (), _>(core, id, service, |_| choose(input.as_slice())) else { return };
    if chosen.is_none() && input.len() < FIRST_BYTES_MAX {
        return;
    }
    input.take_all();
    let Core { links, pool, now, .. } = core;
    if let Some(link) = links.get_mut(id) {
        link.send_refusal(&chosen.unwrap_or_default(), *now, pool);
    }
}

/// Closes the refused connection `id` without a word: the bytes that would choose the refusal have not come in time, or come
/// no more.
#[cold]
pub(super) fn unheard(core: &mut Core, id: ConnectionId) {
    if let Some(link) = core.links.get_mut(id).filter(|link| link.origin == Origin::Refused) {
        link.close_briefly(core.now);
    }
}
