//! What a member says about itself in its gossip metadata: Go Sidecar's two fields, which its peers
//! decode, and ours, which they ignore.

use anyhow::bail;
use catalog::{Upkeep, json};
use memberlist::node::META_BYTES_MAX;

/// The way our own agents keep each other's catalogs: records stand while their host is a member,
/// and state exchanges compare digests first. Another way would be another number.
const GENERATION: u64 = 1;

/// Our metadata.
///
/// # Errors
/// The cluster name is too long.
pub fn write(cluster_name: &str) -> anyhow::Result<String> {
    // The original's keys in the original's order; it never writes another state.
    let mut meta = String::from("{\"ClusterName\":");
    json::write_text(&mut meta, cluster_name);
    meta.push_str(&format!(
        ",\"State\":\"Running\",\"Generation\":{GENERATION}}}"
    ));
    if meta.len() > META_BYTES_MAX {
        bail!(
            "SIDECAR_CLUSTER_NAME={cluster_name:?} takes {} bytes as JSON in gossip metadata: \
             expected at most {META_BYTES_MAX}, so keep to printable characters",
            meta.len()
        );
    }
    Ok(meta)
}

/// What kind of program a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of ours.
    Ours,
    /// Go Sidecar: it forgets records that are not refreshed, and does not know digests.
    Go,
    /// Not a sidecar, for example Serf: it has no records and wants none.
    Foreign,
}

impl Kind {
    /// How records of such a member are kept believable.
    pub fn upkeep(self) -> Upkeep {
        match self {
            Self::Ours => Upkeep::Membership,
            Self::Go | Self::Foreign => Upkeep::Refresh,
        }
    }
}

/// The kind of program that has this metadata. A JSON object or nothing at all is Go Sidecar's.
pub fn kind(meta: &[u8]) -> Kind {
    #[derive(serde::Deserialize)]
    struct Meta {
        #[serde(rename = "Generation")]
        generation: Option<serde_json::Value>,
    }
    if meta.is_empty() {
        return Kind::Go;
    }
    match serde_json::from_slice::<Meta>(meta) {
        Ok(Meta {
            generation: Some(generation),
        }) if generation == GENERATION => Kind::Ours,
        Ok(_) => Kind::Go,
        Err(_) => Kind::Foreign,
    }
}

/// Whether this is the metadata of one of ours.
pub fn is_ours(meta: &[u8]) -> bool {
    kind(meta) == Kind::Ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_told_from_others() {
        let ours = write("lab \"7\"").unwrap();
        assert_eq!(
            ours,
            "{\"ClusterName\":\"lab \\\"7\\\"\",\"State\":\"Running\",\"Generation\":1}"
        );
        for (meta, expected) in [
            (ours.as_bytes(), Kind::Ours),
            (b"{\"ClusterName\":\"lab\",\"State\":\"Running\"}", Kind::Go),
            (b"{\"Generation\":2}", Kind::Go),
            (b"{\"Generation\":\"1\"}", Kind::Go),
            (b"", Kind::Go),
            // Serf's tags.
            (b"\xff\x81\xa4role\xa3web", Kind::Foreign),
        ] {
            assert_eq!(kind(meta), expected, "{meta:?}");
        }
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        assert!(write(&"x".repeat(450)).is_ok());
        assert!(write(&"x".repeat(512)).is_err());
    }
}
