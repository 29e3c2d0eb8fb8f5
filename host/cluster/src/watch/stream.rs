//! One watch: list everything, then follow the changes, over and over (ADR 42).
//!
//! Nothing that is told ends it, and nothing is asked for in the same way for ever: what can't be understood has everything
//! listed again, soon at first, and less and less often as long as it comes again. Meanwhile the other news are heard.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use dask_wasm_operator_core::object::{GroupVersionKind, Object, WireObject};
use futures::StreamExt;
use http_body_util::BodyExt;
use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    event::{Event, Place},
    failures::FailureCounts,
    key::WatchKey,
    lines::{LONGEST, Lines, TooLong},
    pages::Pages,
    status::{WatchProblem, WatchStatus},
};
use crate::{
    backoff::Backoff,
    client::WATCH_SECONDS,
    index::{Index, Scope, WatchId, version_of},
    path::with_parameter,
    request::{Call, JSON, METADATA, METADATA_LIST, RequestError},
};

/// How long to wait for the next event: the server ends the watch before.
const SILENCE_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS + 5);

/// A watch that ends sooner than this without an event counts as failed: a server that accepts and hangs up is not hammered.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// Waits between attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// Attempts from one version, of which the server answered the last, after which everything is listed again.
const ATTEMPTS: u32 = 3;

/// The same problem is not said again within this time.
const QUIET_TIME: Duration = Duration::from_secs(600);

/// A running watch.
pub(super) struct WatchTask {
    client: Client,
    index: Arc<Index>,
    watch: Registration,
    kind: Arc<GroupVersionKind>,
    key: WatchKey,
    path: String,
    /// Counts up when more is asked for of the objects.
    growth: watch::Receiver<u64>,
    report: Report,
    /// The problem that was said last, and when.
    said: Option<(&'static str, Instant)>,
}

/// Where a watch tells how it is doing.
pub(super) struct Report {
    pub(super) status: watch::Sender<WatchStatus>,
    /// Counted up when others may want to look at the status.
    pub(super) changes: watch::Sender<u64>,
    pub(super) failures: Arc<FailureCounts>,
}

/// The watch in the index, as long as the task lives.
struct Registration {
    index: Arc<Index>,
    id: WatchId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.index.remove_watch(self.id);
    }
}

/// How a watch came to its end.
enum End {
    /// As each does after a while.
    Over,
    /// It is time to list everything again.
    Relist,
    /// The version is too old to go on from.
    Expired(RequestError),
    /// There was no answer.
    Unanswered(RequestError),
    /// There was one, and something is wrong with it.
    Broken(RequestError),
}

impl From<RequestError> for End {
    fn from(error: RequestError) -> Self {
        match error {
            error if error.code() == 410 => Self::Expired(error),
            error @ (RequestError::Transport(_) | RequestError::Timeout(_)) => Self::Unanswered(error),
            error => Self::Broken(error),
        }
    }
}

/// When everything is to be listed again, because what was told can't be understood.
struct Relist {
    due: Option<Instant>,
    waits: Backoff,
}

impl Relist {
    /// Soon, and later each time, until a watch goes well.
    fn soon(&mut self) {
        if self.due.is_none() {
            self.due = Some(Instant::now() + self.waits.after_failure());
        }
    }

    async fn is_due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }
}

impl WatchTask {
    pub(super) fn new(
        client: Client,
        index: &Arc<Index>,
        key: &WatchKey,
        path: String,
        scope: Scope,
        growth: watch::Receiver<u64>,
        report: Report,
    ) -> Self {
        let kind = Arc::new(key.resource.kind.clone());
        let id = index.add_watch(&kind, scope);
        let path = match &key.labels {
            Some(labels) => with_parameter(path, "labelSelector", labels),
            None => path,
        };
        Self {
            client,
            index: Arc::clone(index),
            watch: Registration { index: Arc::clone(index), id },
            kind,
            key: key.clone(),
            path,
            growth,
            report,
            said: None,
        }
    }

    /// The watch in the index.
    pub(super) fn id(&self) -> WatchId {
        self.watch.id
    }

    pub(super) async fn run(mut self) {
        let mut relist = Relist { due: None, waits: BACKOFF };
        let mut failures = BACKOFF;
        // The version to go on from; none: everything is to be listed, in pages.
        let (mut from, mut paged) = (None, true);
        loop {
            let Some(version) = &mut from else {
                match self.list(paged, &mut relist).await {
                    Ok(version) => (from, paged) = (Some(version), true),
                    Err(error) => {
                        // A list that takes longer than the server remembers is asked for as a whole.
                        paged = error.code() != 410;
                        self.report(&error);
                        sleep(failures.after_failure()).await;
                        continue;
                    }
                }
                failures.reset();
                continue;
            };
            let before = *version;
            let end = self.follow(version, failures.failures() == 0, &mut relist).await;
            if *version > before {
                failures.reset();
            }
            match end {
                End::Over => {
                    failures.reset();
                    if relist.due.is_none() {
                        relist.waits.reset();
                        self.healthy();
                    }
                }
                End::Relist => from = None,
                End::Expired(error) => {
                    from = None;
                    // That of a list that was just made is another matter.
                    if relist.waits.failures() > 0 {
                        self.report(&error);
                    }
                    sleep(relist.waits.after_failure()).await;
                }
                End::Unanswered(error) => {
                    self.report(&error);
                    sleep(failures.after_failure()).await;
                }
                End::Broken(error) => {
                    self.report(&error);
                    if error.code() == 404 || failures.failures() + 1 >= ATTEMPTS {
                        from = None;
                        sleep(relist.waits.after_failure()).await;
                    } else {
                        sleep(failures.after_failure()).await;
                    }
                }
            }
        }
    }

    /// Lists all pages, of which the first is as recent as any answer of the server. What is not listed is gone, unless
    /// something was listed that does not say what it is.
    async fn list(&mut self, paged: bool, relist: &mut Relist) -> Result<u64, RequestError> {
        let (mut objects, mut garbled, mut version) = (Vec::new(), None, 0);
        let grown = *self.growth.borrow_and_update();
        let accept = if self.is_of_metadata() { METADATA_LIST } else { JSON };
        let mut pages = Pages::new(&self.path, accept, self.place(), paged);
        self.attempt();
        while let Some(page) = pages.next(&self.client).await? {
            self.attempt();
            objects.extend(page.objects.into_iter().map(|object| self.object(object)));
            garbled = garbled.or(page.garbled);
            version = page.version;
        }
        relist.due = None;
        match garbled {
            None => {
                self.index.relisted(self.watch.id, version, objects);
                self.synced(grown);
            }
            Some(garbled) => {
                self.index.listed_in_part(self.watch.id, objects);
                self.report(&RequestError::Decode(garbled.to_string()));
                relist.soon();
            }
        }
        Ok(version)
    }

    /// Follows the changes from a version on, which it keeps up to date.
    async fn follow(&mut self, version: &mut u64, is_steady: bool, relist: &mut Relist) -> End {
        let mut path = with_parameter(self.path.clone(), "watch", "true");
        for (name, value) in [
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &*WATCH_SECONDS.to_string()),
            ("resourceVersion", &*version.to_string()),
        ] {
            path = with_parameter(path, name, value);
        }
        let (started, from) = (Instant::now(), *version);
        self.attempt();
        let accept = if self.is_of_metadata() { METADATA } else { JSON };
        let call = Call { accept, ..Call::get(&path) };
        let body = match timeout(SILENCE_LIMIT, call.open(&self.client)).await {
            Ok(Ok(answer)) => answer.into_body(),
            Ok(Err(error)) => return error.into(),
            Err(_) => return RequestError::Timeout(SILENCE_LIMIT).into(),
        };
        if is_steady && relist.due.is_none() {
            self.healthy();
        }
        let mut pieces = pin!(body.into_data_stream());
        let mut lines = Lines::default();
        loop {
            let piece = tokio::select! {
                biased;
                () = relist.is_due() => return End::Relist,
                Ok(()) = self.growth.changed() => return End::Relist,
                piece = timeout(SILENCE_LIMIT, pieces.next()) => piece,
            };
            self.attempt();
            match piece {
                Ok(Some(Ok(piece))) => lines.push(&piece),
                Ok(Some(Err(error))) => return End::Broken(RequestError::from_kube(error)),
                Ok(None) => break,
                Err(_) => return End::Broken(RequestError::Timeout(SILENCE_LIMIT)),
            }
            loop {
                match lines.next() {
                    Ok(Some(line)) => {
                        if let Some(end) = self.take(Event::read(&line, self.place()), version, relist) {
                            return end;
                        }
                    }
                    Ok(None) => break,
                    Err(TooLong) => {
                        relist.soon();
                        return End::Broken(RequestError::Decode(format!("an event has more than {LONGEST} bytes")));
                    }
                }
            }
        }
        // The end of the last line may be missing, and the line not.
        if let Some(rest) = lines.rest() {
            match Event::read(&rest, self.place()) {
                Err(_) => return broken("the answer ended in the middle of an event"),
                event => {
                    if let Some(end) = self.take(event, version, relist) {
                        return end;
                    }
                }
            }
        }
        if *version == from && started.elapsed() < SHORTEST_WATCH {
            return broken("the server ended a watch at once");
        }
        End::Over
    }

    /// Takes in an event. None: the watch goes on.
    fn take(
        &mut self,
        event: Result<Event, super::event::Garbled>,
        version: &mut u64,
        relist: &mut Relist,
    ) -> Option<End> {
        let reached = match event {
            Ok(Event::Is(object)) => {
                let object = self.object(*object);
                let reached = version_of(&object);
                self.index.observed(self.watch.id, object);
                reached
            }
            Ok(Event::Was(object)) => {
                let object = self.object(*object);
                self.index.vanished(self.watch.id, &object);
                version_of(&object)
            }
            Ok(Event::Reached(reached)) => {
                self.index.advanced(self.watch.id, reached);
                reached
            }
            Ok(Event::Failed(status)) => return Some(RequestError::in_stream(*status).into()),
            Err(garbled) => {
                self.report(&RequestError::Decode(garbled.to_string()));
                relist.soon();
                return None;
            }
        };
        *version = reached.max(*version);
        if relist.due.is_none() {
            self.healthy();
        }
        None
    }

    fn place(&self) -> Place<'_> {
        Place { namespaced: self.key.resource.namespaced, namespace: self.key.namespace.as_deref() }
    }

    fn is_of_metadata(&self) -> bool {
        self.kind.of_metadata().is_some()
    }

    fn object(&self, object: WireObject) -> Object {
        let object = self.index.object(&self.kind, object);
        if let Some(unreadable) = &object.unreadable {
            let known = self.index.get(&self.kind, &object.at());
            if known.is_none_or(|known| known.unreadable != object.unreadable) {
                let (path, why) = (&unreadable.path, &unreadable.why);
                tracing::warn!(object = %object.key(), path, why, "an object can't be read as a whole; it and its children are left as they are");
            }
        }
        object
    }

    fn attempt(&self) {
        self.report.status.send_modify(|status| status.last_attempt = Instant::now());
    }

    fn healthy(&self) {
        let had_problem = self.report.status.send_if_modified(|status| status.problem.take().is_some());
        if had_problem {
            self.tell();
        }
    }

    fn synced(&self, grown: u64) {
        if !self.report.status.borrow().is_synced {
            tracing::debug!(watch = %self.key, "in sync");
        }
        self.report.status.send_modify(|status| {
            status.is_synced = true;
            status.grown = grown;
            status.problem = None;
        });
        self.tell();
    }

    /// Tells what is wrong: in the status, the metrics, and the log.
    fn report(&mut self, error: &RequestError) {
        let problem = WatchProblem::from(error);
        let kind = problem.kind();
        self.report.failures.count(&self.kind, kind);
        if self.said.is_none_or(|(said, when)| said != kind || when.elapsed() > QUIET_TIME) {
            self.said = Some((kind, Instant::now()));
            tracing::warn!(watch = %self.key, reason = kind, %problem, "a watch misses events; it keeps trying");
        } else {
            tracing::debug!(watch = %self.key, reason = kind, %problem, "a watch still does not get all news");
        }
        self.report.status.send_modify(|status| status.problem = Some(problem));
        self.tell();
    }

    fn tell(&self) {
        self.report.changes.send_modify(|count| *count += 1);
    }
}

fn broken(how: &str) -> End {
    End::Broken(RequestError::Transport(how.to_owned()))
}
