//! "Did you mean ...?"

/// The candidate that is most like `word`, when one is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.len() / 3).max(2);
    let distance = |candidate: &str| {
        let by_letters = edits(word, candidate);
        // `max_connections` and `connections_max` are the same wish.
        let by_words = edits(&sorted_words(word), &sorted_words(candidate));
        by_letters.min(by_words)
    };
    candidates
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(edits, _)| *edits <= most)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

fn sorted_words(name: &str) -> String {
    let mut words: Vec<&str> = name.split(['_', '-']).collect();
    words.sort_unstable();
    words.join("_")
}

/// Letters to insert, remove, replace or swap with their neighbour to get from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    rows[0] = (0..=to.len()).collect();
    for i in 1..=from.len() {
        rows[i][0] = i;
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["connections_max", "connect_timeout", "receive_maximum", "bind"];

    #[test]
    fn slips_are_close_to_what_was_meant() {
        for (word, expected) in [
            ("recieve_maximum", Some("receive_maximum")),
            ("max_connections", Some("connections_max")),
            ("connection_max", Some("connections_max")),
            ("connect-timeout", Some("connect_timeout")),
            ("bnid", Some("bind")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, NAMES.into_iter()), expected, "{word}");
        }
    }
}
