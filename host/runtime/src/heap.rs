//! One heap for all threads.
//!
//! glibc gives threads heaps of their own, and what was freed in one is of no use in another. Passes go from thread to thread,
//! and most of what they need is short-lived: `cargo xtask bench converge` took 63 MiB with a heap for each thread and 46 MiB
//! with one, in no more time.

/// Must be called before there are threads. Where the C library is another, nothing is changed.
pub(crate) fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it sets a number of the allocator, and nobody else uses that yet.
        #[expect(unsafe_code, reason = "glibc offers it as a function of C; see the safety comment")]
        let is_shared = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 1;
        if !is_shared {
            tracing::debug!("each thread has a heap of its own");
        }
    }
}
