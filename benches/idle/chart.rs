//! The chart: CPU time of a request over idle connections, with a line for each backend and each number of active
//! connections. The SVG is written by hand, because it is a few lines of text. The chart brings a light and a dark
//! background of its own, because a page does not tell an image which background the page has.

use std::fmt::Write;

use crate::Backend;
use crate::measure::Measured;
use crate::rig::figures::median;

/// A line of the chart: idle connections and nanoseconds.
pub(crate) struct Line {
    label: String,
    backend: Backend,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn of(active: usize, backend: Backend, measured: &[Measured]) -> Line {
        let points = measured.iter().map(|m| (m.idle as f64, median(&m.timed.cpu_nanos))).collect();
        Line { label: format!("{}, {active} active", backend.name()), backend, points }
    }
}

/// The drawing's own units; the viewer scales them.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 100.0;
const RIGHT: f64 = 604.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 352.0;
const LABEL_HEIGHT: f64 = 15.0;

const STYLE: &str = "\
.ground{fill:#fff;stroke:#d0d7de}text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:17px;font-weight:600}\
.dim{fill:#57606a}.axis{stroke:#8c959f}.grid{stroke:#e4e8ec}\
.line{fill:none;stroke-width:2.5}.epoll{stroke:#1565c0}.select{stroke:#c2410c}\
.dot.epoll{fill:#1565c0}.dot.select{fill:#c2410c}\
@media(prefers-color-scheme:dark){.ground{fill:#0d1117;stroke:#30363d}text{fill:#e6edf3}.dim{fill:#9198a1}\
.axis{stroke:#6e7681}.grid{stroke:#262c34}.epoll{stroke:#64b5f6}.select{stroke:#fb923c}\
.dot.epoll{fill:#64b5f6}.dot.select{fill:#fb923c}}";

/// Draws the chart. `machine` says where and when the figures were measured. The vertical axis is logarithmic: the cost of
/// `select` would otherwise flatten the other lines.
pub(crate) fn svg(lines: &[Line], machine: &str) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = points().map(|p| p.0).fold(1.0, f64::max);
    let decade = |nanos: f64| nanos.max(1.0).log10();
    let low = points().map(|p| decade(p.1)).fold(f64::INFINITY, f64::min).floor().min(3.0);
    let high = points().map(|p| decade(p.1)).fold(low + 1.0, f64::max).ceil();
    let x = |idle: f64| LEFT + idle / most * (RIGHT - LEFT);
    let y = |nanos: f64| BOTTOM - (decade(nanos) - low) / (high - low) * (BOTTOM - TOP);

    let mut out = String::new();
    let mut add = |text: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{text}");
    };
    add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"CPU time of an echo request over idle connections\"><style>{STYLE}</style>"
    ));
    let (w, h, middle) = (WIDTH - 1.0, HEIGHT - 1.0, (TOP + BOTTOM) / 2.0);
    add(format_args!("<rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{w}\" height=\"{h}\" rx=\"8\"/>"));
    add(format_args!(
        "<text class=\"title\" x=\"24\" y=\"32\">CPU time of an echo request beside idle connections</text>"
    ));
    add(format_args!("<text class=\"dim\" x=\"24\" y=\"54\">{machine}</text>"));
    add(format_args!(
        "<text class=\"dim\" transform=\"translate(28 {middle}) rotate(-90)\" text-anchor=\"middle\">CPU time per request \
         (logarithmic)</text>"
    ));
    add(format_args!(
        "<text class=\"dim\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">idle connections (linear)</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 46.0
    ));
    for exponent in low as i32..=high as i32 {
        let (nanos, at) = (10f64.powi(exponent), y(10f64.powi(exponent)));
        add(format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
        let (at, micros) = (at + 4.0, nanos / 1e3);
        let (value, unit) = if micros < 1e3 { (micros, "µs") } else { (micros / 1e3, "ms") };
        add(format_args!("<text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{value} {unit}</text>", LEFT - 8.0));
    }
    add(format_args!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>"));
    let mut counts: Vec<f64> = points().map(|p| p.0).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    for idle in counts {
        let at = x(idle);
        add(format_args!(
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 20.0,
            thousands(idle)
        ));
    }
    for Line { backend, points, .. } in lines {
        let name = backend.name();
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        add(format_args!("<polyline class=\"line {name}\" points=\"{}\"/>", path.join(" ")));
        for &(idle, nanos) in points {
            add(format_args!("<circle class=\"dot {name}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>", x(idle), y(nanos)));
        }
    }
    // From the lowest label upwards, each clear of the label below.
    let mut labels: Vec<_> = lines
        .iter()
        .filter_map(|line| line.points.last().map(|p| (y(p.1) + 4.0, x(p.0) + 10.0, &line.label)))
        .collect();
    labels.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut clear = f64::INFINITY;
    for (at_y, at_x, label) in labels {
        let at_y = at_y.min(clear);
        clear = at_y - LABEL_HEIGHT;
        add(format_args!("<text x=\"{at_x:.1}\" y=\"{at_y:.1}\">{label}</text>"));
    }
    out.push_str("</svg>\n");
    out
}

/// The number with a comma between thousands.
fn thousands(number: f64) -> String {
    let number = number as u64;
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}
