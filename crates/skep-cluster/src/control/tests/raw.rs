//! What the coordinator does with those who do not speak as a worker does.

use std::sync::Arc;
use std::time::Duration;

use skep_proto::cluster::control_client::ControlClient as GrpcClient;
use skep_proto::cluster::{CoordinatorMessage, WorkerMessage};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::cluster::{Server, service_config};
use super::members::{BOUND, PlainMembers, Said};
use crate::control::wire::command::{FromCoordinator, decode_coordinator_message};
use crate::control::wire::worker;
use crate::control::{ControlServiceConfig, JoinRequest};
use crate::ids::QueryId;
use crate::scheduler::{Heartbeat, Holdings};
use crate::worker::{Command, EncodedStage, StageProgram};

type Answers = Result<Streaming<CoordinatorMessage>, Status>;

async fn attach(server: &Server) -> (mpsc::Sender<WorkerMessage>, Answers) {
    let (sender, messages) = mpsc::channel(16);
    let address = format!("http://{}", server.address);
    let mut client = GrpcClient::connect(address).await.unwrap();
    let answers = timeout(BOUND, client.attach(ReceiverStream::new(messages))).await.unwrap();
    (sender, answers.map(tonic::Response::into_inner))
}

async fn next(answers: &mut Answers) -> Result<Option<CoordinatorMessage>, Status> {
    let answers = answers.as_mut().map_err(|status| status.clone())?;
    timeout(BOUND, answers.message()).await.expect("answers in time")
}

fn register() -> WorkerMessage {
    worker::register(JoinRequest {
        life: None,
        wanted_id: None,
        slot_count: 1,
        memory_bytes: 0,
        data_address: "w:1".to_owned(),
        pid: 1,
        version: "0".to_owned(),
        token: "hush".to_owned(),
        holdings: Holdings::default(),
    })
}

#[tokio::test]
async fn a_first_message_that_is_no_register_is_an_error() {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, service_config()).await;
    let wrong = [
        worker::heartbeat(Heartbeat::default()),
        worker::goodbye(),
        WorkerMessage { message: None },
    ];
    for message in wrong {
        let (sender, mut answers) = attach(&server).await;
        sender.send(message).await.unwrap();
        assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(members.said().is_empty());
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for_without_end() {
    let members = Arc::new(PlainMembers::new(100));
    let register_timeout = Duration::from_millis(50);
    let config = ControlServiceConfig { register_timeout, ..service_config() };
    let server = Server::start(&members, config).await;
    let (_sender, mut answers) = attach(&server).await;
    assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(members.said().is_empty());
}

#[tokio::test]
async fn a_later_message_that_is_malformed_ends_the_connection() {
    let members = Arc::new(PlainMembers::new(100));
    let server = Server::start(&members, service_config()).await;
    for (count, wrong) in [WorkerMessage { message: None }, register()].into_iter().enumerate() {
        let (sender, mut answers) = attach(&server).await;
        sender.send(register()).await.unwrap();
        let welcome = next(&mut answers).await.unwrap().unwrap();
        let welcome = decode_coordinator_message(welcome).unwrap();
        assert!(matches!(welcome, FromCoordinator::Welcome { .. }));
        let (life, connection, _) = members.joined(count + 1).await;
        sender.send(wrong).await.unwrap();
        assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::InvalidArgument);
        members.wait_for_said(Said::Disconnected(life, connection)).await;
    }
}

#[tokio::test]
async fn a_message_beyond_the_bound_ends_the_connection() {
    let members = Arc::new(PlainMembers::new(100));
    let config = ControlServiceConfig { max_message_bytes: 1000, ..service_config() };
    let server = Server::start(&members, config).await;
    let (sender, mut answers) = attach(&server).await;
    sender.send(register()).await.unwrap();
    next(&mut answers).await.unwrap();
    let (life, connection, _) = members.joined(1).await;
    let mut reports = (0..1000).map(super::cluster::report);
    sender.send(worker::reports(&mut reports, 1 << 20)).await.unwrap();
    members.wait_for_said(Said::Disconnected(life, connection)).await;
}

#[tokio::test]
async fn a_worker_that_takes_nothing_is_given_up() {
    let members = Arc::new(PlainMembers::new(100));
    let stall_timeout = Duration::from_millis(50);
    let config =
        ControlServiceConfig { stall_timeout, queued_message_count: 1, ..service_config() };
    let server = Server::start(&members, config).await;
    let (sender, mut answers) = attach(&server).await;
    sender.send(register()).await.unwrap();
    next(&mut answers).await.unwrap();
    let (life, connection, _) = members.joined(1).await;
    // More than the windows of HTTP/2 let through to somebody who does not read.
    for query in 0..8 {
        let program = bytes::Bytes::from(vec![0; 1 << 20]);
        let program = EncodedStage { program, settings: bytes::Bytes::new() };
        let program = StageProgram::Encoded(program);
        let stage = crate::ids::StageId(0);
        members.tell(life, Command::Plan { query: QueryId(query), stage, program }).await;
    }
    members.wait_for_said(Said::Disconnected(life, connection)).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let members = Arc::new(PlainMembers::new(100));
    let config = ControlServiceConfig { max_connection_count: 1, ..service_config() };
    let server = Server::start(&members, config).await;
    let (first, mut first_answers) = attach(&server).await;
    let (_second, mut second_answers) = attach(&server).await;
    assert_eq!(next(&mut second_answers).await.unwrap_err().code(), Code::ResourceExhausted);
    first.send(register()).await.unwrap();
    assert!(next(&mut first_answers).await.unwrap().is_some());
}
