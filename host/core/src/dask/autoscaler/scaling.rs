//! How many workers a group is to have, given what its scheduler asks for: arithmetic only.
//!
//! Without optional fields it is that of the Python operator. Whatever a scheduler answers, the result lies between
//! `minimum` and `maximum`, or is a step towards them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    dask::workers::worker_set::WORKERS_MAX,
    spec::DaskAutoscalerSpec,
    time::{left, millis},
};

/// A number of workers that was asked for. Times here are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dask) struct Recommendation {
    replicas: u32,
    /// When last.
    at: u64,
}

/// The group, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(in crate::dask) struct Situation {
    /// How many workers it is to have now.
    pub(in crate::dask) current: u32,
    /// Whether some of them are not ready yet.
    pub(in crate::dask) pending: bool,
    /// When the autoscaler last changed it.
    pub(in crate::dask) last_scale: Option<u64>,
    /// Nothing is changed before this time, whatever the cooldowns say: as far ahead as whoever wrote it may have meant it.
    pub(in crate::dask) blocked_until: Option<u64>,
    /// Now.
    pub(in crate::dask) now: u64,
}

/// Why a change is not made yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dask) enum Hold {
    /// The last change is too recent; it is made after this time.
    Cooldown(u64),
    /// Something else was asked for a short time ago.
    Stabilizing,
    /// Workers that were asked for before are not ready.
    WorkersStarting,
}

/// What is to become of the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dask) enum Verdict {
    /// It is right.
    Right,
    /// It stays for now.
    Hold(Hold),
    /// It is changed to this.
    Change(u32),
}

/// As many workers as the scheduler asks for, `others` being in other groups, within the limits. The maximum wins.
pub(in crate::dask) fn goal(spec: &DaskAutoscalerSpec, target: u64, others: u64) -> u32 {
    let target = u32::try_from(target.saturating_sub(others)).unwrap_or(u32::MAX);
    within(spec, target)
}

/// As many workers as there are in any case.
pub(in crate::dask) fn least(spec: &DaskAutoscalerSpec) -> u32 {
    within(spec, 0)
}

fn within(spec: &DaskAutoscalerSpec, replicas: u32) -> u32 {
    replicas.max(spec.minimum).min(spec.maximum).min(WORKERS_MAX)
}

/// Decides, and notes that `goal` was asked for.
pub(in crate::dask) fn decide(
    spec: &DaskAutoscalerSpec,
    recommendations: &mut Vec<Recommendation>,
    situation: &Situation,
    goal: u32,
) -> Verdict {
    let Situation { current, pending, last_scale, blocked_until, now } = *situation;
    if goal == current {
        recommendations.clear();
        return Verdict::Right;
    }
    let stable = within(spec, stabilized(spec, recommendations, current, goal, now));
    if stable == current {
        return Verdict::Hold(Hold::Stabilizing);
    }
    let grows = stable > current;
    let cooldown = if grows { spec.scale_up_cooldown_seconds } else { spec.scale_down_cooldown_seconds };
    let cooling = last_scale.and_then(|time| left(time, Duration::from_secs(cooldown.into()), now));
    let cooled = cooling.map(|left| now.saturating_add(millis(left)));
    if let Some(until) = cooled.max(blocked_until).filter(|until| *until > now) {
        return Verdict::Hold(Hold::Cooldown(until));
    }
    if !grows {
        return Verdict::Change(stable.max(lowest_next(spec, current)));
    }
    match least(spec) {
        _ if !pending => Verdict::Change(stable),
        least if least > current => Verdict::Change(least),
        _ => Verdict::Hold(Hold::WorkersStarting),
    }
}

/// How far one step down may go: by a quarter as the Python operator does, but always by one.
fn lowest_next(spec: &DaskAutoscalerSpec, current: u32) -> u32 {
    let step = u64::from(current) * u64::from(spec.max_scale_down_percent) / 100;
    current.saturating_sub(u32::try_from(step).unwrap_or(u32::MAX).max(1))
}

/// The nearest to `current` that was asked for within the windows, as Kubernetes' HorizontalPodAutoscaler has it: up to the
/// lowest, down to the highest. What was asked for before there is a record counts as `current`, so that a restart of the
/// operator shortens no window.
fn stabilized(
    spec: &DaskAutoscalerSpec,
    recommendations: &mut Vec<Recommendation>,
    current: u32,
    goal: u32,
    now: u64,
) -> u32 {
    let window = |seconds: u32| u64::from(seconds) * 1_000;
    let (up, down) = (window(spec.scale_up_stabilization_seconds), window(spec.scale_down_stabilization_seconds));
    if recommendations.is_empty() {
        recommendations.push(Recommendation { replicas: current, at: now });
    }
    // What is yet to come is of a clock that was set back.
    let is_within = |past: &Recommendation, window: u64| now.checked_sub(past.at).is_some_and(|age| age < window);
    recommendations.retain(|past| past.replicas != goal && is_within(past, up.max(down)));
    recommendations.push(Recommendation { replicas: goal, at: now });
    let within = |window: u64| {
        let recent = recommendations.iter().filter(move |past| is_within(past, window));
        recent.map(|past| past.replicas)
    };
    let lowest = within(up).fold(goal, u32::min);
    let highest = within(down).fold(goal, u32::max);
    current.max(lowest).min(highest)
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_test_properties::cases;
    use proptest::prelude::*;

    use super::*;

    fn spec(minimum: u32, maximum: u32) -> DaskAutoscalerSpec {
        let spec = serde_json::json!({"cluster": "a", "minimum": minimum, "maximum": maximum});
        serde_json::from_value(spec).unwrap()
    }

    fn situation(current: u32) -> Situation {
        Situation { current, pending: false, last_scale: None, blocked_until: None, now: 1_000_000 }
    }

    /// What becomes of the number in one decision without any wait.
    fn next(spec: &DaskAutoscalerSpec, current: u32, target: u64, others: u64) -> u32 {
        match decide(spec, &mut Vec::new(), &situation(current), goal(spec, target, others)) {
            Verdict::Change(to) => to,
            Verdict::Right | Verdict::Hold(_) => current,
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_python_operator() {
        // minimum, maximum, current, target, next
        for (minimum, maximum, current, target, expected) in [
            (0, 10, 0, 0, 0),
            (0, 10, 0, 5, 5),
            (0, 10, 3, 50, 10),
            (2, 10, 3, 0, 2),
            (0, 10, 1, 0, 0),
            (0, 10, 2, 0, 1),
            (0, 10, 7, 0, 6),
            (0, 10, 8, 0, 6),
            (0, 100, 100, 0, 75),
            (0, 100, 99, 0, 75),
            (0, 100, 10, 9, 9),
            (0, 4, 20, 20, 15),
            (0, 4, 5, 20, 4),
            (7, 4, 5, 6, 4),
            (7, 4, 0, 0, 4),
            (5, 5, 0, 0, 5),
        ] {
            let found = next(&spec(minimum, maximum), current, target, 0);
            assert_eq!(found, expected, "{minimum}..{maximum}, {current} workers, {target} asked for");
        }
    }

    #[test]
    fn workers_that_are_not_ready_keep_nobody_below_the_minimum() {
        let pending = |current| Situation { pending: true, ..situation(current) };
        for (current, target, expected) in [
            (2, 0, Verdict::Change(10)),
            (2, 15, Verdict::Change(10)),
            (10, 15, Verdict::Hold(Hold::WorkersStarting)),
            (10, 0, Verdict::Right),
        ] {
            let spec = spec(10, 20);
            let verdict = decide(&spec, &mut Vec::new(), &pending(current), goal(&spec, target, 0));
            assert_eq!(verdict, expected, "{current} workers, {target} asked for");
        }
        let contradiction = spec(10, 4);
        let verdict = decide(&contradiction, &mut Vec::new(), &pending(2), goal(&contradiction, 9, 0));
        assert_eq!(verdict, Verdict::Change(4), "the maximum wins");
    }

    #[test]
    fn the_others_are_subtracted_before_the_limits_count() {
        for (target, others, expected) in [(10, 4, 6), (4, 10, 2), (u64::MAX, 1, 20), (0, u64::MAX, 2)] {
            assert_eq!(goal(&spec(2, 20), target, others), expected, "{target} - {others}");
        }
        assert_eq!(goal(&spec(0, u32::MAX), u64::MAX, 0), WORKERS_MAX, "no group has more");
    }

    /// The arithmetic of the Python operator, in its own words: floats and the order of `min` and `max`.
    fn python(spec: &DaskAutoscalerSpec, current: u32, target: u32) -> u32 {
        let desired = spec.minimum.max(target);
        let desired = spec.maximum.min(desired);
        if current == 0 {
            return desired;
        }
        let max_scale_down = (f64::from(current) * 0.25) as u32;
        desired.max(current - max_scale_down.max(1))
    }

    prop_compose! {
        fn any_spec()(
            (minimum, maximum) in (0..=2 * WORKERS_MAX, 0..=2 * WORKERS_MAX),
            percent in prop_oneof![Just(25), 0..=100_u32, any::<u32>()],
            (up, down) in (0..=600_u32, 0..=600_u32),
        ) -> DaskAutoscalerSpec {
            DaskAutoscalerSpec {
                max_scale_down_percent: percent,
                scale_up_stabilization_seconds: up,
                scale_down_stabilization_seconds: down,
                ..spec(minimum, maximum)
            }
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn every_number_is_that_of_the_python_operator(
            limits in (0..=WORKERS_MAX, 0..=WORKERS_MAX), current in 0..=WORKERS_MAX, target in 0..=WORKERS_MAX,
        ) {
            let spec = spec(limits.0, limits.1);
            prop_assert_eq!(next(&spec, current, target.into(), 0), python(&spec, current, target));
        }

        #[test]
        fn fault_04_whatever_is_answered_the_number_stays_within_the_limits_or_nears_them(
            spec in any_spec(),
            begin in any::<u32>(),
            answers in prop::collection::vec(
                (prop_oneof![any::<u64>(), 0..=20_000_u64], any::<u64>(), any::<bool>(), 0..=400_000_u64), 1..40),
        ) {
            let (low, high) = (within(&spec, 0), within(&spec, u32::MAX));
            let mut current = begin;
            let mut situation = situation(begin);
            let mut recommendations = Vec::new();
            for (target, others, pending, wait) in answers {
                situation = Situation { current, pending, now: situation.now + wait, ..situation };
                let goal = goal(&spec, target, others);
                prop_assert!((low..=high).contains(&goal));
                if let Verdict::Change(to) = decide(&spec, &mut recommendations, &situation, goal) {
                    prop_assert!(situation.last_scale.is_none_or(|last| situation.now - last >= 15_000));
                    prop_assert_ne!(to, current);
                    if to > current {
                        prop_assert!(to <= high, "{} -> {}", current, to);
                        prop_assert!(!pending || to == low, "{} -> {}", current, to);
                    } else {
                        prop_assert!(to >= low, "{} -> {}", current, to);
                        let step = u64::from(current) * u64::from(spec.max_scale_down_percent) / 100;
                        prop_assert!(u64::from(current - to) <= step.max(1), "{} -> {}", current, to);
                    }
                    current = to;
                    situation.last_scale = Some(situation.now);
                }
                prop_assert!(recommendations.len() <= 41);
            }
        }

        #[test]
        fn a_number_outside_the_limits_comes_back_whatever_was_asked_for_before(
            spec in any_spec(), begin in any::<u32>(), target in any::<u64>(),
        ) {
            let mut current = begin;
            let mut recommendations = Vec::new();
            let mut situation = situation(begin);
            let (low, high) = (within(&spec, 0), within(&spec, u32::MAX));
            for _ in 0..2_000 {
                situation = Situation { current, now: situation.now + 60_000, ..situation };
                match decide(&spec, &mut recommendations, &situation, goal(&spec, target, 0)) {
                    Verdict::Change(to) => current = to,
                    Verdict::Right | Verdict::Hold(_) if (low..=high).contains(&current) => return Ok(()),
                    verdict => prop_assert!(false, "{:?} at {}", verdict, current),
                }
                if spec.max_scale_down_percent < 10 {
                    return Ok(()); // One by one it takes long.
                }
            }
            prop_assert!((low..=high).contains(&current), "{}", current);
        }
    }
}
