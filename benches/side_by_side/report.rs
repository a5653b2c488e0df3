//! What is printed: Markdown tables that read as plain text too, a row as soon as it is known.

use crate::measure::{Syscalls, Timed, median, quantile};
use crate::server::{Bench, Contender};
use crate::{Case, Options, Work};

/// A difference below this is none: one program measured twice differs by as much.
const SAME: f64 = 0.03;

pub(crate) fn conditions(options: &Options, bench: &Bench) {
    let names: Vec<&str> = options.contenders.iter().map(|c| c.name()).collect();
    println!("{} side by side on loopback: {} rounds of {} s each.", names.join(", "), options.rounds, options.seconds);
    let tools = &bench.tools;
    if tools.pinned {
        println!("Server and load share core {} under SCHED_BATCH.", bench.cpu);
    } else {
        println!("Without chrt and taskset: neither pinned nor batched, so the times below are rough.");
    }
    if !std::path::Path::new("/proc/self/schedstat").exists() {
        println!("Without /proc/PID/schedstat: CPU time in ticks of 10 ms, so take --seconds 3 or more.");
    }
    if options.counts && !tools.strace {
        println!("Without a working strace: system calls are not counted.");
    }
    if options.instructions && !tools.valgrind {
        println!("Without valgrind: instructions are not counted.");
    }
}

pub(crate) fn time_head(options: &Options, work: Work) {
    match work {
        Work::Http => println!("\nHTTP, keep-alive, one fixed answer\n"),
        Work::Echo => println!("\nRaw echo of {} bytes\n", options.size),
    }
    println!(
        "| connections × depth | server    | CPU per request | ratio to mio | p20–p80   | requests/s | p50 µs | p99 µs | verdict |"
    );
    println!(
        "| ------------------: | --------- | --------------: | -----------: | --------- | ---------: | -----: | -----: | ------- |"
    );
}

pub(crate) fn time_rows(case: Case, contenders: &[Contender], timed: &[Timed]) {
    for (contender, figures) in contenders.iter().zip(timed) {
        println!(
            "| {:>19} | {:<9} | {:>12.2} µs | {:>12.2} | {:.2}–{:.2} | {:>10.0} | {:>6.0} | {:>6.0} | {:<7} |",
            label(case),
            contender.name(),
            median(&figures.cpu_nanos) / 1e3,
            median(&figures.ratios),
            quantile(&figures.ratios, 0.2),
            quantile(&figures.ratios, 0.8),
            median(&figures.per_second),
            median(&figures.p50_us),
            median(&figures.p99_us),
            if *contender == Contender::Mio { "" } else { verdict(&figures.ratios) }
        );
    }
    let expected = timed[0].answer_bytes;
    for (contender, figures) in contenders.iter().zip(timed).filter(|(_, figures)| figures.answer_bytes != expected) {
        // On standard error, so that the table stays whole.
        eprintln!("note: {} answers {} bytes, mio {expected}", contender.name(), figures.answer_bytes);
    }
}

/// Slower or faster only when the median and the quantile on the other side of it both say so.
fn verdict(ratios: &[f64]) -> &'static str {
    let middle = median(ratios);
    if middle > 1.0 + SAME && quantile(ratios, 0.2) > 1.0 + SAME {
        "slower"
    } else if middle < 1.0 - SAME && quantile(ratios, 0.8) < 1.0 - SAME {
        "faster"
    } else if (1.0 - SAME..=1.0 + SAME).contains(&middle) {
        "same"
    } else {
        "unclear"
    }
}

pub(crate) fn syscalls_head(work: Work) {
    println!("\nSystem calls per request, {}\n", work.name());
    println!(
        "| connections × depth | server    |   all | ratio to mio | receive |  send |  wait | epoll_ctl | other | failed |"
    );
    println!(
        "| ------------------: | --------- | ----: | -----------: | ------: | ----: | ----: | --------: | ----: | -----: |"
    );
}

pub(crate) fn syscalls_rows(case: Case, contenders: &[Contender], counted: &[Syscalls]) {
    for (contender, calls) in contenders.iter().zip(counted) {
        println!(
            "| {:>19} | {:<9} | {:>5.3} | {:>12.2} | {:>7.3} | {:>5.3} | {:>5.3} | {:>9.3} | {:>5.3} | {:>6.3} |",
            label(case),
            contender.name(),
            calls.all(),
            calls.all() / counted[0].all(),
            unsigned(calls.receive),
            unsigned(calls.send),
            unsigned(calls.wait),
            unsigned(calls.control),
            unsigned(calls.other),
            unsigned(calls.failed)
        );
    }
}

/// The difference of two runs may come out just below zero, where there is nothing.
fn unsigned(count: f64) -> f64 {
    count.max(0.0)
}

pub(crate) fn instructions_head(work: Work) {
    println!("\nUser instructions per request, {}\n", work.name());
    println!("| connections × depth | server    | instructions | ratio to mio |");
    println!("| ------------------: | --------- | -----------: | -----------: |");
}

pub(crate) fn instructions_rows(case: Case, contenders: &[Contender], counted: &[f64]) {
    for (contender, count) in contenders.iter().zip(counted) {
        println!("| {:>19} | {:<9} | {:>12.0} | {:>12.2} |", label(case), contender.name(), count, count / counted[0]);
    }
}

fn label(case: Case) -> String {
    format!("{} × {}", case.connections, case.depth)
}
