//! Random operations with rare courses of events among them, and the seeds of the fuzz target.

use super::*;
use crate::operations::testing::{operations, seeds};
use proptest::prelude::*;

/// The letters of random operations. A letter that stands here several times is drawn more often.
const LETTERS: &[u8] = b"AAAAFXKKKKCBONRRRRVVUUTTTSwwwwkkzfxprgdetnqq";

/// Courses of events that random operations hardly ever meet. The property test puts one among random operations.
const COURSES: [&str; 15] = [
    "",
    // The handler pauses while the end of the input is pending: in `on_drained`, between two turns, or within one.
    "w300 K9999 V w300 F R9 U p T1 r",
    "w300 K9999 V w300 F R9 p U T1 r",
    "A100 R99 w300 K9999 V w300 F R9 U p r",
    // Input is kept, and a reset comes before it is offered again: to be delivered, or in a pause.
    "A100 R99 g X R9 U",
    "A100 R99 g X R9 U p T5",
    "A100 R99 g B w10 U p T5",
    "A100 R99 gp X R9 T5",
    "A100 R99 p r p X R9 T5",
    // The stop comes while reading is paused by backpressure, with input in the kernel and without.
    "A100 R99 w300 S K9999 V R9 U",
    "w300 S A10 K9999 V R9 U",
    // While the stop looks for input, reading is paused by backpressure or by the handler; and nothing was found.
    "S w300 U K9999 V A10 U",
    "S p U A10 r U",
    // A stream drains twice; or it drains, reads kept input, and drains again.
    "w300 S K9999 V w300 U w300 U",
    "A100 R99 w300 S K9999 V j w300 U R9 U",
];

/// The limits, values between them, and the lengths of deadlines.
const MARKS: [u64; 8] = [50, 150, 200, 201, 400, 600, 49, 301];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_the_peer_and_the_handler_do_the_promises_hold(
        origin in 0..6u8,
        idle in 0..200u8,
        before in operations(LETTERS, 4, 20, &MARKS),
        course in prop::sample::select(&COURSES),
        after in operations(LETTERS, 4, 40, &MARKS),
    ) {
        let idle = if idle < 100 { format!("i{idle}") } else { String::new() };
        check(format!("o{} {idle} {before} {course} {after}", origin.saturating_sub(2)).as_bytes());
    }
}

#[test]
fn courses_that_random_operations_hardly_meet_hold() {
    COURSES.iter().for_each(|course| check(course.as_bytes()));
}

#[test]
fn the_seeds_of_the_fuzz_target_hold() {
    seeds("link").iter().for_each(|seed| check(seed));
}
