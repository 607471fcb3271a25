//! The effective configuration for people, in the original's shape plus the source of each value.

use super::{Config, Origin};

/// Columns of the title and of the closing line.
const WIDTH: usize = 50;

impl Config {
    /// One line per item, as logged at start and printed by `sidecar config`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{:-<WIDTH$}", "Sidecar ")];
        for setting in &self.settings {
            let origin = match &setting.origin {
                Origin::Default => "default".to_owned(),
                Origin::Variable(name) if *name == setting.name => "environment".to_owned(),
                Origin::Variable(name) => format!("environment, {name}"),
                Origin::Flag(flag) => format!("--{flag}"),
            };
            lines.push(format!(
                "  * {}: {} ({origin})",
                setting.name, setting.value
            ));
        }
        lines.push("-".repeat(WIDTH));
        lines
    }
}
