//! Tokens of the rule language, with their columns.

use partita_ir::diag::Diag;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name; may hold dashes after its first letter, as rule names do.
    Name(String),
    /// `?x`.
    Var(String),
    /// `%f`.
    Class(String),
    Int(i64),
    Float(f64),
    Str(String),
    /// Punctuation.
    Mark(&'static str),
}

/// Longer marks first, so that the longest one wins.
const MARKS: &[&str] = &["...", "=>", "?=", "..", "(", ")", "{", "}", "[", "]", ",", ":", "=", "_"];

/// A token and its column (from 1).
pub(crate) type Spanned = (Token, usize);

/// Splits one line; `#` starts a comment.
///
/// # Errors
/// `O001` for a character that starts no token.
pub(crate) fn tokens(line: &str, number: usize) -> Result<Vec<Spanned>, Diag> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(rest) = line.get(at..).filter(|r| !r.is_empty()) {
        if rest.starts_with('#') {
            break;
        }
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            at += blank;
            continue;
        }
        let Some((token, len)) = token(rest) else {
            let text = format!("{:?} starts no token", rest.chars().next().unwrap_or(' '));
            return Err(Diag::new("O001", text)
                .at_line(number, at + 1)
                .hint("see the head of any shipped rule file for the syntax"));
        };
        out.push((token, at + 1));
        at += len;
    }
    Ok(out)
}

/// The token at the start of `rest` and its length.
fn token(rest: &str) -> Option<(Token, usize)> {
    let first = rest.chars().next()?;
    let second = rest.chars().nth(1);
    match first {
        '?' if second.is_some_and(is_name) => named(rest, 1).map(|(n, len)| (Token::Var(n), len)),
        '%' => named(rest, 1).map(|(n, len)| (Token::Class(n), len)),
        '"' => {
            let end = rest[1..].find('"')?;
            Some((Token::Str(rest[1..=end].to_owned()), end + 2))
        }
        c if c.is_ascii_alphabetic() => named(rest, 0).map(|(n, len)| (Token::Name(n), len)),
        c if c.is_ascii_digit() || (c == '-' && second.is_some_and(|d| d.is_ascii_digit())) => numeral(rest),
        _ => MARKS.iter().find(|m| rest.starts_with(**m)).map(|m| (Token::Mark(m), m.len())),
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn named(rest: &str, skip: usize) -> Option<(String, usize)> {
    let body = &rest[skip..];
    let len = body.find(|c: char| !is_name(c) && c != '-').unwrap_or(body.len());
    (len > 0).then(|| (body[..len].to_owned(), skip + len))
}

fn numeral(rest: &str) -> Option<(Token, usize)> {
    let bytes = rest.as_bytes();
    let mut len = 1;
    while len < bytes.len() {
        let c = bytes[len];
        let exponent_sign = matches!(c, b'-' | b'+') && matches!(bytes[len - 1], b'e' | b'E');
        // `1..` is the number 1 before two dots.
        let dot = c == b'.' && bytes.get(len + 1) != Some(&b'.');
        if !(c.is_ascii_digit() || dot || matches!(c, b'e' | b'E') || exponent_sign) {
            break;
        }
        len += 1;
    }
    let text = &rest[..len];
    let token = match text.parse::<i64>() {
        Ok(v) => Token::Int(v),
        Err(_) => Token::Float(text.parse().ok()?),
    };
    Some((token, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_splits_into_tokens() {
        let line = "mul-one [exact]: (mul ?x 1.5e-3) => ?x # why";
        let found: Vec<Token> = tokens(line, 1).unwrap().into_iter().map(|t| t.0).collect();
        assert_eq!(found[0], Token::Name("mul-one".into()));
        assert_eq!(found[8], Token::Float(1.5e-3));
        assert_eq!(found.last(), Some(&Token::Var("x".into())));
        assert_eq!(tokens("a ~", 7).unwrap_err().place.line_column, Some((7, 3)));
    }
}
