//! The views of a machine against real network namespaces, links and programs. Needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy excuses only functions marked as tests")]

mod bpf;
mod links;
mod namespaces;
mod programs;
mod support;
mod survey;
