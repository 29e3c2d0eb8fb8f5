//! Schedulers that do not answer, or not what is asked for.

use super::*;

#[test]
fn a_scheduler_that_does_not_answer_changes_nothing_and_is_told_of() {
    let mut world = world(3, autoscaler(0, 10), |_| 3);
    world.advance(10 * SECOND);
    world.scheduler = Box::new(|_, _| unreachable());
    let before = world.asked.len();
    world.advance(30 * SECOND);
    assert_eq!(world.problems(Reconciler::Autoscaler, "a"), []);
    world.advance(600 * SECOND);
    assert!(world.asked.len() - before < 20, "ever less often");
    assert_eq!(replicas(&world), 3);
    let [problem] = &world.problems(Reconciler::Autoscaler, "a")[..] else { panic!("no problem") };
    assert_eq!(problem.reason, "SchedulerUnreachable");
    assert_eq!(world.condition("DaskAutoscaler", "a", "Available").0, "False");
    assert_eq!(world.events_of("SchedulerUnreachable").len(), 1);
    world.scheduler = Box::new(|_, _| Ok(SchedulerReply::AdaptiveTarget(5)));
    world.advance(61 * SECOND);
    assert_eq!((replicas(&world), world.problems(Reconciler::Autoscaler, "a")), (5, Vec::new()));
}

#[test]
fn what_keeps_a_scheduler_from_answering_is_told_with_its_remedy_until_it_answers() {
    for (error, reason, remedy) in [
        (
            SchedulerError::Unreachable("refused".into()),
            "SchedulerUnreachable",
            "check the pod of Deployment a-scheduler",
        ),
        (SchedulerError::Unusable("a page".into()), "SchedulerAnswerUnusable", "run distributed 2022.8 or newer"),
        (SchedulerError::Unsupported("old".into()), "SchedulerUnsupported", "run distributed 2022.8 or newer"),
        (
            SchedulerError::Certificates("expired".into()),
            "SchedulerCertificates",
            "correct spec.tlsSecretName of DaskCluster a",
        ),
    ] {
        let mut world = world(3, autoscaler(0, 10), |_| 3);
        world.advance(10 * SECOND);
        let mut words = 0;
        world.scheduler = Box::new(move |_, _| {
            words += 1;
            Err(match &error {
                SchedulerError::Unreachable(why) => SchedulerError::Unreachable(format!("{why} by socket {words}")),
                other => other.clone(),
            })
        });
        world.advance(600 * SECOND);
        let (degraded, told, message) = world.condition("DaskAutoscaler", "a", "Degraded");
        assert_eq!((degraded.as_str(), told.as_str()), ("True", reason), "{message}");
        assert!(message.contains(remedy), "{message}");
        assert_eq!(world.events_of(reason).len(), 1, "in other words it is the same");
        world.scheduler = Box::new(|_, _| Ok(SchedulerReply::AdaptiveTarget(3)));
        world.advance(61 * SECOND);
        assert_eq!(world.condition("DaskAutoscaler", "a", "Degraded").0, "False");
        assert_eq!(world.condition("DaskAutoscaler", "a", "Available").1, "SchedulerAnswers");
    }
}
