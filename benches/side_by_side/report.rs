//! The output: Markdown tables that read as plain text too. Each row is printed as soon as it is known.

use crate::contender::Contender;
use crate::rig::Rig;
use crate::rig::counts::Syscalls;
use crate::rig::figures::{median, quantile, unsigned, verdict};
use crate::rig::load::Load;
use crate::rig::rounds::Timed;
use crate::{Case, Options, Work};

pub(crate) fn conditions(options: &Options, rig: &Rig) {
    let names: Vec<&str> = options.contenders.iter().map(|c| c.name()).collect();
    println!(
        "{} side by side on loopback: {} rounds of {} s each.",
        names.join(", "),
        options.shared.rounds,
        options.shared.seconds
    );
    rig.conditions();
    if options.counts && !rig.tools.strace {
        println!("Without a working strace: system calls are not counted.");
    }
    if options.instructions && !rig.tools.valgrind {
        println!("Without valgrind: instructions are not counted.");
    }
}

pub(crate) fn time_head(options: &Options, work: Work) {
    match work {
        Work::Http => println!("\nHTTP, keep-alive, one fixed answer\n"),
        Work::Echo => println!("\nRaw echo of {} bytes\n", options.size),
        Work::Short => println!("\nHTTP, a connection for each request\n"),
    }
    println!(
        "| connections × depth | server     | CPU per request | {:>12} | p20–p80   | requests/s | p50 µs | p99 µs | verdict |",
        ratio_to(options)
    );
    println!(
        "| ------------------: | ---------- | --------------: | -----------: | --------- | ---------: | -----: | -----: | ------- |"
    );
}

pub(crate) fn time_rows(case: Case, contenders: &[Contender], timed: &[Timed], loads: &[Load]) -> Result<(), String> {
    for (contender, figures) in contenders.iter().zip(timed) {
        println!(
            "| {:>19} | {:<10} | {:>12.2} µs | {:>12.2} | {:.2}–{:.2} | {:>10.0} | {:>6.0} | {:>6.0} | {:<7} |",
            label(case),
            contender.name(),
            median(&figures.cpu_nanos) / 1e3,
            median(&figures.ratios),
            quantile(&figures.ratios, 0.2),
            quantile(&figures.ratios, 0.8),
            median(&figures.per_second),
            median(&figures.p50_us),
            median(&figures.p99_us),
            if *contender == contenders[0] { "" } else { verdict(&figures.ratios) }
        );
    }
    let expected = loads[0].ready.get("answer_bytes")?;
    for (contender, load) in contenders.iter().zip(loads) {
        let answered = load.ready.get("answer_bytes")?;
        if answered != expected {
            // On standard error, so that the table stays whole.
            eprintln!("note: {} answers {answered} bytes, {} {expected}", contender.name(), contenders[0].name());
        }
    }
    Ok(())
}

pub(crate) fn syscalls_head(options: &Options, work: Work) {
    println!("\nSystem calls per request, {}\n", work.name());
    println!(
        "| connections × depth | server     |   all | {:>12} | receive |  send |  wait | epoll_ctl | other | failed |",
        ratio_to(options)
    );
    println!(
        "| ------------------: | ---------- | ----: | -----------: | ------: | ----: | ----: | --------: | ----: | -----: |"
    );
}

pub(crate) fn syscalls_rows(case: Case, contenders: &[Contender], counted: &[Syscalls]) {
    for (contender, calls) in contenders.iter().zip(counted) {
        println!(
            "| {:>19} | {:<10} | {:>5.3} | {:>12.2} | {:>7.3} | {:>5.3} | {:>5.3} | {:>9.3} | {:>5.3} | {:>6.3} |",
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

pub(crate) fn instructions_head(options: &Options, work: Work) {
    println!("\nUser instructions per request, {}\n", work.name());
    println!("| connections × depth | server     | instructions | {:>12} |", ratio_to(options));
    println!("| ------------------: | ---------- | -----------: | -----------: |");
}

pub(crate) fn instructions_rows(case: Case, contenders: &[Contender], counted: &[f64]) {
    for (contender, count) in contenders.iter().zip(counted) {
        println!("| {:>19} | {:<10} | {:>12.0} | {:>12.2} |", label(case), contender.name(), count, count / counted[0]);
    }
}

fn ratio_to(options: &Options) -> String {
    format!("ratio to {}", options.base.name())
}

fn label(case: Case) -> String {
    format!("{} × {}", case.connections, case.depth)
}
