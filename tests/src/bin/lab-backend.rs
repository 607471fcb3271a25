//! The web server of benches and containers: `lab-backend LISTEN NAME [LINGER_MS]`. What it does is told in
//! `blackbox::backend`.

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    return blackbox::backend::main();
    #[cfg(not(target_os = "linux"))]
    std::process::ExitCode::FAILURE
}
