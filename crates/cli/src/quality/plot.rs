//! Divergence over bytes as an SVG, both on logarithmic axes: a series for each family of codecs, and the line that nothing
//! is below. Codecs that store nothing stand left of the axis' beginning. Text is in whatever sans-serif font the viewer has;
//! where names stand is in `labels`.

use std::fmt::Write;

use interleaf_calibrate::Family;

use super::labels::{self, Area};
use super::report::{Mean, Report};
use super::svg::{self, escaped};

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 142.0;
/// Between the column of those that store nothing and the logarithmic axis.
const GAP: f64 = 90.0;
/// The least divergence that is drawn, in nats: below it rounding of the model itself is what is seen.
const LEAST: f64 = 1e-8;

/// One colour for each of [`Family::ALL`], told apart in shades of grey and by the colour-blind, too (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#777777", "#000000", "#0072b2", "#cc79a7", "#a6761d", "#e69f00", "#56b4e9", "#009e73"];

/// Draws the means over adapters and settings.
pub fn draw(report: &Report) -> String {
    let points = report.means(None);
    let axes = Axes::of(&points);
    let subtitle = format!(
        "{}: {} tokens stored, then {} scored; means over {} and {}; on top of one base cache as {}",
        report.model,
        report.prefix_tokens,
        report.scored_tokens,
        count(report.adapters, "adapter"),
        count(report.settings().len(), "setting"),
        report.anchor,
    );
    let mut svg = svg::begin([WIDTH, HEIGHT], LEFT, "What storing an adapter's KV pages costs", &subtitle);
    axes.draw(&mut svg);
    frontier(&mut svg, &axes, &points);
    for (family, colour) in Family::ALL.into_iter().zip(COLOURS) {
        series(&mut svg, &axes, points.iter().filter(|point| point.codec.family() == family), colour);
    }
    names(&mut svg, &axes, &points);
    legend(&mut svg, &points);
    svg.push_str("</svg>\n");
    svg
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Marks of a logarithmic axis about a number: 1, 2 and 5 of its decade and of the next ones.
fn ticks(about: f64) -> impl Iterator<Item = f64> {
    let decade = about.log10().floor() as i32;
    (decade..=decade + 1).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power)))
}

/// From bytes and nats to places.
struct Axes {
    /// Where the logarithmic axis begins and ends.
    bytes: [f64; 2],
    /// Powers of ten.
    kl: [i32; 2],
}

impl Axes {
    fn of(points: &[Mean]) -> Self {
        let ends = |values: Vec<f64>, else_from: f64| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            if most > 0.0 { [least, most] } else { [else_from; 2] }
        };
        let [least, most] = ends(points.iter().map(|p| p.kl().max(LEAST)).collect(), LEAST);
        let from = least.log10().floor() as i32;
        let kl = [from, (most.log10().ceil() as i32).max(from + 1)];
        let [least, most] = ends(points.iter().map(|p| p.bytes).filter(|bytes| *bytes > 0.0).collect(), 1.0);
        let from = ticks(least).filter(|tick| *tick <= least).last().unwrap_or(least);
        let to = ticks(most).find(|tick| *tick >= most && *tick > from).unwrap_or(10.0 * most);
        Self { bytes: [from, to], kl }
    }

    fn x(&self, bytes: f64) -> f64 {
        if bytes <= 0.0 {
            return LEFT + GAP / 2.0;
        }
        let [from, to] = self.bytes.map(f64::log10);
        let start = LEFT + GAP;
        start + (bytes.log10() - from) / (to - from) * (WIDTH - RIGHT - start)
    }

    fn y(&self, kl: f64) -> f64 {
        let [from, to] = self.kl.map(f64::from);
        HEIGHT - BOTTOM - (kl.max(LEAST).log10() - from) / (to - from) * (HEIGHT - BOTTOM - TOP)
    }

    fn draw(&self, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for power in self.kl[0]..=self.kl[1] {
            let y = self.y(10f64.powi(power));
            let _ = writeln!(
                svg,
                r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#e3e3e3"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
                LEFT - 10.0,
                y + 4.0,
                svg::power_of_ten(power)
            );
        }
        let mut tick = |x: f64, label: &str, colour: &str| {
            let _ = writeln!(
                svg,
                r##"<path d="M{x:.1} {TOP}V{bottom}" stroke="{colour}"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"##,
                bottom + 20.0
            );
        };
        let [from, to] = self.bytes;
        let mut bytes = from;
        while bytes <= to {
            let colour = if bytes.log10().fract() == 0.0 { "#e3e3e3" } else { "#f3f3f3" };
            tick(self.x(bytes), &bytes.to_string(), colour);
            bytes = ticks(bytes).find(|tick| *tick > bytes).unwrap_or(f64::INFINITY);
        }
        tick(self.x(0.0), "0", "#e3e3e3");
        // The column of those that store nothing is not on the logarithmic axis.
        let (pause, start) = (LEFT + GAP - 24.0, LEFT + GAP - 12.0);
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {TOP}V{bottom}H{pause}M{start} {bottom}H{right}" stroke="#999" fill="none"/>
<path d="M{:.1} {:.1}l6 -10M{:.1} {:.1}l6 -10" stroke="#999"/>
<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#444">bytes per token stored for one adapter</text>
<text transform="translate(28 {:.1}) rotate(-90)" text-anchor="middle" fill="#444">KL divergence from its own exact cache, nats</text>"##,
            pause - 3.0,
            bottom + 5.0,
            start - 3.0,
            bottom + 5.0,
            (LEFT + right) / 2.0,
            bottom + 42.0,
            (TOP + bottom) / 2.0
        );
    }
}

/// Those that nothing cheaper is closer than, by bytes.
fn best(points: &[Mean]) -> Vec<&Mean> {
    let mut ordered: Vec<&Mean> = points.iter().collect();
    ordered.sort_by(|a, b| a.bytes.total_cmp(&b.bytes).then(a.kl().total_cmp(&b.kl())));
    let mut least = f64::INFINITY;
    ordered.retain(|point| {
        let is_closer = point.kl().max(LEAST) < least;
        least = least.min(point.kl().max(LEAST));
        is_closer
    });
    ordered
}

fn frontier(svg: &mut String, axes: &Axes, points: &[Mean]) {
    let mut path = String::new();
    for (i, point) in best(points).into_iter().enumerate() {
        let (x, y) = (axes.x(point.bytes), axes.y(point.kl()));
        // Steps: between two of them the cheaper one is what there is.
        let _ = if i == 0 { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
    }
    let _ = writeln!(
        svg,
        r##"<path d="{path}" fill="none" stroke="#d55e00" stroke-width="1.5" stroke-dasharray="5 4" opacity="0.8"/>"##
    );
}

fn series<'a>(svg: &mut String, axes: &Axes, points: impl Iterator<Item = &'a Mean>, colour: &str) {
    let mut points: Vec<&Mean> = points.collect();
    points.sort_by(|a, b| a.bytes.total_cmp(&b.bytes));
    for point in points {
        let (x, y) = (axes.x(point.bytes), axes.y(point.kl()));
        let _ = writeln!(
            svg,
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="6" fill="{colour}" fill-opacity="0.85" stroke="#fff"><title>{}: {:.0} bytes, {:.2e} nats, worst {:.2e}</title></circle>"##,
            point.codec,
            point.bytes,
            point.kl(),
            point.outputs.worst
        );
    }
}

/// The names of as many as there is room for, first of those that are best. All are in the titles of their points.
fn names(svg: &mut String, axes: &Axes, points: &[Mean]) {
    let best = best(points);
    let is_best = |point: &Mean| best.iter().any(|best| best.codec == point.codec);
    let mut ordered: Vec<&Mean> = points.iter().collect();
    ordered.sort_by_key(|point| !is_best(point));
    let area = Area { left: LEFT, top: TOP, right: WIDTH - RIGHT, bottom: HEIGHT - BOTTOM };
    let at = |point: &&Mean| ([axes.x(point.bytes), axes.y(point.kl())], point.codec.to_string());
    let named: Vec<([f64; 2], String)> = ordered.iter().map(at).collect();
    for (place, (point, (_, name))) in
        labels::place(&area, &named).into_iter().zip(ordered.iter().zip(&named))
    {
        let Some([x, y]) = place else { continue };
        let colour = if is_best(point) { "#222" } else { "#777" };
        let _ = writeln!(
            svg,
            r##"<text x="{x:.1}" y="{y:.1}" font-size="11" fill="{colour}" stroke="#fff" stroke-width="3" paint-order="stroke">{name}</text>"##
        );
    }
}

fn legend(svg: &mut String, points: &[Mean]) {
    const COLUMNS: usize = 3;
    const COLUMN: f64 = 318.0;
    const LINE: f64 = 22.0;
    let is_there = |family: &Family| points.iter().any(|point| point.codec.family() == *family);
    let families = Family::ALL.into_iter().zip(COLOURS).filter(|(family, _)| is_there(family));
    let mut place = |i: usize, mark: &str, title: &str| {
        let x = LEFT + COLUMN * (i % COLUMNS) as f64;
        let y = HEIGHT - BOTTOM + 72.0 + LINE * (i / COLUMNS) as f64;
        let _ = writeln!(
            svg,
            r##"<g transform="translate({x:.1} {y:.1})">{mark}<text x="24" y="4">{title}</text></g>"##
        );
    };
    let mut count = 0;
    for (family, colour) in families {
        place(
            count,
            &format!(r##"<circle cx="8" cy="0" r="6" fill="{colour}"/>"##),
            &escaped(family.title()),
        );
        count += 1;
    }
    let line = r##"<path d="M0 0H17" stroke="#d55e00" stroke-width="1.5" stroke-dasharray="5 4"/>"##;
    place(count, line, "nothing cheaper is closer");
}

#[cfg(test)]
mod tests {
    use interleaf_calibrate::Codec;

    use super::super::bytes::Bytes;
    use super::super::outputs::Outputs;
    use super::super::report::Row;
    use super::*;

    fn row(codec: Codec, bytes: f64, kl: f64) -> Row {
        Row {
            codec,
            setting: "text".into(),
            adapter: "a".into(),
            bytes: Bytes { bytes_per_token: bytes, ..Bytes::default() },
            outputs: Outputs { kl_mean: kl, kl_p99: kl, top1: 1.0, ppl_ratio: 1.0 },
            e_k: 0.0,
            e_v: 0.0,
            error_left: 0.0,
        }
    }

    #[test]
    fn every_codec_is_drawn_and_named() {
        let rows: Vec<Row> = Codec::ALL
            .into_iter()
            .enumerate()
            .map(|(i, codec)| row(codec, if codec == Codec::Base { 0.0 } else { 100.0 * i as f64 }, 1e-4))
            .collect();
        let report = Report {
            model: "a<b".into(),
            backend: "cpu".into(),
            prefix_tokens: 512,
            scored_tokens: 191,
            f16_bytes_per_token: 3072,
            anchor: "f16".into(),
            adapters: 1,
            windows: Vec::new(),
            calibrations: Vec::new(),
            rows,
        };
        let svg = draw(&report);
        assert_eq!(svg.matches("<title>").count(), Codec::ALL.len());
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.matches("paint-order").count() > 5 && svg.contains(">base</text>"), "{svg}");
        // All are equally close, so that only the cheapest is best.
        assert_eq!(best(&report.means(None)).len(), 1);
    }
}
