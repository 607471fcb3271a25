//! What Go's own text/template made of the same templates, data and functions.

mod support;

use gotemplate::Template;

#[test]
fn every_template_gives_what_go_gave() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for (file, world) in support::vectors() {
        let (data, functions) = world(&file);
        for case in file["cases"].as_array().unwrap() {
            count += 1;
            let source = case["template"].as_str().unwrap();
            let result = Template::parse("t", source, &functions.names())
                .map_err(|error| format!("parse: {error}"))
                .and_then(|template| {
                    template
                        .execute(&data, &functions)
                        .map_err(|error| format!("execute: {error}"))
                });
            // An empty output is left out of the file.
            let right = match (&result, case.get("error")) {
                (Ok(text), None) => {
                    text == case.get("output").map_or("", |text| text.as_str().unwrap())
                }
                (Err(error), Some(go)) => same_place(error, go.as_str().unwrap()),
                _ => false,
            };
            if !right {
                wrong.push(format!("{source}\n  want {case}\n  got {result:?}"));
            }
        }
    }
    assert_eq!(count, 100);
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The same phase, and where Go tells a line and column, the same ones.
fn same_place(error: &str, go: &str) -> bool {
    let place = |text: &str| text.split(' ').take(3).collect::<Vec<_>>().join(" ");
    place(error) == place(go)
}
