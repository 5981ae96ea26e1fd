//! What a server is told by whoever starts it.

mod file;

use std::path::PathBuf;
use std::time::Duration;

use skep_cluster::coordinator::CoordinatorOptions;
use skep_cluster::scheduler::SchedulerConfig;
use skep_engine::EngineConfig;

pub use file::{ConfigFile, Key, Keyed};

use crate::auth::users::UserFile;

/// The port of a coordinator's gRPC services, if nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50051";

/// The address of a coordinator's probes, if nothing else is said.
pub const DEFAULT_HTTP: &str = "127.0.0.1:8080";

/// The configuration of a [`CoordinatorServer`](crate::CoordinatorServer).
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// HOST:PORT for clients and workers; port 0 takes a free one.
    pub listen: String,
    /// HOST:PORT at which workers reach this, if that is not where it listens; port 0 stands for the
    /// port that it listens on.
    pub advertise: Option<String>,
    /// HOST:PORT for probes over HTTP; `None` for no HTTP at all.
    pub http: Option<String>,
    /// Whether addresses that other machines can reach may be listened on although nobody is asked
    /// who they are.
    pub is_insecure: bool,
    /// The secret that workers must say; `None` lets every worker in.
    pub token: Option<String>,
    /// The file of users; `None` is `users` in the data directory, if that is there. Without one,
    /// nobody is asked who they are.
    pub users: Option<PathBuf>,
    /// How long a client may use its token until it has to say its password again.
    pub token_lifetime: Duration,
    /// Certificates and keys.
    pub tls: TlsConfig,
    /// Memory, disk and the catalog.
    pub engine: EngineConfig,
    /// Bounds on sessions.
    pub sessions: SessionsConfig,
    /// Bounds on results that wait to be fetched.
    pub results: ResultsConfig,
    /// Bounds on connections.
    pub grpc: GrpcConfig,
    /// What goes to the workers.
    pub planner: PlannerConfig,
    /// Bounds of the scheduler.
    pub scheduler: SchedulerConfig,
    /// How often workers say that they live, and what they are busy with; a third of the time after
    /// which a silent one is given up, if that is less.
    pub heartbeat_interval: Duration,
    /// How long a shutdown waits for what runs.
    pub drain_timeout: Duration,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN.to_owned(),
            advertise: None,
            http: None,
            is_insecure: false,
            token: None,
            users: None,
            token_lifetime: Duration::from_secs(24 * 60 * 60),
            tls: TlsConfig::default(),
            engine: EngineConfig::default(),
            sessions: SessionsConfig::default(),
            results: ResultsConfig::default(),
            // A client may be suspended for a while, as by a debugger, and costs nothing meanwhile:
            // its rows wait. Workers that vanish are found out by their heartbeats.
            grpc: GrpcConfig {
                keepalive_timeout: Duration::from_secs(20),
                ..GrpcConfig::default()
            },
            planner: PlannerConfig::default(),
            scheduler: SchedulerConfig::default(),
            heartbeat_interval: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl CoordinatorConfig {
    /// Returns the file of users, if there is one: named, or in the data directory.
    pub(crate) fn user_file(&self) -> Option<UserFile> {
        let named = self.users.as_deref().map(UserFile::new);
        let kept = || self.engine.data_dir.as_deref().map(UserFile::of_data_dir);
        named.or_else(|| kept().filter(UserFile::exists))
    }

    /// Returns whether clients are asked who they are.
    pub fn asks_users(&self) -> bool {
        self.user_file().is_some()
    }
}

/// Files for TLS, in PEM. None at all is plain TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate that this process shows, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The authorities by which other processes of the cluster are known; `None` is the system's.
    pub ca: Option<PathBuf>,
    /// The authority whose certificate a process of the cluster must show to be let in.
    pub client_ca: Option<PathBuf>,
    /// The name in the certificates of all processes of the cluster; `None` is each one's own
    /// address.
    pub server_name: Option<String>,
}

/// What goes to the workers, and in how many pieces.
#[derive(Debug, Clone)]
pub struct PlannerConfig {
    /// A query that is worth no more than this runs on the coordinator. Units: bytes in the files.
    pub small_query_bytes: u64,
    /// A scan is not split below this. Units: bytes in the files.
    pub min_scan_bytes_per_task: u64,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        let options = CoordinatorOptions::default();
        Self {
            small_query_bytes: options.small_query_bytes,
            min_scan_bytes_per_task: options.min_scan_bytes_per_task,
        }
    }
}

/// Bounds on sessions.
#[derive(Debug, Clone)]
pub struct SessionsConfig {
    /// How many there may be; the next client is asked to come back later.
    pub max_count: usize,
    /// A session that nothing was asked of for so long is closed.
    pub idle_timeout: Duration,
    /// A session that was logged into is closed when all connections on which it was used have been
    /// gone for so long: its client has died, or will log in again.
    pub left_timeout: Duration,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self {
            max_count: 1024,
            idle_timeout: Duration::from_secs(60 * 60),
            left_timeout: Duration::from_secs(5 * 60),
        }
    }
}

/// Bounds on results that wait to be fetched.
#[derive(Debug, Clone)]
pub struct ResultsConfig {
    /// How many statements may run or wait to be fetched; the next is asked to come back later.
    pub max_pending_count: usize,
    /// How long a result waits to be fetched before it is dropped.
    pub fetch_timeout: Duration,
    /// Bytes of one query's rows that wait in memory for a client that takes them more slowly than
    /// they are made; the rest waits on disk.
    pub memory_bytes: usize,
    /// Bytes of rows in one message, about: a single row may be larger.
    pub message_bytes: usize,
    /// How long a ticket can be used. Fetched again, its query runs again.
    pub ticket_timeout: Duration,
    /// How long a prepared statement can be used.
    pub prepared_timeout: Duration,
    /// Most bytes of a statement's text, and of the parameters that are kept with it.
    pub max_statement_bytes: usize,
    /// Most bytes of parameters that are sent with a prepared change.
    pub max_parameter_bytes: usize,
}

impl Default for ResultsConfig {
    fn default() -> Self {
        Self {
            max_pending_count: 1024,
            fetch_timeout: Duration::from_secs(60),
            memory_bytes: CoordinatorOptions::default().result_memory_bytes,
            // Clients take 4 MiB by default, and encoding adds to it.
            message_bytes: 2 << 20,
            ticket_timeout: Duration::from_secs(10 * 60),
            prepared_timeout: Duration::from_secs(24 * 60 * 60),
            // It goes to and fro in handles and tickets, beside itself.
            max_statement_bytes: 1 << 20,
            max_parameter_bytes: 64 << 20,
        }
    }
}

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct GrpcConfig {
    /// A connection that was silent for so long is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// How long that sign may take before the connection is given up.
    pub keepalive_timeout: Duration,
    /// Bytes that one stream may have under way.
    pub stream_window_bytes: u32,
    /// Bytes that one connection may have under way.
    pub connection_window_bytes: u32,
    /// Most bytes of one message.
    pub max_message_bytes: usize,
    /// Most connections.
    pub max_connection_count: usize,
    /// Most connections that have said nothing yet; the oldest makes room for the next.
    pub max_newcomer_count: usize,
    /// A connection that was silent for so long is cut. Living ones answer to the keepalive.
    pub silence_timeout: Duration,
    /// How long the greeting of TLS may take.
    pub handshake_timeout: Duration,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(4),
            stream_window_bytes: 8 << 20,
            connection_window_bytes: 32 << 20,
            // A batch is cut to 2 MiB; what is larger is a single row.
            max_message_bytes: 256 << 20,
            max_connection_count: 8192,
            max_newcomer_count: 256,
            silence_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// The configuration of a [`WorkerServer`](crate::WorkerServer).
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The coordinator, as HOST:PORT or grpc://HOST:PORT.
    pub coordinator: String,
    /// HOST:PORT at which others fetch partitions; port 0 takes a free one.
    pub listen: String,
    /// HOST:PORT at which others reach this, if that is not where it listens; port 0 stands for the
    /// port that it listens on.
    pub advertise: Option<String>,
    /// Whether addresses that other machines can reach may be listened on although nobody is asked
    /// who they are.
    pub is_insecure: bool,
    /// How many tasks run at a time.
    pub slot_count: usize,
    /// Bytes that tasks and partitions may hold in memory together; `None` is 70 % of the machine's.
    pub memory_limit: Option<usize>,
    /// Most bytes of partitions in memory; what is more goes to disk, also while there is memory.
    /// `None` is what the memory limit gives.
    pub partition_memory_limit: Option<usize>,
    /// Bytes of cached tables that stay in memory when running tasks need memory.
    pub protected_cache: usize,
    /// Where partitions go that do not fit in memory; `None` is the system's directory for temporary
    /// files.
    pub data_dir: Option<PathBuf>,
    /// Where operators put what does not fit in memory; `None` is as for `data_dir`.
    pub spill_dir: Option<PathBuf>,
    /// The id that it would like to have.
    pub wanted_id: Option<u64>,
    /// The cluster's secret.
    pub token: Option<String>,
    /// Certificates and keys.
    pub tls: TlsConfig,
    /// Bounds on connections.
    pub grpc: GrpcConfig,
    /// How long a shutdown waits for what runs.
    pub drain_timeout: Duration,
}

impl WorkerConfig {
    /// Makes the configuration of a worker of this coordinator; everything else has its default.
    pub fn new(coordinator: impl Into<String>) -> Self {
        Self {
            coordinator: coordinator.into(),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            is_insecure: false,
            slot_count: std::thread::available_parallelism().map_or(1, usize::from),
            memory_limit: None,
            partition_memory_limit: None,
            protected_cache: 0,
            data_dir: None,
            spill_dir: None,
            wanted_id: None,
            token: None,
            tls: TlsConfig::default(),
            grpc: GrpcConfig::default(),
            drain_timeout: Duration::from_secs(2),
        }
    }
}
