//! Whatever the source, parsing and executing it end, and end with a text or an error.

#![allow(
    clippy::unwrap_used,
    reason = "outside of test functions clippy does not see that this is a test"
)]

mod support;

use std::sync::OnceLock;

use gotemplate::Template;
use proptest::prelude::*;

/// Words and signs of the language, so that random sources get past the lexer.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{{- ",
    " -}}",
    " ",
    "(",
    ")",
    "|",
    ",",
    ":=",
    "=",
    ".",
    "$",
    "$x",
    "$y",
    ".Name",
    ".Ports",
    ".Services",
    ".web",
    ".Created",
    ".Format",
    ".Sub",
    ".Add",
    ".Round",
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "block",
    "template",
    "break",
    "continue",
    "nil",
    "true",
    "0",
    "-1",
    "9",
    "1e3",
    "0x1f",
    "1.5",
    "'a'",
    "\"web\"",
    "\"%[2]*.[1]*d%-+#08.3q|%x\"",
    "\"2006-01-02 __2 Jan .000 Z07:00\"",
    "`raw`",
    "and",
    "or",
    "not",
    "len",
    "index",
    "slice",
    "print",
    "printf",
    "println",
    "html",
    "js",
    "urlquery",
    "call",
    "eq",
    "lt",
    "ge",
    "host",
    "tcp",
    "now",
    "getPorts",
    "portFor",
    "text",
    "\n",
    "/*",
    "*/",
    "{{end}}",
    "{{range .Ports}}",
    "{{if .Name}}",
    "{{$x := now}}",
    "{{template \"d\" .}}",
    "{{define \"d\"}}",
    "é",
];

fn sources() -> &'static [String] {
    static SOURCES: OnceLock<Vec<String>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let files = support::vectors();
        let cases = files
            .iter()
            .flat_map(|(file, _)| file["cases"].as_array().unwrap());
        cases
            .map(|case| case["template"].as_str().unwrap().to_owned())
            .collect()
    })
}

/// Parses and executes as both kinds of template.
fn run(source: &str) {
    for (file, world) in support::vectors() {
        let (data, functions) = world(&file);
        if let Ok(template) = Template::parse("t", source, &functions.names()) {
            let _ = template.execute(&data, &functions);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn on_arbitrary_text(source in "\\PC{0,200}") {
        run(&source);
    }

    #[test]
    fn on_an_arbitrary_action(inside in "\\PC{0,60}") {
        run(&format!("{{{{{inside}}}}}"));
    }

    #[test]
    fn on_words_of_the_language(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)
    ) {
        run(&pieces.concat());
        run(&format!("{{{{ {} }}}}", pieces.join(" ")));
    }

    #[test]
    fn on_an_arbitrary_call(
        function in prop::sample::select(&["printf", "index", "slice", "eq", "lt", "print", "js"][..]),
        arguments in prop::collection::vec(
            prop::sample::select(&[
                "nil", "0", "-1", "9223372036854775807", "1.5", "\"é%\"", "true", ".", "$",
                ".Ports", ".Created", "(now.Sub now)", "now.Month", "\"%[3]*.*[1]d % #+09.99x\"",
            ][..]),
            0..6,
        )
    ) {
        run(&format!("{{{{ {function} {} }}}}", arguments.join(" ")));
    }

    #[test]
    fn on_mutated_templates(
        source in prop::sample::select(sources()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, prop::sample::select(PIECES)), 1..5),
    ) {
        let mut chars: Vec<char> = source.chars().collect();
        for (at, removed, piece) in edits {
            let start = at.index(chars.len() + 1);
            let end = (start + removed).min(chars.len());
            chars.splice(start..end, piece.chars());
        }
        run(&chars.iter().collect::<String>());
    }
}
