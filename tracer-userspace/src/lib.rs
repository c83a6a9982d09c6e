//! Where is my packet? See ARCHITECTURE.md for the pipeline.
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] | what can be typed |
//! | [`app`] | what each command does, and how a failure is told |
//! | [`agent`] | what runs on a node: attach, ring buffer, decode |
//! | [`host`] | read-only views of a machine: network namespaces, links, programs on hooks |
//! | [`capture`] | pcapng files with what is known of each packet, written and read |
//! | [`doctor`] | whether a follow will work, before the network is blamed |
//! | [`expression`] | what tcpdump's filter expressions mean |
//! | [`inventory`] | pods, Services and nodes by address |
//! | [`trajectory`] | pure: from sightings to trajectories, verdicts, legs |
//! | [`follow`] | selection of what to follow, and the run itself |
//! | [`kubernetes`] | what is used of the Kubernetes API |
//! | [`node`] | this machine under observation, kept as pods and devices come and go |
//! | [`output`] | text and JSON |
//! | [`cni`] | pure: what CNI plugins keep in BPF maps |
//! | [`path`] | the way that packets would go, from the nodes' own state |
//! | [`serve`] | the agent: what one node observes, for those who may look |
//! | [`stream`] | what one machine observes, as bytes for another process |

pub mod agent;
pub mod app;
pub mod capture;
pub mod cli;
pub mod cni;
pub mod doctor;
pub mod expression;
pub mod follow;
pub mod host;
pub mod inventory;
pub mod kubernetes;
pub mod node;
pub mod output;
pub mod path;
pub mod serve;
pub mod stream;
pub mod trajectory;
