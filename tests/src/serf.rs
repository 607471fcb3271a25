//! A Serf agent on a host: a foreign member of the cluster, which speaks the same membership
//! protocol and tells what it makes of the others.

use std::{collections::BTreeMap, process::Output, sync::Arc};

use crate::{Lab, Process, agent::GOSSIP_PORT, host::Host};

/// A running Serf agent. Its node has the name of its host.
#[derive(Debug)]
pub struct Serf {
    /// Where it runs.
    pub host: Arc<Host>,
    seeds: Vec<usize>,
    number: usize,
    process: Process,
}

impl Serf {
    /// Starts Serf on a host, to join the hosts `seeds` as soon as one of them answers.
    ///
    /// # Panics
    /// When Serf is not installed.
    pub fn start(lab: &Lab, number: usize, seeds: &[usize]) -> Self {
        Self {
            host: Arc::clone(lab.host(number)),
            seeds: seeds.to_vec(),
            number,
            process: spawn(lab, number, seeds),
        }
    }

    /// Starts it again as it was, after it ended.
    pub fn restart(&mut self, lab: &Lab) {
        self.process.kill();
        self.process = spawn(lab, self.number, &self.seeds);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How many lines of its log have this word.
    pub fn mentions(&self, word: &str) -> usize {
        self.process.mentions(word)
    }

    /// Runs `serf` with these words on its host.
    pub fn command(&self, words: &[&str]) -> Output {
        self.host.run(&[&["serf"], words].concat())
    }

    /// Everybody it knows, and as what: `alive`, `leaving`, `left` or `failed`. Nobody while it
    /// does not answer.
    pub fn members(&self) -> BTreeMap<String, String> {
        let output = self.command(&["members"]);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
            })
            .collect()
    }

    /// Whether it lists a member as one of `states`.
    ///
    /// # Errors
    /// With the state in which it lists the member instead.
    pub fn expect(&self, member: &str, states: &[&str]) -> Result<(), String> {
        self.expect_all(&[member], states)
    }

    /// Whether it lists each of these members as one of `states`.
    ///
    /// # Errors
    /// With the first that it lists as something else.
    pub fn expect_all(&self, members: &[&str], states: &[&str]) -> Result<(), String> {
        let listed = self.members();
        members.iter().try_for_each(|&member| {
            let state = listed.get(member).map(String::as_str);
            if state.is_some_and(|state| states.contains(&state)) {
                return Ok(());
            }
            Err(format!(
                "{} lists {member} as {state:?}, not as one of {states:?}",
                self.host.name
            ))
        })
    }
}

fn spawn(lab: &Lab, number: usize, seeds: &[usize]) -> Process {
    let host = lab.host(number);
    let mut command = vec![
        "serf".to_owned(),
        "agent".to_owned(),
        format!("-node={}", host.name),
        format!("-bind={}:{GOSSIP_PORT}", host.ip),
        "-log-level=info".to_owned(),
        // A seed may come up a moment later; the default is half a minute.
        "-retry-interval=1s".to_owned(),
    ];
    let joins = seeds
        .iter()
        .map(|&seed| format!("-retry-join={}", lab.host(seed).ip));
    command.extend(joins);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    lab.program(number, &format!("serf-{}", host.name), &words)
}
