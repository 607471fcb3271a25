//! The file that describes the API says what is so: every path is in it and answers, and answers are as
//! their schemas say.

use std::collections::BTreeSet;

use axum::http::Method;

use super::{
    v2::{cluster, own},
    *,
};
use crate::http::{
    commands::Dialect,
    target::{Refusal, Target, resolve},
    v2::{OPENAPI, Question},
};

fn description() -> Value {
    serde_json::from_str(OPENAPI).expect("the description is JSON")
}

/// One function that names the path of every target, and the list of all: who adds a target has to name a
/// path, and the test finds it in the description or fails.
macro_rules! paths {
    ($($target:pat => $path:literal,)*) => {
        const PATHS: &[&str] = &[$($path),*];

        fn path_of(target: &Target) -> &'static str {
            match target {
                $($target => $path,)*
            }
        }
    };
}

paths! {
    Target::Home => "/",
    // And the files of the page, which are nobody else's business.
    Target::Ui { .. } => "/ui/",
    Target::UiByName => "/ui/index.html",
    Target::Servers => "/servers",
    Target::Services => "/api/services.json",
    Target::OneService { .. } => "/api/services/{name}.json",
    Target::State => "/api/state.json",
    Target::Watch => "/api/watch",
    Target::Drain { undrain: false, dialect: Dialect::Old, .. } => "/api/services/{id}/drain",
    Target::Drain { undrain: true, dialect: Dialect::Old, .. } => "/api/services/{id}/undrain",
    Target::Drain { undrain: false, dialect: Dialect::V2, .. } => "/api/v2/instances/{id}/drain",
    Target::Drain { undrain: true, dialect: Dialect::V2, .. } => "/api/v2/instances/{id}/undrain",
    // What is asked for with OPTIONS, and what is not there: of other paths.
    Target::Preflight => "/api/services.json",
    Target::UnknownExtension { .. } => "/api/services.json",
    Target::EnvoyRegistration { .. } => "/v1/registration/{service}",
    Target::EnvoyClusters => "/v1/clusters",
    Target::EnvoyListeners => "/v1/listeners",
    Target::Metrics => "/metrics",
    Target::Health => "/health",
    Target::Ready => "/ready",
    Target::V2(Question::OpenApi) => "/api/v2/openapi.json",
    Target::V2(Question::Overview) => "/api/v2/overview",
    Target::V2(Question::Services) => "/api/v2/services",
    Target::V2(Question::Service { .. }) => "/api/v2/services/{name}",
    Target::V2(Question::Instances) => "/api/v2/instances",
    Target::V2(Question::Instance { .. }) => "/api/v2/instances/{host}/{id}",
    Target::V2(Question::Hosts) => "/api/v2/hosts",
    Target::V2(Question::Routes) => "/api/v2/routes",
    Target::V2(Question::Local) => "/api/v2/local",
    Target::V2(Question::Proxy) => "/api/v2/proxy",
    Target::V2(Question::Changes) => "/api/v2/changes",
    Target::V2(Question::Events) => "/api/v2/events",
}

#[test]
fn every_path_is_described_and_every_description_is_of_a_path() {
    let description = description();
    let described = description["paths"].as_object().unwrap();
    let mut deprecated = BTreeSet::new();
    for (template, methods) in described {
        let path = template.replace(['{', '}'], "");
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let found = resolve(&method, &path);
            let target = found.unwrap_or_else(|refusal| panic!("{method} {path}: {refusal:?}"));
            if operation["deprecated"] == true {
                deprecated.insert(template.as_str());
                assert_eq!(path_of(&target), format!("/api{template}"));
            } else {
                assert_eq!(path_of(&target), template);
            }
        }
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let name = method.as_str().to_lowercase();
            // Read, it is the path of an instance that is named like the command.
            let is_other = method == Method::GET && template.starts_with("/api/v2/instances/{id}/");
            if methods.get(&name).is_none() && !is_other {
                let refused = resolve(&method, &path);
                assert_eq!(refused, Err(Refusal::MethodNotAllowed), "{method} {path}");
            }
        }
    }
    assert_eq!(
        deprecated,
        BTreeSet::from(["/services.json", "/state.json", "/watch"])
    );
    for path in PATHS {
        assert!(described.contains_key(*path), "{path} is not described");
    }
}

/// Everything that is named by a reference is there.
fn expect_references(value: &Value, description: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(description.pointer(pointer).is_some(), "{reference}");
            }
            members
                .values()
                .for_each(|it| expect_references(it, description));
        }
        Value::Array(elements) => elements
            .iter()
            .for_each(|it| expect_references(it, description)),
        _ => {}
    }
}

#[test]
fn the_description_has_the_form_of_openapi_3_1() {
    let description = description();
    assert_eq!(description["openapi"], "3.1.0");
    for key in ["title", "version"] {
        assert!(description["info"][key].is_string(), "info.{key}");
    }
    expect_references(&description, &description);
    let mut ids = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        assert!(path.starts_with('/'), "{path}");
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{what}: {id} is taken");
            let responses = operation["responses"].as_object().expect("responses");
            for (status, response) in responses {
                let reference = response["$ref"].as_str();
                let response = reference.map_or(response, |reference| {
                    description.pointer(&reference[1..]).unwrap()
                });
                assert!(response["description"].is_string(), "{what}: {status}");
            }
            // Each variable of the path is a parameter that has to be there.
            let parameters = operation["parameters"].as_array();
            let named: BTreeSet<_> = parameters
                .into_iter()
                .flatten()
                .map(|it| match it["$ref"].as_str() {
                    Some(reference) => description.pointer(&reference[1..]).unwrap(),
                    None => it,
                })
                .filter(|it| it["in"] == "path" && it["required"] == true)
                .map(|it| format!("{{{}}}", it["name"].as_str().unwrap()))
                .collect();
            let variables = path.split('/').filter_map(|it| {
                let end = it.find('}')?;
                Some(it[..=end].to_owned())
            });
            assert_eq!(named, variables.collect(), "{what}");
        }
    }
}

/// What a schema of the description finds wrong.
fn faults(schema: &str, instance: &Value) -> Vec<String> {
    let mut description = description();
    let schema = serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": format!("#/components/schemas/{schema}"),
        "components": description["components"].take(),
    });
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    validator
        .iter_errors(instance)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect()
}

#[tokio::test]
async fn answers_are_as_their_schemas_say() {
    let (answers, agent) = answers(cluster().snapshot().clone());
    agent.local.check("0f", own("web"));
    let routes = Routes::of(&agent.snapshots.borrow());
    agent.routes.send_replace(Arc::new(routes));
    agent.tell(instance("web-01", "0f", Status::Draining, 9), Status::Alive);
    loop {
        let answer = answers.answer(&head("GET", "/api/v2/changes", &[])).await;
        if body_text(answer).await.contains("Draining") {
            break;
        }
        tokio::task::yield_now().await;
    }
    let description = description();
    let mut compared = 0;
    for (template, methods) in description["paths"].as_object().unwrap() {
        let content = &methods["get"]["responses"]["200"]["content"]["application/json"];
        let Some(reference) = content["schema"]["$ref"].as_str() else {
            continue;
        };
        let schema = reference.rsplit('/').next().unwrap();
        let path = template
            .replace("{name}", "web")
            .replace("{host}", "web-01")
            .replace("{id}", "0f");
        let answer = answers.answer(&head("GET", &path, &[])).await;
        assert_eq!(answer.status(), 200, "{path}");
        let document: Value = serde_json::from_str(&body_text(answer).await).unwrap();
        assert_eq!(faults(schema, &document), [""; 0], "{path}: {document}");
        assert_ne!(
            faults(schema, &serde_json::json!({"version": "1"})),
            [""; 0],
            "{schema} refuses nothing"
        );
        compared += 1;
    }
    assert_eq!(compared, 17);
    for path in [
        "/api/v2/services/nobody",
        "/api/services/nobody.json",
        "/api/v2/instances?a=b",
    ] {
        let answer = answers.answer(&head("GET", path, &[])).await;
        let document: Value = serde_json::from_str(&body_text(answer).await).unwrap();
        assert_eq!(faults("Error", &document), [""; 0], "{path}");
    }
}
