//! What both plots have in common: how an SVG begins, and numbers on its axes. Text is in whatever sans-serif font the viewer
//! has.

/// A white page of a size, with a title and a line below it.
pub fn begin([width, height]: [f64; 2], left: f64, title: &str, subtitle: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13" fill="#222">
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="{left}" y="34" font-size="20" font-weight="600">{}</text>
<text x="{left}" y="58" fill="#666">{}</text>
"##,
        escaped(title),
        escaped(subtitle)
    )
}

/// A power of ten, within a text.
pub fn power_of_ten(power: i32) -> String {
    format!(r##"10<tspan dy="-5" font-size="9">{}</tspan>"##, power.to_string().replace('-', "−"))
}

/// A text as it is written in one.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
