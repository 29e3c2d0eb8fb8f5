//! From what is wanted and what was observed to the writes that are left to do.
//!
//! All choices are made here; planning again after the plan was carried out gives an empty plan.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    action::{Action, Apply, ApplyTarget, Precondition},
    claim::obstacles,
    fields::{contains, fingerprint, holds_exactly, says_exactly, without_emptied},
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    ownership::Author,
    wanted::{Problem, Settled, Snapshot, SubjectPatch, WantedChild, target},
};

/// What was applied to each object, and how it looked right after: lets a later reconcile see that nothing is left to do even
/// where the server stores something else than what was sent (quantities, say). Lost at a restart, which costs one apply
/// that changes nothing.
#[derive(Debug, Default, PartialEq)]
pub struct Memory(HashMap<(String, String), Applied>);

#[derive(Debug, PartialEq)]
struct Applied {
    wanted: u64,
    held: u64,
}

impl Memory {
    /// Notes that the body of this fingerprint was applied and that the server answered with `answer`.
    pub fn note(&mut self, manager: &str, wanted: u64, answer: &Object) {
        let applied = Applied { wanted, held: held_fingerprint(answer, manager) };
        self.0.insert((answer.metadata.uid.clone(), manager.to_owned()), applied);
    }

    /// Forgets everything about objects that are no longer there.
    pub fn keep_only(&mut self, uids: &BTreeSet<&str>) {
        self.0.retain(|(uid, _), _| uids.contains(uid.as_str()));
    }

    /// Whether this is what was applied last, and nothing of it has changed since; none: who knows.
    fn says_applied(&self, manager: &str, wanted: &Value, live: &Object) -> Option<bool> {
        let last = self.0.get(&(live.metadata.uid.clone(), manager.to_owned()))?;
        let is_wanted = last.wanted == fingerprint(wanted);
        (!is_wanted || last.held == held_fingerprint(live, manager)).then_some(is_wanted)
    }
}

fn held_fingerprint(object: &Object, manager: &str) -> u64 {
    held(object, manager).map_or(0, |held| fingerprint(&held))
}

fn held(object: &Object, manager: &str) -> Option<Value> {
    object.applied_by(manager)?.decoded()
}

/// Whether nothing is left to apply: the manager holds exactly these fields, with these values.
pub fn is_applied(memory: &Memory, manager: &str, wanted: &Value, live: &Object) -> bool {
    // Who never applied anything holds nothing, which may be all that is wanted.
    let held = || held(live, manager).unwrap_or_else(|| json!({}));
    memory.says_applied(manager, wanted, live).unwrap_or_else(|| is_held(&held(), wanted, live))
}

/// Admission adds to the lists of pods and of their templates: whoever takes that away restarts them, or is refused.
fn is_held(held: &Value, wanted: &Value, live: &Object) -> bool {
    let says = |live_value: Value| {
        if live.kind.describes_pods() { contains(&live_value, wanted) } else { says_exactly(&live_value, wanted, held) }
    };
    holds_exactly(held, wanted) && says(live.to_value())
}

/// What of `wanted` the manager can apply now: maps that are to be emptied are applied empty by the reconcile after this.
pub fn next_apply(manager: &str, wanted: Value, live: &Object) -> Value {
    match held(live, manager) {
        Some(held) => without_emptied(wanted, &live.to_value(), &held),
        None => wanted,
    }
}

/// The writes that are left, in the order of their dependence: a stage is begun when the one before succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[must_use]
pub struct Plan {
    /// Write-ahead records on the subject.
    pub subject: Vec<Action>,
    /// Applies of children, independent of each other.
    pub children: Vec<Action>,
    /// Children that are no longer wanted.
    pub prunes: Vec<Action>,
    /// The end of a subject that has had its time.
    pub subject_end: Vec<Action>,
    /// What can't be done.
    pub problems: Vec<Problem>,
    /// How many of those that count keep an older template.
    pub outdated: u32,
}

impl Plan {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.subject.is_empty() && self.children.is_empty() && self.prunes.is_empty() && self.subject_end.is_empty()
    }
}

/// Who plans, and what it may use.
pub struct Planner<'a> {
    /// Whose writes these are.
    pub author: Author<'a>,
    /// How kinds are served.
    pub resource: &'a dyn Fn(&GroupVersionKind) -> Option<Resource>,
    /// The live object at a place, whoever it belongs to, if we watch it.
    pub live: &'a dyn Fn(&GroupVersionKind, &NamespacedName) -> Option<Arc<Object>>,
    /// What was applied before.
    pub memory: &'a Memory,
}

impl Planner<'_> {
    /// Plans the writes for one subject. `children` none: no opinion, what is there stays.
    pub fn plan(&self, seen: &Snapshot, subject: Option<&SubjectPatch>, children: Option<Vec<Settled>>) -> Plan {
        let mut plan = Plan::default();
        if let Some(patch) = subject {
            self.plan_subject(seen, patch, &mut plan);
        }
        if let Some(children) = children {
            self.plan_prunes(seen, &children, &mut plan);
            for child in children {
                match child {
                    Settled::Apply(child) => self.plan_child(seen, child, &mut plan),
                    Settled::Inherit(child) => self.plan_inheritance(seen, &child, &mut plan),
                    Settled::Renew(child) => self.plan_renewal(seen, &child, &mut plan),
                    Settled::HeldBack { problem, .. } => plan.problems.push(problem),
                    Settled::Outdated { child, problem, counts } => {
                        plan.outdated += u32::from(counts);
                        plan.problems.extend(problem);
                        self.plan_child(seen, child, &mut plan);
                    }
                }
            }
        }
        plan
    }

    fn plan_subject(&self, seen: &Snapshot, patch: &SubjectPatch, plan: &mut Plan) {
        let subject = &seen.subject;
        let Some(resource) = (self.resource)(&subject.kind) else {
            return plan.problems.push(not_served(&subject.kind));
        };
        let mut body = patch.body.clone();
        body["apiVersion"] = json!(subject.kind.api_version());
        body["kind"] = json!(subject.kind.kind);
        body["metadata"]["name"] = json!(subject.metadata.name);
        if is_applied(self.memory, self.author.manager, &body, subject) {
            return;
        }
        let body = next_apply(self.author.manager, body, subject);
        plan.subject.push(Action::Apply(self.apply(resource, subject.key(), present(subject, patch.guarded), body)));
    }

    fn plan_child(&self, seen: &Snapshot, child: WantedChild, plan: &mut Plan) {
        let object = child.object_key(&seen.subject);
        let ObjectKey { kind, at } = &object;
        let Some(resource) = (self.resource)(kind) else { return plan.problems.push(not_served(kind)) };
        let known = seen.child(kind, &at.name).cloned().or_else(|| (self.live)(kind, at));
        let Some(live) = known else {
            let precondition = self.departed(seen, &object).unwrap_or(Precondition::Absent);
            return plan.children.push(Action::Apply(self.apply(resource, object, precondition, child.object)));
        };
        if live.is_being_deleted() {
            return; // Its end is an event, and then it is made anew.
        }
        if let Some(problem) = Problem::with_other(&live) {
            return plan.problems.push(problem);
        }
        if !self.author.may_change(&live, &seen.subject.metadata.uid) {
            return plan.problems.push(self.foreign(seen, &object, &live));
        }
        if is_applied(self.memory, self.author.manager, &child.object, &live) {
            return;
        }
        let parts = if self.author.force { obstacles(&child.object, &live) } else { Vec::new() };
        let body = next_apply(self.author.manager, child.object, &live);
        let apply = self.apply(resource, object, present(&live, child.guarded), body);
        let action = if parts.is_empty() { Action::Apply(apply) } else { Action::Displace { apply, parts } };
        plan.children.push(action);
    }

    /// Nothing is applied to it before it is ours as it is.
    fn plan_inheritance(&self, seen: &Snapshot, child: &WantedChild, plan: &mut Plan) {
        let (kind, name) = target(&child.object);
        let Some(resource) = (self.resource)(&kind) else { return plan.problems.push(not_served(&kind)) };
        let live = seen.child(&kind, name).filter(|live| !live.is_being_deleted());
        if let Some(problem) = live.and_then(|live| Problem::with_other(live)) {
            return plan.problems.push(problem);
        }
        plan.children.extend(live.map(|live| Action::Inherit {
            resource,
            object: live.key(),
            uid: live.metadata.uid.clone(),
            controller: seen.subject.metadata.uid.clone(),
            manager: self.author.manager.to_owned(),
        }));
    }

    /// What can't be changed goes, if it is still as it was seen, and its end is an event: then it is made anew.
    fn plan_renewal(&self, seen: &Snapshot, child: &WantedChild, plan: &mut Plan) {
        let (kind, name) = target(&child.object);
        let Some(resource) = (self.resource)(&kind) else { return plan.problems.push(not_served(&kind)) };
        let is_ours =
            |live: &&Arc<Object>| live.unreadable.is_none() && self.author.made(live, &seen.subject.metadata.uid);
        let live = seen.child(&kind, name).filter(is_ours).filter(|live| !live.is_being_deleted());
        plan.children.extend(live.map(|live| deletion(resource, live, Some(live.metadata.resource_version.clone()))));
    }

    /// A child of ours that our watches do not show (any more): it is gone, or is there without the label by which we watch it.
    /// By its uid nothing else can be changed.
    fn departed(&self, seen: &Snapshot, object: &ObjectKey) -> Option<Precondition> {
        let former = seen.former_child(&object.kind, &object.at.name)?;
        let is_ours = self.author.may_change(former, &seen.subject.metadata.uid) && !former.is_being_deleted();
        is_ours.then(|| Precondition::is(former))
    }

    /// What this handler has made for the subject, and what is no longer wanted.
    fn plan_prunes(&self, seen: &Snapshot, children: &[Settled], plan: &mut Plan) {
        let targets: Vec<_> = children.iter().map(|child| target(&child.child().object)).collect();
        let targets: HashSet<_> =
            targets.iter().map(|(kind, name)| (kind.group.as_str(), kind.kind.as_str(), *name)).collect();
        let wanted = |live: &Object| {
            targets.contains(&(live.kind.group.as_str(), live.kind.kind.as_str(), live.metadata.name.as_str()))
        };
        for live in seen.children.iter() {
            if !self.author.made(live, &seen.subject.metadata.uid) || live.is_being_deleted() || wanted(live) {
                continue;
            }
            match (self.resource)(&live.kind) {
                Some(resource) => {
                    plan.prunes.push(deletion(resource, live, None));
                }
                None => plan.problems.push(not_served(&live.kind)),
            }
        }
    }

    fn foreign(&self, seen: &Snapshot, object: &ObjectKey, live: &Object) -> Problem {
        let owner = live.metadata.controller().filter(|owner| owner.uid != seen.subject.metadata.uid);
        let owner = match (owner, self.author.other_maker(live)) {
            (Some(owner), _) => format!("belongs to {} {}", owner.kind, owner.name),
            (None, Some(maker)) => format!("was made by {maker}"),
            (None, None) => "was made by somebody else".to_owned(),
        };
        let message = format!(
            "{object} exists already and {owner}; it is left alone: delete or rename it, or choose another name"
        );
        Problem::passing("ForeignObject", message).until(object.clone())
    }

    fn apply(&self, resource: Resource, object: ObjectKey, precondition: Precondition, body: Value) -> Apply {
        let Author { manager, force, .. } = self.author;
        let (target, manager) = (ApplyTarget::Object, manager.to_owned());
        Apply { resource, object, target, manager, precondition, body, force }
    }
}

fn deletion(resource: Resource, live: &Object, resource_version: Option<String>) -> Action {
    Action::Delete { resource, object: live.key(), uid: live.metadata.uid.clone(), resource_version }
}

fn present(live: &Object, guarded: bool) -> Precondition {
    if guarded { Precondition::unchanged(live) } else { Precondition::is(live) }
}

fn not_served(kind: &GroupVersionKind) -> Problem {
    Problem::passing(
        "KindNotServed",
        format!("the API server does not serve {kind}; install its CustomResourceDefinition"),
    )
}
