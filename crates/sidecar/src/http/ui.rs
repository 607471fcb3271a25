//! The web page, embedded into the binary. It is one file without any foreign part; what it shows it
//! asks of the API, so it needs no state here.

use std::sync::LazyLock;

/// The page.
pub(super) const PAGE: &str = include_str!("../../../../ui/index.html");

/// What the page may do: run and style itself and talk to the agent it came from, nothing else.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'";

/// The page's entity tag: it changes with the page and only then (FNV-1a, which needs no table and
/// does not change between compilers).
pub(super) static TAG: LazyLock<String> = LazyLock::new(|| {
    let hash = PAGE.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("\"{hash:016x}\"")
});
