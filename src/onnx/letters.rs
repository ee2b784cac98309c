//! Text from files in letters to people: control characters and what turns the direction of writing is spelled out,
//! and long names are cut, so that a name cannot move the cursor or hide what is said.

use partita_ir::Diag;
use partita_ir::letters::is_unseen;

/// Most characters of a text from a file.
const MAX_CHARS: usize = 300;

/// The letter with readable texts.
pub(crate) fn readable(mut diag: Diag) -> Diag {
    diag.message = escaped(&diag.message);
    diag.hint = escaped(&diag.hint);
    let place = &mut *diag.place;
    for text in [&mut place.file, &mut place.node, &mut place.value].into_iter().flatten() {
        *text = escaped(text);
    }
    diag
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (n, c) in text.chars().enumerate() {
        match c {
            _ if n >= MAX_CHARS => {
                out.push('…');
                break;
            }
            _ if is_unseen(c) => out.extend(c.escape_unicode()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_disturb() {
        let name = format!("a\x1b[2J\u{202e}{}", "b".repeat(1000));
        let diag = readable(Diag::new("I014", "twice\n").at_value(name));
        let value = diag.place.value.unwrap();
        assert!(value.starts_with("a\\u{1b}[2J\\u{202e}bbb") && value.ends_with('…'), "{value}");
        assert_eq!(diag.message, "twice\\u{a}");
    }
}
