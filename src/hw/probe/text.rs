//! Reading the text of foreign tools: figures with units, tables with a header, lines with a key.

/// A number that may have a unit behind it: "12.5 W", "85 %". "N/A" and its relatives are none.
pub(crate) fn number(text: &str) -> Option<f64> {
    let text = text.trim().trim_matches('"').trim();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    text[..end].parse::<f64>().ok().filter(|number| number.is_finite())
}

/// A whole number at the start of a text.
pub(crate) fn count(text: &str) -> Option<u32> {
    let number = number(text)?;
    (number >= 0.0 && number <= f64::from(u32::MAX) && number.fract() == 0.0).then_some(number as u32)
}

/// Bytes of "80 GB", "81559 MiB" or a number in the unit of `scale` bytes; powers of 1024 in either spelling, as
/// every tool read here means them.
pub(crate) fn bytes(text: &str, scale: u64) -> Option<u64> {
    let value = number(text)?;
    let unit: String = text.trim().trim_matches('"').chars().filter(char::is_ascii_alphabetic).collect();
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" => scale,
        "b" | "bytes" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = value * scale as f64;
    (0.0..=1e18).contains(&bytes).then_some(bytes.round() as u64)
}

/// "Enabled", "Yes", "On" and their opposites.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "enabled" | "yes" | "on" | "1" | "true" => Some(true),
        "disabled" | "no" | "off" | "0" | "false" => Some(false),
        _ => None,
    }
}

/// A word that is an answer: not empty, not "N/A", not "[Not Supported]".
pub(crate) fn word(text: &str) -> Option<String> {
    let word = text.trim().trim_matches('"').trim();
    let bare = word.trim_matches(|c| c == '[' || c == ']').to_ascii_lowercase();
    let none = [
        "",
        "n/a",
        "na",
        "not supported",
        "unknown",
        "unknown error",
        "-",
        "none",
        "insufficient permissions",
    ];
    (!none.contains(&bare.as_str())).then(|| word.to_owned())
}

/// A table of comma-separated values under a header line.
pub(crate) struct Csv<'t> {
    columns: Vec<String>,
    rows: Vec<Vec<&'t str>>,
}

impl<'t> Csv<'t> {
    /// Reads a text whose header holds a column that begins with `key`; lines before it are skipped.
    pub(crate) fn parse(text: &'t str, key: &str) -> Option<Csv<'t>> {
        let mut lines = text.lines();
        let columns = lines.find_map(|line| {
            let columns: Vec<String> = split(line).iter().map(|name| name.to_ascii_lowercase()).collect();
            columns.iter().any(|name| begins(name, key)).then_some(columns)
        })?;
        let rows = lines.filter(|line| !line.trim().is_empty()).map(split).collect();
        Some(Csv { columns, rows })
    }

    /// Rows that have as many cells as the header, and how many have not.
    pub(crate) fn rows(&self) -> (Vec<CsvRow<'_, 't>>, usize) {
        let whole = |cells: &&Vec<&'t str>| cells.len() == self.columns.len();
        let rows: Vec<_> =
            self.rows.iter().filter(whole).map(|cells| CsvRow { table: self, cells }).collect();
        let damaged = self.rows.len() - rows.len();
        (rows, damaged)
    }
}

/// One row of a table.
pub(crate) struct CsvRow<'c, 't> {
    table: &'c Csv<'t>,
    cells: &'c [&'t str],
}

impl<'t> CsvRow<'_, 't> {
    /// The cell of the column of that name, a unit in brackets behind it aside.
    pub(crate) fn get(&self, name: &str) -> Option<&'t str> {
        let at = self.table.columns.iter().position(|column| begins(column, name))?;
        self.cells.get(at).copied()
    }

    /// The cell as an answer.
    pub(crate) fn word(&self, name: &str) -> Option<String> {
        word(self.get(name)?)
    }

    /// The cell as a number.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        number(self.get(name)?)
    }

    /// The cell as a count.
    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        count(self.get(name)?)
    }

    /// The cell as bytes; `scale` is the unit of a bare number.
    pub(crate) fn bytes(&self, name: &str, scale: u64) -> Option<u64> {
        bytes(self.get(name)?, scale)
    }
}

fn begins(column: &str, name: &str) -> bool {
    column.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ["))
}

/// Cells of a line; commas inside quotation marks belong to the cell.
fn split(line: &str) -> Vec<&str> {
    let (mut cells, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                cells.push(line[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    cells.push(line[start..].trim());
    cells
}

/// The value behind a key in lines such as "Model: \t NVIDIA H100".
pub(crate) fn after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':').or_else(|| line.split_once('='))?;
        (name.trim() == key).then(|| value.trim()).filter(|value| !value.is_empty())
    })
}

/// Strings of a device tree file: they end with a zero byte; recordings put blanks between them.
pub(crate) fn tree_strings(text: &str) -> Vec<&str> {
    text.split(|c: char| c == '\0' || c.is_whitespace()).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_with_units() {
        assert_eq!(
            (number("699.99 W"), number(" -3"), number("[N/A]"), number("")),
            (Some(699.99), Some(-3.0), None, None)
        );
        assert_eq!(
            (bytes("81559 MiB", 1), bytes("2", 1 << 20), bytes("14248.00 MiB", 1)),
            (Some(81_559 << 20), Some(2 << 20), Some(14_940_110_848))
        );
        assert_eq!((bytes("1e300", 1), bytes("-5", 1), bytes("9 apples", 1)), (None, None, None));
        assert_eq!(
            (count("12"), count("1.5"), count("-1"), count("99999999999")),
            (Some(12), None, None, None)
        );
        assert_eq!((word("[N/A]"), word("\"x y\"").as_deref()), (None, Some("x y")));
    }

    #[test]
    fn tables_know_their_columns() {
        let csv =
            Csv::parse("noise\nindex, name, memory.total [MiB]\n0, \"A, b\", 5\n1, x\n", "index").unwrap();
        let (rows, damaged) = csv.rows();
        assert_eq!((rows.len(), damaged), (1, 1));
        assert_eq!(
            (rows[0].word("name").as_deref(), rows[0].bytes("memory.total", 1 << 20)),
            (Some("A, b"), Some(5 << 20))
        );
        assert!(Csv::parse("a,b\n1,2\n", "index").is_none());
    }
}
