//! Values that must be read from memory each time.

/// A value that the loader has set: without this the compiler would use the one that is written in the source. Or one
/// that the verifier shall know nothing of.
#[inline(always)]
pub(crate) fn constant<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(value) }
}
