//! Compares each mask with the methods that depend on the flags: a flag that is missing in a mask, or needlessly there,
//! fails with its name.

use std::sync::Arc;

use super::*;
use crate::address::Peer;
use crate::budget::{Budget, Holdings};
use crate::limits::Limits;
use crate::link::{Link, Origin, Phase, Step};
use crate::time::Time;

const PHASES: [Phase; 5] = [Phase::Connecting, Phase::Open, Phase::Flushing, Phase::Lingering, Phase::Over];

/// An accepted link in this phase, with only these flags.
fn link_with(phase: Phase, flags: Flags) -> Link {
    let mut link = Link::new(Origin::Accepted, Peer::Unix, 0, 0, Time(1));
    (link.phase, link.flags) = (phase, flags);
    link
}

/// An open link with these flags and one queued byte.
fn owing_with(flags: Flags) -> Link {
    let mut link = link_with(Phase::Open, flags);
    let mut output = crate::buffer::Output::default();
    output.put(b"x");
    link.output = Some(Box::new(output));
    link
}

/// The names of the flags that are in `mask`.
fn names_in(mask: Flags) -> Vec<&'static str> {
    ALL.iter().filter(|(flag, ..)| mask.has(*flag)).map(|(_, name, _)| *name).collect()
}

/// The names of the flags for which the condition holds.
fn names_where(is_so: impl Fn(Flags) -> bool) -> Vec<&'static str> {
    ALL.iter().filter(|(flag, ..)| is_so(*flag)).map(|(_, name, _)| *name).collect()
}

#[test]
fn every_flag_has_a_bit_of_its_own() {
    let bits = ALL.iter().fold(0, |bits, (flag, name, _)| {
        assert_eq!((flag.0.count_ones(), bits & flag.0), (1, 0), "{name}");
        bits | flag.0
    });
    assert_eq!(bits.count_ones() as usize, ALL.len());
}

#[test]
fn the_driver_is_told_whenever_a_flag_changes_what_it_asks() {
    let asked = |link: &Link| (link.reads(), link.writes());
    for phase in PHASES {
        for (base, base_name, _) in ALL {
            for (other, other_name, _) in ALL {
                for (flag, name, _) in ALL {
                    let mut link = link_with(phase, base.and(*other));
                    link.take_interest_change();
                    let before = asked(&link);
                    link.flags.set(*flag);
                    if asked(&link) != before {
                        assert!(link.take_interest_change(), "{phase:?} {base_name} {other_name}: {name}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_flag_of_the_interest_mask_decides_what_the_driver_asks() {
    let decides = |flag: Flags| {
        PHASES.iter().any(|phase| {
            let (without, with) = (link_with(*phase, Flags::default()), link_with(*phase, flag));
            (without.reads(), without.writes()) != (with.reads(), with.writes())
        })
    };
    assert_eq!(names_in(INTEREST), names_where(decides));
}

#[test]
fn a_link_is_held_back_by_the_flags_that_say_so_and_by_a_full_output() {
    let mut found = names_where(|flag| link_with(Phase::Open, flag).is_held_back());
    found.retain(|name| *name != "CHOKED");
    assert_eq!(names_in(HOLDS_BACK), found);
    assert!(!link_with(Phase::Open, CHOKED.and(RELAYED)).is_held_back());
}

#[test]
fn a_flag_that_gives_an_open_link_a_step_is_in_the_attention_mask() {
    for (one, one_name, _) in ALL.iter().filter(|(flag, ..)| !ATTENTION.has(*flag)) {
        for (other, other_name, _) in ALL.iter().filter(|(flag, ..)| !ATTENTION.has(*flag)) {
            let step = link_with(Phase::Open, one.and(*other)).attended_step(1);
            assert_eq!(step, Step::Rest, "{one_name} {other_name}");
        }
    }
    // A failed send gives a paused link its end.
    let has_step = |flags: Flags| link_with(Phase::Open, flags).attended_step(1) != Step::Rest;
    let with_a_step = names_where(|flag| has_step(flag) || has_step(flag.and(PAUSED)));
    assert_eq!(names_in(ATTENTION), with_a_step);
}

#[test]
fn a_flag_that_keeps_messages_from_simply_leaving_is_in_the_hindering_mask() {
    let hinders = |flag: Flags| {
        let mut link = owing_with(flag);
        !link.takes_writes() || link.is_excepted() || link.step(1, &Limits::default()) != Step::Send
    };
    assert_eq!(names_in(HINDERED), names_where(hinders));
}

#[test]
fn after_the_answer_of_a_link_without_flags_that_need_steps_nothing_is_left_to_do() {
    let mut holdings = holdings_of_nobody();
    for (flag, name, _) in ALL {
        let mut link = owing_with(*flag);
        let sends = link.step(1, &Limits::default()) == Step::Send;
        link.output = None;
        let rests = link.attended_step(1) == Step::Rest;
        let is_read = link.reads() && !link.writes();
        let counted = link.flags;
        link.weigh(&mut holdings);
        let is_counted = link.flags == counted;
        let keeps_deadline = !link.take_deadline_change(Time(1), || 0);
        if !NEEDS_STEPS.has(*flag) {
            assert!(sends && rests && is_read && is_counted && keeps_deadline, "{name}");
        }
    }
    let after = all_of(Mask::AfterAnswer);
    let changes = names_where(|flag| {
        let mut link = link_with(Phase::Open, flag);
        link.weigh(&mut holdings_of_nobody());
        link.take_deadline_change(Time(1), || 0) || link.flags != flag
    });
    assert_eq!(names_in(after), changes);
}

fn holdings_of_nobody() -> Holdings {
    Holdings::new(Arc::new(Budget::new(usize::MAX, None)))
}
