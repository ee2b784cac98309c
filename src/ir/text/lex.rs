//! Tokens with their places.

use crate::diag::Diag;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok {
    /// A letter or `_`, then letters, digits, `_` and `.`.
    Ident(String),
    /// Text in quotes, unescaped.
    Str(String),
    Int(i64),
    Float(f64),
    /// One of `( ) { } [ ] , : = + - * % _` or `->` or `..`.
    Punct(&'static str),
    End,
}

/// A token and where it starts (line and column from 1).
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) tok: Tok,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

const PUNCT: &[&str] = &["->", "..", "(", ")", "{", "}", "[", "]", ",", ":", "=", "+", "-", "*", "%"];

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

/// All tokens of `text`, the last one `End`.
pub(crate) fn lex(text: &str) -> Result<Vec<Token>, Diag> {
    let mut lexer = Lexer { rest: text, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let (line, column) = (lexer.line, lexer.column);
        let tok = lexer.next_tok().map_err(|d| d.at_line(line, column))?;
        let end = tok == Tok::End;
        tokens.push(Token { tok, line, column });
        if end {
            return Ok(tokens);
        }
    }
}

impl<'a> Lexer<'a> {
    fn take(&mut self, n_bytes: usize) -> &'a str {
        let (head, tail) = self.rest.split_at(n_bytes);
        for c in head.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.rest = tail;
        head
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let n = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        self.take(n)
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest.starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn next_tok(&mut self) -> Result<Tok, Diag> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(Tok::End);
        };
        if first == '"' {
            return self.string();
        }
        if first.is_ascii_digit()
            || (first == '-' && self.rest[1..].starts_with(|c: char| c.is_ascii_digit()))
        {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let ident = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            return Ok(Tok::Ident(ident.to_owned()));
        }
        match PUNCT.iter().find(|p| self.rest.starts_with(**p)) {
            Some(p) => {
                self.take(p.len());
                Ok(Tok::Punct(p))
            }
            None => Err(Diag::new("T001", format!("the character {first:?} does not belong here"))
                .hint("names with other characters are written in quotes")),
        }
    }

    fn string(&mut self) -> Result<Tok, Diag> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.take(at + 1);
                    return Ok(Tok::Str(out));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, '0')) => out.push('\0'),
                    Some((_, c @ ('"' | '\\' | '\''))) => out.push(c),
                    Some((_, 'u')) => out.push(unicode_escape(&mut chars)?),
                    _ => {
                        return Err(Diag::new("T002", "unknown escape in a string")
                            .hint("use \\n, \\t, \\\" or \\\\"));
                    }
                },
                c => out.push(c),
            }
        }
        Err(Diag::new("T002", "the string does not end").hint("add a closing quote"))
    }

    fn number(&mut self) -> Result<Tok, Diag> {
        let bytes = self.rest.as_bytes();
        let mut n = 1;
        let mut float = false;
        while let Some(&b) = bytes.get(n) {
            let exponent_sign = matches!(b, b'+' | b'-') && matches!(bytes[n - 1], b'e' | b'E');
            // `0..5` is a range, not a fraction.
            let dot = b == b'.' && bytes.get(n + 1) != Some(&b'.') && !float;
            if !(b.is_ascii_digit() || matches!(b, b'e' | b'E') || exponent_sign || dot) {
                break;
            }
            float |= !b.is_ascii_digit();
            n += 1;
        }
        let text = self.take(n);
        let tok = if float { text.parse().ok().map(Tok::Float) } else { text.parse().ok().map(Tok::Int) };
        tok.ok_or_else(|| Diag::new("T003", format!("{text} is not a number in range")))
    }
}

fn unicode_escape(chars: &mut impl Iterator<Item = (usize, char)>) -> Result<char, Diag> {
    let bad = || Diag::new("T002", "malformed \\u{...} escape");
    if chars.next().map(|c| c.1) != Some('{') {
        return Err(bad());
    }
    let hex: String = chars.map(|c| c.1).take_while(|c| *c != '}').take(8).collect();
    u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32).ok_or_else(bad)
}
