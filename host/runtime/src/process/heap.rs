//! One heap for all threads, of which what is free goes back to the kernel.
//!
//! glibc gives threads heaps of their own, and what was freed in one is of no use in another. Reconciles go from thread to
//! thread, and most of what they need is short-lived: `cargo xtask bench converge` took 63 MiB with a heap for each thread
//! and 46 MiB with one, in no more time.
//!
//! What is free in the middle of a heap stays with the process until somebody asks glibc to give it back: after the start,
//! after many plugins were loaded, after a thousand clusters were made.
//!
//! What is large has a mapping of its own, which goes back at once. glibc counts less and less as large: after a piece of a
//! megabyte was freed, the next ones come from the heap. The operator reads documents of megabytes at start and small objects
//! afterwards, so glibc is told to stay where it began: a start without clusters took 26.8 MiB at most instead of 28.3 (mean of
//! four, Kubernetes 1.36).

use std::time::Duration;

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// How often it is asked when nobody says that it is worth it. It took 7 to 36 ms for a heap of 100 MiB in pieces of up to
/// 500 bytes, on 2 busy cores, and whoever needs memory waits for so long.
const INTERVAL: Duration = Duration::from_secs(300);

/// Until whoever said so is done.
const SOON: Duration = Duration::from_secs(2);

static MUCH_IS_FREE: Notify = Notify::const_new();

/// Bytes from which a piece is large: where glibc begins.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 128 << 10;

/// Must be called before there are threads. Where the C library is another, nothing is changed.
pub(crate) fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE)] {
        // SAFETY: it sets a number of the allocator, and nobody else uses that yet.
        #[expect(unsafe_code, reason = "glibc offers it as a function of C; see the safety comment")]
        let is_set = unsafe { libc::mallopt(option, value) } == 1;
        if !is_set {
            tracing::debug!(option, "the C library does not take an option of its heap");
        }
    }
}

/// Much was freed: it is worth it to give it back.
pub(crate) fn much_is_free() {
    MUCH_IS_FREE.notify_one();
}

/// Gives back what is free, from time to time, for ever.
pub(crate) async fn give_back() {
    loop {
        // Whichever comes first.
        let _ = timeout(INTERVAL, MUCH_IS_FREE.notified()).await;
        sleep(SOON).await;
        // Where it broke off, nothing is given back this time.
        let _ = spawn_blocking(trim).await;
    }
}

fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it may be called at any time by any thread, and touches only memory that is free.
        #[expect(unsafe_code, reason = "glibc offers it as a function of C; see the safety comment")]
        unsafe {
            libc::malloc_trim(0)
        };
    }
}
