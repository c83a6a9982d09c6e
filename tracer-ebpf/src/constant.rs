//! Values that the loader sets before a program is loaded.

/// The value that the loader has set; without this the compiler would use the one that is written in the source.
#[inline(always)]
pub(crate) fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(value) }
}
