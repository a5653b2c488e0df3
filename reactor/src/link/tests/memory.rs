//! A link and the memory budget: the counted bytes, and the end for lack of memory.

use super::*;
use crate::limits::SlowPolicy;

/// Bytes of last words that a connection without memory may still send.
const LAST_WORDS_MAX: usize = 128 * 1024;

fn holdings() -> Holdings {
    Holdings::new(Arc::new(Budget::new(usize::MAX, None)))
}

impl Bench {
    fn weighed(&mut self, holdings: &mut Holdings) -> usize {
        self.link.weigh(holdings);
        self.link.holding().own()
    }

    fn out_of_memory(&mut self) -> (u64, usize) {
        self.link.run_out_of_memory(&self.limits, &mut self.pool)
    }

    fn is_aborted(&self) -> bool {
        self.link.is_over() && self.link.resets() && self.link.reason() == CloseReason::Memory
    }
}

#[test]
fn the_counted_bytes_are_those_of_output_input_state_and_layer_together() {
    let (mut bench, mut holdings) = (Bench::open(), holdings());
    assert_eq!(bench.weighed(&mut holdings), 0);
    bench.write(10_000);
    let output = bench.weighed(&mut holdings);
    assert!((10_000..40_000).contains(&output), "{output}");
    bench.keep(&[0; 3000]);
    let both = bench.weighed(&mut holdings);
    assert!((output + 3000..output + 12_000).contains(&both), "{both}");
    let class = usize::BITS - both.leading_zeros();
    assert_eq!(u32::from(bench.link.holding().class), class, "nothing is shared");
    assert!(bench.link.set_state_bytes(7 << 10));
    assert_eq!(bench.weighed(&mut holdings), both + (7 << 10));
    bench.link.layer_reported(LayerEvent::Holds(9 << 10), bench.now);
    assert!(bench.link.flags.take(UNWEIGHED));
    assert_eq!(bench.weighed(&mut holdings), both + (16 << 10));
    #[cfg(feature = "sim")]
    assert_eq!(bench.link.own_memory(), both + (16 << 10));
    holdings.report();
    assert_eq!(holdings.budget.held(), both + (16 << 10));

    bench.link.release(&mut bench.pool);
    assert_eq!(bench.weighed(&mut holdings), 16 << 10);
    bench.link.weigh_nothing(&mut holdings);
    assert_eq!(bench.link.holding().own(), 0);
    holdings.report();
    assert_eq!(holdings.budget.held(), 0);
}

#[test]
fn input_alone_is_counted_and_a_channel_counts_nothing() {
    let (mut bench, mut holdings) = (Bench::open(), holdings());
    bench.keep(&[0; 3000]);
    assert!(bench.weighed(&mut holdings) >= 3000);
    let mut channel = Bench::with(Origin::Channel);
    channel.write(10_000);
    assert_eq!(channel.weighed(&mut holdings), 0);
    #[cfg(feature = "sim")]
    assert_eq!(channel.link.own_memory(), 0);
}

#[test]
fn the_link_is_counted_again_when_its_input_or_its_state_has_changed() {
    let mut bench = Bench::open();
    bench.link.set_unweighed();
    assert!(bench.link.flags.take(UNWEIGHED));
    bench.link.set_state_bytes(1024);
    assert!(bench.link.flags.take(UNWEIGHED));
    bench.link.set_state_bytes(1024);
    assert!(!bench.link.flags.take(UNWEIGHED), "no change");
}

#[test]
#[cfg(feature = "sim")]
fn a_shared_payload_is_named_by_its_end_and_its_length() {
    let mut bench = Bench::open();
    assert_eq!(bench.link.payloads(), []);
    let payload = Bytes::from(vec![0; 1 << 20]);
    let name = (payload.as_ptr_range().end as usize, payload.len());
    bench.link.writable_output(&mut bench.pool, &bench.limits).unwrap().put_shared(payload);
    assert_eq!(bench.link.payloads(), [name]);
}

#[test]
fn a_suspension_is_a_change_only_once() {
    let mut link = Bench::open().link;
    assert!(!link.is_suspended() && !link.set_suspended(false));
    assert!(link.set_suspended(true) && link.is_suspended());
    assert!(!link.set_suspended(true));
    assert!(link.set_suspended(false) && !link.is_suspended());
}

#[test]
fn a_link_without_memory_drops_messages_and_input_and_its_handler_has_last_words() {
    let mut bench = Bench::open();
    (bench.limits.slow_members, bench.limits.member_queue) = (SlowPolicy::DropOldest, 10_000);
    bench.link.set_member(true, &bench.limits);
    bench.write(10);
    bench.step();
    bench.blocked(4);
    let messages = Messages { bytes: &[0; 300], shared: None, lengths: &[100; 3] };
    bench.link.deliver(messages, &bench.limits, &mut bench.pool, &mut 0);
    bench.keep(b"unread!");
    bench.link.set_suspended(true);
    assert!(!bench.link.is_giving_back());
    assert_eq!(bench.out_of_memory(), (3, 7));
    assert!(!bench.link.is_suspended() && bench.link.kept.is_none());
    assert_eq!(bench.link.queued(), 6);
    assert!(bench.link.is_giving_back());
    assert_eq!(bench.step(), Step::TooSlow);
    assert!(!bench.link.is_giving_back(), "the handler speaks now");
    bench.write(20);
    bench.link.close_slow(bench.now);
    assert_eq!((bench.link.describe(), bench.link.reason()), ("flushing", CloseReason::Memory));
    assert!(!bench.link.is_giving_back());
    assert_eq!(bench.out_of_memory(), (0, 0));
    assert!(bench.is_aborted(), "it still holds much");
    assert!(bench.link.is_giving_back());
}

#[test]
fn without_memory_the_handlers_own_close_keeps_the_reason_and_gives_nothing_back() {
    let mut bench = Bench::open();
    bench.write(10);
    assert_eq!(bench.out_of_memory(), (0, 0));
    bench.close();
    assert_eq!(bench.link.reason(), CloseReason::Memory);
    assert!(!bench.link.is_giving_back());
}

#[test]
fn without_memory_a_link_ends_at_once_where_last_words_are_impossible() {
    let ends: [(&str, Origin, Change, bool); 6] = [
        ("open", Origin::Accepted, |_| {}, false),
        ("in its layer's handshake", Origin::Accepted, |bench| bench.link.begin_handshake(), true),
        ("not connected yet", Origin::Outbound, |_| {}, false),
        ("closing", Origin::Accepted, |bench| bench.close(), true),
        (
            "mostly of a layer",
            Origin::Accepted,
            |bench| {
                bench.link.layer_reported(LayerEvent::Holds(64 << 10), bench.now);
                bench.link.weigh(&mut holdings());
            },
            true,
        ),
        (
            "after its last words",
            Origin::Accepted,
            |bench| {
                bench.out_of_memory();
                assert_eq!(bench.step(), Step::TooSlow);
            },
            true,
        ),
    ];
    for (name, origin, change, ends) in ends {
        let mut bench = Bench::with(origin);
        change(&mut bench);
        bench.keep(b"seven b");
        assert_eq!(bench.out_of_memory(), (0, 7), "{name}");
        assert_eq!(bench.is_aborted(), ends, "{name}");
    }
}

#[test]
fn an_outbound_link_without_memory_is_reported_once_and_reset() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.out_of_memory();
    assert_eq!(bench.step(), Step::TooSlow);
    assert_eq!(bench.step(), Step::Rest);
    bench.link.close_slow(bench.now);
    assert!(bench.is_aborted());
}

#[test]
fn last_words_of_a_bounded_length_leave_and_longer_ones_are_reset() {
    for (queued, resets) in [(LAST_WORDS_MAX, false), (LAST_WORDS_MAX + 1, true)] {
        let mut bench = Bench::open();
        bench.limits.output_max = usize::MAX;
        bench.write(queued);
        bench.link.weigh(&mut holdings());
        let own = bench.link.holding().own();
        assert_eq!(bench.link.to_come_back(), 0, "an open link gives nothing back");
        bench.out_of_memory();
        assert_eq!(bench.link.to_come_back(), if resets { own } else { 0 });
        bench.step();
        bench.link.close_slow(bench.now);
        assert_eq!(bench.is_aborted(), resets);
        assert_eq!(bench.link.reason(), CloseReason::Memory);
        assert_eq!(bench.link.to_come_back(), if resets { own } else { 0 });
        bench.link.abort(CloseReason::Memory);
        assert_eq!(bench.link.to_come_back(), own);
    }
}

#[test]
fn a_panic_in_the_last_words_is_the_reason() {
    let mut bench = Bench::open();
    bench.out_of_memory();
    bench.link.abort(CloseReason::Panicked);
    assert_eq!(bench.closes(), CloseReason::Panicked);
}
