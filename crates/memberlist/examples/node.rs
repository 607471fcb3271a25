//! A bare member on the command line: joins, prints what it hears, leaves on end of input.
//!
//! `cargo run -p memberlist --example node -- NAME BIND_IP[:PORT] [SEED_IP:PORT…]`
//!
//! It accepts peers without a cluster name and speaks the delegate versions of Serf, so a Serf
//! agent can be its peer.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::{Config, Delegate, Event};

struct NoState;

impl Delegate for NoState {
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::new()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments
        .next()
        .ok_or("usage: node NAME BIND_IP[:PORT] [SEED_IP:PORT…]")?;
    let bind = arguments.next().ok_or("the address to bind is missing")?;
    let bind: SocketAddr = match bind.parse::<IpAddr>() {
        Ok(ip) => (ip, 7946).into(),
        Err(_) => bind.parse()?,
    };
    let seeds: Vec<SocketAddr> = arguments
        .map(|seed| seed.parse())
        .collect::<Result<_, _>>()?;

    let mut config = Config::lan(name, bind.ip());
    config.bind = bind;
    config.cluster_name = String::new();
    config.accept_missing_cluster_name = true;
    config.delegate_versions = [2, 5, 5];
    let started = Instant::now();
    let (handle, mut events) = memberlist::start(config, Arc::new(NoState)).await?;
    println!("{:9.3} bound {}", 0.0, handle.local_addr());
    println!(
        "{:9.3} {:?}",
        started.elapsed().as_secs_f64(),
        handle.join(&seeds).await
    );

    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Both the end of input and an unreadable one mean: stop.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = stop.send(());
    });
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => print_event(started, &event),
                None => return Ok(()),
            },
            _ = &mut stopped => break,
        }
    }
    handle.leave(Duration::from_secs(5)).await;
    println!("{:9.3} left", started.elapsed().as_secs_f64());
    println!("{:#?}", handle.stats());
    handle.shutdown().await;
    Ok(())
}

fn print_event(started: Instant, event: &Event) {
    let at = started.elapsed().as_secs_f64();
    match event {
        Event::Joined(m) => println!(
            "{at:9.3} joined  {} {} inc {}",
            m.name, m.addr, m.incarnation
        ),
        Event::Updated(m) => println!("{at:9.3} updated {} inc {}", m.name, m.incarnation),
        Event::Left(m) => println!(
            "{at:9.3} gone    {} {:?} inc {}",
            m.name, m.state, m.incarnation
        ),
        Event::Conflict {
            name,
            existing,
            claimed,
        } => {
            println!("{at:9.3} conflict over {name}: {existing} and {claimed}");
        }
        Event::Message(bytes) => println!("{at:9.3} message of {} bytes", bytes.len()),
        Event::RemoteState { state, join } => {
            println!("{at:9.3} state of {} bytes, join {join}", state.len());
        }
    }
}
