//! The language beyond the vectors: scopes, calls, definitions, what is refused, and the limits.

#![allow(
    clippy::unwrap_used,
    reason = "outside of test functions clippy does not see that this is a test"
)]

mod support;

use gotemplate::{ExecError, Functions, Limit, Map, ParseError, Record, Template, Value};

/// What `source` makes of a small record, or its error.
fn render(source: &str) -> Result<String, String> {
    let functions = Functions::new()
        .with("fail", &[], |_| Err("no luck".to_owned()))
        .with("nothing", &[], |_| Ok(Value::Nil));
    let untyped = Map {
        entries: [("a".to_owned(), Value::Int(1))].into(),
        missing: Value::Nil,
    };
    let data = Value::object(Record::new(
        "Data",
        [
            ("List", Value::list(["x".into(), "y".into()])),
            ("Empty", Value::list([])),
            ("Map", Value::Map(untyped.into())),
            ("Int", Value::Int(7)),
            ("Nil", Value::Nil),
        ],
    ));
    let template =
        Template::parse("main", source, &functions.names()).map_err(|e| e.to_string())?;
    template
        .execute(&data, &functions)
        .map_err(|e| e.to_string())
}

#[track_caller]
fn gives(source: &str, expected: &str) {
    assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
}

#[track_caller]
fn fails(source: &str, expected: &str) {
    let error = render(source).expect_err(source);
    assert!(
        error.contains(expected),
        "{source}\n  want {expected}\n  got {error}"
    );
}

#[test]
fn variables_live_to_the_end_of_their_structure() {
    gives(
        "{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}",
        "21",
    );
    gives(
        "{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}",
        "2",
    );
    gives(
        "{{ if $x := .Int }}{{ $x }}{{ else }}{{ $x }}{{ end }}",
        "7",
    );
    gives(
        "{{ if $x := 0 }}a{{ else if $y := 3 }}{{ $x }}{{ $y }}{{ end }}",
        "03",
    );
    gives(
        "{{ range $i, $v := .List }}{{ $w := $v }}{{ $i }}{{ $w }}{{ end }}",
        "0x1y",
    );
    gives(
        "{{ $i := 9 }}{{ $v := 9 }}{{ range $i, $v = .List }}{{ end }}{{ $i }}{{ $v }}",
        "1y",
    );
    fails(
        "{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}",
        "undefined variable",
    );
    fails("{{ $x = 1 }}", "undefined variable");
    fails(
        "{{ $x := 1 }}{{ define \"d\" }}{{ $x }}{{ end }}",
        "undefined variable",
    );
}

#[test]
fn conditions_choose_the_first_that_holds() {
    gives(
        "{{ if .Nil }}a{{ else if .Empty }}b{{ else if .Int }}c{{ else }}d{{ end }}",
        "c",
    );
    gives(
        "{{ with .Nil }}a{{ else with .Int }}{{ . }}{{ else }}d{{ end }}",
        "7",
    );
    gives("{{ with .Nil }}a{{ else }}{{ .Int }}{{ end }}", "7");
    fails(
        "{{ if .Nil }}{{ else }}{{ else }}{{ end }}",
        "expected end; found {{else}}",
    );
    fails("{{ if .Nil }}{{ else with .Int }}{{ end }}", "unexpected");
    fails("{{ if .Int }}", "unexpected EOF");
    fails("{{ else }}", "unexpected {{else}}");
}

#[test]
fn and_and_or_leave_the_rest_unevaluated() {
    gives(
        "{{ and .Nil fail }}|{{ or .Int fail }}|{{ or 0 .Nil \"x\" }}",
        "<no value>|7|x",
    );
    gives("{{ 1 | and 2 }}{{ 1 | and 0 }}{{ 1 | or 0 }}", "101");
    fails("{{ and .Int fail }}", "error calling fail: no luck");
    fails("{{ and }}", "want at least 1 got 0");
}

#[test]
fn no_value_prints_as_such_and_has_no_fields() {
    gives(
        "{{ .Nil }} {{ .Nil.x.y }} {{ .Map.b }} {{ .Map.b.c }} {{ nothing }}",
        ["<no value>"; 5].join(" ").as_str(),
    );
    gives(
        "{{ .Map.a }}{{ index .Map \"b\" }}{{ print nil .Nil }}",
        "1<no value><nil> <nil>",
    );
    gives("{{ range .Nil }}x{{ else }}none{{ end }}", "none");
    gives(
        "{{ template \"d\" }}{{ define \"d\" }}{{ . }}{{ end }}",
        "<no value>",
    );
    gives("{{ eq .Nil nil }}", "true");
}

#[test]
fn definitions_may_stand_anywhere_outside() {
    gives(
        "{{ template \"d\" 1 }}{{ define \"d\" }}{{ . }}{{ $ }}{{ end }}",
        "11",
    );
    gives(
        "{{ define `d` }}a{{ end }}{{ define \"d\" }} \n{{ end }}{{ template \"d\" }}",
        "a",
    );
    gives("{{ define \"main\" }}x{{ end }}  ", "x");
    gives(
        "{{ block \"b\" 3 }}{{ . }}{{ $ }}{{ end }}{{ template \"b\" 4 }}",
        "3344",
    );
    fails(
        "{{ define \"d\" }}a{{ end }}{{ define \"d\" }}b{{ end }}",
        "multiple definition",
    );
    fails(
        "{{ if true }}{{ define \"d\" }}{{ end }}{{ end }}",
        "unexpected \"define\" in command",
    );
    fails(
        "{{ range .List }}{{ block \"b\" . }}{{ break }}{{ end }}{{ end }}",
        "{{break}} outside",
    );
    fails(
        "{{ define d }}{{ end }}",
        "unexpected \"d\" in define clause",
    );
}

#[test]
fn only_what_can_be_called_takes_arguments() {
    fails(
        "{{ .Int 1 }}",
        "Int has arguments but cannot be invoked as function",
    );
    fails(
        "{{ 1 | .Int }}",
        "Int has arguments but cannot be invoked as function",
    );
    fails("{{ .Map.a 1 }}", "has arguments");
    fails("{{ \"x\" 1 }}", "can't give argument to non-function \"x\"");
    fails("{{ (len .List) 1 }}", "can't give argument to non-function");
    fails(
        "{{ $x := 1 }}{{ 2 | $x }}",
        "can't give argument to non-function $x",
    );
    fails("{{ 1 | 2 }}", "non executable command in pipeline stage 2");
    fails(
        "{{ call .Int }}",
        "error calling call: non-function of type int",
    );
    fails("{{ printf 1 }}", "expected string; found 1");
    fails(
        "{{ .Int | printf }}",
        "wrong type for value; expected string; got int",
    );
}

#[test]
fn loops_run_over_lists_maps_and_counts() {
    gives("{{ range $k, $v := .Map }}{{ $k }}{{ $v }}{{ end }}", "a1");
    gives(
        "{{ range $i := 3 }}{{ $i }}{{ end }}{{ range 0 }}x{{ else }}none{{ end }}",
        "012none",
    );
    gives(
        "{{ range .List }}{{ range 5 }}{{ if . }}{{ break }}{{ end }}{{ . }}{{ end }}{{ . }}{{ end }}",
        "0x0y",
    );
    gives(
        "{{ range .List }}{{ with . }}{{ continue }}{{ end }}x{{ end }}",
        "",
    );
    gives("{{ range .Empty }}{{ else }}{{ .Int }}{{ end }}", "7");
    fails("{{ range \"abc\" }}{{ end }}", "range can't iterate over");
    fails("{{ range $i, $v := 3 }}{{ end }}", "more than one variable");
    fails(
        "{{ range $i, $v, $w := .List }}{{ end }}",
        "too many declarations in range",
    );
    fails(
        "{{ range $i, 3 }}{{ end }}",
        "range can only initialize variables",
    );
    fails("{{ $a, $b := .List }}", "too many declarations in command");
    fails("{{ break }}", "{{break}} outside {{range}}");
    fails(
        "{{ range .List }}{{ else }}{{ continue }}{{ end }}",
        "{{continue}} outside {{range}}",
    );
}

#[test]
fn errors_tell_the_place() {
    fails("a\nb\n{{ if }}", "template: main:3: missing value for if");
    fails(
        "a\n  {{ .Nope }}",
        "template: main:2:5: executing \"main\" at <.Nope>: can't evaluate field Nope in type Data",
    );
    fails(
        "{{ define \"d\" }}\n{{ .x }}{{ end }}{{ template \"d\" 1 }}",
        "main:2:3: executing \"d\" at <.x>",
    );
    fails("{{ nil.x }}", "unexpected . after term");
    fails("{{ true.x }}", "unexpected . after term");
    fails("{{ \"\\z\" }}", "invalid string literal");
    fails("{{ () }}", "missing value for parenthesized pipeline");
    fails("{{ .x! }}", "bad character '!'");
    fails("{{ 1, 2 }}", "unexpected \",\" in operand");
}

#[test]
fn own_functions_take_the_place_of_built_in_ones() {
    let functions = Functions::new().with("len", &[], |_| Ok("mine".into()));
    let template = Template::parse("t", "{{ len }}", &functions.names()).unwrap();
    assert_eq!(template.execute(&Value::Nil, &functions).unwrap(), "mine");

    let template = Template::parse("t", "{{ f }}", &["f"]).unwrap();
    let error = template
        .execute(&Value::Nil, &Functions::new())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("\"f\" is not a defined function"),
        "{error}"
    );
}

fn limit(source: &str) -> Limit {
    let template = Template::parse("t", source, &[]).unwrap();
    match template.execute(&Value::Nil, &Functions::new()) {
        Err(ExecError::Limit { limit, .. }) => limit,
        other => panic!("{source}: {:?}", other.map(|text| text.len())),
    }
}

#[test]
fn an_execution_is_bounded() {
    assert_eq!(
        limit("{{ range 9223372036854775807 }}{{ end }}"),
        Limit::Steps
    );
    assert_eq!(
        limit("{{ define \"d\" }}{{ template \"d\" }}{{ end }}{{ template \"d\" }}"),
        Limit::Depth
    );
    assert_eq!(
        limit(
            "{{ define \"d\" }}{{ range 9 }}{{ template \"d\" }}{{ end }}{{ end }}{{ template \"d\" }}"
        ),
        Limit::Depth
    );
    assert_eq!(
        limit("{{ range 99999 }}{{ printf \"%9999d\" 1 }}{{ end }}"),
        Limit::Output
    );
    assert_eq!(
        limit("{{ $x := \"xx\" }}{{ range 99 }}{{ $x = print $x $x }}{{ end }}"),
        Limit::Output
    );
    assert_eq!(
        limit(
            "{{ $x := printf \"%999999d\" 1 }}{{ range 99999 }}{{ if eq $x $x }}{{ end }}{{ end }}"
        ),
        Limit::Steps
    );
}

#[test]
fn a_source_is_bounded() {
    let nested = |count: usize| {
        format!(
            "{}x{}",
            "{{ if true }}".repeat(count),
            "{{ end }}".repeat(count)
        )
    };
    gives(&nested(99), "x");
    fails(&nested(101), "nesting exceeds 100 levels");

    let parentheses = |count: usize| {
        format!(
            "{{{{ {}1{} }}}}",
            "(print ".repeat(count),
            ")".repeat(count)
        )
    };
    gives(&parentheses(100), "1");
    fails(&parentheses(101), "nesting exceeds 100 levels");

    let branches = "{{ else if false }}".repeat(10_000);
    gives(
        &format!("{{{{ if false }}}}{branches}{{{{ else }}}}x{{{{ end }}}}"),
        "x",
    );
    fails(
        &"{{ $x := 1 }}".repeat(1_001),
        "more than 1000 variables in scope",
    );

    let large = " ".repeat(gotemplate::SOURCE_BYTES_MAX + 1);
    let error = Template::parse("t", &large, &[]).unwrap_err();
    assert!(matches!(error, ParseError::TooLarge { .. }), "{error}");
}

#[test]
fn a_large_haproxy_file_is_within_the_limits() {
    let instance = |index: usize| {
        Value::object(Record::new(
            "Service",
            [
                ("Hostname", Value::from(format!("node-{index}"))),
                ("ID", "a1b2c3d4e5f6".into()),
            ],
        ))
    };
    let services = Value::map(
        (0..2_000).map(|name| {
            (
                format!("service-{name}"),
                Value::list((0..20).map(instance)),
            )
        }),
        Value::list([]),
    );
    let source = "{{ range $n, $l := . }}backend {{ $n }}\n{{ range $s := $l }}\tserver \
                  {{ $s.Hostname }}-{{ $s.ID }} {{ printf \"%s:%d\" $s.Hostname 80 }} cookie \
                  {{ $s.Hostname }}\n{{ end }}{{ end }}";
    let template = Template::parse("haproxy.cfg", source, &[]).unwrap();
    let text = template.execute(&services, &Functions::new()).unwrap();
    assert_eq!(text.lines().count(), 2_000 * 21);
}

#[test]
fn templates_of_the_vectors_can_be_executed_again_and_at_once() {
    let (file, world) = &support::vectors()[1];
    let (data, functions) = world(file);
    let source = file["cases"][0]["template"].as_str().unwrap();
    let template = Template::parse("t", source, &functions.names()).unwrap();
    let first = template.execute(&data, &functions).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let (data, functions) = world(file);
            template.execute(&data, &functions).unwrap()
        });
        assert_eq!(second.join().unwrap(), first);
    });
}
