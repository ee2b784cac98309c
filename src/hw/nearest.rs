//! The known words closest to a mistyped one, for hints.

/// How many suggestions a hint names at most.
const MAX_SUGGESTIONS: usize = 3;

/// Longest word compared; longer ones come from broken input and get no suggestion.
const MAX_WORD: usize = 128;

/// Up to three known words near `word`, nearest first; ties keep the order given.
///
/// A known word that contains the wrong one counts as near however long it is, because people type
/// the short form of an id.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    if word.is_empty() || word.len() > MAX_WORD {
        return Vec::new();
    }
    let mut scored: Vec<(usize, &str)> =
        known.filter_map(|candidate| Some((score(word, candidate)?, candidate))).collect();
    scored.sort_by_key(|&(score, _)| score);
    scored.into_iter().take(MAX_SUGGESTIONS).map(|(_, candidate)| candidate).collect()
}

fn score(word: &str, candidate: &str) -> Option<usize> {
    if candidate.starts_with(word) {
        return Some(0);
    }
    if candidate.contains(word) {
        return Some(1);
    }
    let distance = edit_distance(word, candidate);
    (distance <= word.len().max(3) / 3 + 1).then_some(distance + 1)
}

/// Levenshtein distance over bytes, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn short_form_finds_the_full_id() {
        let known = ["nvidia-a10", "nvidia-h100-pcie-80gb", "nvidia-h100-sxm5-80gb"];
        assert_eq!(nearest("nvidia-h100-sxm", known.into_iter())[0], "nvidia-h100-sxm5-80gb");
        assert!(nearest("zebra", known.into_iter()).is_empty());
    }
}
