//! The chart: for each work a row of small charts for each figure, a column for each maker, with equal axes within a row.
//! Connections are across, and all axes are logarithmic. Colours are models, and each line has its name where the line
//! ends. The SVG is written by hand, because it is lines and text. The chart brings a light and a dark background of
//! its own. Each dot has a title, for a reader who opens the file by itself.

use std::fmt::{Arguments, Write};

use crate::cell::{Figures, Outcome};
use crate::contestants::{Contestant, Maker, Model};
use crate::report::{FIGURES, Figure, Table, Unit};

/// The drawing's own units; the viewer scales them.
const WIDTH: f64 = 980.0;
const LEFT: f64 = 68.0;
const PANEL_WIDTH: f64 = 240.0;
const PANEL_HEIGHT: f64 = 112.0;
/// Distance between panels. The names of lines stand in between.
const RIGHTWARDS: f64 = 305.0;
const DOWNWARDS: f64 = 168.0;
/// Distance to the heading of the first work.
const TOP: f64 = 92.0;
/// Height of the heading of a work.
const HEAD: f64 = 70.0;
const NOTE_HEIGHT: f64 = 18.0;
/// Characters of a note that fit.
const NOTE_LENGTH: usize = 135;
/// Distance between the names of two lines that end at one height.
const NAME_HEIGHT: f64 = 12.0;

const STYLE: &str = "\
.ground{fill:#fff;stroke:#d0d7de}text{font:13px system-ui,-apple-system,sans-serif;fill:#24292f}.title{font-size:20px;\
font-weight:600}.head{font-size:17px;font-weight:600}.maker{font-weight:600}.dim{fill:#57606a}\
.small,tspan{font-size:12px;font-weight:400}.grid{stroke:#e4e8ec}\
.axis{stroke:#8c959f}.line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round}\
.tail{stroke-width:1.4;stroke-dasharray:4 3}.cross{fill:none;stroke:var(--c);stroke-width:2}.dot{fill:var(--c)}\
.name{font-size:11.5px;fill:var(--c)}\
.m0{--c:#c2410c}.m1{--c:#a16207}.m2{--c:#a21caf}.m3{--c:#1d4ed8}.m4{--c:#047857}.m5{--c:#0e7490}\
@media(prefers-color-scheme:dark){.ground{fill:#0d1117;stroke:#30363d}text{fill:#e6edf3}.dim{fill:#9198a1}\
.name{fill:var(--c)}.grid{stroke:#262c34}.axis{stroke:#6e7681}\
.m0{--c:#fb8f5e}.m1{--c:#e3b341}.m2{--c:#e38bf0}.m3{--c:#6cb0ff}.m4{--c:#3fd69b}.m5{--c:#56d4dd}}";

/// Columns, with a caption each.
const MAKERS: [(Maker, &str, &str); 3] = [
    (Maker::Glowplug, "glowplug", "one handler, each model"),
    (Maker::Bare, "bare", "blocking calls in Rust"),
    (Maker::Python, "Python 3", "its own library"),
];

/// A row of panels: a figure, and a dashed second figure.
struct Row {
    title: &'static str,
    figure: &'static Figure,
    tail: Option<&'static Figure>,
}

const ROWS: [Row; 4] = [
    Row { title: "Requests per second", figure: &FIGURES[0], tail: None },
    Row { title: "Latency, p50; dashed, p99", figure: &FIGURES[1], tail: Some(&FIGURES[2]) },
    Row { title: "CPU time of the server for a request", figure: &FIGURES[3], tail: None },
    Row { title: "Memory of the server", figure: &FIGURES[4], tail: None },
];

pub(crate) fn svg(tables: &[Table], machine: &str) -> String {
    let notes = notes(tables);
    let of_work = HEAD + DOWNWARDS * ROWS.len() as f64;
    let bottom = TOP + of_work * tables.len() as f64;
    let height = bottom + NOTE_HEIGHT * notes.len() as f64 + 4.0;
    let mut out = Drawing::default();
    out.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"One echo service under every model of concurrency, by connections\"><style>{STYLE}</style>"
    ));
    let (w, h) = (WIDTH - 1.0, height - 1.0);
    out.add(format_args!("<rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{w}\" height=\"{h}\" rx=\"8\"/>"));
    out.text(
        "title",
        24.0,
        36.0,
        "start",
        "One echo service, every model, from 1 connection to 5,000 (all axes logarithmic)",
    );
    out.text("dim", 24.0, 58.0, "start", machine);
    for (table, top) in tables.iter().zip((0..).map(|work| TOP + of_work * f64::from(work))) {
        let (head, rest) = table.work.title().split_once(": ").unwrap_or((table.work.title(), ""));
        let rest = format!("<tspan class=\"dim\" dx=\"10\">{}</tspan>", escaped(rest));
        out.add(format_args!("<text class=\"head\" x=\"24\" y=\"{top}\">{}{rest}</text>", escaped(head)));
        for (&(maker, name, rest), left) in MAKERS.iter().zip((0..).map(|at| LEFT + RIGHTWARDS * f64::from(at))) {
            let (y, rest) = (top + 30.0, format!("<tspan class=\"dim\" dx=\"8\">{rest}</tspan>"));
            out.add(format_args!("<text class=\"maker\" x=\"{left}\" y=\"{y}\">{name}{rest}</text>"));
            for (row, top) in ROWS.iter().zip((0..).map(|at| top + HEAD + DOWNWARDS * f64::from(at))) {
                Panel { table, row, maker, span: Span::of(table, row), left, top }.draw(&mut out);
            }
        }
    }
    for (note, at) in notes.iter().zip(0..) {
        out.text("dim small", 24.0, bottom - 10.0 + NOTE_HEIGHT * f64::from(at), "start", note);
    }
    out.0.push_str("</svg>\n");
    out.0
}

/// Lines of a drawing.
#[derive(Default)]
struct Drawing(String);

impl Drawing {
    fn add(&mut self, line: Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        self.add(format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The class of the model's colour.
fn class(model: Model) -> String {
    format!("m{}", Model::ALL.iter().position(|&one| one == model).unwrap_or(0))
}

/// A name that fits beside a line.
fn short_name(model: Model) -> &'static str {
    match model {
        Model::Processes => "process",
        Model::Threads => "thread",
        Model::Select => "select",
        Model::Epoll => "epoll",
        Model::TwoLoops => "2 loops",
        Model::Sequential => "async",
    }
}

/// The ends of an axis, in powers of ten.
#[derive(Clone, Copy)]
struct Span {
    low: f64,
    high: f64,
}

impl Span {
    /// Wide enough for all makers, so that a reader can compare them.
    fn of(table: &Table, row: &Row) -> Span {
        let outcomes = table.rows.iter().flat_map(|(_, outcomes)| outcomes).filter_map(Outcome::figures);
        let read = |figures| std::iter::once(row.figure).chain(row.tail).map(move |figure| (figure.read)(figures));
        let values = outcomes.flat_map(read).filter(|value| *value > 0.0);
        let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), v| (low.min(v), high.max(v)));
        if low > high {
            return Span { low: 0.0, high: 1.0 };
        }
        let low = steps(low.log10()).rfind(|step| step.log10() <= low.log10()).unwrap_or(low);
        let high = steps(high.log10()).find(|step| step.log10() >= high.log10()).unwrap_or(high);
        Span { low: low.log10(), high: high.log10().max(low.log10() + 0.3) }
    }

    /// Values with a line across: each power of ten, and values in between where powers of ten are few.
    fn ticks(self) -> impl Iterator<Item = f64> {
        let all = (self.low.floor() as i32 - 1..=self.high.ceil() as i32).flat_map(|power| steps(f64::from(power)));
        let fine = self.high - self.low < 2.1;
        let inside = move |step: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&step.log10());
        let mut ticks: Vec<f64> = all.filter(inside).filter(|step| fine || step.log10().fract().abs() < 1e-9).collect();
        ticks.dedup();
        ticks.into_iter()
    }
}

/// 1, 2, 5 and 10 times the highest power of ten that is at most `power`.
fn steps(power: f64) -> impl DoubleEndedIterator<Item = f64> {
    let ten = 10f64.powi(power.floor() as i32);
    [1.0, 2.0, 5.0, 10.0].into_iter().map(move |times| times * ten)
}

struct Panel<'a> {
    table: &'a Table,
    row: &'a Row,
    maker: Maker,
    span: Span,
    left: f64,
    top: f64,
}

impl Panel<'_> {
    fn x(&self, connections: usize) -> f64 {
        let log = |n: Option<&usize>| (*n.unwrap_or(&1) as f64).log10();
        let (low, high) = (log(self.table.connections.iter().min()), log(self.table.connections.iter().max()));
        // Air on both sides, so that dots are not cut.
        let share = if high > low { ((connections as f64).log10() - low) / (high - low) } else { 0.5 };
        self.left + 12.0 + share * (PANEL_WIDTH - 24.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL_HEIGHT * (1.0 - (value.log10() - self.span.low) / (self.span.high - self.span.low))
    }

    fn draw(&self, out: &mut Drawing) {
        let (right, bottom) = (self.left + PANEL_WIDTH, self.top + PANEL_HEIGHT);
        // The first panel names the figure for its row.
        let is_first = self.maker == MAKERS[0].0;
        if is_first {
            out.text("", self.left, self.top - 12.0, "start", self.row.title);
        }
        for tick in self.span.ticks() {
            let y = self.y(tick);
            out.line("grid", [self.left, y, right, y]);
            if is_first {
                out.text("dim small", self.left - 8.0, y + 4.0, "end", &label(tick, self.row.figure.unit));
            }
        }
        out.line("axis", [self.left, bottom, right, bottom]);
        for &connections in &self.table.connections {
            let x = self.x(connections);
            out.line("axis", [x, bottom, x, bottom + 4.0]);
            out.text("dim small", x, bottom + 18.0, "middle", &label(connections as f64, Unit::Count));
        }
        // The columns of all rows are alike, so the last row names the axis for all of them.
        if self.row.title == ROWS[ROWS.len() - 1].title {
            out.text("dim small", (self.left + right) / 2.0, bottom + 32.0, "middle", "connections at once");
        }
        let mut ends = Vec::new();
        for (contestant, outcomes) in self.table.rows.iter().filter(|(contestant, _)| contestant.maker == self.maker) {
            if let Some(tail) = self.row.tail {
                self.line(out, &format!("tail {}", class(contestant.model)), &self.points(outcomes, tail));
            }
            ends.extend(self.curve(out, contestant, outcomes).map(|end| (end, contestant.model)));
        }
        self.names(out, ends);
    }

    /// The place of a figure, for each number of connections.
    fn points(&self, outcomes: &[Outcome], figure: &Figure) -> Vec<Option<(f64, f64, f64)>> {
        let at = |connections: usize, figures: &Figures| {
            let value = (figure.read)(figures);
            (value > 0.0).then(|| (self.x(connections), self.y(value), value))
        };
        let all = self.table.connections.iter().zip(outcomes);
        all.map(|(&n, outcome)| outcome.figures().and_then(|figures| at(n, figures))).collect()
    }

    fn line(&self, out: &mut Drawing, class: &str, points: &[Option<(f64, f64, f64)>]) {
        for stretch in points.split(Option::is_none) {
            let path: Vec<String> = stretch.iter().flatten().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
            if path.len() > 1 {
                out.add(format_args!("<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" ")));
            }
        }
    }

    /// Draws a line and its dots. Returns the end of the line.
    fn curve(&self, out: &mut Drawing, contestant: &Contestant, outcomes: &[Outcome]) -> Option<(f64, f64)> {
        let class = class(contestant.model);
        let points = self.points(outcomes, self.row.figure);
        self.line(out, &class, &points);
        let all = || self.table.connections.iter().zip(outcomes).zip(&points);
        let mut end = None;
        for ((&connections, outcome), point) in all() {
            if let &Some((x, y, value)) = point {
                let (name, value) = (escaped(&contestant.name()), label(value, self.row.figure.unit));
                out.add(format_args!(
                    "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{name}, {connections} \
                     connections: {value}</title></circle>"
                ));
                end = Some((x, y));
            } else if let Outcome::Cannot(_) = outcome {
                // The contestant cannot go on: a cross at the last height.
                let (x, y) = (self.x(connections), end.map_or(self.top + PANEL_HEIGHT - 8.0, |end| end.1));
                let [l, r, t, b] = [x - 4.5, x + 4.5, y - 4.5, y + 4.5];
                out.add(format_args!(
                    "<path class=\"cross {class}\" d=\"M{l:.1} {t:.1}L{r:.1} {b:.1}M{l:.1} {b:.1}L{r:.1} {t:.1}\"/>"
                ));
                end = Some((x, y));
            }
        }
        end
    }

    /// Writes each line's name beside its end, with names apart where ends are close.
    fn names(&self, out: &mut Drawing, mut ends: Vec<((f64, f64), Model)>) {
        ends.sort_by(|((_, one), _), ((_, other), _)| one.total_cmp(other));
        let mut heights: Vec<f64> = ends.iter().map(|((_, y), _)| *y).collect();
        for at in 1..heights.len() {
            heights[at] = heights[at].max(heights[at - 1] + NAME_HEIGHT);
        }
        // Up again, where names have moved below the panel.
        let lowest = self.top + PANEL_HEIGHT;
        for (at, height) in heights.iter_mut().rev().zip(0..).map(|(height, at)| (f64::from(at), height)) {
            *height = height.min(lowest - at * NAME_HEIGHT);
        }
        for (((x, _), model), y) in ends.into_iter().zip(heights) {
            out.text(&format!("name {}", class(model)), x + 8.0, y + 4.0, "start", short_name(model));
        }
    }
}

/// Three digits at most, and a unit that fits.
fn label(value: f64, unit: Unit) -> String {
    let (units, step): (&[&str], f64) = match unit {
        Unit::Count => (&["", "k", "M"], 1e3),
        Unit::Micros => (&[" µs", " ms", " s"], 1e3),
        Unit::Mebibytes => (&[" MiB", "k MiB"], 1e3),
    };
    let (mut value, mut at) = (value, 0);
    while value >= step && at + 1 < units.len() {
        (value, at) = (value / step, at + 1);
    }
    let digits = if value >= 100.0 || value.fract() < 1e-9 { 0 } else { 1 + usize::from(value < 1.0) };
    format!("{value:.digits$}{}", units[at])
}

/// Notes below the chart: failures with their reasons, and contestants that are not installed.
fn notes(tables: &[Table]) -> Vec<String> {
    let (mut notes, mut absent) = (Vec::new(), Vec::new());
    for table in tables {
        for (contestant, outcomes) in &table.rows {
            for (connections, outcome) in table.connections.iter().zip(outcomes) {
                match outcome {
                    Outcome::Measured(_) => {}
                    Outcome::Cannot(why) => {
                        let work = table.work.name();
                        notes.push(format!("× {}, {work}, {connections} connections: {why}", contestant.name()));
                    }
                    Outcome::Absent(_) => absent.push(contestant.name()),
                }
            }
        }
    }
    absent.dedup();
    absent.sort();
    absent.dedup();
    if !absent.is_empty() {
        notes.push(format!("Not there: {}.", absent.join("; ")));
    }
    for note in &mut notes {
        if note.chars().count() > NOTE_LENGTH {
            *note = note.chars().take(NOTE_LENGTH - 1).chain(['…']).collect();
        }
    }
    notes
}
