//! The kernel data plane: connections to services in tcp mode are translated to their endpoints by
//! nf_tables, and no process carries a byte of them.
//!
//! - `turns`: the endpoints of a service by weight; `split`: which routes the kernel can serve;
//! - `target`: what it should hold, `plan`: changes from what it holds to that; all pure;
//! - `ruleset`: our table, and changes as messages; `held`: the table read back; `nft`: the messages;
//! - `plane`: all of this together; `driver`: the task around it; `listening`: who listens here.
//!
//! The rules outlive the agent. What the kernel says it holds is the truth: the next agent reads it and
//! changes what is different, and so does this one when somebody else has changed nf_tables.
//!
//! Truth: `linux/netfilter/nf_tables.h`; the wiki of nftables; measured with Linux 6.18. No program is
//! needed, `nft list table inet sidecar_7946` shows what there is.

#[cfg(target_os = "linux")]
mod driver;
#[cfg(target_os = "linux")]
mod held;
#[cfg(target_os = "linux")]
mod listening;
#[cfg(target_os = "linux")]
mod nft;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod plane;
#[cfg(target_os = "linux")]
mod ruleset;
#[cfg(target_os = "linux")]
mod split;
mod status;
#[cfg(target_os = "linux")]
mod target;
#[cfg(target_os = "linux")]
mod trouble;
#[cfg(target_os = "linux")]
mod turns;

pub use self::status::{KernelEndpoint, KernelPort, KernelState, KernelStatus};
#[cfg(target_os = "linux")]
pub use self::{
    driver::{Inputs, Settings, run},
    nft::socket::NftError,
    plane::{Plane, PlaneCounts},
};

/// Takes away the rules that an agent with another data plane left behind. Without the privilege there are
/// none of ours, or nothing can be done about them: that is no news.
#[cfg(target_os = "linux")]
pub fn retire(gossip_port: u16) {
    let table = ruleset::table_name(gossip_port);
    let removed = nft::socket::Nft::open().and_then(|mut nft| plane::remove(&mut nft, &table));
    match removed {
        Ok(true) => tracing::info!(table, "rules of an agent with another data plane are gone"),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "no rules are taken away"),
    }
}

/// Whether this process may use nf_tables here, found out by reading the number of its generation.
///
/// # Errors
/// What the kernel says: no privilege, or no nf_tables.
#[cfg(target_os = "linux")]
pub fn is_usable() -> Result<(), NftError> {
    nft::socket::Nft::open()?.generation().map(drop)
}
