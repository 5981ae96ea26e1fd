//! Ending and prolonging results from outside: Flight's actions on what `GetFlightInfo` gave.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arrow_flight::sql::{Any, TicketStatementQuery};
use arrow_flight::{CancelStatus, FlightEndpoint, FlightInfo, Ticket};
use prost::Message;
use skep_proto::ErrorCode;
use tonic::Status;

use super::flight_sql::SqlService;
use super::sessions::OpenSession;
use super::tickets::{Claim, Purpose};
use crate::status::refuse;

impl SqlService {
    /// Cancels the statement of a result.
    pub(super) fn cancel(
        &self,
        session: &Arc<OpenSession>,
        info: &FlightInfo,
    ) -> Result<CancelStatus, Status> {
        let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
        let mut status = CancelStatus::NotCancellable;
        for ticket in tickets {
            let query = self.claim(session, ticket)?.query;
            // Twice is as good as once.
            if self.end(query) || self.statements.was_cancelled(query) {
                status = CancelStatus::Cancelled;
            }
        }
        Ok(status)
    }

    /// Gives a result more time: to be fetched, and its ticket.
    pub(super) fn renew(
        &self,
        session: &Arc<OpenSession>,
        endpoint: &FlightEndpoint,
    ) -> Result<FlightEndpoint, Status> {
        let Some(ticket) = &endpoint.ticket else {
            return Err(refuse(
                ErrorCode::InvalidArgument,
                "the endpoint has no ticket",
                "hand it back as GetFlightInfo gave it",
            ));
        };
        let claim = self.claim(session, ticket)?;
        self.results.renew(claim.query, Instant::now());
        Ok(self.endpoint(claim))
    }

    fn claim(&self, session: &OpenSession, ticket: &Ticket) -> Result<Claim, Status> {
        let handle = Any::decode(&*ticket.ticket)
            .ok()
            .and_then(|any| any.unpack::<TicketStatementQuery>().ok().flatten())
            .map(|ticket| ticket.statement_handle)
            .unwrap_or_default();
        self.tickets.open(Purpose::Result, session.id, &handle, SystemTime::now())
    }
}
