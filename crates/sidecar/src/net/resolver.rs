//! Host names to addresses through hickory, never through libc: `getaddrinfo` loads modules at run
//! time, which crashes static glibc programs.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;

/// Resolves names with the hosts file and the name servers of `/etc/resolv.conf`.
///
/// Cheap to clone. The configuration is read at the first lookup that needs it, and again after a
/// lookup failed to read it, so an agent can start before the network is configured.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    inner: std::sync::Arc<tokio::sync::Mutex<Option<TokioResolver>>>,
}

/// A name that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {name:?}: {reason}")]
pub struct ResolveError {
    /// The name asked for.
    pub name: String,
    /// What the resolver said.
    pub reason: String,
}

impl Resolver {
    /// All addresses of a name; an address text answers itself. Never empty.
    ///
    /// # Errors
    /// When no name server answers, or the name has no address.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let bare = name
            .strip_prefix('[')
            .and_then(|it| it.strip_suffix(']'))
            .unwrap_or(name);
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        let fail = |reason: String| ResolveError {
            name: name.to_owned(),
            reason,
        };
        let resolver = self.resolver().await.map_err(fail)?;
        let answer = resolver
            .lookup_ip(name)
            .await
            .map_err(|error| fail(error.to_string()))?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() {
            return Err(fail("it has no addresses".to_owned()));
        }
        Ok(addresses)
    }

    async fn resolver(&self) -> Result<TokioResolver, String> {
        let mut inner = self.inner.lock().await;
        if let Some(resolver) = &*inner {
            return Ok(resolver.clone());
        }
        let resolver = TokioResolver::builder_tokio()
            .and_then(hickory_resolver::ResolverBuilder::build)
            .map_err(|error| error.to_string())?;
        Ok(inner.insert(resolver).clone())
    }
}
