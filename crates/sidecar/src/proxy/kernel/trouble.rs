//! Why the kernel does not serve, and what to do about it.

use super::nft::socket::NftError;

/// `EPERM`, `ENOENT`, `EINVAL`, `EPROTONOSUPPORT`, `EAFNOSUPPORT` and `EOPNOTSUPP`.
const NOT_PERMITTED: i32 = 1;
const NO_ENTRY: i32 = 2;
const INVALID: i32 = 22;
const NO_PROTOCOL: [i32; 3] = [93, 97, 95];

/// Why the kernel does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Of the bind address.
    #[error("the kernel cannot serve this bind address: {0}")]
    Bind(&'static str),
    /// This process may not.
    #[error("this process may not change the kernel's rules: {0}")]
    NotPermitted(NftError),
    /// The kernel has not what is needed.
    #[error("this kernel lacks nf_tables, or a part of it: {0}")]
    Missing(NftError),
    /// Anything else.
    #[error("{0}")]
    Other(NftError),
}

impl From<NftError> for Trouble {
    fn from(error: NftError) -> Self {
        match error.number() {
            Some(NOT_PERMITTED) => Self::NotPermitted(error),
            Some(number) if NO_PROTOCOL.contains(&number) => Self::Missing(error),
            Some(NO_ENTRY | INVALID) => Self::Missing(error),
            _ => Self::Other(error),
        }
    }
}

impl Trouble {
    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Bind(_) => "give SIDECAR_BIND_IP an address that is for services alone",
            Self::NotPermitted(_) => {
                "run as root, or give the capability NET_ADMIN (docker run --cap-add NET_ADMIN \
                 --network host)"
            }
            Self::Missing(_) => {
                "modprobe -a nf_tables nft_chain_nat nft_numgen nft_ct nft_masq nft_reject_inet, \
                 or a kernel from 5.7 on"
            }
            Self::Other(_) => "none known; SIDECAR_PROXY=builtin does without the kernel's rules",
        }
    }
}
