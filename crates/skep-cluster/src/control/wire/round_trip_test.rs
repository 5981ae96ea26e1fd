//! What is said is what is heard, for messages at random.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::Schema;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::empty::EmptyExec;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use skep_proto::ErrorCode;
use skep_proto::cluster as proto;

use super::command::{CommandEncoder, FromCoordinator, decode_coordinator_message};
use super::failure::{decode_failure, encode_failure};
use super::worker::{FromWorker, decode_worker_message, register, reports};
use crate::control::members::JoinRequest;
use crate::error::Error;
use crate::exchange::plan::Output;
use crate::ids::{Attempt, Epoch, Incarnation, QueryId, StageId, TaskId, WorkerId};
use crate::membership::WorkerLife;
use crate::scheduler::{
    CachedKey, CachedReport, FetchFault, Holdings, Launch, Site, Source, TaskAttempt, TaskFailure,
    TaskOutput,
};
use crate::stage_planner::{Place, Stage};
use crate::worker::{Command, EncodedStage, StageProgram, TaskOutcome, TaskReport};

fn life() -> impl Strategy<Value = WorkerLife> {
    (any::<u64>(), any::<u64>()).prop_map(|(worker, incarnation)| WorkerLife {
        worker: WorkerId(worker),
        incarnation: Incarnation(incarnation),
    })
}

fn site() -> impl Strategy<Value = Site> {
    prop_oneof![Just(Site::Coordinator), life().prop_map(Site::Worker)]
}

fn attempt_of(query: u64) -> impl Strategy<Value = TaskAttempt> {
    (any::<u32>(), any::<usize>(), any::<u32>()).prop_map(move |(stage, partition, attempt)| {
        let task = TaskId { query: QueryId(query), stage: StageId(stage), partition };
        TaskAttempt { task, attempt: Attempt(attempt) }
    })
}

fn attempt() -> impl Strategy<Value = TaskAttempt> {
    any::<u64>().prop_flat_map(attempt_of)
}

fn launch() -> impl Strategy<Value = Launch> {
    (0..3_u64).prop_flat_map(|query| {
        let source = (attempt_of(query), site());
        let source = source.prop_map(|(producer, site)| Source { producer, site, bytes: 0 });
        (attempt_of(query), vec(source, 0..5))
            .prop_map(|(attempt, sources)| Launch { attempt, sources })
    })
}

/// Launches, each several times over, so that lists are shared.
fn launches() -> impl Strategy<Value = Vec<Launch>> {
    vec((launch(), 1..4_usize), 1..6).prop_map(|groups| {
        groups.into_iter().flat_map(|(launch, count)| vec![launch; count]).collect()
    })
}

fn command() -> impl Strategy<Value = Command> {
    let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    prop_oneof![
        vec((site(), "[a-z]{1,9}:[0-9]{1,5}"), 1..4).prop_map(Command::Peers),
        (any::<u64>(), any::<u32>(), bytes(), bytes()).prop_map(
            |(query, stage, program, settings)| Command::Plan {
                query: QueryId(query),
                stage: StageId(stage),
                program: StageProgram::Encoded(EncodedStage { program, settings }),
            }
        ),
        launches().prop_map(Command::Launch),
        vec(attempt(), 1..5).prop_map(Command::Cancel),
        vec(attempt(), 1..5).prop_map(Command::Release),
        any::<u64>().prop_map(|query| Command::DropQuery(QueryId(query))),
        cached_key()
            .prop_map(|CachedKey { table, epoch, .. }| Command::EndContent { table, epoch }),
    ]
}

fn output() -> impl Strategy<Value = TaskOutput> {
    let read = (any::<u64>(), any::<u64>(), any::<u64>());
    (any::<u64>(), vec(any::<u64>(), 0..5), read, proptest::option::of(cached_report())).prop_map(
        |(rows, bytes, (input_bytes, spilled_bytes, remote_bytes), cached)| TaskOutput {
            rows,
            bytes,
            input_bytes,
            spilled_bytes,
            remote_bytes,
            cached: cached.map(Box::new),
        },
    )
}

fn cached_key() -> impl Strategy<Value = CachedKey> {
    (".{0,9}", any::<u64>(), any::<usize>()).prop_map(|(table, epoch, partition)| CachedKey {
        table: table.into(),
        epoch: Epoch(epoch),
        partition,
    })
}

fn cached_report() -> impl Strategy<Value = CachedReport> {
    let summary = vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let bytes = (any::<u64>(), any::<u64>(), any::<u64>());
    (cached_key(), any::<bool>(), summary, bytes).prop_map(|(key, is_kept, summary, bytes)| {
        let CachedKey { table, epoch, partition } = key;
        let (memory_bytes, disk_bytes, rows) = bytes;
        CachedReport { table, epoch, partition, is_kept, summary, memory_bytes, disk_bytes, rows }
    })
}

fn code() -> impl Strategy<Value = ErrorCode> {
    (0..20_i32).prop_filter_map("a code", ErrorCode::from_grpc_status)
}

fn failure() -> impl Strategy<Value = TaskFailure> {
    let hint = || proptest::option::of(".{0,9}");
    let fault = prop_oneof![Just(FetchFault::Refused), Just(FetchFault::Missing)];
    prop_oneof![
        (code(), ".{0,20}", hint()).prop_map(|(code, message, hint)| TaskFailure::Query {
            code,
            message,
            hint
        }),
        (".{0,20}", hint()).prop_map(|(message, hint)| TaskFailure::OutOfMemory { message, hint }),
        ".{0,20}".prop_map(|message| TaskFailure::Panic { message }),
        ".{0,20}".prop_map(|message| TaskFailure::WorkerFault { message }),
        (attempt(), site(), fault, vec(attempt(), 0..3), ".{0,20}").prop_map(
            |(producer, site, fault, also_missing, message)| TaskFailure::Fetch {
                producer,
                site,
                fault,
                also_missing,
                message
            }
        ),
    ]
}

fn operators() -> impl Strategy<Value = Vec<proto::OperatorMetrics>> {
    let metric = (".{0,9}", 0..3_i32, any::<u64>()).prop_map(|(name, kind, value)| proto::Metric {
        name,
        kind,
        value,
    });
    let operator = (".{0,9}", vec(metric, 0..3))
        .prop_map(|(operator, metrics)| proto::OperatorMetrics { operator, metrics });
    vec(operator, 0..3)
}

fn report() -> impl Strategy<Value = TaskReport> {
    let outcome = prop_oneof![
        (output(), operators())
            .prop_map(|(output, operators)| TaskOutcome::Finished { output, operators }),
        failure().prop_map(TaskOutcome::Failed),
        Just(TaskOutcome::Stopped),
    ];
    (attempt(), outcome).prop_map(|(attempt, outcome)| TaskReport { attempt, outcome })
}

fn holdings() -> impl Strategy<Value = Holdings> {
    let queries = vec(any::<u64>().prop_map(QueryId), 0..4);
    (vec(attempt(), 0..4), vec((attempt(), output()), 0..4), queries, vec(cached_report(), 0..4))
        .prop_map(|(running, sealed, queries, cached)| Holdings {
            running,
            sealed,
            queries,
            cached,
        })
}

/// One thing to do, in a form that can be compared.
#[derive(Debug, PartialEq)]
enum Step {
    Peer(Site, String),
    Plan(QueryId, StageId, Bytes, Bytes),
    Launch(Launch),
    Cancel(TaskAttempt),
    Release(TaskAttempt),
    Drop(QueryId),
    End(Arc<str>, Epoch),
}

fn steps(commands: impl IntoIterator<Item = Command>) -> Vec<Step> {
    let steps = |command| match command {
        Command::Peers(peers) => {
            peers.into_iter().map(|(site, address)| Step::Peer(site, address)).collect()
        }
        Command::Plan { query, stage, program: StageProgram::Encoded(encoded) } => {
            vec![Step::Plan(query, stage, encoded.program, encoded.settings)]
        }
        Command::Plan { program: StageProgram::Live { .. }, .. } => panic!("a live plan"),
        Command::Launch(tasks) => tasks.into_iter().map(Step::Launch).collect(),
        Command::Cancel(ids) => ids.into_iter().map(Step::Cancel).collect::<Vec<_>>(),
        Command::Release(ids) => ids.into_iter().map(Step::Release).collect(),
        Command::DropQuery(query) => vec![Step::Drop(query)],
        Command::EndContent { table, epoch } => vec![Step::End(table, epoch)],
    };
    commands.into_iter().flat_map(steps).collect()
}

fn heard(messages: Vec<proto::CoordinatorMessage>) -> Vec<Command> {
    let decode = |message: proto::CoordinatorMessage| {
        let message =
            proto::CoordinatorMessage::decode(message.encode_to_vec().as_slice()).unwrap();
        match decode_coordinator_message(message).unwrap() {
            FromCoordinator::Command(command) => command,
            other => panic!("{other:?}"),
        }
    };
    messages.into_iter().map(decode).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_arrive_whole_and_in_order(
        commands in vec(command(), 0..12),
        target in 1..2000_usize,
    ) {
        let said = steps(commands.clone());
        let encoded = CommandEncoder::new(1 << 20, target).encode(commands);
        prop_assert!(encoded.failed.is_empty());
        prop_assert_eq!(steps(heard(encoded.messages)), said);
    }

    #[test]
    fn reports_arrive_whole_and_in_order(
        said in vec(report(), 0..12),
        target in 1..500_usize,
    ) {
        let mut rest = said.clone().into_iter().peekable();
        let mut heard = Vec::new();
        while rest.peek().is_some() {
            let bytes = reports(&mut rest, target).encode_to_vec();
            let message = proto::WorkerMessage::decode(bytes.as_slice()).unwrap();
            match decode_worker_message(message).unwrap() {
                FromWorker::Reports(reports) => heard.extend(reports),
                other => panic!("{other:?}"),
            }
        }
        prop_assert_eq!(heard, said);
    }

    #[test]
    fn a_register_arrives_whole(life in proptest::option::of(life()), holdings in holdings()) {
        let said = request(life, holdings.clone());
        let FromWorker::Register(heard) = decode_worker_message(register(said)).unwrap() else {
            panic!("no register")
        };
        prop_assert_eq!(heard.life, life);
        let expected = if life.is_some() { holdings } else { Holdings::default() };
        prop_assert_eq!(heard.holdings, expected);
        prop_assert_eq!((heard.slot_count, heard.memory_bytes, heard.pid), (3, 1 << 40, 77));
        prop_assert_eq!(heard.wanted_id, Some(WorkerId(5)));
        prop_assert_eq!(
            (heard.data_address.as_str(), heard.version.as_str(), heard.token.as_str()),
            ("a:1", "0.1", "hush")
        );
    }

    #[test]
    fn bytes_at_random_never_panic(bytes in vec(any::<u8>(), 0..64)) {
        if let Ok(message) = proto::WorkerMessage::decode(bytes.as_slice()) {
            let _ = decode_worker_message(message);
        }
        if let Ok(message) = proto::CoordinatorMessage::decode(bytes.as_slice()) {
            let _ = decode_coordinator_message(message);
        }
    }
}

fn request(life: Option<WorkerLife>, holdings: Holdings) -> JoinRequest {
    JoinRequest {
        life,
        wanted_id: Some(WorkerId(5)),
        slot_count: 3,
        memory_bytes: 1 << 40,
        data_address: "a:1".to_owned(),
        pid: 77,
        version: "0.1".to_owned(),
        token: "hush".to_owned(),
        holdings,
    }
}

fn id(partition: usize) -> TaskAttempt {
    let task = TaskId { query: QueryId(1), stage: StageId(2), partition };
    TaskAttempt { task, attempt: Attempt(0) }
}

fn tasks(range: std::ops::Range<usize>) -> Command {
    Command::Launch(range.map(|p| Launch { attempt: id(p), sources: Vec::new() }).collect())
}

fn plan(program: StageProgram) -> Command {
    Command::Plan { query: QueryId(1), stage: StageId(2), program }
}

fn encoded_plan(size: usize) -> Command {
    let program = Bytes::from(vec![0; size]);
    plan(StageProgram::Encoded(EncodedStage { program, settings: Bytes::new() }))
}

fn live_plan() -> Command {
    let stage = Stage {
        id: StageId(2),
        plan: Arc::new(EmptyExec::new(Arc::new(Schema::empty()))),
        task_count: 1,
        inputs: Vec::new(),
        output: Output::Result { in_order: false },
        place: Place::Workers,
        lineage_of: None,
    };
    let context = Arc::new(TaskContext::default());
    plan(StageProgram::Live { stage: Arc::new(stage), context })
}

#[test]
fn neighbours_of_one_kind_are_one_message() {
    let commands = [tasks(0..2), tasks(2..5), Command::Cancel(vec![id(0)]), tasks(5..6)];
    let encoded = CommandEncoder::new(1 << 20, 1 << 20).encode(commands);
    assert_eq!(encoded.messages.len(), 3);
}

#[test]
fn tasks_of_a_plan_that_cannot_travel_fail_and_no_others() {
    let cases =
        [(live_plan(), ErrorCode::Internal), (encoded_plan(2000), ErrorCode::ResourceExhausted)];
    for (plan, code) in cases {
        let mut encoder = CommandEncoder::new(1000, 1000);
        let mut other = Launch { attempt: id(7), sources: Vec::new() };
        other.attempt.task.stage = StageId(3);
        let encoded = encoder.encode([plan, tasks(0..2), Command::Launch(vec![other.clone()])]);
        assert_eq!(steps(heard(encoded.messages)), [Step::Launch(other)]);
        let failed: Vec<_> = encoded.failed.iter().map(|report| report.attempt).collect();
        assert_eq!(failed, [id(0), id(1)]);
        for report in &encoded.failed {
            let TaskOutcome::Failed(TaskFailure::Query { code: said, .. }) = &report.outcome else {
                panic!("{report:?}")
            };
            assert_eq!(*said, code);
        }
        // Later launches too, until the query ends.
        assert_eq!(encoder.encode([tasks(2..3)]).failed.len(), 1);
        assert_eq!(encoder.encode([Command::DropQuery(QueryId(1))]).messages.len(), 1);
        assert!(encoder.unsent_is_empty());
    }
}

#[test]
fn a_task_that_is_too_large_to_launch_fails_alone() {
    let source = |p| Source { producer: id(p), site: Site::Coordinator, bytes: 0 };
    let large = Launch { attempt: id(0), sources: (0..1000).map(source).collect() };
    let small = Launch { attempt: id(1), sources: Vec::new() };
    let commands = [Command::Launch(vec![large, small.clone()])];
    let encoded = CommandEncoder::new(1000, 1000).encode(commands);
    assert_eq!(steps(heard(encoded.messages)), [Step::Launch(small)]);
    assert_eq!(encoded.failed.len(), 1);
    assert_eq!(encoded.failed[0].attempt, id(0));
}

#[test]
fn a_text_beyond_all_reading_is_cut_between_characters() {
    let message = "ü".repeat(100_000);
    let sent = encode_failure(TaskFailure::Panic { message: message.clone() });
    let TaskFailure::Panic { message: heard } = decode_failure(sent).unwrap() else {
        panic!("another kind")
    };
    assert!(heard.len() < 70_000 && heard.ends_with("... (200000 bytes in all)"));
}

#[test]
fn what_is_missing_is_named() {
    let good = || {
        let producer = id(4);
        let (site, fault) = (Site::Coordinator, FetchFault::Missing);
        let also_missing = vec![id(5)];
        let message = "m".to_owned();
        encode_failure(TaskFailure::Fetch { producer, site, fault, also_missing, message })
    };
    type Spoil = fn(&mut proto::TaskFailure);
    let spoil: [(Spoil, &str); 5] = [
        (|failure| failure.kind = 99, "TaskFailure.kind"),
        (|failure| failure.error = None, "TaskFailure.error"),
        (|failure| failure.producer = None, "TaskFailure.producer"),
        (|failure| failure.site = None, "TaskFailure.site"),
        (
            |failure| {
                failure.kind = proto::task_failure::Kind::Query.into();
                failure.error.as_mut().unwrap().code = 99;
            },
            "ErrorReport.code",
        ),
    ];
    for (spoil, name) in spoil {
        let mut bad = good();
        spoil(&mut bad);
        match decode_failure(bad).unwrap_err() {
            Error::MalformedMessage { field, .. } => assert_eq!(field, name),
            other => panic!("{other}"),
        }
    }
}
