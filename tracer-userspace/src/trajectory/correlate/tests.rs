mod clocks;
mod datapaths;
mod dropped;
mod encrypted;
mod fidelity;
mod identity;
mod verdicts;
