//! Code that can be run: in memory once for all plugins that have it, and while none runs it not at all.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use dask_wasm_operator_core::spec::Profile;
use wasmtime::component::{Component, Linker};

use crate::{abi::v0_1, artifact::Digest, lane::REST, wasi};

/// A compiled component whose imports are resolved. It holds nothing of a call.
pub(crate) struct Code {
    component: Component,
    linked: v0_1::Linked,
    made: Instant,
    /// When it was called last, by whichever plugin, in microseconds since it was made.
    called: AtomicU64,
}

impl Code {
    /// Resolves the imports and checks the types of the exports.
    pub(crate) fn link(engine: &wasmtime::Engine, component: Component, profile: Profile) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        v0_1::link(&mut linker)?;
        if profile == Profile::Standard {
            wasi::link(&mut linker, &component)?;
        }
        let linked = v0_1::Linked::new(linker.instantiate_pre(&component)?)?;
        Ok(Self { component, linked, made: Instant::now(), called: AtomicU64::new(0) })
    }

    /// The engine that it was made for.
    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.component.engine()
    }

    /// Makes a call.
    pub(crate) fn run<T>(&self, call: impl FnOnce(&v0_1::Linked) -> T) -> T {
        let answer = call(&self.linked);
        self.called.store(self.age(), Ordering::Relaxed);
        answer
    }

    fn age(&self) -> u64 {
        self.made.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
    }

    /// Gives the memory of the code back, unless another plugin has called it a moment ago, and will do this. Whoever runs it
    /// then, also at this moment, gets it again from the file, page by page and mostly from the kernel's cache.
    pub(crate) fn rest(&self) {
        if u128::from(self.age().saturating_sub(self.called.load(Ordering::Relaxed))) >= REST.as_micros() {
            give_back(self.component.image_range());
        }
    }
}

#[cfg(target_os = "linux")]
fn give_back(image: Range<*const u8>) {
    let length = image.end.addr() - image.start.addr();
    // SAFETY: the range is a private mapping of a whole file in our cache, for as long as the component lives. Nothing is lost
    // that is not in the file: wasmtime (`runtime/code_memory.rs`) relocates nothing, and makes the mapping read-only before it
    // is run; `tests/guests/tests/memory.rs` looks at it. A file of the cache is never written again.
    #[expect(unsafe_code, reason = "only the kernel can drop pages of a mapping; see the safety comment")]
    let given_back =
        unsafe { rustix::mm::madvise(image.start.cast_mut().cast(), length, rustix::mm::Advice::LinuxDontNeed) };
    // Where the kernel does not do it, the memory stays as it is.
    let _ = given_back;
}

/// Elsewhere the same advice means something else, or nothing.
#[cfg(not(target_os = "linux"))]
fn give_back(_: Range<*const u8>) {}

/// Code that plugins have now, so that none has it twice.
#[derive(Default)]
pub(crate) struct InUse(Mutex<HashMap<(Digest, Profile), Slot>>);

/// One at a time makes the code; who waited finds it made.
type Slot = Arc<Mutex<Weak<Code>>>;

impl InUse {
    /// The code of a component, made if no plugin has it.
    pub(crate) fn get<E>(
        &self,
        digest: Digest,
        profile: Profile,
        make: impl FnOnce() -> Result<Code, E>,
    ) -> Result<Arc<Code>, E> {
        let slot = Arc::clone(locked(&self.0).entry((digest, profile)).or_default());
        let mut held = locked(&slot);
        if let Some(code) = held.upgrade() {
            return Ok(code);
        }
        let code = Arc::new(make()?);
        *held = Arc::downgrade(&code);
        drop(held);
        // A slot that somebody else holds is in work.
        locked(&self.0).retain(|_, slot| Arc::strong_count(slot) > 1 || locked(slot).strong_count() > 0);
        Ok(code)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
