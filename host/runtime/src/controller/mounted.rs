//! The handlers of plugins that are mounted, and the objects that they have yet to look at.
//!
//! Whoever is mounted looks at all that is there. Hundreds of handlers of thousands of objects would be more than a queue
//! should hold, so each has its place in the index instead, and draws the next object from there when it is done with one.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use dask_wasm_operator_cluster::index::Change;
use dask_wasm_operator_core::{
    dask::Reconciler,
    native::Native as _,
    object::{NamespacedName, Object},
    pipeline::MountedHandler,
    plugin::{Filtered, HandlerName},
    ports::Warrant,
};

use super::{
    Controller, Inner,
    served::serves,
    work::{PLUGIN_AT_ONCE, Work},
};

/// By name.
pub(super) type Handlers = BTreeMap<Arc<HandlerName>, Mounted>;

/// A handler, and what its reconciles write under. Who is mounted in its place has another warrant: what it was called for
/// under older rights is not written any more.
#[derive(Clone)]
pub(super) struct Mounted {
    pub(super) handler: Arc<MountedHandler>,
    pub(super) warrant: Warrant,
}

/// The object that each handler has drawn last; none: it has not begun.
pub(super) type Backlog = BTreeMap<Work, Option<NamespacedName>>;

impl Controller {
    /// Mounts a plugin's handlers in the place of those that it had, and has them look at all that concerns them.
    pub(crate) fn mount(self: &Arc<Self>, plugin: &str, handlers: &[Arc<MountedHandler>]) {
        let mut mounted = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        mounted.retain(|name, former| {
            if name.plugin != plugin {
                return true;
            }
            former.warrant.withdraw();
            let newer = handlers.iter().find(|handler| handler.name == **name);
            // One of another kind of objects has its name in common with it, and nothing else.
            let stays = newer.is_some_and(|newer| newer.subject.kind.same_kind(&former.handler.subject.kind));
            if !stays {
                self.forget_handler(&mut inner, name);
            }
            stays
        });
        for handler in handlers {
            let newer = Mounted { handler: Arc::clone(handler), warrant: Warrant::new() };
            mounted.insert(Arc::new(handler.name.clone()), newer);
        }
        for handler in handlers {
            let Some((name, _)) = mounted.get_key_value(&handler.name) else { continue };
            let work = Work::Call(Arc::clone(name));
            inner.backlog.insert(work.clone(), None);
            (0..PLUGIN_AT_ONCE).for_each(|_| self.draw(&mut inner, &mounted, &work));
        }
        self.keep_vigil(&mut inner);
        drop((inner, mounted));
        self.woken.notify_one();
    }

    /// The work on a subject is over, and its place is free for the next.
    pub(super) fn ended(&self, inner: &mut Inner, handlers: &Handlers, work: Work, at: NamespacedName) {
        inner.queue.done(work.clone(), at, self.millis());
        self.draw(inner, handlers, &work);
    }

    /// Has a handler look at one more of the objects that were there when it was mounted.
    fn draw(&self, inner: &mut Inner, handlers: &Handlers, work: &Work) {
        let Work::Call(name) = work else { return };
        let Inner { backlog, states, queue, namespaces, .. } = inner;
        let Some(place) = backlog.get_mut(work) else { return };
        let observed = self.surroundings.observed.as_ref();
        while let Some(Mounted { handler, .. }) = handlers.get(name)
            && let Some(object) = self.surroundings.index.next(&handler.subject.kind, place.as_ref())
        {
            let at = object.at();
            *place = Some(at.clone());
            let is_served = namespaces.as_ref().is_none_or(|namespaces| serves(namespaces, &at));
            if is_served && (handler.concerns(&object, observed, Reconciler::makes) || states.has(work, &at)) {
                return queue.wake(work.clone(), at, self.millis());
            }
        }
        backlog.remove(work);
    }
}

impl Inner {
    /// Drops what is remembered of a handler.
    pub(super) fn forget(&mut self, work: &Work) {
        self.queue.forget(work);
        self.states.forget(work);
        self.backlog.remove(work);
        self.waiting.retain(|of, _| of != work);
    }

    /// Whether a change of an object of the kind of its subjects is to be looked at by a handler. Something is left to do about
    /// an object that is none, if it is remembered.
    pub(super) fn heeds(&self, handler: &MountedHandler, work: &Work, change: &Change, at: &NamespacedName) -> bool {
        match handler.filter(change.old.as_deref(), change.new.as_deref()) {
            Filtered::Added | Filtered::Updated | Filtered::Removed => true,
            Filtered::Unchanged => false,
            Filtered::Outside => self.states.has(work, at),
        }
    }

    /// Whether a handler has something to do with the owner of an object that changed: it is one of its subjects, or was
    /// when it was last looked at. What a former process has left in others was looked for when the handler was mounted.
    pub(super) fn concerns(
        &self,
        handler: &MountedHandler,
        work: &Work,
        subject: Option<&Object>,
        at: &NamespacedName,
    ) -> bool {
        subject.is_some_and(|subject| handler.mounted.matches(subject)) || self.states.has(work, at)
    }
}
