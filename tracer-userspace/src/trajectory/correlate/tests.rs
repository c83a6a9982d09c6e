mod clocks;
mod datapaths;
mod encrypted;
mod identity;
mod verdicts;
