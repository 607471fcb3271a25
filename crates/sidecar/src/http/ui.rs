//! The web page, embedded into the binary: a few files without any foreign part. What the page shows it asks
//! of the API, so it needs no state here.

use std::sync::LazyLock;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page may do: run and style itself from these files and talk to the agent it came from, nothing else.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug)]
pub(super) struct File {
    /// Its name below `/ui/`.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// What is in it.
    pub text: &'static str,
}

impl File {
    /// Its entity tag. It changes when any file of the page does and only then: files of two versions of the
    /// agent must not be mixed.
    pub(super) fn tag(&self) -> String {
        format!("\"{:016x}-{}\"", *VERSION, self.name)
    }
}

/// FNV-1a of all files, which needs no table and does not change between compilers.
static VERSION: LazyLock<u64> = LazyLock::new(|| {
    let bytes = FILES.iter().flat_map(|file| file.text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
});

macro_rules! files {
    ($($name:literal $kind:ident),* $(,)?) => {
        /// The files of the page; the first is the page itself.
        pub(super) static FILES: &[File] = &[$(File {
            name: $name,
            kind: $kind,
            text: include_str!(concat!("../../../../ui/", $name)),
        }),*];
    };
}

files! {
    "index.html" HTML,
    "style.css" CSS,
    "first.js" SCRIPT,
    "main.js" SCRIPT,
    "address.js" SCRIPT,
    "changes.js" SCRIPT,
    "charts.js" SCRIPT,
    "commands.js" SCRIPT,
    "dom.js" SCRIPT,
    "feed.js" SCRIPT,
    "filter.js" SCRIPT,
    "foldlist.js" SCRIPT,
    "hosts.js" SCRIPT,
    "instances.js" SCRIPT,
    "overview.js" SCRIPT,
    "routes.js" SCRIPT,
    "services.js" SCRIPT,
    "store.js" SCRIPT,
    "traffic.js" SCRIPT,
}

/// The page itself.
pub(super) fn page() -> &'static File {
    &FILES[0]
}

/// A file by its name.
pub(super) fn file(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Most bytes of the whole page.
    const BYTES_MAX: usize = 200 * 1024;

    #[test]
    fn the_page_is_small_and_nothing_of_it_is_forgotten() {
        let bytes: usize = FILES.iter().map(|file| file.text.len()).sum();
        assert!(bytes <= BYTES_MAX, "{bytes} bytes");
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui");
        let there: BTreeSet<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let embedded = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(there, embedded);
    }

    #[test]
    fn the_page_asks_nobody_else_and_makes_no_markup_of_texts() {
        for file in FILES {
            for foreign in [
                "http-equiv",
                "@import",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "//cdn",
                "https://",
            ] {
                assert!(!file.text.contains(foreign), "{foreign} in {}", file.name);
            }
        }
        for attribute in ["src=\"", "href=\""] {
            for place in page().text.split(attribute).skip(1) {
                let inner = ["/ui/", "/api/v2/", "data:", "#"];
                assert!(
                    inner.iter().any(|start| place.starts_with(start)),
                    "{attribute}{}",
                    place.lines().next().unwrap_or_default()
                );
            }
        }
    }

    #[test]
    fn scripts_import_files_that_are_there() {
        for script in FILES.iter().filter(|file| file.kind == SCRIPT) {
            for place in script.text.split("from \"./").skip(1) {
                let name = place.split('"').next().unwrap();
                assert!(file(name).is_some(), "{name} in {}", script.name);
            }
        }
    }
}
