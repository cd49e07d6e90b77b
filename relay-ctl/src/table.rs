//! Aligned columns, and figures as people read them.

/// Where a column's cells begin or end.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// Rows under a header, aligned by column.
pub struct Table<const N: usize> {
    aligns: [Align; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these columns and no rows.
    pub fn new(columns: [(&str, Align); N]) -> Self {
        let header = columns.map(|(name, _)| name.to_owned());
        Table { aligns: columns.map(|(_, align)| align), rows: vec![header] }
    }

    /// Adds a row. Names come from clients, so what could command a terminal is escaped.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    /// The text, one line for each row.
    pub fn render(&self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells =
                row.iter().zip(widths).zip(self.aligns).map(|((cell, width), align)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                });
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

/// The text with control characters escaped; an empty one shows as `-`.
pub fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let escape =
        |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A number of bytes in the largest binary unit that keeps it at one or more (IEC 80000-13).
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    // What would round to 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// A time in its two largest units.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60_000..3_600_000 => format!("{minutes} min {:02} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{} d {:02} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(1_500_000_000), "1.4 GiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(1_250), "1.2 s");
        assert_eq!(duration(61_000), "1 min 01 s");
        assert_eq!(duration(3_660_000), "1 h 01 min");
        assert_eq!(duration(90_000_000), "1 d 01 h");
    }

    #[test]
    fn columns_are_aligned_and_commands_to_the_terminal_escaped() {
        let mut table =
            Table::new([("NAME", Align::Left), ("N", Align::Right), ("X", Align::Left)]);
        table.row(["a\u{1b}[2J".to_owned(), "10".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME         N  X\na\\u{1b}[2J  10  -\n");
    }
}
