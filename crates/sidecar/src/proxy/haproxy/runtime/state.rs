//! What HAProxy holds, in its own words: the answers of `show info`, `show backend`, `show map` and
//! `show servers state`, and what its answers to commands mean (HAProxy's Management Guide, 9.3).

use std::{collections::BTreeSet, net::SocketAddr};

use super::{
    plan::{Command, Held, MAP, Pool, Server, ServerState},
    socket::{Session, SocketError},
};

/// The bit of `srv_admin_state` for maintenance by command.
const FORCED_MAINTENANCE: u8 = 0x01;

/// Why HAProxy's state is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// There is no answer.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is one that says something else; asking again hardly helps.
    #[error("HAProxy answered {0:?} with {1:?}")]
    Unknown(String, String),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The worker.
    pub(super) pid: u32,
    /// `description` of its configuration.
    pub(super) description: String,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is as the command says.
    Done,
    /// The server has connections; it will go later.
    Busy,
    /// HAProxy's words for why not.
    Refused(String),
}

/// Asks who answers.
pub(super) async fn identity(session: &mut Session) -> Result<Identity, StateError> {
    let answer = session.ask("show info").await?;
    let field = |name: &str| {
        answer.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim())
        })
    };
    let pid = field("Pid").and_then(|pid| pid.parse().ok());
    let pid = pid.ok_or_else(|| unknown("show info", answer.lines().next().unwrap_or_default()))?;
    let description = field("description").or_else(|| field("Description"));
    Ok(Identity {
        pid,
        description: description.unwrap_or_default().to_owned(),
    })
}

/// Reads everything HAProxy holds.
pub(super) async fn read(session: &mut Session) -> Result<Held, StateError> {
    let mut held = Held::default();
    let backends = session.ask("show backend").await?;
    for name in backends.lines() {
        if let Ok(pool) = name.trim().parse::<Pool>() {
            held.pools.entry(pool).or_default();
        }
    }
    read_map(session, &mut held).await?;
    let servers = session.ask("show servers state").await?;
    parse_servers(&servers, &mut held)?;
    Ok(held)
}

/// Reads the map and these pools anew; the rest stays as it was known.
pub(super) async fn read_part(
    session: &mut Session,
    held: &mut Held,
    pools: &BTreeSet<Pool>,
) -> Result<(), StateError> {
    read_map(session, held).await?;
    for pool in pools {
        if let Some(servers) = held.pools.get_mut(pool) {
            servers.clear();
        }
        let answer = session.ask(&format!("show servers state {pool}")).await?;
        parse_servers(&answer, held)?;
    }
    Ok(())
}

async fn read_map(session: &mut Session, held: &mut Held) -> Result<(), StateError> {
    let answer = session.ask(&format!("show map {MAP}")).await?;
    parse_map(&answer, held)
}

fn parse_map(answer: &str, held: &mut Held) -> Result<(), StateError> {
    held.ports.clear();
    held.strays.clear();
    for line in answer.lines().filter(|it| !it.trim().is_empty()) {
        let (reference, entry) = line.split_once(' ').unwrap_or((line, ""));
        let is_reference = reference.strip_prefix("0x").is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_hexdigit())
        });
        if !is_reference {
            return Err(unknown("show map", line));
        }
        let (key, value) = entry.split_once(' ').unwrap_or((entry, ""));
        match key.parse::<u16>() {
            Ok(port) if port.to_string() == key => {
                let values = held.ports.entry(port).or_default();
                values.insert(value.to_owned());
            }
            _ => held.strays.push(reference.to_owned()),
        }
    }
    Ok(())
}

fn parse_servers(answer: &str, held: &mut Held) -> Result<(), StateError> {
    let ask = "show servers state";
    let mut lines = answer.lines();
    let version = lines.next().unwrap_or_default();
    if version != "1" {
        return Err(unknown(ask, version));
    }
    let header = lines.next().unwrap_or_default();
    let names: Vec<_> = header.trim_start_matches('#').split_whitespace().collect();
    let column = |name: &str| {
        let found = names.iter().position(|it| *it == name);
        found.ok_or_else(|| unknown(ask, header))
    };
    let columns = [
        column("be_name")?,
        column("srv_name")?,
        column("srv_addr")?,
        column("srv_port")?,
        column("srv_admin_state")?,
        column("srv_uweight")?,
    ];
    for line in lines.filter(|it| !it.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [
            Some(backend),
            Some(name),
            Some(ip),
            Some(port),
            Some(admin),
            Some(weight),
        ] = columns.map(|column| words.get(column).copied())
        else {
            return Err(unknown(ask, line));
        };
        let Some(servers) = backend.parse().ok().and_then(|it| held.pools.get_mut(&it)) else {
            continue;
        };
        let (Ok(admin), Ok(weight)) = (admin.parse::<u8>(), weight.parse()) else {
            return Err(unknown(ask, line));
        };
        let ip = ip.parse().ok();
        let address = ip
            .zip(port.parse().ok())
            .map(|(ip, port)| SocketAddr::new(ip, port));
        let state = match admin {
            0 => ServerState::Ready,
            _ if admin & FORCED_MAINTENANCE != 0 => ServerState::Maintenance,
            _ => ServerState::Other,
        };
        servers.insert(
            name.to_owned(),
            Server {
                address,
                weight,
                state,
            },
        );
    }
    Ok(())
}

/// What HAProxy's answer to a command means. Silence is consent, except where it has a word for it.
pub(super) fn outcome(command: &Command, answer: &str) -> Outcome {
    let is_done = match command {
        Command::AddServer(..) => answer == "New server registered.",
        // Who took it away meanwhile did the same.
        Command::DeleteServer(..) => ["Server deleted.", "No such server."].contains(&answer),
        Command::DeletePort(_) | Command::DeleteStray(_) => {
            ["", "Key not found."].contains(&answer)
        }
        Command::Enable(..)
        | Command::SetWeight(..)
        | Command::AddPort(..)
        | Command::SetPort(..)
        | Command::Disable(..) => answer.is_empty(),
    };
    match command {
        _ if is_done => Outcome::Done,
        Command::DeleteServer(..) if answer.contains("still has connections") => Outcome::Busy,
        _ => Outcome::Refused(excerpt(answer)),
    }
}

fn unknown(command: &str, answer: &str) -> StateError {
    StateError::Unknown(command.to_owned(), excerpt(answer))
}

/// Enough of an answer to know it: HAProxy lists all its commands when it does not know one.
fn excerpt(answer: &str) -> String {
    let line = answer.lines().next().unwrap_or_default();
    line.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 h1 1 node-a-1 127.0.0.1 2 0 10 10 0 1 0 2 0 0 0 0 - 8080 - 0 0 - - 0
3 h1 2 b ::1 0 1 256 256 0 1 0 0 0 0 0 0 - 81 - 0 0 - - 0
3 h1 3 c - 0 8 1 1 0 1 0 0 0 0 0 0 - 81 - 0 0 - - 0
9 others 1 x 127.0.0.1 2 0 1 1 0 1 0 2 0 0 0 0 - 8080 - 0 0 - - 0";

    fn held() -> Held {
        Held {
            pools: Pool::all(2, 0).map(|it| (it, Default::default())).collect(),
            ..Held::default()
        }
    }

    #[test]
    fn servers_are_read_by_the_names_of_the_columns() {
        let mut held = held();
        parse_servers(SERVERS, &mut held).unwrap();
        let pool = "h1".parse().unwrap();
        let server = |address: Option<&str>, weight, state| Server {
            address: address.map(|it| it.parse().unwrap()),
            weight,
            state,
        };
        let wanted = [
            ("b", server(Some("[::1]:81"), 256, ServerState::Maintenance)),
            ("c", server(None, 1, ServerState::Other)),
            (
                "node-a-1",
                server(Some("127.0.0.1:8080"), 10, ServerState::Ready),
            ),
        ];
        let found: Vec<_> = held.pools[&pool]
            .iter()
            .map(|(name, it)| (name.as_str(), it.clone()))
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error_with_its_words() {
        for text in [
            "",
            "Unknown command, but maybe one of the following",
            "2\n# be_id be_name",
            "1\n# be_id be_name srv_id",
            &SERVERS[..SERVERS.len() - 60],
            &SERVERS.replace(" 2 0 10 ", " 2 x 10 "),
        ] {
            let error = parse_servers(text, &mut held()).unwrap_err();
            assert!(error.to_string().starts_with("HAProxy answered"), "{text}");
        }
        let mut held = held();
        assert!(parse_map("Unknown map identifier.", &mut held).is_err());
    }

    #[test]
    fn foreign_entries_of_the_map_are_strays() {
        let mut held = held();
        let answer =
            "0x556ebb345750 20001 h1\n0x7f31 20001 t9\n0x1 020 h1\n0x2 web h1\n0x3 70000 x";
        parse_map(answer, &mut held).unwrap();
        assert_eq!(held.ports.len(), 1);
        assert_eq!(
            held.ports[&20001],
            ["h1".to_owned(), "t9".to_owned()].into()
        );
        assert_eq!(held.strays, ["0x1", "0x2", "0x3"]);
    }

    #[test]
    fn answers_to_commands_are_understood() {
        let pool: Pool = "t0".parse().unwrap();
        let name = || "a".to_owned();
        let refused = |words: &str| Outcome::Refused(words.to_owned());
        let add = Command::AddServer(pool, name(), ([10, 0, 0, 1], 80).into(), 100);
        assert_eq!(outcome(&add, "New server registered."), Outcome::Done);
        assert_eq!(
            outcome(&add, "No such backend."),
            refused("No such backend.")
        );
        assert_eq!(outcome(&add, ""), refused(""));
        let delete = Command::DeleteServer(pool, name());
        assert_eq!(outcome(&delete, "Server deleted."), Outcome::Done);
        let busy = "Server still has connections attached to it, cannot remove it.";
        assert_eq!(outcome(&delete, busy), Outcome::Busy);
        let only = "Only servers in maintenance mode can be deleted.";
        assert_eq!(outcome(&delete, only), refused(only));
        assert_eq!(
            outcome(&Command::DeletePort(1), "Key not found."),
            Outcome::Done
        );
        let words = "Unknown command, but maybe one of the following ones is a better match:";
        let answer = format!("{words}\n  add acl");
        assert_eq!(outcome(&Command::AddPort(1, pool), &answer), refused(words));
    }
}
