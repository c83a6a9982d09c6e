//! What this process keeps of memory that it needs no more.

/// Gives free memory back to the kernel. Loading programs reads all types of the kernel, many small pieces of some tens
/// of MiB, and glibc keeps what was freed of them for good. (Other allocators give it back by themselves.)
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and may be called at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
