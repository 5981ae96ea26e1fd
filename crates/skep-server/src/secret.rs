//! Names that nobody can guess: of sessions and of results.

use uuid::Uuid;

/// Returns a new one: 244 random bits of the system's, in hexadecimal.
pub(crate) fn unguessable() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Returns a secret for the processes of a cluster that nobody else has to know.
pub fn fresh_cluster_token() -> String {
    unguessable()
}

#[cfg(test)]
mod tests {
    use super::unguessable;

    #[test]
    fn no_two_are_equal() {
        let (first, second) = (unguessable(), unguessable());
        assert_eq!(first.len(), 64);
        assert_ne!(first, second);
        assert_ne!(first[..32], first[32..]);
    }
}
