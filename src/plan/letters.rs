//! Text from files in letters to people: what would move the cursor or turn the direction of writing is spelled out.

use std::borrow::Cow;

/// Whether a character is a control character or a mark that changes the direction of writing.
pub fn is_unseen(c: char) -> bool {
    let direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || direction
}

/// The text with such characters as escapes.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_left_alone() {
        assert_eq!(visible("plain é"), "plain é");
        assert_eq!(visible("\u{1b}[2J\u{202e}x"), "\\u{1b}[2J\\u{202e}x");
    }
}
