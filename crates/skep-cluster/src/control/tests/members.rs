//! Members as plain as can be: they note what is said, and tell what the test wants told.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::control::{JoinRequest, Joined, Members, Refusal};
use crate::membership::{LifeRegistry, LifeRequest, WorkerLife};
use crate::scheduler::{Heartbeat, Holdings};
use crate::worker::{Command, TaskReport};

/// More than any wait of these tests takes on a busy machine.
pub(super) const BOUND: Duration = Duration::from_secs(60);

/// Something that was said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Joined { life: WorkerLife, connection: u64, claimed: Option<WorkerLife>, holdings: Holdings },
    Refused { claimed: Option<WorkerLife> },
    Reports(WorkerLife, Vec<TaskReport>),
    Heartbeat(WorkerLife, Heartbeat),
    Disconnected(WorkerLife, u64),
    Left(WorkerLife),
}

#[derive(Debug)]
struct State {
    registry: LifeRegistry,
    over: HashSet<WorkerLife>,
    connection_count: u64,
    commands: HashMap<WorkerLife, mpsc::Sender<Command>>,
}

#[derive(Debug)]
pub(super) struct PlainMembers {
    token: String,
    state: Mutex<State>,
    said: watch::Sender<Vec<Said>>,
}

impl PlainMembers {
    pub(super) fn new(start: u64) -> Self {
        let registry = LifeRegistry::new(start, 100);
        let state =
            State { registry, over: HashSet::new(), connection_count: 0, commands: HashMap::new() };
        let said = watch::Sender::new(Vec::new());
        Self { token: "hush".to_owned(), state: Mutex::new(state), said }
    }

    /// Waits until something is found in what was said, and returns it.
    pub(super) async fn wait_for<T>(&self, find: impl Fn(&[Said]) -> Option<T>) -> T {
        let mut said = self.said.subscribe();
        match timeout(BOUND, said.wait_for(|said| find(said).is_some())).await {
            Ok(found) => find(&found.unwrap()).unwrap(),
            Err(_) => panic!("not said in time; said was {:?}", self.said.borrow()),
        }
    }

    /// Waits for the joining number `count`, from 1.
    pub(super) async fn joined(&self, count: usize) -> (WorkerLife, u64, Holdings) {
        let find = |said: &[Said]| {
            let joined = |said: &Said| match said {
                Said::Joined { life, connection, holdings, .. } => {
                    Some((*life, *connection, holdings.clone()))
                }
                _ => None,
            };
            said.iter().filter_map(joined).nth(count - 1)
        };
        self.wait_for(find).await
    }

    pub(super) async fn wait_for_said(&self, wanted: Said) {
        self.wait_for(|said| said.contains(&wanted).then_some(())).await;
    }

    pub(super) fn said(&self) -> Vec<Said> {
        self.said.borrow().clone()
    }

    /// All reports so far, and in how many messages they came.
    pub(super) fn reports(said: &[Said]) -> (Vec<TaskReport>, usize) {
        let mut all = Vec::new();
        let mut message_count = 0;
        for said in said {
            if let Said::Reports(_, reports) = said {
                message_count += 1;
                all.extend(reports.iter().cloned());
            }
        }
        (all, message_count)
    }

    pub(super) async fn tell(&self, life: WorkerLife, command: Command) {
        let sender = self.state.lock().commands[&life].clone();
        sender.send(command).await.unwrap();
    }

    /// Gives the connection up, not the life.
    pub(super) fn give_up(&self, life: WorkerLife) {
        self.state.lock().commands.remove(&life);
    }

    /// Ends a life: its connection, and its right to come back.
    pub(super) fn end_life(&self, life: WorkerLife) {
        let mut state = self.state.lock();
        state.over.insert(life);
        state.registry.end(life);
        state.commands.remove(&life);
    }

    fn note(&self, said: Said) {
        self.said.send_modify(|all| all.push(said));
    }
}

#[async_trait]
impl Members for PlainMembers {
    async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        let JoinRequest { life: claimed, wanted_id, data_address, token, holdings, .. } = request;
        let mut state = self.state.lock();
        let is_over = claimed.is_some_and(|life| state.over.contains(&life));
        if token != self.token || is_over {
            let message = if is_over { "this life is over" } else { "wrong token" }.to_owned();
            self.note(Said::Refused { claimed });
            return Err(Refusal { message, may_register_anew: is_over });
        }
        let request = LifeRequest { claimed, wanted_id, data_address: &data_address };
        let life = state.registry.assign(request);
        state.connection_count += 1;
        let connection = state.connection_count;
        let (sender, commands) = mpsc::channel(16);
        state.commands.insert(life, sender);
        self.note(Said::Joined { life, connection, claimed, holdings });
        Ok(Joined { life, connection, commands })
    }

    async fn report(&self, life: WorkerLife, reports: Vec<TaskReport>) {
        self.note(Said::Reports(life, reports));
    }

    async fn heartbeat(&self, life: WorkerLife, beat: Heartbeat) {
        self.note(Said::Heartbeat(life, beat));
    }

    async fn disconnected(&self, life: WorkerLife, connection: u64) {
        self.note(Said::Disconnected(life, connection));
    }

    async fn left(&self, life: WorkerLife) {
        self.note(Said::Left(life));
    }
}
