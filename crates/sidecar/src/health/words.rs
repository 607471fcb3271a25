//! A command line split into words as a POSIX shell would split it, and nothing more. Pure.
//!
//! Quotes and backslashes mean what they mean to `sh`; there are no variables, patterns, pipes or
//! comments, because no shell runs: who needs one writes `/bin/sh -c '…'`. Go Sidecar split at every
//! single blank and had no quotes at all; plain command lines mean the same to both.

/// A command line that has no end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordsError {
    /// A quote without its partner.
    #[error(
        "the quote {quote} at character {position} is not closed; write \\{quote} for a plain one"
    )]
    UnclosedQuote {
        /// `'` or `"`.
        quote: char,
        /// Where it stands, from 1.
        position: usize,
    },
    /// The last character is a backslash that quotes nothing.
    #[error("the last character is a backslash with nothing to quote; write \\\\ for a plain one")]
    TrailingBackslash,
}

/// Splits `line`; no word at all gives an empty list, `''` an empty word.
pub(super) fn split(line: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().enumerate();
    while let Some((at, char)) = chars.next() {
        match char {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' | '"' => {
                let inner = quoted(char, at + 1, &mut chars)?;
                word.get_or_insert_default().push_str(&inner);
            }
            '\\' => match chars.next() {
                // A continued line.
                Some((_, '\n')) => {}
                Some((_, plain)) => word.get_or_insert_default().push(plain),
                None => return Err(WordsError::TrailingBackslash),
            },
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The text up to the closing quote. In double quotes a backslash quotes only what would otherwise
/// be special to a shell there.
fn quoted(
    quote: char,
    position: usize,
    chars: &mut impl Iterator<Item = (usize, char)>,
) -> Result<String, WordsError> {
    let unclosed = || WordsError::UnclosedQuote { quote, position };
    let mut text = String::new();
    loop {
        let (_, char) = chars.next().ok_or_else(unclosed)?;
        if char == quote {
            return Ok(text);
        }
        if char != '\\' || quote == '\'' {
            text.push(char);
            continue;
        }
        match chars.next().ok_or_else(unclosed)?.1 {
            '\n' => {}
            special @ ('"' | '\\' | '$' | '`') => text.push(special),
            plain => text.extend(['\\', plain]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        for (line, words) in [
            ("", &[][..]),
            (" \t\n", &[]),
            ("a", &["a"]),
            (
                "/bin/check  -H\t10.0.0.1 ",
                &["/bin/check", "-H", "10.0.0.1"],
            ),
            ("/bin/sh -c 'exit 0'", &["/bin/sh", "-c", "exit 0"]),
            ("a 'b \"c\" \\' d", &["a", "b \"c\" \\", "d"]),
            (r#"a "b 'c' \" \\ \$x \n""#, &["a", r#"b 'c' " \ $x \n"#]),
            (r"a\ b \'c\' \\", &["a b", "'c'", r"\"]),
            ("a'b'\"c\"d", &["abcd"]),
            ("'' a \"\"", &["", "a", ""]),
            ("a \\\n b \"c\\\nd\"", &["a", "b", "cd"]),
            (
                "$HOME * # ; | >x ~",
                &["$HOME", "*", "#", ";", "|", ">x", "~"],
            ),
            ("ü 'ö ä'", &["ü", "ö ä"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_is_not_closed_is_named() {
        for (line, error) in [
            (
                "it's",
                WordsError::UnclosedQuote {
                    quote: '\'',
                    position: 3,
                },
            ),
            (
                "a \"b",
                WordsError::UnclosedQuote {
                    quote: '"',
                    position: 3,
                },
            ),
            (
                "a \"b\\",
                WordsError::UnclosedQuote {
                    quote: '"',
                    position: 3,
                },
            ),
            (
                "a '\\' '",
                WordsError::UnclosedQuote {
                    quote: '\'',
                    position: 7,
                },
            ),
            ("a \\", WordsError::TrailingBackslash),
        ] {
            assert_eq!(split(line), Err(error), "{line}");
        }
        let error = split("it's").unwrap_err().to_string();
        assert_eq!(
            error,
            "the quote ' at character 3 is not closed; write \\' for a plain one"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in "[ -~\\s]{0,40}|.{0,40}") {
            let _ = split(&line);
        }

        #[test]
        fn quoting_a_word_gives_it_back(words in proptest::collection::vec("[^']{0,9}", 0..5)) {
            let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            proptest::prop_assert_eq!(split(&line.join(" ")).unwrap(), words);
        }
    }
}
