//! Aligned columns. Pure.

use super::text::printable;

/// Rows below a heading; cells are made printable here, so that no caller can forget it.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.map(str::to_owned)],
        }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| match cell.as_str() {
            // Programs that cut at blanks still find every column.
            "" => "-".to_owned(),
            cell => printable(cell),
        }));
    }

    /// The heading and the rows, a line each; columns are as wide as their widest cell.
    pub(super) fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let widths = self.rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let line = |row: &[String; N]| {
            let cells = row.iter().zip(widths);
            let line: String = cells
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_hostile_cells_harmless() {
        let mut table = Table::new(["NAME", "PORT"]);
        table.row(["a".to_owned(), "80".to_owned()]);
        table.row(["red\u{1b}[31m".to_owned(), String::new()]);
        assert_eq!(
            table.lines(),
            [
                "NAME           PORT",
                "a              80",
                "red\\u{1b}[31m  -"
            ]
        );
    }
}
