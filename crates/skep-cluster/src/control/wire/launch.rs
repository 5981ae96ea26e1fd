//! Launches on the wire: tasks that share lists of sources, lists that share a table of sites.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use skep_proto::cluster as proto;

use super::identity::{decode_attempt, decode_site, decode_usize, encode_attempt, encode_site};
use crate::error::{Error, Result};
use crate::ids::{Attempt, QueryId, StageId, TaskId};
use crate::scheduler::{Launch, Site, Source, TaskAttempt};

/// Bounds from above of what a task, a source and a site take in a message.
const TASK_BYTES: usize = 64;
const SOURCE_BYTES: usize = 32;
const SITE_BYTES: usize = 32;

/// Returns launches as they travel, in messages of about `target_bytes` at most; one task is never
/// parted.
///
/// # Errors
/// [`Error::Internal`] if a task reads the output of another query.
pub fn encode_launches(tasks: &[Launch], target_bytes: usize) -> Result<Vec<proto::Launch>> {
    let mut done = Vec::new();
    let mut open = OpenLaunch::default();
    for task in tasks {
        let bytes = TASK_BYTES + task.sources.len() * (SOURCE_BYTES + SITE_BYTES);
        if open.bytes + bytes > target_bytes && !open.message.tasks.is_empty() {
            // The estimate takes sources and sites for new; what is known already costs nothing.
            let is_known = open.find(&task.sources).is_some();
            if !is_known || open.bytes + TASK_BYTES > target_bytes {
                done.push(std::mem::take(&mut open).message);
            }
        }
        open.push(task)?;
    }
    if !open.message.tasks.is_empty() {
        done.push(open.message);
    }
    Ok(done)
}

/// A launch message that is being written.
#[derive(Default)]
struct OpenLaunch<'a> {
    message: proto::Launch,
    bytes: usize,
    sites: HashMap<Site, u32>,
    lists: HashMap<List<'a>, u32>,
    /// The list of the task before: most often the next one's too, and equality is cheaper to see
    /// than to hash.
    last: Option<(List<'a>, u32)>,
}

impl<'a> OpenLaunch<'a> {
    fn push(&mut self, task: &'a Launch) -> Result<()> {
        let query = task.attempt.task.query;
        let place = match self.find(&task.sources) {
            Some(place) => place,
            None => self.add(&task.sources, query)?,
        };
        if task.sources.first().is_some_and(|source| source.producer.task.query != query) {
            return Err(foreign(task.attempt));
        }
        self.last = Some((List(&task.sources), place));
        self.bytes += TASK_BYTES;
        let attempt = Some(encode_attempt(task.attempt));
        self.message.tasks.push(proto::LaunchedTask { attempt, sources: place });
        Ok(())
    }

    fn find(&self, sources: &'a [Source]) -> Option<u32> {
        let list = List(sources);
        match &self.last {
            Some((last, place)) if *last == list => Some(*place),
            _ => self.lists.get(&list).copied(),
        }
    }

    fn add(&mut self, sources: &'a [Source], query: QueryId) -> Result<u32> {
        let mut columns = proto::SourceList::default();
        columns.stage.reserve_exact(sources.len());
        columns.partition.reserve_exact(sources.len());
        columns.attempt.reserve_exact(sources.len());
        columns.site.reserve_exact(sources.len());
        for source in sources {
            let TaskAttempt { task, attempt } = source.producer;
            if task.query != query {
                return Err(foreign(source.producer));
            }
            columns.stage.push(task.stage.0);
            columns.partition.push(task.partition as u64);
            columns.attempt.push(attempt.0);
            columns.site.push(self.site(source.site)?);
        }
        let place = place(self.message.lists.len())?;
        self.message.lists.push(columns);
        self.lists.insert(List(sources), place);
        self.bytes += sources.len() * SOURCE_BYTES;
        Ok(place)
    }

    fn site(&mut self, site: Site) -> Result<u32> {
        if let Some(place) = self.sites.get(&site) {
            return Ok(*place);
        }
        let place = place(self.message.sites.len())?;
        self.message.sites.push(encode_site(site));
        self.sites.insert(site, place);
        self.bytes += SITE_BYTES;
        Ok(place)
    }
}

fn place(index: usize) -> Result<u32> {
    u32::try_from(index).map_err(|error| Error::internal(format!("launch too long: {error}")))
}

fn foreign(id: TaskAttempt) -> Error {
    Error::internal(format!("a task and its source {id} are of different queries"))
}

/// Sources as they travel: how many bytes are wanted of each does not count.
#[derive(Clone, Copy)]
struct List<'a>(&'a [Source]);

impl PartialEq for List<'_> {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&Source, &Source)| a.producer == b.producer && a.site == b.site;
        self.0.len() == other.0.len() && self.0.iter().zip(other.0).all(is_same)
    }
}

impl Eq for List<'_> {}

impl Hash for List<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.len().hash(state);
        for source in self.0 {
            source.producer.hash(state);
            source.site.hash(state);
        }
    }
}

/// Returns launches that arrived.
///
/// # Errors
/// [`Error::MalformedMessage`] if a list's columns differ in length, or a place is beyond its table.
pub fn decode_launches(message: proto::Launch) -> Result<Vec<Launch>> {
    let sites: Vec<Site> = message.sites.into_iter().map(decode_site).collect();
    let lists: Vec<_> =
        message.lists.iter().map(|list| decode_list(list, &sites)).collect::<Result<_>>()?;
    let launch = |task: proto::LaunchedTask| {
        let attempt = decode_attempt(task.attempt, "LaunchedTask.attempt")?;
        let list: &Vec<Source> = at(&lists, task.sources, "LaunchedTask.sources")?;
        let query = attempt.task.query;
        let mut sources = list.clone();
        for source in &mut sources {
            source.producer.task.query = query;
        }
        Ok(Launch { attempt, sources })
    };
    message.tasks.into_iter().map(launch).collect()
}

/// Reads a list, of a query yet to be told.
fn decode_list(list: &proto::SourceList, sites: &[Site]) -> Result<Vec<Source>> {
    let count = list.stage.len();
    if [list.partition.len(), list.attempt.len(), list.site.len()] != [count; 3] {
        return Err(Error::malformed("SourceList", "has columns of different length"));
    }
    let ids = list.stage.iter().zip(&list.partition).zip(&list.attempt).zip(&list.site);
    ids.map(|(((stage, partition), attempt), site)| {
        let partition = decode_usize(*partition, "SourceList.partition")?;
        let task = TaskId { query: QueryId(0), stage: StageId(*stage), partition };
        let site = *at(sites, *site, "SourceList.site")?;
        let producer = TaskAttempt { task, attempt: Attempt(*attempt) };
        Ok(Source { producer, site, bytes: 0 })
    })
    .collect()
}

fn at<'a, T>(table: &'a [T], place: u32, field: &'static str) -> Result<&'a T> {
    usize::try_from(place).ok().and_then(|place| table.get(place)).ok_or_else(|| {
        Error::malformed(field, format!("is {place} in a table of {} entries", table.len()))
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::ids::{Incarnation, WorkerId};
    use crate::membership::WorkerLife;

    fn attempt(stage: u32, partition: usize) -> TaskAttempt {
        let task = TaskId { query: QueryId(9), stage: StageId(stage), partition };
        TaskAttempt { task, attempt: Attempt(0) }
    }

    fn sources(count: usize, bytes: u64) -> Vec<Source> {
        let life = |worker| WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(77) };
        let site = |partition: usize| Site::Worker(life(partition as u64 % 4));
        let source = |p: usize| Source { producer: attempt(1, p), site: site(p), bytes };
        (0..count).map(source).collect()
    }

    #[test]
    fn a_thousand_tasks_with_the_same_thousand_sources_share_one_list() {
        let tasks: Vec<_> = (0..1000)
            .map(|p| Launch { attempt: attempt(2, p), sources: sources(1000, p as u64) })
            .collect();
        let messages = encode_launches(&tasks, 1 << 20).unwrap();
        let [message] = messages.as_slice() else { panic!("{} messages", messages.len()) };
        assert_eq!((message.lists.len(), message.sites.len()), (1, 4));
        assert!(message.encoded_len() < 40_000, "{}", message.encoded_len());
        let decoded = decode_launches(message.clone()).unwrap();
        assert_eq!(decoded.len(), 1000);
        assert_eq!(decoded[999].attempt, tasks[999].attempt);
        assert_eq!(decoded[999].sources, sources(1000, 0));
    }

    #[test]
    fn lists_are_found_again_after_others_came_between() {
        let tasks: Vec<_> = (0..60)
            .map(|p| Launch { attempt: attempt(2, p), sources: sources(p % 3, 0) })
            .collect();
        let messages = encode_launches(&tasks, 1 << 20).unwrap();
        assert_eq!(messages[0].lists.len(), 3);
        assert_eq!(decode_launches(messages[0].clone()).unwrap(), tasks);
    }

    #[test]
    fn launches_are_parted_at_the_target_and_none_is_lost() {
        let tasks: Vec<_> =
            (0..100).map(|p| Launch { attempt: attempt(2, p), sources: sources(p, 0) }).collect();
        let messages = encode_launches(&tasks, 16_000).unwrap();
        assert!(messages.len() > 3);
        assert!(messages.iter().all(|message| message.encoded_len() < 16_000));
        let decoded = messages.into_iter().flat_map(|m| decode_launches(m).unwrap());
        assert_eq!(decoded.collect::<Vec<_>>(), tasks);
    }

    #[test]
    fn a_source_of_another_query_is_a_defect() {
        let mut task = Launch { attempt: attempt(2, 0), sources: sources(2, 0) };
        task.sources[1].producer.task.query = QueryId(1);
        assert!(matches!(encode_launches(&[task], 1000), Err(Error::Internal { .. })));
    }

    #[test]
    fn places_beyond_their_tables_are_malformed() {
        let tasks = [Launch { attempt: attempt(2, 0), sources: sources(3, 0) }];
        let good = encode_launches(&tasks, 1000).unwrap().remove(0);
        let spoil: [fn(&mut proto::Launch); 4] = [
            |launch| launch.tasks[0].sources = 1,
            |launch| launch.lists[0].site[2] = 3,
            |launch| launch.lists[0].attempt.truncate(2),
            |launch| launch.tasks[0].attempt = None,
        ];
        for spoil in spoil {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = decode_launches(bad).unwrap_err();
            assert!(matches!(error, Error::MalformedMessage { .. }), "{error}");
        }
    }
}
