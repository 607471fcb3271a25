//! For tests: bytes of known meaning, by name.

/// The bytes called `name` in `tests/vectors/constructed.txt`.
pub(super) fn golden(name: &str) -> Vec<u8> {
    let table = include_str!("../../tests/vectors/constructed.txt");
    let found = table
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let hex = found.unwrap_or_else(|| panic!("no golden bytes called {name}"));
    let byte = |index| u8::from_str_radix(&hex[index..index + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}
