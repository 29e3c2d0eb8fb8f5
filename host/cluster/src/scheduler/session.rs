//! What is kept of each scheduler between two calls: a connection, for a minute at most, and what was learned.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use dask_wasm_operator_core::{object::NamespacedName, scheduler::Scheduler};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, MissedTickBehavior},
};

use super::rpc::Connection;

/// How often connections are looked at that nobody uses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(20);

/// How long a connection is kept that nobody uses: with the interval above, never beyond a minute.
const KEEP_CONNECTION: Duration = Duration::from_secs(40);

/// How long anything is kept of a scheduler that nobody asks: longer than any interval at which one is polled.
const KEEP_SESSION: Duration = Duration::from_secs(3600);

/// How long an HTTP route that did not answer is not tried again: routes come and go with a scheduler's restart only.
const KEEP_ABSENT: Duration = Duration::from_secs(300);

/// What is kept of one scheduler.
pub(super) struct Session {
    /// Between two calls only: a call takes it out and puts it back when it succeeds.
    pub(super) kept: Option<Kept>,
    /// Since when a scheduler that does not tell has been idle.
    pub(super) idle_clock: Option<IdleClock>,
    absent_routes: BTreeMap<&'static str, Instant>,
    last_used: Instant,
}

/// A connection that nobody uses now.
pub(super) struct Kept {
    pub(super) connection: Connection,
    since: Instant,
}

/// Since when an idle scheduler has been seen idle at every look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdleClock {
    /// The id that a scheduler gives itself at its start: with another the clock starts again. None: not told, so any.
    pub(super) scheduler: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub(super) since: u64,
}

impl Session {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { kept: None, idle_clock: None, absent_routes: BTreeMap::new(), last_used: Instant::now() }
    }

    /// Keeps a connection for the next call.
    pub(super) fn keep(&mut self, connection: Connection) {
        self.kept = Some(Kept { connection, since: Instant::now() });
    }

    /// Whether an HTTP route was not there a short time ago.
    pub(super) fn is_absent(&self, route: &'static str) -> bool {
        self.absent_routes.get(route).is_some_and(|since| since.elapsed() < KEEP_ABSENT)
    }

    pub(super) fn note_absent(&mut self, route: &'static str) {
        self.absent_routes.insert(route, Instant::now());
    }

    /// The time since which the scheduler has been idle, as it is at `now`; both in milliseconds since the Unix epoch.
    pub(super) fn idle_since(&mut self, scheduler: Option<String>, now: u64) -> u64 {
        let is_same = |clock: &IdleClock| clock.scheduler.is_none() || clock.scheduler == scheduler;
        let since = self.idle_clock.take().filter(is_same).map_or(now, |clock| clock.since);
        self.idle_clock = Some(IdleClock { scheduler, since });
        since
    }
}

/// Locked during a call, so that calls to one scheduler come one after the other.
type SharedSession = Arc<tokio::sync::Mutex<Session>>;

type Table = Mutex<HashMap<Scheduler, SharedSession>>;

/// Since when the scheduler of a cluster has been idle, as far as it was known before this process.
pub(super) type IdleSince = Box<dyn Fn(&NamespacedName) -> Option<u64> + Send + Sync>;

/// The sessions of all schedulers.
pub(super) struct Sessions {
    table: Arc<Table>,
    pub(super) idle_since: IdleSince,
}

impl Sessions {
    /// Starts one task that drops what is not used any more. It ends with the sessions.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn start() -> Self {
        let table = Arc::new(Table::default());
        tokio::spawn(sweep_forever(Arc::downgrade(&table)));
        Self { table, idle_since: Box::new(|_| None) }
    }

    /// The session of a scheduler, when no other call uses it.
    pub(super) async fn of(&self, scheduler: &Scheduler) -> OwnedMutexGuard<Session> {
        let shared = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = table.entry(scheduler.clone());
            Arc::clone(shared.or_insert_with(|| {
                let since = (self.idle_since)(&scheduler.cluster);
                let idle_clock = since.map(|since| IdleClock { scheduler: None, since });
                Arc::new(tokio::sync::Mutex::new(Session { idle_clock, ..Session::new() }))
            }))
        };
        let mut session = shared.lock_owned().await;
        session.last_used = Instant::now();
        session
    }
}

async fn sweep_forever(table: Weak<Table>) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match table.upgrade() {
            Some(table) => sweep(&mut table.lock().unwrap_or_else(PoisonError::into_inner)),
            None => return,
        }
    }
}

fn sweep(table: &mut HashMap<Scheduler, SharedSession>) {
    table.retain(|_, session| {
        // One that is locked is in use.
        let Ok(mut session) = session.try_lock() else { return true };
        session.kept.take_if(|kept| kept.since.elapsed() >= KEEP_CONNECTION);
        session.last_used.elapsed() < KEEP_SESSION
    });
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::scheduler::ServicePort;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{
        super::{answer::Memory, frame},
        *,
    };

    fn scheduler() -> Scheduler {
        Scheduler {
            cluster: NamespacedName::new("n", "c"),
            service: "c-scheduler".to_owned(),
            comm_port: ServicePort::straight(8786),
            dashboard_port: None,
            tls_secret: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_ever() {
        let sessions = Sessions::start();
        sessions.of(&scheduler()).await.note_absent("/x");
        tokio::time::sleep(KEEP_ABSENT - SWEEP_INTERVAL).await;
        assert!(sessions.of(&scheduler()).await.is_absent("/x"));
        tokio::time::sleep(2 * SWEEP_INTERVAL).await;
        assert!(!sessions.of(&scheduler()).await.is_absent("/x"));
        tokio::time::sleep(KEEP_SESSION + SWEEP_INTERVAL).await;
        assert!(sessions.table.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_uses_is_closed_within_a_minute() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(&frame::encode(b"\x81\xafpickle-protocol\x04")).await.unwrap();
        let connection = Connection::open(Box::new(ours), Memory::new(Duration::from_secs(1)), Duration::from_secs(1))
            .await
            .unwrap();
        let sessions = Sessions::start();
        sessions.of(&scheduler()).await.keep(connection);
        let mut rest = Vec::new();
        // Calls that need no connection, as by HTTP, keep none.
        let calls = async {
            for _ in 0..60 {
                drop(sessions.of(&scheduler()).await);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = calls => panic!("it is kept for longer than a minute"),
            end = theirs.read_to_end(&mut rest) => drop(end.unwrap()),
        }
        assert_eq!(sessions.table.lock().unwrap().len(), 1, "what was learned is kept for longer");
    }

    #[tokio::test]
    async fn the_clock_starts_again_with_another_scheduler() {
        let mut session = Session::new();
        assert_eq!(session.idle_since(Some("a".to_owned()), 1), 1);
        assert_eq!(session.idle_since(Some("a".to_owned()), 5), 1);
        assert_eq!(session.idle_since(Some("b".to_owned()), 9), 9);
    }

    #[tokio::test]
    async fn the_clock_goes_on_from_what_was_known_before() {
        let mut sessions = Sessions::start();
        sessions.idle_since = Box::new(|cluster| (cluster.name == "c").then_some(3));
        let mut session = sessions.of(&scheduler()).await;
        assert_eq!(session.idle_since(Some("a".to_owned()), 5), 3);
        assert_eq!(session.idle_since(Some("b".to_owned()), 9), 9);
        drop(session);
        let other = Scheduler { cluster: NamespacedName::new("n", "other"), ..scheduler() };
        assert_eq!(sessions.of(&other).await.idle_since(Some("a".to_owned()), 5), 5);
    }
}
