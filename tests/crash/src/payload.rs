//! The number of a message, and some weight so that messages differ in size.

/// The payload of a number: its digits, then as much filling as the number asks for.
pub fn of_number(number: u64) -> Vec<u8> {
    let filling = match number % 50 {
        0 => 5000,
        remainder => remainder as usize * 7,
    };
    let mut payload = format!("{number} ").into_bytes();
    payload.resize(payload.len() + filling, b'.');
    payload
}

/// The number in a payload, if it is one of ours and whole.
pub(crate) fn number_of(payload: &[u8]) -> Option<u64> {
    let digits = payload.split(|byte| *byte == b' ').next()?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (of_number(number) == payload).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_and_a_cut_payload_does_not() {
        for number in [0, 1, 49, 50, 123_456] {
            let payload = of_number(number);
            assert_eq!(number_of(&payload), Some(number));
            assert_eq!(number_of(&payload[..payload.len() - 1]), None);
        }
    }
}
