//! Cooldowns, and the windows of `behavior`.

use super::*;

#[test]
fn the_cooldown_of_the_python_operator_is_honoured() {
    let until = (BEGIN / 1000 + 40) as f64 + 0.5;
    for (text, wait) in [(until.to_string(), 40), ("1.5".to_owned(), 0), ("soon".to_owned(), 0), ("nan".to_owned(), 0)]
    {
        let mut autoscaler = autoscaler(0, 10);
        autoscaler["metadata"]["annotations"] = json!({"kubernetes.dask.org/cooldown-until": text});
        let mut world = world(1, autoscaler, |_| 5);
        let course = course(&mut world, 60);
        let (second, replicas) = course[1];
        assert_eq!(replicas, 5);
        assert!(second > wait && second <= wait + 6, "{text}: {course:?}");
    }
}

/// The Python operator waits for seconds, so this was not written by it.
#[test]
fn a_cooldown_that_nobody_began_is_told_and_not_waited_for() {
    for text in ["inf", "1e18", &(BEGIN / 1000 + 7_200).to_string()] {
        let mut autoscaler = autoscaler(0, 10);
        autoscaler["metadata"]["annotations"] = json!({"kubernetes.dask.org/cooldown-until": text});
        let mut world = world(1, autoscaler, |_| 5);
        world.advance(60 * SECOND);
        assert_eq!(replicas(&world), 5, "{text}");
        assert_eq!(world.condition("DaskAutoscaler", "a", "Degraded").1, "InvalidAnnotation", "{text}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_cooldown_longer() {
    let mut world = world(1, autoscaler(0, 10), |now| if now < BEGIN { 8 } else { 5 });
    world.advance(60 * SECOND);
    assert_eq!(replicas(&world), 5);
    world.now = BEGIN - 3_600 * SECOND;
    world.restart();
    world.settle();
    world.advance(60 * SECOND);
    assert_eq!(replicas(&world), 8);
}

#[test]
fn fault_06_cooldowns_up_and_down_are_apart() {
    let settings = with(autoscaler(0, 100), "scaleUpCooldownSeconds", json!(0));
    let settings = with(settings, "scaleDownCooldownSeconds", json!(60));
    let settings = with(settings, "maxScaleDownPercent", json!(100));
    let mut world = world(1, settings, |now| match (now - BEGIN) / SECOND {
        0..10 => 5,
        10..20 => 9,
        _ => 2,
    });
    let course = course(&mut world, 100);
    let [(_, 1), (five, 5), (nine, 9), (two, 2)] = course[..] else { panic!("{course:?}") };
    assert!(five <= 5 && (10..=15).contains(&nine), "{course:?}");
    assert!((60..=65).contains(&(two - nine)), "{course:?}");
}

#[test]
fn within_the_window_it_goes_down_to_the_most_and_up_to_the_fewest() {
    let asks = |now: u64| if (now - BEGIN) / SECOND < 60 { 10 } else { 4 };
    let down =
        with(with(autoscaler(0, 100), "scaleDownStabilizationSeconds", json!(120)), "maxScaleDownPercent", json!(100));
    let mut world = world(10, down, asks);
    let course_down = course(&mut world, 300);
    let [(0, 10), (second, 4)] = course_down[..] else { panic!("{course_down:?}") };
    assert!((60 + 120..=60 + 130).contains(&second), "{course_down:?}");

    let mut world = self::world(2, with(autoscaler(0, 100), "scaleUpStabilizationSeconds", json!(120)), asks);
    let course_up = course(&mut world, 300);
    let [(0, 2), (second, 4)] = course_up[..] else { panic!("{course_up:?}") };
    assert!((120..=130).contains(&second), "the ten lasted for a minute only: {course_up:?}");
}

#[test]
fn after_a_restart_a_window_begins_anew_with_the_present_number() {
    let down =
        with(with(autoscaler(0, 100), "scaleDownStabilizationSeconds", json!(120)), "maxScaleDownPercent", json!(100));
    let mut world = world(10, down, |_| 4);
    world.advance(100 * SECOND);
    world.restart();
    world.settle();
    let course = course(&mut world, 300);
    let [(0, 10), (second, 4)] = course[..] else { panic!("{course:?}") };
    assert!((120..=130).contains(&second), "what was asked for before is not known any more: {course:?}");
}
