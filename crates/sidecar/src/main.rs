//! The `sidecar` binary: parse, resolve, run, exit code.

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser as _;
#[cfg(target_os = "linux")]
use sidecar::proxy::worker;
use sidecar::{
    agent,
    cli::{self, Cli, Command, StaticAction, environment},
    client,
    companion::{self, settings::Given},
    config::{self, LogFormat},
    demo, keygen, logging,
    proxy::envoy::bootstrap::Bootstrap,
    sample_service,
    signals::Signals,
    simulate, static_check,
};

/// Exit code of every fatal error, as in the original.
const FATAL: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Printing can only fail when nobody reads, and then there is nobody to tell.
        let _ = error.print();
        let words = std::env::args_os().skip(1);
        std::process::exit(cli::exit_code(&error, words))
    });
    if cli.agent.with_parent {
        agent::end_with_parent();
    }
    let outcome = match &cli.command {
        None => run_agent(&cli),
        Some(Command::Client(command)) => return client::run(command, &cli.agent).into(),
        Some(Command::Config { json: true }) => print_config_as_json(&cli),
        Some(Command::Config { json: false }) => print_config(&cli),
        Some(Command::Keygen { bytes }) => print_key(*bytes),
        Some(Command::Static { action }) => check_static_file(&cli, action),
        Some(Command::HaproxyApi {
            config_file,
            follow,
            subscribe,
        }) => run_companion(Given {
            file: config_file.clone(),
            follow: follow.clone(),
            subscribe: subscribe.clone(),
        }),
        Some(Command::EnvoyBootstrap { sotw, admin }) => print_bootstrap(&cli, *sotw, *admin),
        Some(Command::Demo) => run(demo::run()),
        Some(Command::Simulate(options)) => simulate::run(options),
        #[cfg(target_os = "linux")]
        Some(Command::ProxyWorker { settings, succeed }) => serde_json::from_str(settings)
            .map_err(anyhow::Error::from)
            .and_then(|settings| worker::run(&settings, *succeed)),
        Some(Command::SampleService { listen, name }) => {
            run(sample_service::run(*listen, name.clone()))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("{error:#}"));
            ExitCode::from(FATAL)
        }
    }
}

fn run_agent(cli: &Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let signals = runtime.block_on(async { Signals::listen() })?;
    let config = resolve(cli)?;
    logging::start(config.log_level, config.log_format);
    let outcome = runtime.block_on(agent::run(config, signals));
    // Anything that still blocks must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

fn run_companion(given: Given) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let signals = runtime.block_on(async { Signals::listen() })?;
    let settings = companion::settings::Settings::read(given, &environment())?;
    logging::start(settings.log_level, LogFormat::Text);
    let outcome = runtime.block_on(companion::run(settings, signals));
    runtime.shutdown_background();
    outcome
}

fn run(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(task)
}

fn resolve(cli: &Cli) -> anyhow::Result<config::Config> {
    cli.agent.resolve().map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
        anyhow::anyhow!("the configuration is not usable:{}", lines.concat())
    })
}

#[expect(
    clippy::print_stdout,
    reason = "printing is what the subcommand is for"
)]
fn print_config(cli: &Cli) -> anyhow::Result<()> {
    let config = resolve(cli)?;
    for line in config.lines() {
        println!("{line}");
    }
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "printing is what the subcommand is for"
)]
fn print_config_as_json(cli: &Cli) -> anyhow::Result<()> {
    let outcome = cli.agent.resolve();
    println!("{}", config::print::json(&outcome)?);
    let Err(errors) = outcome else { return Ok(()) };
    let problems = errors.len();
    anyhow::bail!("the configuration is not usable: it has {problems} problems")
}

#[expect(
    clippy::print_stdout,
    reason = "printing is what the subcommand is for"
)]
fn check_static_file(cli: &Cli, action: &StaticAction) -> anyhow::Result<()> {
    let StaticAction::Check { file, json } = action;
    let config = resolve(cli)?;
    let file = file.clone().unwrap_or_else(|| config.static_file.clone());
    run(async {
        let outcome = static_check::check(&config, file).await?;
        if *json {
            println!("{}", static_check::json(&outcome)?);
        } else if let Ok(preview) = &outcome {
            print!("{preview}");
        }
        outcome.map(drop).map_err(anyhow::Error::new)
    })
}

#[expect(
    clippy::print_stdout,
    reason = "printing is what the subcommand is for"
)]
fn print_bootstrap(cli: &Cli, sotw: bool, admin: Option<SocketAddr>) -> anyhow::Result<()> {
    let config = resolve(cli)?;
    let bootstrap = Bootstrap {
        node: config.node_name,
        cluster_name: config.cluster_name,
        port: config.envoy.grpc_port,
        sotw,
        admin,
    };
    println!("{}", serde_json::to_string_pretty(&bootstrap.document())?);
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "printing is what the subcommand is for"
)]
fn print_key(bytes: usize) -> anyhow::Result<()> {
    let key = keygen::generate(bytes)?;
    println!("{}", key.as_str());
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "the log may not be set up when a fatal error ends the start"
)]
fn print_error(text: &str) {
    eprintln!("sidecar: {text}");
}
