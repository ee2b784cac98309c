//! A reader for linear programs in the LP text form (CPLEX's, as Gurobi and others write it): objective, rows,
//! and the names they use. Bounds and kinds of variables are skipped, comments too.

use crate::error::PlaceError;
use std::collections::BTreeMap;

/// Longest text read, in bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 28;
/// Most terms over all rows.
pub const MAX_TERMS: usize = 1 << 24;

/// How a row compares with its right side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// At most.
    Le,
    /// At least.
    Ge,
    /// Equal.
    Eq,
}

/// One row: `sum of coefficient * variable`, sense, right side.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name; empty when it has none.
    pub name: String,
    /// Variable and coefficient.
    pub terms: Vec<(usize, f64)>,
    /// How the sum compares.
    pub sense: Sense,
    /// With what.
    pub rhs: f64,
}

/// A program as far as it is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Program {
    /// Whether the objective is to be maximised.
    pub maximise: bool,
    /// The objective's terms.
    pub objective: Vec<(usize, f64)>,
    /// The rows in the order of the file.
    pub rows: Vec<Row>,
    /// Names of the variables, by number.
    pub variables: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Number(f64),
    Sign(f64),
    Colon,
    Compare(Sense),
}

/// Reads a program.
///
/// # Errors
/// `P008` with the line for text that is not of the form, `P003` for exceeded limits.
pub fn read(text: &str) -> Result<Program, PlaceError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(PlaceError::limit("text", format!("more than {MAX_TEXT_BYTES} bytes")));
    }
    let mut reader = Reader::default();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('\\').next().unwrap_or("");
        if !reader.section(line) {
            let mut tokens = Vec::new();
            tokenize(line, i + 1, &mut tokens)?;
            for token in tokens {
                reader.token(token, i + 1)?;
            }
        }
    }
    if reader.state == State::Nothing {
        return Err(PlaceError::lp(1, "neither Maximize nor Minimize begins a section"));
    }
    reader.end_objective();
    Ok(reader.program)
}

fn tokenize<'a>(line: &'a str, number: usize, out: &mut Vec<Token<'a>>) -> Result<(), PlaceError> {
    let mut rest = line.trim_start();
    while let Some(c) = rest.chars().next() {
        let wide = |f: fn(char) -> bool| rest.find(|c| !f(c)).unwrap_or(rest.len());
        let (token, length) = match c {
            '+' => (Token::Sign(1.0), 1),
            '-' => (Token::Sign(-1.0), 1),
            ':' => (Token::Colon, 1),
            '<' => (Token::Compare(Sense::Le), wide(|c| "<=".contains(c))),
            '>' => (Token::Compare(Sense::Ge), wide(|c| ">=".contains(c))),
            '=' => (Token::Compare(Sense::Eq), 1),
            '0'..='9' | '.' => {
                let length = number_length(rest);
                let value = rest[..length]
                    .parse()
                    .map_err(|_| PlaceError::lp(number, format!("`{}` is not a number", &rest[..length])))?;
                (Token::Number(value), length)
            }
            c if c.is_alphabetic() || "_!\"#$%&/,;?@'`{}()~[]".contains(c) => {
                let length =
                    rest.find(|c: char| c.is_whitespace() || "+-:<>=".contains(c)).unwrap_or(rest.len());
                (Token::Name(&rest[..length]), length)
            }
            c => return Err(PlaceError::lp(number, format!("`{c}` belongs to no number or name"))),
        };
        out.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(())
}

/// Length of digits, a point, digits and an exponent.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        (from..bytes.len()).find(|&i| !bytes[i].is_ascii_digit() && bytes[i] != b'.').unwrap_or(bytes.len())
    };
    let end = digits(0);
    if !matches!(bytes.get(end), Some(b'e' | b'E')) {
        return end;
    }
    let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
    if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) { digits(end + 1 + sign) } else { end }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Nothing,
    Objective,
    Rows,
    Rest,
}

#[derive(Default)]
struct Reader {
    program: Program,
    state: State,
    index: BTreeMap<String, usize>,
    n_terms: usize,
    name: String,
    terms: Vec<(usize, f64)>,
    /// Sign and number read that wait for a name, and the last name, which may turn out to be the row's.
    sign: f64,
    number: Option<f64>,
    pending: Option<(String, f64)>,
    compare: Option<Sense>,
}

impl Reader {
    /// Whether the line is the head of a section.
    fn section(&mut self, line: &str) -> bool {
        let word = line.trim().to_ascii_lowercase();
        let state = match word.as_str() {
            "maximize" | "maximise" | "max" | "minimize" | "minimise" | "min" => {
                self.program.maximise = word.starts_with("max");
                State::Objective
            }
            "subject to" | "such that" | "st" | "s.t." => State::Rows,
            "bounds" | "bound" | "binaries" | "binary" | "bin" | "generals" | "general" | "gen" | "end"
            | "semi-continuous" | "sos" => State::Rest,
            _ => return false,
        };
        self.end_objective();
        self.state = state;
        (self.sign, self.number, self.pending) = (1.0, None, None);
        true
    }

    fn end_objective(&mut self) {
        if self.state == State::Objective {
            self.settle();
            self.program.objective = std::mem::take(&mut self.terms);
        }
    }

    /// A name that was no row's becomes a term.
    fn settle(&mut self) {
        if let Some((name, factor)) = self.pending.take() {
            let fresh = self.program.variables.len();
            let v = *self.index.entry(name.clone()).or_insert(fresh);
            if v == fresh {
                self.program.variables.push(name);
            }
            self.terms.push((v, factor));
            self.n_terms += 1;
        }
    }

    fn token(&mut self, token: Token<'_>, line: usize) -> Result<(), PlaceError> {
        if self.state == State::Rest {
            return Ok(());
        }
        if self.state == State::Nothing {
            return Err(PlaceError::lp(line, "text before the objective"));
        }
        if self.n_terms > MAX_TERMS {
            return Err(PlaceError::limit(format!("line {line}"), format!("more than {MAX_TERMS} terms")));
        }
        match token {
            Token::Colon => {
                self.name = self.pending.take().map(|p| p.0).unwrap_or_default();
                self.sign = 1.0;
            }
            Token::Sign(s) => {
                self.settle();
                self.sign *= s;
            }
            Token::Number(x) if self.compare.is_some() => self.row(self.sign * x),
            Token::Number(x) => {
                self.settle();
                self.number = Some(x);
            }
            Token::Name(name) => {
                self.settle();
                self.pending = Some((name.to_owned(), self.sign * self.number.take().unwrap_or(1.0)));
                self.sign = 1.0;
            }
            Token::Compare(sense) => {
                self.settle();
                self.compare = Some(sense);
                self.sign = 1.0;
            }
        }
        Ok(())
    }

    fn row(&mut self, rhs: f64) {
        let (name, terms) = (std::mem::take(&mut self.name), std::mem::take(&mut self.terms));
        let sense = self.compare.take().unwrap_or(Sense::Eq);
        self.program.rows.push(Row { name, terms, sense, rhs });
        self.sign = 1.0;
    }
}
