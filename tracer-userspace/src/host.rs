//! Read-only views of a machine: its network namespaces, links, and the programs on their hooks.
//!
//! | module | holds |
//! |---|---|
//! | [`memory`] | what this process keeps of memory that it needs no more |
//! | [`netns`] | network namespaces: finding them, running a closure inside one |
//! | `filters` | legacy tc filters as the kernel lists them |
//! | `bpf` | the commands of bpf(2) that aya does not offer |
//! | `btf` | names and arguments out of BTF |
//! | [`maps`] | others' BPF maps, read by their bytes |
//! | [`kernel`] | what the running kernel can do |
//! | [`drop_reasons`] | names of the kernel's drop reasons, and where its structures keep what goes with them |
//! | [`links`] | the links and addresses of a namespace, and what changes about them |
//! | [`survey`] | which namespace is which node or pod, and how that was found |
//! | [`plan`] | which devices a follow observes |
//! | [`programs`] | which programs sit on a device's hooks, in running order |
//! | [`settings`] | sysctls, connection tracking, and who translates Services |
//! | [`tunnels`] | where tunnel devices lead |
//! | [`wireguard`] | the peers of WireGuard devices |
//! | [`routes`] | routes, rules, neighbours, and where MAC addresses are |
//!
//! Nothing in here changes the system.

pub(crate) mod bpf;
mod btf;
pub mod drop_reasons;
pub(crate) mod filters;
pub mod kernel;
pub mod links;
pub mod maps;
pub mod memory;
pub mod netns;
pub mod plan;
pub mod programs;
pub mod routes;
pub mod settings;
pub mod survey;
pub mod tunnels;

pub(crate) mod netlink;
pub mod wireguard;
