//! One sequential echo under every runner.

use reactor::{Backend, Runner, Service};
use sequential::Tasks;

use super::support::application::serve_by;
use super::{client, echo, patient};

fn is_served_by(runner: Runner, backend: Backend) {
    let make = || Service::tcp("127.0.0.1:0", || Tasks::new(echo)).deadlines(patient());
    let running = serve_by(backend, runner, make, |_| {});
    let mut clients: Vec<_> = (0..5).map(|_| client(&running)).collect();
    for round in 0..20 {
        for client in &mut clients {
            assert_eq!(client.ask(&format!("{round}")), format!("You said: {round}"));
        }
    }
    for mut client in clients {
        client.send("last\nrest");
        client.half_close();
        assert_eq!(client.rest_as_text(), "You said: last\n");
    }
}

super::support::on_every_backend! {
    fn one_loop_serves_tasks(backend: Backend) {
        is_served_by(Runner::default(), backend);
    }

    fn several_loops_serve_tasks(backend: Backend) {
        is_served_by(Runner::loops(3).expect("three is a number of loops"), backend);
    }

    fn a_thread_for_each_connection_serves_tasks(backend: Backend) {
        is_served_by(Runner::threads(), backend);
    }
}
