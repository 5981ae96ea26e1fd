//! The cluster's shared secret.

/// Compares in a time that says nothing about where two secrets of one length differ.
pub(crate) fn is_same_secret(given: &[u8], secret: &[u8]) -> bool {
    let differing =
        given.iter().zip(secret).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    given.len() == secret.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::is_same_secret;

    #[test]
    fn a_secret_is_compared_whole() {
        assert!(is_same_secret(b"", b""));
        assert!(is_same_secret(b"abc", b"abc"));
        for other in [&b""[..], b"a", b"ab", b"abd", b"abcd", b"xbc"] {
            assert!(!is_same_secret(other, b"abc"));
        }
        assert!(!is_same_secret(b"a", b""));
        assert!(!is_same_secret(b"", b"a"));
    }
}
