//! The views of a machine against real network namespaces, links and programs. Needs root.

#![expect(unused_crate_dependencies, reason = "the package's dependencies are the library's")]

mod bpf;
mod links;
mod namespaces;
mod programs;
mod support;
mod survey;
