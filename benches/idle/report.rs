//! The output: Markdown tables that read as plain text too. Rows are printed as soon as they are known.

use crate::measure::Measured;
use crate::rig::Rig;
use crate::rig::counts::Syscalls;
use crate::rig::figures::{median, quantile, unsigned, verdict};
use crate::{Backend, Case, Options};

pub(crate) fn conditions(options: &Options, rig: &Rig) {
    let names: Vec<&str> = options.backends.iter().map(|b| b.name()).collect();
    let (names, rounds, seconds) = (names.join(" and "), options.shared.rounds, options.shared.seconds);
    println!("Glowplug among idle connections, on {names}, on loopback: {rounds} rounds of {seconds} s each.");
    rig.conditions();
    if options.counts && !rig.tools.strace {
        println!("Without a working strace: system calls are not counted.");
    }
}

pub(crate) fn head(case: Case) {
    let Case { work, active } = case;
    println!("\n{}, {active} active, one request at a time on each\n", work.name());
    println!(
        "| backend |   idle | CPU per request | ratio to none | p20–p80   | requests/s | resident bytes each | verdict |"
    );
    println!(
        "| ------- | -----: | --------------: | ------------: | --------- | ---------: | ------------------: | ------- |"
    );
}

pub(crate) fn rows(backend: Backend, measured: &[Measured]) {
    for (index, figures) in measured.iter().enumerate() {
        println!(
            "| {:<7} | {:>6} | {:>12.2} µs | {:>13.2} | {:.2}–{:.2} | {:>10.0} | {:>19} | {:<7} |",
            backend.name(),
            figures.idle,
            median(&figures.timed.cpu_nanos) / 1e3,
            median(&figures.timed.ratios),
            quantile(&figures.timed.ratios, 0.2),
            quantile(&figures.timed.ratios, 0.8),
            median(&figures.timed.per_second),
            figures.resident.map_or(String::new(), |bytes| format!("{bytes:.0}")),
            if index == 0 { "" } else { verdict(&figures.timed.ratios) }
        );
    }
}

pub(crate) fn syscalls_head(case: Case) {
    println!("\nSystem calls per request, {}, {} active\n", case.work.name(), case.active);
    println!("| backend |   idle |   all | receive |  send |  wait | epoll_ctl | other | failed |");
    println!("| ------- | -----: | ----: | ------: | ----: | ----: | --------: | ----: | -----: |");
}

pub(crate) fn syscalls_row(backend: Backend, idle: usize, calls: &Syscalls) {
    println!(
        "| {:<7} | {:>6} | {:>5.3} | {:>7.3} | {:>5.3} | {:>5.3} | {:>9.3} | {:>5.3} | {:>6.3} |",
        backend.name(),
        idle,
        calls.all(),
        unsigned(calls.receive),
        unsigned(calls.send),
        unsigned(calls.wait),
        unsigned(calls.control),
        unsigned(calls.other),
        unsigned(calls.failed)
    );
}
