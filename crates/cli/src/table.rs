//! Tables of text, aligned for a terminal.

/// Which side a column's cells lean to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A header and rows, as lines. Columns are as wide as their widest cell.
pub fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| console::measure_text_width(cell));
        cells.chain([columns[i].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = (cells.iter().zip(columns).zip(&widths))
            .map(|((cell, (_, align)), &width)| {
                let side = match align {
                    Align::Left => console::Alignment::Left,
                    Align::Right => console::Alignment::Right,
                };
                console::pad_str(cell, width, side, None).into_owned()
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let rule: Vec<String> = widths.iter().map(|&w| "─".repeat(w)).collect();
    [line(&header), rule.join("  ").trim_end().to_owned()]
        .into_iter()
        .chain(rows.iter().map(|row| line(row)))
        .collect()
}

/// Names and what they are, as lines, in two columns.
pub fn facts(facts: &[(&str, String)]) -> Vec<String> {
    let width = facts.iter().map(|(name, _)| console::measure_text_width(name)).max().unwrap_or(0);
    let name = |name| console::pad_str(name, width, console::Alignment::Left, None);
    facts.iter().map(|(fact, value)| format!("{}  {value}", name(fact)).trim_end().to_owned()).collect()
}

/// `5,770,496`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1e-4`, or `1.2e-4` with a digit; `exact` of nothing.
pub fn nats(drift: f32, digits: usize) -> String {
    if drift > 0.0 { format!("{drift:.digits$e}") } else { "exact".into() }
}

/// `1 thread`, `2 threads`.
pub fn threads(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

/// `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Text in lines of at most so many characters, but for words that are longer.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["base".into(), "9.5".into()], vec!["b".into(), "10.25".into()]];
        let lines = render(&[("model", Align::Left), ("x", Align::Right)], &rows);
        assert_eq!(lines, ["model      x", "─────  ─────", "base     9.5", "b      10.25"]);
    }

    #[test]
    fn facts_line_up() {
        let lines = facts(&[("model", "a".into()), ("head", "b".into()), ("", "c".into())]);
        assert_eq!(lines, ["model  a", "head   b", "       c"]);
    }

    #[test]
    fn counts_have_commas() {
        assert_eq!([count(0), count(999), count(1000), count(5_770_496)], ["0", "999", "1,000", "5,770,496"]);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(5 << 20)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]
        );
    }

    #[test]
    fn lines_end_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one twelve three", 5), ["one", "twelve", "three"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
