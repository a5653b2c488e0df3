//! The output: a Markdown table for each figure, models down and connections across. Remarks that do not fit into a
//! table stand below it.

use crate::cell::{Figures, Outcome};
use crate::contestants::{Contestant, Python};
use crate::rig::Rig;
use crate::{Options, SIZE, Work};

/// The result of one work: a row for each contestant, an outcome for each number of connections.
pub(crate) struct Table {
    pub(crate) work: Work,
    pub(crate) connections: Vec<usize>,
    pub(crate) rows: Vec<(&'static Contestant, Vec<Outcome>)>,
}

/// A figure of a cell.
pub(crate) struct Figure {
    pub(crate) title: &'static str,
    pub(crate) read: fn(&Figures) -> f64,
    pub(crate) unit: Unit,
    /// Digits behind the point, in tables.
    digits: usize,
}

#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Count,
    Micros,
    Mebibytes,
}

const fn figure(title: &'static str, read: fn(&Figures) -> f64, unit: Unit, digits: usize) -> Figure {
    Figure { title, read, unit, digits }
}

pub(crate) const FIGURES: [Figure; 5] = [
    figure("Requests a second", |figures| figures.per_second, Unit::Count, 0),
    figure("Latency, p50", |figures| figures.p50_us, Unit::Micros, 0),
    figure("Latency, p99", |figures| figures.p99_us, Unit::Micros, 0),
    figure("CPU time of the server for a request", |figures| figures.cpu_us, Unit::Micros, 1),
    figure("Memory of the server", |figures| figures.memory_mib, Unit::Mebibytes, 1),
];

pub(crate) fn conditions(options: &Options, rig: &Rig, python: Option<&Python>) {
    let (rounds, seconds) = (options.shared.rounds, options.shared.seconds);
    println!(
        "One echo service of {SIZE} bytes, every model, on loopback: {rounds} slices of {seconds} s in each cell."
    );
    rig.conditions();
    match python {
        Some(python) => println!("Python is {}.", python.version),
        None => println!("Python is not installed: its rows say so."),
    }
}

/// How, where and when the figures were measured, in a line.
pub(crate) fn machine(options: &Options, rig: &Rig) -> String {
    let seconds = options.shared.seconds;
    format!("{SIZE} bytes there and back. {}, slices of {seconds} s", rig.machine())
}

impl Table {
    pub(crate) fn print(&self) {
        println!("\n## {}", self.work.title());
        // Each remark once, by its number.
        let mut remarks: Vec<String> = Vec::new();
        let mut number = |remark: String| {
            remarks.iter().position(|known| *known == remark).unwrap_or_else(|| {
                remarks.push(remark);
                remarks.len() - 1
            }) + 1
        };
        let of_row = |outcomes: &Vec<Outcome>| outcomes.iter().map(|o| o.remark().map(&mut number)).collect::<Vec<_>>();
        let marks: Vec<_> = self.rows.iter().map(|(_, outcomes)| outcomes).map(of_row).collect();
        for Figure { title, read, unit, digits } in &FIGURES {
            let unit = match unit {
                Unit::Count => "",
                Unit::Micros => ", µs",
                Unit::Mebibytes => ", MiB",
            };
            println!("\n{title}{unit}, by connections:\n");
            let columns: Vec<String> = self.connections.iter().map(ToString::to_string).collect();
            println!("| {:<24} | {} |", "", columns.iter().map(|c| format!("{c:>13}")).collect::<Vec<_>>().join(" | "));
            println!("| {} |{}", "-".repeat(24), " ------------: |".repeat(columns.len()));
            for ((contestant, outcomes), marks) in self.rows.iter().zip(&marks) {
                let cells = outcomes.iter().zip(marks).map(|(outcome, mark)| {
                    let mark = mark.map_or(String::new(), |mark| format!(" ({mark})"));
                    let text = match outcome {
                        Outcome::Measured(figures) => format!("{:.digits$}", read(figures), digits = *digits),
                        Outcome::Cannot(_) => "cannot".to_owned(),
                        Outcome::Absent(_) => "not there".to_owned(),
                    };
                    format!("{:>13}", text + &mark)
                });
                println!("| {:<24} | {} |", contestant.name(), cells.collect::<Vec<_>>().join(" | "));
            }
        }
        if !remarks.is_empty() {
            println!();
        }
        for (number, remark) in (1..).zip(&remarks) {
            println!("({number}) {remark}");
        }
    }
}
