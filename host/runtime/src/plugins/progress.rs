//! Where the newest code of a plugin stands.
//!
//! ```text
//! awaited ──► read ──► described ──► mounted
//!    └──────────┴───────────┴──────► refused ──► awaited, if it was not the plugin's fault
//! ```
//!
//! Who produces something (a source its bytes, the engine a plugin, the watches that they are in sync) works on its own, for as
//! long as it takes, and reports the stage that it has reached. What becomes of a report is decided here. What serves is another
//! matter: it goes on until newer code is mounted.

use std::hash::Hash;

use dask_wasm_operator_core::{
    quote::says_the_same,
    retry::{Backoff, Retry},
    spec::PluginState,
};
use tokio::time::Instant;

use super::status::Newest;

/// A specification with its code, by their fingerprint. What is reported of a former edition counts no more.
pub(super) type Edition = u64;

/// What the newest edition has reached.
#[derive(Clone, Debug, Default)]
pub(super) enum Stage {
    /// Its source is to hand over the bytes.
    #[default]
    Awaited,
    /// The bytes are there. They are checked and compiled, and asked what they are.
    Read,
    /// It has described itself. What its handlers watch is being read.
    Described,
    /// Its handlers are called, or none can be; in any case this is what it comes to.
    Mounted(Newest),
    /// It can't be used, or is not to be.
    Refused(Newest),
}

/// Whether a refusal is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is.
    New,
    /// It was known, in the same or other words.
    Known,
}

/// See the module.
#[derive(Default)]
pub(super) struct Progress {
    /// None: there was none, or the last is to be tried again.
    edition: Option<Edition>,
    stage: Stage,
    /// Failures that were not the plugin's fault, and when to try again.
    backoff: Backoff,
    retry: Option<Instant>,
    /// Whether this process has found out what an edition comes to.
    is_known: bool,
}

impl Progress {
    /// Turns to an edition, unless it is the present one. What is shown of the former stays until something is known.
    pub(super) fn begin(&mut self, edition: Edition) -> bool {
        if self.edition == Some(edition) {
            return false;
        }
        if self.edition.is_some() {
            self.backoff.succeed();
        }
        (self.edition, self.retry) = (Some(edition), None);
        true
    }

    pub(super) fn edition(&self) -> Option<Edition> {
        self.edition
    }

    /// Whether what is reported of an edition counts: it is the present one.
    pub(super) fn is_about(&self, edition: Edition) -> bool {
        self.edition == Some(edition)
    }

    /// The present edition has come so far.
    pub(super) fn reach(&mut self, stage: Stage) {
        match &stage {
            // One that is tried again keeps saying why it has to be.
            Stage::Awaited | Stage::Read if self.backoff.attempts() > 0 => return,
            Stage::Awaited | Stage::Read | Stage::Refused(_) => {}
            Stage::Described | Stage::Mounted(_) => self.backoff.succeed(),
        }
        self.is_known |= matches!(stage, Stage::Mounted(_) | Stage::Refused(_));
        self.stage = stage;
    }

    /// The present edition can't be used.
    pub(super) fn refuse(&mut self, newest: Newest) -> Refusal {
        if let Stage::Refused(before) | Stage::Mounted(before) = &self.stage
            && (before.state, &before.reason, &before.digest) == (newest.state, &newest.reason, &newest.digest)
            && says_the_same(&before.message, &newest.message)
        {
            return Refusal::Known;
        }
        self.reach(Stage::Refused(newest));
        Refusal::New
    }

    /// The present edition is to be tried again later. `seed` spreads plugins that fail together.
    pub(super) fn try_later(&mut self, seed: &impl Hash, now: Instant) {
        if let Retry::After(delay) = self.backoff.fail(seed, None, None) {
            self.retry = Some(now + delay);
        }
    }

    /// When to try again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Takes note that time is up: the edition is to be looked at as if it were new. Answers whether it is.
    pub(super) fn begin_again(&mut self, now: Instant) -> bool {
        let is_due = self.retry.is_some_and(|due| due <= now);
        if is_due {
            (self.edition, self.retry) = (None, None);
        }
        is_due
    }

    /// Whether nothing newer is on its way, or was refused, than what is mounted.
    pub(super) fn is_mounted(&self) -> bool {
        matches!(self.stage, Stage::Mounted(_))
    }

    /// Whether what its handlers watch is being read.
    pub(super) fn is_described(&self) -> bool {
        matches!(self.stage, Stage::Described)
    }

    /// Whether this process has found out what an edition comes to.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// A watch has no news. If its handlers wait for that, it is what the edition comes to for now.
    pub(super) fn is_held_up(&mut self) {
        self.is_known |= self.is_described();
    }

    /// What a person is told.
    pub(super) fn newest(&self) -> Newest {
        match &self.stage {
            Stage::Awaited => Newest::default(),
            Stage::Read => Newest::new(PluginState::Compiling, "Loading", "its code is being checked and compiled"),
            Stage::Described => {
                Newest::new(PluginState::Describing, "WatchesStarting", "what its handlers watch is being read")
            }
            Stage::Mounted(newest) | Stage::Refused(newest) => newest.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failed(message: &str) -> Newest {
        Newest::new(PluginState::Failed, "HostFailure", message)
    }

    fn states(progress: &mut Progress, stages: impl IntoIterator<Item = Stage>) -> Vec<PluginState> {
        let state = |stage| {
            progress.reach(stage);
            progress.newest().state
        };
        stages.into_iter().map(state).collect()
    }

    #[test]
    fn each_stage_is_shown_and_only_the_last_is_what_it_comes_to() {
        let mut progress = Progress::default();
        assert!(progress.begin(1) && !progress.begin(1));
        let ready = || Stage::Mounted(Newest::new(PluginState::Ready, "Ready", "called"));
        let before = states(&mut progress, [Stage::Awaited, Stage::Read, Stage::Described]);
        assert_eq!(before, [PluginState::Found, PluginState::Compiling, PluginState::Describing]);
        assert!(!progress.is_known() && !progress.is_mounted());
        assert_eq!(states(&mut progress, [ready()]), [PluginState::Ready]);
        assert!(progress.is_known() && progress.is_mounted());
        // A newer one takes the same way, and what was found out stays so.
        assert!(progress.begin(2) && progress.is_mounted());
        assert_eq!(states(&mut progress, [Stage::Awaited]), [PluginState::Found]);
        assert!(progress.is_known() && !progress.is_mounted());
    }

    /// The belief that is attacked: that what is late is told from what is new by its order.
    #[test]
    fn what_is_reported_of_a_former_edition_does_not_count() {
        let mut progress = Progress::default();
        progress.begin(1);
        assert!(progress.is_about(1) && progress.edition() == Some(1));
        progress.begin(2);
        assert!(!progress.is_about(1) && progress.is_about(2));
        // Nor of the same one before it was to be tried again.
        progress.try_later(&"p", Instant::now());
        assert!(progress.begin_again(Instant::now() + Duration::from_secs(1)));
        assert!(!progress.is_about(2));
        progress.begin(2);
        assert!(progress.is_about(2));
    }

    #[test]
    fn one_that_is_tried_again_keeps_saying_why_and_is_tried_ever_less_often() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        let mut delays = Vec::new();
        for attempt in 0..12 {
            assert!(progress.begin(1));
            progress.reach(Stage::Awaited);
            progress.reach(Stage::Read);
            assert_eq!(progress.newest().reason, if attempt == 0 { "Loading" } else { "HostFailure" });
            let news = progress.refuse(failed("no thread “of 7” can be started"));
            assert_eq!(news, if attempt == 0 { Refusal::New } else { Refusal::Known });
            progress.try_later(&"p", now);
            delays.push(progress.due().unwrap() - now);
            assert!(!progress.begin_again(now) && progress.begin_again(now + Duration::from_secs(61)));
        }
        assert!(delays[0] < Duration::from_secs(1) && delays[11] > Duration::from_secs(20), "{delays:?}");
        // Another edition begins anew.
        progress.begin(1);
        progress.begin(2);
        progress.reach(Stage::Awaited);
        assert_eq!((progress.newest().reason.as_str(), progress.due()), ("Found", None));
    }

    #[test]
    fn the_same_refusal_in_other_words_is_no_news() {
        let mut progress = Progress::default();
        progress.begin(1);
        assert_eq!(progress.refuse(failed("the file “a” is bad")), Refusal::New);
        progress.begin(2);
        assert_eq!(progress.refuse(failed("the file “b” is bad")), Refusal::Known);
        assert_eq!(progress.refuse(failed("the directory is bad")), Refusal::New);
        // What was on its way meanwhile was no longer refused.
        progress.reach(Stage::Awaited);
        assert_eq!(progress.refuse(failed("the directory is bad")), Refusal::New);
    }
}
