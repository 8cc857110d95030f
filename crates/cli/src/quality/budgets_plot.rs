//! What calls lost over what the engine had said, as an SVG, both on logarithmic axes: below the diagonal the engine kept its
//! word, below a budget's line the caller got what was asked for.

use std::fmt::Write;

use super::budgets::Report;
use super::svg;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 760.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 132.0;
const BOTTOM: f64 = 80.0;
/// Budgets in a line of the legend.
const IN_LINE: usize = 4;

/// Of budgets in their order, told apart by the colour-blind, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#555555"];

/// Powers of ten that both axes reach from and to.
struct Axes {
    from: i32,
    to: i32,
}

impl Axes {
    fn of(report: &Report) -> Self {
        let figures =
            report.pairs.iter().flat_map(|pair| [pair.estimated, pair.kl_mean, f64::from(pair.budget)]);
        let figures: Vec<f64> = figures.filter(|figure| *figure > 0.0).collect();
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(0.0, f64::max);
        if most <= 0.0 {
            return Self { from: -6, to: -2 };
        }
        let from = least.log10().floor() as i32;
        Self { from, to: (most.log10().ceil() as i32).max(from + 1) }
    }

    fn share(&self, figure: f64) -> f64 {
        let (from, to) = (f64::from(self.from), f64::from(self.to));
        (figure.max(10f64.powi(self.from)).log10() - from) / (to - from)
    }

    fn x(&self, figure: f64) -> f64 {
        LEFT + self.share(figure) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, figure: f64) -> f64 {
        HEIGHT - BOTTOM - self.share(figure) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws every call.
pub fn draw(report: &Report) -> String {
    let axes = Axes::of(report);
    let prefix = if report.is_held_out() { "held-out prefix" } else { "prefix" };
    let subtitle = format!(
        "{}: {} calls, each an adapter on a {prefix}; budgets in nats, and how often they were kept",
        report.model,
        report.pairs.len()
    );
    let mut svg = svg::begin([WIDTH, HEIGHT], LEFT, "Drift: estimated and measured", &subtitle);
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for power in axes.from..=axes.to {
        let (x, y) = (axes.x(10f64.powi(power)), axes.y(10f64.powi(power)));
        let label = svg::power_of_ten(power);
        // Writing to a String does not fail.
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {y:.1}H{right}M{x:.1} {TOP}V{bottom}" stroke="#e3e3e3"/><text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text><text x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"##,
            LEFT - 10.0,
            y + 4.0,
            bottom + 20.0
        );
    }
    let _ = writeln!(
        svg,
        r##"<path d="M{LEFT} {bottom}L{right} {TOP}" stroke="#999" stroke-dasharray="2 4"/>
<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="#999" fill="none"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#444">what the engine said a call would lose at most, nats</text>
<text transform="translate(28 {:.1}) rotate(-90)" text-anchor="middle" fill="#444">what it lost: KL divergence from its own exact cache, nats</text>"##,
        (LEFT + right) / 2.0,
        bottom + 46.0,
        (TOP + bottom) / 2.0
    );
    points(&mut svg, &axes, report);
    svg.push_str("</svg>\n");
    svg
}

/// A colour, a line and a legend's entry for each budget, and a point for each of its calls.
fn points(svg: &mut String, axes: &Axes, report: &Report) {
    let mut budgets: Vec<f32> =
        report.pairs.iter().map(|pair| pair.budget).filter(|budget| *budget > 0.0).collect();
    budgets.sort_by(f32::total_cmp);
    budgets.dedup();
    for (i, (budget, colour)) in budgets.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let (left, top) = (LEFT + 172.0 * (i % IN_LINE) as f64, 84.0 + 20.0 * (i / IN_LINE) as f64);
        let y = axes.y(f64::from(*budget));
        let calls = || report.pairs.iter().filter(|pair| pair.budget == *budget);
        let kept = calls().filter(|pair| pair.kl_mean <= f64::from(*budget)).count();
        let share = 100.0 * kept as f64 / calls().count().max(1) as f64;
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {y:.1}H{:.1}" stroke="{colour}" stroke-dasharray="6 4"/><circle cx="{:.1}" cy="{:.1}" r="5" fill="{colour}"/><text x="{:.1}" y="{:.1}">{budget:.0e}: {share:.1} % kept</text>"##,
            WIDTH - RIGHT,
            left + 5.0,
            top - 4.0,
            left + 16.0,
            top
        );
        for pair in calls() {
            let _ = writeln!(
                svg,
                r##"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}" fill-opacity="0.6"/>"##,
                axes.x(pair.estimated),
                axes.y(pair.kl_mean)
            );
        }
    }
}
