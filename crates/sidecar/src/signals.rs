//! What the signals this process gets ask for. Listened for before anything else happens: until
//! then a signal does what the system does with it, which is to end the process, or nothing at all
//! where it is the first of its container.

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::info;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// This host's services are gone, and so is the agent: SIGTERM, SIGINT.
    Leave,
    /// The agent is back in a moment, and its services go on meanwhile: SIGUSR1.
    Restart,
}

/// The signals an agent understands.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    restart: Signal,
    reload: Signal,
}

impl Signals {
    /// Listens from now on, in the runtime this is called in.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            restart: listen(SignalKind::user_defined1(), "SIGUSR1")?,
            reload: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// Waits for the next signal that says to stop. Each one before it that says to read files again
    /// counts `reload` up.
    pub async fn stop(&mut self, reload: &watch::Sender<u64>) -> Stop {
        loop {
            let (name, stop) = tokio::select! {
                _ = self.terminate.recv() => ("SIGTERM", Stop::Leave),
                _ = self.interrupt.recv() => ("SIGINT", Stop::Leave),
                _ = self.restart.recv() => ("SIGUSR1", Stop::Restart),
                _ = self.reload.recv() => {
                    info!("got SIGHUP: reading the static file again");
                    reload.send_modify(|count| *count += 1);
                    continue;
                }
            };
            info!("got {name}");
            return stop;
        }
    }
}
