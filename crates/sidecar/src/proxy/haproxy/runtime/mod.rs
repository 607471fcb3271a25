//! Runtime mode: a HAProxy with a fixed configuration that is told every change over its admin socket.
//!
//! One frontend listens on all ports from the start. A map leads from the port a client came to, to
//! one of many pools (backends that are there from the start, empty); what is not in the map is reset
//! at once. A service that comes takes a pool, gets its servers there and then its entry in the map.
//! So no change of a service makes HAProxy reload: that is only for ports and pools it has not.
//!
//! - `plan`: from what HAProxy holds and what is wanted to commands, pure;
//! - `socket`, `state`: asking HAProxy, and understanding it;
//! - `layout`, `boot`: what it has to be started with, and the files it starts from;
//! - `process`: its start, reload and end;
//! - `driver`: all of this together, look by look.
//!
//! What is here was measured with HAProxy 2.6.12; the commands are those of its Management Guide.

mod boot;
mod driver;
mod layout;
mod plan;
mod process;
mod socket;
mod state;
mod trouble;

use std::{net::IpAddr, sync::Arc};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    driver::{Driver, Look},
    layout::Asked,
    process::Program,
};
use super::{HaproxyStatus, Inputs, without_itself};
use crate::config::HaproxyConfig;

/// Keeps a HAProxy of its own serving the newest routes on `bind` until `shutdown`. HAProxy runs on
/// after that, except where the agent leaves the cluster.
pub async fn run(
    config: HaproxyConfig,
    bind: IpAddr,
    mut inputs: Inputs,
    status: watch::Sender<Arc<HaproxyStatus>>,
    shutdown: CancellationToken,
) {
    let asked = Asked::new(&config, bind);
    let program = Program {
        // HAProxy's own working directory is this one.
        dir: std::path::absolute(&config.dir).unwrap_or(config.dir),
        binary: config.binary,
    };
    let mut driver = Driver::new(program, asked, inputs.reserved_ports, status);
    tokio::select! {
        () = shutdown.cancelled() => return,
        changed = inputs.routes.changed() => if changed.is_err() { return },
    }
    let mut has_source = true;
    let mut look = Look::Whole;
    let mut due = Instant::now();
    loop {
        let routes = inputs.routes.borrow_and_update().clone();
        driver.want(plan::wanted(&without_itself(&routes, bind)));
        let pause = driver.step(look).await;
        if look == Look::Whole {
            due = Instant::now() + pause;
        }
        look = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // Everything is looked at in its time, however many changes there are.
            () = tokio::time::sleep_until(due) => Look::Whole,
            changed = inputs.routes.changed(), if has_source => {
                has_source = changed.is_ok();
                Look::Change
            }
        };
    }
    driver.end(inputs.leaving.is_cancelled());
}
