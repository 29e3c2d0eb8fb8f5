//! One active replica, by a Lease (coordination.k8s.io/v1) that is changed by compare-and-swap only.
//!
//! Started by the runtime; the applier asks its [`Gate`] before each write. Clocks of different machines are never compared:
//! a holder is taken for dead when its record has not changed for the Lease's duration by *our* monotonic clock, and we
//! count our own time from before a renewal was sent. A process whose Lease ran out, because the API server was away, goes on
//! when it has renewed it and nobody else held it in between. One that lost it never gets it back: it must end, since what it
//! remembers may be outdated.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use dask_wasm_operator_core::object::{GroupVersionKind, NamespacedName, Resource};
use http::Method;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::Client;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    backoff::random,
    gate::{Gate, WriteUntil},
    path::{self, PathError},
    request::{Call, RequestError},
};

/// How long any request for the Lease may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// The longest time for which a silent holder is waited, whatever is written: none of ours has a longer one.
const LONGEST: Duration = Duration::from_secs(60);

/// Which Lease, and how often it is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// Who we are: differs between processes, see [`holder_identity`].
    pub holder: String,
    /// How long the Lease is ours after a renewal, in whole seconds.
    pub duration: Duration,
    /// Between two renewals.
    pub renew_interval: Duration,
    /// Between two looks at a Lease that is somebody else's, and before a failed renewal is tried again.
    pub retry_interval: Duration,
}

impl LeaseSettings {
    /// The operator's own: 10 s, renewed every 3 s, so that two renewals may fail; looked at every second, so that a standby
    /// takes over at most 2 s after a release and 12 s after a crash.
    pub fn new(namespace: &str, holder: String) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: "dask-wasm-operator".to_owned(),
            holder,
            duration: Duration::from_secs(10),
            renew_interval: Duration::from_secs(3),
            retry_interval: Duration::from_secs(1),
        }
    }
}

/// A holder that no other process has: `base` (a pod's or host's name) tells people which it is.
pub fn holder_identity(base: &str) -> String {
    format!("{base}_{:016x}", random())
}

/// Who holds the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Somebody else, or nobody yet.
    Standby {
        /// The holder, if known.
        holder: Option<String>,
    },
    /// This process. Whether it may write is told by its gate: the Lease may have run out without anybody taking it.
    Leading,
    /// Not this process any more; why.
    Lost(String),
}

/// This process's part in the election.
pub struct Leadership {
    state: watch::Receiver<LeaseState>,
    until: watch::Receiver<WriteUntil>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Leadership {
    /// Begins to stand for election. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the namespace or name can't be part of a URL.
    pub fn start(client: Client, settings: LeaseSettings) -> Result<Self, PathError> {
        let resource = Resource {
            kind: GroupVersionKind::new("coordination.k8s.io", "v1", "Lease"),
            plural: "leases".to_owned(),
            namespaced: true,
        };
        let path = path::object(&resource, &NamespacedName::new(&settings.namespace, &settings.name))?;
        let collection = path::collection(&resource, Some(&settings.namespace))?;
        let (state_tx, state) = watch::channel(LeaseState::Standby { holder: None });
        let (until_tx, until) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let failing = AtomicU32::default();
        let candidate = Candidate { client, settings, path, collection, state: state_tx, until: until_tx, failing };
        let task = tokio::spawn(candidate.run(stopped));
        Ok(Self { state, until, stop, task })
    }

    /// Open while the Lease is surely ours.
    pub fn gate(&self) -> Gate {
        Gate::held_until(self.until.clone())
    }

    /// Who holds the Lease at the moment.
    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    /// Waits until this process holds the Lease.
    pub async fn acquired(&self) {
        // The task lives as long as this does.
        let _ = self.state.clone().wait_for(|state| *state == LeaseState::Leading).await;
    }

    /// Waits until this process has lost the Lease that it held; returns why. It must end then.
    pub async fn lost(&self) -> String {
        let mut state = self.state.clone();
        let lost = state.wait_for(|state| matches!(state, LeaseState::Lost(_))).await;
        match lost.as_deref() {
            Ok(LeaseState::Lost(reason)) => reason.clone(),
            _ => "the election ended".to_owned(),
        }
    }

    /// Closes the gate and hands the Lease back, so that another replica can take over at once. To be called when no write is
    /// on its way any more.
    pub async fn release(self) {
        let _ = self.stop.send(());
        // A panic of the task has been reported already; the Lease then runs out by itself.
        let _ = self.task.await;
    }
}

/// A Lease as it was seen, and since when it has not changed.
#[derive(Clone, Debug)]
struct Sighting {
    lease: Lease,
    since: Instant,
}

impl Sighting {
    /// The same record seen again keeps its time.
    fn renewed_by(previous: Option<&Self>, lease: Lease, now: Instant) -> Self {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let unchanged = previous.filter(|previous| version(&previous.lease) == version(&lease));
        Self { since: unchanged.map_or(now, |previous| previous.since), lease }
    }

    /// Whether nobody holds it, its holder is taken for dead, or a write of ours succeeded without our knowing.
    /// A holder has at least the duration `own` that we would have: one that is alive is not overtaken.
    fn is_free(&self, me: &str, own: Duration, now: Instant) -> bool {
        let Some(holder) = holder(&self.lease) else { return true };
        let seconds = self.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST).max(own);
        holder == me || now >= self.since + duration
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The record with which `me` takes or keeps the Lease.
fn held(lease: &Lease, me: &str, duration: Duration, now: Timestamp) -> Lease {
    let is_mine = holder(lease) == Some(me);
    let old = lease.spec.clone().unwrap_or_default();
    let spec = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
        acquire_time: if is_mine { old.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(old.lease_transitions.unwrap_or(0).saturating_add(i32::from(!is_mine))),
        ..old
    };
    Lease { metadata: lease.metadata.clone(), spec: Some(spec) }
}

/// The record with which the Lease is handed back.
fn released(lease: &Lease, now: Timestamp) -> Lease {
    let old = lease.spec.clone().unwrap_or_default();
    let spec =
        LeaseSpec { holder_identity: None, lease_duration_seconds: Some(1), renew_time: Some(MicroTime(now)), ..old };
    Lease { metadata: lease.metadata.clone(), spec: Some(spec) }
}

struct Candidate {
    client: Client,
    settings: LeaseSettings,
    path: String,
    collection: String,
    state: watch::Sender<LeaseState>,
    until: watch::Sender<WriteUntil>,
    /// One more than the code of the last request, if that failed: an outage is told once, not at each attempt.
    failing: AtomicU32,
}

/// A Lease that is ours until a time.
struct Held {
    lease: Lease,
    sent: Instant,
}

/// Why the Lease is not renewed.
enum NotRenewed {
    /// Another process holds it, or may have held it.
    Lost(&'static str),
    /// It may be tried again.
    Failed(RequestError),
}

impl From<RequestError> for NotRenewed {
    fn from(error: RequestError) -> Self {
        Self::Failed(error)
    }
}

impl Candidate {
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let held = tokio::select! {
            held = self.acquire() => held,
            _ = &mut stopped => return,
        };
        tracing::info!(lease = self.name(), holder = %self.settings.holder, "the Lease is held");
        let mut held = held;
        self.lead(&held);
        self.state.send_replace(LeaseState::Leading);
        let lost = tokio::select! {
            reason = self.keep(&mut held) => Some(reason),
            _ = &mut stopped => None,
        };
        self.until.send_replace(None);
        match lost {
            Some(reason) => {
                tracing::error!(lease = self.name(), reason, "the Lease is lost");
                self.state.send_replace(LeaseState::Lost(reason.to_owned()));
            }
            None => self.release(&held.lease).await,
        }
    }

    /// Waits until the Lease is free, and takes it.
    async fn acquire(&self) -> Held {
        let mut seen: Option<Sighting> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(held) => {
                    self.failing.store(0, Ordering::Relaxed);
                    if let Some(held) = held {
                        return held;
                    }
                }
                Err(error) => self.report(&error, "the Lease can't be looked at"),
            }
            let holder = seen.as_ref().and_then(|seen| holder(&seen.lease)).map(str::to_owned);
            self.state.send_if_modified(|state| {
                let standby = LeaseState::Standby { holder };
                let changed = *state != standby;
                *state = standby;
                changed
            });
            sleep(self.settings.retry_interval).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Option<Sighting>) -> Result<Option<Held>, RequestError> {
        let lease = match self.read().await? {
            Some(lease) => {
                let now = Instant::now();
                let sighting = Sighting::renewed_by(seen.as_ref(), lease, now);
                let free = sighting.is_free(&self.settings.holder, self.settings.duration, now);
                let lease = sighting.lease.clone();
                *seen = Some(sighting);
                if !free {
                    return Ok(None);
                }
                lease
            }
            None => self.blank(),
        };
        match self.write(&lease).await {
            // Another was faster.
            Err(error) if error.code() == 409 => Ok(None),
            written => written.map(Some),
        }
    }

    /// Renews the Lease until it is lost; returns why it is. One that has run out is not lost as long as nobody took it: what
    /// this process knows is still what was written last.
    async fn keep(&self, held: &mut Held) -> &'static str {
        let mut has_run_out = false;
        loop {
            sleep((held.sent + self.settings.renew_interval).saturating_duration_since(Instant::now())).await;
            match self.renew(held).await {
                Ok(renewed) => {
                    *held = renewed;
                    self.failing.store(0, Ordering::Relaxed);
                    self.lead(held);
                    if std::mem::take(&mut has_run_out) {
                        tracing::info!(
                            lease = self.name(),
                            "the Lease is held again, and nobody else held it in between"
                        );
                    }
                }
                Err(NotRenewed::Lost(reason)) => return reason,
                Err(NotRenewed::Failed(error)) => {
                    self.report(&error, "the Lease could not be renewed");
                    if self.has_run_out(held) && !std::mem::replace(&mut has_run_out, true) {
                        tracing::warn!(
                            lease = self.name(),
                            "the Lease has expired; nothing is written until it is renewed"
                        );
                    }
                    sleep(self.settings.retry_interval).await;
                }
            }
        }
    }

    async fn renew(&self, held: &Held) -> Result<Held, NotRenewed> {
        let error = match self.write(&held.lease).await {
            Ok(held) => return Ok(held),
            Err(error) => error,
        };
        if !matches!(error.code(), 404 | 409) {
            return Err(error.into());
        }
        // Somebody deleted or edited it, took it, or an earlier renewal succeeded without our knowing. Only this process
        // writes its own name, and never over another's: where the name still stands, nobody held it in between.
        let lease = match self.read().await? {
            Some(lease) if holder(&lease) == Some(&self.settings.holder) => lease,
            Some(_) => return Err(NotRenewed::Lost("another process took it")),
            None if self.has_run_out(held) => return Err(NotRenewed::Lost("it had run out and was deleted")),
            None => self.blank(),
        };
        Ok(self.write(&lease).await?)
    }

    fn report(&self, error: &RequestError, what: &'static str) {
        let (lease, code) = (self.name(), u32::from(error.code()) + 1);
        if self.failing.swap(code, Ordering::Relaxed) == code {
            tracing::debug!(lease, %error, "{what}");
        } else {
            tracing::warn!(lease, %error, "{what}");
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.settings.namespace, self.settings.name)
    }

    fn has_run_out(&self, held: &Held) -> bool {
        Instant::now() >= held.sent + self.settings.duration
    }

    async fn release(&self, lease: &Lease) {
        let call = Call::json(Method::PUT, &self.path, &released(lease, Timestamp::now()));
        match call.send(&self.client, REQUEST_DEADLINE).await {
            Ok(_) => tracing::info!(lease = self.name(), "the Lease is released"),
            Err(error) => self.report(&error, "the Lease could not be released; it expires by itself"),
        }
    }

    fn lead(&self, held: &Held) {
        self.until.send_replace(Some(held.sent + self.settings.duration));
    }

    fn blank(&self) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.settings.name.clone()),
            namespace: Some(self.settings.namespace.clone()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: None }
    }

    async fn read(&self) -> Result<Option<Lease>, RequestError> {
        match Call::get(&self.path).send(&self.client, REQUEST_DEADLINE).await {
            Ok(answer) => answer.decode().map(Some),
            Err(error) if error.code() == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes or keeps the Lease, if it is still what `lease` says.
    async fn write(&self, lease: &Lease) -> Result<Held, RequestError> {
        let wanted = held(lease, &self.settings.holder, self.settings.duration, Timestamp::now());
        let call = if lease.metadata.resource_version.is_some() {
            Call::json(Method::PUT, &self.path, &wanted)
        } else {
            Call::json(Method::POST, &self.collection, &wanted)
        };
        let sent = Instant::now();
        let lease = call.send(&self.client, REQUEST_DEADLINE).await?.decode()?;
        Ok(Held { lease, sent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Duration = Duration::from_secs(2);

    fn lease(version: &str, holder: Option<&str>, seconds: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    #[test]
    fn a_holder_is_dead_when_its_record_stays_the_same_for_the_duration() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = Sighting::renewed_by(None, lease("1", Some("other"), 10), start);
        assert!(!first.is_free("me", OWN, after(9)));
        assert!(first.is_free("me", OWN, after(10)));
        let same = Sighting::renewed_by(Some(&first), lease("1", Some("other"), 10), after(5));
        assert!(same.is_free("me", OWN, after(10)));
        let renewed = Sighting::renewed_by(Some(&first), lease("2", Some("other"), 10), after(5));
        assert!(!renewed.is_free("me", OWN, after(14)));
        assert!(renewed.is_free("me", OWN, after(15)));
    }

    #[test]
    fn a_released_or_own_lease_is_free_at_once() {
        let now = Instant::now();
        for holder in [None, Some(""), Some("me")] {
            assert!(Sighting::renewed_by(None, lease("1", holder, 10), now).is_free("me", OWN, now), "{holder:?}");
        }
        let given_back = released(&lease("1", Some("other"), 10), Timestamp::UNIX_EPOCH);
        assert!(Sighting::renewed_by(None, given_back, now).is_free("me", OWN, now));
    }

    #[test]
    fn whatever_duration_is_written_nobody_is_overtaken_and_nobody_waits_without_end() {
        let start = Instant::now();
        for (seconds, free_after) in [(i32::MIN, 2), (0, 2), (1, 2), (30, 30), (3_600, 60), (i32::MAX, 60)] {
            let seen = Sighting::renewed_by(None, lease("1", Some("other"), seconds), start);
            let is_free = |after| seen.is_free("me", OWN, start + Duration::from_secs(after));
            assert!(!is_free(free_after - 1) && is_free(free_after), "{seconds} s");
        }
        let mut last = lease("1", Some("other"), 1);
        last.spec = last.spec.map(|spec| LeaseSpec { lease_transitions: Some(i32::MAX), ..spec });
        let taken = held(&last, "me", OWN, Timestamp::UNIX_EPOCH);
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(i32::MAX));
    }

    #[test]
    fn taking_it_counts_a_transition_and_keeping_it_does_not() {
        let duration = Duration::from_secs(10);
        let taken = held(&lease("1", Some("other"), 5), "me", duration, Timestamp::UNIX_EPOCH);
        let kept = held(&taken, "me", duration, Timestamp::now());
        let (taken, kept) = (taken.spec.unwrap(), kept.spec.unwrap());
        assert_eq!((taken.lease_transitions, kept.lease_transitions), (Some(1), Some(1)));
        assert_eq!(taken.acquire_time, kept.acquire_time);
        assert_ne!(taken.renew_time, kept.renew_time);
        assert_eq!(kept.lease_duration_seconds, Some(10));
    }
}
