//! Captures: pcapng files that anybody's tools read, and in which every packet knows who it is.
//!
//! **Writing.** A file has an interface for each observation point and a comment for each packet. Besides, in options and
//! blocks that others pass over, it has what the run knew ([`format`]), so that it can be told again without the
//! machine.
//!
//! **Reading.** Such a file gives the sightings that it was made from. A capture of any other origin gives sightings by
//! parsing its packets with the parser that runs in the kernel; which device of which node it was taken on is for the
//! user to say.
//!
//! | module | holds |
//! |---|---|
//! | [`format`] | what is in a file besides packets |
//! | [`objects`] | the part of the inventory that a file needs |
//! | [`write`] | from told trajectories to packets with comments |
//! | [`files`] | one file, or one after another |
//! | [`read`] | from a file to what was observed |
//! | [`foreign`] | the same for files of other programs |

pub mod files;
pub mod foreign;
pub mod format;
pub mod objects;
pub mod read;
#[cfg(test)]
mod tests;
pub mod write;
