//! `PollFlightInfo`: a statement's result when there is one, and how far it is until then.
//!
//! A query is complete when its first rows can be read. The cluster runs a query at once; what the
//! coordinator runs itself would run as it is fetched, so who polls lets it run that far.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow_flight::sql::{Any, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use prost::Message;
use skep_cluster::coordinator::Progress;
use skep_cluster::ids::QueryId;
use skep_engine::{Error, StatementKind};
use tonic::Status;

use super::flight_sql::SqlService;
use super::queries::{outcome, reported};
use super::sessions::OpenSession;
use super::tickets::{Claim, Purpose};

/// How long a call waits for news before it says that there are none.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the scheduler is asked in that time.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

impl SqlService {
    /// Reads the handle of an earlier call; `None` if this is the first.
    pub(super) fn polled(
        &self,
        session: &Arc<OpenSession>,
        descriptor: &FlightDescriptor,
    ) -> Option<Result<Claim, Status>> {
        let handle = &descriptor.cmd;
        self.tickets
            .is(Purpose::Poll, handle)
            .then(|| self.tickets.open(Purpose::Poll, session.id, handle, SystemTime::now()))
    }

    /// Says how far the statement of a fresh result is.
    pub(super) async fn begin_poll(
        &self,
        session: &Arc<OpenSession>,
        info: FlightInfo,
    ) -> Result<PollInfo, Status> {
        let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.as_ref());
        let claim = ticket.and_then(|ticket| {
            let any = Any::decode(&*ticket.ticket).ok()?;
            let ticket = any.unpack::<TicketStatementQuery>().ok()??;
            let now = SystemTime::now();
            self.tickets.open(Purpose::Result, session.id, &ticket.statement_handle, now).ok()
        });
        match claim {
            Some(claim) => self.poll(claim).await,
            // A change that is done, or a command of metadata.
            None => Ok(complete(info)),
        }
    }

    /// Waits a moment for the end of a query, and says how far it is.
    pub(super) async fn poll(&self, claim: Claim) -> Result<PollInfo, Status> {
        let query = claim.query;
        let deadline = Instant::now() + PATIENCE;
        self.results.renew(query, Instant::now());
        let mut first = None;
        loop {
            if self.statements.was_cancelled(query) {
                return Err(reported(&Error::Cancelled, query));
            }
            let progress = self.progress(query).await;
            let waits = progress
                .filter(|progress| !progress.has_result && self.statements.is_running(query));
            let Some(progress) = waits else { return Ok(complete(self.info_of(claim))) };
            let first: Progress = *first.get_or_insert(progress);
            if progress.fraction > first.fraction || Instant::now() >= deadline {
                return Ok(self.incomplete(claim, progress.fraction));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Tells how far a query is; `None` if there is nothing to wait for.
    async fn progress(&self, query: u64) -> Option<Progress> {
        match self.monitor.local_fraction(QueryId(query)) {
            Some(fraction) => {
                let has_result = self.results.begin(query)?;
                Some(Progress { fraction, has_result })
            }
            None => self.monitor.progress(QueryId(query)).await,
        }
    }

    /// Makes what `GetFlightInfo` gave, from the ticket that it gave.
    fn info_of(&self, claim: Claim) -> FlightInfo {
        let mut info = FlightInfo::new().with_ordered(true);
        info.schema = claim.schema.clone();
        let outcome = outcome(&StatementKind::Query, claim.query);
        info.app_metadata = outcome.encode_to_vec().into();
        let claim = Claim { purpose: Purpose::Result.into(), ..claim };
        info.with_endpoint(self.endpoint(claim))
    }

    fn incomplete(&self, claim: Claim, fraction: f64) -> PollInfo {
        let mut info = FlightInfo::new().with_ordered(true);
        info.schema = claim.schema.clone();
        let claim = Claim { purpose: Purpose::Poll.into(), ..claim };
        let claim = claim.expiring_at(SystemTime::now() + self.config.ticket_timeout);
        let expires = claim.expiration_time();
        let mut poll = PollInfo::new()
            .with_info(info)
            .with_descriptor(FlightDescriptor::new_cmd(self.tickets.seal(&claim)))
            .with_expiration_time(expires);
        poll.progress = Some(fraction.clamp(0.0, 1.0));
        poll
    }
}

/// Makes the last answer.
fn complete(info: FlightInfo) -> PollInfo {
    let mut poll = PollInfo::new().with_info(info);
    poll.progress = Some(1.0);
    poll
}
