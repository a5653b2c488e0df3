//! The sends at the end of a turn, in one system call where the driver can do so and enough are due: publications to members, and
//! writes to other connections than a callback's own. The outcomes are noted in the order of the sends, as if each send had been a
//! call of its own, and before any callback: a callback may write behind the bytes that have left.

use super::Core;
use crate::driver::Driver;
use crate::link::Sent;
use crate::recorder::What;

impl Core {
    /// Hands the gathered publications out, and sends them to every member whose output is empty.
    pub(crate) fn send_out_by(&mut self, driver: &mut impl Driver) {
        self.publish_together(driver);
        self.send_out(|link, bytes| {
            Some(driver.sent_together(link.id).unwrap_or_else(|| driver.send_bytes(link, bytes)))
        });
        debug_assert!(driver.next_sent_together().is_none(), "a publication has left, and nobody has noted that");
    }

    /// Sends the gathered publications to the members that [`send_out`](Self::send_out) asks about, in the order of its questions.
    fn publish_together(&mut self, driver: &mut impl Driver) {
        let Core { links, topics, bounds, published, .. } = self;
        let (batches, _) = published.parts();
        let due: usize = batches.iter().map(|batch| topics.count(&batch.topic)).sum();
        // After a short send to a connection, a second send to the same connection would leave a gap.
        if due < driver.least_batch() || (batches.len() > 1 && topics.overlap()) {
            return;
        }
        let excepted = || batches.iter().flat_map(|batch| batch.messages.iter().map(|message| message.except));
        excepted().for_each(|id| links.get_mut(id).into_iter().for_each(|link| link.set_excepted(true)));
        driver.send_together(batches.iter().flat_map(|batch| {
            let members = topics.members(&batch.topic).iter().copied();
            let takes_at_once = |id| {
                let link = links.get(id);
                link.is_some_and(|link| link.takes_at_once(batch.bytes().len(), &bounds[link.bounds].limits))
            };
            members.filter(move |&id| takes_at_once(id)).map(|id| (id, batch.bytes()))
        }));
        excepted().for_each(|id| links.get_mut(id).into_iter().for_each(|link| link.set_excepted(false)));
    }

    /// Sends the outputs of links with nothing else to do. The links stay on the list `dirty`.
    #[inline]
    pub(crate) fn send_answers_together(&mut self, driver: &mut impl Driver) {
        if self.dirty.len() >= driver.least_batch() {
            self.send_dirty_together(driver);
        }
    }

    #[inline(never)]
    fn send_dirty_together(&mut self, driver: &mut impl Driver) {
        let Core { links, dirty, .. } = self;
        driver.send_together(dirty.iter().filter_map(|&id| {
            let link = links.get(id).filter(|link| link.dirty && link.has_plain_answer_only())?;
            link.answer().map(|bytes| (id, bytes))
        }));
        while let Some((id, outcome)) = driver.next_sent_together() {
            let Core { links, pool, counters, recorder, now, .. } = self;
            let Some(link) = links.get_mut(id) else { continue };
            let offered = link.answer().map_or(0, <[u8]>::len);
            match outcome {
                Sent::Bytes(count) if count == offered => {
                    recorder.note(id, What::Sent(count as u32), *now);
                    if link.is_counted() {
                        counters.sent.add(count as u64);
                    }
                    link.answered(count, *now, pool);
                }
                outcome => self.note_sent(id, outcome, || driver.unacknowledged(id)),
            }
        }
    }
}
