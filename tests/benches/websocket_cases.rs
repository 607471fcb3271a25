//! The cases of the Autobahn test suite for WebSockets, through the built-in proxy in each of its modes and
//! past it: `cargo bench -p blackbox --bench websocket_cases`. No measurement, but made of programs that a
//! test may not ask for: `pip install kosoku websockets`, the suite's cases in a runner for Python 3, and a
//! server that echoes.
//!
//! Most cases are about frames, which a proxy carries without looking: what comes out has to be what comes out
//! without it, be that good or bad. Left out are those that send for minutes (9) and compression (12, 13).
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
fn main() {
    use std::collections::BTreeMap;

    use blackbox::{AgentBuilder, Lab, Machine, PROXY_IP, eventually, haproxy_target, require};
    use serde_json::Value;

    const PORT: u16 = 8300;
    const MODES: [(&str, u16); 3] = [("http", 9001), ("ws", 9002), ("tcp", 9003)];
    const STARTED: std::time::Duration = std::time::Duration::from_secs(20);
    const ECHO: &str = "import asyncio\n\
        from websockets.asyncio.server import serve\n\
        async def echo(socket):\n    async for message in socket: await socket.send(message)\n\
        async def main():\n    async with serve(echo, '0.0.0.0', 8300, max_size=None):\n        \
        await asyncio.get_running_loop().create_future()\n\
        asyncio.run(main())\n";

    require("kosoku");
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let host = lab.host(0);
    let _echo = lab.program(0, "echo", &["python3", "-c", ECHO]);
    let targets = MODES.map(|(mode, port)| haproxy_target(mode, mode, PORT, port));
    let _agent = AgentBuilder::new(&lab, 0).services(&targets).start();

    let run = |name: &str, at: std::net::SocketAddr| -> BTreeMap<String, String> {
        eventually(&format!("{at} answers"), STARTED, || {
            // It wants an upgrade, and says so.
            let answer = host.get(at, "/").map_err(|error| error.to_string())?;
            (answer.status == 426)
                .then_some(())
                .ok_or_else(|| format!("{answer:?}"))
        });
        let out = lab.dir().join(name).display().to_string();
        let at = at.to_string();
        let output = host.run(&[
            "kosoku", "-x", "9.*", "-x", "12.*", "-x", "13.*", "-o", &out, &at,
        ]);
        let index = std::fs::read_to_string(format!("{out}/index.json"));
        let index = index.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let index: BTreeMap<String, BTreeMap<String, Value>> =
            serde_json::from_str(&index).unwrap();
        let cases = index.into_values().next().unwrap();
        let text = |case: &Value| {
            // Whether what came before a fault is still echoed is a matter of chance.
            let behavior = match case["behavior"].as_str().unwrap() {
                "NON-STRICT" => "OK",
                other => other,
            };
            format!(
                "{behavior}, close {}",
                case["behaviorClose"].as_str().unwrap()
            )
        };
        cases
            .iter()
            .map(|(number, case)| (number.clone(), text(case)))
            .collect()
    };
    let direct = run("direct", (host.ip, PORT).into());
    assert!(direct.len() > 200, "only {} cases", direct.len());
    let mut differ = 0;
    for (mode, port) in MODES {
        let through = run(mode, (PROXY_IP, port).into());
        let good = through.values().filter(|it| *it == "OK, close OK").count();
        println!("mode {mode}: {} cases, {good} good", through.len());
        for (number, without) in &direct {
            let with = through.get(number);
            if with != Some(without) {
                differ += 1;
                println!("  {number}: {with:?}, without the proxy {without}");
            }
        }
    }
    println!("{differ} cases end otherwise than without the proxy");
    assert_eq!(differ, 0);
}

#[cfg(not(target_os = "linux"))]
fn main() {}
