//! The same as a picture: a small chart for each work and figure, connections across, all axes logarithmic; colours are
//! models, strokes are makers. Written by hand, because it is lines and text. It brings its own ground, a light and a dark
//! one, and a title on each dot for who opens it by itself.

use std::fmt::{Arguments, Write};

use crate::cell::{Figures, Outcome};
use crate::contestants::{Contestant, Maker, Model};
use crate::report::{FIGURES, Figure, Table, Unit};

/// The drawing's own units; the viewer scales them.
const WIDTH: f64 = 980.0;
const LEFT: f64 = 78.0;
const PANEL_WIDTH: f64 = 372.0;
const PANEL_HEIGHT: f64 = 142.0;
/// From one panel to the next.
const RIGHTWARDS: f64 = 470.0;
const DOWNWARDS: f64 = 206.0;
const TOP: f64 = 182.0;
const NOTE_HEIGHT: f64 = 18.0;
/// Characters of a note that fit.
const NOTE_LENGTH: usize = 135;

const STYLE: &str = "\
.ground{fill:#fff;stroke:#d0d7de}text{font:13px system-ui,-apple-system,sans-serif;fill:#24292f}.title{font-size:20px;\
font-weight:600}.head{font-size:15px;font-weight:600}.dim{fill:#57606a}.small,tspan{font-size:12px;font-weight:400}.grid{stroke:#e4e8ec}\
.axis{stroke:#8c959f}.line{fill:none;stroke-width:2.2;stroke-linejoin:round}.bare{stroke-dasharray:2 3.5}\
.python{stroke-dasharray:8 4}.cross{stroke-width:2}\
.m0{--c:#c2410c}.m1{--c:#a16207}.m2{--c:#a21caf}.m3{--c:#1d4ed8}.m4{--c:#047857}\
.line,.cross{stroke:var(--c)}.dot{fill:var(--c)}.dot.bare,.dot.python{fill:#fff;stroke:var(--c);stroke-width:1.6;\
stroke-dasharray:none}\
@media(prefers-color-scheme:dark){.ground{fill:#0d1117;stroke:#30363d}text{fill:#e6edf3}.dim{fill:#9198a1}\
.grid{stroke:#262c34}.axis{stroke:#6e7681}.m0{--c:#fb8f5e}.m1{--c:#e3b341}.m2{--c:#e38bf0}.m3{--c:#6cb0ff}.m4{--c:#3fd69b}\
.dot.bare,.dot.python{fill:#0d1117}}";

pub(crate) fn svg(tables: &[Table], machine: &str) -> String {
    let notes = notes(tables);
    let bottom = TOP + DOWNWARDS * FIGURES.len() as f64;
    let height = bottom + NOTE_HEIGHT * notes.len() as f64;
    let mut out = Drawing::default();
    out.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"One echo service under every model of concurrency, by connections\"><style>{STYLE}</style>"
    ));
    let (w, h) = (WIDTH - 1.0, height - 1.0);
    out.add(format_args!("<rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{w}\" height=\"{h}\" rx=\"8\"/>"));
    out.text("title", 24.0, 36.0, "start", "One echo service, every model");
    out.text("dim", 24.0, 58.0, "start", machine);
    legend(&mut out);
    for (column, table) in tables.iter().enumerate() {
        let left = LEFT + RIGHTWARDS * column as f64;
        let (head, rest) = table.work.title().split_once(": ").unwrap_or((table.work.title(), ""));
        let (y, rest) = (TOP - 40.0, format!("<tspan class=\"dim\" dx=\"10\">{}</tspan>", escaped(rest)));
        out.add(format_args!("<text class=\"head\" x=\"{left}\" y=\"{y}\">{}{rest}</text>", escaped(head)));
        for (row, figure) in FIGURES.iter().enumerate() {
            let span = Span::of(table, figure);
            Panel { table, figure, span, left, top: TOP + DOWNWARDS * row as f64 }.draw(&mut out);
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

/// Colour and stroke.
fn classes(model: Model, maker: Maker) -> String {
    let colour = Model::ALL.iter().position(|&m| m == model).unwrap_or(0);
    format!("m{colour} {}", maker.name().to_lowercase())
}

fn legend(out: &mut Drawing) {
    let mut x = 24.0;
    for model in Model::ALL {
        out.line(&format!("line {}", classes(model, Maker::Glowplug)), [x, 84.0, x + 26.0, 84.0]);
        out.text("", x + 34.0, 88.5, "start", model.name());
        x += 34.0 + 7.2 * model.name().len() as f64 + 26.0;
    }
    let mut x = 24.0;
    let of =
        [(Maker::Glowplug, "glowplug"), (Maker::Bare, "bare: blocking calls in Rust"), (Maker::Python, "Python 3")];
    for (maker, label) in of {
        let class = classes(Model::Epoll, maker);
        out.add(format_args!("<path class=\"line {class}\" style=\"--c:#848d97\" d=\"M{x} 108h44\"/>"));
        out.add(format_args!(
            "<circle class=\"dot {class}\" style=\"--c:#848d97\" cx=\"{}\" cy=\"108\" r=\"3.5\"/>",
            x + 22.0
        ));
        out.text("", x + 52.0, 112.5, "start", label);
        x += 52.0 + 7.2 * label.len() as f64 + 26.0;
    }
    out.text("dim small", x, 112.5, "start", "× cannot do it, for the reason below");
}

/// From where to where an axis goes, in powers of ten.
#[derive(Clone, Copy)]
struct Span {
    low: f64,
    high: f64,
}

impl Span {
    fn of(table: &Table, figure: &Figure) -> Span {
        let outcomes = table.rows.iter().flat_map(|(_, outcomes)| outcomes);
        let values = outcomes.filter_map(Outcome::figures).map(figure.read).filter(|value| *value > 0.0);
        let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), v| (low.min(v), high.max(v)));
        if low > high {
            return Span { low: 0.0, high: 1.0 };
        }
        let low = steps(low.log10()).rfind(|step| step.log10() <= low.log10()).unwrap_or(low);
        let high = steps(high.log10()).find(|step| step.log10() >= high.log10()).unwrap_or(high);
        Span { low: low.log10(), high: high.log10().max(low.log10() + 0.3) }
    }

    /// Where lines go across: at each power of ten, and between them where there are few.
    fn ticks(self) -> impl Iterator<Item = f64> {
        let all = (self.low.floor() as i32 - 1..=self.high.ceil() as i32).flat_map(|power| steps(f64::from(power)));
        let fine = self.high - self.low < 2.1;
        let inside = move |step: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&step.log10());
        let mut ticks: Vec<f64> = all.filter(inside).filter(|step| fine || step.log10().fract().abs() < 1e-9).collect();
        ticks.dedup();
        ticks.into_iter()
    }
}

/// 1, 2 and 5 and 10 times the power of ten that is not above this one.
fn steps(power: f64) -> impl DoubleEndedIterator<Item = f64> {
    let ten = 10f64.powi(power.floor() as i32);
    [1.0, 2.0, 5.0, 10.0].into_iter().map(move |times| times * ten)
}

struct Panel<'a> {
    table: &'a Table,
    figure: &'a Figure,
    span: Span,
    left: f64,
    top: f64,
}

impl Panel<'_> {
    fn x(&self, connections: usize) -> f64 {
        let log = |n: Option<&usize>| (*n.unwrap_or(&1) as f64).log10();
        let (low, high) = (log(self.table.connections.iter().min()), log(self.table.connections.iter().max()));
        // Some air on both sides, so that dots are not cut.
        let share = if high > low { ((connections as f64).log10() - low) / (high - low) } else { 0.5 };
        self.left + 12.0 + share * (PANEL_WIDTH - 24.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL_HEIGHT * (1.0 - (value.log10() - self.span.low) / (self.span.high - self.span.low))
    }

    fn draw(&self, out: &mut Drawing) {
        let (right, bottom) = (self.left + PANEL_WIDTH, self.top + PANEL_HEIGHT);
        out.text("", self.left, self.top - 12.0, "start", self.figure.title);
        for tick in self.span.ticks() {
            let y = self.y(tick);
            out.line("grid", [self.left, y, right, y]);
            out.text("dim small", self.left - 8.0, y + 4.0, "end", &label(tick, self.figure.unit));
        }
        out.line("axis", [self.left, bottom, right, bottom]);
        for &connections in &self.table.connections {
            let x = self.x(connections);
            out.line("axis", [x, bottom, x, bottom + 4.0]);
            out.text("dim small", x, bottom + 18.0, "middle", &label(connections as f64, Unit::Count));
        }
        // Glowplug's last, above the others.
        for maker in [Maker::Python, Maker::Bare, Maker::Glowplug] {
            for (contestant, outcomes) in self.table.rows.iter().filter(|(contestant, _)| contestant.maker == maker) {
                self.curve(out, contestant, outcomes);
            }
        }
    }

    fn curve(&self, out: &mut Drawing, contestant: &Contestant, outcomes: &[Outcome]) {
        let class = classes(contestant.model, contestant.maker);
        let at = |connections: usize, figures: &Figures| {
            let value = (self.figure.read)(figures);
            (value > 0.0).then(|| (self.x(connections), self.y(value), connections, value))
        };
        let all = self.table.connections.iter().zip(outcomes);
        let points: Vec<_> = all.clone().map(|(&n, outcome)| outcome.figures().and_then(|f| at(n, f))).collect();
        for stretch in points.split(Option::is_none) {
            let path: Vec<String> = stretch.iter().flatten().map(|(x, y, ..)| format!("{x:.1},{y:.1}")).collect();
            if path.len() > 1 {
                out.add(format_args!("<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" ")));
            }
        }
        for (x, y, connections, value) in points.iter().flatten() {
            let (name, value) = (escaped(&contestant.name()), label(*value, self.figure.unit));
            out.add(format_args!(
                "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"><title>{name}, {connections} \
                 connections: {value}</title></circle>"
            ));
        }
        // Where it cannot go on, as high as it was last.
        let mut height = None;
        for ((&connections, outcome), point) in all.zip(&points) {
            height = point.as_ref().map(|point| point.1).or(height);
            if let Outcome::Cannot(_) = outcome {
                let (x, y) = (self.x(connections), height.unwrap_or(self.top + PANEL_HEIGHT - 8.0));
                let colour = classes(contestant.model, Maker::Glowplug);
                let [l, r, t, b] = [x - 4.5, x + 4.5, y - 4.5, y + 4.5];
                out.add(format_args!(
                    "<path class=\"cross {colour}\" d=\"M{l:.1} {t:.1}L{r:.1} {b:.1}M{l:.1} {b:.1}L{r:.1} {t:.1}\"/>"
                ));
            }
        }
    }
}

/// Three digits at most, and a unit that fits.
fn label(value: f64, unit: Unit) -> String {
    let (units, step): (&[&str], f64) = match unit {
        Unit::Count => (&["", "k", "M"], 1e3),
        Unit::Micros => (&[" µs", " ms", " s"], 1e3),
        Unit::Mebibytes => (&[" MiB"], 1024.0),
    };
    let (mut value, mut at) = (value, 0);
    while value >= step && at + 1 < units.len() {
        (value, at) = (value / step, at + 1);
    }
    let digits = if value >= 100.0 || value.fract() < 1e-9 { 0 } else { 1 + usize::from(value < 1.0) };
    format!("{value:.digits$}{}", units[at])
}

/// What could not be done, and why; and what was not there.
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
