//! Rule 9, for long items: a handler that states how many bytes it needs is called when they have arrived.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use reactor::{Bytes, CloseReason, Limits};

use crate::stage::{Client, Plan, Seen, Stage, pattern, same};
use crate::support::on_every_backend;

/// Takes items of ten bytes.
fn tens() -> Plan {
    Plan::new().data(|input, _| {
        while input.need(10) {
            input.consume(10);
        }
    })
}

/// Sends bytes one at a time, each when the loop has received the former.
fn send_one_by_one(stage: &Stage, client: &mut Client, bytes: &[u8]) {
    let before = stage.stats().received;
    for (sent, byte) in bytes.iter().enumerate() {
        client.write_all(&[*byte]).unwrap();
        stage.wait_until("it has the byte", move |cx| cx.stats().received > before + sent as u64);
    }
}

on_every_backend! {
    fn a_handler_is_not_called_before_the_bytes_are_there_that_it_needs(transport: Transport) {
        let stage = Stage::new(transport, tens());
        let (mut client, id) = stage.open();
        send_one_by_one(&stage, &mut client, b"0");
        assert_eq!(stage.next(), Seen::Data(id, Vec::new()));
        send_one_by_one(&stage, &mut client, b"12345678");
        assert_eq!(stage.left_over(), []);
        send_one_by_one(&stage, &mut client, b"9");
        assert_eq!(stage.next(), Seen::Data(id, b"0123456789".to_vec()));
        // The handler has asked again, with no unread byte.
        send_one_by_one(&stage, &mut client, b"abcdefghi");
        assert_eq!(stage.left_over(), []);
        send_one_by_one(&stage, &mut client, b"j");
        assert_eq!(stage.next(), Seen::Data(id, b"abcdefghij".to_vec()));
    }

    fn the_end_of_input_is_told_with_whatever_is_there(transport: Transport) {
        let stage = Stage::new(transport, tens());
        let (mut client, id) = stage.open();
        send_one_by_one(&stage, &mut client, b"0123");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stage.until(|seen| matches!(seen, Seen::End(..))), Seen::End(id, 4));
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    fn a_stop_does_not_wait_for_bytes_that_a_handler_needs(transport: Transport) {
        let stage = Stage::new(transport, tens());
        let (mut client, id) = stage.open();
        send_one_by_one(&stage, &mut client, b"0123");
        let seen = stage.end();
        assert!(seen.contains(&Seen::Stopping(id)), "{seen:?}");
    }

    fn the_end_of_a_pause_brings_no_fewer_bytes_than_are_needed(transport: Transport) {
        let plan = Plan::new().data(|input, cx| {
            if input.need(10) {
                input.consume(10);
            }
            cx.pause_reading();
            cx.resume_reading();
        });
        let stage = Stage::new(transport, plan);
        let (mut client, id) = stage.open();
        send_one_by_one(&stage, &mut client, b"0");
        assert_eq!(stage.next(), Seen::Data(id, Vec::new()));
        send_one_by_one(&stage, &mut client, b"12345678");
        stage.sees_nothing();
        send_one_by_one(&stage, &mut client, b"9");
        assert_eq!(stage.next(), Seen::Data(id, b"0123456789".to_vec()));
    }

    fn more_than_the_limit_of_the_input_is_never_kept(transport: Transport) {
        let plan = Plan::new().data(|input, _| assert!(!input.need(20_000)));
        let limits = Limits { input: 10_000, ..Limits::default() };
        let stage = Stage::tuned(transport, plan, |service| service.limits(limits), |_| {});
        let (mut client, id) = stage.open();
        client.write_all(&pattern(10_001)).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::InputOverflow { limit: 10_000 });
    }

    fn a_large_item_in_many_pieces_is_taken_as_bytes_that_outlive_the_connection(transport: Transport) {
        const SIZE: usize = 3_000_000;
        let (send, taken) = channel::<Bytes>();
        let send = Mutex::new(send);
        let plan = Plan::new().data(move |input, cx| {
            if input.need(SIZE) {
                let item = input.take_bytes(SIZE).unwrap();
                let _ = send.lock().unwrap().send(item);
                cx.abort();
            }
        });
        let limits = Limits { input: 2 * SIZE, ..Limits::default() };
        let stage = Stage::tuned(transport, plan, |service| service.limits(limits), |_| {});
        let (mut client, id) = stage.open();
        let item = pattern(SIZE);
        client.write_all(&item).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::Aborted);
        same(&taken.recv().unwrap(), &item);
    }
}
