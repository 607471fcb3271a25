//! The name of a service: a label's value, or what a pattern finds in the container's name. Pure.
//!
//! Patterns are Go's (RE2); `\Q…\E` and `\C` are not there.

use regex::Regex;

use super::wire::Container;

/// How services get their names.
#[derive(Debug, Clone)]
pub enum Naming {
    /// The value of this label; the image reference without it.
    Label(String),
    /// What the first group finds in the container's name, which begins with a slash; the image
    /// reference where it does not match.
    Pattern(Regex),
}

/// The label of Go Sidecar.
const LABEL_DEFAULT: &str = "ServiceName";
/// Longest pattern, in bytes when compiled: names are matched at every listing.
const PATTERN_BYTES_MAX: usize = 1 << 20;

impl Default for Naming {
    fn default() -> Self {
        Self::Label(LABEL_DEFAULT.to_owned())
    }
}

impl Naming {
    /// Naming by a pattern with at least one group, such as `^/(.+)(-[0-9a-z]{7,14})$`.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn pattern(text: &str) -> Result<Self, String> {
        let compiled = regex::RegexBuilder::new(text)
            .size_limit(PATTERN_BYTES_MAX)
            .build();
        // The library draws the place over several lines; its last one says what it is.
        let regex = compiled.map_err(|error| {
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim().to_owned()
        })?;
        if regex.captures_len() < 2 {
            return Err("it has no group: put ( ) around the name".to_owned());
        }
        Ok(Self::Pattern(regex))
    }

    /// The label that holds the name, if it is one.
    pub(super) fn label(&self) -> Option<&str> {
        match self {
            Self::Label(label) => Some(label),
            Self::Pattern(_) => None,
        }
    }

    /// The name of a container's service.
    pub(super) fn name<'a>(&self, container: &'a Container) -> &'a str {
        match self {
            Self::Label(label) => container.label(label).unwrap_or_else(|| container.image()),
            Self::Pattern(regex) => {
                let found = regex.captures(container.full_name());
                let group = found.and_then(|it| it.get(1));
                group.map_or_else(|| container.image(), |it| it.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::discovery::docker::wire::listing;

    fn named(naming: &Naming, container: serde_json::Value) -> String {
        let found = listing(json!([container]).to_string().as_bytes()).unwrap();
        naming.name(&found.containers[0]).to_owned()
    }

    #[test]
    fn regex_namer_with_leading_slash_and_group_and_image_fallback() {
        let naming = Naming::pattern("^/(.+)(-[0-9a-z]{7,14})$").unwrap();
        let container =
            |name: &str| json!({"Id": "a", "Names": [name], "Image": "acme/checkout:1.8.2"});
        for (name, service) in [
            ("/checkout-7d9f1c2ab3", "checkout"),
            ("checkout-7d9f1c2ab3", "acme/checkout:1.8.2"),
            ("/checkout", "acme/checkout:1.8.2"),
            ("", "acme/checkout:1.8.2"),
        ] {
            assert_eq!(named(&naming, container(name)), service, "{name}");
        }
        // A group that takes no part in the match gives no name.
        let naming = Naming::pattern("^/(x)?").unwrap();
        assert_eq!(
            named(&naming, container("/checkout")),
            "acme/checkout:1.8.2"
        );
        assert_eq!(named(&naming, json!({"Id": "a", "Image": "i"})), "i");
    }

    #[test]
    fn the_label_may_have_another_name() {
        let naming = Naming::Label("app".to_owned());
        let labels = |labels| json!({"Id": "a", "Image": "i:1", "Labels": labels});
        assert_eq!(named(&naming, labels(json!({"app": "web"}))), "web");
        assert_eq!(named(&naming, labels(json!({"app": ""}))), "");
        assert_eq!(named(&naming, labels(json!({"ServiceName": "web"}))), "i:1");
    }

    #[test]
    fn patterns_that_name_nothing_are_refused() {
        for (pattern, reason) in [
            ("^/.+$", "no group"),
            ("", "no group"),
            ("^/(.+", "unclosed group"),
            (r"(\w{500}){500}", "size limit"),
        ] {
            let error = Naming::pattern(pattern).unwrap_err();
            assert!(error.contains(reason), "{pattern}: {error}");
        }
    }
}
