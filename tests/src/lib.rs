//! The lab of the black-box tests: hosts, a Docker engine, agents and scripted services, all real.
//!
//! A host is a network namespace with an address on a bridge and a host name of its own; what runs
//! on it is the shipped binary, `dockerd`, `serf` or a socket of the test. Nothing here knows the
//! agent's code: only its environment, its ports and its log, as `docs` and the API describe them.
//!
//! The lab is not a test framework. Whatever it cannot do (no root, no `ip`, no engine) is a panic
//! that names the remedy, because a black-box test that skips in silence proves nothing.

#![cfg(target_os = "linux")]

mod agent;
pub mod backend;
mod binary;
mod browser;
mod deploys;
mod echo;
mod engine;
mod envoy;
mod events;
mod grpc;
mod haproxy;
mod host;
mod http;
mod json;
mod lab;
mod leftovers;
mod legacy;
mod load;
mod process;
mod relay;
mod responder;
mod serf;
mod tools;
mod traffic;
mod wait;

pub use agent::{API_PORT, Agent, AgentBuilder, GOSSIP_PORT, Instance, PROXY_IP, Route, Status};
pub use binary::sidecar;
pub use browser::{Browser, Key};
pub use deploys::{Deploys, Round};
pub use echo::{echo, upgrade, websocket_echo};
pub use engine::{Engine, IMAGE};
pub use envoy::{Bootstrap, Envoy, envoy_status};
pub use events::{Event, EventStream};
pub use grpc::{GrpcHealth, Serving};
pub use haproxy::{Haproxy, haproxy_status, haproxy_target};
pub use host::Host;
pub use http::{Request, Response, Stream};
pub use json::Json;
pub use lab::{Lab, Machine};
pub use legacy::{LegacyPeer, LegacyPort, LegacyRecord, LegacyState, Network, Timing};
pub use load::under_load;
pub use process::{Exit, Process};
pub use relay::Relay;
pub use responder::{Answer, Responder};
pub use serf::Serf;
pub use tools::require;
pub use traffic::{Failure, Report, Traffic};
pub use wait::{POLL, eventually, throughout};
