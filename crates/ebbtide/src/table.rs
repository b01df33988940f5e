//! Tables for a person: columns as wide as what is in them.

use crate::text::{columns as width_of, padded, shortened};

/// Paths are not cut to less than this.
const LEAST: usize = 16;

/// As [`table`], with paths in the first column that are cut where a line would not fit.
pub fn table_of_paths(
    header: &[&str],
    rows: &[Vec<String>],
    right: &[usize],
    columns: Option<usize>,
) -> String {
    let text = table(header, rows, right);
    let widest = text.lines().map(width_of).max().unwrap_or(0);
    let paths = rows.iter().filter_map(|row| row.first()).map(|path| width_of(path)).max();
    let Some(too_much) = columns.and_then(|columns| widest.checked_sub(columns + 1)) else {
        return text;
    };
    let room = paths.unwrap_or(0).saturating_sub(too_much + 1).max(LEAST);
    let cut = |row: &Vec<String>| {
        let mut row = row.clone();
        if let Some(path) = row.first_mut() {
            *path = shortened(path, room);
        }
        row
    };
    table(header, &rows.iter().map(cut).collect::<Vec<_>>(), right)
}

/// Renders a header and rows. Columns named by `right` are aligned to the right. The last cell of a row
/// that is shorter than the header goes over all columns that are left.
pub fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let columns = header.len();
    let all: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let fits = |row: &&&Vec<String>, column: usize| column + 1 < row.len() || row.len() == columns;
    let width = |column: usize| {
        let cells = all.iter().filter(|row| fits(row, column)).filter_map(|row| row.get(column));
        cells.map(|cell| width_of(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let cell = |(column, (cell, width)): (usize, (&String, &usize))| {
            let width = if fits(&row, column) { *width } else { 0 };
            if right.contains(&column) && width > 0 {
                format!("{}{cell}", " ".repeat(width.saturating_sub(width_of(cell))))
            } else {
                padded(cell, width)
            }
        };
        let cells: Vec<String> = row.iter().zip(&widths).enumerate().map(cell).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |cells: &[&str]| cells.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let rows = [
            row(&["boots 1–3", "12 B", "abc"]),
            row(&["now", "3 MiB", ""]),
            row(&["base 1", "a sentence over all that is left"]),
        ];
        insta::assert_snapshot!(table(&["WHERE", "SIZE", "WHAT"], &rows, &[1]), @r"
        WHERE       SIZE  WHAT
        boots 1–3   12 B  abc
        now        3 MiB
        base 1     a sentence over all that is left
        ");
        assert_eq!(table(&["A"], &[], &[]), "A\n");
        let rows = [row(&["/srv/日本語/a/very/long/path", "12 B"]), row(&["/etc", "3 MiB"])];
        let cut = |columns| table_of_paths(&["PATH", "SIZE"], &rows, &[1], columns);
        assert_eq!(cut(None), table(&["PATH", "SIZE"], &rows, &[1]));
        assert_eq!(cut(Some(36)), cut(None));
        insta::assert_snapshot!(cut(Some(27)), @r"
        PATH                   SIZE
        /srv/日本…/long/path   12 B
        /etc                  3 MiB
        ");
    }
}
