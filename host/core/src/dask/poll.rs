//! When a scheduler is asked the same thing again.
//!
//! For reconcilers that ask at regular intervals, whose memory of it is a [`Poll`] among their facts. Each reply is looked at
//! once; a scheduler that does not answer is asked ever less often; after a restart the questions are spread over an interval.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    scheduler::{Heard, SchedulerCall, SchedulerError},
    wanted::{Problem, Snapshot},
};

/// Longest time between two questions to a scheduler that does not answer: it is noticed within a minute when it does.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a scheduler may be silent before that is a problem: its pod may be on its way to another node.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is remembered of asking. Times in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Poll {
    /// The next question is due then; none: nothing was asked yet.
    due: Option<u64>,
    /// When the reply came that was looked at last.
    looked_at: Option<u64>,
}

/// What to do now.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    /// Whether to ask.
    pub(super) ask: bool,
    /// When to look again, if no reply comes before.
    pub(super) wait: Duration,
    /// The reply, if it was not looked at before.
    pub(super) news: Option<&'a Heard>,
}

impl Poll {
    /// Looks at the last reply to `call`, which is asked every `interval`, and not while it is on its way.
    pub(super) fn turn<'a>(&mut self, seen: &'a Snapshot, call: &SchedulerCall, interval: Duration) -> Turn<'a> {
        let longest = interval.max(LONGEST);
        let heard = last(seen, call);
        let news = heard.filter(|heard| self.looked_at != Some(heard.at));
        if let Some(heard) = news {
            self.looked_at = Some(heard.at);
            self.due = Some(after(heard.at, silent_for(heard).clamp(interval, longest)));
        }
        let due = *self.due.get_or_insert_with(|| after(seen.now, offset(&seen.subject.metadata.uid, interval)));
        if seen.replies.is_under_way(call) {
            return Turn { ask: false, wait: longest, news };
        }
        let wait = Duration::from_millis(due.saturating_sub(seen.now));
        // No question waits for longer than the longest time, unless the clock was set back.
        let ask = wait.is_zero() || wait > longest;
        Turn { ask, wait: if ask { longest } else { wait }, news }
    }
}

/// That the scheduler has not answered for a while, and what can be done about it.
pub(super) fn silence(seen: &Snapshot, call: &SchedulerCall, cluster: &str) -> Option<Problem> {
    let heard = last(seen, call)?;
    let error = heard.result.as_ref().err().filter(|_| silent_for(heard) >= PATIENCE)?;
    let remedy = match error {
        SchedulerError::Unreachable(_) => format!(
            "check the pod of Deployment {cluster}-scheduler and its log, and NetworkPolicies between the operator and the pod"
        ),
        SchedulerError::Unusable(_) | SchedulerError::Unsupported(_) => {
            format!(
                "run distributed 2022.8 or newer in DaskCluster {cluster}, with its HTTP API or its RPC port in the Service"
            )
        }
        SchedulerError::Certificates(_) => {
            format!("correct spec.tlsSecretName of DaskCluster {cluster}, or the Secret")
        }
    };
    let subject = &seen.subject;
    let message = format!(
        "{} {}: no answer from the scheduler of DaskCluster {cluster}: {error}; {remedy}",
        subject.kind.kind, subject.metadata.name,
    );
    Some(Problem::passing(error.kind(), message))
}

fn last<'a>(seen: &'a Snapshot, call: &SchedulerCall) -> Option<&'a Heard> {
    seen.replies.fresh(call, Duration::MAX, seen.now)
}

/// From the first failure to the last: as a delay, it doubles from one to the next.
fn silent_for(heard: &Heard) -> Duration {
    Duration::from_millis(heard.failing_since.map_or(0, |since| heard.at.saturating_sub(since)))
}

/// Where in the interval the first question of a subject lies.
fn offset(uid: &str, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    interval.mul_f64((hasher.finish() % 1024) as f64 / 1024.0)
}

fn after(time: u64, delay: Duration) -> u64 {
    time.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::{
        object::Object,
        scheduler::{Replies, SchedulerReply},
    };

    const NOW: u64 = 1_795_372_200_000;
    const CALL: SchedulerCall = SchedulerCall::IdleSince;
    const INTERVAL: Duration = Duration::from_secs(5);

    fn snapshot(uid: &str) -> Snapshot {
        let subject = json!({"apiVersion": "v1", "kind": "DaskCluster", "metadata": {"name": "a", "uid": uid}});
        Snapshot {
            subject: Arc::new(Object::from_value(&subject).unwrap()),
            children: Vec::new().into(),
            departed: Vec::new(),
            related: BTreeMap::new(),
            outdated: None,
            replies: Replies::default(),
            known_fields: Arc::default(),
            facts: json!(null),
            now: NOW,
        }
    }

    #[test]
    fn the_first_questions_are_spread_over_the_interval() {
        let mut halves = [0, 0];
        for number in 0..1_000 {
            let (mut poll, seen) = (Poll::default(), snapshot(&number.to_string()));
            let mut wait = || {
                let turn = poll.turn(&seen, &CALL, INTERVAL);
                if turn.ask { Duration::ZERO } else { turn.wait }
            };
            let first = wait();
            assert!(first <= INTERVAL);
            assert_eq!(wait(), first, "a subject keeps its place");
            halves[usize::from(first > INTERVAL / 2)] += 1;
        }
        assert!(halves.iter().all(|half| *half > 400), "{halves:?}");
    }

    #[test]
    fn a_question_under_way_is_not_put_again_and_nobody_looks_for_its_reply() {
        let (mut poll, mut seen) = (Poll::default(), snapshot("u"));
        seen.now += u64::try_from(poll.turn(&seen, &CALL, INTERVAL).wait.as_millis()).unwrap();
        assert!(poll.turn(&seen, &CALL, INTERVAL).ask);
        assert!(poll.turn(&seen, &CALL, INTERVAL).ask, "it was not put then");
        seen.replies.ask(&CALL);
        seen.now += 30_000;
        let turn = poll.turn(&seen, &CALL, INTERVAL);
        assert_eq!((turn.ask, turn.wait), (false, LONGEST));
        seen.replies.note(&CALL, Ok(SchedulerReply::IdleSince(None)), seen.now);
        let turn = poll.turn(&seen, &CALL, INTERVAL);
        assert!(turn.news.is_some());
        assert_eq!((turn.ask, turn.wait), (false, INTERVAL));
    }

    #[test]
    fn a_reply_is_news_once_and_the_next_question_is_an_interval_after_it() {
        let (mut poll, mut seen) = (Poll::default(), snapshot("u"));
        seen.replies.note(&CALL, Ok(SchedulerReply::IdleSince(None)), NOW - 1_000);
        let turn = poll.turn(&seen, &CALL, INTERVAL);
        assert!(turn.news.is_some() && !turn.ask);
        assert_eq!(turn.wait, Duration::from_secs(4));
        assert!(poll.turn(&seen, &CALL, INTERVAL).news.is_none());
    }

    #[test]
    fn a_clock_that_was_set_back_stops_no_questions() {
        let (mut poll, mut seen) = (Poll::default(), snapshot("u"));
        seen.replies.note(&CALL, Ok(SchedulerReply::IdleSince(None)), NOW + 3_600_000);
        assert!(poll.turn(&seen, &CALL, INTERVAL).ask);
        seen.replies.ask(&CALL);
        assert!(!poll.turn(&seen, &CALL, INTERVAL).ask);
        seen.replies.note(&CALL, Ok(SchedulerReply::IdleSince(None)), NOW);
        assert_eq!(poll.turn(&seen, &CALL, INTERVAL).wait, INTERVAL);
    }
}
