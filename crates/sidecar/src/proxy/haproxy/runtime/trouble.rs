//! What keeps HAProxy from serving what it should, for people and for counting.

use super::{
    boot::FileError, layout::LayoutError, process::ProcessError, socket::SocketError,
    state::StateError,
};

/// Most ports named in one message.
const PORTS_NAMED_MAX: usize = 8;

/// Why HAProxy does not serve what it should. All of it is tried again by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It keeps what it has; this agent takes over when the other one ends.
    #[error("another agent drives the HAProxy of {0}")]
    Locked(String),
    /// The runtime directory cannot be used.
    #[error("HAProxy's files: {0}")]
    Files(#[from] FileError),
    /// It answers, but has another configuration than any of ours.
    #[error("the HAProxy at {0} is none of ours (it calls itself {1:?}): it is left alone")]
    Foreign(String, String),
    /// It lives, but nobody listens at its socket; it is replaced when that stays so.
    #[error("HAProxy runs, but {0}")]
    Unreachable(SocketError),
    /// It ended too often.
    #[error("HAProxy has ended again, and is started again after a pause")]
    Pausing,
    /// There is no address to listen at.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It could not be started or reloaded.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It started, and does not answer with what it was started with.
    #[error("HAProxy was started and does not answer: {0}")]
    Late(String),
    /// No answer.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Not the answer there should be.
    #[error(transparent)]
    State(StateError),
    /// It answered that it would not, or that it had, and it has not.
    #[error("HAProxy did not take {0}")]
    Refused(String),
    /// Ports without a listener.
    #[error(
        "ServicePorts {} cannot be opened: another program listens there, or the file descriptors \
         have run out",
        named(.0)
    )]
    Ports(Vec<u16>),
    /// All pools are in use; a reload with more is due, or there are as many as there can be.
    #[error("ServicePorts {} are not served: all pools of their mode are in use{hint}", named(.ports))]
    Pools { ports: Vec<u16>, hint: &'static str },
}

impl From<StateError> for Trouble {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Socket(error) => Self::Socket(error),
            StateError::Unknown(..) => Self::State(error),
        }
    }
}

impl Trouble {
    /// The step that failed, for counting.
    pub(super) fn step(&self) -> &'static str {
        match self {
            Self::Locked(_) => "lock",
            Self::Files(_) => "files",
            Self::Foreign(..) | Self::Unreachable(_) | Self::Socket(_) | Self::State(_) => "socket",
            Self::Pausing | Self::Layout(_) | Self::Process(_) | Self::Late(_) => "start",
            Self::Refused(_) => "command",
            Self::Ports(_) => "ports",
            Self::Pools { .. } => "pools",
        }
    }
}

fn named(ports: &[u16]) -> String {
    let mut words: Vec<_> = ports.iter().map(u16::to_string).collect();
    if ports.len() > PORTS_NAMED_MAX {
        words.truncate(PORTS_NAMED_MAX);
        words.push(format!("and {} more", ports.len() - PORTS_NAMED_MAX));
    }
    words.join(", ")
}
