//! The control streams of the workers, seen from the driver.

use std::collections::HashMap;

use tokio::sync::mpsc;

use crate::membership::WorkerLife;
use crate::scheduler::Site;
use crate::worker::Command;

/// The connected workers.
#[derive(Debug)]
pub(super) struct Connections {
    by_life: HashMap<WorkerLife, Connection>,
    queue_length: usize,
    count: u64,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    commands: mpsc::Sender<Command>,
    address: String,
}

impl Connections {
    pub(super) fn new(queue_length: usize) -> Self {
        Self { by_life: HashMap::new(), queue_length: queue_length.max(1), count: 0 }
    }

    /// Opens a connection, in place of an older one of this life, whose commands end.
    pub(super) fn open(
        &mut self,
        life: WorkerLife,
        address: String,
    ) -> (u64, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(self.queue_length);
        self.count += 1;
        let connection = Connection { number: self.count, commands, address };
        self.by_life.insert(life, connection);
        (self.count, receiver)
    }

    /// Sends a command. Returns false if the connection is gone, or was cut off for being slow.
    pub(super) fn send(&mut self, life: WorkerLife, command: Command) -> bool {
        let Some(connection) = self.by_life.get(&life) else { return true };
        let is_sent = connection.commands.try_send(command).is_ok();
        if !is_sent {
            self.by_life.remove(&life);
        }
        is_sent
    }

    /// Closes the connection of a life.
    pub(super) fn close(&mut self, life: WorkerLife) {
        self.by_life.remove(&life);
    }

    /// Closes a connection, unless a later one has taken its place. Returns whether it was open.
    pub(super) fn close_number(&mut self, life: WorkerLife, number: u64) -> bool {
        let is_current =
            self.by_life.get(&life).is_some_and(|connection| connection.number == number);
        if is_current {
            self.by_life.remove(&life);
        }
        is_current
    }

    /// Returns where each connected worker keeps its partitions.
    pub(super) fn peers(&self) -> Vec<(Site, String)> {
        let peer = |(life, connection): (&WorkerLife, &Connection)| {
            (Site::Worker(*life), connection.address.clone())
        };
        self.by_life.iter().map(peer).collect()
    }

    /// Returns all connected lives.
    pub(super) fn lives(&self) -> Vec<WorkerLife> {
        self.by_life.keys().copied().collect()
    }

    /// Returns where a worker keeps its partitions, if it is connected.
    pub(super) fn address(&self, life: WorkerLife) -> Option<&str> {
        self.by_life.get(&life).map(|connection| connection.address.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, QueryId, WorkerId};

    const LIFE: WorkerLife = WorkerLife { worker: WorkerId(1), incarnation: Incarnation(1) };

    #[test]
    fn the_end_of_an_older_connection_means_nothing() {
        let mut connections = Connections::new(4);
        let (first, mut old) = connections.open(LIFE, "a:1".to_owned());
        let (second, mut new) = connections.open(LIFE, "a:1".to_owned());
        assert!(
            old.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Disconnected)
        );
        assert!(!connections.close_number(LIFE, first));
        assert!(connections.send(LIFE, Command::DropQuery(QueryId(1))));
        assert!(new.try_recv().is_ok());
        assert!(connections.close_number(LIFE, second));
        assert_eq!(connections.lives(), []);
    }

    #[test]
    fn a_worker_that_does_not_listen_is_cut_off() {
        let mut connections = Connections::new(2);
        let (_, _receiver) = connections.open(LIFE, "a:1".to_owned());
        assert!(connections.send(LIFE, Command::DropQuery(QueryId(1))));
        assert!(connections.send(LIFE, Command::DropQuery(QueryId(2))));
        assert!(!connections.send(LIFE, Command::DropQuery(QueryId(3))));
        assert_eq!(connections.lives(), []);
    }
}
